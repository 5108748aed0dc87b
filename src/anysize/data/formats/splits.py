"""Which folder or file of a data set holds which split: the usual names, and what stands in where one is missing."""

import dataclasses
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from anysize.data.dataset import MissingSplit, Split
from anysize.data.settings import DataSettings
from anysize.data.source import Source
from anysize.registry import UserError

NAMES: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "dev"),
    "test": ("test", "testing"),
}
"""The usual names, in any case."""

HELD_OUT = 0.1  # of each class, where nothing says which images are for validation
_SPLIT_OF = {name: split for split, names in NAMES.items() for name in names}
_FILLERS = {"", "set", "data", "split", "image", "images", "imgs"}
_T = TypeVar("_T")


def split_named(name: str) -> Split | None:
    """The split that a name stands for, also with a year or with words such as "set" beside it.

    >>> [split_named(name) for name in ("Valid", "test_set", "train2017", "trainset", "cat", "train_masks")]
    ['validation', 'test', 'train', 'train', None, None]
    """
    words = [word.removesuffix("set") for word in re.findall("[a-z]+", name.lower())]
    words = [word for word in words if word not in _FILLERS]
    return _SPLIT_OF.get(words[0]) if len(words) == 1 else None


def sounds_like_split(name: str) -> bool:
    """Whether one of the words of a name is that of a split, whatever the others are.

    >>> sounds_like_split("seg_train"), sounds_like_split("trainer")
    (True, False)
    """
    return any(word.removesuffix("set") in _SPLIT_OF for word in re.findall("[a-z]+", name.lower()))


def find_names(root: Path, entries: Iterable[str], ending: str = "", beginning: str = "") -> dict[Split, str]:
    """The entries of a folder (with this ending, and beginning) that hold splits. A usual name goes before longer ones.

    Raises a `UserError` where two of them stand for one split.
    """
    fitting = [entry for entry in sorted(entries) if entry.lower().endswith(ending) and entry.startswith(beginning)]
    stems = {entry: entry[len(beginning) : len(entry) - len(ending)] for entry in fitting}
    found: dict[Split, str] = {}
    for split, usual in NAMES.items():
        named = [entry for entry, stem in stems.items() if split_named(stem) == split]
        best = [entry for entry in named if stems[entry].lower() in usual] or named
        for entry in best[1:]:
            if not (root / entry).exists() or not os.path.samefile(root / entry, root / best[0]):  # in an archive
                raise UserError(
                    f"{root} has {best[0]} and {entry}, which both stand for the {split} images; expected one: remove "
                    "or rename the other"
                )
        if best:
            found[split] = best[0]
    return found


@dataclasses.dataclass(frozen=True)
class Splits:
    """Where the splits of a data set are.

    `names` are folders or files in `root`, by what they hold; without any, root itself holds all images. `expected`
    says in messages what root should hold; `kind` and `ending` stand there before and behind the usual names.
    """

    root: Path
    names: Mapping[Split, str]
    settings: DataSettings
    expected: str
    kind: str = "folder "
    ending: str = ""

    @property
    def whole(self) -> bool:
        """Whether root itself holds all images."""
        return not self.names

    @property
    def telling(self) -> Split:
        """The split that tells the classes and the kind of images: training, or another where that is not there."""
        return "validation" if self.names and "train" not in self.names else "train"

    @property
    def share(self) -> float:
        """The part of the images that is held out for validation, where one is."""
        return self.settings.val_split or HELD_OUT

    def find(self, split: Split) -> tuple[Path, bool]:
        """The folder or file with the images of a split, and whether they are a part of it that `hold_out` chooses.

        Raises:
            MissingSplit: there is none.
            UserError: data.val_split is set although there are validation images.
        """
        if self.whole:
            if split == "test":
                raise MissingSplit(f"{self.root} has no {self._missing('test')}; a final test needs one")
            return self.root, True
        if self.settings.val_split and split != "test":
            self._check_not_there()
            if "train" in self.names:
                return self.root / self.names["train"], True
        if name := self.names.get("test" if self.tests_validate and split == "validation" else split):
            return self.root / name, False
        offer = ""
        if split == "validation":
            offer = f", or --data.val_split {HELD_OUT:g}, which holds a fixed tenth of the training images out"
        raise MissingSplit(f"{self.root} has no {self._missing(split)}; expected {self.expected}{offer}")

    @property
    def tests_validate(self) -> bool:
        """Whether the test images are taken for validation, since there are no others."""
        return "validation" not in self.names and "test" in self.names and not self.settings.val_split

    def hold_out(self, items: Sequence[_T], split: Split) -> list[_T]:
        """A fixed part of the items for validation, or the others for training."""
        return hold_out(items, split, self.share)

    def told(self, unit: str = "images") -> str:
        """One sentence on what was taken for what; `unit` is what a part is held out of, such as "each class"."""
        held_out = f"a fixed {100 * self.share:g}% of {unit}"
        if self.whole:
            return f"splits of {self.root}: validation is {held_out}, training the others"
        parts = [f"training is {self.names['train']}"] if "train" in self.names else []
        if self.settings.val_split:
            parts = [f"validation is {held_out} in {self.names.get('train')}", "training the others"]
        elif self.tests_validate:
            parts.append(
                f"validation is {self.names['test']}, as there is no other (with --data.val_split {HELD_OUT:g} a part "
                "of training is, and the test images are kept for the end)"
            )
        elif "validation" in self.names:
            parts.append(f"validation is {self.names['validation']}")
        if "test" in self.names and not self.tests_validate:
            parts.append(f"{self.names['test']} is kept for `anysize evaluate RUN --split test`")
        return f"splits of {self.root}: {', '.join(parts)}"

    def _check_not_there(self) -> None:
        if "validation" in self.names:
            raise UserError(
                f"data.val_split is {self.settings.val_split:g}, but {self.root} has validation images in "
                f"{self.names['validation']}; leave one of the two out"
            )

    def _missing(self, split: Split) -> str:
        others = [*NAMES[split], *(NAMES["test"][:1] if split == "validation" else ())]
        first, *others = (name + self.ending for name in others)
        return f"{self.kind}{first} (or {', '.join(others)})"


def hold_out_of(source: Source, split: Split, settings: DataSettings) -> Source:
    """The images of a source that `data.val_split` holds out for validation, or the others; of each class where an
    image has one."""
    targets = source.targets
    groups = [np.arange(len(source))]
    if isinstance(targets, np.ndarray) and targets.ndim == 1:
        groups = [np.flatnonzero(targets == number) for number in range(len(source.classes))]
    chosen = [hold_out(group.tolist(), split, settings.val_split) for group in groups if len(group)]
    return source.subset(np.sort(np.concatenate(chosen).astype(np.int64)))


def hold_out(items: Sequence[_T], split: Split, share: float = HELD_OUT) -> list[_T]:
    """A fixed `share` of the items (at least one), such as the files of a class, for validation, or the others."""
    count = max(1, round(share * len(items)))
    held_out = set(np.random.default_rng(0).permutation(len(items))[:count].tolist())
    return [item for i, item in enumerate(items) if (i in held_out) == (split == "validation")]
