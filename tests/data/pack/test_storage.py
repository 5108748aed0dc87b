"""Packs in object storage give the bits of the pack on disk, from a server that fails and is slow, too."""

import http.client
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import pytest
import torch
from image_files import write_folder
from moto.server import ThreadedMotoServer
from packs import flip_byte, opened, pack_folder

from anysize.data.catalog import load_dataset
from anysize.data.pack.storage import Storage, Wanted
from anysize.data.pack.verify import damaged_files
from anysize.registry import UserError

KEYS = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_REGION": "us-east-1"}


class Failing(ThreadingHTTPServer):
    """Hands requests on to a server, but for those that `how` says: refuse, reset, cut, down."""

    daemon_threads = True

    def __init__(self, behind: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind, self.how, self.requests = behind, "", 0

    def handle_error(self, *args: Any) -> None:
        """A client that is gone is none."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Failing

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        server = self.server
        server.requests += 1
        fails = server.how == "down" or (server.how and server.requests % 3 == 1)
        if fails and server.how in ("refuse", "down"):
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if fails and server.how == "reset":
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        if server.how == "slow":
            time.sleep(0.02)
        there = http.client.HTTPConnection("127.0.0.1", server.behind)
        there.request(self.command, self.path, headers=dict(self.headers))
        answer = there.getresponse()
        body = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("connection", "transfer-encoding", "content-length", "server", "date"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)) if body else answer.getheader("Content-Length", "0"))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if fails else body)
        self.close_connection = self.close_connection or bool(fails)
        there.close()

    do_HEAD = do_GET


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pack")
    return pack_folder(write_folder(folder / "root", 8, lambda i: (40 + i, 60)), folder / "p", "original,32,16")


@pytest.fixture(scope="module")
def bucket() -> Iterator[tuple[Any, int]]:
    """A client and the port of a server."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    port = server.get_host_and_port()[1]
    client = boto3.client(
        "s3", endpoint_url=f"http://127.0.0.1:{port}", aws_access_key_id="k", aws_secret_access_key="s",
        region_name="us-east-1",
    )  # fmt: skip
    client.create_bucket(Bucket="buck")
    yield client, port
    server.stop()


@pytest.fixture
def server(bucket: tuple[Any, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Failing]:
    proxy = Failing(bucket[1])
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    for name, value in {**KEYS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{proxy.server_port}"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("ANYSIZE_CACHE", str(tmp_path / "cache"))
    yield proxy
    proxy.shutdown()
    proxy.server_close()
    thread.join()


def put(client: Any, folder: Path, prefix: str) -> str:
    for path in folder.rglob("*"):
        if path.is_file():
            client.put_object(Bucket="buck", Key=f"{prefix}/{path.relative_to(folder)}", Body=path.read_bytes())
    return f"s3://buck/{prefix}"


def assert_same(url: Any, pack: Path) -> None:
    there, here = (load_dataset(opened(each, stream_limit=10), "train") for each in (url, pack))
    needs = [None, lambda *shape: 0.1] * 8
    there.ahead(range(16), needs)
    for index, need in enumerate(needs):
        for one, other in zip(there.read(index, need)[:2], here.read(index, need)[:2], strict=True):
            assert torch.equal(one, other)
    assert there.content() == here.content()  # a run goes on with either
    assert there.describe(3) == f"{url}/train: {here.file_name(3)}"


def test_a_folder_by_its_address(pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYSIZE_CACHE", str(tmp_path))
    assert_same(f"file://{pack}", pack)
    with pytest.raises(UserError, match=r"file://.*/nowhere, which cannot be opened"):
        load_dataset(opened(f"file://{tmp_path}/nowhere"), "train")  # type: ignore[arg-type]
    storage = Storage(f"file://{pack}", 5)
    assert damaged_files(next((tmp_path / "packs").iterdir()), storage=storage) == {}


def test_a_server_that_fails_for_a_while_gives_the_same_bits(
    pack: Path, bucket: tuple[Any, int], server: Failing
) -> None:
    url = put(bucket[0], pack, "whole")
    for server.how in ("", "slow", "refuse", "reset", "cut"):
        assert_same(url, pack)


def test_near_ranges_are_one_request(pack: Path, bucket: tuple[Any, int], server: Failing) -> None:
    storage = Storage(put(bucket[0], pack, "near"), 10)
    server.requests = 0
    data = (pack / "train/16-00000.shard").read_bytes()
    wanted = [Wanted("train/16-00000.shard", start, 9) for start in (50, 0, 100)]
    assert [bytes(each) for each in storage.ranges(wanted)] == [data[w.start : w.start + 9] for w in wanted]
    assert server.requests == 1


def test_a_server_that_fails_for_good_is_one_sentence(pack: Path, bucket: tuple[Any, int], server: Failing) -> None:
    source = load_dataset(opened(put(bucket[0], pack, "down"), stream_limit=1), "train")  # type: ignore[arg-type]
    server.how = "down"
    with pytest.raises(UserError, match=r"s3://buck/down failed when asked for .* bytes of train/original-00000.shard"):
        source.ahead([0, 5])
    with pytest.raises(UserError, match=r"for \d+ s of tries: .*503.*; see to the server"):
        source.read(7)


def test_what_was_changed_on_the_server_is_named(
    pack: Path, bucket: tuple[Any, int], server: Failing, tmp_path: Path
) -> None:
    client = bucket[0]
    url = put(client, pack, "changed")
    flip_byte_of = tmp_path / "32"
    flip_byte_of.write_bytes((pack / "train/32-00000.shard").read_bytes())
    flip_byte(flip_byte_of, 50)
    client.put_object(Bucket="buck", Key="changed/train/32-00000.shard", Body=flip_byte_of.read_bytes())
    storage = Storage(url, 10)
    load_dataset(opened(url), "train")  # type: ignore[arg-type]
    found = damaged_files(next((tmp_path / "cache/packs").iterdir()), storage=storage)
    assert list(found) == [f"{url}/train/32-00000.shard"]
    assert "it was changed" in found[f"{url}/train/32-00000.shard"]
    assert "(train/cat/000.jpg)" in found[f"{url}/train/32-00000.shard"]
    client.put_object(Bucket="buck", Key="changed/train/32-00000.shard", Body=b"short")
    with pytest.raises(UserError, match=r"s3://buck/changed/train/32-00000.shard was cut short: it has 5 bytes, of"):
        load_dataset(opened(url), "train")  # type: ignore[arg-type]
    client.put_object(Bucket="buck", Key="changed/validation/index.npy", Body=b"short")
    with pytest.raises(UserError, match=r"s3://buck/changed/validation/index.npy was cut short"):
        load_dataset(opened(url), "validation")  # type: ignore[arg-type]


@pytest.mark.parametrize("url", ["s3://me:secret@b/p", "https://h/p?sig=secret", "ftp://h/p", "s3://"])
def test_addresses_that_are_refused_show_no_password(url: str) -> None:
    with pytest.raises(UserError, match=r"data\.root is") as error:
        load_dataset(opened(url), "train")  # type: ignore[arg-type]
    assert "secret" not in str(error.value)
