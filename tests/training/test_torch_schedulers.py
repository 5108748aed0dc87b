"""Our schedules at whole epochs are those of torch's schedulers, put together as torchvision's reference training."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from anysize.registry import UserError
from anysize.training.optimizer import RegimeOptimizer, regime_at
from anysize.training.regime import parse_schedule
from anysize.training.settings import OptimizerSettings

EPOCHS, LR = 20, 0.4
Main = Callable[[torch.optim.Optimizer, int], LRScheduler]


def torchs(main: Main, warmup: str, warmup_epochs: int, start: float) -> list[float]:
    """The learning rate of each epoch: the main schedule begins where warm-up ends (SequentialLR)."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=LR)
    scheduler = main(optimizer, EPOCHS - warmup_epochs)
    if warmup_epochs:
        first: LRScheduler
        if warmup == "linear":
            first = lr_scheduler.LinearLR(optimizer, start_factor=start, total_iters=warmup_epochs)
        else:
            first = lr_scheduler.ConstantLR(optimizer, factor=start, total_iters=warmup_epochs)
        scheduler = lr_scheduler.SequentialLR(optimizer, [first, scheduler], milestones=[warmup_epochs])
    rates = []
    for _ in range(EPOCHS):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def step(w: int) -> list[dict[str, Any]]:
    return [{"value": LR}, {"epoch": w, "value": LR, "ramp": "step", "every": 4, "factor": 0.3}]


def ramp(name: str, end: float) -> Callable[[int], list[dict[str, Any]]]:
    return lambda w: [{"value": LR}, {"epoch": w, "value": LR, "ramp": name}, {"epoch": EPOCHS, "value": end}]


CASES: dict[str, tuple[Main, Callable[[int], list[dict[str, Any]]]]] = {
    "StepLR": (lambda o, _: lr_scheduler.StepLR(o, step_size=4, gamma=0.3), step),
    "MultiStepLR": (
        lambda o, _: lr_scheduler.MultiStepLR(o, milestones=[3, 9], gamma=0.1),
        lambda w: [{"epoch": e, "value": v * LR} for e, v in ((0, 1.0), (w + 3, 0.1), (w + 9, 0.01))],
    ),
    "CosineAnnealingLR": (
        lambda o, left: lr_scheduler.CosineAnnealingLR(o, T_max=left, eta_min=0.001), ramp("cosine", 0.001)
    ),
    "ExponentialLR": (
        lambda o, _: lr_scheduler.ExponentialLR(o, gamma=0.9),
        lambda w: [{"value": LR}, {"epoch": w, "value": LR, "ramp": "step", "every": 1, "factor": 0.9}],
    ),
    "PolynomialLR": (lambda o, left: lr_scheduler.PolynomialLR(o, total_iters=left, power=0.9), ramp("poly", 0.0)),
    "LinearLR": (
        lambda o, left: lr_scheduler.LinearLR(o, start_factor=1.0, end_factor=0.1, total_iters=left),
        ramp("linear", 0.1 * LR),
    ),
}  # fmt: skip


@pytest.mark.parametrize("warmup", ["linear", "constant"])
@pytest.mark.parametrize("warmup_epochs", [0, 5])
@pytest.mark.parametrize("name", CASES)
def test_the_learning_rate_of_each_epoch_is_torchs(name: str, warmup_epochs: int, warmup: str) -> None:
    main, points = CASES[name]
    schedule = points(warmup_epochs)
    if not warmup_epochs:
        schedule = [point for point in schedule if point != {"value": LR}]
    settings = OptimizerSettings(
        lr=parse_schedule(schedule), warmup_epochs=warmup_epochs, warmup_method=warmup, warmup_start=0.01,
        update="epoch",
    )  # fmt: skip
    ours = [regime_at(settings, epoch)[1]["lr"] for epoch in range(EPOCHS)]
    assert ours == pytest.approx(torchs(main, warmup, warmup_epochs, 0.01), rel=1e-12, abs=0)
    within = [regime_at(settings, epoch + 0.999)[1]["lr"] for epoch in range(EPOCHS)]
    assert within == ours


def test_poly_at_each_step_is_the_polynomial_of_torchvisions_segmentation() -> None:
    epochs, steps = 3, 7
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.02)
    scheduler = lr_scheduler.PolynomialLR(optimizer, total_iters=epochs * steps, power=0.9)
    settings = OptimizerSettings(lr=parse_schedule(f"0:0.02:poly {epochs}:0"))
    for number in range(epochs * steps):
        expected = optimizer.param_groups[0]["lr"]
        assert regime_at(settings, number / steps)[1]["lr"] == pytest.approx(expected, rel=1e-12)
        optimizer.step()
        scheduler.step()


def test_all_that_has_points_moves_at_whole_epochs() -> None:
    settings = OptimizerSettings(
        name=parse_schedule("0:sgd 1.5:adam"), momentum=parse_schedule("0:0.5:linear 4:0.9"), update="epoch",
        weight_decay=parse_schedule("0:0:linear 4:0.4"), warmup_epochs=2.5, warmup_start=0.5,
    )  # fmt: skip
    at = {epoch: regime_at(settings, epoch) for epoch in (1.0, 1.9, 2.0, 3.0)}
    assert at[1.9] == at[1.0]
    assert at[1.0][0] == "sgd"
    assert at[1.0][1]["momentum"] == pytest.approx(0.6)
    assert at[1.0][1]["weight_decay"] == pytest.approx(0.1)
    assert at[2.0][0] == "adam"
    assert (at[2.0][1]["lr"], at[3.0][1]["lr"]) == (pytest.approx(0.1 * (0.5 + 0.5 * 2 / 2.5)), 0.1)
    optimizer = RegimeOptimizer(nn.Linear(1, 1), settings)
    for epoch, warming_up in ((2.9, True), (3.0, False)):  # while it warms up, averaged weights start anew
        optimizer.apply(epoch)
        assert optimizer.warming_up == warming_up


@pytest.mark.parametrize("changes", [{"warmup_method": "constant"}, {"update": "epoch"}])
def test_a_warm_up_that_would_learn_nothing_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"optimizer\.warmup_start 0, .* set warmup_start"):
        RegimeOptimizer(nn.Linear(1, 1), OptimizerSettings(warmup_epochs=2.0, **changes))
    RegimeOptimizer(nn.Linear(1, 1), OptimizerSettings(warmup_epochs=2.0, warmup_start=0.01, **changes))
