"""Addresses of published weights, and files from them: whole, checked, or not there."""

import contextlib
import hashlib
import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import anysize
from anysize.models.names import list_models
from anysize.models.spec import create_model
from anysize.models.weights.addresses import ADDRESSES, published_addresses
from anysize.models.weights.download import download, sha256
from anysize.recipe import load_recipe
from anysize.registry import UserError

CONTENT = bytes(range(256)) * 40
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path / "hub/checkpoints"


@contextlib.contextmanager
def server(length: int = len(CONTENT), kind: str = "application/octet-stream", status: int = 200) -> Iterator[str]:
    """A server on this machine that says a length and a type, and sends CONTENT."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(length))
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(CONTENT)

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{running.server_port}"
        finally:
            running.shutdown()
            thread.join()


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_file_is_downloaded_once_and_one_name_at_two_addresses_is_two_files(hub: Path) -> None:
    with server() as address:
        first, other = download(f"{address}/model.pth"), download(f"{address}/other/model.pth")
        checked = download(f"{address}/net-{DIGEST[:8]}.pth?token=x")
    assert first.read_bytes() == other.read_bytes() == CONTENT
    assert first != other
    assert checked == hub / f"net-{DIGEST[:8]}.pth"
    assert sha256(first) == DIGEST
    assert download(f"{address}/model.pth") == first  # the server is gone
    assert len(files(hub)) == 3


@pytest.mark.parametrize(
    ("served", "name", "said"),
    [
        ({"length": len(CONTENT) + 9}, "model.pth", r"it ended after 10,240 of 10,249 bytes\): put the file model.pth"),
        ({}, "net-0123abcd.pth", f"its sha256 begins with {DIGEST[:8]}, not with 0123abcd as its name says"),
        ({"status": 404}, "model.pth", r"could not be downloaded \(Not Found\): put the file model.pth into"),
        ({"kind": "text/html; charset=utf-8"}, "model.pth", "is a page, not a file: open it in a browser"),
    ],
)
def test_half_a_file_or_another_one_is_refused_and_not_left(
    hub: Path, served: dict[str, Any], name: str, said: str
) -> None:
    with server(**served) as address, pytest.raises(UserError, match=said) as error:
        download(f"{address}/{name}")
    assert "\n" not in str(error.value)
    assert files(hub) == []


def test_without_an_answer_one_sentence_says_where_to_put_the_file(hub: Path, tmp_path: Path) -> None:
    with server() as address:
        pass
    for url, why in ((f"{address}/a.pth", "refused"), (f"file://{tmp_path}/a.pth", "No such file")):
        with pytest.raises(UserError, match=rf"the file at .* could not be .*{why}.*put the file a.pth into {hub}"):
            download(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://drive.google.com/file/d/1x/view",
        next(address.url for address in ADDRESSES if "dropbox" in address.url),
        "https://example.org/",
    ],
)
def test_pages_for_people_are_told_with_their_address(hub: Path, url: str) -> None:
    with pytest.raises(UserError) as error:
        download(url)
    assert str(error.value).startswith(f"{url} is a page, not a file: open it in a browser, put the file into {hub}")


def test_the_lists_of_the_sources_are_whole_and_name_models_of_ours() -> None:
    elastic = [address for address in ADDRESSES if "ai2-vision" in address.url]
    counts = [
        sum(address.task == task for address in elastic) for task in ("classification", "multilabel", "segmentation")
    ]
    assert counts == [10, 8, 6]
    assert {address.model for address in ADDRESSES} <= set(list_models())
    assert len({address.url for address in ADDRESSES}) == len(ADDRESSES)
    known = {address.url.rpartition("/")[2]: address.known for address in published_addresses("resnet50")}
    assert "IMAGENET1K_V2: top-1 80.858%, top-5 95.434%" in known["resnet50-11ad3fa6.pth"]


def test_an_address_is_imported_with_its_size_and_digest_shown(
    hub: Path, tmp_path: Path, anysize: Callable[..., Any]
) -> None:
    file = tmp_path / "a model.pth"
    torch.save({"arch": "resnet8", "state_dict": create_model("resnet8", 3).state_dict()}, file)
    shown = anysize("import", file.as_uri(), "--out", "run")
    assert shown.returncode == 0, shown.stderr
    assert f"{file.as_uri()}: {file.stat().st_size:,} bytes, sha256 {sha256(file)}, in {hub}" in shown.stdout
    assert load_recipe(str(tmp_path / "run/recipe.toml")).model.name == "resnet8"


def test_a_model_in_the_place_of_a_file_is_answered_with_its_addresses() -> None:
    with pytest.raises(UserError, match=r"there is no file dla102x; published are http://ai2\S*/dla102x\.pth\.tar$"):
        anysize.import_checkpoint("dla102x")


def test_code_in_a_downloaded_file_is_not_run(hub: Path, tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "harm",))

    torch.save({"state_dict": {"w": torch.zeros(1)}, "extra": Harm()}, tmp_path / "bad.pth")
    with pytest.raises(UserError, match="cannot be read without running code"):
        anysize.import_checkpoint((tmp_path / "bad.pth").as_uri(), "resnet8", out=tmp_path / "run")
    assert not (tmp_path / "harm").exists()
