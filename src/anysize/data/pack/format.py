"""What a pack is made of: its manifest, its levels and its index. Imports no torch.

    PACK/pack.json                    the manifest: what the pack holds, of what and how it was made, checksums
    PACK/train/original-00000.shard   files of images, one behind the other; 256-00000.shard is a level of the same
    PACK/train/masks-00000.shard      their masks, where there are some: grey PNGs
    PACK/train/index.npy              a row an image: its height, width and name, and where each of its levels lies
    PACK/train/targets.npy            classes or labels
    PACK/train/names.bin              the names of the files, one behind the other

A level is an image at a size: the original file, or the image shrunk until its shorter side has so many pixels, as a
JPEG or as raw pixels. No image is enlarged: where it is no larger than a level, the level is the next larger one, at
the end the original. A part of the pack is a range of images; each level has one shard a part.
"""

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any, get_args

import numpy as np

from anysize.data import dataset
from anysize.data.dataset import DatasetInfo
from anysize.files import read_regular
from anysize.forms import each, fields, number, one_of, series, table, text
from anysize.registry import UserError, shown

VERSION = 1
MANIFEST, STATE = "pack.json", "packing.json"
FORMAT = "anysize pack"
ORIGINAL, MASKS = 0, -1
"""In place of a level's number of pixels: the files themselves, and the masks."""
INDEX, TARGETS, NAMES = "index.npy", "targets.npy", "names.bin"
MOST_BYTES = 2**28
"""Of a manifest."""


@dataclasses.dataclass(frozen=True)
class Split:
    """What the manifest says of a split: its images, the bytes of all its files, and what each file has to be."""

    images: int
    parts: int
    digest: str
    """Of all its files: equal in packs of the same content, wherever they lie."""
    source: str
    """A digest of what was packed."""
    files: dict[str, tuple[int, str]]
    """Bytes and SHA-256 of each."""

    @property
    def bytes(self) -> int:
        """The size of all files together."""
        return sum(size for size, _ in self.files.values())


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The manifest of a pack.

    `name` is that of the data set that was packed, `targets` the kind of its targets. `levels` are the shorter sides,
    the largest first, before them `ORIGINAL` where the files are packed, too. `pixels` is jpeg or raw, `quality` that
    of the JPEGs. `exif` says that images were turned as their EXIF data say. `made_with` names the versions.
    """

    name: str
    targets: str
    classes: tuple[str, ...]
    channels: int
    exif: bool
    info: DatasetInfo
    levels: tuple[int, ...]
    pixels: str
    quality: int
    made_with: dict[str, str]
    splits: dict[str, Split]

    @property
    def columns(self) -> tuple[int, ...]:
        """The levels as the index has them: the masks are the last of them where there are some."""
        return (*self.levels, MASKS) if self.targets == "masks" else self.levels

    @property
    def evaluated(self) -> str:
        """What evaluation sees of images larger than the largest level, in words; empty where it sees the originals."""
        if self.levels[0] == ORIGINAL:
            return ""
        how = "" if self.pixels == "raw" else f" and kept as JPEGs of quality {self.quality}"
        return (
            f"it has no originals: evaluation sees images shrunk to a shorter side of {self.levels[0]} pixels{how}, "
            "and its figures differ from those of the files"
        )

    def as_json(self) -> bytes:
        """The content of pack.json."""
        held = {"format": FORMAT, "version": VERSION, **dataclasses.asdict(self)}
        return (json.dumps(held, indent=1) + "\n").encode()


_NUMBERS = number(0, 2**62, whole=True)
_SHA = text(64)
_PAIR = series(number(0, 1e12), number(0, 1e12))
_INFO = fields(
    image_size=number(1, 10**5, whole=True), mean=each(number(-1000, 1000), 4), std=each(number(1e-4, 1000), 4),
    resize=one_of("stretch", "center-crop", "crop-or-pad", "pad"), flip=number(0, 1),
    crop=one_of("pad", "random-resized", "rescale", "none"), num_classes=_NUMBERS, train_images=_NUMBERS,
    validation_images=_NUMBERS, areas=_PAIR, mask_size=_NUMBERS,
)  # fmt: skip
_FILES = table(series(_NUMBERS, _SHA), 10**7)
_SPLIT = fields(images=_NUMBERS, parts=_NUMBERS, digest=_SHA, source=_SHA, files=_FILES)
_MANIFEST = fields(
    name=text(100), targets=text(100), classes=each(text(), 10**6), channels=one_of(1, 3), exif=one_of(True, False),
    info=_INFO, levels=each(number(0, 10**5, whole=True), 100), pixels=one_of("jpeg", "raw"),
    quality=number(1, 100, whole=True), made_with=table(text(200), 100), splits=table(_SPLIT, 3, text(20)),
)  # fmt: skip
_SPLITS = get_args(dataset.Split)
_HEADER = fields(version=number(1, 10**6, whole=True), format=one_of(FORMAT))


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the pack in a folder.

    Raises:
        UserError: there is none, it is damaged, or of a newer version.
    """
    path = folder / MANIFEST
    if not path.exists():
        if (folder / STATE).exists():
            raise UserError(f"{folder} is a pack that is not finished: give its command again, which goes on")
        raise UserError(f"{folder} holds no {MANIFEST}; expected a folder that `anysize data pack` wrote")
    try:
        held = json.loads(read_regular(path, MOST_BYTES))
        header = _HEADER(held, "")
        newer = header["version"] > VERSION
        held = {} if newer else _MANIFEST(held, "")
        if not newer:
            _check(held)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}); copy the pack again, or pack again") from error
    if newer:
        raise UserError(
            f"{path} is of version {header['version']} of packs, and this anysize reads {VERSION}: install a newer "
            "anysize, or pack with this one"
        )
    info: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in held.pop("info").items()
    }
    splits = {
        name: Split(**{**split, "files": {file: (size, sha) for file, (size, sha) in split["files"].items()}})
        for name, split in held.pop("splits").items()
    }
    held |= {"classes": tuple(held["classes"]), "levels": tuple(held["levels"])}
    return Manifest(**held, info=DatasetInfo(**info), splits=splits)


def _check(held: dict[str, Any]) -> None:
    """Raise a `ValueError` where values of a manifest do not fit together."""
    if not held["levels"]:
        raise ValueError("it names no level")
    if not len(held["info"]["mean"]) == len(held["info"]["std"]) == held["channels"]:
        raise ValueError(f"info.mean and info.std are not of {held['channels']} channels")
    if odd := sorted({*held["splits"]} - {*_SPLITS}):  # they are names of folders
        raise ValueError(f"it has the split {shown(odd[0], 60)}")


def shard_name(column: int, part: int) -> str:
    """The name of the shard of a level, or of the masks.

    >>> shard_name(ORIGINAL, 0), shard_name(256, 12), shard_name(MASKS, 3)
    ('original-00000.shard', '256-00012.shard', 'masks-00003.shard')
    """
    return f"{ {ORIGINAL: 'original', MASKS: 'masks'}.get(column, column) }-{part:05d}.shard"


def row_type(columns: int) -> np.dtype[np.void]:
    """The type of a row of the index: (N,) of these are 20 + 12 * columns bytes each.

    `name` is where the image's name ends in names.bin. Of each column: where in the shard of `part` its bytes begin,
    how many there are (0: the level is the next larger one), and their CRC-32.
    """
    own = [("height", "<u4"), ("width", "<u4"), ("name", "<u8"), ("part", "<u4")]
    of_columns = [(name, "<u4", (columns,)) for name in ("offset", "length", "crc")]
    return np.dtype([*own, *of_columns])


def level_size(height: int, width: int, side: int) -> tuple[int, int]:
    """Height and width of an image at a level: the shorter side has `side` pixels, the longer one is rounded up.

    An image that is no larger is left as it is. So that no side is shrunk by more than the level says.

    >>> level_size(375, 500, 256), level_size(100, 80, 256)
    ((256, 342), (100, 80))
    """
    shorter = min(height, width)
    if shorter <= side:
        return height, width
    return -(-height * side // shorter), -(-width * side // shorter)


def sha256(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file in hexadecimal digits, as `sha256sum` prints it."""
    with open(path, "rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def wrong_size(size: int, expected: tuple[int, str] | None) -> str:
    """What is wrong with the bytes that a file has, -1 where it is not there, in words; empty: nothing.

    >>> wrong_size(10, (12, ""))
    'was cut short: it has 10 bytes, of 12'
    """
    right = expected[0] if expected else -1
    if size == right:
        return ""
    if size < 0:
        return "is not there"
    return f"{'was cut short' if size < right else 'is another one'}: it has {size:,} bytes, of {right:,}"


def digest_of(files: dict[str, tuple[int, str]]) -> str:
    """One digest of the files of a split, for the manifest."""
    text = json.dumps(sorted((name, *held) for name, held in files.items()))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def spoken(levels: tuple[int, ...]) -> str:
    """Levels in words.

    >>> spoken((ORIGINAL, 256, 128))
    'original, 256, 128'
    """
    return ", ".join("original" if level == ORIGINAL else str(level) for level in levels)


def parse_levels(said: str) -> tuple[int, ...]:
    """The levels of `--levels`, the largest first.

    >>> parse_levels("128, original,256")
    (0, 256, 128)

    Raises:
        UserError: it names something else, or something twice.
    """
    words = [word.strip() for word in said.split(",")]
    numbers = {"original": ORIGINAL, **{word: int(word) for word in words if word.isascii() and word.isdigit()}}
    if not all(word in numbers and (word == "original" or 8 <= numbers[word] <= 10_000) for word in words):
        raise UserError(
            f"--levels is {said!r}; expected `original` and shorter sides in pixels from 8 to 10000, such as "
            "original,256,128"
        )
    levels = [numbers[word] for word in words]
    if len({*levels}) < len(levels):
        raise UserError(f"--levels is {said!r}, which names a level twice; expected each once")
    return tuple(sorted(levels, key=lambda level: -level if level else -(10**9)))
