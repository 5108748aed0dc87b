"""Activation checkpointing changes what is kept in memory, and nothing else."""

import copy

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from anysize import UserError, checkpoint_segments, count_flops, create_model
from anysize.models.measure.memory import activation_bytes
from anysize.models.measure.meta import meta_copy
from anysize.models.surgery.fold import fold_batch_norm
from anysize.norms.calibration import calibrate_batch_norm


def train(model: nn.Module, dtype: torch.dtype, *, steps: int = 2, autocast: bool = False, size: int = 32):
    """Losses, gradients and buffers of some steps with dropout and other randomness, as a flat dict."""
    model.to(dtype).train()
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(4, 3, size, size, generator=generator, dtype=dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    torch.manual_seed(2)
    seen: dict[str, Tensor] = {}
    for step in range(steps):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            outputs = model(images)
            outputs = outputs if isinstance(outputs, Tensor) else outputs[0] + outputs[1]
            loss = F.cross_entropy(outputs.float() if autocast else outputs, torch.tensor([0, 1, 2, 3]))
        loss.backward()
        optimizer.step()
        seen[f"loss {step}"] = loss.detach()
    gradients = {f"gradient {name}": value.grad for name, value in model.named_parameters() if value.grad is not None}
    return seen | gradients | model.state_dict() | {"random": torch.rand(3)}


def assert_same(model: nn.Module, segments: int, dtype: torch.dtype = torch.float32, **how: object) -> list[str]:
    """Training with recomputed activations gives the plain training's bits; returns the stages."""
    plain, other = copy.deepcopy(model), copy.deepcopy(model)
    stages = checkpoint_segments(other, segments)
    expected, seen = train(plain, dtype, **how), train(other, dtype, **how)
    assert list(seen) == list(expected)
    for name, value in expected.items():
        assert torch.equal(seen[name], value), name
    return stages


NETWORKS = {
    "cifar_resnet": {"depth": 14, "widths": (8, 8, 16), "dropout": 0.2},
    "densenet201": {"block_config": (2, 2, 3, 2), "growth_rate": 4, "num_init_features": 8, "drop_rate": 0.2},
    "densenet201_elastic": {"block_config": (2, 2, 3, 2), "growth_rate": 4, "num_init_features": 8, "drop_rate": 0.2},
    "resnext50_elastic": {"layers": (2, 2, 2, 2), "widths": (4, 8, 16, 32), "stem": 4, "cardinality": 8},
    "dla60x_elastic": {"levels": (1, 1, 2, 2, 3, 1), "channels": (4, 8, 32, 32, 64, 64), "cardinality": 4},
}
"""Small ones of each kind: rows of blocks, dense blocks, two scales, trees."""


@pytest.mark.parametrize("segments", [pytest.param(1, marks=pytest.mark.slow), 4])
@pytest.mark.parametrize("name", NETWORKS)
def test_training_gives_the_same_bits(name, segments):
    torch.manual_seed(0)
    model = create_model(name, num_classes=5, **NETWORKS[name])
    stages = assert_same(model, segments, size=64)
    assert stages == {
        "cifar_resnet": ["layer1", "layer2", "layer3"],
        "resnext50_elastic": ["layer1", "layer2", "layer3", "layer4"],
        "dla60x_elastic": ["base_layer", *(f"level{i}" for i in range(6))],
    }.get(name, [f"features.{part}{i}" for i in range(1, 5) for part in ("denseblock", "transition")][:-1])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("norm", ["batch", "online", "group"])
def test_the_same_bits_with_other_norms(norm, dtype):
    torch.manual_seed(0)
    model = create_model("cifar_resnet", num_classes=5, norm=norm, depth=8, widths=(8, 8, 16), dropout=0.1)
    assert_same(model, 1, dtype, steps=3)


@pytest.mark.parametrize("norm", ["batch", "online"])
def test_the_same_bits_in_mixed_precision(norm):
    torch.manual_seed(0)
    model = create_model("cifar_resnet", num_classes=5, norm=norm, depth=8, widths=(8, 8, 16), dropout=0.1)
    assert_same(model, 1, autocast=True, steps=3)


@pytest.mark.parametrize("segments", [1, 3])
@pytest.mark.parametrize(
    "build",
    [
        lambda: torchvision.models.densenet.DenseNet(4, (2, 3), 8, num_classes=5),
        pytest.param(
            lambda: torchvision.models.mobilenet_v2(num_classes=5, width_mult=0.1, dropout=0.2), marks=pytest.mark.slow
        ),
        pytest.param(
            lambda: nn.Sequential(*torchvision.models.vgg11_bn().features[:11], nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            lambda: torchvision.models.resnet.ResNet(torchvision.models.resnet.BasicBlock, [1, 2, 1, 1], num_classes=5),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_same_bits_in_torchvision_networks(build, segments):
    torch.manual_seed(0)
    assert_same(build(), segments, size=32)


def test_cells_are_recomputed_one_by_one():
    torch.manual_seed(0)
    model = create_model("cifar_amoebanet_a", num_classes=5, init_channels=4, layers=3)
    assert "cells" in assert_same(model, 2)


def test_a_momentum_that_averages_over_all_batches():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, momentum=None), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert_same(model, 2, steps=4)


def test_a_segment_never_begins_by_changing_what_was_kept():
    layers = [nn.ReLU(inplace=True), nn.Conv2d(3, 8, 3), nn.ReLU(inplace=True), nn.Conv2d(8, 5, 3)]
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Sequential(*layers), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    for segments in (1, 2, 3, 4):
        assert_same(nn.ModuleDict({"all": model})["all"][1:], segments)  # the stage begins in place
        assert_same(model, segments)


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.mul_(2))


def test_a_module_that_changes_its_input_is_refused():
    model = nn.Sequential(nn.Conv2d(3, 3, 1), InPlace(), nn.Conv2d(3, 3, 1))
    checkpoint_segments(model, 3)
    with pytest.raises(UserError, match="InPlace changes its input in place"):
        model(torch.zeros(1, 3, 4, 4))


def test_memory_falls_and_flops_stay():
    model = create_model("resnet20")
    plain, flops = activation_bytes(model, 32), count_flops(model, 32)
    kept = []
    for segments in (1, 2, 3):
        other = copy.deepcopy(model)
        checkpoint_segments(other, segments)
        kept.append(activation_bytes(other, 32))
        assert count_flops(other, 32) == flops
    assert kept == sorted(kept)
    assert kept[-1] < plain / 3


def test_running_statistics_are_updated_once():
    model = create_model("resnet14")
    assert "layer1" in checkpoint_segments(model, 1)
    for _ in range(3):
        model(torch.randn(2, 3, 16, 16)).sum().backward()
    assert model.layer1[0].bn1.num_batches_tracked == 3


def test_a_second_backward_pass_through_the_same_graph():
    plain, images = create_model("resnet14"), torch.randn(2, 3, 16, 16)
    other = copy.deepcopy(plain)
    checkpoint_segments(other, 1)
    for model in (plain, other):
        loss = model(images).sum()
        loss.backward(retain_graph=True)
        loss.backward()
    for (name, expected), value in zip(plain.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(value.grad, expected.grad), name
    for (name, expected), value in zip(plain.named_buffers(), other.buffers(), strict=True):
        assert torch.equal(value, expected), name


def test_a_stage_that_is_called_twice_or_by_keyword():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stage = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Dropout(0.3), nn.ReLU())
            self.fc = nn.Linear(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.stage(input=self.stage(x)).mean((2, 3)))

    assert assert_same(Twice(), 2) == ["stage"]


def test_evaluation_names_and_copies_are_unaffected():
    torch.manual_seed(0)
    model = create_model("resnet14")
    names = list(model.state_dict())
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        expected = model.eval()(images)
    checkpoint_segments(model, 2)
    assert list(model.state_dict()) == names
    copied = copy.deepcopy(model)
    for parameter in model.parameters():
        parameter.data.fill_(float("nan"))
    assert torch.equal(copied(images), expected)  # nothing of the copy leads back to the model
    copied.train()(images).sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in copied.parameters())
    assert meta_copy(copied)(images.to("meta")).shape == (2, 10)
    torch.testing.assert_close(fold_batch_norm(copied)(images), copied.eval()(images))


def test_calibration_sees_the_same():
    model = create_model("resnet14")
    other = copy.deepcopy(model)
    checkpoint_segments(other, 1)
    images = torch.randn(8, 3, 16, 16)
    for one in (model, other):
        calibrate_batch_norm(one, [images])
    for value, expected in zip(other.state_dict().values(), model.state_dict().values(), strict=True):
        assert torch.equal(value, expected)


@pytest.mark.slow
def test_a_compiled_model_recomputes_too():
    torch.manual_seed(0)
    model = create_model("resnet14", num_classes=5)
    plain = train(copy.deepcopy(model), torch.float32, size=16)
    checkpoint_segments(model, 1)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager")
    seen = {name.replace("_orig_mod.", ""): value for name, value in train(compiled, torch.float32, size=16).items()}
    for name, value in plain.items():
        torch.testing.assert_close(seen[name], value, rtol=1e-4, atol=1e-5)


def test_what_cannot_be_checkpointed_is_said():
    with pytest.raises(UserError, match="checkpoint segments are 0; expected at least 1"):
        checkpoint_segments(create_model("resnet14"), 0)
    with pytest.raises(UserError, match="Conv2d has no stages to recompute"):
        checkpoint_segments(nn.Conv2d(3, 4, 3), 2)
    model = create_model("resnet14")
    checkpoint_segments(model, 2)
    with pytest.raises(UserError, match="ResidualNet recomputes its activations already"):
        checkpoint_segments(model, 2)
