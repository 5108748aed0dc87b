"""Settings of the model. Imports no torch."""

import dataclasses
from typing import Any

from anysize.registry import setting


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
