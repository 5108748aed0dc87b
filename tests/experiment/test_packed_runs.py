"""Runs on packs: the same data wherever the pack lies, and the same bits however they are loaded and interrupted."""

import functools
import os
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import safetensors.torch
import torch
from gloo_group import in_group
from image_files import write_folder
from interruption import stopped_after
from packs import pack_folder

from anysize.data.catalog import load_dataset
from anysize.data.settings import DataSettings
from anysize.experiment.evaluate import evaluate
from anysize.experiment.identity import identity_of
from anysize.experiment.loaded import load_run
from anysize.experiment.train import train
from anysize.recipe import Recipe, load_recipe
from anysize.registry import UserError
from anysize.stopping import Interrupted

TIMES = ["images_per_second", "settings"]  # and where the data is


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("root") / "folder", 20, lambda i: (60 + i, 90 - i))


@pytest.fixture(scope="module")
def pack(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack_folder(root, tmp_path_factory.mktemp("pack") / "p", "original,48,32,16")


def recipe_of(pack: Path, **changes: Any) -> Recipe:
    """Random resized crops at 14 to 42 pixels, so that all levels are read."""
    settings = {
        "data.name": "pack", "data.root": str(pack), "data.workers": 0, "sizes.base": 28, "sizes.mix": "B+",
        "model.name": "cifar_resnet", "model.options": {"depth": 8, "widths": [8, 8, 8]}, "training.epochs": 2,
        "training.equal_flops": False, "training.batch_size": 8, "optimizer.warmup_epochs": 0,
        "evaluation.calibration_images": 16, "evaluation.pictures": 0, "augment.color_jitter": 0.4,
    }  # fmt: skip
    return load_recipe("quickstart", settings | {key.replace("__", "."): value for key, value in changes.items()})


def weights(run: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(run / "checkpoints/last/model.safetensors")


def assert_same_weights(one: Path, other: Path) -> None:
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    assert [name for name, value in ours.items() if not torch.equal(value, theirs[name])] == []


@pytest.mark.slow
def test_a_run_goes_on_with_a_pack_that_was_moved_and_with_no_other(root: Path, pack: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(pack, tmp_path / "moved")
    whole = train(recipe_of(pack), run=tmp_path / "whole")
    log = (whole / "log.txt").read_text()
    assert "pack of 'folder': 40 for train, 40 for validation, levels original, 48, 32, 16" in log
    with stopped_after(4), pytest.raises(Interrupted):
        train(recipe_of(pack), run=tmp_path / "broken")
    assert_same_weights(whole, train(recipe_of(moved), run=tmp_path / "broken"))
    files = evaluate(whole, [32, 64], overrides={"data.name": "folder", "data.root": str(root)})
    packed = evaluate(whole, [32, 64])  # which sees the files themselves, in calibration, too
    assert "loss" in packed
    pd.testing.assert_frame_equal(packed.drop(columns=TIMES), files.drop(columns=TIMES), check_exact=True)
    other = pack_folder(root, tmp_path / "other", "original,32")
    with pytest.raises(UserError, match="began with other train images: 40 in"):
        train(recipe_of(other), run=tmp_path / "broken")
    assert load_run(whole).preprocessing.classes == ("cat", "dog")

    sources = {split: load_dataset(DataSettings(name="pack", root=str(moved)), split) for split in ("train",)}
    of_moved = identity_of(sources, DataSettings(name="pack", root=str(moved)))
    assert of_moved["train"]["images"] == 40
    assert of_moved["train"]["bytes"] == sum(path.stat().st_size for path in (moved / "train").iterdir())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")
def test_any_number_of_workers_that_were_interrupted_gives_the_same_bits(pack: Path, tmp_path: Path) -> None:
    whole = train(recipe_of(pack), run=tmp_path / "whole")
    for stop, workers in ((2, 0), (3, 1), (3, 4)):
        with stopped_after(stop), pytest.raises(Interrupted):
            train(recipe_of(pack, data__workers=workers), run=tmp_path / "broken")
    assert_same_weights(whole, train(recipe_of(pack, data__workers=1), run=tmp_path / "broken"))


def trained_in_two(pack: Path, folder: Path, rank: int) -> int:
    """A job of `in_group`: a run, and the same in two parts, of which each reads through other workers."""
    recipe = functools.partial(recipe_of, pack, training__batch_size=4, training__epochs=1)
    train(recipe(), run=folder / "whole")
    with pytest.raises(Interrupted), stopped_after(3 if rank else 10**6):  # one is asked to, and both stop
        train(recipe(data__workers=1), run=folder / "broken")
    train(recipe(), run=folder / "broken")
    return os.getpid()


@pytest.mark.slow
def test_two_processes_that_were_interrupted_give_the_same_bits(pack: Path, tmp_path: Path) -> None:
    (tmp_path / "group").mkdir()
    in_group(2, functools.partial(trained_in_two, pack, tmp_path), tmp_path / "group")
    assert_same_weights(tmp_path / "whole", tmp_path / "broken")
