"""Settings of the model. Imports no torch."""

import dataclasses
from typing import Any

from anysize.registry import setting

# The names in `anysize.norms.factory.NORMS`, which imports torch and so is not read here.
NORM_NAMES = (
    "", "batch", "frozen_batch", "group", "instance", "layer", "layer_elementwise", "none", "online", "sync_batch",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """The `[model]` section of a recipe. Class count and input channels come from the data set."""

    name: str = setting(
        "resnet20",
        "a name that `anysize models` lists, any torchvision classification model, timm:NAME, or your own as "
        "FILE.py:FUNCTION or MODULE:FUNCTION",
    )
    options: dict[str, Any] = setting(
        {}, "further arguments of the model's builder, such as --model.options.dropout 0.3"
    )
    elasticize: str = setting(
        "",
        "give the residual blocks of stages a branch at half resolution, at unchanged FLOPs: auto (all stages but the "
        "last), all, or names such as layer1,layer2; empty: none",
    )
    weights: str = setting(
        "",
        "where the first weights come from: a run folder, a checkpoint folder, a file of another program's (.pth.tar, "
        ".pth, .safetensors), pretrained (torchvision's or timm's, of an elastic network its authors'), or a name of "
        "torchvision's weights such as IMAGENET1K_V1; empty: untrained. Mean, deviation, interpolation and crop ratio "
        "then are those of the weights, where data.mean, data.std, data.interpolation and data.crop_ratio do not say "
        "otherwise",
    )
    partial_weights: bool = setting(
        False, "take of the weights what fits the model and start the rest afresh, instead of refusing"
    )
    norm: str = setting("", "swap the model's norms for this one; empty: the model's own", choices=NORM_NAMES)
    norm_options: dict[str, Any] = setting(
        {},
        "options of the norm, such as --model.norm_options.num_groups 8; skip: patterns of names or classes of modules "
        "whose norms stay as they are; image_size: for layer_elementwise, where it is not the base size",
    )
    norm_by_size: bool = setting(
        False,
        "a norm for each training size: running statistics of its own, in evaluation those between two sizes for sizes "
        "between them; validation then calibrates nothing",
    )
    norm_by_size_affine: bool = setting(False, "with norm_by_size: weights and biases by size, too")
    checkpoint_segments: int = setting(
        0,
        "activation checkpointing: cut each stage of the model into this many segments and compute their activations "
        "again in the backward pass, for less memory and up to a third more time; 0: off",
        low=0,
        high=10**4,
    )
