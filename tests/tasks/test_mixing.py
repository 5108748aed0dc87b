"""mixup and cutmix: of classes and of labels, with copies, chunks and processes; none for masks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.transforms import v2

from anysize.experiment.targets import build_task
from anysize.experiment.train import train
from anysize.preprocessing import Preprocessing
from anysize.recipe import Recipe, load_recipe
from anysize.registry import UserError
from anysize.tasks.base import Task, create_task
from anysize.tasks.multilabel import asymmetric_loss, binary_cross_entropy

CLASSES = ("cat", "dog", "fish", "bird")


def samples(count: int = 6, rows: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return torch.rand(count, 3, 8, 8, generator=draw), (torch.rand(count, rows, 4, generator=draw) < 0.3).byte()


def mixed(task: Task, images: torch.Tensor, targets: torch.Tensor, seed: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    return task.mix(images, targets)


@pytest.mark.parametrize(("name", "mixer"), [("mixup", v2.MixUp), ("cutmix", v2.CutMix)])
def test_labels_are_mixed_as_torchvision_mixes_shares_of_classes(name: str, mixer: Any) -> None:
    images, targets = samples()
    task = create_task("multilabel", CLASSES, **{name: 0.7})
    new_images, new_targets = mixed(task, images, targets)
    torch.manual_seed(3)
    expected = v2.RandomChoice([mixer(alpha=0.7)])(images, targets.amax(1).float())
    assert torch.equal(new_images, expected[0])
    assert torch.equal(new_targets, expected[1][:, None])
    # lambda a + (1 - lambda) b: each label of either image is there with its image's share
    own, other = targets.amax(1).float(), targets.amax(1).float().roll(1, 0)
    share = new_targets[:, 0][(own == 1) & (other == 0)][0]
    torch.testing.assert_close(new_targets[:, 0], share * own + (1 - share) * other)


def test_both_are_drawn_for_some_batches_each() -> None:
    images, targets = samples()
    task = create_task("multilabel", CLASSES, mixup=1.0, cutmix=1.0)
    pasted = []
    for seed in range(20):
        new = mixed(task, images, targets, seed)[0]
        pasted.append(bool(((new == images) | (new == images.roll(1, 0))).all()))
    assert 0 < sum(pasted) < 20


@pytest.mark.parametrize("loss", ["bce", "asymmetric"])
def test_the_loss_of_mixed_labels_is_the_mixture_of_the_losses(loss: str) -> None:
    images, targets = samples()
    task = create_task("multilabel", CLASSES, loss=loss, mixup=1.0)
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    _, shares = mixed(task, images, targets)
    own, other = targets, targets.roll(1, 0)
    share = shares[:, 0][(own.amax(1) == 1) & (other.amax(1) == 0)][0]
    expected = share * task.loss(logits, own) + (1 - share) * task.loss(logits, other)
    torch.testing.assert_close(task.loss(logits, shares), expected)
    assert task.weight(shares) == 6


def test_losses_of_hard_labels_are_what_they_were_to_the_bit() -> None:
    """Reference: the choice between a positive and a negative that the asymmetric loss was written with."""
    for count in (5, 64):
        true = samples(count)[1].amax(1)
        logits = (3 * torch.randn(count, 4, generator=torch.Generator().manual_seed(2))).requires_grad_()
        shifted = (logits.sigmoid() - 0.05).clamp(min=0)
        negative = shifted.clamp(min=1e-12).pow(4.0) * torch.log1p(-shifted)
        positive = logits.neg().sigmoid().clamp(min=1e-12).pow(0.0) * torch.nn.functional.logsigmoid(logits)
        expected = -torch.where(true.bool(), positive, negative).sum() / count
        (gradient,) = torch.autograd.grad(expected, logits)
        loss = asymmetric_loss(logits, true)
        assert torch.equal(loss, expected)
        assert torch.equal(torch.autograd.grad(loss, logits)[0], gradient)
        assert torch.equal(binary_cross_entropy(logits, true), binary_cross_entropy(logits, true.float()))


def test_the_step_metric_counts_the_labels_of_the_larger_share() -> None:
    task = create_task("multilabel", CLASSES, mixup=1.0)
    logits = torch.tensor([[1.0, -1.0, 1.0, -1.0]])
    shares = torch.tensor([[[0.7, 0.3, 0.3, 0.0]]])
    assert task.step_metrics(logits, shares)["of1"] == pytest.approx(2 * 1 / (2 + 1))


@pytest.mark.parametrize("task_name", ["classification", "multilabel"])
def test_copies_are_mixed_with_other_samples(task_name: str) -> None:
    """A batch of copies lies copy by copy, so the image before one is of another sample."""
    count, copies = 4, 3
    images = torch.arange(float(count)).repeat(copies)[:, None, None, None].expand(-1, 1, 8, 8).contiguous()
    targets = torch.arange(count).repeat(copies)
    if task_name == "multilabel":
        targets = torch.nn.functional.one_hot(targets, count)[:, None].byte()
    task = create_task(task_name, CLASSES, mixup=1.0)
    new_images, shares = mixed(task, images, targets)
    shares = shares.reshape(count * copies, count)
    assert (shares > 0).sum(1).tolist() == [2] * (count * copies)
    torch.testing.assert_close(new_images[:, 0, 0, 0], shares @ torch.arange(float(count)))
    weights = [task.weight(part) for part in shares.chunk(2)]
    assert sum(weights) == count * copies


@pytest.mark.parametrize("setting", ["augment.mixup", "augment.cutmix"])
def test_masks_are_not_mixed(setting: str) -> None:
    recipe = load_recipe("quickstart-segmentation", {setting: 0.2})
    with pytest.raises(
        UserError, match=rf"{setting} is set, but the task 'segmentation' does not use it \(classification"
    ):
        build_task(recipe, Preprocessing(48, classes=("background", "cat")))


@pytest.mark.parametrize("loss", ["bce", "asymmetric"])
def test_a_run_with_mixed_labels_in_copies_and_chunks_trains(
    tiny_scenes: Callable[..., Recipe], tmp_path: Path, loss: str
) -> None:
    recipe = tiny_scenes(
        "multilabel", task__loss=loss, augment__mixup=0.4, augment__cutmix=1.0, training__copies=2, training__chunks=3,
        training__epochs=1,
    )  # fmt: skip
    assert (train(recipe, run=tmp_path / "run") / "checkpoints/best/model.safetensors").exists()


def test_label_smoothing_is_torchs_for_classes_and_for_mixed_ones() -> None:
    """Reference: the share e goes evenly to all classes, the true ones keep the rest."""
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    images, classes = samples()[0], torch.tensor([0, 1, 2, 3, 0, 1])
    task = create_task("classification", CLASSES, label_smoothing=0.1, mixup=1.0)
    hard = torch.nn.functional.one_hot(classes, 4).float()
    for targets, shares in ((classes, hard), (mixed(task, images, classes)[1],) * 2):
        smooth = 0.9 * shares + 0.1 / 4
        expected = -(smooth * logits.log_softmax(1)).sum(1).mean()
        torch.testing.assert_close(task.loss(logits, targets), expected)
        criterion = torch.nn.CrossEntropyLoss(label_smoothing=0.1)
        assert torch.equal(task.loss(logits, targets), criterion(logits, targets))
