"""Packs of small folders of images, for the tests."""

from pathlib import Path
from typing import Any

from anysize.data.pack.format import parse_levels
from anysize.data.pack.write import PackOptions
from anysize.data.settings import DataSettings
from anysize.experiment.packing import pack_dataset


def pack_folder(
    root: Path | None,
    out: Path,
    levels: str = "original,32,16",
    *,
    name: str = "folder",
    targets: str = "",
    on_image: Any = lambda done, total: None,
    shard: int = 1,
    pixels: str = "jpeg",
    shuffle: bool = False,
    **settings: Any,
) -> Path:
    """Pack a data set below `root`; the folder of the pack."""
    options = PackOptions(parse_levels(levels), pixels, 90, shard, shuffle)
    pack_dataset(DataSettings(name=name, root=str(root or ""), **settings), out, targets, options, on_image=on_image)
    return out


def opened(pack: Path | str, **settings: Any) -> DataSettings:
    """The settings that open a pack."""
    return DataSettings(name="pack", root=str(pack), **settings)


def flip_byte(path: Path, place: int) -> None:
    """Change one byte of a file, as a failing disk does."""
    data = bytearray(path.read_bytes())
    data[place] ^= 0xFF
    path.write_bytes(data)
