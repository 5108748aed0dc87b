"""Settings of the model. Imports no torch."""

import dataclasses
from typing import Any

from anysize.registry import setting

# Those of `anysize.norms.factory.NORMS`, which imports torch.
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
    norm: str = setting("", "swap the model's norms for this one; empty: the model's own", choices=NORM_NAMES)
    norm_options: dict[str, Any] = setting(
        {},
        "options of the norm, such as --model.norm_options.num_groups 8; skip: patterns of names or classes of modules "
        "whose norms stay as they are; image_size: for layer_elementwise, where it is not the base size",
    )
