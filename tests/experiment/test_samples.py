"""What the network sees: the samples of the page are the training's own input."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from anysize.data.augment.transform import denormalize, normalize
from anysize.experiment.samples import recipe_for_data, training_samples
from anysize.experiment.train import train
from anysize.preprocessing import Preprocessing
from anysize.recipe import Recipe, load_recipe
from anysize.registry import UserError
from anysize.training import step

Make = Callable[..., Recipe]


@pytest.mark.parametrize("mixup", [0.0, 0.4])
def test_samples_are_what_the_training_computes(
    tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mixup: float
) -> None:
    recipe = tiny(
        training__epochs=1, training__copies=2, sizes__mix="D+", data__limit=80, training__batch_size=8,
        augment__mixup=mixup,
    )  # fmt: skip
    computed: dict[int, tuple[Tensor, Tensor]] = {}

    def spy(parts: Any, state: Any, images: Tensor, targets: Tensor, *rest: Any, **named: Any) -> Any:
        computed.setdefault(images.shape[-1], (images.clone(), targets.clone()))
        return backward(parts, state, images, targets, *rest, **named)

    backward = step.backward
    monkeypatch.setattr(step, "backward", spy)
    train(recipe, run=tmp_path / "run")
    found = training_samples(recipe, 3)
    assert [each.size for each in found.by_size] == sorted(computed)
    assert bool(found.mixed) == bool(mixup)
    assert {each.copies for each in found.by_size} >= {1, 2, 8}
    for each in found.by_size:
        images, targets = computed[each.size]
        samples = len(images) // each.copies
        for row, (name, views) in enumerate(each.samples):
            assert len(views) == each.copies
            assert name.startswith("fashion-mini train image")
            for copy, view in enumerate(views):
                place = copy * samples + row
                pixels = denormalize(images[place][None], found.preprocessing)[0]
                assert np.array_equal(view.image, pixels.expand(3, -1, -1).permute(1, 2, 0).numpy())
                shares = targets[place] if mixup else torch.nn.functional.one_hot(targets[place], 10)
                expected = {name: float(share) for name, share in zip(found.preprocessing.classes, shares, strict=True)}
                assert view.amounts == {name: share for name, share in expected.items() if share}


def test_masks_and_labels_lie_beside_their_images(tiny_scenes: Make) -> None:
    masks = training_samples(tiny_scenes("segmentation"), 2)
    for each in masks.by_size:
        for _, (view,) in each.samples:
            assert view.mask is not None
            assert view.mask.shape == view.image.shape[:2] == (each.size, each.size)
    labels = training_samples(tiny_scenes("multilabel"), 2)
    assert [size for size, _ in labels.one] == [32, 48]
    assert len({tuple(view.amounts) for _, view in labels.one}) == 1  # one image


def test_each_size_of_a_ramp_is_told_with_its_epochs_and_few_are_shown(tiny: Make) -> None:
    phases = [{"epoch": 0, "start": 8, "stop": 28, "multiple": 1}]
    found = training_samples(tiny(sizes__mix="fixed", sizes__phases=phases, training__epochs=21), 1)
    assert found.sizes == 21
    assert len(found.by_size) == 16
    assert found.by_size[0].epochs == (1, 1)


def test_sizes_that_come_after_the_epochs_at_the_base_are_shown_too() -> None:
    found = training_samples(load_recipe("quickstart", {"data.limit": 300}), 1)  # 6 epochs at 28 px, 14 of its own
    assert [(each.size, each.epochs) for each in found.by_size] == [(14, (1, 14)), (21, (2, 14)), (28, (9, 14))]


def test_a_name_is_a_recipe_a_data_set_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert recipe_for_data("scenes", {"sizes.mix": "B+"}).sizes.mix == "B+"
    assert recipe_for_data("scenes", {"task.name": "segmentation"}).task.name == "segmentation"
    assert recipe_for_data("mixsize/cifar10-resnet44").model.name == "resnet44"
    assert recipe_for_data("folder") == load_recipe("folder")  # what `anysize train folder` takes
    monkeypatch.chdir(tmp_path)
    (tmp_path / "voc").mkdir()  # the data, and no run folder
    assert recipe_for_data("voc", {"task.name": "segmentation"}).data.name == "voc"
    with pytest.raises(UserError, match="run folder"):
        recipe_for_data(str(tmp_path / "voc"))
    with pytest.raises(UserError, match="no recipe, run folder or data set: did you mean 'quickstart'"):
        recipe_for_data("quickstrat")


def test_undoing_normalisation_gives_the_pixels_back() -> None:
    preprocessing = Preprocessing(4, (0.3, 0.4, 0.5), (0.1, 0.2, 0.3))
    pixels = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    assert torch.equal(denormalize(normalize(pixels, preprocessing), preprocessing), pixels)
