"""Muon for filters and matrices, SGD for all else, against a reference in float64; learning rates by group."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from anysize.registry import UserError
from anysize.training.optimizer import RegimeOptimizer, stretch
from anysize.training.regime import constant, parse_schedule
from anysize.training.settings import OptimizerSettings

TRUE = torch.tensor(True)


def network() -> nn.Sequential:
    """A 4-D and a 2-D matrix, one taller than wide, norms and biases, and a head."""
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4)
    )


def newton_schulz(matrix: np.ndarray, steps: int) -> np.ndarray:
    """Reference: singular values s become p(p(...(s / norm))) with p(s) = a s + b s^3 + c s^5."""
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    values = values / np.sqrt((values**2).sum())
    for _ in range(steps):
        values = 3.4445 * values - 4.775 * values**3 + 2.0315 * values**5
    return (left * values) @ right


class Reference:
    """All parameters in float64, each moved by the published rule."""

    def __init__(self, model: nn.Module, settings: OptimizerSettings, head: str, filter_norm: bool) -> None:
        self.values = {name: value.detach().double().numpy().copy() for name, value in model.named_parameters()}
        self.sums = {name: np.zeros_like(value) for name, value in self.values.items()}
        self.settings, self.head, self.filter_norm = settings, head, filter_norm

    def step(self, gradients: dict[str, np.ndarray], lr: float, momentum: float, decay: float) -> None:
        s = self.settings
        for name, gradient in gradients.items():
            value = self.values[name]
            matrix = value.ndim > 1 and not name.startswith(self.head)
            if matrix:
                if self.filter_norm:
                    value = value * np.sqrt(len(value)) / np.sqrt((value**2).sum())
                self.sums[name] = momentum * self.sums[name] + gradient
                update = (gradient + momentum * self.sums[name]).reshape(len(value), -1)
                step = newton_schulz(update, s.newton_schulz_steps).reshape(value.shape)
                larger = max(1.0, len(value) / (value.size // len(value))) ** 0.5
                self.values[name] = value * (1 - lr * decay) - lr * larger * step
            else:
                rate = lr * (s.head_lr if name.startswith(self.head) else s.other_lr)
                gradient = gradient + (decay if value.ndim > 1 else 0.0) * value
                self.sums[name] = s.other_momentum * self.sums[name] + gradient
                self.values[name] = value - rate * (gradient + s.other_momentum * self.sums[name])


@pytest.mark.parametrize("filter_norm", [False, True])
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_muon_is_the_published_one(filter_norm: bool, memory: torch.memory_format) -> None:
    """The iteration runs in bfloat16, which has three digits; all else is in float32."""
    settings = OptimizerSettings(
        name=constant("muon"), lr=parse_schedule("0:0.1:linear 2:0.02"), momentum=constant(0.6), nesterov=True,
        weight_decay=constant(0.01), newton_schulz_steps=3, filter_norm=filter_norm, other_lr=0.3, other_momentum=0.8,
        head_lr=2.0,
    )  # fmt: skip
    model = network().to(memory_format=memory)
    optimizer, reference = RegimeOptimizer(model, settings), Reference(model, settings, "5", filter_norm)
    for number in range(4):
        lr = optimizer.apply(number / 2)["lr"]
        assert lr == pytest.approx(0.1 - 0.04 * number / 2)
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
        gradients = {name: p.grad.double().numpy() for name, p in model.named_parameters() if p.grad is not None}
        optimizer.step(TRUE)
        reference.step(gradients, lr, momentum=0.6, decay=0.01)
    for name, parameter in model.named_parameters():
        exact = parameter.ndim < 2 or name.startswith("5")
        expected = reference.values[name]
        error = np.abs(parameter.detach().double().numpy() - expected).max() / np.abs(expected).max()
        assert error < (1e-6 if exact else 0.01), name


def test_a_step_that_is_not_fine_changes_nothing_not_even_the_first() -> None:
    settings = OptimizerSettings(name=constant("muon"), filter_norm=True)
    model = network()
    optimizer = RegimeOptimizer(model, settings)
    before = copy.deepcopy(model.state_dict())

    def step(fine: bool, seed: int) -> None:
        optimizer.apply(0.0)
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed))
        optimizer.step(torch.tensor(fine))

    step(fine=False, seed=0)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    step(fine=True, seed=1)
    again = network()
    other = RegimeOptimizer(again, settings)
    model, optimizer, trained = again, other, model
    step(fine=True, seed=1)
    assert all(torch.equal(value, trained.state_dict()[name]) for name, value in model.state_dict().items())


def test_its_state_goes_on_to_the_bit() -> None:
    settings = OptimizerSettings(name=constant("muon"), nesterov=True)

    def train(model: nn.Module, optimizer: RegimeOptimizer, steps: range) -> None:
        for number in steps:
            optimizer.apply(0.1 * number)
            for parameter in model.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
            optimizer.step(TRUE)

    whole = network().to(memory_format=torch.channels_last)
    train(whole, RegimeOptimizer(whole, settings), range(4))
    begun = network().to(memory_format=torch.channels_last)
    first = RegimeOptimizer(begun, settings)
    train(begun, first, range(2))
    goes_on = copy.deepcopy(begun)
    second = RegimeOptimizer(goes_on, settings)
    tensors = {key: value for key, value in first.state_dict().items() if key != "name"}
    second.load_state_dict({"name": "muon", **{key: value.contiguous() for key, value in tensors.items()}})
    train(goes_on, second, range(2, 4))
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in goes_on.state_dict().items())


def test_parts_are_trained_until_their_epoch() -> None:
    settings = OptimizerSettings(epochs=8, lr=parse_schedule("0:0.4:linear 8:0"), trained_until={"1": 4})
    model = network()
    for given, end in ((settings, 4.0), (stretch(settings, 2), 1.0)):
        optimizer = RegimeOptimizer(model, given)
        for share, expected in ((0.0, 0.4), (0.5, 0.4 * 0.75 * 0.5), (1.0, 0.0), (1.5, 0.0)):
            optimizer.apply(share * end)
            rates = {group["until"]: group["lr"] for group in optimizer.torch.param_groups}
            assert rates[end] == pytest.approx(expected)
            assert rates[0.0] == pytest.approx(0.4 * (1 - share / 2))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (OptimizerSettings(filter_norm=True), "optimizer.filter_norm is set, but sgd takes no filter_norm"),
        (OptimizerSettings(other_lr=2.0), "optimizer.other_lr is set, but sgd takes no other_lr"),
        (OptimizerSettings(name=parse_schedule("0:sgd 1:muon")), "name muon alone"),
        (OptimizerSettings(trained_until={"4": 1.0}), "optimizer.trained_until has '4'"),
    ],
)
def test_what_has_no_effect_is_refused(settings: OptimizerSettings, said: str) -> None:
    with pytest.raises(UserError, match=said):
        RegimeOptimizer(network(), settings)


def test_a_head_alone_is_nothing_for_muon() -> None:
    with pytest.raises(UserError, match="has no filters or matrices before its head"):
        RegimeOptimizer(nn.Linear(3, 2), OptimizerSettings(name=constant("muon")))
