"""Packs in object storage give the bits of the pack on disk, from a server that fails and is slow, too."""

import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import object_storage
import pytest
import torch
from image_files import write_folder
from object_storage import Failing, failing, put
from packs import flip_byte, opened, pack_folder
from torch.utils.data import DataLoader, Dataset

from anysize.data.catalog import load_dataset
from anysize.data.pack.storage import Storage, Wanted, cache_folder
from anysize.data.pack.verify import damaged_files
from anysize.data.source import Source
from anysize.registry import UserError


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pack")
    return pack_folder(write_folder(folder / "root", 8, lambda i: (40 + i, 60)), folder / "p", "original,32,16")


@pytest.fixture(scope="module")
def bucket() -> Iterator[tuple[Any, int]]:
    """A client and the port of a server."""
    with object_storage.bucket() as made:
        yield made


@pytest.fixture
def server(bucket: tuple[Any, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Failing]:
    monkeypatch.setenv("ANYSIZE_CACHE", str(tmp_path / "cache"))
    with failing(bucket[1]) as (proxy, environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        yield proxy


def assert_same(url: Any, pack: Path) -> None:
    there, here = (load_dataset(opened(each, stream_limit=10), "train") for each in (url, pack))
    needs = [None, lambda *shape: 0.1] * 8
    there.ahead(range(16), needs)
    sent = pickle.loads(pickle.dumps(there))  # as to a process that loads images and is not forked
    for index, need in enumerate(needs):
        one, other, another = (each.read(index, need)[:2] for each in (here, there, sent))
        assert all(torch.equal(one[part], each[part]) for part in (0, 1) for each in (other, another))
    assert there.content() == here.content()  # a run goes on with either
    assert there.describe(3) == f"{url}/train: {here.file_name(3)}"


def test_a_folder_by_its_address(pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYSIZE_CACHE", str(tmp_path))
    assert_same(f"file://{pack}", pack)
    with pytest.raises(UserError, match=r"file://.*/nowhere, which cannot be opened"):
        load_dataset(opened(f"file://{tmp_path}/nowhere"), "train")
    storage = Storage(f"file://{pack}", 5)
    assert damaged_files(next((tmp_path / "packs").iterdir()), storage=storage) == {}


@pytest.mark.slow
def test_a_server_that_fails_for_a_while_gives_the_same_bits(
    pack: Path, bucket: tuple[Any, int], server: Failing
) -> None:
    url = put(bucket[0], pack, "whole")
    for server.how in ("", "slow", "refuse", "reset", "cut"):
        assert_same(url, pack)


def test_a_web_server_gives_the_same_bits(pack: Path, bucket: tuple[Any, int], server: Failing) -> None:
    put(bucket[0], pack, "web")
    for server.how in ("", "cut"):
        assert_same(f"http://127.0.0.1:{server.server_port}/buck/web", pack)


def test_a_pack_is_unpacked_from_its_address(
    pack: Path, bucket: tuple[Any, int], server: Failing, tmp_path: Path, anysize: Callable[..., Any]
) -> None:
    url = put(bucket[0], pack, "files")
    server.how = "cut"
    assert anysize("data", "unpack", url, "there").returncode == 0
    assert anysize("data", "unpack", str(pack), "here").returncode == 0
    there, here = (
        {path.relative_to(each): path.read_bytes() for path in each.rglob("*.jpg")}
        for each in (tmp_path / "there", tmp_path / "here")
    )
    assert there == here
    assert len(there) == 32
    refused = anysize("data", "unpack", "s3://buck/nowhere", "nothing")
    assert (refused.returncode, refused.stderr[:59]) == (
        2,
        "anysize: s3://buck/nowhere holds no pack.json; expected the",
    )
    assert not (tmp_path / "nothing").exists()


def test_what_was_kept_of_a_pack_goes_when_nobody_has_read_it_for_a_month(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANYSIZE_CACHE", str(tmp_path))
    old, young = (cache_folder(url, b"1") for url in ("s3://b/old", "s3://b/young"))
    (old / "train").mkdir()
    (old / "train/index.npy").write_bytes(b"1")
    for folder, days in ((old, 31), (young, 29)):
        os.utime(folder, (time.time() - days * 86_400,) * 2)
    now = cache_folder("s3://b/old", b"2")
    assert {*(tmp_path / "packs").iterdir()} == {young, now}
    os.utime(now, (1, 1))
    assert cache_folder("s3://b/old", b"2") == now
    assert now.exists()


def test_near_ranges_are_one_request(pack: Path, bucket: tuple[Any, int], server: Failing) -> None:
    storage = Storage(put(bucket[0], pack, "near"), 10)
    server.requests = 0
    data = (pack / "train/16-00000.shard").read_bytes()
    wanted = [Wanted("train/16-00000.shard", start, 9) for start in (50, 0, 100)]
    assert [bytes(each) for each in storage.ranges(wanted)] == [data[w.start : w.start + 9] for w in wanted]
    assert server.requests == 1


@pytest.mark.slow
def test_a_server_that_fails_for_good_is_one_sentence(pack: Path, bucket: tuple[Any, int], server: Failing) -> None:
    source = load_dataset(opened(put(bucket[0], pack, "down"), stream_limit=1), "train")
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
    load_dataset(opened(url), "train")
    found = damaged_files(next((tmp_path / "cache/packs").iterdir()), storage=storage)
    assert list(found) == [f"{url}/train/32-00000.shard"]
    assert "it was changed" in found[f"{url}/train/32-00000.shard"]
    assert "(train/cat/000.jpg)" in found[f"{url}/train/32-00000.shard"]
    client.put_object(Bucket="buck", Key="changed/train/32-00000.shard", Body=b"short")
    with pytest.raises(UserError, match=r"s3://buck/changed/train/32-00000.shard was cut short: it has 5 bytes, of"):
        load_dataset(opened(url), "train")
    client.put_object(Bucket="buck", Key="changed/validation/index.npy", Body=b"short")
    with pytest.raises(UserError, match=r"s3://buck/changed/validation/index.npy was cut short"):
        load_dataset(opened(url), "validation")


def test_without_the_extra_one_sentence_says_how_it_is_installed(
    monkeypatch: pytest.MonkeyPatch, anysize: Callable[..., CompletedProcess[str]]
) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    done = anysize("train", "quickstart", "--data.name", "pack", "--data.root", "s3://buck/pack")
    assert done.returncode == 2
    assert done.stderr == (
        "anysize: data.root is s3://buck/pack, and object storage needs obstore, which is not installed: pip install "
        "'anysize[stream]'\n"
    )


@pytest.mark.parametrize("url", ["s3://me:secret@b/p", "https://h/p?sig=secret", "ftp://h/p", "s3://"])
def test_addresses_that_are_refused_show_no_password(url: str) -> None:
    with pytest.raises(UserError, match=r"data\.root is") as error:
        load_dataset(opened(url), "train")
    assert "secret" not in str(error.value)


@pytest.mark.slow
def test_a_script_without_its_guard_is_told_of_it(pack: Path, tmp_path: Path) -> None:
    script = tmp_path / "own.py"
    script.write_text(
        f"""
from anysize.data.augment.square import EvalTransform
from anysize.data.catalog import load_dataset
from anysize.data.loader import PlanLoader, sequential_batches
from anysize.data.settings import DataSettings
from anysize.preprocessing import Preprocessing

source = load_dataset(DataSettings(name="pack", root="file://{pack}"), "train")
loader = PlanLoader(source, EvalTransform(Preprocessing(16), 1), workers=1)
list(loader.load(sequential_batches(len(source), 16, 4)))
"""
    )
    environment = {**os.environ, "ANYSIZE_CACHE": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment)
    assert 'what it does belongs under `if __name__ == "__main__":`' in done.stderr.splitlines()[-1]


def test_a_process_that_was_forked_is_told_how_to_start(
    pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANYSIZE_CACHE", str(tmp_path))
    source = load_dataset(opened(f"file://{pack}"), "train")
    loader = DataLoader(_Own(source), batch_size=None, num_workers=1, multiprocessing_context="fork", timeout=60)
    with pytest.raises(UserError, match=r'forked from the one that opened it: .*multiprocessing_context="spawn"'):
        next(iter(loader))


class _Own(Dataset[torch.Tensor]):
    """A data set as somebody writes it, who has a loader of his own."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.source.read(7 - index)[0]
