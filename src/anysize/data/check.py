"""Look at every image of a data set: how many a class, how large, which are damaged, missing, or there twice."""

import contextlib
import dataclasses
from array import array
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from anysize.data.catalog import DATASETS, dataset_info, load_dataset
from anysize.data.copies import Prints
from anysize.data.dataset import MissingSplit, Split
from anysize.data.doubts import Doubts
from anysize.data.fingerprints import VERSION, Look, look_at
from anysize.data.kinds.base import create_kind
from anysize.data.left_out import LeftOut
from anysize.data.pictures import BadImage, TooLarge
from anysize.data.remembered import remembered
from anysize.data.settings import DataSettings
from anysize.data.source import Source
from anysize.registry import UserError

_TOLD = 100  # images between two words on how far it is


@dataclasses.dataclass(frozen=True)
class SplitCheck:
    """The contents of one split.

    `images` is the number of undamaged images, `counts` says how many of them have each class. `heights` and `widths`
    are (smallest, median, largest) in pixels; `damaged` names each file that cannot be used, with the reason, and
    `too_large` each of more pixels than `data.max_pixels`, which was not decoded. `missing` are files that lists,
    annotations or other files ask for, and masks without images; `too_small` are images below `smallest` pixels.
    `turned` images carry an EXIF rotation or reflection; `left_out` is what lies beside the images; `doubts` says
    from what nothing can be learnt. `prints` tell the undamaged images apart (`anysize.data.copies`). `empty` are
    folders of classes without an image.
    """

    split: str
    images: int
    counts: dict[str, int]
    heights: tuple[int, int, int]
    widths: tuple[int, int, int]
    damaged: dict[str, str]
    too_large: dict[str, str]
    missing: dict[str, str]
    smallest: int
    too_small: tuple[str, ...]
    turned: int
    left_out: LeftOut
    doubts: Doubts
    prints: Prints
    empty: tuple[str, ...] = ()


def check_dataset(
    settings: DataSettings,
    targets: str = "",
    *,
    smallest: int = 0,
    on_image: Callable[[int, int], object] = lambda done, total: None,
) -> list[SplitCheck]:
    """Decode every image of all splits; damaged and missing ones are listed, whatever `settings.on_bad_image` says.

    Targets that lie in files, such as masks, are read, too, and compared with their images. What is found out about a
    file is remembered (`anysize.data.remembered`): one that has not changed is not read again. Raises a `UserError`
    where the data set cannot be opened at all, or has no such targets.

    Args:
        settings: of the data set.
        targets: their kind, by default the first that the data set offers.
        smallest: pixels that an image has to have on its shorter side, or on its longer one where images are padded
            to a square; 0: the base size that is usual for the data.
        on_image: is told from time to time how many of all images were looked at.

    >>> check_dataset(DataSettings(limit=100))[1].counts["Sandal"]
    10
    """
    dataset = DATASETS[settings.name]()
    targets = targets or dataset.offered(settings)[0]
    changed = dataset.checksums(settings)
    sources = open_splits(settings, targets)
    info = dataset_info(settings, targets)
    too_small = _Smaller(smallest or info.image_size, info.resize == "pad")
    about = repr((targets, settings.mask_values, settings.categories, settings.exif, settings.max_pixels))
    checks, done, total = [], 0, sum(map(len, sources.values()))
    with remembered(settings.root, VERSION) as known:
        for split, source in sources.items():
            check = _Checked(source, split, targets, too_small)
            for index, look in look_at(source, create_kind(targets), known, f"{about} {source.classes}"):
                check.add(index, look)
                done += 1
                if done % _TOLD == 0 or done == total:
                    on_image(done, total)
            checks.append(check.result())
    checks[0] = dataclasses.replace(checks[0], damaged={**changed, **checks[0].damaged})
    return checks


def open_splits(settings: DataSettings, targets: str) -> dict[Split, Source]:
    """All splits that there are; damaged images are neither an error nor left out, as whoever looks at all names them.

    Test images that are the validation images are left out.
    """
    settings = dataclasses.replace(settings, on_bad_image="list")
    splits: tuple[Split, Split] = ("train", "validation")
    sources: dict[Split, Source] = {split: load_dataset(settings, split, targets, preload=False) for split in splits}
    with contextlib.suppress(MissingSplit):
        test = load_dataset(settings, "test", targets, preload=False)
        if not len(test) or test.describe(0) != sources["validation"].describe(0):
            sources["test"] = test
    return sources


def other_doubts(settings: DataSettings, targets: str = "") -> dict[str, Doubts]:
    """Doubts about the training targets of the kinds that `check_dataset` does not look at, by kind.

    A data set may offer labels and masks, and its labels tell nothing of its masks. Kinds that this data lacks are left
    out: it may be meant for the others alone.

    >>> other_doubts(DataSettings())
    {}
    """
    found = {}
    for kind in () if targets else DATASETS[settings.name]().offered(settings)[1:]:
        with contextlib.suppress(UserError):
            source = load_dataset(settings, "train", kind, preload=False)
            found[kind] = create_kind(kind).first_doubts(source)
    return found


class _Smaller(NamedTuple):
    """Whether an image is too small: by its shorter side, or by its longer one."""

    side: int
    longer: bool

    def __call__(self, height: int, width: int) -> bool:
        return (max if self.longer else min)(height, width) < self.side


class _Checked:
    """What is known of a split so far."""

    def __init__(self, source: Source, split: str, targets: str, smaller: _Smaller) -> None:
        self.source, self.split, self.kind, self.smaller = source, split, create_kind(targets), smaller
        self.missing = dict(source.bad_files)
        self.damaged, self.too_large, self.too_small = dict[str, str](), dict[str, str](), list[str]()
        self.counts, self.turned = np.zeros(len(source.classes), dtype=np.int64), 0
        self.shapes = array("q")  # a million lists of Python's would take a hundred times the room
        self.prints = array("Q")

    def add(self, index: int, look: Look | BadImage) -> None:
        """Take what was seen of an image."""
        if isinstance(look, BadImage):
            (self.too_large if isinstance(look, TooLarge) else self.damaged)[self.source.describe(index)] = str(look)
            return
        self.turned += look.orientation != 1
        self.counts[[*look.classes]] += 1
        self.shapes.extend((look.height, look.width))
        if self.smaller(look.height, look.width):
            self.too_small.append(self.source.describe(index))
        self.prints.extend((index, look.digest, look.alike, hash(look.classes) & (2**64 - 1)))

    def result(self) -> SplitCheck:
        """All of it."""
        source, split = self.source, self.split
        heights, widths = np.array(self.shapes, dtype=np.int64).reshape(-1, 2).T
        indices, digests, alike, classes = np.array(self.prints, dtype=np.uint64).reshape(-1, 4).T.copy()
        doubts = self.kind.doubts(source, self.counts, len(heights)) if len(heights) else Doubts()
        return SplitCheck(
            split,
            len(heights),
            dict(zip(source.classes, self.counts.tolist(), strict=True)),
            _spread(heights),
            _spread(widths),
            self.damaged,
            self.too_large,
            self.missing,
            self.smaller.side,
            tuple(self.too_small),
            self.turned,
            source.left_out,
            doubts,
            Prints(split, source, indices.astype(np.int64), digests, alike, classes),
            source.empty,
        )


def _spread(sides: np.ndarray) -> tuple[int, int, int]:
    if not len(sides):
        return 0, 0, 0
    return int(sides.min()), int(np.median(sides)), int(sides.max())
