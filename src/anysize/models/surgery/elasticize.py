"""Elastic branches for residual networks that have none: `elasticize`.

    model = anysize.create_model("wide_resnet50_2")
    print(anysize.elasticize(model))                  # or --model.elasticize auto in a recipe

A convolution of a residual block is split into two branches: one at full resolution, one on the input averaged to half
the resolution, whose result is interpolated back and added before the block's last norm (ELASTIC, arXiv 1812.05262,
section 3). The second one costs a quarter a channel. What it saves is spent on more channels, so that the FLOPs stay.
"""

import collections
import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from torch import nn
from torchvision.models import resnet as torchvision_resnet

from anysize.models.blocks.block_shape import BlockShape
from anysize.models.blocks.elastic_block import ElasticResidualBlock
from anysize.models.blocks.residual import GatedStage, ResidualBlock
from anysize.models.blocks.scales import ScaleSum
from anysize.models.checks import check_is_model
from anysize.norms.convert.replace import resized
from anysize.registry import UserError, did_you_mean

_BLOCKS = (torchvision_resnet.BasicBlock, torchvision_resnet.Bottleneck, ResidualBlock)


@dataclasses.dataclass(frozen=True)
class Elasticized:
    """The result of `elasticize`: for each block, by name, the middle channels it had and the ones of its two branches.

    >>> print(Elasticized({"layer1.0": (64, 56, 52), "layer1.1": (64, 56, 52)}))
    2 blocks in layer1: 64 channels to 56 at full and 52 at half resolution
    """

    blocks: dict[str, tuple[int, int, int]]

    def __str__(self) -> str:
        counts = collections.Counter((name.rpartition(".")[0] or name, widths) for name, widths in self.blocks.items())
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
            all of the model but the last one, as in the paper; "all".

    The split convolutions and their norms start anew, with the deviation of the weights that they replace: this is done
    before training, and before an optimizer takes the parameters; what was trained of them is lost. The last norm, the
    shortcut and the kind of activation stay. A block that the model holds under several names stays one block. The
    FLOPs of each block stay within 3% at even sides; parameters grow, since a channel at half resolution costs a
    quarter of one at full resolution.

    Raises:
        UserError: no block that can be split, an unknown stage, or a model that is elastic already; a block with frozen
            convolutions, with hooks, with a part that was exchanged for one of another kind, or with too few channels
            to keep its FLOPs. The model is as it was.

    >>> from anysize.models.spec import create_model
    >>> model = create_model("resnet20")
    >>> print(elasticize(model))
    3 blocks in layer1: 16 channels to 12 at full and 16 at half resolution
    2 blocks in layer2: 32 channels to 24 at full and 32 at half resolution
    """
    check_is_model("elasticize", model)
    for name, module in model.named_modules():
        if isinstance(module, ScaleSum):
            block = name.rpartition(".")[0]
            raise UserError(f"{block} has a branch at half resolution already; give a model without")
    chosen = _choose(_residual_blocks(model), stages)
    made = {block: _split(name, block) for name, block in chosen.items()}  # all of them before any takes its place
    for parent in list(model.modules()):
        for attribute, child in list(parent._modules.items()):  # named_children leaves second names out
            if child in made:
                setattr(parent, attribute, made[child][0])
    return Elasticized({name: made[block][1] for name, block in chosen.items()})


def _residual_blocks(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Residual blocks by stage and name; those of a stage stand in one module."""
    if type(model) in _BLOCKS:
        raise UserError(f"the model is itself a {type(model).__name__}; give the module that holds it")
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
    elif not isinstance(stages, Sequence):
        raise UserError(f"elasticize: stages is {stages!r}; expected auto, all or names such as layer1,layer2")
    names = list(blocks)
    usual = {"auto": names[:-1] or names, "all": names}
    wanted = usual.get(stages[0], list(stages)) if len(stages) == 1 else list(stages)
    for stage in wanted:
        if stage not in blocks:
            raise UserError(
                f"elasticize: the model has no stage {stage!r} of residual blocks: {did_you_mean(stage, names)}"
            )
    chosen = {name: block for stage in wanted for name, block in blocks[stage].items() if _stride(block) == (1, 1)}
    if not chosen:
        raise UserError(
            f"elasticize: stages {', '.join(wanted) or 'are empty'}: no block there keeps the resolution; choose others"
        )
    return chosen


def _stride(block: Any) -> tuple[int, ...]:
    return max(getattr(conv, "stride", (1, 1)) for conv in (block.conv1, block.conv2))


def _split(name: str, block: Any) -> tuple[nn.Module, tuple[int, int, int]]:
    """The elastic block in the place of `block`, with its middle channels before and those of its two branches."""
    bottleneck = hasattr(block, "conv3")
    convolutions = [block.conv1, block.conv2, *([block.conv3] if bottleneck else [])]
    activation = block.relu1 if hasattr(block, "relu1") else block.relu
    shape = BlockShape(convolutions)
    old_norms = [block.bn1, block.bn2] if bottleneck else [block.bn1]
    try:
        _check(block, convolutions, activation)
        widths = shape.widths()
        full, low = (shape.branch(width) for width in widths)
        full_norms, low_norms = ([resized(norm, width) for norm in old_norms] for width in widths)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    last_norm = block.bn3 if bottleneck else block.bn2
    dropout = getattr(block, "dropout", nn.Identity())
    new = ElasticResidualBlock(full, low, full_norms, low_norms, last_norm, block.downsample, dropout, activation)
    new.training = block.training
    for part, module in new.named_children():
        if not part.startswith(("bn", "dropout", "downsample")) or type(module) is nn.Identity:
            module.train(block.training)  # the others have the old one's mode, which may be of their own
    return new, (shape.middle, *widths)


def _check(block: Any, convolutions: Sequence[Any], activation: nn.Module) -> None:
    """Refuse what would be lost without a word."""
    for i, conv in enumerate(convolutions, start=1):
        if type(conv) is not nn.Conv2d:
            raise UserError(f"its conv{i} is a {type(conv).__name__}; expected a Conv2d without parametrizations")
        if not conv.weight.requires_grad:
            raise UserError(f"its conv{i} is frozen and would start anew; make the model elastic before it is frozen")
    if any(True for _ in activation.parameters()):
        raise UserError(
            f"its activation {type(activation).__name__} has parameters; expected one without, such as ReLU"
        )
    for part in (block, *convolutions, activation):
        if part._forward_hooks or part._forward_pre_hooks or part._backward_hooks or part._backward_pre_hooks:
            raise UserError(f"{type(part).__name__} has hooks, which would be lost: remove them before")
    if "forward" in vars(block):
        raise UserError("its forward was exchanged, which would be lost")
