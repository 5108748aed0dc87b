"""Packing goes on where it was interrupted, to the same bytes, and with nothing else than it was begun with."""

import errno
import filecmp
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from image_files import damage, write_folder
from packs import opened, pack_folder

from anysize.data.catalog import load_dataset
from anysize.data.pack.format import read_manifest
from anysize.experiment.run_folder import alone_in
from anysize.registry import UserError

COUNT = 6
LEVELS = "original,32,16"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """24 images; a pack of them has some five parts a split."""
    monkeypatch.setattr("anysize.data.pack.write.MIB", 2500)  # a whole MiB is too much for small images
    return write_folder(tmp_path / "root", COUNT, lambda i: (40 + i, 50))


def files_of(pack: Path) -> set[str]:
    return {str(path.relative_to(pack)) for path in pack.rglob("*") if path.is_file()}


def assert_same(pack: Path, other: Path) -> None:
    names = files_of(pack)
    assert names == files_of(other)
    assert [name for name in names if not filecmp.cmp(pack / name, other / name, shallow=False)] == []
    assert not [name for name in names if "part-" in name or name.endswith(".tmp") or name == "packing.json"]


def stops_at(number: int, error: BaseException) -> Callable[[int, int], None]:
    def on_image(done: int, total: int) -> None:
        if done == number:
            raise error

    return on_image


@pytest.mark.parametrize("stops", [(1,), (7, 11), (12, 13, 23), (24,)])
def test_a_packing_that_was_interrupted_goes_on_to_the_same_bytes(
    root: Path, tmp_path: Path, stops: tuple[int, ...]
) -> None:
    whole = pack_folder(root, tmp_path / "whole", LEVELS)
    pack = tmp_path / "p"
    for stop in stops:
        with pytest.raises(KeyboardInterrupt):
            pack_folder(root, pack, LEVELS, on_image=stops_at(stop, KeyboardInterrupt()))
        with pytest.raises(UserError, match="is a pack that is not finished"):
            load_dataset(opened(pack), "train")
    seen: list[int] = []
    pack_folder(root, pack, LEVELS, on_image=lambda done, total: seen.append(done))
    assert seen == list(range(seen[0], 25))
    assert stops[-1] - 5 < seen[0] <= max(stops[-1], 1)  # no whole part is packed again
    assert_same(whole, pack)
    assert pack_folder(root, pack, LEVELS, on_image=stops_at(1, AssertionError())) == pack  # it is packed already
    assert_same(whole, pack)


def test_a_part_that_is_not_whole_is_packed_again(root: Path, tmp_path: Path) -> None:
    whole = pack_folder(root, tmp_path / "whole", LEVELS)
    pack = tmp_path / "p"
    with pytest.raises(KeyboardInterrupt):
        pack_folder(root, pack, LEVELS, on_image=stops_at(11, KeyboardInterrupt()))
    records = sorted((pack / "train").glob("part-*.npz"))
    assert len(records) > 2
    damage(records[-1])
    damage(pack / "train/32-00001.shard")
    (pack / "train/.16-00003.shard.0123456789abcdef.tmp").write_bytes(b"left by a killed process")
    seen: list[int] = []
    pack_folder(root, pack, LEVELS, on_image=lambda done, total: seen.append(done))
    assert seen[0] == 1 + len(read_rows(whole, 0))
    assert_same(whole, pack)


def read_rows(pack: Path, part: int) -> list[int]:
    return [row for row, of in enumerate(load_dataset(opened(pack), "train").index.rows["part"]) if of == part]


def test_other_images_or_options_are_refused(root: Path, tmp_path: Path) -> None:
    pack = tmp_path / "p"
    with pytest.raises(KeyboardInterrupt):
        pack_folder(root, pack, LEVELS, on_image=stops_at(20, KeyboardInterrupt()))
    for levels, how in (("original,32", {}), (LEVELS, {"pixels": "raw"}), (LEVELS, {"shard": 2})):
        with pytest.raises(UserError, match=r"was begun with another (levels|pixels|shard); give the command"):
            pack_folder(root, pack, levels, **how)
    image = root / "train/cat/000.jpg"
    image.rename(root / "train/cat/0000.jpg")
    with pytest.raises(UserError, match="was begun with other images than folder train has now"):
        pack_folder(root, pack, LEVELS)
    (root / "train/cat/0000.jpg").rename(image)
    root.rename(tmp_path / "moved")  # the same images
    pack_folder(tmp_path / "moved", pack, LEVELS)
    for said, how in (("other options", {"pixels": "raw"}), ("of other images", {"limit": 4})):
        with pytest.raises(UserError, match=f"is a pack already, of 'folder', .*{said}.* give another folder"):
            pack_folder(tmp_path / "moved", pack, LEVELS, **how)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds other files, such as notes\.txt; give a new folder"):
        pack_folder(tmp_path / "moved", tmp_path / "other", LEVELS)
    assert os.listdir(tmp_path / "other") == ["notes.txt"]


def test_damaged_images_stop_a_packing_or_are_left_out_and_named(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damage(root / "train/dog/002.jpg")
    pack = tmp_path / "p"
    with pytest.raises(UserError, match=r"train/dog/002\.jpg cannot be used: .*--data\.on_bad_image skip"):
        pack_folder(root, pack, LEVELS)
    skipped = pack_folder(root, tmp_path / "skipped", LEVELS, on_bad_image="skip")
    assert "left out" in caplog.text
    assert "002.jpg" in caplog.text
    (root / "train/dog/002.jpg").unlink()
    pack_folder(root, pack, LEVELS)  # goes on, as the images before it are the same
    for each in (pack, skipped):
        source = load_dataset(opened(each), "train")
        names = [source.file_name(i) for i in range(len(source))]
        assert names == [
            f"train/{name}/{i:03d}.jpg" for name in ("cat", "dog") for i in range(COUNT) if name + str(i) != "dog2"
        ]
        assert source.targets.tolist() == [0] * COUNT + [1] * (COUNT - 1)


@pytest.mark.parametrize("call", [0, 3, 8, 25])
def test_a_full_disk_is_said_and_packing_goes_on_when_there_is_room(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    whole = pack_folder(root, tmp_path / "whole", LEVELS)
    calls, sync = itertools.count(), os.fsync

    def full(descriptor: int) -> None:
        if next(calls) == call:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(
            UserError, match=r"cannot be written \(No space left on device\): \d+ images of 24 are packed"
        ):
            pack_folder(root, tmp_path / "p", LEVELS)
    assert not list((tmp_path / "p").rglob("*.tmp"))
    assert_same(whole, pack_folder(root, tmp_path / "p", LEVELS))


def test_two_processes_do_not_pack_into_one_folder(root: Path, tmp_path: Path) -> None:
    pack = tmp_path / "p"
    pack.mkdir()
    with alone_in(pack):
        said = f"p is being packed by process {os.getpid()} on .*; wait for it, or give another folder"
        with pytest.raises(UserError, match=said):
            pack_folder(root, pack, LEVELS)
    assert read_manifest(pack_folder(root, pack, LEVELS)).splits["train"].images == 2 * COUNT
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write the pack .*file.*; give another folder"):
        pack_folder(root, tmp_path / "file", LEVELS)


@pytest.mark.slow
def test_a_command_that_is_killed_goes_on_with_the_next(tmp_path: Path, anysize: Callable[..., Any]) -> None:
    root = write_folder(tmp_path / "root", 60, lambda i: (150, 200))
    command = ["data", "pack", "folder", "p", "--data.root", str(root), "--shard", "1"]
    killed = 0
    for wait in (0.0, 0.05, 0.15):
        with subprocess.Popen(
            [sys.executable, "-m", "anysize", *command], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        ) as process:
            end = time.monotonic() + 60
            while not list(tmp_path.glob("p/*/*.tmp")) and process.poll() is None and time.monotonic() < end:
                time.sleep(0.005)
            time.sleep(wait)
            process.send_signal(signal.SIGKILL)
            killed += process.wait() == -signal.SIGKILL
            assert process.stderr
            assert "Traceback" not in process.stderr.read().decode()
    assert killed
    done = anysize(*command)
    assert "p is a pack; use it with --data.name pack --data.root p" in done.stdout
    command[3] = "whole"
    anysize(*command)
    assert_same(tmp_path / "whole", tmp_path / "p")
    checked = anysize("data", "check", "pack", "--data.root", "p").stdout
    assert "train: 120 images of 2 classes" in checked
    anysize("data", "unpack", "p", "files")
    assert filecmp.cmp(tmp_path / "files/train/dog/059.jpg", root / "train/dog/059.jpg", shallow=False)
