"""NASNet-A, AmoebaNet-A and DARTS (second order): networks of cells that a search has found.

Zoph et al., arXiv 1707.07012; Real et al., arXiv 1802.01548; Liu et al., arXiv 1806.09055. The cells are those of the
DARTS code, which trains all three alike: 20 cells and 36 channels for CIFAR, 14 cells and 48 channels for ImageNet.
In training they return `AuxiliaryOutputs`, unless `auxiliary=False`.
"""

from typing import Any

from torch import nn

from anysize.models.blocks.cells import CellNet, Genotype
from anysize.models.families import CIFAR, IMAGENET, register

NASNET_A = Genotype(
    normal=(
        ("sep_conv_5x5", 1), ("sep_conv_3x3", 0),
        ("sep_conv_5x5", 0), ("sep_conv_3x3", 0),
        ("avg_pool_3x3", 1), ("skip_connect", 0),
        ("avg_pool_3x3", 0), ("avg_pool_3x3", 0),
        ("sep_conv_3x3", 1), ("skip_connect", 1),
    ),
    normal_concat=(2, 3, 4, 5, 6),
    reduce=(
        ("sep_conv_5x5", 1), ("sep_conv_7x7", 0),
        ("max_pool_3x3", 1), ("sep_conv_7x7", 0),
        ("avg_pool_3x3", 1), ("sep_conv_5x5", 0),
        ("skip_connect", 3), ("avg_pool_3x3", 2),
        ("sep_conv_3x3", 2), ("max_pool_3x3", 1),
    ),
    reduce_concat=(4, 5, 6),
)  # fmt: skip

AMOEBANET_A = Genotype(
    normal=(
        ("avg_pool_3x3", 0), ("max_pool_3x3", 1),
        ("sep_conv_3x3", 0), ("sep_conv_5x5", 2),
        ("sep_conv_3x3", 0), ("avg_pool_3x3", 3),
        ("sep_conv_3x3", 1), ("skip_connect", 1),
        ("skip_connect", 0), ("avg_pool_3x3", 1),
    ),
    normal_concat=(4, 5, 6),
    reduce=(
        ("avg_pool_3x3", 0), ("sep_conv_3x3", 1),
        ("max_pool_3x3", 0), ("sep_conv_7x7", 2),
        ("sep_conv_7x7", 0), ("avg_pool_3x3", 1),
        ("max_pool_3x3", 0), ("max_pool_3x3", 1),
        ("conv_7x1_1x7", 0), ("sep_conv_3x3", 5),
    ),
    reduce_concat=(3, 4, 6),
)  # fmt: skip

DARTS_V2 = Genotype(
    normal=(
        ("sep_conv_3x3", 0), ("sep_conv_3x3", 1),
        ("sep_conv_3x3", 0), ("sep_conv_3x3", 1),
        ("sep_conv_3x3", 1), ("skip_connect", 0),
        ("skip_connect", 0), ("dil_conv_3x3", 2),
    ),
    normal_concat=(2, 3, 4, 5),
    reduce=(
        ("max_pool_3x3", 0), ("max_pool_3x3", 1),
        ("skip_connect", 2), ("max_pool_3x3", 1),
        ("max_pool_3x3", 0), ("skip_connect", 2),
        ("skip_connect", 2), ("max_pool_3x3", 1),
    ),
    reduce_concat=(2, 3, 4, 5),
)  # fmt: skip


def _register(name: str, title: str, genotype: Genotype, small: bool) -> None:
    classes, channels, cells, dropped = (10, 36, 20, 0.2) if small else (1000, 48, 14, 0.0)

    def builder(
        num_classes: int = classes, in_channels: int = 3, init_channels: int = channels, layers: int = cells,
        auxiliary: bool = True, drop_path: float = dropped,
    ) -> nn.Module:  # fmt: skip
        options: dict[str, Any] = {"init_channels": init_channels, "layers": layers, "auxiliary": auxiliary}
        return CellNet(genotype, num_classes, in_channels, drop_path=drop_path, small_images=small, **options)

    builder.__doc__ = f"A network of {title} cells" + (" for 32-pixel images." if small else ".")
    register(f"cifar_{name}" if small else name, preprocessing=CIFAR if small else IMAGENET)(builder)


for _small in (True, False):
    _register("nasnet_a", "NASNet-A", NASNET_A, _small)
    _register("amoebanet_a", "AmoebaNet-A", AMOEBANET_A, _small)
    _register("darts_v2", "DARTS (second order)", DARTS_V2, _small)
