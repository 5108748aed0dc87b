"""`anysize new`: the recipe that it writes is the one that it proposes, and trains as it stands."""

import numpy as np
import pytest
from mask_folders import mask_of, save_grey, save_image
from PIL import Image

from anysize.experiment import new
from anysize.experiment.planning import plan
from anysize.experiment.train import train
from anysize.recipe import load_recipe
from anysize.registry import UserError


def squares(root, side, count=12, mode="RGB"):
    rng = np.random.default_rng(0)
    for number, name in enumerate(("cat", "it's a <b>")):
        (root / name).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 100, (side, side, 3), dtype=np.uint8) + np.uint8(100 * number)
            Image.fromarray(pixels).convert(mode).save(root / name / f"{i}.png")


@pytest.mark.parametrize(
    ("side", "mode", "wanted"),
    [
        (28, "L", {"model.name": "resnet20", "model.weights": "", "sizes.base": 28, "augment.color_jitter": 0.0}),
        (150, "RGB", {"model.name": "resnet18", "model.weights": "pretrained", "sizes.base": 160}),
        (600, "L", {"sizes.base": 224, "augment.color_jitter": 0.0, "data.val_split": 0.1}),
    ],
)
def test_size_of_the_images_decides(tmp_path, side, mode, wanted):
    squares(tmp_path / "set", side, count=3, mode=mode)
    recipe = new.propose(tmp_path / "set").recipe
    assert {key: getattr(getattr(recipe, key.split(".")[0]), key.split(".")[1]) for key in wanted} == wanted


def test_few_images_have_small_batches_and_many_epochs():
    assert [new._batch(images, 64) for images in (4, 200, 600, 10**6)] == [8, 8, 16, 64]
    few, many = new._epochs(60, 8, pretrained=True), new._epochs(10**6, 64, pretrained=True)
    assert few[0] > many[0] == 10
    assert [new._mix(224, images, 8)[0] for images in (20, 100, 10**4)] == ["fixed", "D+", "B+"]


@pytest.mark.slow
def test_masks_are_segmented(tmp_path):
    for i in range(4):
        save_image(tmp_path / "images" / f"{i}.png", seed=i)
        save_grey(tmp_path / "masks" / f"{i}.png", mask_of(0, 1))
    proposal = new.propose(tmp_path, pretrained=False)
    assert proposal.recipe.task.name == "segmentation"
    assert proposal.recipe.model.weights == ""


def test_images_of_one_class_are_refused(tmp_path):
    squares(tmp_path / "set" / "train", 28, count=3)
    for path in (tmp_path / "set" / "train" / "cat").iterdir():
        path.rename(tmp_path / "set" / "train" / "it's a <b>" / f"cat{path.name}")
    (tmp_path / "set" / "train" / "cat").rmdir()
    with pytest.raises(UserError, match="images have one class"):
        new.propose(tmp_path / "set")


def test_file_is_the_proposal_and_trains(anysize, tmp_path):
    """The name of the folder steers neither the TOML file nor the commands that are told."""
    folder = tmp_path / 'my "set"\n# x'
    squares(folder, 16)
    done = anysize("new", str(folder))
    assert done.returncode == 0, done.stderr
    file = tmp_path / "my-set-x.toml"
    proposal, recipe = new.propose(folder), load_recipe(str(file))
    assert recipe == proposal.recipe
    assert plan(recipe) == proposal.cost
    assert "22 training and 2 validation images of 2 classes" in done.stdout
    assert "anysize train my-set-x.toml --fast-dev-run" in done.stdout
    run = train(str(file), {"training.epochs": 1, "model.name": "resnet8"}, run=tmp_path / "run")
    assert (run / "metrics.csv").exists()
    again = anysize("new", str(folder))
    assert again.returncode == 2
    assert "is there already" in again.stderr
    assert anysize("new", str(folder), "--force").returncode == 0
