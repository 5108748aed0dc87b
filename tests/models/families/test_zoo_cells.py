"""Networks of cells, Inception v2 and timm's networks: published counts and shapes, any size, auxiliary classifiers."""

import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from anysize.models.blocks.auxiliary import AuxiliaryOutputs
from anysize.models.blocks.cell_operations import FactorizedReduce
from anysize.models.blocks.cells import FourWindows
from anysize.models.families.inception_v2 import InceptionV2
from anysize.models.measure.input_size import check_size
from anysize.models.spec import create_model
from anysize.models.weights.published import pretrained_weights
from anysize.registry import UserError

SMALL = {"init_channels": 4, "layers": 3}


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "expected"),
    [("cifar_nasnet_a", 4_288_944), ("cifar_amoebanet_a", 3_603_072), ("cifar_darts_v2", 3_825_768)],
)
def test_parameter_counts_of_the_published_code(name: str, expected: int) -> None:
    with torch.device("meta"):
        assert parameters(create_model(name)) == expected


@pytest.mark.parametrize(("name", "millions"), [("nasnet_a", 5.77), ("amoebanet_a", 4.80), ("darts_v2", 5.17)])
def test_imagenet_cells_at_the_published_codes_width_and_depth(name: str, millions: float) -> None:
    with torch.device("meta"):
        assert round(parameters(create_model(name, init_channels=36, layers=20)) / 1e6, 2) == millions


def test_darts_for_imagenet_has_the_papers_size() -> None:
    """4.7 million parameters: arXiv 1806.09055, table 3."""
    with torch.device("meta"):
        assert round(parameters(create_model("darts_v2", auxiliary=False)) / 1e6, 1) == 4.7


@pytest.mark.parametrize("name", ["cifar_nasnet_a", "cifar_amoebanet_a", "cifar_darts_v2", "nasnet_a", "darts_v2"])
@pytest.mark.parametrize("sides", [(33, 18), (8, 8), (1, 1)])
def test_cells_learn_at_any_size(name: str, sides: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = create_model(name, 3, 2, **SMALL)
    outputs = model(torch.randn(4, 2, *sides))
    assert isinstance(outputs, AuxiliaryOutputs)
    assert outputs.logits.shape == outputs.auxiliary.shape == (4, 3)
    sum(F.cross_entropy(logits, torch.tensor([0, 1, 2, 0])) for logits in outputs).backward()
    # AmoebaNet's reduction cell drops a node, and so does NASNet's: what no node uses gets no gradient.
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    assert model.get_parameter("auxiliary_head.classifier.weight").grad is not None
    assert model.eval()(torch.randn(4, 2, *sides)).shape == (4, 3)


def test_without_the_auxiliary_classifier_a_tensor_comes_out() -> None:
    model = create_model("cifar_darts_v2", 3, auxiliary=False, **SMALL)
    assert isinstance(model(torch.randn(2, 3, 16, 16)), Tensor)
    assert not any(name.startswith("auxiliary") for name in model.state_dict())


def test_factorized_reduce_is_the_published_one_at_even_sides() -> None:
    layer = FactorizedReduce(4, 6).double().eval()
    x = torch.randn(2, 4, 8, 6, dtype=torch.float64)
    rectified = x.relu()
    expected = layer.bn(torch.cat([layer.conv_1(rectified), layer.conv_2(rectified[:, :, 1:, 1:])], dim=1))
    assert torch.equal(layer(x), expected)
    assert layer(x[:, :, :7, :5]).shape == (2, 6, 4, 3)


@pytest.mark.parametrize(("side", "stride"), [(8, 3), (7, 2)])  # CIFAR at 32 pixels, ImageNet at 224
def test_auxiliary_windows_are_the_published_ones(side: int, stride: int) -> None:
    x = torch.randn(2, 3, side, side, dtype=torch.float64)
    torch.testing.assert_close(FourWindows()(x), F.avg_pool2d(x, 5, stride), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("side", range(1, 12))
def test_auxiliary_windows_reach_both_edges(side: int) -> None:
    x = torch.arange(float(side)).expand(1, 1, side, side)
    pooled = FourWindows()(x)
    assert pooled.shape == (1, 1, 2, 2)
    assert (pooled[..., 0] + pooled[..., 1]).allclose(torch.tensor(side - 1.0))


def test_drop_path_spares_plain_shortcuts_and_evaluation() -> None:
    torch.manual_seed(0)
    model = create_model("cifar_darts_v2", drop_path=0.5, **SMALL)
    cell = model.get_submodule("cells.0")
    for op, drop in zip(cell.get_submodule("_ops"), cell.get_submodule("drops"), strict=True):
        assert isinstance(drop, nn.Identity if isinstance(op, nn.Identity) else StochasticDepth)
    x = torch.randn(4, 3, 8, 8)
    assert not torch.equal(model(x).logits, model(x).logits)
    assert torch.equal(model.eval()(x), model(x))
    whole = create_model("cifar_darts_v2", drop_path=0.0, **SMALL)
    assert not any(isinstance(module, StochasticDepth) for module in whole.modules())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": 2}, "layers is 2 and init_channels 36; expected at least 3 and 2"),
        ({"drop_path": 1.0}, "drop_path is 1.0; expected a probability"),
        ({"dropout": 0.1}, "takes no option 'dropout'; its options: auxiliary, drop_path, init_channels, layers"),
    ],
)
def test_options_that_do_not_go(options: dict[str, object], message: str) -> None:
    with torch.device("meta"), pytest.raises(UserError, match=message):
        create_model("cifar_amoebanet_a", **options)


def test_inception_v2_has_the_papers_shapes() -> None:
    """arXiv 1502.03167, figure 5: channels and sides after each module at 224 pixels."""
    expected = {
        "3a": (256, 28), "3b": (320, 28), "3c": (576, 14), "4a": (576, 14), "4b": (576, 14), "4c": (576, 14),
        "4d": (576, 14), "4e": (1024, 7), "5a": (1024, 7), "5b": (1024, 7),
    }  # fmt: skip
    seen = {}
    with torch.device("meta"):
        model = create_model("inception_v2").eval()
        assert isinstance(model, InceptionV2)
        for name, module in model.inception.named_children():
            module.register_forward_hook(
                lambda _, __, out, name=name: seen.update({name: (out.shape[1], *out.shape[2:])})
            )
        model(torch.empty(1, 3, 224, 224))
    assert seen == {name: (channels, side, side) for name, (channels, side) in expected.items()}
    assert parameters(model) == 11_194_984


def test_timms_networks_behind_our_names(monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.device("meta"):
        assert parameters(create_model("mobilenet_v1")) == 4_231_976
        assert parameters(create_model("inception_resnet_v2")) == 55_843_464
    assert create_model("mobilenet_v1", 7, 1, drop_rate=0.1)(torch.zeros(2, 1, 33, 33)).shape == (2, 7)
    kinds = [{type(m) for m in create_model("mobilenet_v1", 2, **o).modules()} for o in ({}, {"act_layer": "relu6"})]
    assert [(nn.ReLU in kind, nn.ReLU6 in kind) for kind in kinds] == [(True, False), (False, True)]
    with pytest.raises(UserError, match=r"act_layer relu6; set that, or take the model timm:mobilenetv1_100"):
        pretrained_weights("mobilenet_v1")  # are for ReLU6
    with pytest.raises(UserError, match=r"mobilenetv1_100 does not take the options {.*'no_such_option': 1}"):
        create_model("mobilenet_v1", no_such_option=1)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"is not installed: pip install 'anysize\[zoo\]'"):
        create_model("mobilenet_v1")


@pytest.mark.slow
def test_sizes_for_training_with_auxiliary_classifiers() -> None:
    """The auxiliary classifier of Inception v3 takes large images alone, and is there in training alone."""
    with torch.device("meta"):
        model = create_model("inception_v3", aux_logits=True)
    with pytest.raises(
        UserError, match=r"Inception3 cannot take images of 96 pixels: .*; the smallest it takes is 299"
    ):
        check_size(model, 96, training=True)
