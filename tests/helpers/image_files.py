"""Images and image folders for the tests of the data."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image


def smooth_image(seed: int, height: int, width: int) -> Image.Image:
    """A colour image with structure, so that a wrong crop or resize shows."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def write_folder(
    root: Path,
    count: int = 6,
    size: Callable[[int], tuple[int, int]] = lambda i: (24, 24),
    splits: tuple[str, ...] = ("train", "val"),
    ending: str = "jpg",
) -> Path:
    """Write `count` images of two classes below each split; `size(i)` is (height, width) of the i-th image."""
    for split in splits:
        for number, name in enumerate(("cat", "dog")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                smooth_image(100 * number + i, *size(i)).save(folder / f"{i:03d}.{ending}")
    return root


def varied(i: int) -> tuple[int, int]:
    """Sizes that differ, so that the files are not held in memory."""
    return 40 + 3 * i, 50 - 2 * i


def damage(path: Path) -> None:
    """Cut a file in its middle, as a broken copy does."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
