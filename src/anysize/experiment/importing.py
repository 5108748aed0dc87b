"""`anysize.import_checkpoint`: a file of another program's becomes a run folder that the other verbs take.

The values go from the mapped file to the new one a tensor at a time; the model itself is built for its names and shapes
alone, without memory, unless something of it is new.
"""

import dataclasses
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anysize.data.catalog import resized_as_set
from anysize.experiment.weights import Weights, describe_input, start_from
from anysize.machine import plainly
from anysize.models import trust
from anysize.models.builders import is_timm_model
from anysize.models.families import PUBLISHED, PUBLISHED_CLASSES
from anysize.models.measure.meta import build_on_meta
from anysize.models.names import list_models, made_for
from anysize.models.spec import ModelSpec
from anysize.models.weights import FitReport, ForeignCheckpoint, fit_tensors, map_names
from anysize.models.weights.addresses import Address, address_at, address_of, published_addresses
from anysize.models.weights.download import download, is_address, sha256
from anysize.models.weights.fitting import check_fit
from anysize.models.weights.heads import file_classes, find_first_convolution, find_head, join
from anysize.models.weights.int8 import Int8Checkpoint, load_int8, read_any
from anysize.models.weights.published import published_preprocessing
from anysize.preprocessing import Preprocessing
from anysize.recipe import Recipe, dump, override
from anysize.registry import UserError, counted, some_of
from anysize.reports import run_files
from anysize.training.checkpoint.files import Checkpoint, model_tensors, read_state, write_checkpoint


@plainly("importing")
def import_checkpoint(
    path: str | Path,
    model: str = "",
    *,
    out: str | Path | None = None,
    classes: int = 0,
    channels: int = 0,
    averaged: bool = False,
    partial: bool = False,
    overrides: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Path:
    """Write a run folder with the weights of a file that another program wrote; returns the folder.

    `evaluate`, `calibrate` and `--model.weights` take it. Names of tensors are mapped where the file's differ. The
    input is the one that the model was published for (`expected_preprocessing`). An int8 file of torchvision's becomes
    a quantized model, integer for integer. The task is segmentation where the file has such a head, and for the Elastic
    networks with 80 classes multilabel, as they were published for MS-COCO.

    Args:
        path: the file: PyTorch's of any version or safetensors, from this or another training program. An address
            (http, https or file) is downloaded to torch's folder of weights first, unless the file is there.
        model: the model's name, as `create_model` takes it; empty: the name that the file gives.
        out: the new folder; by default `runs/MODEL-FILE`.
        classes: 0: as many as the file's head has; with another number the head is new.
        channels: input channels; 0: those of the file; for others the first convolution is adapted.
        averaged: take the averaged weights that the file keeps beside the others.
        partial: take what fits and start the rest afresh, instead of refusing.
        overrides: settings of the recipe, such as `{"data.name": "imagenet", "data.root": ...}`, model.options, or
            task.name.
        say: called with each sentence on what was read and done.

    Raises:
        UserError: what `read_foreign` or `download` refuses, weights that do not fit the model, a folder that is there
            already, or a full disk.

    Example::

        run = anysize.import_checkpoint("resnext50_elastic.pth.tar", "resnext50_elastic")
        table = anysize.evaluate(run, [224, 288], overrides={"data.root": "~/imagenet"})
    """
    address, file = _local_file(path, say)
    foreign = read_any(file, averaged=averaged)
    name = model or (address.model if address else name_of(foreign))
    folder = Path(out).expanduser() if out else import_folder(name, foreign.path)
    if folder.exists() and (not folder.is_dir() or any(path.is_file() for path in folder.rglob("*"))):
        raise UserError(f"{folder} is there already; give a new folder with --out")
    imported = convert(foreign, name, classes=classes, channels=channels, partial=partial, overrides=overrides)
    _write(folder, imported.checkpoint, imported.recipe)
    count = imported.checkpoint.state["model"]["num_classes"]
    names = imported.checkpoint.state["preprocessing"]["classes"]
    told = f"called {some_of(names)}" if names else "whose names the file does not tell"
    for line in (*imported.lines, f"{folder}: {name} with {counted(count, 'class')}, {told}"):
        say(line)
    return folder


def import_folder(name: str, file: Path) -> Path:
    """The folder that a file of the model `name` is imported to: `runs/MODEL-FILE`."""
    stem = file.name.removesuffix(".tar").rpartition(".")[0] or file.name
    return Path("runs") / f"{_plain(name)}-{_plain(stem)}"


def can_train(run: Path) -> bool:
    """Whether the model that was imported to a folder can be trained further: int8 weights cannot."""
    return not ModelSpec.from_dict(read_state(run / run_files.CHECKPOINTS / "last")["model"]).is_quantized


@dataclasses.dataclass(frozen=True)
class Imported:
    """What another program's file has become: a checkpoint of ours, its recipe, sentences on what was read and done."""

    checkpoint: Checkpoint
    recipe: Recipe
    lines: list[str]


def convert(
    foreign: ForeignCheckpoint | Int8Checkpoint,
    name: str,
    *,
    classes: int = 0,
    channels: int = 0,
    partial: bool = False,
    overrides: Mapping[str, Any] | None = None,
) -> Imported:
    """Make a checkpoint of ours of one that was read; the arguments are those of `import_checkpoint`."""
    overrides = overrides or {}
    if isinstance(foreign, Int8Checkpoint):
        if classes or channels or partial:
            raise UserError(
                f"{foreign.path} holds int8 weights, which are taken as they are; give none but --as and --out"
            )
        return _convert_int8(foreign, name, overrides)
    recipe = _recipe(name, foreign, overrides)
    plan = _plan(recipe, foreign, classes, channels)
    labels = name in PUBLISHED and "multilabel" in PUBLISHED[name].others
    if labels and plan.file_classes == PUBLISHED_CLASSES["multilabel"] and "task.name" not in overrides:
        recipe = override(recipe, {"task.name": "multilabel"})
    expected, notes = _preprocessing(recipe, plan.spec.in_channels, foreign.path.name)
    recipe = _with_data(recipe, expected, plan.classes, overrides)
    if len(foreign.classes) == plan.classes == plan.file_classes and recipe.data.name != "imagenet":
        expected = dataclasses.replace(expected, classes=foreign.classes)  # ImageNet's folders have numbers for names
    plan.spec = dataclasses.replace(plan.spec, task=recipe.task.name, image_size=expected.image_size)
    tensors, fitted = _tensors(plan, recipe, foreign, partial)
    notes = [*fitted, *notes]
    said = {"model": foreign.arch, "epoch": foreign.epoch, **foreign.metrics}
    return _imported(foreign, plan.spec, tensors, recipe, expected, notes, said)


def _convert_int8(foreign: Int8Checkpoint, name: str, overrides: Mapping[str, Any]) -> Imported:
    recipe = override(Recipe(), {"model.name": name, **overrides})
    expected, notes = _preprocessing(recipe, foreign.channels, foreign.path.name)
    recipe = _with_data(recipe, expected, foreign.classes, overrides)
    spec = ModelSpec.from_settings(
        recipe.model,
        num_classes=foreign.classes,
        in_channels=foreign.channels,
        task=recipe.task.name,
        image_size=expected.image_size,
    )
    spec = spec.without_relu6().quantized()
    model = spec.build()
    if unused := load_int8(model, foreign):
        notes.append(f"left out, since the model has no such layers: {', '.join(unused)}")
    return _imported(foreign, spec, model_tensors(model), recipe, expected, notes, {})


def _imported(
    foreign: ForeignCheckpoint | Int8Checkpoint,
    spec: ModelSpec,
    tensors: Mapping[str, Tensor],
    recipe: Recipe,
    expected: Preprocessing,
    notes: list[str],
    said: Mapping[str, Any],
) -> Imported:
    state = {
        "model": spec.to_dict(),
        "task": recipe.task.name,
        "images": 0,
        "preprocessing": expected.to_dict(),
        "imported": {"file": foreign.path.name, **said},
    }
    lines = [*foreign.lines(), *notes, describe_input(Weights({}, expected, ""), expected)]
    return Imported(Checkpoint({"model": tensors}, state), recipe, lines)


def _local_file(path: str | Path, say: Callable[[str], None]) -> tuple[Address | None, Path]:
    """What is known of a published file at a path or an address, and where it lies here."""
    if not is_address(path):
        addresses = published_addresses(str(path))
        if addresses and not Path(path).exists():
            raise UserError(f"there is no file {path}; published are {' and '.join(a.url for a in addresses)}")
        return None, Path(path)
    known, file = address_at(str(path)), download(str(path))
    say(f"{path}: {file.stat().st_size:,} bytes, sha256 {sha256(file)}, in {file}")
    if known and known.known:
        say(f"published: {known.known}")
    return known, file


def _write(folder: Path, checkpoint: Checkpoint, recipe: Recipe) -> None:
    """Write the run folder whole or not at all, so that the same command may be given again."""
    checkpoints = folder / run_files.CHECKPOINTS
    try:
        write_checkpoint(checkpoints / "last", checkpoint)
        shutil.copytree(checkpoints / "last", checkpoints / "best", copy_function=_link)
        run_files.write_recipe(folder, dump(recipe))
        trust.remember(recipe.model.name, recipe.model.options)
    except BaseException as error:  # an interruption, too
        shutil.rmtree(checkpoints, ignore_errors=True)
        if isinstance(error, (OSError, shutil.Error)):
            raise UserError(f"cannot write {folder}: {error}; make room or give another folder with --out") from error
        raise


@dataclasses.dataclass
class _Plan:
    """The spec of the model, its shapes, and how the file fits them."""

    spec: ModelSpec
    own: Mapping[str, Tensor]
    report: FitReport
    classes: int
    file_classes: int | None


def _plan(recipe: Recipe, foreign: ForeignCheckpoint, classes: int, channels: int) -> _Plan:
    """Find class count and input channels in the file, and fit it to the model that has them."""
    plain = ModelSpec(recipe.model.name, task=recipe.task.name, options=recipe.model.options)
    network = build_on_meta(plain.build)
    own, head, first = network.state_dict(), find_head(network), find_first_convolution(network)
    mapped = map_names(foreign.tensors, own).tensors
    published = file_classes(own, head)
    in_file = file_classes(mapped, head)
    classes = classes or in_file or published or 0
    if not classes:
        raise UserError(f"model {recipe.model.name!r} does not tell how many classes it has; give --classes")
    weight = mapped.get(join(first, "weight")) if first is not None else None
    channels = channels or (weight.shape[1] if weight is not None and weight.ndim == 4 else 3)
    if (classes, channels) != (published, 3):
        own = build_on_meta(dataclasses.replace(plain, num_classes=classes, in_channels=channels).build).state_dict()
    report = fit_tensors(own, foreign.tensors, head, first)
    spec = ModelSpec.from_settings(recipe.model, num_classes=classes, in_channels=channels, task=recipe.task.name)
    return _Plan(spec, own, report, classes, in_file)


def _tensors(
    plan: _Plan, recipe: Recipe, foreign: ForeignCheckpoint, partial: bool
) -> tuple[Mapping[str, Tensor], list[str]]:
    """The values to write, by the model's names and in its order, and what was done to get them."""
    torch.manual_seed(recipe.training.seed)
    source = str(foreign.path) + (f" (of {foreign.arch!r}, it says)" if foreign.arch else "")
    if plan.spec.changes:
        weights = Weights(foreign.tensors, None, source)
        return start_from(plan.spec, weights, partial=partial).state_dict(), weights.notes
    check_fit(plan.report, plan.own, source, recipe.model.name, partial)
    lacking = [name for name in plan.own if name not in plan.report.tensors]
    if all(name.endswith("num_batches_tracked") for name in lacking):
        first = {name: torch.zeros((), dtype=torch.int64) for name in lacking}
    else:
        first = plan.spec.build().state_dict()
    tensors = {name: plan.report.tensors[name] if name in plan.report.tensors else first[name] for name in plan.own}
    return _OfTypes(tensors, plan.own), plan.report.lines()


@dataclasses.dataclass(eq=False)
class _OfTypes(Mapping[str, Tensor]):
    """Tensors of a file, each converted to the model's type only when it is asked for."""

    tensors: Mapping[str, Tensor]
    own: Mapping[str, Tensor]

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name].to(self.own[name].dtype)

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


def name_of(foreign: ForeignCheckpoint | Int8Checkpoint) -> str:
    """The model that a file is of, as it says itself or as its name does.

    Raises:
        UserError: neither tells.
    """
    if isinstance(foreign, ForeignCheckpoint) and foreign.arch in list_models():
        return foreign.arch
    if address := address_of(foreign.path.name):
        return address.model
    if isinstance(foreign, Int8Checkpoint):
        raise UserError(f"{foreign.path} does not tell its model; name it with --as, such as --as resnet18")
    says = f"says {foreign.arch!r}, which is no model here" if foreign.arch else "does not tell its model"
    hint = "`anysize models` lists them"
    if foreign.arch and is_timm_model(foreign.arch):
        hint = f"--as timm:{foreign.arch} for timm's of that name"
    raise UserError(f"{foreign.path} {says}; name it with --as ({hint})")


def _recipe(name: str, foreign: ForeignCheckpoint, overrides: Mapping[str, Any]) -> Recipe:
    if overrides.get("model.weights"):
        raise UserError("model.weights is given beside a file to import; expected one of them")
    has_head = any("aspp." in key or "dla_up." in key for key in foreign.tensors)
    task = {"task.name": "segmentation"} if has_head or made_for(name) == "segmentation" else {}
    return override(Recipe(), {"model.name": name, **task, **overrides})


def _with_data(recipe: Recipe, expected: Preprocessing, classes: int, overrides: Mapping[str, Any]) -> Recipe:
    """The recipe with the data set that the class count suggests, where none was named, at the expected size."""
    small = {10: "cifar10", 100: "cifar100"}.get(classes, "folder") if expected.image_size == 32 else "folder"
    published = {"multilabel": "coco", "segmentation": "voc"}.get(recipe.task.name, "imagenet")
    data = published if classes == PUBLISHED_CLASSES.get(recipe.task.name, 1000) else small
    suggested = {"data.name": data, "sizes.base": expected.image_size}
    return override(recipe, {key: value for key, value in suggested.items() if key not in overrides})


def _preprocessing(recipe: Recipe, channels: int, file: str) -> tuple[Preprocessing, list[str]]:
    """The input that weights in a file of this name want, with so many channels and what the recipe sets; and notes."""
    notes, expected = [], published_preprocessing(recipe.model.name, recipe.model.options, recipe.task.name, file)
    if expected is None:
        expected = Preprocessing(image_size=224)
        notes.append("nothing is known of how its images were prepared: taken as usual for ImageNet")
    if channels != expected.channels:
        mean, std = (sum(values) / len(values) for values in (expected.mean, expected.std))
        expected = dataclasses.replace(expected, mean=(mean,) * channels, std=(std,) * channels)
        notes.append("mean and deviation are the averages over the published channels")
    for key in ("mean", "std"):
        wanted = getattr(recipe.data, key)
        if wanted and len(wanted) != channels:
            raise UserError(f"data.{key} has {len(wanted)} values and the model {channels} input channels")
    chosen = {key: getattr(recipe.data, key) or getattr(expected, key) for key in ("mean", "std")}
    expected = dataclasses.replace(expected, image_size=recipe.sizes.base or expected.image_size, **chosen)
    return resized_as_set(expected, recipe.data), notes


def _plain(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name).strip("-.")


def _link(source: str, target: str) -> str:
    """A second name of a file, which is never written in place; a copy where the file system has no such names."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target
