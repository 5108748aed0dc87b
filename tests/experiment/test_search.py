"""`anysize.search`: rounds spend alike, the better variants go on, and the same call trains nothing twice."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch

from anysize.experiment import search as module
from anysize.experiment.planning import plan
from anysize.experiment.search import halving, read_variants, search, search_table
from anysize.recipe import Recipe
from anysize.registry import UserError

Make = Callable[..., Recipe]


@pytest.mark.parametrize(
    ("variants", "budget", "keep", "rounds"),
    [
        (2, 2, 2, [(2, 1)]),
        (8, 48, 2, [(8, 2), (4, 4), (2, 8)]),
        (5, 40, 2, [(5, 2), (3, 4), (2, 6)]),
        (9, 60, 3, [(9, 2), (3, 6), (2, 10)]),
    ],
)
def test_each_round_spends_the_same_on_fewer_variants(
    variants: int, budget: int, keep: int, rounds: list[tuple[int, int]]
) -> None:
    assert halving(variants, budget, keep) == rounds
    assert sum(count * epochs for count, epochs in rounds) <= budget


def test_a_budget_or_variants_that_are_too_few_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected at least 24"):
        halving(8, 23)
    with pytest.raises(UserError, match="at least two of both"):
        halving(1, 23)
    path = tmp_path / "variants.toml"
    path.write_text('[grow]\nsizes.mix = "window"\nsizes.sizes = [14, 28]\n[plain]\n', encoding="utf-8")
    assert read_variants(path) == {"grow": {"sizes.mix": "window", "sizes.sizes": [14, 28]}, "plain": {}}
    path.write_text("grow = 3\n", encoding="utf-8")
    with pytest.raises(UserError, match="grow is 3; expected a table"):
        read_variants(path)
    with pytest.raises(UserError, match="cannot be read"):
        read_variants(tmp_path / "none.toml")
    with pytest.raises(UserError, match=r"variant b: --sizes\.mix"):
        search("quickstart", {"a": {}, "b": {"sizes.mix": "C+"}}, budget=2, sizes=[28])
    late = {"a": {}, "b": {"sizes.mix": "window"}}  # which sizes is asked when the plan is made
    with pytest.raises(UserError, match=r"variant b: .*sizes\.sizes is empty"):
        search("quickstart", late, budget=2, sizes=[28], run=tmp_path / "search")
    late = {"a": {}, "b": {"model.weights": str(tmp_path / "none.pth")}}
    with pytest.raises(UserError, match=r"variant b: weights are .*none\.pth', and there is no such file"):
        search("quickstart", late, budget=2, sizes=[28], run=tmp_path / "search")
    torch.save({"conv9.weight": torch.zeros(2, 2)}, tmp_path / "other.pth")
    late["b"]["model.weights"] = str(tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"variant b: .*other\.pth"):
        search("quickstart", late, budget=2, sizes=[28], run=tmp_path / "search")
    assert not (tmp_path / "search").exists()
    with pytest.raises(UserError, match="a name that a folder may have"):
        search("quickstart", {"a": {}, "../b": {}}, budget=2, sizes=[28])


READS_VALUES = """
from torch import nn


class Own(nn.Module):
    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.head = nn.Linear(in_channels, num_classes)

    def forward(self, images):
        return self.head(images.mean((2, 3))) * (1 + images.sum().item() * 0)


def build(num_classes, in_channels=1):
    return Own(num_classes, in_channels)
"""


@pytest.mark.slow
def test_a_model_that_reads_values_is_planned_and_searched(tiny: Make, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(READS_VALUES)
    recipe = tiny(
        data__limit=40, training__batch_size=20, sizes__mix="fixed", evaluation__calibration_images=20,
        model__name=f"{tmp_path / 'own.py'}:build", model__options={},
    )  # fmt: skip
    assert plan(recipe).memory > 0
    variants = {"plain": {}, "slow": {"optimizer.lr": 0.02}}
    assert len(search(recipe, variants, budget=2, sizes="28", run=tmp_path / "search")) == 2


@pytest.mark.slow
def test_the_better_variants_train_for_longer(tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tiny(data__limit=40, training__batch_size=20, sizes__mix="fixed", evaluation__calibration_images=20)
    variants = {"idle": {"optimizer.lr": 0.0}, "plain": {}, "slow": {"optimizer.lr": 0.02}}
    how = {"budget": 12, "sizes": "14,28", "run": tmp_path / "search"}
    found = search(recipe, variants, **how)
    assert found["round"].tolist() == [2, 2, 1, 1, 1]
    assert found["epochs"].tolist() == [3, 3, 2, 2, 2]
    assert found["seed"].tolist() == [1, 1, 0, 0, 0]
    assert set(found["variant"][:2]) == set(found["variant"][2:4])  # the better two of the first round
    assert found["mean"][:2].is_monotonic_decreasing
    assert found["mean"].tolist() == pytest.approx(found[["top1@14", "top1@28"]].mean(axis=1).tolist())
    written = pd.read_csv(tmp_path / "search" / "search.csv")
    pd.testing.assert_frame_equal(written, found, check_dtype=False)
    assert len(search_table(found).rows) == 5
    evaluation = pd.read_csv(tmp_path / "search" / "round-2" / found["variant"][0] / "evaluation.csv")
    calibrated = evaluation[evaluation["calibrated"]].set_index("size")["top1"]
    assert calibrated[28] == found["top1@28"][0]

    trained: list[Path] = []
    real = module.train
    monkeypatch.setattr(
        module, "train", lambda *args, run, **named: trained.append(run) or real(*args, run=run, **named)
    )
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "search").rglob("model.safetensors")}
    pd.testing.assert_frame_equal(search(recipe, variants, **how), found)
    assert len(trained) == 5
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "search").rglob("model.safetensors")}
