"""Gradients are weighed by the inverse of their variance, which is that of a weighted sum written out in numpy."""

import json

import numpy as np
import pytest
import torch

from anysize.training.size_weights import VarianceWeights

FINE = torch.tensor(True)
SHAPES = ((3, 2), (4,))


def gradients(count: int, scale: float, seed: int) -> list[list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [[scale * torch.randn(shape, generator=generator) + 0.5 for shape in SHAPES] for _ in range(count)]


def step(weights: VarianceWeights, size: int, given: list[torch.Tensor], fine: torch.Tensor = FINE) -> float:
    """Make a step; the factor that its gradients were multiplied by."""
    parameters = [torch.zeros_like(each) for each in given]
    for parameter, gradient in zip(parameters, given, strict=True):
        parameter.grad = gradient.clone()
    weights.apply(parameters, size, {16: 3, 32: 1}, fine)
    assert parameters[1].grad is not None
    return float(parameters[1].grad[0] / given[1][0])


def variance(given: list[list[torch.Tensor]], momentum: float = 0.95) -> float:
    """Without bias, of all values together, by weights that fall with the age; the first one's is what is left."""
    count = len(given)
    shares = np.array(
        [momentum ** (count - 1)] + [(1 - momentum) * momentum ** (count - 1 - i) for i in range(1, count)]
    )
    values = np.array([np.concatenate([part.numpy().ravel() for part in each]) for each in given], dtype=np.float64)
    mean = shares @ values
    return float((shares @ ((values - mean) ** 2).sum(1)) / (1 - (shares**2).sum()))


def test_weights_are_inverse_variances_with_a_mean_of_1_over_the_steps_of_an_epoch() -> None:
    weights = VarianceWeights(["a", "b"])
    small, large = gradients(9, 1.0, seed=0), gradients(5, 0.5, seed=1)
    assert step(weights, 16, small[0]) == 1.0  # nothing is known
    for each in small[1:]:
        assert step(weights, 16, each) == pytest.approx(1.0)  # the only size that is known
    for each in large:
        step(weights, 32, each)
    inverse = {16: 1 / variance(small), 32: 1 / variance(large)}
    mean = (3 * inverse[16] + inverse[32]) / 4
    for size, value in inverse.items():
        assert float(weights.weight(size, {16: 3, 32: 1})) == pytest.approx(value / mean, rel=1e-5)
    expected = float(weights.weight(32, {16: 3, 32: 1}))
    assert step(weights, 32, large[0]) == pytest.approx(expected, rel=1e-5)  # by what was measured before


def test_a_step_that_is_not_made_measures_nothing() -> None:
    weights = VarianceWeights(["a", "b"])
    for each in gradients(3, 1.0, seed=0):
        step(weights, 16, each)
    before = {name: torch.as_tensor(value).clone() for name, value in weights.state_dict().items() if "/" in name}
    told = {name: value for name, value in weights.state_dict().items() if "/" not in name}
    step(weights, 16, [torch.full(shape, float("nan")) for shape in SHAPES], torch.tensor(False))
    after = weights.state_dict()
    assert {name: after[name] for name in told} == told
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_they_go_on_from_a_checkpoint_to_the_same_bits() -> None:
    one, other = VarianceWeights(["a", "b"]), VarianceWeights(["a", "b"])
    for each in gradients(4, 1.0, seed=0):
        step(one, 16, each)
        step(one, 32, each)
    state = one.state_dict()
    values = json.loads(json.dumps({name: value for name, value in state.items() if "/" not in name}))
    other.load_state_dict({**{name: value for name, value in state.items() if "/" in name}, **values})
    following = gradients(3, 2.0, seed=1)
    assert [step(one, 16, each) for each in following] == [step(other, 16, each) for each in following]
    assert one.state_dict()["spread"] == other.state_dict()["spread"]
