"""Gradient smoothing, adaptive scaling for copies, and accumulation."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anysize.norms.online.norm import OnlineNorm2d
from anysize.training.gradients import (
    AdaptiveCopies,
    ControlVariables,
    GradientSmoothing,
    chunk_slices,
    copies_factor,
    gradient_norm,
    scale_gradients,
)
from anysize.training.micro_batches import MicroBatches
from anysize.training.optimizer import RegimeOptimizer
from anysize.training.recorder import Recorder
from anysize.training.replicas import Replicas
from anysize.training.settings import OptimizerSettings
from anysize.training.state import TrainState
from anysize.training.step import gradient_factor
from anysize.world import World


def test_smoothing_is_the_moving_average_of_the_norm_over_the_norm() -> None:
    # Reference, written from the paper's rule: r starts at the first norm; then r = .9 r + .1 n, g *= r / (n + 1e-6).
    norms = [3.0, 1.0, 10.0, 0.5]
    average, expected = norms[0], [1.0]
    for norm in norms[1:]:
        average = 0.9 * average + 0.1 * norm
        expected.append(average / (norm + 1e-6))
    smoothing, fine = GradientSmoothing(0.9), torch.tensor(True)
    factors = [float(smoothing.factor(torch.tensor(norm, dtype=torch.float64), fine)) for norm in norms]
    assert factors == pytest.approx(expected, rel=1e-12)
    assert float(smoothing.norm) == pytest.approx(average)


def test_smoothing_forgets_a_step_that_is_not_made() -> None:
    smoothing = GradientSmoothing(0.9)
    for norm, fine in ((math.inf, False), (2.0, True), (math.nan, False), (4.0, True)):
        factor = smoothing.factor(torch.tensor(norm), torch.tensor(fine))
    assert smoothing.state_dict() == {"norm": pytest.approx(2.2)}
    assert float(factor) == pytest.approx(2.2 / 4)


def test_control_variables_follow_the_unit_of_the_gradient() -> None:
    model = nn.Sequential(OnlineNorm2d(2))
    model(torch.randn(3, 2, 4, 4)).pow(3).mean().backward()
    u = model[0].norm.u.clone()
    assert u.any()
    control = ControlVariables(model)
    control.follow(1 / (64 * 32**2))
    assert torch.equal(model[0].norm.u, u)  # the first step has nothing to follow
    control.follow(1 / (32 * 16**2))
    assert torch.equal(model[0].norm.u, 8 * u)
    control.follow(torch.tensor(1 / (64 * 32**2), dtype=torch.float64))  # as float16's loss scaling has it
    assert torch.equal(model[0].norm.u, u)


def test_norm_and_scale_are_those_of_all_gradients_together() -> None:
    parameters = [nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(1))]
    parameters[0].grad = torch.tensor([1.0, 2.0, 2.0])
    parameters[1].grad = torch.tensor([[4.0, 0.0], [0.0, 0.0]])
    assert float(gradient_norm(parameters)) == pytest.approx(5.0)
    scale_gradients(parameters, torch.tensor(0.5))
    assert float(gradient_norm(parameters)) == pytest.approx(2.5)


def test_copies_factor_is_the_mean_norm_of_one_copy_over_that_of_all() -> None:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(3, 12))

    def norm(images: Tensor, targets: Tensor) -> Tensor:
        (gradient,) = torch.autograd.grad(F.cross_entropy(images @ weight.T, targets), weight)
        return gradient.norm()

    images, targets = torch.randn(6, 12), torch.tensor([0, 1, 2, 0, 1, 2])
    assert copies_factor(norm, images.repeat(3, 1), targets.repeat(3), copies=3).item() == pytest.approx(1.0)
    noisy = torch.randn(18, 12)  # copies that differ pull apart: one copy's gradient is larger than the mean of all
    each = [norm(noisy[i : i + 6], targets) for i in (0, 6, 12)]
    expected = float(sum(each) / 3 / norm(noisy, targets.repeat(3)))
    assert copies_factor(norm, noisy, targets.repeat(3), copies=3).item() == pytest.approx(expected)
    assert expected > 1.05


def test_chunks_cover_a_batch_once() -> None:
    for length in (1, 2, 7, 64):
        for chunks in (1, 2, 3, 64, 100):
            parts = chunk_slices(length, chunks)
            assert [i for part in parts for i in range(part.start, part.stop)] == list(range(length))
            assert len({part.stop - part.start for part in parts}) <= 2


@pytest.mark.parametrize("limit", [0.5, 1e6])
def test_clipping_is_torchs(limit: float) -> None:
    """torch adds 1e-6 to the norm that it divides by; apart from that the gradients are the same."""
    model, other = (nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)) for _ in range(2))
    other.load_state_dict(model.state_dict())
    optimizer = RegimeOptimizer(model, OptimizerSettings(clip_norm=limit))
    recorder, control = Recorder(torch.device("cpu")), ControlVariables(model)
    state = TrainState(
        model, optimizer, torch.amp.GradScaler("cpu", enabled=False), None, AdaptiveCopies(0), control, recorder,
        Replicas({"model": model}, control, World(), "averaged"), MicroBatches(model),
    )  # fmt: skip
    inputs = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    for network in (model, other):
        network(inputs).mul(3).square().sum().backward()
    norm = gradient_norm(model.parameters())
    expected = torch.nn.utils.clip_grad_norm_(other.parameters(), limit)
    torch.testing.assert_close(norm, expected)
    assert 0.5 < norm < 1e6
    scale_gradients(model.parameters(), gradient_factor(state, norm, torch.tensor(True)))
    for own, parameter in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(own.grad, parameter.grad, rtol=1e-5, atol=1e-9)
