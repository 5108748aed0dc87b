"""FLOPs of one image through a model, forward and backward.

Models are measured on the meta device, which computes shapes alone: nothing is allocated, and a ResNet-50 takes a
fraction of a second. A multiply-add counts as 2 FLOPs, of convolutions and matrix products alone, as in
`torch.utils.flop_counter`; the backward pass of grouped convolutions, which it overrates, is counted here.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from anysize.models.blocks.auxiliary import logits_of
from anysize.models.measure.at_once import ShapesAtOnce
from anysize.models.measure.meta import device_of, try_on_meta
from anysize.models.surgery.recompute import computed_once
from anysize.sizes.cost import Flops
from anysize.sizes.shapes import Extent, sides_of

IMAGES = 2
"""Images that a model is measured with: batch norm refuses a single value a channel."""


def count_flops(model: nn.Module, size: Extent, channels: int = 3, *, backward: bool = True) -> Flops:
    """FLOPs of one image (channels, size, size) through `model` in training; the backward pass is measured, too.

    A `size` of two numbers is height and width.
    With `backward=False` those of the forward pass in evaluation, in which auxiliary classifiers are left out.
    Activations that `checkpoint_segments` lets a model compute a second time are counted once.

    >>> count_flops(nn.Conv2d(3, 8, 3, padding=1), size=10)  # no gradient is wanted of the image
    Flops(forward=43200, backward=43200)
    """

    def run(probe: nn.Module) -> Flops:
        probe.train(backward)
        mapping = {torch.ops.aten.convolution_backward: _convolution_backward}
        counter = FlopCounterMode(display=False, custom_mapping=mapping)
        with computed_once(), counter, ShapesAtOnce():
            output = probe(torch.zeros(IMAGES, channels, *sides_of(size), device=device_of(probe)))
            forward = counter.get_total_flops()
            if backward:
                torch.autograd.backward([part.sum() for part in logits_of(output)])
        return Flops(forward // IMAGES, (counter.get_total_flops() - forward) // IMAGES)

    return try_on_meta(model, run)


def _convolution_backward(
    grad: Sequence[int], inputs: Sequence[int], weight: Sequence[int], *rest: Any, **_: Any
) -> int:
    """The gradients of input and weight take as much as the forward pass each; torch's own count ignores groups."""
    *_bias_to_dilation, transposed, _output_padding, _groups, wanted = rest
    images, _channels, *positions = inputs if transposed else grad
    gradients: int = sum(wanted[:2])
    return 2 * images * math.prod(positions) * math.prod(weight) * gradients
