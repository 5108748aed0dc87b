"""docs/coming_from.md: each of our commands is one that the command line takes, says what theirs says, and runs."""

import dataclasses
import functools
import hashlib
import itertools
import json
import pickle
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from coco_files import write_coco
from image_files import smooth_image
from mask_folders import mask_of, save_image, save_palette
from page_commands import Command, lacks, read_commands, run, run_in_pair
from torchvision_flags import FLAGS, expected, parse, rates

import anysize
from anysize.cli import build_app, parse_settings
from anysize.data.catalog import dataset_info, resized_as_set
from anysize.experiment import build, sizing
from anysize.models.weights.addresses import address_at
from anysize.models.weights.download import is_address
from anysize.models.weights.published import published_preprocessing
from anysize.recipe import Recipe, documented_settings, load_recipe, override, to_dict
from anysize.training.optimizer import regime_at, stretch

PAGE = (Path(__file__).parents[1] / "docs/coming_from.md").read_text(encoding="utf-8")


BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
COMMANDS = [command for language, text in BLOCKS if language == "sh" for command in read_commands(text)]
TRAININGS = [command for command in COMMANDS if command.verb == "train"]


command_line = functools.cache(build_app)


def resolve(command: Command) -> Recipe:
    """The recipe that a command trains, or that an import writes into the run folder."""
    app = command_line()
    _, bound, unused = app.parse_args(list(command.words), exit_on_error=False, print_error=False)
    assert not unused, command
    name, *rest = bound.args
    return override(load_recipe(name) if command.verb == "train" else Recipe(), parse_settings(tuple(rest)))


def test_every_command_is_one_that_the_command_line_takes() -> None:
    """Recipe, options and settings are known, and so is what is imported; what is evaluated was made before."""
    made = set()
    for command in COMMANDS:
        resolve(command)
        if "--out" in command.words:
            made.add(command.words[command.words.index("--out") + 1])
        if command.verb == "evaluate":
            assert command.words[1] in made, command
        if command.verb == "import" and command.words[1].startswith("http://ai2"):
            assert address_at(command.words[1]) is not None, command
    assert {command.verb for command in COMMANDS} == {"train", "evaluate", "import"}
    assert len(TRAININGS) > 60


def test_each_of_their_commands_has_ours_behind_it() -> None:
    """Their blocks hold the commands of the READMEs, and no block of theirs is without one of ours."""
    languages = [language for language, _ in BLOCKS]
    assert all(after == "sh" for before, after in itertools.pairwise(languages) if before == "text")
    theirs = "\n".join(text for language, text in BLOCKS if language == "text")
    for script in ("main.py", "evaluate.py", "cifar10_main.py", "cifar100_main.py", "imagenet_main.py", "classify.py",
                   "docker_classify.py", "multilabel_classify.py", "segment.py", "train.py"):  # fmt: skip
        assert re.search(rf"\b{re.escape(script)}\b", theirs), script
    for norm in ("online", "batch", "layer", "instance", "group"):
        for name in ("cifar10", "cifar100"):
            assert f"{name}_main.py /path/to/data --model-dir /path/to/cache/model --norm-mode {norm}" in theirs


def test_every_flag_of_torchvision_s_script_is_in_the_table_with_settings_that_there_are() -> None:
    rows = re.findall(r"^\| (`-.*?) \| (.*) \|$", PAGE.split("### Every flag of train.py")[1], re.MULTILINE)
    told = {flag for left, _ in rows for flag in re.findall(r"`--([\w-]+)`", left)}
    assert told == {*FLAGS, "wd"}
    settings = {row[0] for row in documented_settings()}
    options = {"--device", "--out", "--resume", "--pretrained"}
    named = re.findall(r"(--[\w.]+)", " ".join(right for _, right in rows))
    assert len(named) > 45
    for option in named:
        parts = option.removeprefix("--").split(".")
        assert option in options or ".".join(parts[:2]) in settings, option


def test_a_builder_with_the_regimes_of_mix_and_match_s_readme_trains_by_them(tmp_path: Path) -> None:
    (block,) = [text for language, text in BLOCKS if language == "python"]
    (tmp_path / "models.py").write_text(block)
    (tmp_path / "my.toml").write_text('[data]\nname = "imagenet"\n')
    recipe = load_recipe(str(tmp_path / "my.toml"), {"model.name": f"{tmp_path}/models.py:model"})
    rates = [regime_at(recipe.optimizer, epoch)[1] for epoch in (0, 14.9, 15)]
    assert [(at["lr"], at["weight_decay"]) for at in rates] == [(0.01, 5e-4), (0.01, 5e-4), (0.001, 0)]
    plan = sizing.build_plan(recipe, 2560)
    for epoch, size, batch in ((0, 128, 256), (14, 128, 256), (15, 224, 64)):
        assert {(b.size, len(b.indices)) for b in plan.batches(epoch)} == {(size, batch)}


def pairs() -> list[Any]:
    """Each command of torchvision's for training with the commands of ours behind it."""
    found = []
    for (language, theirs), (_, ours) in itertools.pairwise(BLOCKS):
        lines = [line for line in theirs.splitlines() if " train.py " in line and "--test-only" not in line]
        if language == "text" and lines:
            words = shlex.split(lines[-1])
            flags = words[words.index("train.py") + 1 :]
            nodes = 4 if "--n_nodes=4" in words else 1
            found += [
                pytest.param(flags, nodes, command, id=" ".join(command.words[1:5])) for command in read_commands(ours)
            ]
    return found


@pytest.mark.parametrize(("words", "nodes", "command"), pairs())
def test_ours_trains_what_torchvision_s_command_says(words: list[str], nodes: int, command: Command) -> None:
    flags, recipe = parse(words), resolve(command)
    if not flags.model.startswith("$"):
        assert recipe.model.name == flags.model
    flags.model = recipe.model.name
    own = {f"{section}.{key}": value for section, part in to_dict(recipe).items() for key, value in part.items()}
    assert {key: own[key] for key in expected(flags)} == expected(flags)
    assert command.devices == 8 * nodes
    optimizer = stretch(recipe.optimizer, recipe.training.epochs)
    total = command.devices * recipe.training.batch_size
    ours = [regime_at(optimizer, epoch, total)[1]["lr"] for epoch in range(flags.epochs)]
    assert ours == pytest.approx(rates(flags), rel=1e-6)
    info = dataset_info(recipe.data)
    preprocessing = dataclasses.replace(
        build.build_preprocessing(recipe.data, info, sizing.base_size(recipe)),
        crop_ratio=recipe.data.crop_ratio or 0.875,
    )
    assert preprocessing.resize_side(flags.val_crop_size) == flags.val_resize_size
    assert (recipe.data.interpolation or preprocessing.interpolation) == flags.interpolation
    assert sizing.build_plan(recipe, 1000).schedule.sizes(flags.epochs) == {flags.train_crop_size}


@pytest.mark.parametrize(
    "command", [c for c in COMMANDS if "pytorch.org" in c.words[1]], ids=lambda c: c.option("--as")
)
def test_published_weights_get_the_input_that_torchvision_s_test_gives_them(command: Command) -> None:
    recipe, name = resolve(command), command.option("--as")
    expected = published_preprocessing(name, file=command.words[1].rpartition("/")[2])
    assert expected is not None
    expected = resized_as_set(expected, recipe.data)
    weights = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"]
    assert command.words[1] == weights.url
    transform, size = weights.transforms(), expected.image_size
    assert ([size], [expected.resize_side(size)]) == (transform.crop_size, transform.resize_size)
    assert expected.interpolation == transform.interpolation.value
    evaluated = next(c for c in COMMANDS if c.verb == "evaluate" and c.words[1] == command.option("--out"))
    assert (evaluated.option("--sizes"), evaluated.devices) == (str(size), 8)


def test_a_checkpoint_of_mix_and_match_s_gets_the_input_that_its_recipes_train_with() -> None:
    recipe = resolve(next(c for c in COMMANDS if c.option("--out") == "runs/theirs"))
    info = dataset_info(load_recipe("mixsize/cifar10-resnet44").data)
    assert (recipe.data.mean, recipe.data.std) == (tuple(info.mean), tuple(info.std))


SMALLEST = (
    "alexnet", "resnet18", "resnext50_32x4d", "mobilenet_v3_small", "shufflenet_v2_x1_5", "regnet_x_400mf",
    "efficientnet_v2_s", "convnext_tiny", "swin_t", "swin_v2_t", "maxvit_t", "vit_b_32",
)  # fmt: skip
"""One network a family, as published; the family's other networks are trained by the same code."""
IMPORTS = ("dla60x", "inception_v3", "efficientnet_b1", "theirs", "mixsize_d")
TOO_LARGE = ("vit",)
"""Families of which one step of two processes takes more memory than tests have; their commands are resolved alone."""

TINY = {
    "--data.limit": "4", "--data.workers": "0", "--training.epochs": "1", "--training.batch_size": "2",
    "--training.chunks": "1", "--training.precision": "float32", "--training.checkpoint_background": "false",
    "--evaluation.pictures": "0", "--evaluation.calibration_images": "2", "--evaluation.batch_size": "2",
}  # fmt: skip


def family(command: Command) -> str:
    return re.split(r"[\d_]", resolve(command).model.name.replace("vgg", "alexnet"))[0]


def one_of_each(commands: list[Command]) -> list[Command]:
    """Of the commands that differ in the network of a family, the learning rate or the batch alone, the smallest."""
    found: dict[Any, Command] = {}
    for command in commands:
        recipe = resolve(command)
        alike = {"model.name": "", "optimizer.lr": 0.1, "optimizer.batch_size": 0, "training.batch_size": 1,
                 "training.precision": "float32"}  # fmt: skip
        key = family(command), repr(override(recipe, alike))
        if key not in found or recipe.model.name in SMALLEST:
            found[key] = command
    return list(found.values())


class Places:
    """Tiny data sets in the layouts that the commands expect, and checkpoints for those that start from one."""

    def __init__(self, root: Path) -> None:
        self.root, self.hub = root, root / "hub"
        smooth_image(0, 40, 50).save(root / "0.jpg")
        for split in ("train", "val"):  # of 1,000 classes, since published weights have as many
            for label in range(1000):
                folder = root / f"imagenet/{split}/n{label:08}"
                folder.mkdir(parents=True)
                shutil.copyfile(root / "0.jpg", folder / "0.jpg")
        write_coco(root / "coco", ("train2014", "val2014"))
        for path in (root / "coco/annotations").iterdir():
            content = json.loads(path.read_text())
            content["categories"] += [{"id": 1000 + i, "name": f"class {i}", "supercategory": ""} for i in range(77)]
            path.write_text(json.dumps(content))
        voc = root / "voc/VOCdevkit/VOC2012"
        for name in ("a", "b", "c", "d"):
            save_image(voc / f"JPEGImages/{name}.jpg")
            save_palette(voc / f"SegmentationClass/{name}.png", mask_of(0, 5, 255))
            save_palette(voc / f"SegmentationClassAug/{name}.png", mask_of(0, 5, 255))
        (voc / "ImageSets/Segmentation").mkdir(parents=True)
        for name in ("train", "train_aug", "val"):
            (voc / f"ImageSets/Segmentation/{name}.txt").write_text("a\nb\nc\nd\n")
        pixels = np.random.default_rng(0).integers(0, 256, (40, 3072), dtype=np.uint8)
        for folder, names, key, classes in (
            ("cifar-10-batches-py", [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"], "labels", 10),
            ("cifar-100-python", ["train", "test"], "fine_labels", 100),
        ):
            (root / "cifar" / folder).mkdir(parents=True)
            for name in names:
                held = {"data": pixels, key: [i % classes for i in range(40)]}
                (root / "cifar" / folder / name).write_bytes(pickle.dumps(held))
            meta = {"label_names": list(map(str, range(10))), "fine_label_names": list(map(str, range(100)))}
            (root / "cifar" / folder / ("batches.meta" if classes == 10 else "meta")).write_bytes(pickle.dumps(meta))

    def weights(self, path: Path, name: str, **options: Any) -> Path:
        """A file as another program would have written it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"state_dict": anysize.create_model(name, **options).state_dict()}, path)
        return path

    def words(self, command: Command) -> list[str]:
        """The words of a command with these places in it, cut down to a step or two."""
        recipe, words = resolve(command), list(command.words)
        named = words[1].removeprefix("runs/")
        data = {"cifar10": "cifar", "cifar100": "cifar", "coco": "coco", "voc": "voc"}.get(recipe.data.name, "imagenet")
        if (command.verb in ("import", "evaluate") and named.startswith(("coco", "voc"))) or "_models/" in named:
            data = "coco" if "coco" in named else "voc" if "voc" in named or "pascal" in named else "imagenet"
        file = ""
        if "FILE" in words:
            name = recipe.model.name if command.verb == "train" else command.option("--as")
            options = {} if command.verb == "train" else {"num_classes": 10}
            file = str(self.weights(self.root / f"{name}.pth.tar", name, **options))
        places = {"DIR": str(self.root / data), "FILE": file, "cuda:0": "cpu"}
        words = [places.get(word, word) for word in words]
        words = [str(self.root / word) if word.startswith("runs/") else word for word in words]
        if "--repeat" in words:
            words[words.index("--repeat") + 1] = "1"
        if command.verb == "import":
            return words
        tiny = dict(TINY)
        if command.verb == "evaluate":
            tiny = {key: TINY[key] for key in ("--data.limit", "--data.workers", *list(TINY)[-3:])}
        else:
            if recipe.model.name.startswith(("vit", "maxvit")) or recipe.sizes.base == 32:
                pass
            elif recipe.sizes.sizes:
                tiny |= {"--sizes.sizes": "64", "--sizes.base": "96"}
            else:
                tiny["--sizes.base"] = "64"
            if "--data.download" in words:
                tiny["--data.download"] = "false"
            if "--out" not in words:
                tiny["--out"] = str(self.root / f"runs/{abs(hash(command))}")
        return words + [word for pair in tiny.items() for word in pair]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    """With what torchvision checks of CIFAR's files, their digests, left aside; with torch's folder of weights here."""
    places, before = Places(tmp_path_factory.mktemp("coming")), torch.hub.get_dir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torchvision.datasets.CIFAR10, "_check_integrity", lambda self: True)
        patch.setattr(torchvision.datasets.cifar, "check_integrity", lambda path, md5: True)
        torch.hub.set_dir(str(places.hub))
        yield places
        torch.hub.set_dir(before)
    shutil.rmtree(places.root)


def file_of(places: Places, command: Command) -> None:
    """Lay the file that a command would download into torch's folder of weights."""
    url = command.words[1]
    if is_address(url):
        name = command.option("--as") or address_at(url).model
        kinds = {"coco": {"num_classes": 80}, "deeplab": {"num_classes": 21, "task": "segmentation"},
                 "inception": {"aux_logits": True, "init_weights": False}}  # fmt: skip
        file = url.rpartition("/")[2]
        folder = "" if "pytorch.org" in url else hashlib.sha256(url.encode()).hexdigest()[:8]
        options = next((options for kind, options in kinds.items() if file.startswith(kind)), {})
        places.weights(places.hub / "checkpoints" / folder / file, name, **options)


def made_for(places: Places, evaluation: Command) -> None:
    """Run the command of the page that makes the run folder of an evaluation."""
    maker = next(c for c in COMMANDS if c.option("--out") == evaluation.words[1])
    if not (places.root / evaluation.words[1]).exists():
        file_of(places, maker)
        run(places.words(maker))


ALONE = one_of_each([command for command in TRAININGS if command.devices == 1])
EVALUATIONS = [c for c in COMMANDS if c.verb == "evaluate" and c.words[1].endswith(IMPORTS)]
TOGETHER = [c for c in one_of_each([c for c in TRAININGS if c.devices > 1]) if family(c) not in TOO_LARGE]


@pytest.mark.slow
@pytest.mark.parametrize("command", ALONE, ids=lambda c: c.words[1])
def test_a_training_of_one_process_runs(places: Places, command: Command) -> None:
    words = places.words(command)
    run(words)
    assert not lacks(words)


@pytest.mark.slow
@pytest.mark.parametrize("command", [c for c in EVALUATIONS if c.devices == 1], ids=lambda c: c.words[1])
def test_what_was_trained_or_imported_is_evaluated_at_the_size_asked_for(places: Places, command: Command) -> None:
    made_for(places, command)
    run(places.words(command))
    table = pd.read_csv(places.root / command.words[1] / "evaluation.csv")
    assert table["size"].unique().tolist() == [int(command.option("--sizes"))]
    assert table["calibrated"].any() == ("--no-calibrate" not in command.words)


@pytest.mark.slow
def test_what_is_for_several_processes_runs_in_two(places: Places) -> None:
    """One pair does all, since each start takes longer than a step."""
    evaluations = [command for command in EVALUATIONS if command.devices > 1]
    assert len(evaluations) == 2
    for command in evaluations:
        made_for(places, command)
    jobs = [places.words(command) for command in [*TOGETHER, *evaluations]]
    failed = [text for text in run_in_pair(jobs, str(places.hub), places.root) if text]
    assert not failed, "\n".join(failed)
    for command in evaluations:
        images = pd.read_csv(places.root / command.words[1] / "evaluation.csv")["images"]
        assert images.tolist() == [int(TINY["--data.limit"])]
