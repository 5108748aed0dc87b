"""First weights that follow from training images, and muon, in a run: from its first step to its going on."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from interruption import stopped_after

from anysize.experiment import build
from anysize.experiment.first_images import first_images, start_from_images
from anysize.experiment.prepare import prepare
from anysize.experiment.train import train
from anysize.models.families.airbench import Airbench, whitening_filters
from anysize.recipe import Recipe
from anysize.stopping import Interrupted
from anysize.training.checkpoint.files import read_checkpoint

Make = Callable[..., Recipe]
NETWORK = {
    "model__name": "airbench94", "model__options": {"widths": [8, 8, 8]}, "optimizer__name": "muon",
    "optimizer__filter_norm": True, "optimizer__newton_schulz_steps": 3, "optimizer__nesterov": True,
    "optimizer__head_lr": 5.0, "optimizer__other_lr": 0.3, "optimizer__trained_until": {"whiten.bias": 1.0},
    "augment__flip_alternates": True, "data__limit": 64, "training__batch_size": 16, "training__epochs": 2,
    "optimizer__gradient_smoothing": 0.0,
}  # fmt: skip


def test_a_model_is_shown_images_of_all_classes_by_the_seed(tiny: Make) -> None:
    prepared = prepare(tiny(**NETWORK))
    before = prepared.model.whiten.weight.clone()
    seen = first_images(prepared, 20)
    assert seen.shape == (20, 1, 28, 28)
    assert torch.equal(seen, first_images(prepared, 64)[:20])
    assert not torch.equal(seen, first_images(prepare(tiny(**NETWORK, training__seed=1)), 20))
    start_from_images(prepared)
    weight = prepared.model.whiten.weight
    assert not torch.equal(weight, before)
    torch.testing.assert_close(weight, whitening_filters(first_images(prepared, 64)))
    assert prepared.notes[-1] == "first weights follow from 64 training images (start_from_images)"


def test_other_models_and_given_weights_are_left_alone(tiny: Make) -> None:
    prepared = prepare(tiny(data__limit=64))
    notes = list(prepared.notes)
    start_from_images(prepared)
    assert prepared.notes == notes


@pytest.mark.slow
def test_a_run_goes_on_with_its_first_weights_to_the_same_bits(
    tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What images said is in the checkpoint: a run that goes on does not look at them again."""
    recipe, calls = tiny(**NETWORK), []
    own = Airbench.start_from_images
    monkeypatch.setattr(Airbench, "start_from_images", lambda *given: calls.append(1) or own(*given))
    whole = train(recipe, run=tmp_path / "whole")
    with stopped_after(5), pytest.raises(Interrupted):
        train(recipe, run=tmp_path / "stopped")
    assert len(calls) == 2
    train(recipe, run=tmp_path / "stopped")
    assert len(calls) == 2
    one, other = (read_checkpoint(folder / "checkpoints/last").model for folder in (whole, tmp_path / "stopped"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    filters = whitening_filters(first_images(prepare(recipe), 64))
    torch.testing.assert_close(one["whiten.weight"], filters)  # they are not trained
    assert one["whiten.bias"].abs().max() > 0
    assert "first weights follow from 64 training images" in (whole / "log.txt").read_text()

    weights = tiny(**NETWORK, model__weights=str(whole), optimizer__lr=0.001)
    train(weights, run=tmp_path / "from-weights")
    assert len(calls) == 2
    assert build.build_model(recipe, prepare(recipe).data.preprocessing).whiten.weight.requires_grad is False
