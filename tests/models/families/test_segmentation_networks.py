"""Segmentation networks: torchvision's under its names, output strides and heads of the Elastic ones, their weights."""

import urllib.error
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from tiers import tiers
from torch import Tensor, nn
from torchvision.models import segmentation

from anysize.models.families import PUBLISHED
from anysize.models.measure.flops import count_flops
from anysize.models.measure.input_size import needs_two_images
from anysize.models.measure.speed import bench
from anysize.models.measure.structure import structure
from anysize.models.names import list_models, made_for
from anysize.models.spec import create_model
from anysize.models.surgery.fold import fold_batch_norm
from anysize.models.surgery.recompute import checkpoint_segments
from anysize.models.weights import fit_state_dict
from anysize.models.weights.heads import head_parameters
from anysize.models.weights.published import pretrained_weights
from anysize.norms.convert.recognise import recognise
from anysize.registry import UserError

LITE = "lraspp_mobilenet_v3_large"
RESNETS = ["deeplabv3_resnet50", "deeplabv3_resnet101", "fcn_resnet50", "fcn_resnet101"]
SMALL = {"layers": [1, 2, 2, 2], "widths": [4, 8, 16, 16], "cardinality": 4, "stem": 8}


def theirs(name: str, num_classes: int = 5, **options: Any) -> nn.Module:
    return getattr(segmentation, name)(weights=None, weights_backbone=None, num_classes=num_classes, **options)


def elastic(name: str = "resnext50_elastic", **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return create_model(name, 5, task="segmentation", **{**SMALL, **options})


def layout(module: nn.Module) -> list[tuple[str, Any]]:
    """Stride, dilation and padding of each convolution."""
    return [
        (name, (part.stride, part.dilation, part.padding))
        for name, part in module.named_modules()
        if isinstance(part, nn.Conv2d)
    ]


def features(model: nn.Module, stage: str, images: Tensor) -> tuple[int, ...]:
    shapes: list[torch.Size] = []
    model.get_submodule(stage).register_forward_hook(lambda *given: shapes.append(given[2].shape[2:]))
    with torch.no_grad():
        model.eval()(images)
    return tuple(shapes[0])


@pytest.mark.parametrize(
    ("name", "aux_loss"),
    tiers(
        [
            *((name, False) for name in list_models() if made_for(name) == "segmentation"),
            *((name, True) for name in RESNETS),
        ],
        fast=[(LITE, False), ("fcn_resnet50", True)],
        slow=[("deeplabv3_resnet50", True), ("deeplabv3_mobilenet_v3_large", False)],
    ),
)
def test_parameters_are_named_as_torchvisions(name: str, aux_loss: bool) -> None:
    options = {"aux_loss": True} if aux_loss else {}
    with torch.device("meta"):
        own, reference = create_model(name, 5, task="segmentation", **options), theirs(name, **options)
    assert {key: value.shape for key, value in own.state_dict().items()} == {
        key: value.shape for key, value in reference.state_dict().items()
    }
    assert layout(own) == layout(reference)


@pytest.mark.parametrize(
    "name",
    tiers(
        [LITE, "deeplabv3_mobilenet_v3_large", "fcn_resnet50"], [LITE], ["deeplabv3_mobilenet_v3_large", "fcn_resnet50"]
    ),
)
def test_logits_are_torchvisions(name: str) -> None:
    options = {} if name == LITE else {"aux_loss": True}
    torch.manual_seed(0)
    reference = theirs(name, **options)
    own = create_model(name, 5, **options)
    own.load_state_dict(reference.state_dict())
    images = torch.randn(2, 3, 65, 48)
    with torch.no_grad():
        assert torch.equal(own.eval()(images), reference.eval()(images)["out"])
        torch.manual_seed(1)  # of the dropout
        expected = reference.train()(images)
        torch.manual_seed(1)
        outputs = own.train()(images)
    if name == LITE:
        assert torch.equal(outputs, expected["out"])
    else:
        assert torch.equal(outputs.logits, expected["out"])
        assert torch.equal(outputs.auxiliary, expected["aux"])


@pytest.mark.parametrize("name", tiers(RESNETS, ["deeplabv3_resnet50"], ["fcn_resnet50"]))
@pytest.mark.parametrize("stride", [8, 16])
def test_output_stride_of_torchvisions_resnets(name: str, stride: int) -> None:
    with torch.device("meta"):
        model = create_model(name, output_stride=stride)
        reference = torchvision.models.get_model(
            PUBLISHED[name].backbone, replace_stride_with_dilation=[False, stride == 8, True]
        )
        assert features(model, "backbone.layer4", torch.empty(1, 3, 65, 129)) == (65 // stride + 1, 129 // stride + 1)
    assert layout(model.backbone) == [(key, value) for key, value in layout(reference)]
    if name.startswith("deeplabv3"):
        rates = [model.get_submodule(f"classifier.0.convs.{i}.0").dilation[0] for i in (1, 2, 3)]
        assert rates == [rate * 16 // stride for rate in (6, 12, 18)]


def test_rates_of_torchvisions_deeplab_can_be_chosen() -> None:
    with torch.device("meta"):
        model = create_model("deeplabv3_resnet50", rates=[1, 2, 3], output_stride=16)
    convolutions = [model.get_submodule(f"classifier.0.convs.{i}.0") for i in (1, 2, 3)]
    assert [part.dilation for part in convolutions] == [part.padding for part in convolutions]
    assert [part.dilation[0] for part in convolutions] == [1, 2, 3]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (LITE, {"task": "classification"}, "is for segmentation alone, and the task is classification; choose anot"),
        ("fcn_resnet50", {"task": "multilabel"}, "is for segmentation alone, and the task is multilabel"),
        ("resnet50", {"task": "segmentation"}, "no head for segmentation; those that have one: .*fcn_resnet50, lraspp"),
        ("fcn_resnet50", {"output_stride": 32}, "output_stride is 32; expected 8 or 16"),
        ("deeplabv3_resnet50", {"rates": [6, 12]}, r"rates is \[6, 12\]; expected 3 positive whole numbers"),
        (LITE, {"aux_loss": True}, "takes no option 'aux_loss'; its options: task"),
        ("resnext50", {"output_stride": 8}, "options of the head for segmentation, and task is 'classification'"),
        ("resnext50", {"aspp_width": 8, "task": "multilabel"}, "options of the head for segmentation"),
        ("resnext50", {"task": "segmentation", "output_stride": 2}, "with this stem expected one of 4, 8, 16, 32"),
        ("resnext50", {"task": "segmentation", "output_stride": 16, "small_images": True}, "one of 1, 2, 4, 8"),
        ("resnext50", {"task": "segmentation", "aspp_rates": [1, 2]}, r"aspp_rates is \[1, 2\]; expected 3 positive"),
        ("resnext50", {"task": "segmentation", "aspp_width": 0}, "aspp_width is 0; expected a positive whole number"),
        ("resnext50", {"task": "segmentation", "aspp_momentum": 2.0}, "aspp_momentum is 2; expected above 0, at most"),
    ],
)
def test_what_is_wrong_is_told(name: str, options: dict[str, Any], message: str) -> None:
    with torch.device("meta"), pytest.raises(UserError, match=message):
        create_model(name, **options)


@pytest.mark.parametrize("name", ["resnext50_elastic"])
@pytest.mark.parametrize(
    ("options", "stride", "third", "fourth", "rates"),
    [
        ({}, 16, 1, [2, 4], [6, 12, 18]),
        pytest.param({"output_stride": 32}, 32, 1, [1, 2], [3, 6, 9], marks=pytest.mark.slow),
        ({"output_stride": 8}, 8, 2, [4, 8], [12, 24, 36]),
        pytest.param({"output_stride": 4}, 4, 4, [8, 16], [24, 48, 72], marks=pytest.mark.slow),
        ({"small_images": True}, 4, 1, [2, 4], [6, 12, 18]),
        pytest.param({"small_images": True, "output_stride": 2}, 2, 2, [4, 8], [12, 24, 36], marks=pytest.mark.slow),
        ({"pooling": False}, 8, 1, [2, 4], [6, 12, 18]),
        ({"pooling": False, "output_stride": 4, "aspp_rates": [3, 6, 9]}, 4, 2, [4, 8], [3, 6, 9]),
    ],
)
def test_output_stride_of_elastic_networks(
    name: str, options: dict[str, Any], stride: int, third: int, fourth: list[int], rates: list[int]
) -> None:
    """Stages that keep the resolution double the dilation; parameters and which blocks are elastic stay."""
    with torch.device("meta"):
        model, published = elastic(name, **options), elastic(name)
        sides = tuple(-(-side // stride) for side in (65, 98))
        assert features(model, "layer4", torch.empty(1, 3, 65, 98)) == sides
        assert model(torch.empty(1, 3, 65, 98)).shape == (1, 5, 65, 98)
    for branch in ("conv2", "conv2_d"):
        dilations = {i: [getattr(block, branch).dilation[0] for block in getattr(model, f"layer{i}")] for i in (3, 4)}
        assert dilations == {3: [third] * 2, 4: fourth}
    assert [getattr(model.aspp, f"aspp{i}").dilation[0] for i in (2, 3, 4)] == rates
    if not options.get("small_images"):
        shapes = [{key: value.shape for key, value in one.state_dict().items()} for one in (model, published)]
        assert shapes[0] == shapes[1]
        assert list(shapes[0]) == list(shapes[1])
    scales = [[part.elastic for part in one.modules() if hasattr(part, "elastic")] for one in (model, published)]
    assert scales[0] == scales[1]


@pytest.mark.parametrize("stride", [4, 8])
def test_elastic_blocks_are_sound_at_a_dilation(stride: int) -> None:
    """Both branches see as far as they did, sides stay, every parameter is trained."""
    model = elastic(output_stride=stride)
    out = model(torch.randn(2, 3, 35, 50))
    assert out.shape == (2, 5, 35, 50)
    out.square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())
    block = model.layer3[1]
    assert block.elastic
    x = torch.zeros(1, 64, 32, 32)
    x[..., 16, 16] = 1
    with torch.no_grad():
        changed = (block.eval().branches(x) - block.branches(torch.zeros_like(x))).abs().sum(1)[0]
    rate = 16 // stride
    low = 2 * (rate + 1)  # of the branch at half resolution, in pixels, and its interpolation
    reach = changed.nonzero().sub(16).abs().max().item()
    assert rate < reach <= low + 1


def test_width_and_momentum_of_the_head() -> None:
    model = elastic(aspp_width=8, aspp_momentum=0.1)
    assert model.aspp.conv2.weight.shape == (8, 40, 1, 1)
    assert {part.momentum for part in model.aspp.modules() if isinstance(part, nn.BatchNorm2d)} == {0.1}


@pytest.mark.parametrize("name", tiers(["fcn_resnet50", LITE], [LITE], ["fcn_resnet50"]))
def test_torchvisions_networks_do_what_other_models_do(name: str) -> None:
    with torch.device("meta"):
        model = create_model(name, 5, in_channels=2)
        assert model(torch.empty(2, 2, 40, 33)).shape == (2, 5, 40, 33)
        assert count_flops(model, 64, 2).total > 2 * count_flops(model, 64, 2, backward=False).forward
        frozen = create_model(name, 5, norm="frozen_batch")
        kinds = {kind.name for part in frozen.modules() if (kind := recognise(part))}
        assert kinds == {"frozen_batch"}
        assert frozen(torch.empty(1, 3, 40, 33)).shape == (1, 5, 40, 33)
    assert {part.name.partition(".")[0] for part in structure(model, 64, 2)} >= {"backbone", "classifier"}


def test_lite_network_folds_and_is_measured() -> None:
    model = create_model(LITE, 3).eval()
    folded = fold_batch_norm(model)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in folded.modules())
    images = torch.randn(1, 3, 33, 40)
    with torch.no_grad():
        torch.testing.assert_close(folded(images), model(images), rtol=1e-4, atol=1e-4)
    assert bench(model, [32], [2], repeats=1, train=False)["flops"][0] > 0


@pytest.mark.slow
def test_auxiliary_head_is_measured_and_recomputed_stages_train_alike() -> None:
    torch.manual_seed(0)
    model = create_model("fcn_resnet50", 3, aux_loss=True).train()
    images = torch.randn(2, 3, 32, 32)
    state = {key: value.clone() for key, value in model.state_dict().items()}

    def gradient() -> Tensor:
        model.load_state_dict(state)
        model.zero_grad()
        torch.manual_seed(0)
        sum(part.square().mean() for part in model(images)).backward()
        return model.get_parameter("backbone.conv1.weight").grad.clone()

    plain = gradient()
    assert checkpoint_segments(model, 2) == [
        *(f"backbone.layer{i}" for i in (1, 2, 3, 4)), "classifier", "aux_classifier",
    ]  # fmt: skip
    assert torch.equal(gradient(), plain)


@pytest.mark.parametrize(
    ("name", "task", "heads"),
    [
        ("resnext50_elastic", "segmentation", ("aspp.",)),
        ("resnext50", "classification", ("fc.",)),
        ("dla60x_elastic", "segmentation", ("dla_up.", "fc.", "up.")),
        ("dla60x", "multilabel", ("fc.",)),
        ("densenet201_elastic", "", ("classifier.",)),
        ("fcn_resnet50", "", ("classifier.", "aux_classifier.")),
        (LITE, "", ("classifier.",)),
        ("mobilenet_v2", "", ("classifier.1.",)),
    ],
)
def test_head_of_a_model(name: str, task: str, heads: tuple[str, ...]) -> None:
    with torch.device("meta"):
        model = create_model(name, task=task, **({"aux_loss": True} if name.startswith("fcn") else {}))
    found = head_parameters(model) | {"up.weight" for key in ("up.",) if key in heads}  # frozen: the head has it not
    assert found == {key for key, _ in model.named_parameters() if key.startswith(heads)}


def test_one_image_a_step_is_too_few_for_batch_norm_behind_a_global_average() -> None:
    assert needs_two_images(elastic(), 64)
    assert not needs_two_images(elastic(norm="frozen_batch"), 64)
    assert not needs_two_images(create_model("dla60x", 5, task="segmentation", **DLA), 64)
    assert needs_two_images(create_model("resnet18"), 32)  # its last maps are of one pixel
    assert not needs_two_images(create_model("resnet18"), 64)
    online = elastic(norm="online")
    assert not needs_two_images(online, 64)
    assert needs_two_images(online, 64, calibrated=True)


DLA = {"levels": (1, 1, 1, 1, 1, 1), "channels": (8, 8, 32, 32, 32, 32), "cardinality": 4}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty download folder of torch's, and no network."""

    def unreachable(*arguments: Any, **named: Any) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "urlopen", unreachable)
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


def test_published_weights_of_a_network_and_of_its_backbone(hub: Path) -> None:
    name = "deeplabv3_mobilenet_v3_large"
    weights = torchvision.models.get_model_weights(name).DEFAULT
    torch.manual_seed(1)
    published = theirs(name, 21, aux_loss=True).state_dict()
    torch.save(published, hub / weights.url.rpartition("/")[2])
    model = create_model(name, pretrained=True)
    assert all(torch.equal(value, published[key]) for key, value in model.state_dict().items())
    found = pretrained_weights(name)
    assert found.preprocessing is not None
    assert (found.preprocessing.image_size, found.preprocessing.resize) == (520, "pad")

    classifier = torchvision.models.mobilenet_v3_large().state_dict()
    url = torchvision.models.MobileNet_V3_Large_Weights.IMAGENET1K_V1.url
    torch.save(classifier, hub / url.rpartition("/")[2])
    for each in (name, LITE):
        model = create_model(each, 7, pretrained="IMAGENET1K_V1")
        for key, value in model.backbone.state_dict().items():
            assert torch.equal(value, classifier[f"features.{key}"]), key
    with pytest.raises(UserError, match=r"has no weights 'IMAGENET1K_V7': did you mean 'IMAGENET1K_V"):
        create_model(name, pretrained="IMAGENET1K_V7")


def test_a_classifier_goes_below_the_backbone_and_its_head_is_left_out() -> None:
    torch.manual_seed(0)
    classifier, model = torchvision.models.resnet50(), create_model("fcn_resnet50", 7, aux_loss=True)
    report = fit_state_dict(model, classifier.state_dict(), num_classes=7)
    assert report.fits
    assert torch.equal(model.backbone.layer4[2].conv3.weight, classifier.layer4[2].conv3.weight)
    assert {key.partition(".")[0] for key in report.new} == {"classifier", "aux_classifier"}
    said = " ".join(report.lines())
    assert "for the network below backbone.; its head is left out" in said
    assert "the segmentation head, which a classifier's file has not" in said


def test_weights_that_lack_part_of_a_backbone_do_not_fit() -> None:
    tensors = torchvision.models.resnet50().state_dict()
    del tensors["layer4.2.conv3.weight"]
    with torch.device("meta"):
        model = create_model("fcn_resnet50", 7)
    with pytest.raises(UserError, match="does not fit"):
        fit_state_dict(model, tensors)
