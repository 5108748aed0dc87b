"""An exported file as a module of torch, so that what takes a model takes a file."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from anysize.export.check import random_pictures
from anysize.export.runtimes import Runtime
from anysize.machine import is_short
from anysize.preprocessing import Preprocessing
from anysize.registry import UserError, counted
from anysize.sizes.shapes import Extent, in_pixels, sides_of


class RuntimeModel(nn.Module):
    """A runtime as a model in evaluation: normalised images (N, C, H, W) float32 on any device to logits there.

    A file that takes pixels uint8 gets the nearest ones, which are the pixels themselves where images were only resized
    and cropped.
    """

    def __init__(self, runtime: Runtime, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.runtime = runtime
        self.preprocessing = preprocessing

    def forward(self, images: Tensor) -> Tensor:
        """Logits; a `UserError` where the runtime refuses the images."""
        values = images.cpu()
        if self.runtime.contents.dtype == "uint8":
            mean, std = (
                torch.tensor(each).view(-1, 1, 1) for each in (self.preprocessing.mean, self.preprocessing.std)
            )
            values = ((values * std + mean) * 255).round().clamp(0, 255).byte()
        try:
            return self.runtime(values).to(images.device)
        except Exception as error:  # of the runtime, whichever it is
            size = " x ".join(map(str, images.shape[-2:]))
            if is_short(error):
                raise
            raise UserError(
                f"{self.runtime.contents.path} cannot take {counted(len(images), 'image')} of {size} pixels: "
                f"{str(error).strip().splitlines()[0]}"
            ) from error

    def check_size(self, size: Extent) -> None:
        """Raise a `UserError` where the file takes images of another size, or height and width, alone."""
        sides = self.runtime.contents.sides
        if sides not in ((None, None), sides_of(size)):
            high, wide = (side or "any" for side in sides)
            raise UserError(
                f"{self.runtime.contents.path} cannot take images of {in_pixels(size, 'pixels')}: it takes {high} x "
                f"{wide} alone"
            )


def measured(runtime: Runtime) -> Callable[[tuple[int, int, int, int]], tuple[Callable[[], Any], None]]:
    """For `bench_runtimes`: from shapes (N, C, H, W) to a call with random images; its memory is not measured."""

    def ready(shape: tuple[int, int, int, int]) -> tuple[Callable[[], Any], None]:
        images = random_pictures(shape)
        if runtime.contents.dtype == "float32":
            images = images.float() / 255

        def run() -> Tensor:
            try:
                return runtime(images)
            except Exception as error:  # of the runtime, whichever it is
                size = " x ".join(map(str, shape[2:]))
                if is_short(error):
                    raise
                raise UserError(
                    f"{runtime.contents.path} cannot take {counted(shape[0], 'image')} of "
                    f"{counted(shape[1], 'channel')} and {size} pixels: "
                    f"{str(error).strip().splitlines()[0]}"
                ) from error

        return run, None

    return ready
