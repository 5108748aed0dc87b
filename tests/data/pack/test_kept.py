"""Blocks that are kept of object storage give the same bytes, within their limit, whatever happens to them."""

import os
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import write_folder
from packs import flip_byte, opened, pack_folder

from anysize.data.catalog import load_dataset
from anysize.data.pack import kept
from anysize.data.pack.kept import Kept
from anysize.data.pack.source import PackSource
from anysize.data.pack.storage import Storage, Wanted, cache_folder
from anysize.data.settings import DataSettings
from anysize.registry import UserError

BLOCK, SIZES = 64, {"a/1": 1000, "b": 64, "c": 63}
LIMIT = 6 * BLOCK


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "BLOCK", BLOCK)


class Counting(Storage):
    """Notes what it is asked for."""

    asked: list[Wanted]

    def ranges(self, wanted: Sequence[Wanted]) -> list[Any]:
        self.__dict__.setdefault("asked", []).extend(wanted)
        return super().ranges(wanted)


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Counting:
    folder = tmp_path_factory.mktemp("there")
    (folder / "a").mkdir()
    for number, (name, size) in enumerate(SIZES.items()):
        (folder / name).write_bytes(np.random.default_rng(number).bytes(size))
    return Counting(f"file://{folder}", 5)


@pytest.fixture
def blocks(storage: Counting, tmp_path: Path) -> Kept:
    storage.asked = []
    return Kept(storage, tmp_path / "blocks", SIZES, LIMIT)


ranges = st.sampled_from(sorted(SIZES)).flatmap(
    lambda name: st.tuples(st.integers(0, SIZES[name] - 1), st.integers(1, 200)).map(
        lambda pair: Wanted(name, pair[0], min(pair[1], SIZES[name] - pair[0]))
    )
)


@given(st.lists(st.lists(ranges, max_size=6), max_size=12))
@settings(deadline=None, max_examples=50)
def test_any_ranges_are_those_of_the_files_and_blocks_stay_within_their_limit(
    storage: Counting, tmp_path_factory: pytest.TempPathFactory, batches: list[list[Wanted]]
) -> None:
    folder = tmp_path_factory.mktemp("kept") / "blocks"
    own = Kept(storage, folder, SIZES, LIMIT)
    for wanted in batches:
        assert own.ranges(wanted) == [bytes(each) for each in storage.ranges(wanted)]
        held = [path.stat().st_size for path in folder.iterdir()] if folder.exists() else []
        assert sum(held) <= LIMIT + BLOCK


def test_a_block_is_fetched_when_more_of_it_is_asked_for_and_then_no_more(storage: Counting, blocks: Kept) -> None:
    data = blocks.storage.ranges([Wanted("a/1", 0, 1000)])[0]
    storage.asked.clear()
    for start, asked in ((70, (70, 9)), (80, (64, 64)), (90, None), (64, None)):
        assert blocks.ranges([Wanted("a/1", start, 9)]) == [data[start : start + 9]]
        assert [(each.start, each.length) for each in storage.asked] == ([asked] if asked else [])
        storage.asked.clear()
    blocks.ranges([Wanted("a/1", 960, 3), Wanted("a/1", 970, 3)])  # two at once; the last block is shorter
    assert storage.asked == [Wanted("a/1", 960, 40)]
    storage.asked.clear()
    copy = pickle.loads(pickle.dumps(blocks))  # of another process
    copy.storage = storage
    assert copy.ranges([Wanted("a/1", 100, 9), Wanted("a/1", 980, 9)]) == [data[100:109], data[980:989]]
    assert storage.asked == []


def test_blocks_that_are_cut_short_gone_or_cannot_be_written_do_no_harm(
    storage: Counting, blocks: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = [Wanted("a/1", 0, 30), Wanted("a/1", 30, 34)]
    first = blocks.ranges(wanted)
    (path,) = (tmp_path / "blocks").iterdir()
    path.write_bytes(path.read_bytes()[:40])
    assert blocks.ranges(wanted) == first
    assert path.stat().st_size == BLOCK
    blocks.forget(wanted[0])
    assert not path.exists()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    for _ in range(2):
        assert blocks.ranges(wanted) == first
    assert list((tmp_path / "blocks").iterdir()) == []
    assert caplog.text.count("cannot be kept in") == 1


def test_a_pack_is_read_from_blocks_even_from_damaged_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYSIZE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(kept, "BLOCK", 4096)
    pack = pack_folder(write_folder(tmp_path / "root", 8, lambda i: (40 + i, 60)), tmp_path / "p")
    source = load_dataset(opened(f"file://{pack}", stream_cache=64), "train")
    assert isinstance(source, PackSource)
    assert not any("stream_cache" in remedy for remedy in source.remedies())
    plain = load_dataset(opened(pack), "train")
    everything = range(16)
    for _ in range(2):
        source.ahead(everything)
        assert [source.data(i) for i in everything] == [plain.data(i) for i in everything]
    (blocks,) = (tmp_path / "cache/packs").glob("*/blocks")
    found = sorted(blocks.glob("train-original-*"))
    assert sum(path.stat().st_size for path in found) == (pack / "train/original-00000.shard").stat().st_size
    flip_byte(found[0], 9)
    source.ahead(everything)
    assert [source.data(i) for i in everything] == [plain.data(i) for i in everything]
    assert not found[0].exists()  # it is fetched again when it is asked for
    cache_folder(f"file://{pack}", b"another manifest")
    assert not blocks.exists()


def test_a_cache_that_keeps_nothing_is_refused_and_one_that_is_too_small_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("ANYSIZE_CACHE", str(tmp_path / "cache"))
    root = write_folder(tmp_path / "root", 2, lambda i: (40 + i, 60))
    pack = pack_folder(root, tmp_path / "p")
    with pytest.raises(UserError, match=r"data\.stream_cache is set, but data\.root is no address in object storage"):
        load_dataset(opened(pack, stream_cache=64), "train")
    with pytest.raises(UserError, match="data set 'folder' is not read from object storage; remove it, or pack the"):
        load_dataset(DataSettings(name="folder", root=str(root), stream_cache=64), "train")
    monkeypatch.setattr("anysize.data.pack.format.Split.bytes", 2**30)
    for others, told in (({}, 1), ({"shuffle_chunks": 2}, 0)):
        caplog.clear()
        there = opened(f"file://{pack}", stream_cache=64, **others)
        load_dataset(there, "train")
        assert caplog.text.count("data.stream_cache keeps 64 MiB, of 1,024 MiB of training images") == told
