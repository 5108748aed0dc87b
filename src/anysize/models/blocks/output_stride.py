"""Output stride of a network of four stages: pixels of the image for one feature, side by side (DeepLab v3).

A stage that would go beyond the wanted stride keeps the resolution. Its convolutions and those behind it are dilated
instead, so that they see as much of the image (Chen et al., arXiv 1706.05587, section 3.1).
"""

from anysize.registry import UserError

MULTI_GRID = (1, 2, 4)
"""Dilations of the blocks of the last stage, times that of the stage (section 3.2)."""


def stage_dilations(stem: int, output_stride: int) -> list[int]:
    """Dilation of each of four stages, of which all but the first halve the resolution or, beyond it, double this.

    Raises:
        UserError: an output stride that no stage ends at.

    >>> stage_dilations(4, 32), stage_dilations(4, 16), stage_dilations(4, 8), stage_dilations(1, 4)
    ([1, 1, 1, 1], [1, 1, 1, 2], [1, 1, 2, 4], [1, 1, 1, 2])
    """
    strides = [stem * 2**i for i in range(4)]
    if output_stride not in strides:
        raise UserError(
            f"output_stride is {output_stride!r}; with this stem expected one of {', '.join(map(str, strides))}"
        )
    return [max(1, stride // output_stride) for stride in strides]
