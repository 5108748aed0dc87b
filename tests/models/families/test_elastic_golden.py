"""The Elastic networks give the published ones' logits, and the plain ones those of torchvision's and timm's."""

import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from tiers import tiers
from torch import Tensor, nn

from anysize.models.spec import create_model
from conformance.fill import fill_model, make_input

GOLDEN = Path(__file__).parents[2] / "conformance" / "elastic"


def filled(name: str) -> nn.Module:
    segmentation = name.endswith("_seg")
    with torch.device("meta"):
        model = create_model(
            name.removesuffix("_seg"),
            21 if segmentation else None,
            task="segmentation" if segmentation else "classification",
        )
    return fill_model(model).eval()


def logits(model: nn.Module, images: Tensor) -> np.ndarray:
    with torch.no_grad():
        return model(images).double().numpy()


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


@pytest.mark.parametrize(
    ("name", "shape"),
    tiers(
        [
            ("resnext50_elastic", "2x3x224x224"),
            ("resnext50_elastic", "1x3x225x231"),
            ("dla60x_elastic", "2x3x224x224"),
            ("densenet201_elastic", "2x3x224x224"),
            ("resnext50_elastic_seg", "1x3x64x96"),
            ("resnext50_elastic_seg", "2x3x65x65"),
        ],
        fast=(),
        slow=[
            ("resnext50_elastic", "2x3x224x224"),
            ("dla60x_elastic", "2x3x224x224"),
            ("densenet201_elastic", "2x3x224x224"),
            ("resnext50_elastic_seg", "1x3x64x96"),
        ],
    ),
)
def test_logits_are_the_published_networks(name: str, shape: str) -> None:
    expected = np.load(GOLDEN / f"{name}.npz")[shape]
    batch, _, height, width = map(int, shape.split("x"))
    images, model = make_input(batch, height, width), filled(name)
    single, double = logits(model, images), logits(model.double(), images.double())
    tolerance = 1e-9
    if name.endswith("_seg"):  # what is kept: every eighth row and column, in float32
        single, double, tolerance = single[:, :, ::8, ::8], double[:, :, ::8, ::8], 1e-6
    assert difference(single, expected) < 2e-5
    assert difference(double, expected) < tolerance


def joined(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The two branches of each block joined into one of twice the width and groups."""
    out = {}
    for key, value in state.items():
        key = key.replace("selayer.conv", "se.fc")
        if "num_batches" not in key and (match := re.fullmatch(r"(layer.*\.(?:conv|bn)[123])_d(\..*)", key)):
            plain = match[1] + match[2]
            out[plain] = torch.cat((state[plain], value), 1 if "conv3" in key else 0)
        elif "_d." not in key:
            out.setdefault(key, value)
    return out


@pytest.mark.parametrize(
    ("name", "twin"),
    tiers(
        [
            ("resnext50", lambda: torchvision.models.resnext50_32x4d()),
            ("resnext101", lambda: timm.create_model("resnext101_32x4d")),
            ("se_resnext50", lambda: timm.create_model("seresnext50_32x4d")),
        ],
        fast=(),
        slow=["resnext50"],
    ),
    ids=["resnext50", "resnext101", "se_resnext50"],
)
def test_plain_resnexts_equal_torchvisions_and_timms(name: str, twin: object) -> None:
    ours = filled(name).double()
    with torch.device("meta"):
        theirs = twin()
    theirs.load_state_dict(joined(ours.state_dict()), strict=True, assign=True)
    images = make_input(2, 63, 70).double()
    assert difference(logits(ours, images), logits(theirs.eval(), images)) < 1e-12


@pytest.mark.parametrize("name", tiers(["dla60x", "dla102x"], fast=(), slow=["dla60x"]))
def test_plain_dlas_equal_timms_but_for_the_projections_that_feed_nothing(name: str) -> None:
    ours = filled(name).double()
    with torch.device("meta"):
        theirs = timm.create_model(name)
    done = theirs.load_state_dict(ours.state_dict(), strict=False, assign=True)
    assert not done.missing_keys
    frozen = {key.rpartition(".")[0] for key, parameter in ours.named_parameters() if not parameter.requires_grad}
    assert {key.rpartition(".")[0] for key in done.unexpected_keys} == frozen
    assert all(".project." in key for key in frozen)
    images = make_input(2, 64, 96).double()
    assert difference(logits(ours, images), logits(theirs.eval(), images)) < 1e-12


@pytest.mark.slow
def test_plain_densenet_equals_torchvisions() -> None:
    ours = filled("densenet201").double()
    with torch.device("meta"):
        theirs = torchvision.models.densenet201()
    state = {key.replace("norm_final", "norm5"): value for key, value in ours.state_dict().items()}
    theirs.load_state_dict(state, strict=True, assign=True)
    images = make_input(2, 67, 96).double()
    assert difference(logits(ours, images), logits(theirs.eval(), images)) < 1e-12
