"""Logits for every pixel of an image of any size: whole or by sliding windows, at several scales, mirrored.

logits = segment(model, images, scales=(0.5, 1.0, 1.5), flip=True, window=512)
"""

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from anysize.data.augment.joint_geometry import canvas_size
from anysize.data.loader import LoadedBatch
from anysize.registry import UserError
from anysize.tasks.base import Forward, main_logits


@torch.no_grad()
def segment(
    forward: Forward,
    images: Tensor,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    window: int = 0,
    overlap: float = 1 / 3,
) -> Tensor:
    """Logits (N, K, H, W), float32, of images (N, C, H, W).

    One pass gives the network's logits, brought to (H, W) bilinearly where it returns maps of another size. Several
    passes are averaged as probabilities: each pass is brought to (H, W), its softmax is taken, and the logarithm of
    the mean is returned, whose softmax is that mean.

    Args:
        forward: the network in evaluation, images to logits; of a tuple the first counts.
        images: normalised input.
        scales: the images are resized by each (bilinear, antialiased) and put through the network.
        flip: also mirrored from left to right, at each scale.
        window: side in pixels of square windows that are put through one by one, at every scale the same; their logits
            are averaged where they overlap. 0, or at least the image's side: the whole image.
        overlap: share of a window that the next one covers again, at least: windows are spread evenly.

    No call of `forward` sees more pixels than `images` has, unless a single image at a large scale does.

    Raises:
        UserError: no scale, one that is not positive, a negative window, or an overlap not in [0, 1).

    >>> def network(images):  # one of two classes for each pixel by itself
    ...     return torch.cat([images, -images], dim=1)
    >>> segment(network, torch.ones(1, 1, 6, 8), window=4).shape
    torch.Size([1, 2, 6, 8])
    """
    check(scales, window, overlap)
    shape = images.shape[-2:]

    def one_pass(scale: float, mirrored: bool) -> Tensor:
        sides = [max(1, round(side * scale)) for side in shape]
        scaled = images
        if sides != list(shape):
            scaled = F.interpolate(images, sides, mode="bilinear", align_corners=False, antialias=True)
        logits = _by_windows(forward, scaled.flip(-1) if mirrored else scaled, window, overlap, images[:, 0].numel())
        return match_size(logits.flip(-1) if mirrored else logits, shape)

    passes = [(scale, mirrored) for scale in scales for mirrored in ((False, True) if flip else (False,))]
    if len(passes) == 1:
        return one_pass(*passes[0])
    total = one_pass(*passes[0]).softmax(1)
    for which in passes[1:]:
        total += one_pass(*which).softmax(1)
    return total.div_(len(passes)).clamp_(min=torch.finfo(total.dtype).tiny).log_()


def predictions(
    forward: Forward,
    batch: LoadedBatch,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    window: int = 0,
    overlap: float = 1 / 3,
    base: int = 0,
) -> Iterator[Tensor]:
    """Logits (K, H0, W0) of each image of a batch, at its own size.

    As `segment`, for the images of one canvas at a time and without what pads these to the size of the batch: networks
    that average over a whole picture, as DeepLab's do, would see the padding, and an image's logits would depend on
    which others are in its batch. Then each image is cut out of its canvas (`batch.boxes`) and brought to its own size
    (`batch.shapes`) bilinearly, one at a time, so that no more than one is held at its own size. Without boxes and
    shapes the whole canvas is the image.

    Args:
        window: side of the windows in pixels at the image size `base`; at other sizes it grows with the image.
        base: that size in pixels; 0: windows have `window` pixels at every size.
    """
    assert batch.copies == 1, "copies of images with masks are made here, by scales and flip"
    if base:
        window = window and max(1, round(window * batch.size / base))
    outputs: dict[int, Tensor] = {}
    for (high, wide), rows in _by_canvas(batch).items():
        images = batch.images if len(rows) == len(batch.images) else batch.images[rows]
        logits = segment(forward, images[..., :high, :wide], scales, flip, window, overlap)
        outputs |= zip(rows, torch.split(logits, 1), strict=True)
    for row in range(len(batch.images)):
        output = outputs.pop(row)
        if batch.boxes is not None:
            top, left, height, width = batch.boxes[row].tolist()
            output = output[..., top : top + height, left : left + width]
        yield match_size(output, output.shape[-2:] if batch.shapes is None else batch.shapes[row].tolist())[0]


def _by_canvas(batch: LoadedBatch) -> dict[tuple[int, int], list[int]]:
    """The rows of a batch by the height and width of their canvases, which lie in its images from the top left."""
    rows: dict[tuple[int, int], list[int]] = {}
    for row in range(len(batch.images)):
        high, wide = batch.images.shape[-2:]
        if batch.boxes is not None:
            own = canvas_size(int(batch.boxes[row, 2]), int(batch.boxes[row, 3]), batch.size)
            high, wide = min(high, own[0]), min(wide, own[1])
        rows.setdefault((high, wide), []).append(row)
    return rows


def match_size(logits: Tensor, shape: Sequence[int]) -> Tensor:
    """Maps (N, K, h, w) brought to `shape` (H, W) bilinearly, without aligning corners; as they are if it is theirs."""
    if tuple(logits.shape[-2:]) == tuple(shape):
        return logits
    return F.interpolate(logits, list(shape), mode="bilinear", align_corners=False)


def window_starts(length: int, window: int, overlap: float) -> list[int]:
    """First pixels of the windows along a side of `length` pixels: as few as overlap by `overlap`, spread evenly.

    >>> window_starts(10, 4, 0.5), window_starts(11, 4, 0.0), window_starts(3, 4, 0.5)
    ([0, 2, 4, 6], [0, 4, 7], [0])
    """
    if window >= length:
        return [0]
    steps = math.ceil((length - window) / max(1.0, window * (1 - overlap)) - 1e-9)  # 1/3 is no exact number
    return [round(step * (length - window) / steps) for step in range(steps + 1)]


def check(scales: Sequence[float], window: int, overlap: float) -> None:
    """Raise a `UserError` for what `segment` does not take."""
    if not scales or min(scales) <= 0:
        raise UserError(
            f"evaluation.scales is {tuple(scales)}; expected one or more positive factors, such as 0.75, 1.0"
        )
    if window < 0:
        raise UserError(f"evaluation.window is {window}; expected a side in pixels, or 0 for the whole image")
    if not 0 <= overlap < 1:
        raise UserError(f"evaluation.overlap is {overlap}; expected a share of the window from 0 to below 1")


def _by_windows(forward: Forward, images: Tensor, window: int, overlap: float, pixels: int) -> Tensor:
    """Logits (N, K, H, W) of images, at most `pixels` pixels in a call unless a single window has more."""
    count, (height, width) = len(images), images.shape[-2:]
    high, wide = min(window or height, height), min(window or width, width)
    tops, lefts = window_starts(height, high, overlap), window_starts(width, wide, overlap)
    places = [(top, left) for top in tops for left in lefts]
    if len(places) == 1:
        return _in_parts(forward, images, pixels)
    at_once = max(1, pixels // (count * high * wide))
    total: Tensor | None = None
    covered = images.new_zeros(1, 1, height, width, dtype=torch.float32)
    for first in range(0, len(places), at_once):
        group = places[first : first + at_once]
        crops = torch.cat([images[..., top : top + high, left : left + wide] for top, left in group])
        logits = _in_parts(forward, crops, pixels)
        if total is None:
            total = logits.new_zeros(count, logits.shape[1], height, width)
        for (top, left), part in zip(group, torch.split(logits, count), strict=True):
            total[..., top : top + high, left : left + wide] += part
            covered[..., top : top + high, left : left + wide] += 1
    assert total is not None
    return total.div_(covered)


def _in_parts(forward: Forward, images: Tensor, pixels: int) -> Tensor:
    """Logits in float32 at the size of the images, a few images at a time where all are more than `pixels`."""
    shape = images.shape[-2:]
    parts = torch.split(images, max(1, pixels // shape.numel()))
    return torch.cat([match_size(main_logits(forward(part)).float(), shape) for part in parts])
