"""The check of an exported file: it is run at several image and batch sizes against the model that it came from."""

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from anysize.data.augment.transform import normalize
from anysize.machine import is_short
from anysize.models.surgery.quantization.fake import quantization_of
from anysize.preprocessing import Preprocessing
from anysize.registry import NotFinite, UserError
from anysize.tasks.base import main_logits

TOLERANCE = 1e-3
_TIMES_NOISE = 3
BATCHES = (1, 3)

Compare = Callable[[Tensor, Tensor], str]
"""Compares outputs of the file with those of the model: a few words on how near they are, or a `UserError`."""


@dataclasses.dataclass(frozen=True)
class Checked:
    """One run of an exported file: image size (pixels), images, and how its outputs compare with the model's."""

    height: int
    width: int
    images: int
    difference: float
    says: str


@dataclasses.dataclass(frozen=True)
class Exported:
    """A file that was written and checked."""

    path: Path
    bytes: int
    any_size: bool
    checks: list[Checked]
    opset: int | None = None

    @property
    def difference(self) -> float:
        """The largest difference from the model's outputs in all checks."""
        return max(check.difference for check in self.checks)


def close(outputs: Tensor, expected: Tensor) -> str:
    """Words on the largest difference; up to a thousandth of the largest output is taken for rounding.

    >>> close(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.001]))
    'differs by 0.001 at most, of outputs up to 2'

    Raises:
        UserError: it is more, or not a number.
    """
    difference, largest = (outputs - expected).abs().max().item(), expected.abs().max().item()
    says = f"differs by {difference:.2g} at most, of outputs up to {largest:.2g}"
    if not difference <= TOLERANCE * max(largest, 0.01):
        raise UserError(f"{says}; at most {TOLERANCE:g} of that is rounding")
    return says


def within_noise(model: nn.Module, preprocessing: Preprocessing) -> Compare:
    """A comparison for a quantized model: what a file differs by is to be within what rounding changes.

    A value that lies between two steps may be rounded to either, as the last bit of a sum falls, and what follows
    from it differs by whole steps. In a deep network the two end as two ways of rounding do, which differ by 1.4 times
    what each changes; at other sizes, and in a single image, that varies. Three times it is allowed. Where a runtime
    computes wrongly, as where sums saturate, it differs by some ten times and more.
    """
    quantization = quantization_of(model)
    pictures = random_pictures((4, preprocessing.channels, preprocessing.image_size, preprocessing.image_size))
    values = normalize(pictures, preprocessing).contiguous()
    with torch.inference_mode():
        rounded = main_logits(model(values))
        quantization.rounds = False
        exact = main_logits(model(values))
        quantization.rounds = True
    noise = (rounded - exact).square().mean().sqrt().item()

    def compare(outputs: Tensor, expected: Tensor) -> str:
        difference = (outputs - expected).square().mean().sqrt().item()
        limit = _TIMES_NOISE * noise + TOLERANCE * expected.abs().max().item()
        says = f"differs by {difference:.2g} on average, where rounding to int8 changes {noise:.2g}"
        if not difference <= limit:
            raise UserError(f"{says}; expected at most {_TIMES_NOISE} times that")
        return says

    return compare


def check_file(
    run: Callable[[Tensor], Tensor], model: nn.Module, preprocessing: Preprocessing, sizes: list[tuple[int, int]], *,
    uint8_input: bool, compare: Compare,
) -> list[Checked]:  # fmt: skip
    """Run an exported file and its model on random pictures, at each size (height, width) with each of `BATCHES`.

    Raises:
        UserError: the outputs differ, or the file cannot be run; with the figures.
    """
    checks = []
    for height, width in sizes:
        for images in BATCHES:
            pixels = random_pictures((images, preprocessing.channels, height, width))
            values = normalize(pixels, preprocessing).contiguous()
            with torch.inference_mode():
                outputs = model(values)
            expected = main_logits(outputs)
            if not expected.isfinite().all():
                raise NotFinite(
                    f"the outputs of the model at {height} x {width} px are NaN or infinite: it has diverged; export "
                    "another checkpoint; no file is left"
                )
            where = f"the exported file at {height} x {width} px, batch {images}:"
            try:
                got = run(pixels if uint8_input else values)
            except Exception as error:  # of the runtime, whichever it is
                if is_short(error):
                    raise
                raise UserError(f"{where} {str(error).strip().splitlines()[0]}; no file is left") from error
            if got.shape != expected.shape:
                raise UserError(
                    f"{where} outputs {tuple(got.shape)}, the model {tuple(expected.shape)}; no file is left"
                )
            try:
                says = compare(got, expected)
            except UserError as error:
                raise UserError(f"{where} {error}; no file is left") from None
            checks.append(Checked(height, width, images, (got - expected).abs().max().item(), says))
    return checks


def random_pictures(shape: tuple[int, ...]) -> Tensor:
    """Random pixels uint8 (N, C, H, W), the same whenever they are asked for."""
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def sizes_to_check(model: nn.Module, preprocessing: Preprocessing) -> list[tuple[int, int]]:
    """The base size, a smaller or else a larger one, one that is not square; the base alone where it takes no others.

    >>> sizes_to_check(nn.Conv2d(3, 8, 3), Preprocessing(12))
    [(12, 12), (8, 8), (16, 12)]
    """
    base = preprocessing.image_size
    found = [(base, base)]
    for choices in ([base * 2 // 3] * 2, [base * 5 // 3] * 2), ([base * 4 // 3, base], [base * 2, base]):
        takes = ((high, wide) for high, wide in choices if _takes(model, preprocessing.channels, high, wide))
        found += list(itertools.islice(takes, 1))
    return found if len(found) == 3 else found[:1]


def _takes(model: nn.Module, channels: int, height: int, width: int) -> bool:
    try:
        with torch.inference_mode():
            device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
            model(torch.zeros(1, channels, height, width, device=device))
    except Exception as error:  # whatever a model says to a size that it cannot take
        if is_short(error):
            raise
        return False
    return True
