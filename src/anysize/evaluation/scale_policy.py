"""The use that a trained Elastic network makes of its two scales: `scale_policy`.

    table = anysize.scale_policy(model, [(images, labels), ...])
    table.groupby("block", sort=False)["low_share"].mean()

ELASTIC (arXiv 1812.05262) calls the way in which a network spreads over its scales its scaling policy. Here a branch is
measured by what the norm after the sum of both lets through: the deviation of its values from the mean of their
channel, which that norm removes. The measure is our own.
"""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from anysize.evaluation.evaluate import evaluating
from anysize.models.blocks.scales import ScaleSum
from anysize.models.checks import check_is_model
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
        A row an image and block, without the blocks that see an image at one resolution alone, as at 1x1: `image` (its
        number), `label` (where there are labels), `block` (name of the module),
        `low_share` = s_low / (s_low + s_full), where s is the root mean square, over channels and positions, of the
        branch's deviation from the mean of its channel over all images: 0.5 where both contribute alike, 0 where the
        half resolution is not used. A block that is called several times for an image counts all of them together.

    Raises:
        UserError: the model has no such block, none that sees two resolutions at these sizes, or one that holds NaN or
            infinite values or is not called with one map an image; or there are no images.

    >>> from anysize.models.spec import create_model
    >>> model = create_model("resnet8", elasticize="auto")
    >>> scale_policy(model, [torch.randn(4, 3, 32, 32)])["block"].unique().tolist()
    ['layer1.0']
    """
    check_is_model("scale_policy", model)
    if isinstance(batches, Tensor):
        raise UserError("scale_policy received one tensor; expected batches of images, such as [images]")
    blocks = {module: name.rpartition(".")[0] for name, module in model.named_modules() if isinstance(module, ScaleSum)}
    if not blocks:
        raise UserError(
            f"{type(model).__name__} has no block with a branch at half resolution; expected an Elastic network, or "
            "one given such branches by anysize.elasticize"
        )
    numbers: dict[str, list[int]] = {name: [] for name in blocks.values()}
    moments: dict[str, list[tuple[_Moments, _Moments]]] = {name: [] for name in blocks.values()}
    labels: list[Any] = []
    device = next(model.parameters()).device
    with evaluating(model), _recording(blocks) as seen:
        for batch in batches:
            images, targets = (batch, None) if isinstance(batch, Tensor) else batch
            seen.clear()
            model(images.to(device))
            for name, pair in seen.items():
                if len(pair[0].squares) != len(images):
                    raise UserError(
                        f"{name} saw {len(pair[0].squares)} maps for {len(images)} images; expected as many"
                    )
                numbers[name] += range(len(labels), len(labels) + len(images))
                moments[name].append(pair)
            labels += [None] * len(images) if targets is None else torch.as_tensor(targets).tolist()
    if not labels:
        raise UserError("batches hold no image; expected at least one")
    tables = []
    for name, parts in moments.items():
        if parts:  # else the block has no branch at half resolution at these sizes
            full, low = (_Moments.join([part[i] for part in parts]).deviation() for i in (0, 1))
            if not (low + full).isfinite().all():
                raise UserError(f"the branches of {name} hold NaN or infinite values: the network has diverged")
            share = torch.where(low + full == 0, 0.5, low / (low + full))  # 0: the block lets nothing through
            known = [labels[number] for number in numbers[name]]
            columns = {"image": numbers[name], "label": known, "block": name, "low_share": share.numpy()}
            tables.append(pd.DataFrame(columns))
    if not tables:
        raise UserError("at this size no block has a branch at half resolution; give larger images")
    table = pd.concat(tables, ignore_index=True)
    return table.drop(columns="label") if all(label is None for label in labels) else table


class _Moments:
    """Sums of a branch's values for each image, from which deviations follow once all images have been seen.

    `squares` (N,): sum of squares; `sums` (N, C): sums a channel; `positions` (N,): H x W.
    """

    def __init__(self, squares: Tensor, sums: Tensor, positions: Tensor) -> None:
        self.squares, self.sums, self.positions = squares, sums, positions

    @classmethod
    def of(cls, values: Tensor) -> "_Moments":
        """The sums of values (N, C, H, W)."""
        flat = (values.cpu() if values.device.type == "mps" else values).double().flatten(2)  # mps has no float64
        positions = torch.full((len(flat),), flat.shape[2], dtype=torch.float64)
        return cls(flat.square().sum(dim=(1, 2)).cpu(), flat.sum(dim=2).cpu(), positions)

    def __add__(self, other: "_Moments") -> "_Moments":
        """Add the sums of the same images at further positions."""
        return _Moments(self.squares + other.squares, self.sums + other.sums, self.positions + other.positions)

    @classmethod
    def join(cls, parts: "list[_Moments]") -> "_Moments":
        """Join the sums of several batches."""
        return cls(*(torch.cat([getattr(part, key) for part in parts]) for key in ("squares", "sums", "positions")))

    def deviation(self) -> Tensor:
        """Root mean square (N,) of the deviation from the means of the channels over all images."""
        mean = self.sums.sum(dim=0) / self.positions.sum()
        squares = self.squares - 2 * self.sums @ mean + self.positions * mean.square().sum()
        return (squares.clamp(min=0) / (self.positions * len(mean))).sqrt()


@contextlib.contextmanager
def _recording(blocks: dict[ScaleSum, str]) -> Iterator[dict[str, tuple[_Moments, _Moments]]]:
    """Within this context each block adds the moments of its branches, full and half, to the dictionary."""
    seen: dict[str, tuple[_Moments, _Moments]] = {}

    def record(module: nn.Module, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        assert isinstance(module, ScaleSum)
        full, low = inputs
        if full.shape == low.shape:
            return  # both at one resolution, as in DenseNet's last block at 224 pixels
        pair, before = (_Moments.of(full), _Moments.of(output - full)), seen.get(blocks[module])
        if before and len(before[0].squares) != len(full):
            raise UserError(f"{blocks[module]} is called with different numbers of maps; expected one an image")
        seen[blocks[module]] = (before[0] + pair[0], before[1] + pair[1]) if before else pair

    handles = [module.register_forward_hook(record) for module in blocks]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
