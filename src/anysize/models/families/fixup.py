"""Residual networks without norms that train: Fixup (Zhang, Dauphin and Ma, arXiv 1901.09321).

The three rules of the paper: the last convolution of each branch and the classifier start at zero; the other
convolutions of a branch of m layers start smaller by L ** (-1 / (2m - 2)) for L branches; a scalar multiplier (at 1)
stands in each branch, and a scalar bias (at 0) before each convolution, linear layer and activation.
With `rescale=False` the second rule is left out, and nothing but the zeros keeps the signal in bounds.
"""

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from anysize.models.blocks.convolution import start_convolutions
from anysize.models.blocks.residual import Gate, add_shortcut, add_stages, start_gates
from anysize.models.checks import whole_number, whole_numbers
from anysize.models.families.resnet import register_depths


class ScalarConv(nn.Module):
    """A convolution between two scalar biases, with a scalar multiplier or without: (N, C, H, W) to (N, C', H', W')."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int = 0, multiplier: bool = False
    ) -> None:
        super().__init__()
        self.bias_before = nn.Parameter(torch.zeros(1))
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.multiplier = nn.Parameter(torch.ones(1)) if multiplier else None
        self.bias_after = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x + self.bias_before)
        if self.multiplier is not None:
            x = x * self.multiplier
        return x + self.bias_after


class FixupBlock(nn.Module):
    """Basic or bottleneck block without norms: (N, inputs, H, W) to (N, outputs, ceil(H / stride), ...).

    The bias that ends the branch is the one before the activation that follows the sum.
    """

    def __init__(self, inputs: int, width: int, outputs: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        self.relu1 = nn.ReLU(inplace=True)
        self.relu2 = nn.ReLU(inplace=True)
        if bottleneck:
            self.conv1 = ScalarConv(inputs, width, 1)
            self.conv2 = ScalarConv(width, width, 3, stride, padding=1)
            self.conv3 = ScalarConv(width, outputs, 1, multiplier=True)
            self.relu3 = nn.ReLU(inplace=True)
        else:
            self.conv1 = ScalarConv(inputs, width, 3, stride, padding=1)
            self.conv2 = ScalarConv(width, outputs, 3, padding=1, multiplier=True)
        self.bottleneck = bottleneck
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.downsample = ScalarConv(inputs, outputs, 1, stride)

    @property
    def convolutions(self) -> list[nn.Conv2d]:
        """The convolutions of the branch."""
        layers = [self.conv1, self.conv2, *([self.conv3] if self.bottleneck else [])]
        return [layer.conv for layer in layers]

    def forward(self, x: Tensor, gate: Gate | None = None) -> Tensor:
        out = self.conv2(self.relu1(self.conv1(x)))
        if self.bottleneck:
            out = self.conv3(self.relu2(out))
        return add_shortcut(self, out, x, gate)


class FixupResNet(nn.Module):
    """A residual network without norms: images (N, in_channels, H, W) of any size to logits (N, num_classes).

    Args:
        blocks to squeeze_excite: as those of `ResidualNet`.
        rescale: start the branches smaller, the more of them there are (the paper's second rule).

    Raises:
        UserError: not one width for each stage, or a stem, width or expansion that is no positive whole number.

    The paper trains the scalars with a tenth of the learning rate.

    >>> net = FixupResNet((1, 1, 1), 10, widths=(16, 32, 64), expansion=1, stem=16, small_images=True)
    >>> net(torch.randn(2, 3, 24, 40))[0, :3]  # all classes are alike at the start
    tensor([0., 0., 0.], grad_fn=<SliceBackward0>)
    """

    def __init__(
        self, blocks: Sequence[int], num_classes: int = 1000, in_channels: int = 3, *,
        widths: Sequence[int] = (64, 128, 256, 512), expansion: int = 4, bottleneck: bool = False,
        stem: int = 64, small_images: bool = False, squeeze_excite: bool = False, rescale: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        widths = whole_numbers("widths", widths, example=(64, 128, 256, 512)[: len(blocks)])
        expansion, stem = whole_number("expansion", expansion, example=4), whole_number("stem", stem, example=64)
        kernel, stride = (3, 1) if small_images else (7, 2)
        self.conv1 = ScalarConv(in_channels, stem, kernel, stride, padding=kernel // 2)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if small_images else nn.MaxPool2d(3, 2, padding=1)
        self.stages = len(blocks)

        def block(stage: int, inputs: int, width: int, outputs: int, stride: int) -> FixupBlock:
            return FixupBlock(inputs, width, outputs, stride, bottleneck)

        inputs = add_stages(self, blocks, widths, stem, expansion, squeeze_excite, block)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.bias = nn.Parameter(torch.zeros(1))
        self.fc = nn.Linear(inputs, num_classes)
        start_convolutions(self)
        start_gates(self)
        for module in self.modules():
            if isinstance(module, FixupBlock):
                *first, last = module.convolutions
                nn.init.zeros_(last.weight)
                for convolution in first if rescale else ():
                    with torch.no_grad():
                        convolution.weight.mul_(math.pow(sum(blocks), -1 / (2 * len(first))))
        nn.init.zeros_(self.fc.weight)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.conv1(x)))
        for i in range(self.stages):
            x = self.get_submodule(f"layer{i + 1}")(x)
        return self.fc(self.flatten(self.avgpool(x)) + self.bias)  # type: ignore[no-any-return]


_small = functools.partial(register_depths, FixupResNet, small=True)
_large = functools.partial(register_depths, FixupResNet)
_gated = "without norms (Fixup), with squeeze-excite gates on its shortcuts."

_small("cifar_resnet_fixup", "A ResNet for 32-pixel images without norms (Fixup).", 44)
_small("cifar_resnet_fixup_se", f"A ResNet for 32-pixel images {_gated}", 44, squeeze_excite=True)
_large("imagenet_resnet_fixup", "A ResNet of depth 18, 34, 50, 101, 152 or 200 without norms (Fixup).", 50)
_large("resnet50_fixup", "ResNet-50 without norms (Fixup).", 50, fixed=True)
_large("resnet50_fixup_se", f"ResNet-50 {_gated}", 50, fixed=True, squeeze_excite=True)
