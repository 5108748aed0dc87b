"""The rules that scale the learning rate to the batch, and what is said of it."""

from typing import Any

import pytest
import torch
from torch import nn

from anysize.registry import UserError
from anysize.training.batch_rule import momentum_rule
from anysize.training.optimizer import RegimeOptimizer, describe_batch, regime_at, stretch
from anysize.training.regime import parse_schedule
from anysize.training.settings import OptimizerSettings


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
    assert momentum_rule(0.1, 0.0, 0.25) == (0.025, 0.0)  # without momentum the linear rule


@pytest.mark.parametrize(("name", "others"), [("adam", "adam"), ("0:sgd 5:adamw", "adamw")])
def test_scaling_to_the_batch_is_of_sgd_alone(name: str, others: str) -> None:
    settings = OptimizerSettings(name=parse_schedule(name), batch_size=64)
    said = rf"optimizer\.batch_size is 64, .* holds for sgd, not for {others}; set optimizer\.batch_rule to linear"
    with pytest.raises(UserError, match=said):
        RegimeOptimizer(nn.Linear(2, 2), settings, 64)


def test_a_momentum_that_cannot_be_scaled_is_refused() -> None:
    settings = OptimizerSettings(momentum=parse_schedule("0:0.9 5:1"), batch_size=64)
    with pytest.raises(UserError, match=r"epoch 5: optimizer\.momentum is 1; .* at least 0 and below 1"):
        RegimeOptimizer(nn.Linear(2, 2), settings, 32)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "rmsprop"])
@pytest.mark.parametrize(("rule", "factor"), [("linear", 4.0), ("sqrt", 2.0), ("none", 1.0)])
def test_lr_scales_with_the_batch_or_its_root_for_every_optimizer(name: str, rule: str, factor: float) -> None:
    settings = OptimizerSettings(
        name=parse_schedule(name), batch_size=256, batch_rule=rule, head_lr=10.0, warmup_epochs=2, warmup_start=0.5,
        lr=parse_schedule("0:0.1 30:0.01"),
    )  # fmt: skip
    optimizer = RegimeOptimizer(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), settings, 1024)
    for epoch, lr in ((0.0, 0.05), (1.0, 0.075), (2.0, 0.1), (30.0, 0.01)):
        values = optimizer.apply(epoch)
        assert values["lr"] == pytest.approx(lr * factor, rel=1e-12)
        assert values.get("momentum", 0.9) == 0.9
        rates = sorted({group["lr"] for group in optimizer.torch.param_groups})
        assert rates == pytest.approx([lr * factor, 10 * lr * factor])
    assert regime_at(settings, 5.0, 256) == regime_at(settings, 5.0)


def test_a_rule_without_its_batch_is_refused() -> None:
    for rule in ("linear", "sqrt"):
        with pytest.raises(UserError, match=rf"batch_rule is {rule}, and optimizer\.batch_size does not say which"):
            RegimeOptimizer(nn.Linear(2, 2), OptimizerSettings(batch_rule=rule), 64)


@pytest.mark.parametrize(
    ("changes", "processes", "said"),
    [
        (
            {
                "batch_size": 256,
                "batch_rule": "linear",
                "warmup_epochs": 5.0,
                "lr": parse_schedule("0:0.1 5:0.1:cosine 90:0"),
            },
            8,
            "8 processes with 64 images each make batches of 512; the learning rate, at its largest 0.1 for batches of "
            "256, becomes 0.2 by the linear rule (optimizer.batch_rule)",
        ),
        (
            {"batch_size": 256},
            1,
            "a single process makes batches of 64; the learning rate, at its largest 0.1 for batches of 256, becomes "
            "0.00649906 by the momentum rule, and the momentum, at first 0.9, 0.974004 (optimizer.batch_rule)",
        ),
        ({}, 2, "is not scaled to the batch (optimizer.batch_size does not say which batch it is written for)"),
        ({"batch_size": 128}, 2, "is not scaled to the batch (it is written for this batch)"),
        ({"batch_size": 256, "batch_rule": "none"}, 2, "batches of 256, and optimizer.batch_rule is none)"),
    ],
)
def test_what_is_said_of_batch_and_learning_rate(changes: dict[str, Any], processes: int, said: str) -> None:
    assert describe_batch(OptimizerSettings(**changes), 64, processes).endswith(said)


def test_the_largest_learning_rate_is_that_of_the_schedule_with_warm_up() -> None:
    settings = OptimizerSettings(lr=parse_schedule("0:0.1:linear 10:0.4 20:0.01"), warmup_epochs=5)
    assert "at its largest 0.4," in describe_batch(stretch(settings, 90), 64, 2)
    falling = OptimizerSettings(lr=parse_schedule("0:0.3:linear 10:0"), warmup_epochs=10)  # 0.3 (1 - t) t
    assert "at its largest 0.075," in describe_batch(falling, 64, 2)
    whole = OptimizerSettings(warmup_epochs=2.5, warmup_start=0.01, update="epoch")
    assert "at its largest 0.1," in describe_batch(whole, 64, 2)
