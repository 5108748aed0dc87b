"""How much of a calibration is taken: exact ends, the first norms alone, and nothing where it does not help."""

import copy
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import nn

from anysize.norms.calibration import calibrated
from anysize.norms.choice import FULL, Choice, choose
from anysize.norms.online.norm import OnlineNorm2d
from anysize.norms.strength import blended, having_statistics, statistics
from anysize.registry import UserError

IMAGES = torch.randn(64, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def network(norm: Callable[[int], nn.Module] = nn.BatchNorm2d) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [layer for _ in range(4) for layer in (nn.Conv2d(3, 3, 3, padding=1), norm(3), nn.ReLU())]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4))
    model.train()(IMAGES)
    return model.eval()


def measured(model: nn.Module, images: torch.Tensor) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    with calibrated(model, images.split(32)):
        return statistics(model)


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, OnlineNorm2d])
def test_no_strength_is_the_network_as_it_is_and_full_strength_the_calibrated_one(
    norm: Callable[[int], nn.Module],
) -> None:
    model = network(norm)
    trained, new = statistics(model), measured(model, 3 * IMAGES + 1)
    with torch.no_grad():
        as_it_is = model(IMAGES)
        with calibrated(model, (3 * IMAGES + 1).split(32)):
            full = model(IMAGES)
        with having_statistics(model, blended(trained, new, 0.0)):
            assert torch.equal(model(IMAGES), as_it_is)
        with having_statistics(model, blended(trained, new, 1.0)):
            assert torch.equal(model(IMAGES), full)
        assert torch.equal(model(IMAGES), as_it_is)
    assert not torch.equal(full, as_it_is)


def test_a_part_is_the_first_norms_and_a_strength_a_share_of_the_way() -> None:
    model = network()
    trained, new = statistics(model), measured(model, IMAGES - 2)
    half = blended(trained, new, strength=0.25, part=0.3)  # of four norms two
    for place, name in enumerate(trained):
        for old, wanted, got in zip(trained[name], new[name], half[name], strict=True):
            expected = old + 0.25 * (wanted - old) if place < 2 else old
            torch.testing.assert_close(got, expected)
    none = blended(trained, new, strength=1, part=0)
    assert all(torch.equal(*pair) for name in trained for pair in zip(trained[name], none[name], strict=True))


def test_what_is_no_share_is_refused() -> None:
    trained = statistics(network())
    with pytest.raises(UserError, match=r"the strength of a calibration is 1\.5; expected a share from 0 to 1"):
        blended(trained, trained, 1.5)
    with pytest.raises(UserError, match="different norms"):
        blended(trained, {})


def chosen(model: nn.Module, images: torch.Tensor, calibrating: torch.Tensor) -> Choice:
    """For images whose classes are what the network says of `IMAGES`."""
    with torch.no_grad():
        usual = model(IMAGES).mean(0)
        classes = (model(IMAGES) - usual).argmax(1)

    def score() -> Sequence[float]:
        with torch.no_grad():
            return [float(right) for right in (model(images) - usual).argmax(1) == classes]

    before = copy.deepcopy(model.state_dict())
    choice = choose(model, measured(model, calibrating), score)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    return choice


def test_a_calibration_that_helps_is_taken_whole() -> None:
    """Images of other brightness and contrast, which calibration makes up for to the last digit."""
    model = network()
    other = 4 * IMAGES + 3
    model[0].padding = (0, 0)  # at a border the shift would stay
    for layer in (3, 6, 9):
        model[layer].padding = (0, 0) if layer == 3 else (1, 1)
    with calibrated(model, IMAGES.split(32)):
        trained = statistics(model)
    with having_statistics(model, trained):
        choice = chosen(model, other, other)
    assert (choice.strength, choice.part) == FULL
    assert choice.after == 1.0 > choice.before
    assert choice.images == 64


def test_a_calibration_that_hurts_is_left() -> None:
    """Calibrated on pictures that have nothing to do with what is judged."""
    model = network()
    choice = chosen(model, IMAGES, 5 * IMAGES.flip(0) - 7)
    assert not choice
    assert choice.before == choice.after == 1.0
    assert min(choice.scores.values()) < 0.9


def test_a_gain_that_may_be_chance_is_left() -> None:
    model = network()
    new = measured(model, IMAGES + 1)
    gains = iter([[0.0] * 50, [1.0, 1.0] + [0.0] * 48, *[[0.0] * 50] * 3])
    assert not choose(model, new, lambda: next(gains))
    gains = iter([[0.0] * 50, [1.0] * 20 + [0.0] * 30, *[[0.0] * 50] * 3])
    assert choose(model, new, lambda: next(gains)).strength == 1


def test_answers_that_are_not_finite_lose() -> None:
    model = network()
    new = measured(model, IMAGES)
    scores = iter([[0.5] * 9, [float("nan")] * 9, *[[0.4] * 9] * 3])
    assert not choose(model, new, lambda: next(scores))
    scores = iter([[float("nan")] * 9, [0.1] * 9, *[[0.05] * 9] * 3])
    assert choose(model, new, lambda: next(scores)).strength == 1


def test_images_must_be_the_same_each_time() -> None:
    scores = iter([[0.5] * 9, [0.5] * 8])
    model = network()
    with pytest.raises(UserError, match="judged on 8 images and the network as it is on 9"):
        choose(model, measured(model, IMAGES), lambda: next(scores))
