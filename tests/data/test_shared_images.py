"""Validation images that are training images, too, are said, whatever links lead to them."""

import os
from pathlib import Path

import numpy as np

from anysize.data.copies import shared_images
from anysize.data.source import FileSource


def source(*paths: Path) -> FileSource:
    return FileSource([str(path) for path in paths], np.zeros(len(paths), np.int64), ("cat",), name="pets")


def test_links_of_every_kind_are_followed(tmp_path: Path) -> None:
    train = tmp_path / "train"
    train.mkdir()
    for name in ("a.png", "b.png", "c.png"):
        (train / name).touch()
    (tmp_path / "val").symlink_to("train")
    (tmp_path / "link.png").symlink_to("train/b.png")
    os.link(train / "c.png", tmp_path / "hard.png")
    (tmp_path / "own.png").touch()
    trained = source(train / "a.png", train / "b.png", train / "c.png")
    for path in (train / "a.png", tmp_path / "val/a.png", tmp_path / "link.png", tmp_path / "hard.png"):
        assert shared_images(trained, source(path, tmp_path / "own.png")).startswith("validation images: 1 is a ")
    assert not shared_images(trained, source(tmp_path / "own.png", tmp_path / "gone.png"))
    assert shared_images(trained, trained).startswith("validation images: 3 are training images, too (")
