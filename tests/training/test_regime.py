"""The regime: values by progress, and the optimizers it drives."""

import copy
import math

import pytest
import torch
from torch import nn

from anysize.registry import UserError
from anysize.training.optimizer import RegimeOptimizer, regime_at, stretch
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


def test_a_setting_that_no_optimizer_of_the_regime_takes_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"optimizer\.nesterov is set, but adam takes no nesterov; remove it, or give its default False"
    ):
        RegimeOptimizer(nn.Linear(1, 1), OptimizerSettings(name=parse_schedule("adam"), nesterov=True))
    with pytest.raises(UserError, match="did you mean 'adam'"):
        RegimeOptimizer(nn.Linear(1, 1), OptimizerSettings(name=parse_schedule("adamv")))
