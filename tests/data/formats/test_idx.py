"""IDX files: what does not hold what it states is refused, and no archive is unpacked further than that."""

import gzip
import os
from pathlib import Path

import numpy as np
import pytest

from anysize.data.catalog import load_dataset
from anysize.data.formats import idx
from anysize.data.settings import DataSettings
from anysize.registry import UserError


def header(*shape: int) -> bytes:
    return b"\0\0\x08" + bytes([len(shape)]) + np.array(shape, ">i4").tobytes()


IMAGES, LABELS = header(4, 5, 6) + bytes(range(120)), header(4) + bytes([0, 1, 9, 3])
BOMB = header(4, 5, 6) + bytes(10**7)


def write(root: Path, images: bytes, labels: bytes = LABELS) -> DataSettings:
    for name, data in (("train-images-idx3-ubyte", images), ("train-labels-idx1-ubyte", labels)):
        (root / f"{name}.gz").write_bytes(gzip.compress(data))
    return DataSettings(name="mnist", root=str(root))


def test_packed_and_plain_files_hold_the_same(tmp_path: Path):
    settings = write(tmp_path, IMAGES)
    packed = load_dataset(settings, "train")
    assert (packed.image(0).shape, packed.targets.tolist()) == ((1, 5, 6), [0, 1, 9, 3])
    (tmp_path / "train-images-idx3-ubyte").write_bytes(IMAGES)
    assert (load_dataset(settings, "train").image(3) == packed.image(3)).all()


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (BOMB, LABELS, "states 120 bytes, and has more"),
        (IMAGES[:-1], LABELS, "states 120 bytes, and has 119"),
        (header(2**31 - 1, 28, 28), LABELS, "states 2147483647 x 28 x 28 bytes, expected at most 1,073,741,824"),
        (header(-4, -5, 6), LABELS, "states -4 x -5 x 6 bytes, expected at most"),
        (b"\0\0\x0d\x03", LABELS, "begins with 00 00 0d 03, expected 00 00 08"),
        (b"", LABELS, "begins with , expected 00 00 08"),
        (header(120), LABELS, r"has values of shape \(120,\), and .* of shape \(4,\); expected \(N, height, width\)"),
        (header(0, 5, 6), header(0), r"has values of shape \(0, 5, 6\)"),
        (IMAGES, header(3) + bytes(3), r"of shape \(4, 5, 6\), and .* of shape \(3,\)"),
        (IMAGES, LABELS[:-1] + bytes([10]), "idx1-ubyte.gz has the label 10; expected 0 to 9"),
    ],
)
def test_what_does_not_fit_together_is_named(tmp_path: Path, images: bytes, labels: bytes, message: str):
    images += bytes(120 * (images == header(120)))
    with pytest.raises(UserError, match=message):
        load_dataset(write(tmp_path, images, labels), "train")


def test_damaged_archives_and_pipes_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    settings = write(tmp_path, IMAGES)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    for spoilt in (whole[:20] + b"\xff" * 20 + whole[40:], whole[:-12], b"\x1f\x8b\x08" + bytes(7) + b"\xff" * 50):
        path.write_bytes(spoilt)
        with pytest.raises(UserError, match=r"idx3-ubyte\.gz is not a readable IDX file \(.*\); download it again"):
            load_dataset(settings, "train")
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match="it is a named pipe, and no file"):
        load_dataset(settings, "train")
    monkeypatch.setattr(idx, "_MOST", 119)
    path.unlink()
    write(tmp_path, IMAGES)
    with pytest.raises(UserError, match="expected at most 119"):
        load_dataset(settings, "train")
