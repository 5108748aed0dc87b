"""The cache beside a COCO file is taken only if it can be the file's index, and is written over nothing else."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_files import write_coco

from anysize.data.formats.coco import cache as coco_cache
from anysize.data.formats.coco.cache import SUFFIX, read_coco_index
from anysize.data.formats.coco.painting import CocoMasks
from anysize.data.pictures import BadImage


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Callable[[], bool]]:
    """An annotation file with its cache, and whether reading it took the cache."""
    path = write_coco(tmp_path, ("train2017",)) / "annotations/instances_train2017.json"
    read_coco_index(path)
    read: list[str] = []
    index_coco = coco_cache.index_coco
    monkeypatch.setattr(coco_cache, "index_coco", lambda path: (read.append(path), index_coco(path))[1])

    def taken() -> bool:
        read.clear()
        assert read_coco_index(path).category_names == ("dog", "cat", "dining table")
        return not read

    return path, taken


def spoil(path: Path, packed: bool = False, **changes: Any) -> None:
    with np.load(f"{path}{SUFFIX}") as stored:
        arrays = {**stored, **changes}
    (np.savez_compressed if packed else np.savez)(f"{path}{SUFFIX}", **arrays)


@pytest.mark.parametrize(
    "changes",
    [
        {"image": np.full(9, 4, np.int32)},
        {"category": np.full(9, -1, np.int32)},
        {"offset": np.full(9, 10**9)},
        {"length": np.full(9, 2**62)},
        {"heights": np.full(4, -5, np.int32)},
        {"widths": np.full(3, 5, np.int32)},
        {"area": np.full(9, np.nan)},
        {"area": np.full(9, 5)},
        {"crowd": np.zeros((9, 2), bool)},
        {"image_ids": np.full(4, 7)},
        {"file_names": np.array([b"a\0b", b"b", b"c", b"d"])},
        {"file_names": np.array([b"\xff", b"b", b"c", b"d"])},
        {"file_names": np.array([b"a" * 2000, b"b", b"c", b"d"])},
        {"category_names": np.array(["x" * 9999, "y", "z"])},
        {"category_names": np.array([[1], "y", "z"], dtype=object)},
        {"packed": True},
    ],
)
def test_what_no_index_holds_is_read_again(made: tuple[Path, Callable[[], bool]], changes: dict[str, Any]):
    path, taken = made
    assert taken()
    spoil(path, **changes)
    assert not taken()
    assert taken()


def test_the_cache_of_somebody_else_is_not_taken_and_none_is_written_for_others(
    made: tuple[Path, Callable[[], bool]], monkeypatch: pytest.MonkeyPatch
):
    path, taken = made
    fstat = os.fstat

    def of_another(file: int) -> os.stat_result:
        found = fstat(file)
        return os.stat_result((*found[:4], 777, *found[5:10]))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", of_another)
        assert not taken()
        patch.setattr(os, "geteuid", lambda: 777)  # it is of this user, but the folder is not
        assert taken()
        Path(f"{path}{SUFFIX}").unlink()
        assert not taken()
        assert not Path(f"{path}{SUFFIX}").exists()
        patch.undo()
    read_coco_index(path)
    owner = os.stat(path).st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    assert taken()  # it is of the owner of the file


def test_a_link_or_pipe_in_its_place_leads_nowhere(made: tuple[Path, Callable[[], bool]], tmp_path: Path):
    path, taken = made
    cache, victim = Path(f"{path}{SUFFIX}"), tmp_path / "victim"
    victim.write_text("precious")
    cache.unlink()
    cache.symlink_to(victim)
    assert not taken()
    assert victim.read_text() == "precious"
    assert not cache.is_symlink()
    cache.unlink()
    os.mkfifo(cache)
    assert not taken()
    assert taken()
    assert sorted(entry.name for entry in cache.parent.iterdir()) == [path.name, cache.name]


def test_places_that_are_wrong_make_damaged_images(made: tuple[Path, Callable[[], bool]]):
    path, taken = made
    index = read_coco_index(path)
    for place in (0, 5, int(index.offset[2]) - 3):
        spoil(path, offset=np.full(9, place))
        assert taken()
        masks = CocoMasks(read_coco_index(path), np.array([1, 2, 3], np.uint8))
        with pytest.raises(BadImage, match=r"annotation at byte \d+ in .*\.json has the segmentation None; expected"):
            masks.read(0, (40, 60))
