"""Elastic branches for residual networks that have none: `elasticize`.

    model = anysize.create_model("wide_resnet50_2")
    print(anysize.elasticize(model))                  # or --model.elasticize auto in a recipe

A convolution of a residual block is split into two branches: one at full resolution, one on the input averaged to half
the resolution, whose result is interpolated back and added before the block's last norm (ELASTIC, arXiv 1812.05262,
section 3). The second one costs a quarter a channel. What it saves is spent on more channels, so that the FLOPs stay.
"""

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torchvision.models import resnet as torchvision_resnet

from anysize.models.elastic_blocks import ElasticBasicBlock, ElasticBottleneck
from anysize.models.residual import GatedStage, ResidualBlock
from anysize.norms.replace import resized
from anysize.registry import UserError, did_you_mean

# Relative difference of a block's FLOPs up to which the more even split of its channels is preferred.
_TOLERANCE = 0.01

_BLOCKS = (torchvision_resnet.BasicBlock, torchvision_resnet.Bottleneck, ResidualBlock)


@dataclasses.dataclass(frozen=True)
class Elasticized:
    """What `elasticize` did: for each block, by name, the middle channels it had and those of its two branches.

    >>> print(Elasticized({"layer1.0": (64, 56, 52), "layer1.1": (64, 56, 52)}))
    2 blocks in layer1: 64 channels to 56 at full and 52 at half resolution
    """

    blocks: dict[str, tuple[int, int, int]]

    def __str__(self) -> str:
        counts: dict[tuple[str, tuple[int, int, int]], int] = {}
        for name, widths in self.blocks.items():
            key = name.rpartition(".")[0] or name, widths
            counts[key] = counts.get(key, 0) + 1
        lines = []
        for (stage, (before, full, low)), count in counts.items():
            blocks = f"{count} block{'s' * (count > 1)} in {stage}"
            lines.append(f"{blocks}: {before} channels to {full} at full and {low} at half resolution")
        return "\n".join(lines)


def elasticize(model: nn.Module, stages: str | Sequence[str] = "auto") -> Elasticized:
    """Give the residual blocks of `model` a branch at half resolution, in place, at unchanged FLOPs.

    Args:
        model: holds residual blocks of torchvision's ResNet, ResNeXt or Wide ResNet, or of our residual networks,
            with norms of any kind. Blocks with a stride keep their shape, as in the paper.
        stages: names of the modules whose blocks are meant, such as `["layer1", "layer2"]` or "layer1,layer2"; "auto":
            all but the last one, as in the paper; "all".

    The split convolutions start anew, with the deviation of the weights that they replace: this is done before
    training. The last norm and the shortcut stay. The FLOPs of each block stay within 3 %; parameters grow, since a
    channel at half resolution costs a quarter of one at full resolution.

    Raises:
        UserError: no block that can be split, an unknown stage, or a model that is elastic already; it is as it was.

    >>> from anysize.models.factory import create_model
    >>> model = create_model("resnet20")
    >>> print(elasticize(model))
    3 blocks in layer1: 16 channels to 12 at full and 16 at half resolution
    2 blocks in layer2: 32 channels to 24 at full and 32 at half resolution
    """
    for name, module in model.named_modules():
        if isinstance(module, (ElasticBasicBlock, ElasticBottleneck)):
            raise UserError(f"{name} has a branch at half resolution already; give a model without")
    chosen = _choose(_residual_blocks(model), stages)
    made = {name: _split(name, block) for name, block in chosen.items()}  # all of them before any takes its place
    for name, (new, _) in made.items():
        parent, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, new)
    return Elasticized({name: widths for name, (_, widths) in made.items()})


def _residual_blocks(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Residual blocks by stage and name; those of a stage stand in one module."""
    found: dict[str, dict[str, Any]] = {}
    for name, module in model.named_modules():
        stage = name.rpartition(".")[0]
        if type(module) in _BLOCKS and not isinstance(model.get_submodule(stage), GatedStage):
            found.setdefault(stage, {})[name] = module
    if not found:
        known = "torchvision's ResNet, ResNeXt and Wide ResNet, or our own without gates on the shortcuts"
        raise UserError(f"{type(model).__name__} has no residual block that can be split; expected a model of {known}")
    return found


def _choose(blocks: dict[str, dict[str, Any]], stages: str | Sequence[str]) -> dict[str, Any]:
    """The blocks of the stages asked for that keep the resolution."""
    if isinstance(stages, str):
        stages = [stage for stage in re.split(r"[,\s]+", stages) if stage]
    names = list(blocks)
    usual = {"auto": names[:-1] or names, "all": names}
    wanted = usual.get(stages[0], list(stages)) if len(stages) == 1 else list(stages)
    for stage in wanted:
        if stage not in blocks:
            raise UserError(
                f"stages: the model has no stage {stage!r} of residual blocks: {did_you_mean(stage, names)}"
            )
    chosen = {name: block for stage in wanted for name, block in blocks[stage].items() if _stride(block) == (1, 1)}
    if not chosen:
        raise UserError(
            f"stages {', '.join(wanted) or 'are empty'}: no block there keeps the resolution; choose others"
        )
    return chosen


def _stride(block: Any) -> tuple[int, ...]:
    return max(block.conv1.stride, block.conv2.stride)


@dataclasses.dataclass(frozen=True)
class _Shape:
    """The convolutions of a block: the first makes the middle channels, the last ends them."""

    convolutions: Sequence[nn.Conv2d]

    @property
    def middle(self) -> int:
        return self.convolutions[0].out_channels

    @property
    def group(self) -> int:
        """Channels of a group of the convolutions between; 0 where they are not grouped."""
        between = self.convolutions[1:-1]
        return self.middle // between[0].groups if between and between[0].groups > 1 else 0

    def macs(self, width: int) -> int:
        """Multiply-adds a position with `width` middle channels."""
        first, *between, last = self.convolutions
        total = first.in_channels * width * math.prod(first.kernel_size) // first.groups
        total += sum(width * (self.group or width) * math.prod(part.kernel_size) for part in between)
        return total + width * last.out_channels * math.prod(last.kernel_size) // last.groups

    def widths(self) -> tuple[int, int]:
        """Middle channels at full and at half resolution that together take the FLOPs of the block.

        As even a split as 1 % of the FLOPs allows, in multiples of 8 channels where there are such, else of 4, 2 or 1.
        """
        wanted = self.macs(self.middle)
        near = []
        for unit in (8, 4, 2, 1):
            step = math.lcm(unit, self.group or 1, self.convolutions[0].groups, self.convolutions[-1].groups)
            for full in range(step, self.middle + 1, step):
                for low in range(step, self.middle + 1, step):
                    error = abs(self.macs(full) + self.macs(low) / 4 - wanted) / wanted
                    near.append((error > _TOLERANCE, abs(full - low) if error <= _TOLERANCE else error, full, low))
            if near and not min(near)[0]:
                break
        if not near:
            raise UserError(f"{self.middle} channels are too few to split")
        _, _, full, low = min(near)
        return full, low

    def branch(self, width: int) -> list[nn.Conv2d]:
        """Fresh convolutions with `width` middle channels."""
        last = len(self.convolutions) - 1
        return [
            _like(
                old,
                old.in_channels if i == 0 else width,
                old.out_channels if i == last else width,
                width // self.group if self.group and 0 < i < last else old.groups,
            )
            for i, old in enumerate(self.convolutions)
        ]


def _like(old: nn.Conv2d, inputs: int, outputs: int, groups: int) -> nn.Conv2d:
    """A convolution like `old` with other channels, whose weights start with the same deviation."""
    new = nn.Conv2d(
        inputs,
        outputs,
        old.kernel_size,  # type: ignore[arg-type]
        old.stride,  # type: ignore[arg-type]
        old.padding,  # type: ignore[arg-type]
        old.dilation,  # type: ignore[arg-type]
        groups,
        old.bias is not None,
        old.padding_mode,
        device=old.weight.device,
        dtype=old.weight.dtype,
    )
    with torch.no_grad():
        new.weight.normal_().mul_(old.weight.std())
        if new.bias is not None:
            new.bias.zero_()
    if old.weight.is_contiguous(memory_format=torch.channels_last):
        new = new.to(memory_format=torch.channels_last)
    return new


def _split(name: str, block: Any) -> tuple[nn.Module, tuple[int, int, int]]:
    """The elastic block in the place of `block`, with its middle channels before and those of its two branches."""
    bottleneck = hasattr(block, "conv3")
    shape = _Shape([block.conv1, block.conv2, *([block.conv3] if bottleneck else [])])
    old_norms = [block.bn1, block.bn2] if bottleneck else [block.bn1]
    try:
        widths = shape.widths()
        full, low = (shape.branch(width) for width in widths)
        full_norms, low_norms = ([resized(norm, width) for norm in old_norms] for width in widths)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    make, last_norm = (ElasticBottleneck, block.bn3) if bottleneck else (ElasticBasicBlock, block.bn2)
    dropout = getattr(block, "dropout", nn.Identity())
    new = make(full, low, full_norms, low_norms, last_norm, block.downsample, dropout)
    return new.train(block.training), (shape.middle, *widths)


__all__ = ["Elasticized", "elasticize"]
