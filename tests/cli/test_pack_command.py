"""`anysize data pack`, `check` and `unpack` as a user meets them."""

import filecmp
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from image_files import write_folder
from packs import flip_byte

Anysize = Callable[..., CompletedProcess[str]]


def test_a_folder_is_packed_checked_and_unpacked(anysize: Anysize, tmp_path: Path) -> None:
    write_folder(tmp_path / "pets", 3, lambda i: (40 + i, 60))
    command = ["data", "pack", "folder", "p", "--data.root", "pets", "--levels", "original,32"]
    for _ in range(2):  # the second finds it done
        done = anysize(*command)
        assert done.returncode == 0
        assert done.stdout.splitlines()[0].startswith("train: 6 images, levels original, 32, 0.0 MiB")
        assert done.stdout.splitlines()[-1] == "p is a pack; use it with --data.name pack --data.root p"
        assert "warning" not in done.stdout
    checked = anysize("data", "check", "pack", "--data.root", "p")
    assert checked.returncode == 0
    assert "pack of 'folder': 6 for train, 6 for validation, levels original, 32" in checked.stdout
    assert "train: 6 images of 2 classes" in checked.stdout
    assert anysize("data", "unpack", "p", "files").stdout == (
        "files is written; use it with --data.name folder --data.root files\n"
    )
    assert filecmp.cmp("files/validation/dog/002.jpg", "pets/val/dog/002.jpg", shallow=False)
    flip_byte(tmp_path / "p/train/32-00000.shard", 50)
    damaged = anysize("data", "check", "pack", "--data.root", "p")
    assert damaged.returncode == 1
    assert "damaged: p/train/32-00000.shard: it was changed" in damaged.stdout
    assert "(train/cat/000.jpg)" in damaged.stdout

    small = anysize(*command[:3], "q", "--data.root", "pets", "--levels", "32", "--raw")
    assert "warning: it has no originals: evaluation sees images shrunk to a shorter side of 32 pixels" in small.stdout
    assert "warning: the pack has no originals" in anysize("data", "unpack", "q", "of-q").stdout


def test_a_plan_says_how_images_are_shuffled_by_chunks(
    anysize: Anysize, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anysize.data.pack.write.MIB", 2500)
    write_folder(tmp_path / "pets", 6, lambda i: (40 + i, 60), splits=("train",))
    options = "--levels original,32 --shard 1 --data.val_split 0.1"
    plan = (
        "plan quickstart --data.name pack --sizes.mix fixed --training.batch_size 2 --data.shuffle_chunks 1 --data.root"
    )
    for name, more in (("sorted", ""), ("mixed", "--shuffle")):
        assert anysize(*f"data pack folder {name} --data.root pets {options} {more}".split()).returncode == 0
        said = anysize(*plan.split(), name).stdout
        assert "images are shuffled by chunks (data.shuffle_chunks): 1 of 4 chunks at a time, in all some 2 of" in said
        assert ("warning: a chunk holds 1 of 2 classes" in said) == (name == "sorted")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("pack", "no data set is named; expected `anysize data pack folder OUT --data.root DIR`"),
        ("pack folder --data.root x", "no folder is named for the pack"),
        ("pack foldr p --data.root x", "unknown data set 'foldr': did you mean 'folder'?"),
        ("pack folder p --data.root x --levels 5", "--levels is '5'; expected `original` and shorter sides"),
        ("pack folder p --data.root x --quality 0", "--quality is 0; expected that of JPEGs, from 1 to 100"),
        ("pack folder p --data.root x --shard 5000", "--shard is 5000; expected MiB from 1 to 2048"),
        ("pack folder p --data.root x", "data.root is 'x', which is not a folder"),
        ("pack folder p --data.root x --images 3", "--images: unknown setting"),
        ("check folder --data.root x --raw", "--raw is no option of this command"),
        ("pak folder p", "anysize data cannot 'pak': did you mean 'pack'?"),
        ("unpack p", "received p; expected a pack and a new folder, as `anysize data unpack PACK OUT`"),
        ("unpack x out", "x holds no pack.json"),
    ],
)
def test_what_is_wrong_is_said(anysize: Anysize, tmp_path: Path, command: str, said: str) -> None:
    done = anysize("data", *command.split())
    assert done.returncode == 2
    assert said in done.stderr
    assert list(tmp_path.iterdir()) == []  # nothing is left behind
