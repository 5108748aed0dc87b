"""What a trained Elastic network does with its two scales: `scale_policy`.

    table = anysize.scale_policy(model, [(images, labels), ...])
    table.groupby("block", sort=False)["low_share"].mean()

ELASTIC (arXiv 1812.05262) calls the way in which a network spreads over its scales its scaling policy. Here a branch is
measured by what reaches the norm on the sum of both: the deviation of its values from the mean of their channel, which
that norm removes. The measure is our own.
"""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from anysize.evaluation.evaluate import evaluating
from anysize.models.scales import ScaleSum
from anysize.registry import UserError


def has_scales(model: nn.Module) -> bool:
    """Whether a model has blocks with a branch at half resolution.

    >>> has_scales(nn.Sequential(ScaleSum())), has_scales(nn.Conv2d(3, 8, 3))
    (True, False)
    """
    return any(isinstance(module, ScaleSum) for module in model.modules())


def scale_policy(model: nn.Module, batches: Iterable[Tensor | tuple[Tensor, Any]]) -> pd.DataFrame:
    """How much of each elastic block's output comes from its branch at half resolution, for each image.

    Args:
        model: holds blocks with a branch at half resolution; run in evaluation mode, on its own device.
        batches: images (N, C, H, W), or pairs of images and labels (N,); sizes may differ between batches.

    Returns:
        A row an image and block: `image` (its number), `label` (where there are labels), `block` (name of the module),
        `low_share` = s_low / (s_low + s_full), where s is the root mean square, over channels and positions, of the
        branch's deviation from the mean of its channel over all images: 0.5 where both contribute alike, 0 where the
        half resolution is not used.

    Raises:
        UserError: the model has no such block, or there are no images.

    >>> from anysize.models.factory import create_model
    >>> model = create_model("resnet8", elasticize="auto")
    >>> scale_policy(model, [torch.randn(4, 3, 32, 32)])["block"].unique().tolist()
    ['layer1.0']
    """
    blocks = {module: name.rpartition(".")[0] for name, module in model.named_modules() if isinstance(module, ScaleSum)}
    if not blocks:
        raise UserError(
            f"{type(model).__name__} has no block with a branch at half resolution; expected an Elastic network, or "
            "one given such branches by anysize.elasticize"
        )
    moments: dict[str, list[tuple[_Moments, _Moments]]] = {name: [] for name in blocks.values()}
    labels: list[Any] = []
    count = 0
    device = next(model.parameters()).device
    with evaluating(model), _recording(blocks, moments):
        for batch in batches:
            images, targets = (batch, None) if isinstance(batch, Tensor) else batch
            model(images.to(device))
            labels += [None] * len(images) if targets is None else torch.as_tensor(targets).tolist()
            count += len(images)
    if not count:
        raise UserError("batches hold no image; expected at least one")
    tables = []
    for name, parts in moments.items():
        if not parts:
            continue  # at this size the block has no branch at half resolution
        full, low = (_Moments.join([part[i] for part in parts]).deviation() for i in (0, 1))
        share = (low / (low + full)).nan_to_num(0.5)  # a block that lets nothing through
        tables.append(pd.DataFrame({"image": range(count), "label": labels, "block": name, "low_share": share.numpy()}))
    table = pd.concat(tables, ignore_index=True)
    return table.drop(columns="label") if not any(label is not None for label in labels) else table


class _Moments:
    """Sums of a branch's values for each image, from which deviations follow once all images have been seen.

    `squares` (N,): sum of squares; `sums` (N, C): sums a channel; `positions` (N,): H x W.
    """

    def __init__(self, squares: Tensor, sums: Tensor, positions: Tensor) -> None:
        self.squares, self.sums, self.positions = squares, sums, positions

    @classmethod
    def of(cls, values: Tensor) -> "_Moments":
        """Of values (N, C, H, W)."""
        flat = values.double().flatten(2)
        positions = torch.full((len(flat),), flat.shape[2], dtype=torch.float64)
        return cls(flat.square().sum(dim=(1, 2)).cpu(), flat.sum(dim=2).cpu(), positions)

    @classmethod
    def join(cls, parts: "list[_Moments]") -> "_Moments":
        """Those of several batches."""
        return cls(*(torch.cat([getattr(part, key) for part in parts]) for key in ("squares", "sums", "positions")))

    def deviation(self) -> Tensor:
        """Root mean square (N,) of the deviation from the means of the channels over all images."""
        mean = self.sums.sum(dim=0) / self.positions.sum()
        squares = self.squares - 2 * self.sums @ mean + self.positions * mean.square().sum()
        return (squares.clamp(min=0) / (self.positions * len(mean))).sqrt()


@contextlib.contextmanager
def _recording(blocks: dict[ScaleSum, str], moments: dict[str, list[tuple[_Moments, _Moments]]]) -> Iterator[None]:
    """Within this context each block adds the moments of its branches."""

    def record(module: nn.Module, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        assert isinstance(module, ScaleSum)
        full, low = inputs
        if full.shape == low.shape:
            return  # both at one resolution, as in DenseNet's last block at 224 pixels
        moments[blocks[module]].append((_Moments.of(full), _Moments.of(output - full)))

    handles = [module.register_forward_hook(record) for module in blocks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


__all__ = ["has_scales", "scale_policy"]
