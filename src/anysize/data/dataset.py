"""The base class of the data sets: their usual preprocessing, and a method that opens a split. Imports no torch.

A new data set is one new file in `anysize/data/sets`:

    @DATASETS.register("my-set")
    class MySet(DataSet):
        '''One line that `anysize data` shows.'''

        defaults = DatasetInfo(image_size=32, mean=(0.5,), std=(0.25,), resize="stretch", crop="pad")

        def load(self, settings: DataSettings, split: Split, targets: str = "class") -> Source: ...

One that has labels or masks says so in `offers`.
"""

import abc
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from anysize.data.settings import DataSettings
from anysize.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from anysize.registry import Registry, UserError

if TYPE_CHECKING:
    from anysize.data.source import Source

Split = Literal["train", "validation", "test"]


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """How a data set is usually used; a recipe's settings take precedence.

    `image_size` is the base size in pixels, `mean` and `std` are per channel for values in [0, 1], `resize` is a mode
    of `Preprocessing`, `crop` is "pad" or "random-resized" (training), `flip` the probability of a horizontal flip.
    `mask_size` is the base size where targets are masks, 0 if it is the same. An object is small below the first of
    `areas` (pixels of the image as stored) and medium below the second; by default they are COCO's.
    `num_classes`, `train_images` and `validation_images` are 0 where they depend on the user's files.
    """

    image_size: int
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    resize: str = "center-crop"
    crop: str = "random-resized"
    flip: float = 0.5
    num_classes: int = 0
    train_images: int = 0
    validation_images: int = 0
    areas: tuple[float, float] = (32.0**2, 96.0**2)
    mask_size: int = 0

    @property
    def channels(self) -> int:
        """Number of channels of an image."""
        return len(self.mean)


class MissingSplit(UserError):
    """A data set has not the files of a split; the other one may be there."""


class DataSet(abc.ABC):
    """Base class of the data sets; the first line of the docstring is what `anysize data` shows."""

    defaults: ClassVar[DatasetInfo]
    offers: ClassVar[tuple[str, ...]] = ("class",)
    """The kinds of targets that it has, by the names of `anysize.data.kinds`."""
    levels: ClassVar[bool] = False
    """Whether it has its images at several sizes, of which `data.enlarge` helps to choose."""
    chunks: ClassVar[bool] = False
    """Whether its images lie in chunks, of which `data.shuffle_chunks` shuffles a few together."""
    mask_files: ClassVar[bool] = False
    """Whether its masks are image files, whose values `data.mask_values` may say the meaning of."""
    mending: ClassVar[str] = "remove {them}"
    """What helps where files are damaged, as a phrase that begins with a verb."""
    image_sets: ClassVar[tuple[str, ...]] = ()
    """The values that `data.image_set` may have; empty where there is only one list of training images."""

    published: ClassVar[bool] = False
    """Whether it has two published splits, of which the second, for tests, is taken for validation."""

    def info(self, settings: DataSettings) -> DatasetInfo:
        """How the data set is usually used; reads no image unless the data set says so."""
        return self.defaults

    def open(self, settings: DataSettings, split: Split, targets: str) -> "Source":
        """Call `load`, which may lack `targets` where the data set offers classes alone."""
        return self.load(settings, split) if targets == "class" else self.load(settings, split, targets)

    def offered(self, settings: DataSettings) -> tuple[str, ...]:
        """Which of the kinds in `offers` the user's files have, where they tell it."""
        return self.offers

    def checksums(self, settings: DataSettings) -> dict[str, str]:
        """The files that are not what the data set's own checksums say, with the reason; none where it has none."""
        return {}

    def splits(self, settings: DataSettings) -> str:
        """One sentence on what was taken for which split; empty where there is nothing to say."""
        if settings.val_split:
            return (
                f"splits of {settings.name!r}: validation is a fixed {100 * settings.val_split:g}% of the training "
                "images, and its test images are kept for `anysize evaluate RUN --split test`"
            )
        return f"splits of {settings.name!r}: validation is its test images" if settings.root else ""

    @abc.abstractmethod
    def load(self, settings: DataSettings, split: Split, targets: str = "class") -> "Source":
        """Open a split with one of the kinds of targets that the data set `offers`, or raise a `UserError`."""


DATASETS: Registry[DataSet] = Registry("data set")


def data_root(settings: DataSettings, expected: str, downloadable: bool = False, archive: bool = False) -> Path:
    """The folder that the user gave, or a `UserError` that it should hold what is `expected`; or a tar archive."""
    if settings.download and not downloadable:
        raise UserError(f"data set {settings.name!r} cannot be downloaded; set data.root to one that holds {expected}")
    if not settings.root:
        raise UserError(f"data set {settings.name!r} needs a folder: set data.root to one that holds {expected}")
    if "://" in settings.root:  # it may hold a password
        raise UserError(
            "data.root is an address, and only packs are read from object storage; pack the data set "
            f"(anysize data pack {settings.name} OUT --data.root DIR), copy OUT there and give --data.name pack"
        )
    root = Path(settings.root).expanduser()
    if archive and root.is_file():
        return root
    if not root.is_dir() and not settings.download:
        raise UserError(f"data.root is {settings.root!r}, which is not a folder; expected one that holds {expected}")
    return root
