"""A network for several labels or for segmentation that starts from a classifier's weights, with a head of its own."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from anysize.experiment.weights import find_weights, start_from
from anysize.models.spec import ModelSpec, create_model
from anysize.registry import UserError

RESNEXT = {"layers": [1, 2, 1, 1], "widths": [4, 8, 16, 32], "stem": 4, "cardinality": 8}
DLA = {"levels": [1, 1, 1, 2, 1, 1], "channels": [8, 8, 32, 32, 32, 32], "cardinality": 4}
DENSENET = {"block_config": [2, 2, 1, 2], "growth_rate": 4, "num_init_features": 8}


def classifier(name: str, options: dict[str, Any], classes: int = 1000, task: str = "") -> nn.Module:
    """With statistics that are not those of the start."""
    torch.manual_seed(1)
    model = create_model(name, classes, task=task, **options)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
    return model


def save(path: Path, model: nn.Module) -> Path:
    torch.save({"state_dict": {f"module.{key}": value for key, value in model.state_dict().items()}}, path)
    return path


def start(file: Path, name: str, options: dict[str, Any], task: str, classes: int, norm: str = ""):
    spec = ModelSpec(name, classes, task=task, options=options).swap_norms(norm)
    weights = find_weights(file, name, options)
    torch.manual_seed(0)
    return start_from(spec, weights), " ; ".join(weights.notes)


@pytest.mark.parametrize(
    ("name", "options", "head"),
    [("resnext50_elastic", RESNEXT, "fc"), ("dla60x_elastic", DLA, "fc"), ("densenet201_elastic", DENSENET, "classif")],
)
def test_labels_of_coco_start_from_imagenet(name: str, options: dict[str, Any], head: str, tmp_path: Path) -> None:
    file = save(tmp_path / "imagenet.pth.tar", reference := classifier(name, options))
    model, notes = start(file, name, options, "multilabel", 80)
    for key, value in model.state_dict().items():
        assert torch.equal(value, reference.state_dict()[key]) == (not key.startswith(head)), key
    assert "is new: the file has 1000 classes, the model 80" in notes
    loaded = sum(not key.endswith("num_batches_tracked") for key in model.state_dict()) - 2
    assert f"{loaded} tensors of {loaded + 2} are loaded, 2 start anew" in notes
    again, notes = start(save(tmp_path / "coco.pth.tar", model), name, options, "multilabel", 80)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in again.state_dict().items())
    assert "anew" not in notes


@pytest.mark.parametrize(
    ("name", "options", "base", "fresh"),
    [
        ("resnext50_elastic", RESNEXT, "", ("aspp.",)),
        pytest.param("dla60x_elastic", DLA, "base.", ("dla_up.", "fc.", "up."), marks=pytest.mark.slow),
        ("dla60x", DLA, "base.", ("dla_up.", "fc.", "up.")),
    ],
)
@pytest.mark.parametrize("classes", [1000, pytest.param(80, marks=pytest.mark.slow)])
def test_segmentation_starts_from_a_classifier_and_goes_on_whole(
    name: str, options: dict[str, Any], base: str, fresh: tuple[str, ...], classes: int, tmp_path: Path
) -> None:
    file = save(tmp_path / "imagenet.pth.tar", reference := classifier(name, options, classes))
    model, notes = start(file, name, options, "segmentation", 21)
    for key, value in model.state_dict().items():
        inner = key.removeprefix(base) if key.startswith(base) else ""
        if inner and not key.startswith(fresh) and not inner.startswith("fc."):
            assert torch.equal(value, reference.state_dict()[inner]), key
    assert "the segmentation head, which a classifier's file has not" in notes
    again, notes = start(save(tmp_path / "voc.pth.tar", model), name, options, "segmentation", 21)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in again.state_dict().items())
    assert "anew" not in notes
    other, notes = start(tmp_path / "voc.pth.tar", name, options, "segmentation", 7)
    assert "the file has 21 classes, the model 7" in notes
    last = "aspp.conv2.weight" if not base else "dla_up.ida_0.node_1.0.weight"
    assert torch.equal(other.state_dict()[last], model.state_dict()[last])


def test_another_output_stride_takes_the_same_weights(tmp_path: Path) -> None:
    file = save(tmp_path / "a.pth", reference := classifier("resnext50_elastic", RESNEXT, 21, "segmentation"))
    options = {**RESNEXT, "output_stride": 8}
    model, _ = start(file, "resnext50_elastic", options, "segmentation", 21)
    assert all(torch.equal(value, reference.state_dict()[key]) for key, value in model.state_dict().items())


def test_frozen_batch_norm_takes_the_checkpoints_statistics(tmp_path: Path) -> None:
    file = save(tmp_path / "imagenet.pth.tar", reference := classifier("resnext50_elastic", RESNEXT))
    model, notes = start(file, "resnext50_elastic", RESNEXT, "segmentation", 21, norm="frozen_batch")
    assert torch.equal(model.layer2[1].bn3.running_mean, reference.layer2[1].bn3.running_mean)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    assert "start anew" in notes
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.train()(torch.randn(1, 3, 32, 32))  # one image is enough
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_torchvisions_network_starts_from_torchvisions_classifier(tmp_path: Path) -> None:
    torch.manual_seed(0)
    reference = torchvision.models.mobilenet_v3_large()
    file = save(tmp_path / "mobilenet.pth", reference)
    model, notes = start(file, "lraspp_mobilenet_v3_large", {}, "segmentation", 21)
    assert all(torch.equal(v, reference.features.state_dict()[key]) for key, v in model.backbone.state_dict().items())
    assert "its head is left out" in notes


def test_another_familys_weights_are_refused(tmp_path: Path) -> None:
    file = save(tmp_path / "densenet.pth", classifier("densenet201", DENSENET))
    with pytest.raises(UserError, match="does not fit"):
        start(file, "resnext50_elastic", RESNEXT, "segmentation", 21)
    file = save(tmp_path / "voc.pth", classifier("resnext50_elastic", RESNEXT, 21, "segmentation"))
    with pytest.raises(UserError, match="does not fit"):
        start(file, "resnext50_elastic", RESNEXT, "multilabel", 80)
