"""The networks for small images: their published parameter counts, names, start, and any input size."""

import pytest
import torch
from torch import nn

from anysize.models.spec import create_model
from anysize.registry import UserError


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "num_classes", "in_channels", "expected"),
    [
        ("resnet20", 10, 3, 272_474),
        ("resnet20", 100, 3, 278_324),
        ("resnet44", 10, 3, 661_338),
        ("resnet44", 100, 3, 667_188),
        ("resnet110", 10, 3, 1_730_714),
        ("wide_resnet28_10", 10, 3, 36_481_434),
        ("mnist", 10, 1, 131_978),
    ],
)
def test_parameter_counts_of_the_published_code(name: str, num_classes: int, in_channels: int, expected: int) -> None:
    with torch.device("meta"):
        assert parameters(create_model(name, num_classes, in_channels)) == expected


@pytest.mark.parametrize(("name", "smallest"), [("resnet8", 8), ("resnet20", 8), ("resnet56", 8), ("mnist", 8)])
def test_any_input_size_and_shape(name: str, smallest: int) -> None:
    model = create_model(name, num_classes=7, in_channels=2)
    for height, width in [(smallest, smallest), (17, 17), (32, 32), (33, 47)]:
        assert model(torch.randn(2, 2, height, width)).shape == (2, 7)


def test_parameter_names_are_those_of_torchvisions_resnet() -> None:
    names = set(create_model("resnet8").state_dict())
    norm = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
    expected = {"conv1.weight", "fc.weight", "fc.bias"} | {f"bn1.{key}" for key in norm}
    for stage in (1, 2, 3):
        block = f"layer{stage}.0"
        expected |= {f"{block}.conv{i}.weight" for i in (1, 2)} | {
            f"{block}.bn{i}.{key}" for i in (1, 2) for key in norm
        }
        if stage > 1:  # projections where the shape changes, and nowhere else
            expected |= {f"{block}.downsample.0.weight"} | {f"{block}.downsample.1.{key}" for key in norm}
    assert names == expected


def test_each_block_starts_as_its_shortcut_and_weights_start_as_published() -> None:
    torch.manual_seed(0)
    model = create_model("resnet20").eval()
    block = model.get_submodule("layer1.1")
    x = torch.rand(2, 16, 9, 9)
    assert torch.equal(block(x), x)
    weight = model.get_parameter("layer3.1.conv1.weight")
    assert weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.02)
    assert weight.mean().item() == pytest.approx(0, abs=1e-3)
    assert model.get_parameter("fc.weight").std().item() == pytest.approx(0.01, rel=0.1)
    assert not model.get_parameter("fc.bias").any()
    assert create_model("resnet20", zero_init_residual=False).get_parameter("layer1.1.bn2.weight").all()


def test_the_classifier_starts_as_torchs_linear_layers_do_when_asked_to() -> None:
    """U(-1/8, 1/8) for 64 inputs, weights and biases, as in the code of Online Normalization."""
    torch.manual_seed(0)
    model = create_model("resnet20", num_classes=100, classifier_std=0.0)
    for name in ("fc.weight", "fc.bias"):
        values = model.get_parameter(name)
        assert 0.11 < values.abs().max().item() <= 1 / 8
        assert values.std().item() == pytest.approx(1 / 8 / 3**0.5, rel=0.15)
    assert create_model("resnet8", classifier_std=0.5).get_parameter("fc.weight").std().item() > 0.4
    with pytest.raises(UserError, match=r"classifier_std is -1; expected a standard deviation"):
        create_model("resnet8", classifier_std=-1)


@pytest.mark.parametrize(("name", "activations"), [("cifar_resnet", 13), ("cifar_resnet_se", 13 + 12)])
def test_each_activation_is_called_once_a_forward_pass(name: str, activations: int) -> None:
    model = create_model(name, depth=14)
    calls: dict[nn.Module, int] = {}
    for module in model.modules():
        if isinstance(module, (nn.ReLU, nn.Sigmoid)):
            module.register_forward_hook(lambda module, *_: calls.update({module: calls.get(module, 0) + 1}))
    model(torch.zeros(1, 3, 16, 16))
    assert list(calls.values()) == [1] * activations


def test_options_change_the_network() -> None:
    wide = create_model("cifar_resnet", depth=28, widths=(160, 320, 640))
    assert parameters(wide) == 36_481_434
    dropped = create_model("resnet8", dropout=0.5, widths=(8, 8, 8), stem=8)
    x = torch.randn(4, 3, 16, 16)
    for name, parameter in dropped.named_parameters():
        if name.endswith("bn2.weight"):
            nn.init.ones_(parameter)
    assert not torch.equal(dropped(x), dropped(x))
    assert torch.equal(dropped.eval()(x), dropped(x))


def test_depth_and_widths_that_do_not_exist() -> None:
    with pytest.raises(UserError, match=r"model 'cifar_resnet': depth is 21; expected 6n \+ 2"):
        create_model("cifar_resnet", depth=21)
    with pytest.raises(UserError, match=r"widths is \[16, 32\]; expected 3 positive whole numbers"):
        create_model("resnet20", widths=(16, 32))
