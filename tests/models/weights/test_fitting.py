"""Weights into a model: heads, first convolutions, and the table where they do not fit."""

import contextlib
import re
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from tiers import FEW, ONE_A_FAMILY, tiers
from torch import nn

from anysize.models.families import MODELS
from anysize.models.spec import create_model
from anysize.models.weights import file_classes, find_head, fit_state_dict
from anysize.models.weights.heads import adapt_channels
from anysize.registry import UserError
from anysize.training.checkpoint.files import load_model

FAMILIES = (
    *("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "inception_v3", "maxvit_t"),
    *("mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_y_400mf", "resnet18", "shufflenet_v2_x0_5"),
    *("squeezenet1_1", "swin_t", "swin_v2_t", "vgg11", "vit_b_16"),
)


def tiny(classes: int = 2, channels: int = 3) -> nn.Module:
    return create_model("cifar_resnet", classes, channels, depth=8, widths=[4, 4, 8], stem=4)


def build(name: str, num_classes: int) -> nn.Module:
    with contextlib.nullcontext() if "regnet" in name else torch.device("meta"):  # a RegNet's widths are values
        return create_model(name, num_classes)


def assert_head_is_found(model: nn.Module, other: nn.Module) -> None:
    """What differs between two models that differ in their classes alone is the head."""
    head = find_head(model)
    assert head == find_head(model, 37)
    assert file_classes(other.state_dict(), head) == 11
    own = model.state_dict()
    changed = {name for name, value in other.state_dict().items() if value.shape != own[name].shape}
    assert f"{head}.weight" in changed
    others = ("aux", "classifier.low_classifier.")  # the second of torchvision's Lite R-ASPP, whose logits are a sum
    assert all(name.startswith(f"{head}.") or name.lower().startswith(others) for name in changed)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_head_of_torchvisions_families_is_found(name: str) -> None:
    assert_head_is_found(build(name, 37), build(name, 11))


@pytest.mark.parametrize("name", tiers(sorted(MODELS), FEW, ONE_A_FAMILY))
def test_the_head_of_every_model_of_ours_is_found(name: str) -> None:
    assert_head_is_found(build(name, 37), build(name, 11))


@pytest.mark.parametrize(
    "name", ["resnet18", "convnext_atto", "vit_tiny_patch16_224", "mobilenetv3_small_050", "dla34", "regnetx_002"]
)
def test_the_head_of_timms_models_is_the_one_that_timm_names(name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=37)
    assert model.get_submodule(find_head(model, 37)) is model.get_classifier()


def test_the_same_class_count_loads_everything() -> None:
    torch.manual_seed(0)
    file, model = tiny(), tiny()
    assert not torch.equal(file.conv1.weight, model.conv1.weight)
    report = fit_state_dict(model, file.state_dict())
    assert report.fits
    assert report.lines() == []
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in file.state_dict().items())


def test_another_class_count_keeps_the_models_own_head_and_says_so() -> None:
    file, model = tiny(5), tiny(3)
    before = model.fc.weight.clone()
    report = fit_state_dict(model, file.state_dict())
    assert report.lines() == ["the head fc is new: the file has 5 classes, the model 3"]
    assert sorted(report.new) == ["fc.bias", "fc.weight"]
    assert torch.equal(model.fc.weight, before)
    assert torch.equal(model.layer3[0].conv1.weight, file.layer3[0].conv1.weight)


def test_auxiliary_heads_are_new_as_well_and_dropped_where_there_are_none() -> None:
    with torch.device("meta"):
        file = torchvision.models.googlenet(init_weights=False)
        model = torchvision.models.googlenet(num_classes=7, init_weights=False)
        without = torchvision.models.googlenet(aux_logits=False, init_weights=False)
    report = fit_state_dict(model, file.state_dict())
    assert report.lines() == ["the head fc is new: the file has 1000 classes, the model 7; so are aux1.fc2, aux2.fc2"]
    assert fit_state_dict(without, file.state_dict()).lines() == ["left out: auxiliary classifiers"]


def test_a_head_of_convolution_is_a_head() -> None:
    with torch.device("meta"):
        file, model = torchvision.models.squeezenet1_1(), torchvision.models.squeezenet1_1(num_classes=4)
    assert fit_state_dict(model, file.state_dict()).lines() == [
        "the head classifier.1 is new: the file has 1000 classes, the model 4"
    ]


def test_a_file_without_a_head_leaves_it_new() -> None:
    model = tiny()
    tensors = {name: value for name, value in model.state_dict().items() if not name.startswith("fc.")}
    assert fit_state_dict(model, tensors).lines() == [
        "new, as the model starts: the head fc, which the file has not (2 tensors)"
    ]


@pytest.mark.parametrize("classes", [2, 5])
def test_grey_images_give_what_they_gave_in_three_channels(classes: int) -> None:
    torch.manual_seed(0)
    file, model = tiny(classes).eval(), tiny(2, channels=1).eval()
    report = fit_state_dict(model, file.state_dict())
    assert "the first convolution conv1 is adapted from 3 to 1 input channels" in report.lines()
    grey = torch.randn(2, 1, 12, 12)
    with torch.no_grad():
        torch.testing.assert_close(model.conv1(grey), file.conv1(grey.expand(-1, 3, -1, -1)))


@pytest.mark.parametrize("channels", [2, 4, 6, 7])
def test_more_channels_are_adapted_as_timm_does(channels: int) -> None:
    weight = torch.randn(4, 3, 3, 3)
    expected = timm.models._manipulate.adapt_input_conv(channels, weight.clone())
    torch.testing.assert_close(adapt_channels(weight, channels), expected)


def test_channels_that_mean_nothing_are_refused() -> None:
    with pytest.raises(UserError, match=r"weight: file 4x5x3x3, model 4x3x3x3"):
        fit_state_dict(tiny(channels=3), tiny(channels=5).state_dict())


def test_a_misfit_is_told_in_a_table_and_loads_nothing() -> None:
    model = tiny()
    file = create_model("cifar_resnet", 2, depth=14, widths=[4, 8, 8], stem=4).state_dict()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(UserError) as error:
        fit_state_dict(model, file, source="run.pth")
    sentence, header, *rows = str(error.value).splitlines()
    assert re.fullmatch(
        r"run\.pth does not fit ResidualNet: 0 tensors of the model missing, 30 not in the model, 17 of another shape; "
        r"it is of another model: give that one, or take what fits with partial "
        r"\(import: --partial, train: --model\.partial-weights\)",
        sentence,
    )
    assert header.split() == ["stage", "missing", "unexpected", "shape", "such", "as"]
    assert [row.split()[0] for row in rows if not row.startswith(" ")] == ["layer1", "layer2", "layer3"]
    assert "unexpected 1.conv1.weight, 1.bn1.weight, ..." in " ".join(str(error.value).split())
    assert "0.conv1.weight: file 8x4x3x3, model 4x4x3x3" in " ".join(str(error.value).split())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_large_misfit_stays_readable() -> None:
    with torch.device("meta"):
        model, file = create_model("densenet201"), create_model("resnet50")
    with pytest.raises(UserError, match="no weight fits") as error:
        fit_state_dict(model, file.state_dict())
    assert len(str(error.value).splitlines()) < 50
    assert max(map(len, str(error.value).splitlines()[1:])) <= 120


def test_partial_loads_what_fits_and_says_what_does_not() -> None:
    torch.manual_seed(0)
    model = tiny()
    file = create_model("cifar_resnet", 2, depth=14, widths=[4, 8, 8], stem=4)
    before = model.layer2[0].conv1.weight.clone()
    report = fit_state_dict(model, file.state_dict(), partial=True, source="run.pth")
    assert re.match(r"only part of run\.pth fits: .* of another shape; \d+ of \d+ are loaded", report.lines()[-1])
    assert torch.equal(model.layer1[0].conv2.weight, file.layer1[0].conv2.weight)
    assert torch.equal(model.layer2[0].conv1.weight, before)


def test_partial_still_refuses_what_has_nothing_in_common() -> None:
    with pytest.raises(UserError, match="no weight fits"):
        fit_state_dict(tiny(), {"something": torch.zeros(3)}, partial=True)


@pytest.mark.parametrize(
    ("dtype", "kind"),
    [
        (torch.complex64, "complex numbers"),
        (torch.float8_e4m3fn, "floating-point numbers of 8 bits or less"),
        (torch.float8_e8m0fnu, "floating-point numbers of 8 bits or less"),
        (torch.int8, "whole numbers"),
        (torch.uint64, "whole numbers"),
        (torch.bool, "truth values"),
        (torch.bits8, "what is no number"),
    ],
)
def test_numbers_of_another_kind_are_told_by_tensor_and_type(dtype: torch.dtype, kind: str, tmp_path: Path) -> None:
    model, weights = tiny(), tiny().state_dict()
    before = model.fc.weight.clone()
    value = weights["fc.weight"].to(torch.uint8).repeat(1, 1).view(dtype) if dtype is torch.bits8 else None
    weights["fc.weight"] = weights["fc.weight"].to(dtype) if value is None else value
    said = rf"fc\.weight holds {kind} \({dtype}\), the model's torch\.float32"
    with pytest.raises(UserError, match=rf"the file's {said}; expected floating-point numbers of 16 bits or more"):
        fit_state_dict(model, weights)
    with pytest.raises(UserError, match=f"run is a checkpoint of another model: {said}"):  # one of ours
        load_model(model, weights, tmp_path / "run")
    assert torch.equal(model.fc.weight, before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_and_counters_of_another_type_are_taken(dtype: torch.dtype) -> None:
    model, other = tiny(), tiny()
    fit_state_dict(model, {name: value.to(dtype) for name, value in other.state_dict().items()})
    assert torch.equal(model.fc.weight, other.fc.weight.to(dtype).float())
    assert model.bn1.num_batches_tracked.dtype == torch.int64


def test_a_file_with_online_norms_says_which_norm_it_wants() -> None:
    file = create_model("resnet8", norm="online").state_dict()
    with pytest.raises(UserError, match=r"it has online norms: give --model\.norm online"):
        fit_state_dict(create_model("resnet8"), file)


def test_counters_may_be_missing() -> None:
    model = tiny()
    tensors = {name: value for name, value in model.state_dict().items() if "tracked" not in name}
    assert fit_state_dict(model, tensors).lines() == []


def test_half_precision_is_converted() -> None:
    file, model = tiny().half(), tiny()
    fit_state_dict(model, file.state_dict())
    assert model.conv1.weight.dtype == torch.float32
    assert torch.equal(model.conv1.weight, file.conv1.weight.float())
