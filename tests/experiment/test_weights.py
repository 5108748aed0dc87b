"""Trainings that start from weights: where these come from, how images are prepared then, going on without them."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import anysize
from anysize.experiment.build import build_data, build_model
from anysize.experiment.loaded import load_run
from anysize.experiment.prepare import prepare
from anysize.experiment.weights import find_weights, load_weights
from anysize.models.spec import create_model
from anysize.models.weights.published import Pretrained
from anysize.recipe import Recipe, override
from anysize.registry import UserError
from anysize.training.checkpoint.files import read_checkpoint

MODEL = {"depth": 8, "widths": [8, 8, 16]}


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(5)
    return create_model("cifar_resnet", 10, 1, **MODEL)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, network: nn.Module) -> Path:
    path = tmp_path_factory.mktemp("weights") / "weights.pth.tar"
    torch.save({"state_dict": network.state_dict()}, path)
    return path


@pytest.fixture(scope="module")
def recipe(tiny: Callable[..., Recipe], file: Path) -> Recipe:
    small = {"data__limit": 64, "sizes__mix": "fixed", "sizes__base": 16, "training__epochs": 1}
    return tiny(model__weights=str(file), model__options=MODEL, **small)


@pytest.fixture(scope="module")
def run(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training that starts from the file and hardly leaves it, but for the statistics of its norms."""
    return anysize.train(recipe, {"optimizer.lr": 1e-12}, run=tmp_path_factory.mktemp("run") / "run")


def built(recipe: Recipe) -> nn.Module:
    return prepare(recipe).model


def test_a_training_starts_from_them_and_says_so(recipe: Recipe, network: nn.Module, run: Path) -> None:
    assert torch.equal(built(recipe).layer1[0].conv1.weight, network.layer1[0].conv1.weight)
    trained = read_checkpoint(run / "checkpoints/last")
    torch.testing.assert_close(trained.model["conv1.weight"], network.conv1.weight.detach())
    assert "weights.pth.tar: PyTorch file with" in (run / "log.txt").read_text()


def test_a_run_that_goes_on_needs_them_no_more(recipe: Recipe, file: Path, tmp_path: Path) -> None:
    """And comes out as one that was never stopped."""
    file = Path(shutil.copy(file, tmp_path))
    longer = {"training.epochs": 2, "training.validate_every": 2, "model.weights": str(file)}
    whole = anysize.train(recipe, longer, run=tmp_path / "whole")
    run = anysize.train(recipe, longer, run=tmp_path / "run")
    shutil.rmtree(run / "checkpoints/last")
    (run / "checkpoints/previous").rename(run / "checkpoints/last")
    assert read_checkpoint(run / "checkpoints/last").state["progress"]["epoch"] == 1
    file.unlink()
    anysize.train(recipe, longer, run=run)
    ends = [read_checkpoint(folder / "checkpoints/last").model for folder in (whole, run)]
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
    with pytest.raises(UserError, match="there is no such file or folder"):
        anysize.train(recipe, longer, run=run, resume_from="never")
    (run / "checkpoints/last/state.json").write_text("{")
    with pytest.raises(
        UserError, match=r"checkpoint .*last is damaged: state\.json.*; go on .* with --resume previous"
    ):
        anysize.train(recipe, longer, run=run)
    shutil.rmtree(run / "checkpoints/previous")
    with pytest.raises(UserError, match="has no checkpoint 'previous'; choose one of: best, last"):
        anysize.train(recipe, longer, run=run, resume_from="previous")


def test_other_weights_are_another_run(recipe: Recipe, run: Path) -> None:
    with pytest.raises(UserError, match=r"another recipe: model\.weights was .* and is now ''"):
        anysize.train(recipe, {"model.weights": "", "optimizer.lr": 1e-12}, run=run)


@pytest.mark.parametrize("checkpoint", ["", "checkpoints/last", "checkpoints/best"])
def test_runs_and_their_checkpoints_are_weights(recipe: Recipe, run: Path, checkpoint: str) -> None:
    expected = read_checkpoint(run / (checkpoint or "checkpoints/best")).model
    model = built(override(recipe, {"model.weights": str(run / checkpoint)}))
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


def test_images_are_prepared_as_the_weights_want_it(
    recipe: Recipe, image_folder: Path, tmp_path: Path, network: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In training, in its validation, and where the run is evaluated and calibrated later."""
    wanted = anysize.Preprocessing(224, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), interpolation="bicubic", crop_ratio=0.9)
    weights = Pretrained(dict(network.state_dict()), wanted, "someone's network")
    monkeypatch.setattr("anysize.experiment.weights.pretrained_weights", lambda *arguments: weights)
    data = {"data.name": "folder", "data.root": str(image_folder), "data.limit": 0, "data.workers": 0}
    run = anysize.train(recipe, {"model.weights": "pretrained", **data}, run=tmp_path / "run")
    held = load_run(run).preprocessing
    assert (held.mean, held.std, held.interpolation, held.crop_ratio) == (wanted.mean, wanted.std, "bicubic", 0.9)
    assert held.image_size == 16
    log = (run / "log.txt").read_text()
    assert "weights: someone's network" in log
    assert "the head fc is new: the file has 10 classes, the model 3" in log
    assert "images are prepared with mean 0.1, 0.2, 0.3, deviation 0.4, 0.5, 0.6, bicubic, crop ratio 0.9" in log
    changed = override(recipe, {"model.weights": "pretrained", "data.mean": "0.5,0.5,0.5", **data})
    assert prepare(changed).data.preprocessing.mean == (0.5, 0.5, 0.5)


def test_weights_for_other_channels_leave_the_datas_mean(recipe: Recipe, tmp_path: Path) -> None:
    torch.save(create_model("cifar_resnet", 10, 3, **MODEL).state_dict(), tmp_path / "colour.pth")
    prepared = prepare(override(recipe, {"model.weights": str(tmp_path / "colour.pth")}))
    assert prepared.data.preprocessing == build_data(recipe).preprocessing
    assert "the first convolution conv1 is adapted from 3 to 1 input channels" in prepared.notes
    assert "the weights are for images of 3 channels, and these have 1" in prepared.notes[-1]


def test_a_new_head_follows_the_seed(recipe: Recipe, tmp_path: Path) -> None:
    torch.save(create_model("cifar_resnet", 4, 1, **MODEL).state_dict(), tmp_path / "four.pth")
    recipe = override(recipe, {"model.weights": str(tmp_path / "four.pth")})
    heads = [built(override(recipe, {"training.seed": seed})).fc.weight for seed in (0, 0, 1)]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_norms_are_swapped_and_blocks_made_elastic_after_the_weights_are_loaded(
    recipe: Recipe, network: nn.Module
) -> None:
    online = built(override(recipe, {"model.norm": "online"}))
    assert isinstance(online.bn1, anysize.OnlineNorm2d)
    assert torch.equal(online.layer2[0].conv1.weight, network.layer2[0].conv1.weight)
    prepared = prepare(override(recipe, {"model.elasticize": "layer1"}))
    assert torch.equal(prepared.model.layer3[0].conv1.weight, network.layer3[0].conv1.weight)
    assert "convolutions that elasticize splits start anew" in prepared.notes


@pytest.mark.parametrize("change", [{"model.norm": "online"}, {"model.elasticize": "layer1"}])
def test_weights_of_a_run_with_such_norms_or_blocks_are_loaded_into_them(
    recipe: Recipe, tmp_path: Path, change: dict[str, Any]
) -> None:
    run = anysize.train(recipe, {**change, "data.limit": 16}, run=tmp_path / "run")
    model = built(override(recipe, {"model.weights": str(run / "checkpoints/last"), **change}))
    expected = read_checkpoint(run / "checkpoints/last").model
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


def test_weights_of_another_model_are_refused_or_taken_in_part(recipe: Recipe) -> None:
    wider = override(recipe, {"model.options.widths": "[8, 8, 24]"})
    with pytest.raises(UserError, match=r"weights\.pth\.tar does not fit ResidualNet: [\s\S]*layer3"):
        built(wider)
    notes = prepare(override(wider, {"model.partial_weights": "true"})).notes
    assert any(line.startswith("only part of") for line in notes)
    with pytest.raises(UserError, match=r"partial_weights is set without model\.weights"):
        prepare(override(wider, {"model.partial_weights": "true", "model.weights": ""}))


def test_what_is_nowhere_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'runs/none'.*there is no such file or folder; expected a run folder"):
        find_weights("runs/none", "resnet8")
    with pytest.raises(UserError, match="neither a run folder with checkpoints nor a checkpoint folder"):
        find_weights(tmp_path, "resnet8")
    with pytest.raises(UserError, match="no published weights of resnet8"):
        find_weights("pretrained", "resnet8")
    with pytest.raises(UserError, match="resnet18 has no weights 'IMAGENET1K_V2'"):
        find_weights("IMAGENET1K_V2", "resnet18")


def test_the_cost_is_known_without_reading_them(recipe: Recipe) -> None:
    assert anysize.plan(override(recipe, {"model.weights": "nowhere.pth"})).steps > 0


def test_a_model_of_ones_own_takes_weights(file: Path, network: nn.Module, tmp_path: Path) -> None:
    model = create_model("cifar_resnet", 10, 1, **MODEL)
    assert load_weights(model, file).lines() == []
    assert torch.equal(model.conv1.weight, network.conv1.weight)
    with pytest.raises(UserError, match="does not fit Linear"):
        load_weights(nn.Linear(3, 4), file)


def test_building_without_weights_is_as_before(recipe: Recipe) -> None:
    untrained = override(recipe, {"model.weights": ""})
    preprocessing = build_data(untrained).preprocessing
    torch.manual_seed(untrained.training.seed)
    expected = create_model("cifar_resnet", 10, 1, **MODEL)
    assert torch.equal(build_model(untrained, preprocessing).conv1.weight, expected.conv1.weight)


def test_a_rate_for_training_from_scratch_is_remarked_on(recipe: Recipe) -> None:
    """Where there are weights to lose, whatever the optimizer; what the recipe finetune sets is slow enough."""

    def remarks(**settings: Any) -> list[str]:
        given = {"optimizer.epochs": 0, "optimizer.lr": 0.1, **settings}
        return [note for note in prepare(override(recipe, given)).notes if "from scratch" in note]

    (note,) = remarks()
    assert note.startswith("the learning rate, at its largest 0.1, is one for training from scratch")
    assert "anysize train finetune" in note
    assert remarks(**{"optimizer.name": "adamw", "optimizer.lr": 0.01})
    assert not remarks(**{"optimizer.name": "adamw", "optimizer.lr": 1e-4})
    assert not remarks(**{"optimizer.lr": 0.1, "model.weights": ""})
    slow = anysize.load_recipe("finetune").optimizer
    assert not remarks(**{"optimizer.lr": slow.lr, "optimizer.epochs": slow.epochs})


def test_a_run_that_learns_nothing_says_so(recipe: Recipe) -> None:
    """Where its only step is the first one of warm-up; not where it has another."""
    one = {"training.epochs": 1, "training.batch_size": 64, "data.limit": 64, "optimizer.warmup_epochs": 0.5}

    def remarks(**settings: Any) -> list[str]:
        given = {"model.weights": "", "sizes.mix": "fixed", "training.equal_flops": False, **one, **settings}
        return [note for note in prepare(override(recipe, given)).notes if "nothing is learnt" in note]

    (note,) = remarks()
    assert note.startswith("warning: the learning rate is 0 in all of the run (1 step)")
    assert remarks(**{"optimizer.lr": 0, "optimizer.warmup_epochs": 0, "training.batch_size": 32})
    assert not remarks(**{"training.batch_size": 32})
    assert not remarks(**{"optimizer.warmup_epochs": 0})


def test_frozen_parts_keep_their_weights(recipe: Recipe, network: nn.Module, tmp_path: Path) -> None:
    settings = {"optimizer.freeze": "conv1,layer1.0", "optimizer.layer_decay": 0.5}
    run = anysize.train(recipe, settings, run=tmp_path / "r")
    trained = read_checkpoint(run / "checkpoints/last").model
    moved = {name for name, value in network.named_parameters() if not torch.equal(trained[name], value.detach())}
    assert {"layer2.0.bn2.weight", "fc.weight"} <= moved
    assert not [name for name in moved if name.startswith(("conv1", "layer1.0"))]
    assert anysize.train(recipe, settings, run=run) == run  # the optimizer's state is of the others alone
