"""Residual variants: published parameter counts, torchvision's outputs, gates on shortcuts, Fixup's rules."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from anysize.models.blocks.residual import GatedStage, ResidualBlock
from anysize.models.families.fixup import FixupBlock
from anysize.models.spec import create_model
from anysize.registry import UserError


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def randomized(model: nn.Module) -> nn.Module:
    """Float64 and evaluating, with parameters and running statistics that hide nothing."""
    model.double().eval()
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        if value.is_floating_point():
            with torch.no_grad():
                value.add_(torch.rand_like(value) * 0.1 if "var" in name else torch.randn_like(value) * 0.02)
    return model


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("cifar_resnet_se", {}, 662_129),
        ("cifar_resnext", {}, 927_066),
        ("cifar_resnext_se", {}, 938_294),
        ("cifar_resnet_fixup", {}, 658_090),
        ("cifar_resnet_fixup_se", {}, 658_090 + 791),  # the gates of cifar_resnet_se
        ("cifar_densenet", {}, 769_162),
        ("imagenet_resnet", {}, 25_557_032),
        ("imagenet_resnet", {"depth": 18}, 11_689_512),  # torchvision's
        ("resnet50_se", {}, 26_257_432),
        ("resnext50_se", {}, 25_729_304),
        ("resnext50_32x4d", {}, 25_028_904),
        ("imagenet_resnet", {"widths": [128, 256, 512, 1024], "groups": 32, "expansion": 2}, 25_028_904),
        ("resnet50_fixup", {}, 25_504_035),
        ("densenet169", {}, 14_149_480),
        ("mobilenet_v2", {}, 3_504_872),
        ("efficientnet_b0", {}, 5_288_548),
    ],
)
def test_parameter_counts_of_the_published_code(name: str, options: dict[str, object], expected: int) -> None:
    with torch.device("meta"):
        assert parameters(create_model(name, **options)) == expected


@pytest.mark.parametrize("depth", [18, pytest.param(50, marks=pytest.mark.slow)])
def test_plain_networks_equal_torchvisions(depth: int) -> None:
    theirs = randomized(torchvision.models.get_model(f"resnet{depth}", num_classes=5))
    ours = create_model("imagenet_resnet", 5, depth=depth).double().eval()
    # In the same order, too: optimizers keep their state by it, and a global norm is summed in it.
    assert [key for key, _ in ours.named_parameters()] == [key for key, _ in theirs.named_parameters()]
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(1, 3, 45, 64, dtype=torch.float64)
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-12, atol=1e-12)


@pytest.mark.slow
def test_resnext_equals_torchvisions() -> None:
    theirs = randomized(torchvision.models.resnext50_32x4d(num_classes=5))
    options = {"widths": (128, 256, 512, 1024), "groups": 32, "expansion": 2}
    ours = create_model("imagenet_resnet", 5, **options).double().eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(1, 3, 45, 64, dtype=torch.float64)
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-12, atol=1e-12)


def test_without_gates_the_small_network_is_the_plain_one() -> None:
    plain = randomized(create_model("resnet14"))
    ours = create_model("cifar_resnet_se", depth=14, squeeze_excite=False).double().eval()
    ours.load_state_dict(plain.state_dict())
    images = torch.randn(2, 3, 17, 20, dtype=torch.float64)
    torch.testing.assert_close(ours(images), plain(images), rtol=1e-12, atol=1e-12)


def gate_reference(se: nn.Module, x: Tensor) -> Tensor:
    """Squeeze and excite by SENet's equations 2 to 4."""
    w1, b1 = se.get_parameter("fc1.weight")[..., 0, 0], se.get_parameter("fc1.bias")
    w2, b2 = se.get_parameter("fc2.weight")[..., 0, 0], se.get_parameter("fc2.bias")
    scale = torch.sigmoid(torch.relu(x.mean((2, 3)) @ w1.T + b1) @ w2.T + b2)
    return x * scale[:, :, None, None]


def test_one_gate_stands_on_all_shortcuts_of_a_stage() -> None:
    stage = create_model("cifar_resnext_se", depth=14).get_submodule("layer2")
    assert isinstance(stage, GatedStage)
    randomized(stage)
    x = torch.rand(2, 64, 9, 7, dtype=torch.float64)
    expected = x
    for i in range(2):
        block = stage.get_submodule(str(i))
        assert isinstance(block, ResidualBlock)
        branch = block.bn2(block.conv2(F.relu(block.bn1(block.conv1(expected)))))
        expected = F.relu(branch + gate_reference(stage.se, block.downsample(expected)))
    torch.testing.assert_close(stage(x), expected, rtol=1e-12, atol=1e-12)
    assert not any("se." in name for name in stage.get_submodule("0").state_dict())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cifar_resnet_se", {"depth": 8}),
        ("cifar_resnext", {"depth": 8, "widths": [8, 16, 16], "groups": [2, 4, 4], "stem": 8}),
        ("cifar_resnet_fixup", {"depth": 8}),
        ("cifar_resnet_fixup_se", {"depth": 8, "stem": 8}),
        ("imagenet_resnet", {"depth": 50, "widths": [4, 4, 8, 8], "stem": 8, "dropout": 0.1, "squeeze_excite": False}),
        ("imagenet_resnet_fixup", {"depth": 18, "widths": [4, 4, 8, 8], "stem": 8}),
        ("cifar_densenet", {"depth": 16, "growth": 4, "dropout": 0.1}),
        ("inception_v2", {"dropout": 0.2}),
    ],
)
@pytest.mark.parametrize("sides", [(33, 18), (8, 8)])
def test_small_ones_learn_at_any_size(name: str, options: dict[str, object], sides: tuple[int, int]) -> None:
    """Two steps: the branches and the classifiers that start at zero hold back the others' gradients in the first."""
    torch.manual_seed(0)
    model = create_model(name, 3, 2, **options)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        logits = model(torch.randn(4, 2, *sides))
        F.cross_entropy(logits, torch.tensor([0, 1, 2, 0])).backward()
        optimizer.step()
    assert logits.shape == (4, 3)
    assert logits.isfinite().all()
    without = [key for key, value in model.named_parameters() if value.grad is None or not value.grad.isfinite().all()]
    assert not without


# Fixup (arXiv 1901.09321)


@pytest.mark.parametrize(("depth", "branches", "power"), [(34, 16, -1 / 2), (50, 16, -1 / 4)])
def test_fixup_starts_as_its_three_rules_say(depth: int, branches: int, power: float) -> None:
    torch.manual_seed(0)
    model = create_model("imagenet_resnet_fixup", 10, depth=depth)
    assert not any("Norm" in type(module).__name__ for module in model.modules())
    block = model.get_submodule("layer2.1")
    assert isinstance(block, FixupBlock)
    *first, last = block.convolutions
    assert not last.weight.any()
    for convolution in first:
        he = (2 / (convolution.out_channels * convolution.kernel_size[0] ** 2)) ** 0.5
        assert convolution.weight.std().item() == pytest.approx(he * branches**power, rel=0.05)
    plain = create_model("imagenet_resnet_fixup", 10, depth=depth, rescale=False).get_submodule("layer2.1")
    ratio = plain.convolutions[0].weight.std() / first[0].weight.std()
    assert ratio.item() == pytest.approx(branches**-power, rel=0.05)
    assert not model.get_parameter("fc.weight").any()
    scalars = {name: value.item() for name, value in model.named_parameters() if value.shape == (1,)}
    assert all(value == float("multiplier" in name) for name, value in scalars.items())
    assert sum("multiplier" in name for name in scalars) == branches


@pytest.mark.parametrize("bottleneck", [False, True])
def test_fixup_block_by_the_paper(bottleneck: bool) -> None:
    """A bias before each convolution and activation, one multiplier before the last bias."""
    torch.manual_seed(0)
    block = FixupBlock(8, 4, 16, stride=2, bottleneck=bottleneck)
    randomized(block)
    x = torch.rand(2, 8, 7, 10, dtype=torch.float64)
    value = dict(block.named_parameters())

    def conv(name: str, x: Tensor, stride: int, padding: int) -> Tensor:
        out = F.conv2d(x + value[f"{name}.bias_before"], value[f"{name}.conv.weight"], None, stride, padding)
        return value.get(f"{name}.multiplier", 1) * out + value[f"{name}.bias_after"]

    if bottleneck:
        out = conv("conv2", conv("conv1", x, 1, 0).relu(), 2, 1).relu()
        out = conv("conv3", out, 1, 0)
    else:
        out = conv("conv2", conv("conv1", x, 2, 1).relu(), 1, 1)
    expected = (out + conv("downsample", x, 2, 0)).relu()
    torch.testing.assert_close(block(x), expected, rtol=1e-12, atol=1e-12)


def test_fixup_trains_without_norms() -> None:
    torch.manual_seed(0)
    model = create_model("cifar_resnet_fixup", depth=20)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    targets = torch.arange(32) % 2
    images = torch.randn(32, 3, 12, 12) + 0.5 * targets[:, None, None, None]  # one class is brighter
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), targets)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(2.3026, abs=1e-4)  # all classes are alike
    assert losses[-1] < 1.2


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cifar_resnext", {"depth": 45}, r"depth is 45; expected 6n \+ 2"),
        ("imagenet_resnet", {"depth": 42}, "depth is 42; expected one of 18, 34, 50, 101, 152, 200"),
        ("resnet50_se", {"widths": [64, 128]}, r"widths is \[64, 128\]; expected 4 positive whole numbers"),
        ("cifar_resnext", {"groups": [4, 8, 7]}, r"groups \[4, 8, 7\] do not divide the widths \[64, 128, 256\]"),
        ("cifar_resnext", {"groups": 0}, r"groups is \[0, 0, 0\]; expected 3 positive whole numbers"),
        ("imagenet_resnet", {"classifier_std": -1}, "classifier_std is -1"),
        ("imagenet_resnet", {"stem": 0}, "stem is 0; expected a positive whole number"),
        ("cifar_resnet_fixup", {"expansion": 0}, "expansion is 0; expected a positive whole number"),
        ("resnet50_fixup", {"widths": [64, 128]}, r"widths is \[64, 128\]; expected 4"),
        ("resnet50_fixup", {"dropout": 0.1}, "takes no option 'dropout'"),
        ("cifar_densenet", {"depth": 99}, r"depth is 99; expected 6n \+ 4"),
        ("cifar_densenet", {"growth": 0}, "growth is 0; expected at least 1"),
        ("cifar_densenet", {"dropout": 2}, "dropout is 2; expected a probability"),
    ],
)
def test_options_that_do_not_go(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=f"model '{name}': {message}|model '{name}' {message}"):
        create_model(name, **options)


@pytest.mark.parametrize("name", ["cifar_resnet_se", "cifar_resnext_se", "cifar_resnet_fixup_se"])
def test_gates_start_as_linear_layers_do(name: str) -> None:
    """Mix & Match's gates are linear layers, which its start of the convolutions leaves alone."""
    torch.manual_seed(0)
    tensors = dict(create_model(name, depth=44).named_parameters())
    gates = [key for key in tensors if ".se.fc" in key and key.endswith("weight")]
    assert len(gates) == 6
    for key in gates:
        weight, bias = tensors[key], tensors[key.replace("weight", "bias")]
        bound = weight.shape[1] ** -0.5
        assert max(weight.abs().max(), bias.abs().max()) <= bound + 1e-6
        assert weight.numel() < 200 or weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.2)
