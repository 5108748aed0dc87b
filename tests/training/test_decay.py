"""Groups of parameters: which decay and how strongly, and the head's learning rate."""

import pytest
import torch
import torchvision
from torch import nn

from anysize.models.spec import create_model
from anysize.norms.factory import create_norm
from anysize.recipe import load_recipe
from anysize.registry import UserError
from anysize.training.decay import freeze, stage_depths, weight_decays
from anysize.training.optimizer import RegimeOptimizer
from anysize.training.regime import parse_schedule
from anysize.training.settings import OptimizerSettings


def test_the_head_has_a_learning_rate_of_its_own() -> None:
    """Through regime, changes of the optimizer and checkpoints; each parameter is in one group."""
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    settings = OptimizerSettings(
        name=parse_schedule("0:sgd 2:adam"), lr=parse_schedule("0:0.1:linear 2:0.001"), head_lr=10.0
    )

    def rates(optimizer: RegimeOptimizer) -> dict[str, float]:
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        groups = optimizer.torch.param_groups
        return {names[id(parameter)]: group["lr"] for group in groups for parameter in group["params"]}

    def expected(lr: float) -> dict[str, float]:
        return {name: pytest.approx(lr * (10 if name[0] == "2" else 1)) for name, _ in model.named_parameters()}

    optimizer = RegimeOptimizer(model, settings)
    assert sum(len(group["params"]) for group in optimizer.torch.param_groups) == 6
    for epoch, lr in ((0.0, 0.1), (1.0, 0.0505), (2.0, 0.001), (2.5, 0.001)):
        assert optimizer.apply(epoch)["lr"] == pytest.approx(lr)  # what the log says
        assert rates(optimizer) == expected(lr)
    model(torch.ones(2, 3)).sum().backward()
    optimizer.torch.step()
    resumed = RegimeOptimizer(model, settings)
    resumed.load_state_dict(optimizer.state_dict())
    resumed.apply(3.0)
    assert rates(resumed) == expected(0.001)
    decays = {name: group["weight_decay"] for group in resumed.torch.param_groups for name in map(id, group["params"])}
    assert [decays[id(parameter)] > 0 for parameter in model.parameters()] == [True, False, False, False, True, False]


def test_a_head_at_the_learning_rate_of_the_rest_is_no_group_of_its_own() -> None:
    optimizer = RegimeOptimizer(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), OptimizerSettings())
    assert [len(group["params"]) for group in optimizer.torch.param_groups] == [2, 2]


def test_a_model_without_a_head_is_told() -> None:
    for model in (nn.Conv2d(3, 4, 3), nn.Sequential(nn.Conv2d(1, 1, 3), nn.Linear(1, 1).requires_grad_(False))):
        with pytest.raises(UserError, match=r"optimizer\.head_lr is 2, and .* has no head that is trained"):
            RegimeOptimizer(model, OptimizerSettings(head_lr=2.0))


def test_weight_decay_leaves_biases_and_norms_alone_unless_told() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 2))
    optimizer = RegimeOptimizer(model, OptimizerSettings(weight_decay=parse_schedule("0:0.01 1:0.5")))
    for epoch, decay in ((0.0, 0.01), (1.0, 0.5)):
        optimizer.apply(epoch)
        assert [group["weight_decay"] for group in optimizer.torch.param_groups] == [decay, 0.0]


@pytest.mark.parametrize(
    ("decay_on", "expected"),
    [
        ("weights", ["conv.weight", "fc.weight"]),
        ("no-biases", ["conv.weight", "batch.weight", "layer.weight", "fc.weight"]),
        (
            "all",
            [
                "conv.weight",
                "conv.bias",
                "batch.weight",
                "batch.bias",
                "layer.weight",
                "layer.bias",
                "fc.weight",
                "fc.bias",
            ],
        ),
    ],
)
def test_weight_decay_is_on_what_its_name_says(decay_on: str, expected: list[str]) -> None:
    """A layer norm over (C, H, W) has weights of three dimensions, which are no less a norm's."""
    model = nn.ModuleDict(
        {
            "conv": nn.Conv2d(3, 4, 3),
            "batch": nn.BatchNorm2d(4),
            "layer": nn.LayerNorm((4, 6, 6)),
            "fc": nn.Linear(4, 2),
        }
    )
    frozen = nn.Linear(1, 1).requires_grad_(requires_grad=False)
    model["frozen"] = frozen
    decays = weight_decays(model, OptimizerSettings(decay_on=decay_on))
    assert [name for name, decay in decays.items() if decay is None] == expected
    others = {name for name, _ in model.named_parameters() if not name.startswith("frozen")} - set(expected)
    assert {name for name, decay in decays.items() if decay == 0} == others


def decay_of_torchvision(
    model: nn.Module, norm: float | None, bias: float | None, custom: dict[str, float]
) -> dict[str, float | None]:
    """Reference, as torchvision's training script chooses the group of a parameter; None: the usual weight decay."""
    keys = ({"bias": bias} if bias is not None else {}) | custom
    norms = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.modules.instancenorm._InstanceNorm)
    found: dict[str, float | None] = {}
    for prefix, module in model.named_modules():
        for name, _ in module.named_parameters(recurse=False):
            whole = f"{prefix}.{name}" if prefix else name
            key = next((key for key in keys if key == (whole if "." in key else name)), None)
            found[whole] = keys[key] if key else norm if norm is not None and isinstance(module, norms) else None
    return found


@pytest.mark.parametrize("norm", [None, 0.0, 0.3])
@pytest.mark.parametrize("bias", [None, 0.0, 0.2])
@pytest.mark.parametrize("custom", [{}, {"class_token": 0.0, "encoder.layers.encoder_layer_0.ln_1.weight": 0.7}])
def test_groups_are_those_of_torchvisions_reference_training(
    norm: float | None, bias: float | None, custom: dict[str, float]
) -> None:
    vision = torchvision.models.VisionTransformer(8, 4, 1, 2, 8, 16, num_classes=2)
    convolutions = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.GroupNorm(2, 8), nn.Linear(8, 2))
    for model, own in ((vision, custom), (convolutions, {})):
        settings = OptimizerSettings(
            decay_on="all",
            norm_weight_decay=-1 if norm is None else norm,
            bias_weight_decay=-1 if bias is None else bias,
            custom_weight_decay=own,
        )
        assert weight_decays(model, settings) == decay_of_torchvision(model, norm, bias, own)


@pytest.mark.parametrize("norm", ["batch", "sync_batch", "group", "layer", "layer_elementwise", "instance", "online"])
def test_the_parameters_of_every_norm_have_a_decay_of_their_own(norm: str) -> None:
    """Beside a head with a learning rate of its own, through a change of the optimizer and a checkpoint."""
    model = nn.Sequential(nn.Conv2d(1, 4, 3), create_norm(norm, 4, **NORM_OPTIONS.get(norm, {})), nn.Linear(6, 2))
    settings = OptimizerSettings(
        name=parse_schedule("0:sgd 1:adamw"), weight_decay=parse_schedule("0:0.1 1:0.2"), head_lr=10.0,
        norm_weight_decay=0.3, custom_weight_decay={"2.bias": 0.4},
    )  # fmt: skip
    optimizer = RegimeOptimizer(model, settings)

    def now(optimizer: RegimeOptimizer) -> dict[str, tuple[float, float]]:
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        return {
            names[id(parameter)]: (group["weight_decay"], group["lr"])
            for group in optimizer.torch.param_groups
            for parameter in group["params"]
        }

    for epoch, decay in ((0.0, 0.1), (1.0, 0.2)):
        optimizer.apply(epoch)
        assert now(optimizer) == {
            "0.weight": (decay, 0.1), "0.bias": (0.0, 0.1), "1.weight": (0.3, 0.1), "1.bias": (0.3, 0.1),
            "2.weight": (decay, 1.0), "2.bias": (0.4, 1.0),
        }  # fmt: skip
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.torch.step()
    # A checkpoint says nothing of groups, so that one from before has them, too.
    resumed = RegimeOptimizer(model, settings)
    resumed.load_state_dict(optimizer.state_dict())
    resumed.apply(1.5)
    assert now(resumed) == now(optimizer)
    assert torch.equal(
        resumed.torch.state[model[1].weight]["exp_avg"], optimizer.torch.state[model[1].weight]["exp_avg"]
    )


NORM_OPTIONS = {"group": {"num_groups": 2}, "layer_elementwise": {"shape": (6, 6)}, "instance": {"affine": True}}


def test_fixups_scalars_are_named() -> None:
    model = create_model("cifar_resnet_fixup", 3, depth=8)
    settings = OptimizerSettings(custom_weight_decay={"multiplier": 0.5, "bias_before": 0.25})
    decays = weight_decays(model, settings)
    assert {name.rpartition(".")[2]: decay for name, decay in decays.items()} == {
        "weight": None, "bias": 0.0, "bias_before": 0.25, "multiplier": 0.5, "bias_after": 0.0
    }  # fmt: skip


def test_a_decay_that_leads_nowhere_is_refused() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    with pytest.raises(UserError, match=r"custom_weight_decay has 'wieght', .* did you mean 'weight'\?"):
        RegimeOptimizer(model, OptimizerSettings(custom_weight_decay={"wieght": 0.0}))
    with pytest.raises(UserError, match=r"has '0\.wight', .* did you mean '0\.weight'\?"):
        RegimeOptimizer(model, OptimizerSettings(custom_weight_decay={"0.wight": 0.0}))
    with pytest.raises(UserError, match="of 'bias' is -1; expected at least 0"):
        RegimeOptimizer(model, OptimizerSettings(custom_weight_decay={"bias": -1.0}))
    recipe = load_recipe("quickstart", {"optimizer.custom_weight_decay.fc.bias": "0.5"})
    assert recipe.optimizer.custom_weight_decay == {"fc.bias": 0.5}


def test_stages_learn_the_slower_the_nearer_they_are_to_the_images() -> None:
    model = create_model("resnet8", num_classes=3)
    optimizer = RegimeOptimizer(model, OptimizerSettings(lr=parse_schedule(0.1), head_lr=10.0, layer_decay=0.5))
    optimizer.apply(0.0)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = optimizer.torch.param_groups
    rates = {names[id(parameter)]: group["lr"] for group in groups for parameter in group["params"]}
    assert len(rates) == len(names)
    expected = {"fc": 1.0, "layer3": 0.05, "layer2": 0.025, "layer1": 0.0125, "conv1": 0.00625, "bn1": 0.00625}
    for name, rate in rates.items():
        assert rate == pytest.approx(expected[name.partition(".")[0]]), name


def test_stages_of_a_network_in_one_container_are_its_parts() -> None:
    with torch.device("meta"):
        depths = stage_depths(create_model("efficientnet_b0"))
        deep = stage_depths(create_model("vgg11_bn"))
    wanted = ("features.0.0.weight", "features.8.0.weight", "classifier.1.weight")
    assert [depths[name] for name in wanted] == [9, 1, 0]
    assert (
        deep["features.0.weight"] == deep["features.1.weight"] > deep["features.4.weight"] > deep["classifier.0.bias"]
    )


def test_parts_are_frozen_by_name_or_pattern() -> None:
    model = create_model("resnet8", num_classes=3)
    freeze(model, ["conv1", "layer2", "layer3.*.conv1.weight"])
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert {name.partition(".")[0] for name in frozen} == {"conv1", "layer2", "layer3"}
    assert "layer3.0.conv1.weight" in frozen
    assert "layer3.0.conv2.weight" not in frozen
    assert len(RegimeOptimizer(model, OptimizerSettings(layer_decay=0.9)).parameters) == len(
        [*model.parameters()]
    ) - len(frozen)
    with pytest.raises(UserError, match=r"optimizer.freeze has 'layer4', .* did you mean 'layer"):
        freeze(model, ["layer4"])
    freeze(model, ["*"])
    with pytest.raises(UserError, match="no parameters to train"):
        RegimeOptimizer(model, OptimizerSettings())
