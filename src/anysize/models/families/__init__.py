"""One file a family of models. A new file here, with builders registered in `MODELS`, is all that a new model takes.

A builder takes `num_classes` and `in_channels`, then options of its own, and returns a plain `nn.Module` that maps
images (N, C, H, W) to logits (N, num_classes). Where it takes `**options`, they are those of the class that its
return annotation names. The first line of its docstring is what `anysize models` shows.
"""

from typing import TYPE_CHECKING

from anysize.registry import Registry

if TYPE_CHECKING:
    from torch import nn

MODELS: "Registry[nn.Module]" = Registry("model")
