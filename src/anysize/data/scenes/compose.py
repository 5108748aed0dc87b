"""Scenes: pictures composed of the embedded garments, with the labels, masks and areas of what is in them.

Several garments a picture, from 8 to 96 pixels on a canvas of 128, each in colours of its own, on a textured ground,
partly one on top of another. A scene is a pure function of its split and number: nothing is stored or downloaded. All
garments that can be seen are objects: one that would hide too much of another is put elsewhere, or left out.

    >>> scene = compose("validation", 0)
    >>> scene.image.shape, [(each.label, each.area, each.bbox) for each in scene.objects[:2]]
    ((128, 128, 3), [(6, 3115, (62, 2, 55, 73)), (9, 718, (48, 72, 42, 30))])
"""

import dataclasses
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from anysize.data.dataset import Split
from anysize.data.scenes.materials import (
    CANVAS,
    Bytes,
    Draws,
    divide_by_255,
    load_garments,
    random_colour,
    resample,
    textured_ground,
)

# Of each garment in a scene at least so many pixels can be seen, and at least one in so many of its pixels.
MIN_AREA = 12
MIN_SHARE = 3

_SIDES = tuple(round(8 * 12 ** (step / 63)) for step in range(64))  # pixels, log-uniform
_PLACES = 8  # tries to place a garment so that those below stay visible


@dataclasses.dataclass(frozen=True, eq=False)
class SceneObject:
    """A garment in a scene: its class, where it is visible (128, 128), how many pixels that is, and their box.

    `bbox` is left, top, width, height in pixels.
    """

    label: int
    mask: npt.NDArray[np.bool_]
    area: int
    bbox: tuple[int, int, int, int]


class Scene(NamedTuple):
    """A picture, uint8 (128, 128, 3), and all garments in it, from the lowest to the topmost."""

    image: Bytes
    objects: tuple[SceneObject, ...]


class SceneArrays(NamedTuple):
    """Many scenes: uint8 images (N, 128, 128, 3), masks (N, 128, 128) of 1 + class, 0: ground, and their objects.

    `objects` is int64 (M, 3): scene, class, area in visible pixels.
    """

    images: Bytes
    masks: Bytes
    objects: npt.NDArray[np.int64]


def compose(split: Split, index: int) -> Scene:
    """The scene `index` of a split."""
    image, owners, labels, _ = _paint(split, index)
    objects = tuple(_describe(label, owners == number) for number, label in enumerate(labels, start=1))
    return Scene(np.ascontiguousarray(image.transpose(1, 2, 0)), objects)


def compose_many(split: Split, count: int) -> SceneArrays:
    """The first `count` scenes of a split.

    >>> compose_many("train", 2).masks.shape
    (2, 128, 128)
    """
    images = np.empty((count, CANVAS, CANVAS, 3), np.uint8)
    masks = np.empty((count, CANVAS, CANVAS), np.uint8)
    objects = []
    for index in range(count):
        image, owners, labels, areas = _paint(split, index)
        images[index] = image.transpose(1, 2, 0)
        masks[index] = np.array([0, *(1 + label for label in labels)], np.uint8).take(owners)
        objects += [(index, label, area) for label, area in zip(labels, areas, strict=True)]
    return SceneArrays(images, masks, np.array(objects, np.int64).reshape(-1, 3))


def _describe(label: int, mask: npt.NDArray[np.bool_]) -> SceneObject:
    (top, *_, bottom), (left, *_, right) = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = int(left), int(top), int(right - left) + 1, int(bottom - top) + 1
    return SceneObject(label, mask, int(mask.sum()), box)


def _paint(split: Split, index: int) -> tuple[Bytes, Bytes, list[int], list[int]]:
    """A scene's image (3, 128, 128), which garment each pixel shows (128, 128), the garments' classes and areas.

    The garments count from 1, the lowest; 0 is the ground.
    """
    draws = Draws(split, index)
    garments = load_garments(split)
    image = textured_ground(draws)
    owners = np.zeros((CANVAS, CANVAS), np.uint8)
    labels: list[int] = []
    visible, least = [CANVAS * CANVAS], [0]  # pixels of each that are, and have to stay, visible: the ground's first
    for side in _sides(draws):
        number, mirrored = draws.below(len(garments.labels)), draws.below(2)
        grey, opacity = resample(garments.layers[number][:, :, :: 1 - 2 * mirrored], side, side)
        light, dark = random_colour(draws, 150, 255), random_colour(draws, 0, 90)
        mask = opacity > 127
        area = int(np.count_nonzero(mask))
        place = _place(draws, mask, owners, visible, least) if area >= MIN_AREA else None
        if place is None:
            continue
        window, hidden = place
        visible = [before - lost for before, lost in zip(visible, hidden, strict=True)] + [area]
        least.append(max(MIN_AREA, -(-area // MIN_SHARE)))
        labels.append(int(garments.labels[number]))
        owners[window][mask] = len(labels)
        grey, opacity = grey.astype(np.uint16), opacity.astype(np.uint16)
        below = image[:, *window] * (255 - opacity)
        cloth = light[:, None, None] * grey + dark[:, None, None] * (opacity - grey)
        image[:, *window] = divide_by_255(below + cloth)
    return image, owners, labels, visible[1:]


def _sides(draws: Draws) -> list[int]:
    """Draw how large the garments are in pixels: a third 66 to 96, the others log-uniform from 8.

    The larger ones come first and lie below, as a rule, so that the smaller ones are seen.
    """
    drawn = []
    for _ in range(draws.between(3, 6)):
        step = draws.between(54, 63) if draws.below(3) == 0 else draws.below(64)
        drawn.append((step + draws.below(24), step))
    return [_SIDES[step] for _, step in sorted(drawn, reverse=True)]


def _place(
    draws: Draws, mask: npt.NDArray[np.bool_], owners: Bytes, visible: list[int], least: list[int]
) -> tuple[tuple[slice, slice], list[int]] | None:
    """A place for a garment, and how many pixels it hides there of the ground and of each garment.

    None where at each place that was tried it would hide too much.
    """
    height, width = mask.shape
    for _ in range(_PLACES):
        top, left = draws.below(CANVAS - height + 1), draws.below(CANVAS - width + 1)
        window = slice(top, top + height), slice(left, left + width)
        hidden = np.bincount(owners[window][mask], minlength=len(visible)).tolist()
        if all(before - lost >= limit for before, lost, limit in zip(visible, hidden, least, strict=True)):
            return window, hidden
    return None
