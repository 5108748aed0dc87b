"""Mirrored and moved views of an image in evaluation: their mean, in every task that they are for."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from anysize.data.loader import LoadedBatch
from anysize.registry import UserError
from anysize.tasks.base import create_task
from anysize.tasks.views import with_views

IMAGES = torch.randn(3, 2, 5, 5, generator=torch.Generator().manual_seed(0))
WEIGHT = torch.randn(7, 50, generator=torch.Generator().manual_seed(1))


def network(images: torch.Tensor) -> torch.Tensor:
    """Logits that tell where a pixel lies."""
    return images.flatten(1) @ WEIGHT.T


def six_views(images: torch.Tensor) -> torch.Tensor:
    """Reference: weights 1/4 for the image and its mirror image, 1/8 for each of two moved ones and theirs."""
    padded = F.pad(images, [1, 1, 1, 1], mode="reflect")
    views = [(images, 1 / 4), (padded[:, :, 2:, 2:], 1 / 8), (padded[:, :, :-2, :-2], 1 / 8)]
    return sum(weight * (network(view) + network(view.flip(3))) for view, weight in views)


def test_six_views_are_weighted_half_and_half() -> None:
    torch.testing.assert_close(with_views(network, flip=True, translate=1)(IMAGES), six_views(IMAGES))
    mirrored = (network(IMAGES) + network(IMAGES.flip(3))) / 2
    torch.testing.assert_close(with_views(network, flip=True)(IMAGES), mirrored)
    assert with_views(network) is network


@pytest.mark.parametrize("name", ["classification", "multilabel"])
def test_figures_and_predictions_are_those_of_the_views(name: str) -> None:
    task = create_task(name, list("abcdefg"), flip=True, translate=1)
    targets = torch.tensor([0, 1, 2]) if name == "classification" else torch.ones(3, 1, 7, dtype=torch.uint8)
    batch = LoadedBatch(IMAGES, targets, 5, 1, np.arange(3), epoch=0, step=0)
    torch.testing.assert_close(torch.stack(list(task.predictions(network, batch))), six_views(IMAGES))
    metrics = task.metrics(torch.device("cpu"))
    task.measure(metrics, network, batch)
    loss = task.summary(metrics).values["loss"]
    if name == "classification":
        assert loss == pytest.approx(F.cross_entropy(six_views(IMAGES), targets).item())
    else:
        assert loss == pytest.approx(7 * F.binary_cross_entropy_with_logits(six_views(IMAGES), torch.ones(3, 7)).item())


def test_an_image_is_larger_than_it_is_moved() -> None:
    with pytest.raises(UserError, match=r"evaluation\.translate is 5, and the images have 5 x 5 pixels"):
        with_views(network, translate=5)(IMAGES)
