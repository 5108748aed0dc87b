"""The check of an exported file: it is run at several image and batch sizes against the model that it came from."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from anysize.data.augment.transform import normalize
from anysize.preprocessing import Preprocessing
from anysize.registry import UserError

TOLERANCE = 1e-3
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


def check_file(
    run: Callable[[Tensor], Tensor], model: nn.Module, preprocessing: Preprocessing, *,
    any_size: bool, uint8_input: bool, compare: Compare,
) -> list[Checked]:  # fmt: skip
    """Run an exported file and its model on random pictures: at 3 sizes x 2 batches, or at the one size it takes.

    Raises:
        UserError: the outputs differ, or the file cannot be run; with the figures.
    """
    checks = []
    for height, width in _sizes(model, preprocessing, any_size):
        for images in BATCHES:
            pixels = random_pictures((images, preprocessing.channels, height, width))
            values = normalize(pixels, preprocessing).contiguous()
            with torch.inference_mode():
                outputs = model(values)
            expected = outputs if isinstance(outputs, Tensor) else outputs[0]
            where = f"the exported file at {height} x {width} px, batch {images}:"
            try:
                got = run(pixels if uint8_input else values)
            except Exception as error:  # of the runtime, whichever it is
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


def _sizes(model: nn.Module, preprocessing: Preprocessing, any_size: bool) -> Iterator[tuple[int, int]]:
    """The base size, a smaller one (or a larger, where the model takes none), and one that is not square."""
    base = preprocessing.image_size
    yield base, base
    if any_size:
        smaller = max(1, base * 2 // 3)
        yield (smaller, smaller) if _takes(model, smaller, preprocessing.channels) else (base * 5 // 3, base * 5 // 3)
        yield base * 4 // 3, base


def _takes(model: nn.Module, size: int, channels: int) -> bool:
    try:
        with torch.inference_mode():
            model(torch.zeros(1, channels, size, size))
    except (RuntimeError, ValueError):
        return False
    return True
