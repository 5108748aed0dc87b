"""Into how many parts a batch is cut, whose gradients are added up: as many as the recipe says, or more where memory
is short."""

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from anysize.registry import UserError, counted


class MicroBatches:
    """The number of parts of a batch: `chunks`, and with `auto` twice as many each time that memory does not suffice.

    The number never falls again, and is part of the training's state, so that a run that goes on has the same parts.
    For norms that look at one image at a time the gradient is that of the whole batch. Batch norm takes the statistics
    of a part, and no part is cut below two images for it.

    Args:
        model: asked whether it has batch norms.
        chunks: parts that the recipe asks for.
        auto: whether `halve` may be called.

    >>> parts = MicroBatches(nn.Sequential(nn.BatchNorm2d(3)), chunks=2, auto=True)
    >>> parts.halve()
    >>> parts.most, parts.chunks(64), parts.chunks(6), parts.chunks(1)
    (4, 4, 3, 2)
    """

    def __init__(self, model: nn.Module, chunks: int = 1, *, auto: bool = False) -> None:
        self.auto = auto
        self.batch_norm = any(isinstance(module, _BatchNorm) for module in model.modules())
        self._chunks = chunks
        self._factor = 1

    @property
    def most(self) -> int:
        """The number of parts that a large batch is cut into."""
        return self._chunks * self._factor

    def chunks(self, images: int) -> int:
        """The number of parts that a batch of so many images is cut into, if it has as many images."""
        return max(self._chunks, min(self.most, images // self._fewest))

    def halve(self) -> None:
        """Cut batches into twice as many parts."""
        self._factor *= 2

    def check_can_halve(self, images: int) -> None:
        """Raise a `UserError` if a batch of so many images is cut into the smallest parts already."""
        chunks = self.chunks(images)
        if images // self._fewest <= chunks:
            raise UserError(
                f"out of memory with a batch of {counted(images, 'image')} in {counted(min(chunks, images), 'part')}, "
                "and "
                "training.micro_batches cuts no smaller ones: use smaller images, a smaller network or "
                "model.checkpoint_segments"
            )

    @property
    def _fewest(self) -> int:
        return 2 if self.batch_norm else 1

    def state_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"factor": self._factor}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self._factor = state["factor"]
