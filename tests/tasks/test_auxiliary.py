"""Auxiliary classifiers: their loss, and a model with them from plan to evaluation."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from anysize.experiment.evaluate import evaluate
from anysize.experiment.train import train
from anysize.models.blocks.auxiliary import AuxiliaryOutputs
from anysize.models.measure.flops import count_flops
from anysize.models.measure.memory import activation_bytes
from anysize.models.spec import create_model
from anysize.recipe import Recipe
from anysize.tasks.base import create_task, main_logits


def test_each_auxiliary_loss_counts_as_much_as_the_setting_says() -> None:
    torch.manual_seed(0)
    task = create_task("classification", ["a", "b", "c", "d"], label_smoothing=0.1, auxiliary_weight=0.3)
    logits, second, third = torch.randn(3, 5, 4)
    targets = torch.tensor([0, 1, 2, 3, 0])

    def loss(logits: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(logits, targets, label_smoothing=0.1)

    torch.testing.assert_close(task.loss(logits, targets), loss(logits))
    outputs = AuxiliaryOutputs(logits, second)
    torch.testing.assert_close(task.loss(outputs, targets), loss(logits) + 0.3 * loss(second))
    both = loss(logits) + 0.3 * (loss(second) + loss(third))
    torch.testing.assert_close(task.loss((logits, second, third), targets), both)
    assert main_logits(outputs) is logits


def test_cost_of_auxiliary_classifiers_is_counted() -> None:
    options = {"init_channels": 4, "layers": 3}
    with torch.device("meta"):
        plain = create_model("cifar_darts_v2", auxiliary=False, **options)
        model = create_model("cifar_darts_v2", **options)
    forward = 2 * (4 * 64 * 128 + 4 * 128 * 768 + 768 * 10)  # of 64 channels: 1x1 on 2x2, 2x2 to one position, linear
    extra, without = count_flops(model, 32), count_flops(plain, 32)
    assert extra.forward - without.forward == forward
    assert extra.backward - without.backward == 2 * forward
    assert count_flops(model, 32, backward=False).forward == without.forward  # in evaluation it is not there
    assert activation_bytes(model, 32) > activation_bytes(plain, 32)


@pytest.mark.slow
def test_a_model_with_auxiliary_classifiers_trains_and_is_evaluated(
    tiny: Callable[..., Recipe], tmp_path: Path
) -> None:
    options = {"init_channels": 4, "layers": 3, "drop_path": 0.1}
    recipe = tiny(model__name="cifar_darts_v2", model__options=options, training__epochs=1, training__chunks=2)
    run = train(recipe, run=tmp_path / "run")
    log = pd.read_csv(run / "metrics.csv")
    assert log["train_loss"].between(1.4 * 1.5, 1.4 * 4).all()  # two cross-entropies near log 10, one at 0.4
    assert log["validation_loss"].between(1.5, 4).all()  # that of the logits alone
    table = evaluate(run, sizes=[14, 21], calibrate=True)
    assert table["top1"].between(0, 1).all()
