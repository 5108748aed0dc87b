"""From the names of published checkpoints to ours: what the mapped networks compute, and every list of names."""

import functools
import json
import lzma
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from tiers import tiers
from torch import Tensor, nn

from anysize.models.spec import create_model
from anysize.models.weights import fit_state_dict, fit_tensors, map_names
from anysize.models.weights.heads import find_first_convolution, find_head

KEYS = json.loads(
    lzma.decompress((Path(__file__).parents[2] / "conformance" / "elastic" / "keys.json.xz").read_bytes())
)


@functools.cache
def shapes(name: str, task: str = "classification", num_classes: int | None = None) -> nn.Module:
    with torch.device("meta"):
        return create_model(name, num_classes, task=task)


def fit(model: nn.Module, tensors: dict[str, Tensor]):
    return fit_tensors(model.state_dict(), tensors, find_head(model), find_first_convolution(model))


def published(name: str, *, prefix: str = "module.", tracked: bool = False) -> dict[str, Tensor]:
    """The tensors of a published file, without values."""
    entries = KEYS[name]["entries"].items()
    return {
        f"{prefix}{key}": torch.empty(shape, device="meta")
        for key, shape in entries
        if tracked or not key.endswith("num_batches_tracked")
    }


def randomise(model: nn.Module) -> nn.Module:
    """Double, in evaluation mode, with running statistics and affine weights that are not those of the start."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value, low in ((module.weight, 0.5), (module.running_var, 0.5), (module.bias, -0.5)):
                value.data.uniform_(low, low + 1, generator=generator)
            module.running_mean.normal_(0, 0.2, generator=generator)
    return model.double().eval()


@pytest.mark.parametrize(
    "name",
    tiers(sorted(KEYS), ["dla60x_elastic"], ["resnext50_elastic", "densenet201_elastic", "resnext50_elastic_seg"]),
)
@pytest.mark.parametrize("prefix", ["module.", ""])
def test_published_elastic_files_fit_as_they_are(name: str, prefix: str) -> None:
    """With the prefix of DataParallel or without, and without the counters that the PyTorch of that time had not."""
    segmentation = name.endswith("_seg")
    model = shapes(name.removesuffix("_seg"), "segmentation", 21) if segmentation else shapes(name)
    for tracked in (False, True):
        report = fit(model, published(name, prefix=prefix, tracked=tracked))
        assert report.fits
        assert all(key.endswith("num_batches_tracked") for key in report.new)
        assert bool(report.new) is not tracked


@pytest.mark.parametrize(
    ("ours", "theirs"),
    tiers(
        [
            ("resnext50", lambda: torchvision.models.resnext50_32x4d()),
            ("se_resnext50", lambda: timm.create_model("seresnext50_32x4d")),
            ("dla60x", lambda: timm.create_model("dla60x")),
            ("densenet201", lambda: torchvision.models.densenet201()),
            ("resnext101", lambda: timm.create_model("resnext101_32x4d")),
            ("dla102x", lambda: timm.create_model("dla102x")),
        ],
        fast=["dla60x"],
        slow=["resnext50", "se_resnext50", "densenet201"],
    ),
)
def test_plain_networks_compute_what_torchvisions_and_timms_do(ours: str, theirs) -> None:
    torch.manual_seed(0)
    reference = randomise(theirs())
    model = create_model(ours).double().eval()
    report = fit_state_dict(model, reference.state_dict())
    assert {reason for reason in report.new.values() if reason} <= {"projections that feed nothing"}
    images = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        expected = reference(images)
        difference = (model(images) - expected).norm() / expected.norm()
    assert difference < 1e-12


@pytest.mark.parametrize(("ours", "theirs"), [("resnext101", "resnext101_32x4d"), ("dla102x", "dla102x")])
def test_the_large_ones_fit_in_shape(ours: str, theirs: str) -> None:
    with torch.device("meta"):
        reference = timm.create_model(theirs)
    assert fit(shapes(ours), reference.state_dict()).fits


def test_split_branches_are_the_two_halves_of_the_groups() -> None:
    own = {
        f"layer1.0.{name}": torch.zeros(shape)
        for name, shape in {
            "conv1_d.weight": (2, 3, 1, 1),
            "conv1.weight": (2, 3, 1, 1),
            "conv3_d.weight": (8, 2, 1, 1),
            "conv3.weight": (8, 2, 1, 1),
            "bn1_d.bias": (2,),
            "bn1.bias": (2,),
        }.items()
    }
    file = {
        "layer1.0.conv1.weight": torch.arange(12.0).view(4, 3, 1, 1),
        "layer1.0.conv3.weight": torch.arange(32.0).view(8, 4, 1, 1),
        "layer1.0.bn1.bias": torch.arange(4.0),
    }
    mapped = map_names(file, own)
    assert sorted(mapped.tensors) == sorted(own)
    assert mapped.tensors["layer1.0.bn1.bias"].tolist() == [0, 1]
    assert mapped.tensors["layer1.0.bn1_d.bias"].tolist() == [2, 3]
    for name, dim in (("conv1", 0), ("conv3", 1)):
        both = [mapped.tensors[f"layer1.0.{name}{end}.weight"] for end in ("", "_d")]
        assert torch.equal(torch.cat(both, dim), file[f"layer1.0.{name}.weight"])


def test_a_plain_network_does_not_pass_for_an_elastic_one() -> None:
    """Branches could be split, but the elastic networks have other numbers of blocks."""
    report = fit(shapes("resnext50_elastic"), shapes("resnext50").state_dict())
    assert not report.fits
    assert any(name.startswith("layer1.3.") for name in report.missing)


def test_old_names_of_densenet() -> None:
    """torchvision's files before 0.3 have denselayer1.norm.1 for denselayer1.norm1."""
    model = torchvision.models.densenet121()
    old = {
        name.replace("norm1.", "norm.1.")
        .replace("norm2.", "norm.2.")
        .replace("conv1.", "conv.1.")
        .replace("conv2.", "conv.2.")
        if "denselayer" in name
        else name: value
        for name, value in model.state_dict().items()
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    report = fit(model, old)
    assert report.fits
    assert torch.equal(
        report.tensors["features.denseblock2.denselayer3.conv2.weight"],
        model.state_dict()["features.denseblock2.denselayer3.conv2.weight"],
    )
    assert "old format" in " ".join(report.notes)


@pytest.mark.parametrize(
    ("name", "file", "new"),
    [
        ("resnext50", "resnext50", ("aspp.",)),
        ("resnext50_elastic", "resnext50_elastic", ("aspp.",)),
        ("dla60x", "dla60x", ("dla_up.", "fc.", "up.")),
        ("dla60x_elastic", "dla60x_elastic", ("dla_up.", "fc.", "up.")),
    ],
)
def test_a_classifiers_weights_go_into_the_segmentation_network(name: str, file: str, new: tuple[str, ...]) -> None:
    report = fit(shapes(name, "segmentation", 21), published(file, tracked=True))
    assert report.fits
    assert {key for key in report.new if not key.startswith(new)} == set()
    assert not any(key.startswith(new) and key in report.tensors for key in report.new)
    assert any("segmentation head" in line for line in report.lines())


def test_torchvisions_classifier_goes_into_our_segmentation_network() -> None:
    with torch.device("meta"):
        reference = torchvision.models.resnext50_32x4d()
    report = fit(shapes("resnext50", "segmentation", 21), reference.state_dict())
    assert report.fits
    assert "layer4.2.conv3_d.weight" in report.tensors


def test_a_classifier_of_80_classes_goes_below_base_without_its_head() -> None:
    tensors = published("dla60x_elastic")
    tensors["module.fc.weight"] = torch.empty(80, 1024, 1, 1, device="meta")
    tensors["module.fc.bias"] = torch.empty(80, device="meta")
    report = fit(shapes("dla60x_elastic", "segmentation", 21), tensors)
    assert report.fits
    assert {"base.fc.weight", "base.fc.bias"} <= set(report.new)


def test_a_segmentation_file_does_not_pass_for_a_classifier() -> None:
    assert not fit(shapes("resnext50_elastic"), published("resnext50_elastic_seg")).fits


def test_dead_projections_are_left_out_where_the_network_has_none() -> None:
    with torch.device("meta"):
        model = timm.create_model("dla60x")
    report = fit(model, published("dla60x", tracked=True))
    assert report.fits
    assert "left out: projections that feed nothing" in report.notes


@pytest.mark.parametrize(
    ("prefix", "says"),
    [
        ("model.", "the prefix 'model.' of every name is taken off"),
        ("net.encoder.", "the prefix 'net.encoder.' of every name is taken off"),
        ("module.model.", "module in 56 names: taken out; the prefix 'model.' of every name is taken off"),
    ],
)
def test_prefixes_that_every_name_has_are_taken_off(prefix: str, says: str) -> None:
    model = create_model("resnet8")
    report = fit(model, {f"{prefix}{name}": value for name, value in model.state_dict().items()})
    assert report.fits
    assert "; ".join(report.notes).startswith(says)


def test_a_prefix_that_is_the_models_own_stays() -> None:
    model = nn.ModuleDict({"model": nn.Linear(2, 3)})
    assert fit(model, model.state_dict()).notes == []


def test_the_networks_of_the_papers_code_for_small_images_fit_unchanged() -> None:
    """Mix & Match's and Online Normalization's ResNets have torchvision's names; online norm's state is in `norm`."""
    plain, online = create_model("resnet20"), create_model("resnet20", norm="online")
    assert {"layer2.0.downsample.0.weight", "layer2.0.downsample.1.running_var"} <= set(plain.state_dict())
    assert {"bn1.norm.m", "bn1.norm.var", "bn1.norm.u", "bn1.norm.v", "bn1.weight"} <= set(online.state_dict())
    for model in (plain, online):
        assert fit(model, {f"module.{name}": value for name, value in model.state_dict().items()}).fits


def test_mapping_changes_neither_the_file_nor_what_fits() -> None:
    model = create_model("resnet8")
    file = dict(model.state_dict())
    mapped = map_names(file, model.state_dict())
    assert mapped.notes == []
    assert list(mapped.tensors) == list(file) == list(model.state_dict())
