"""Targets from which nothing can be learnt, told before a training on them looks like success."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from anysize.data.formats.names import letters_of
from anysize.registry import UserError, some_of


@dataclasses.dataclass(frozen=True)
class Doubts:
    """What is odd about the targets of a split.

    `nothing` says why nothing can be learnt from them, or measured with them; empty: something can. `others` are
    sentences about single classes, from which nothing can be learnt.
    """

    nothing: str = ""
    others: tuple[str, ...] = ()

    def of_split(self, split: str) -> list[str]:
        """All of it as sentences, for warnings."""
        what, verb = ("training", "learnt from") if split == "train" else (split, "measured with")
        whole = [f"nothing can be {verb} the {what} images: {self.nothing}"] if self.nothing else []
        return [*whole, *(f"{what} images: {text}" for text in self.others)]

    def check(self) -> None:
        """Raise a `UserError` where nothing can be learnt."""
        if self.nothing:
            raise UserError(
                f"nothing can be learnt from the training images: {self.nothing}; mend the targets, which `anysize "
                "data check` counts"
            )


def of_classes(classes: Sequence[str], counts: np.ndarray) -> Doubts:
    """Doubts about images that have one class each.

    >>> of_classes(["cat", "dog"], np.array([7, 0])).nothing
    "all 7 images have one class, 'cat'"
    """
    there = [name for name, count in zip(classes, counts, strict=True) if count]
    if len(there) < 2:
        return Doubts(f"{_all(counts.sum())} one class, {there[0]!r}" if there else "there are none")
    return Doubts(others=(*_without_image(classes, counts, "classes"), *_alike(classes, counts)))


def of_labels(classes: Sequence[str], counts: np.ndarray, images: int) -> Doubts:
    """Doubts about images that have any number of labels.

    >>> of_labels(["cat", "dog"], np.array([7, 3]), images=7).others
    ("all 7 images have 1 of the 2 labels: 'cat'",)
    """
    names = some_of([repr(name) for name in classes])
    if not counts.any():
        which = f"any of the {len(classes)} labels ({names})" if len(classes) > 1 else f"the only label, {names}"
        return Doubts(f"no image has {which}")
    if (counts == images).all():
        return Doubts(f"{_all(images)} every label there is ({names})")
    if np.isin(counts, (0, images)).all():
        return Doubts(f"{_all(images)} the same of the {len(classes)} labels ({names})")
    every = [repr(name) for name, count in zip(classes, counts, strict=True) if count == images]
    all_have = [f"{_all(images)} {len(every)} of the {len(classes)} labels: {some_of(every)}"] if every else []
    return Doubts(others=(*_without_image(classes, counts, "labels"), *all_have, *_alike(classes, counts)))


def of_masks(classes: Sequence[str], counts: np.ndarray, cause: str = "") -> Doubts:
    """Doubts about images with masks; `cause` is what the masks themselves tell of it.

    >>> of_masks(["background", "cat"], np.array([7, 0])).nothing
    "their masks hold one class, 'background'"
    """
    there = [name for name, count in zip(classes, counts, strict=True) if count]
    if len(there) < 2:
        held = f"one class, {there[0]!r}" if there else "no class, but 255 for none"
        return Doubts(f"their masks hold {held}{cause and f': {cause}'}")
    return Doubts(others=_without_image(classes, counts, "classes"))


def _without_image(classes: Sequence[str], counts: np.ndarray, what: str) -> tuple[str, ...]:
    none = [repr(name) for name, count in zip(classes, counts, strict=True) if not count]
    return (f"no image has {len(none)} of the {len(classes)} {what}: {some_of(none)}",) if none else ()


def _alike(classes: Sequence[str], counts: np.ndarray) -> tuple[str, ...]:
    """A sentence where names of classes that have images differ only in case, or in how an accent is written.

    >>> _alike(["Cat", "cat", "dog"], np.array([7, 3, 5]))
    ("the classes 'Cat', 'cat' differ in case or accents alone: if they are one, give them one name",)
    """
    found: dict[str, list[str]] = {}
    for name, count in zip(classes, counts, strict=True):
        if count:
            found.setdefault(letters_of(name), []).append(repr(name))
    return tuple(
        f"the classes {some_of(names)} differ in case or accents alone: if they are one, give them one name"
        for names in found.values()
        if len(names) > 1
    )


def _all(images: int) -> str:
    return f"all {images:,} images have" if images > 1 else "the only image has"
