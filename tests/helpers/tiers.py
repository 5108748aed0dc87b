"""Cases of a test by what runs them: `make test` a few, `make test-slow` one a family, `make test-all` the others."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def tiers(cases: Iterable[Any], fast: Collection[Any], slow: Collection[Any] = ()) -> list[Any]:
    """The cases as parameters, marked; a case goes by itself, or by the first of its values."""

    def marks(case: Any) -> Any:
        names = {case, case[0]} if isinstance(case, tuple) else {case}
        return () if names & set(fast) else pytest.mark.slow if names & set(slow) else pytest.mark.exhaustive

    return [pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=marks(case)) for case in cases]


FEW = ("alexnet", "mnist", "resnet8", "mobilenet_v2")
"""Models that stand for all where seconds count."""

ONE_A_FAMILY = (
    "cifar_darts_v2", "cifar_densenet", "cifar_resnet_fixup_se", "convnext_tiny", "deeplabv3_resnet50",
    "densenet201_elastic", "dla60x_elastic", "efficientnet_b0", "googlenet", "inception_v2", "inception_v3",
    "lraspp_mobilenet_v3_large", "maxvit_t", "mnasnet0_5", "mobilenet_v1", "mobilenet_v3_small", "regnet_y_400mf",
    "resnet18", "resnet200", "resnet50_fixup_se", "resnext101_32x4d", "resnext50_elastic", "resnext50_se",
    "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "vgg11", "vit_b_16",
)  # fmt: skip
"""Ours and torchvision's."""
