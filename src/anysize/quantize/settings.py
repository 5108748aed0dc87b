"""Settings of quantization. Imports no torch."""

import dataclasses
from typing import Any

from anysize.registry import setting


@dataclasses.dataclass(frozen=True)
class QuantizeSettings:
    """The `[quantize]` section of a recipe: training for int8. The defaults are those of torchvision's references."""

    aware: bool = setting(
        False,
        "train in the numbers that the model will compute in as int8: weights and values are rounded in the forward "
        "pass; start from a trained model with model.weights, at a small optimizer.lr such as 1e-4",
    )
    bits: int = setting(8, "of the weights: 8, or 7 for processors that add products up in 16 bits", low=7, high=8)
    keep: tuple[str, ...] = setting(
        (), "patterns of the names of layers, or of modules around them, that stay in float, such as layer1.*"
    )
    observer_epochs: int = setting(
        4, "the ranges of values follow the values in the first so many epochs, then stand", low=1, high=10**6
    )
    statistics_epochs: int = setting(
        3,
        "the running statistics of norms follow the batches in the first so many epochs; then they stand, and norms "
        "normalise by them",
        low=0,
        high=10**6,
    )

    @property
    def options(self) -> dict[str, Any] | None:
        """What a model is made quantization-aware with; None where it is not."""
        return {"bits": self.bits, "keep": list(self.keep)} if self.aware else None
