"""A file of another program's becomes a run folder that the other verbs take."""

import argparse
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from torch import nn

import anysize
from anysize.data.settings import DataSettings
from anysize.experiment.build import build_data
from anysize.experiment.loaded import load_run, make_evaluator
from anysize.experiment.weights import find_weights, for_classes
from anysize.models.spec import ModelSpec, create_model
from anysize.recipe import Recipe, load_recipe
from anysize.registry import UserError
from anysize.training.checkpoint.files import read_checkpoint, read_state

MODEL = {"depth": 8, "widths": [8, 8, 16]}
OPTIONS = {f"model.options.{key}": value for key, value in MODEL.items()}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A checkpoint of three classes, as a training program leaves it."""
    return save(tmp_path / "model_best.pth.tar", small())


def small(classes: int = 3, channels: int = 3) -> nn.Module:
    torch.manual_seed(3)
    model = create_model("cifar_resnet", classes, channels, **MODEL)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
    return model


def save(path: Path, model: nn.Module, **beside: Any) -> Path:
    state = {f"module.{name}": value for name, value in model.state_dict().items()}
    torch.save({"epoch": 9, "arch": "cifar_resnet", "state_dict": state, "best_acc1": 71.5, **beside}, path)
    return path


def imported(file: Path, model: str = "", **named: Any) -> tuple[Path, list[str]]:
    lines: list[str] = []
    overrides = {**OPTIONS, **named.pop("overrides", {})}
    run = anysize.import_checkpoint(
        file, model, out=file.parent / "run", overrides=overrides, say=lines.append, **named
    )
    return run, lines


def test_values_are_those_of_the_file_and_what_was_read_is_told(file: Path) -> None:
    run, lines = imported(file)
    loaded = load_run(run)
    for name, value in small().state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], value), name
    assert "it says: model 'cifar_resnet', epoch 9, best_acc1 71.5" in lines[0]
    assert "the prefix 'module.' of every name is taken off" in lines
    assert "3 classes, whose names the file does not tell" in lines[-1]
    assert read_state(run / "checkpoints/last")["imported"]["epoch"] == 9


def test_it_is_fed_as_it_was_published(file: Path) -> None:
    run, _ = imported(file)
    expected = anysize.expected_preprocessing("cifar_resnet")
    assert load_run(run).preprocessing == expected
    changed = anysize.import_checkpoint(
        file, out=file.parent / "changed", overrides={**OPTIONS, "data.mean": "0.5,0.5,0.5"}
    )
    assert load_run(changed).preprocessing.mean == (0.5, 0.5, 0.5)


@pytest.mark.report
def test_evaluate_and_calibrate_take_it(file: Path, image_folder: Path) -> None:
    run, _ = imported(file, overrides={"data.root": str(image_folder)})
    table = anysize.evaluate(run, [32, 24], overrides={"data.workers": 0})
    assert table["images"].tolist() == [18] * 4
    assert (run / "report.html").is_file()
    assert anysize.calibrate(run, 24, overrides={"data.workers": 0}).name == "calibrated-24"
    again = anysize.evaluate(run, [24], checkpoint="calibrated-24", calibrate=False, overrides={"data.workers": 0})
    assert again["top1"].tolist() == table.query("calibrated and size == 24")["top1"].tolist()


def test_accuracy_is_that_of_the_model_fed_by_hand(file: Path, image_folder: Path) -> None:
    """Both the validation images and those that calibrate are normalised as the weights want it."""
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    run, _ = imported(file, overrides={"data.root": str(image_folder)})
    state = read_checkpoint(run / "checkpoints/last")
    evaluator = make_evaluator(load_run(run))
    expected = anysize.expected_preprocessing("cifar_resnet")
    assert evaluator.preprocessing.mean == evaluator.loader.transform.preprocessing.mean == expected.mean
    assert state.state["preprocessing"]["mean"] == list(expected.mean)
    other = anysize.import_checkpoint(
        file,
        out=file.parent / "other",
        overrides={**OPTIONS, "data.root": str(image_folder), "data.mean": mean, "data.std": std},
    )
    evaluator = make_evaluator(load_run(other))
    assert evaluator.preprocessing.mean == evaluator.loader.transform.preprocessing.mean == mean
    assert evaluator.preprocessing.std == evaluator.loader.transform.preprocessing.std == std


def test_data_with_other_classes_is_refused(file: Path, image_folder: Path) -> None:
    run, _ = imported(save(file, small(5)))
    with pytest.raises(UserError, match=r"the data has 3 classes and the weights, imported without names .* are for 5"):
        anysize.evaluate(run, [32], overrides={"data.root": str(image_folder)})


def test_names_of_classes_in_the_file_are_compared(file: Path, image_folder: Path) -> None:
    names = sorted(path.name for path in (image_folder / "train").iterdir())
    data = {"data.root": str(image_folder), "data.workers": 0}
    run, lines = imported(save(file, small(), class_to_idx={name: i for i, name in enumerate(names)}), overrides=data)
    assert lines[-1].endswith(f"with 3 classes, called {', '.join(names)}")
    assert load_run(run).preprocessing.classes == tuple(names)
    assert anysize.evaluate(run, [32], calibrate=False)["images"].tolist() == [18]
    turned = save(file, small(), meta={"CLASSES": names[::-1]})
    weights = find_weights(turned, "cifar_resnet", MODEL)
    assert weights.classes == tuple(names[::-1])
    spec = ModelSpec("cifar_resnet", num_classes=3, options=MODEL)
    left = for_classes(weights, spec, names, DataSettings())
    assert set(weights.tensors) - set(left.tensors) == {"fc.weight", "fc.bias"}
    assert f"output 0 was trained as '{names[2]}' and is '{names[0]}'" in left.notes[-1]
    shutil.rmtree(run)
    run, _ = imported(turned, overrides=data)
    with pytest.raises(UserError, match=f"output 0 was trained as '{names[2]}' and is '{names[0]}' in the data"):
        anysize.evaluate(run, [32])


def test_grey_images_for_a_model_of_three_channels_are_refused(file: Path) -> None:
    run, _ = imported(save(file, small(10)))
    with pytest.raises(UserError, match=r"images of 'fashion-mini' have 1 channel and the model takes 3; .*--model\.w"):
        anysize.evaluate(run, [28], overrides={"data.name": "fashion-mini"})


def test_one_channel_can_be_asked_for(file: Path) -> None:
    run, lines = imported(save(file, small(10)), channels=1)
    assert "the first convolution conv1 is adapted from 3 to 1 input channels" in lines
    assert load_run(run).preprocessing.channels == 1
    table = anysize.evaluate(run, [28], overrides={"data.name": "fashion-mini", "data.limit": 20}, calibrate=False)
    assert len(table) == 1


def test_channels_are_those_of_the_file(file: Path) -> None:
    run, _ = imported(save(file, small(10, channels=1)))
    assert load_run(run).model.conv1.weight.shape[1] == 1


def test_other_classes_make_a_new_head_that_follows_the_seed(file: Path) -> None:
    heads = []
    for seed in (0, 0, 1):
        out = file.parent / f"run-{len(heads)}"
        run = anysize.import_checkpoint(file, out=out, classes=7, overrides={**OPTIONS, "training.seed": seed})
        heads.append(load_run(run).model.fc.weight)
    assert heads[0].shape[0] == 7
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_a_run_goes_on_from_it_with_data_of_its_own(
    file: Path, image_folder: Path, tiny: Callable[..., Recipe]
) -> None:
    run, _ = imported(file)
    overrides = {"data.name": "folder", "data.root": str(image_folder), "data.limit": 0, "data.workers": 0}
    small = {"sizes__mix": "fixed", "sizes__base": 16, "training__epochs": 1}
    recipe = tiny(model__weights=str(run), model__options=MODEL, **small)
    trained = anysize.train(recipe, overrides, run=file.parent / "trained")
    assert "a checkpoint of cifar_resnet with 3 classes" in (trained / "log.txt").read_text()
    assert load_run(trained, "last").preprocessing.classes == ("apple", "banana", "cherry")


def test_an_imported_run_has_no_training_to_go_on_with(file: Path, image_folder: Path) -> None:
    run, _ = imported(file, overrides={"data.root": str(image_folder), "data.workers": 0})
    with pytest.raises(UserError, match=r"holds weights alone, as anysize import writes them.*--model\.weights"):
        anysize.train(str(run / "recipe.toml"), run=run)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_becomes_single(tmp_path: Path, half: torch.dtype) -> None:
    model = small().to(half)
    safetensors.torch.save_file(dict(model.state_dict()), tmp_path / "model.safetensors")
    run, _ = imported(tmp_path / "model.safetensors", "cifar_resnet")
    weight = read_checkpoint(run / "checkpoints/last").model["conv1.weight"]
    assert weight.dtype == torch.float32
    assert torch.equal(weight, model.conv1.weight.float())


def test_averaged_weights(file: Path) -> None:
    averaged = {"n_averaged": torch.tensor(3), **{f"module.{k}": v + 1 for k, v in small().state_dict().items()}}
    save(file, small(), model_ema=averaged, args=argparse.Namespace(lr=0.1))
    run, lines = imported(file, averaged=True)
    assert "these are averaged weights" in lines
    assert torch.equal(load_run(run).model.conv1.weight, small().conv1.weight + 1)


def test_norms_can_be_swapped_on_the_way(file: Path) -> None:
    run, _ = imported(file, overrides={"model.norm": "group", "model.norm_options": {"num_groups": 4}})
    model = load_run(run).model
    assert isinstance(model.bn1, nn.GroupNorm)
    assert torch.equal(model.conv1.weight, small().conv1.weight)


def test_a_file_with_the_state_of_online_norms(file: Path) -> None:
    """Names and shapes are those of the authors' modules: norm.m, norm.var, norm.u, norm.v."""
    model = create_model("cifar_resnet", 3, norm="online", **MODEL)
    nn.init.uniform_(model.bn1.norm.u)
    run, _ = imported(save(file, model), overrides={"model.norm": "online"})
    assert torch.equal(load_run(run).model.bn1.norm.u, model.bn1.norm.u)
    with pytest.raises(UserError, match=r"does not fit[\s\S]*bn1 .*missing running_mean"):
        anysize.import_checkpoint(file, out=file.parent / "batch", overrides=OPTIONS)


def test_a_classifier_becomes_a_segmentation_network(tmp_path: Path) -> None:
    """Those of ELASTIC, small: everything but the head comes from the classifier."""
    options = {"layers": [1, 1, 1, 1], "widths": [4, 8, 16, 32], "stem": 4, "cardinality": 8}
    file = tmp_path / "classifier.pth"
    torch.save(create_model("resnext50_elastic", 5, **options).state_dict(), file)
    overrides = {"model.options": options, "task.name": "segmentation"}
    lines: list[str] = []
    run = anysize.import_checkpoint(
        file, "resnext50_elastic", classes=4, out=tmp_path / "run", overrides=overrides, say=lines.append
    )
    assert any("segmentation head" in line for line in lines)
    assert load_run(run).model(torch.zeros(1, 3, 33, 33)).shape == (1, 4, 33, 33)
    whole = tmp_path / "whole.pth"
    torch.save(load_run(run).model.state_dict(), whole)
    again = anysize.import_checkpoint(
        whole, "resnext50_elastic", out=tmp_path / "again", overrides={"model.options": options}
    )
    assert read_state(again / "checkpoints/last")["task"] == "segmentation"  # by its head


ELASTIC = {"layers": [1, 1, 1, 1], "widths": [4, 8, 16, 32], "stem": 4, "cardinality": 8}


def test_the_elastic_networks_files_are_of_the_task_and_data_that_they_were_published_for(tmp_path: Path) -> None:
    """80 classes: MS-COCO's labels, on stretched images; 21 and a head for segmentation: VOC's masks at 513 px."""
    cases = [
        (80, "", "multilabel", "coco", 224, "stretch"),
        (1000, "", "classification", "imagenet", 224, "center-crop"),
        (21, "segmentation", "segmentation", "voc", 513, "pad"),
        (5, "segmentation", "segmentation", "folder", 513, "pad"),
    ]
    for classes, head, task, data, size, resize in cases:
        file = tmp_path / f"{data}.pth.tar"
        model = create_model("resnext50_elastic", classes, task=head, **ELASTIC)
        torch.save({"arch": "resnext50_elastic", "state_dict": model.state_dict()}, file)
        run = anysize.import_checkpoint(file, out=tmp_path / data, overrides={"model.options": ELASTIC})
        recipe, state = load_recipe(str(run / "recipe.toml")), read_state(run / "checkpoints/last")
        assert (recipe.task.name, recipe.data.name, recipe.sizes.base) == (task, data, size)
        assert (state["task"], state["model"]["task"]) == (task, task)
        assert (state["preprocessing"]["image_size"], state["preprocessing"]["resize"]) == (size, resize)


def test_eighty_classes_of_another_network_or_of_a_new_head_are_no_coco(tmp_path: Path, file: Path) -> None:
    run = anysize.import_checkpoint(file, out=tmp_path / "new", classes=80, overrides=OPTIONS)
    assert load_recipe(str(run / "recipe.toml")).task.name == "classification"
    torch.save(create_model("resnext50_elastic", 80, **ELASTIC).state_dict(), tmp_path / "a.pth")
    named = {"model.options": ELASTIC, "task.name": "classification"}
    run = anysize.import_checkpoint(tmp_path / "a.pth", "resnext50_elastic", out=tmp_path / "named", overrides=named)
    recipe = load_recipe(str(run / "recipe.toml"))
    assert (recipe.task.name, recipe.data.name) == ("classification", "folder")


def test_torchvisions_segmentation_files_are_known_by_their_model(tmp_path: Path) -> None:
    file = tmp_path / "lraspp.pth"
    torch.save(create_model("lraspp_mobilenet_v3_large").state_dict(), file)
    run = anysize.import_checkpoint(file, "lraspp_mobilenet_v3_large", out=tmp_path / "run")
    recipe = load_recipe(str(run / "recipe.toml"))
    assert (recipe.task.name, recipe.data.name, recipe.sizes.base) == ("segmentation", "voc", 520)


def test_timm_models_and_models_that_need_values_to_be_built(tmp_path: Path) -> None:
    torch.save(timm.create_model("resnet10t", num_classes=3).state_dict(), tmp_path / "a.pth")
    run = anysize.import_checkpoint(tmp_path / "a.pth", "timm:resnet10t", out=tmp_path / "a")
    assert load_run(run).preprocessing.interpolation == "bicubic"
    torch.save(create_model("regnet_y_400mf", 4).state_dict(), tmp_path / "b.pth")  # does not build without memory
    run = anysize.import_checkpoint(tmp_path / "b.pth", "regnet_y_400mf", out=tmp_path / "b")
    assert load_run(run).model.fc.out_features == 4


def test_a_misfit_is_told_and_leaves_no_folder(file: Path) -> None:
    with pytest.raises(UserError, match=r"\(of 'cifar_resnet', it says\) does not fit resnet20: [\s\S]*layer1"):
        anysize.import_checkpoint(file, "resnet20", out=file.parent / "run")
    assert not (file.parent / "run").exists()
    anysize.import_checkpoint(file, "resnet20", out=file.parent / "run", partial=True)
    assert (file.parent / "run/recipe.toml").is_file()


def test_a_folder_that_is_there_is_left_alone(file: Path) -> None:
    run, _ = imported(file)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=r"is there already; give a new folder with --out"):
        imported(file)
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_what_stops_it_half_way_leaves_no_files(
    file: Path, monkeypatch: pytest.MonkeyPatch, stop: BaseException
) -> None:
    def fail(*_: object) -> None:
        raise stop

    with monkeypatch.context() as patched:
        patched.setattr("anysize.experiment.importing._link", fail)
        with pytest.raises((KeyboardInterrupt, UserError)) as caught:
            imported(file)
    if isinstance(stop, OSError):
        assert "No space left on device" in str(caught.value)
        assert "make room or give another folder with --out" in str(caught.value)
    run, _ = imported(file)  # the same command again
    assert load_run(run).model.fc.out_features == 3


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"overrides": {"task.name": "detection"}}, "task is 'detection'; expected classification"),
        ({"classes": -3}, "num_classes is -3; expected at least 1"),
        ({"channels": -1}, "in_channels is -1; expected at least 1"),
    ],
)
def test_numbers_and_tasks_that_make_no_sense_are_refused(file: Path, changed: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        imported(file, **changed)
    assert not (file.parent / "run").exists()


@pytest.mark.parametrize(
    ("beside", "model", "said"),
    [
        ({"arch": "resnet"}, "", "says 'resnet', which is no model here; name it with --as"),
        ({"arch": None}, "", "does not tell its model; name it with --as"),
        ({"arch": "resnet10t"}, "", "name it with --as .--as timm:resnet10t for timm's of that name"),
        ({}, "resnet5O", "unknown model 'resnet5O': did you mean 'resnet50'"),
    ],
)
def test_a_model_that_is_not_known_is_asked_for(file: Path, beside: dict[str, Any], model: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        anysize.import_checkpoint(save(file, small(), **beside), model, out=file.parent / "run")


def test_values_that_are_not_finite_are_refused(file: Path) -> None:
    model = small()
    model.conv1.weight.data[0, 0, 0, 0] = float("nan")
    with pytest.raises(UserError, match=r"holds values that are NaN or infinite, first in conv1\.weight: .*--averaged"):
        imported(save(file, model))


def test_the_data_that_the_class_count_suggests(file: Path, tmp_path: Path) -> None:
    for classes, name in ((3, "folder"), (10, "cifar10"), (100, "cifar100"), (1000, "imagenet")):
        run = anysize.import_checkpoint(file, out=tmp_path / name, classes=classes, overrides=OPTIONS)
        recipe = load_recipe(str(run / "recipe.toml"))
        assert (recipe.data.name, recipe.sizes.base) == (name, 32)


def test_data_is_prepared_as_the_weights_want_it(image_folder: Path) -> None:
    recipe = load_recipe("quickstart", {"data.name": "folder", "data.root": str(image_folder), "data.std": "1,1,1"})
    weights = anysize.Preprocessing(224, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), interpolation="bicubic", crop_ratio=0.9)
    prepared = build_data(recipe, weights).preprocessing
    assert (prepared.mean, prepared.interpolation, prepared.crop_ratio) == ((0.1, 0.2, 0.3), "bicubic", 0.9)
    assert prepared.std == (1, 1, 1)  # the recipe says so
    assert prepared.image_size == 28
    assert prepared.classes == ("apple", "banana", "cherry")
