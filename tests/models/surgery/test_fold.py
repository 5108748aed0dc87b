"""Folded networks compute what the networks that they came from compute in evaluation."""

import copy

import pytest
import torch
import torch.nn.functional as F
import torchvision
from tiers import tiers
from torch import Tensor, nn

from anysize import OnlineNorm2d, UserError, create_model, fold_batch_norm
from anysize.models.blocks.scales import ScaleSum, half_resolution
from anysize.models.surgery.elasticize import elasticize
from anysize.norms.layers import FrozenBatchNorm

NORMS = (nn.modules.batchnorm._BatchNorm, OnlineNorm2d, FrozenBatchNorm, torchvision.ops.FrozenBatchNorm2d)


def randomize(model: nn.Module) -> nn.Module:
    """A trained model's variety: no weight, bias or running statistic of a norm is 0 or 1."""
    generator = torch.Generator().manual_seed(0)
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if name.endswith(("running_var", ".var")):
            value.data.copy_(torch.rand(value.shape, generator=generator) + 0.5)
        elif value.dim() == 1 and name.endswith("weight"):  # small, so that deep networks do not overflow
            value.data.copy_(0.5 * torch.rand(value.shape, generator=generator) + 0.25)
        elif value.dim() == 1:
            value.data.copy_(0.1 * torch.randn(value.shape, generator=generator))
    return model.double().eval()


def count_norms(model: nn.Module) -> int:
    return sum(isinstance(module, NORMS) for module in model.modules())


def assert_folds(model: nn.Module, left: int, *shape: int) -> nn.Module:
    """The folded model has `left` norms and the outputs of `model`, in float64 to 1e-10 and in float32 to 1e-5."""
    randomize(model)
    images = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model(images.clone())
        folded = fold_batch_norm(model)
        assert count_norms(folded) == left
        scale = expected.abs().max()
        assert expected.std() > 0
        torch.testing.assert_close(folded(images.clone()) / scale, expected / scale, rtol=0, atol=1e-10)
        wide = fold_batch_norm(model.float())(images.float())
        torch.testing.assert_close(wide.double() / scale, expected / scale, rtol=0, atol=1e-5)
    return folded


@pytest.mark.parametrize(
    ("name", "left", "size"),
    tiers(
        [
            ("resnet18", 0, 64),
            ("mobilenet_v2", 0, 64),
            ("efficientnet_b0", 0, 64),
            ("shufflenet_v2_x0_5", 0, 64),
            ("googlenet", 0, 64),
            ("inception_v3", 0, 80),
            ("densenet121", 62, 64),  # the norm before each layer's first activation stays, and the last one
            ("resnet20", 0, 24),
            ("timm:resnet18", 0, 64),  # norm, dropout and activation in one module
            ("timm:tf_efficientnet_b0", 0, 64),  # convolutions that pad as TensorFlow's do
            ("timm:resnetv2_50", 17, 64),  # norms before the activation
        ],
        fast=["shufflenet_v2_x0_5", "resnet20", "timm:resnet18"],
        slow=[
            "mobilenet_v2",
            "efficientnet_b0",
            "googlenet",
            "inception_v3",
            "densenet121",
            "timm:tf_efficientnet_b0",
            "timm:resnetv2_50",
        ],
    ),
)
def test_known_networks(name, left, size):
    torch.manual_seed(0)
    assert_folds(create_model(name, num_classes=10), left, 2, 3, size, size)


@pytest.mark.parametrize(
    ("name", "left"),
    tiers(
        [
            ("resnext50_elastic", 0),
            ("se_resnext50_elastic", 0),
            ("resnext50", 0),
            ("dla60x", 0),
            ("dla60x_elastic", 0),
            ("resnext101_elastic", 0),
            ("dla102x", 0),
            ("dla102x_elastic", 0),
            ("densenet201", 102),
            ("densenet201_elastic", 104),
        ],
        fast=(),
        slow=["resnext50_elastic", "dla60x_elastic", "densenet201_elastic"],
    ),
)
def test_elastic_networks(name, left):
    torch.manual_seed(0)
    assert_folds(create_model(name, num_classes=10), left, 1, 3, 75, 50)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("se_resnext50_elastic", {"layers": (2, 2, 2, 1), "widths": (8, 8, 8, 16), "cardinality": 8, "aspp_width": 8}),
        ("dla60x_elastic", {"channels": (8, 8, 32, 32, 64, 64), "cardinality": 4}),
    ],
)
def test_elastic_networks_for_segmentation(name, options):
    torch.manual_seed(0)
    assert_folds(create_model(name, num_classes=4, task="segmentation", **options), 0, 1, 3, 33, 33)


def test_a_network_that_was_made_elastic():
    model = create_model("resnet20", num_classes=10)
    elasticize(model)
    assert_folds(model, 0, 2, 3, 27, 21)


@pytest.mark.parametrize("ecm", ["none", "ls", "ac"])
def test_online_norm_leaves_its_error_compensation_alone(ecm):
    model = create_model("resnet20", norm="online", norm_options={"ecm": ecm})
    folded = assert_folds(model, 0, 2, 3, 24, 24)
    kept = sum(type(module).__name__ == "Compensation" for module in folded.modules())
    assert kept == (0 if ecm == "none" else 21)


def test_frozen_batch_norms_of_ours_and_torchvision():
    assert_folds(create_model("resnet20", norm="frozen_batch"), 0, 2, 3, 24, 24)
    assert_folds(torchvision.models.resnet18(norm_layer=torchvision.ops.FrozenBatchNorm2d), 0, 1, 3, 40, 40)


class TwoBranches(nn.Module):
    """A shared norm on the sum of two branches, and a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.half, self.merge = half_resolution(), ScaleSum()
        self.full = nn.Conv2d(6, 8, 3, padding=1)
        self.low = nn.Sequential(nn.Conv2d(6, 8, 3, padding=1, bias=False))
        self.norm = nn.BatchNorm2d(8)
        self.shortcut = nn.Sequential(nn.Conv2d(6, 8, 1), nn.BatchNorm2d(8))
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        half = F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)
        out = self.norm(self.merge(self.full(x), self.low(half)))
        out += self.shortcut(x)
        return self.act(out)


def test_a_norm_on_the_sum_of_two_scales():
    assert_folds(TwoBranches(), 0, 2, 6, 9, 7)


class Behind(nn.Module):
    """`norm` behind what `join` makes of two convolutions."""

    def __init__(self, join, first=8, second=8, channels=8) -> None:
        super().__init__()
        self.join = join
        self.one, self.two = nn.Conv2d(3, first, 3), nn.Conv2d(3, second, 3, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.join(self.one(x), self.two(x)))


@pytest.mark.parametrize(
    "model",
    [
        Behind(lambda a, b: a + b),
        Behind(lambda a, b: torch.add(a, b)),
        Behind(lambda a, b: a.add_(b)),
        Behind(lambda a, b: torch.cat((a, b), 1), 3, 5),
        Behind(lambda a, b: torch.cat([a, b], dim=1), 3, 5),
        Behind(lambda a, b: a + F.adaptive_avg_pool2d(b, 1)),
    ],
)
def test_sums_and_concatenations_hand_a_norm_on(model):
    assert_folds(model, 0, 2, 3, 7, 7)


@pytest.mark.parametrize(
    "model",
    [
        Behind(lambda a, b: torch.add(a, b, alpha=2)),
        Behind(lambda a, b: a * b),
        Behind(lambda a, b: a - b),
        Behind(lambda a, b: a + a),
        Behind(lambda a, b: a + 1),
        Behind(lambda a, b: torch.cat((a, b), 2)),
        Behind(lambda a, b: torch.cat((a, b.relu()), 1), 3, 5),
        Behind(lambda a, b: (a + b) + b),
        Behind(lambda a, b: a + b, first=1),  # one channel is added to eight
    ],
)
def test_what_is_no_plain_sum_keeps_its_norm(model):
    assert_folds(model, 1, 2, 3, 7, 7)


@pytest.mark.parametrize(
    ("layers", "left", "shape"),
    [
        ([nn.Conv1d(3, 4, 3, groups=1), nn.BatchNorm1d(4)], 0, (2, 3, 9)),
        ([nn.Conv3d(2, 4, 3, groups=2), nn.BatchNorm3d(4)], 0, (2, 2, 5, 5, 5)),
        ([nn.Linear(3, 4), nn.BatchNorm1d(4)], 0, (5, 3)),
        ([nn.ConvTranspose2d(6, 4, 3, stride=2, groups=2), nn.BatchNorm2d(4)], 0, (2, 6, 5, 5)),
        ([nn.ConvTranspose2d(6, 4, 3, bias=False), nn.BatchNorm2d(4)], 0, (2, 6, 5, 5)),
        ([nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), nn.BatchNorm2d(4)], 0, (2, 3, 5, 5)),
        ([nn.Conv2d(3, 4, 3), nn.Dropout(0.5), nn.Identity(), nn.BatchNorm2d(4)], 0, (2, 3, 5, 5)),
        ([nn.Conv2d(3, 4, 3), nn.AvgPool2d(2), nn.BatchNorm2d(4)], 0, (2, 3, 7, 7)),
        ([nn.Conv2d(3, 4, 3), nn.AvgPool2d(3, 2, padding=1, count_include_pad=False), nn.BatchNorm2d(4)], 0,
         (2, 3, 7, 7)),
        ([nn.Conv2d(3, 4, 3), nn.AvgPool2d(3, 2, padding=1), nn.BatchNorm2d(4)], 1, (2, 3, 7, 7)),
        ([nn.Conv2d(3, 4, 3), nn.AvgPool2d(2, divisor_override=3), nn.BatchNorm2d(4)], 1, (2, 3, 7, 7)),
        ([nn.Conv2d(3, 4, 3), nn.Upsample(scale_factor=2, mode="bilinear"), nn.BatchNorm2d(4)], 0, (2, 3, 7, 7)),
        ([nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.BatchNorm2d(4)], 1, (2, 3, 7, 7)),
        ([nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, groups=2)], 0, (2, 3, 9, 9)),
        ([nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 5, 1, bias=False)], 0, (2, 3, 9, 9)),
        ([nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 5, 3, padding=1)], 1, (2, 3, 9, 9)),
        ([nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 5, 3, padding="same")], 1, (2, 3, 9, 9)),
        ([nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 5, 3, padding="valid")], 0, (2, 3, 9, 9)),
        ([nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.ConvTranspose2d(4, 5, 3)], 1, (2, 3, 9, 9)),
        ([nn.Linear(3, 4), nn.ReLU(), nn.BatchNorm1d(4), nn.Linear(4, 5)], 0, (5, 3)),
        ([nn.BatchNorm2d(3)], 1, (2, 3, 5, 5)),
    ],
)  # fmt: skip
def test_rows_of_layers(layers, left, shape):
    assert_folds(nn.Sequential(*layers), left, *shape)


def test_a_norm_that_learns_no_weight_or_keeps_no_statistics():
    assert_folds(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False)), 0, 2, 3, 5, 5)
    assert_folds(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)), 1, 2, 3, 5, 5)


def test_a_layer_or_norm_that_is_used_twice_stays():
    conv, norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
    assert_folds(nn.Sequential(conv, norm, nn.ReLU(), conv), 1, 2, 3, 5, 5)
    assert_folds(nn.Sequential(nn.Conv2d(3, 3, 3), norm, nn.ReLU(), nn.Conv2d(3, 3, 1), norm), 1, 2, 3, 5, 5)


def test_tied_weights_stay():
    one, two = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3)
    two.weight = one.weight
    assert_folds(nn.Sequential(one, nn.BatchNorm2d(3), nn.ReLU(), two), 1, 2, 3, 7, 7)


def test_weights_that_the_network_reads_itself_stay():
    class Autoencoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            return F.conv_transpose2d(self.norm(self.conv(x)), self.conv.weight)

    assert_folds(Autoencoder(), 1, 2, 3, 7, 7)


def test_a_layer_that_an_untraceable_part_uses_too_stays():
    class Again(nn.Module):
        def __init__(self, conv: nn.Module) -> None:
            super().__init__()
            self.conv = conv

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x) if x.mean() < 1e9 else x

    conv = nn.Conv2d(3, 3, 3)
    assert_folds(nn.Sequential(conv, nn.BatchNorm2d(3), Again(conv)), 1, 2, 3, 7, 7)


def test_a_value_that_is_read_elsewhere_keeps_its_norm():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return self.norm(y) * y.sigmoid()

    assert_folds(Twice(), 1, 2, 3, 5, 5)


def test_a_norm_whose_input_is_changed_in_place_afterwards_is_not_folded_on():
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.conv = nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = x.tanh()
            y = self.norm(x)
            x.relu_()
            return self.conv(y) + x

    assert_folds(InPlace(), 1, 2, 3, 5, 5)


def test_a_change_in_place_by_another_name_counts():
    class View(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.conv = nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = x.tanh()
            y = self.norm(x[:, :3])
            x.mul_(2)
            return self.conv(y) + x[:, 1:]

    assert_folds(View(), 1, 2, 4, 5, 5)


def test_linear_layers_take_the_last_dimension_and_norms_the_second():
    assert_folds(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm2d(4)), 1, 2, 4, 5, 3)
    assert_folds(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(4), nn.Linear(4, 5)), 1, 2, 4, 5, 4)
    behind = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    before = nn.Sequential(nn.ReLU(), nn.BatchNorm1d(4), nn.Linear(4, 3))
    for folded in (assert_folds(behind, 0, 5, 4), assert_folds(before, 0, 5, 4)):
        with pytest.raises(AssertionError, match=r"linear layer for values \(N, C\)"):
            folded(torch.zeros(5, 4, 4, dtype=torch.float64))


def test_reading_the_shape_is_no_reading_of_values():
    class Shape(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return self.norm(y).reshape(y.shape[0], y.size(1), -1)

    assert_folds(Shape(), 0, 2, 3, 5, 5)


def test_a_norm_that_is_replaced_hooked_or_unknown_stays():
    def hooked() -> nn.Module:
        model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        model[1].register_forward_hook(lambda module, args, output: output * 2)
        return model

    assert_folds(hooked(), 1, 2, 3, 5, 5)
    between = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Identity(), nn.BatchNorm2d(4))
    between[1].register_forward_hook(lambda module, args, output: output.relu())
    assert_folds(between, 1, 2, 3, 5, 5)
    parametrized = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 1)), nn.BatchNorm2d(4))
    assert_folds(parametrized, 1, 2, 3, 5, 5)


class Branching(nn.Module):
    """What a module does depends on values, which torch.fx cannot trace."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)) if x.mean() > 0 else x


def test_an_untraceable_part_is_left_whole():
    assert_folds(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Sequential(Branching())), 1, 2, 3, 5, 5)


def test_an_untraceable_network_is_refused():
    with pytest.raises(UserError, match="norms of Branching cannot be folded: its forward pass cannot be traced"):
        fold_batch_norm(Branching())


def test_what_cannot_even_be_left_whole_is_refused():
    class Unregistered(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = [nn.Conv2d(3, 4, 1)]

        def forward(self, x: Tensor) -> Tensor:
            return self.layers[0](x)

    class Told(Branching):
        def forward(self, x: Tensor, how: object = None) -> Tensor:
            return super().forward(x)

    class Telling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = Told()

        def forward(self, x: Tensor) -> Tensor:
            return self.part(x, object())

    for model in (Unregistered(), Telling()):
        with pytest.raises(UserError, match="its forward pass cannot be traced"):
            fold_batch_norm(model)


def test_a_compiled_model_is_folded():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    assert count_norms(fold_batch_norm(torch.compile(model, backend="eager"))) == 0


def test_the_given_model_is_untouched():
    model = create_model("resnet20").train()
    before = copy.deepcopy(model.state_dict())
    folded = fold_batch_norm(model)
    assert model.training
    assert not folded.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    with torch.no_grad():
        for parameter in folded.parameters():
            parameter.fill_(float("nan"))
    assert all(value.isfinite().all() for value in model.state_dict().values())


def test_a_folded_model_can_be_copied_and_exported():
    folded = copy.deepcopy(fold_batch_norm(randomize(create_model("resnet20")).float()))
    images = torch.randn(2, 3, 24, 24)
    exported = torch.export.export(folded, (images,)).module()
    torch.testing.assert_close(exported(images), folded(images))
    assert not any("running_mean" in name for name in folded.state_dict())


def test_memory_order_is_kept():
    model = create_model("resnet20").to(memory_format=torch.channels_last)
    folded = fold_batch_norm(model)
    assert folded.layer1.get_submodule("0").conv1.weight.is_contiguous(memory_format=torch.channels_last)
