"""The regime: values by progress, and the optimizers it drives."""

import copy
import math

import pytest
import torch
from torch import nn

from anysize.registry import UserError
from anysize.training.gradients import split_decay
from anysize.training.optimizer import RegimeOptimizer, regime_at, scale_to_batch, stretch
from anysize.training.regime import parse_schedule, to_data, value_at
from anysize.training.settings import OptimizerSettings


def test_the_cifar_regime_of_the_paper() -> None:
    lr = parse_schedule("0:0.1 81:0.01 122:1e-3 164:1e-4")
    assert [value_at(lr, epoch) for epoch in (0, 80.999, 81, 121, 122, 163, 164, 199)] == [
        0.1, 0.1, 0.01, 0.01, 1e-3, 1e-3, 1e-4, 1e-4,
    ]  # fmt: skip


def test_ramps_reach_the_next_point() -> None:
    for ramp, middle in (("linear", 0.5), ("cosine", 0.5), ("exponential", math.sqrt(1e-2))):
        points = parse_schedule([{"value": 1.0, "ramp": ramp}, {"epoch": 10, "value": 1e-2 if ramp[0] == "e" else 0.0}])
        expected = middle if ramp != "exponential" else 0.1
        assert value_at(points, 0) == 1.0
        assert value_at(points, 5) == pytest.approx(expected)
        assert value_at(points, 10) == points[1].value
        assert value_at(points, 1e6) == points[1].value


def test_poly_is_deeplabs_at_every_step() -> None:
    """base * (1 - step / steps) ** 0.9 (DeepLab v3, section 4.1), also where the regime is stretched."""
    settings = OptimizerSettings(epochs=50, lr=parse_schedule("0:0.007:poly 50:0"))
    for epochs, each in ((50, 662), (5, 31)):
        stretched = stretch(settings, epochs)
        for step in (0, 1, each, 2 * each + 7, epochs * each - 1):
            expected = 0.007 * (1 - step / (epochs * each)) ** 0.9
            assert regime_at(stretched, step / each)[1]["lr"] == pytest.approx(expected, rel=1e-9)
    upwards = parse_schedule([{"value": 1.0, "ramp": "poly"}, {"epoch": 10, "value": 3.0}])
    assert [value_at(upwards, epoch) for epoch in (0, 10, 11)] == [1.0, 3.0, 3.0]
    assert value_at(upwards, 5) == pytest.approx(3 - 2 * 0.5**0.9)


def test_schedules_read_back_from_their_toml_form() -> None:
    for given in (0.1, "adam", "0:0.1:poly 90:0", [{"value": 0.045, "ramp": "step", "every": 1, "factor": 0.98}]):
        schedule = parse_schedule(given)
        assert parse_schedule(to_data(schedule)) == schedule


@pytest.mark.parametrize(
    "given", ["1:0.1", "0:0.1 0:0.2", "0:0.1:linear", "0:0.1:poly", "0:sgd:linear 5:adam", [], True, "0:0.1 3:adam"]
)
def test_schedules_that_make_no_sense_are_refused(given: object) -> None:
    with pytest.raises(UserError):
        parse_schedule(given)


def test_warm_up_grows_linearly_to_the_regime() -> None:
    settings = OptimizerSettings(warmup_epochs=5, warmup_start=0.1)
    rates = [regime_at(settings, epoch)[1]["lr"] for epoch in (0, 2.5, 5, 6)]
    assert rates == pytest.approx([0.01, 0.055, 0.1, 0.1])


def test_lr_and_momentum_scale_to_the_batch_at_every_point_of_the_regime() -> None:
    """m' = m ** (b / 256), lr' = lr (b / 256) (1 - m') / (1 - m): the rule of Online Normalization's code."""
    settings = OptimizerSettings(
        batch_size=256, epochs=90, warmup_epochs=9, warmup_start=0.5,
        lr=parse_schedule("0:0.1 30:0.01"), momentum=parse_schedule("0:0.9 60:0.5:linear 80:0.9"),
    )  # fmt: skip
    halved = stretch(settings, 45)
    for epoch, lr, momentum in ((0, 0.05, 0.9), (4.5, 0.1, 0.9), (15, 0.01, 0.9), (35, 0.01, 0.7), (40, 0.01, 0.9)):
        assert regime_at(halved, epoch)[1]["lr"] == pytest.approx(lr)
        values = regime_at(halved, epoch, batch_size=32)[1]
        scaled = momentum ** (32 / 256)
        assert values["momentum"] == pytest.approx(scaled, rel=1e-12)
        assert values["lr"] == pytest.approx(lr * (32 / 256) * (1 - scaled) / (1 - momentum), rel=1e-12)
        assert values["weight_decay"] == regime_at(halved, epoch)[1]["weight_decay"]
    values = regime_at(halved, 5, batch_size=32)[1]
    assert (round(values["lr"], 6), round(values["momentum"], 8)) == (0.001635, 0.98691628)  # what that code prints
    assert regime_at(halved, 20, batch_size=256) == regime_at(halved, 20)
    assert regime_at(OptimizerSettings(), 0, batch_size=32) == regime_at(OptimizerSettings(), 0)


def test_a_step_of_each_batch_moves_the_weights_as_far_a_sample() -> None:
    """Under a constant gradient, as many images in steps of 2 and of 128 move the weights as far."""
    settings = OptimizerSettings(batch_size=128, lr=parse_schedule(0.1), weight_decay=parse_schedule(0.0))
    ends = {}
    for batch_size in (2, 128):
        model = nn.Linear(1, 1, bias=False).double()
        nn.init.zeros_(model.weight)
        optimizer = RegimeOptimizer(model, settings, batch_size)
        for _ in range(40 * 128 // batch_size):  # long enough for the momentum to settle
            optimizer.apply(0.0)
            model.weight.grad = torch.ones_like(model.weight)
            optimizer.torch.step()
        ends[batch_size] = model.weight.item()
    assert ends[2] == pytest.approx(ends[128], rel=0.02)  # the momentum takes its rise in smaller steps
    assert scale_to_batch(0.1, 0.0, 0.25) == (0.025, 0.0)  # without momentum the linear rule


@pytest.mark.parametrize(("name", "others"), [("adam", "adam"), ("0:sgd 5:adamw", "adamw")])
def test_scaling_to_the_batch_is_of_sgd_alone(name: str, others: str) -> None:
    settings = OptimizerSettings(name=parse_schedule(name), batch_size=64)
    with pytest.raises(UserError, match=rf"optimizer\.batch_size is 64, .* holds for sgd, not for {others}; remove it"):
        RegimeOptimizer(nn.Linear(2, 2), settings, 64)


def test_a_momentum_that_cannot_be_scaled_is_refused() -> None:
    settings = OptimizerSettings(momentum=parse_schedule("0:0.9 5:1"), batch_size=64)
    with pytest.raises(UserError, match=r"epoch 5: optimizer\.momentum is 1; .* at least 0 and below 1"):
        RegimeOptimizer(nn.Linear(2, 2), settings, 32)


def test_the_optimizer_changes_between_phases_and_keeps_its_state_in_a_checkpoint() -> None:
    model = nn.Linear(3, 2)
    settings = OptimizerSettings(name=parse_schedule("0:sgd 2:adam"), lr=parse_schedule("0:0.1 2:0.001"))

    def step(optimizer: RegimeOptimizer, epoch: float) -> None:
        optimizer.apply(epoch)
        optimizer.torch.zero_grad()
        model(torch.ones(1, 3)).square().sum().backward()
        optimizer.torch.step()

    optimizer = RegimeOptimizer(model, settings)
    step(optimizer, 0.0)
    assert isinstance(optimizer.torch, torch.optim.SGD)
    step(optimizer, 2.0)
    step(optimizer, 2.5)
    assert isinstance(optimizer.torch, torch.optim.Adam)

    # A new optimizer that takes the state over makes the same next step.
    state = copy.deepcopy(optimizer.state_dict())
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    step(optimizer, 3.0)
    expected = model.weight.detach().clone()
    model.load_state_dict(weights)
    resumed = RegimeOptimizer(model, settings)
    resumed.load_state_dict(state)
    step(resumed, 3.0)
    assert torch.equal(model.weight, expected)
    assert not torch.equal(expected, weights["weight"])


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
    assert {decay: len(params) for decay, params in split_decay(model, "weights").items()} == {True: 2, False: 4}
    assert {decay: len(params) for decay, params in split_decay(model, "all").items()} == {True: 6, False: 0}
    optimizer = RegimeOptimizer(model, OptimizerSettings(weight_decay=parse_schedule("0:0.01 1:0.5")))
    for epoch, decay in ((0.0, 0.01), (1.0, 0.5)):
        optimizer.apply(epoch)
        assert [group["weight_decay"] for group in optimizer.torch.param_groups] == [decay, 0.0]


def test_a_setting_that_no_optimizer_of_the_regime_takes_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"optimizer\.nesterov is set, but adam takes no nesterov; remove it, or give its default False"
    ):
        RegimeOptimizer(nn.Linear(1, 1), OptimizerSettings(name=parse_schedule("adam"), nesterov=True))
    with pytest.raises(UserError, match="did you mean 'adam'"):
        RegimeOptimizer(nn.Linear(1, 1), OptimizerSettings(name=parse_schedule("adamv")))
