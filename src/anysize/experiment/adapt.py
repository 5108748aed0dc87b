"""`anysize.adapt`: a copy of a checkpoint whose head and norms are fine-tuned for one size.

A network that is tested at another size than it was trained at loses less once its classifier and its norms have seen
images of that size as they are tested (Touvron et al., Fixing the train-test resolution discrepancy, arXiv
1906.06423, section 4.2). Everything else stays.

    make a recipe of the run's: the size alone, images as at evaluation, all frozen but head and norms
    train it, in a folder of its own within the run, where it goes on after a kill
    calibrate what it became, wholly: it learnt with the statistics of its batches, and few steps do not bring the
        running ones there
    write the weights as `checkpoints/adapted-SIZE` of the run; remove that folder
"""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import nn

from anysize.data.settings import AugmentSettings
from anysize.evaluation.sizes import parse_sizes
from anysize.experiment.build import HARMLESS
from anysize.experiment.calibrate import calibrate
from anysize.experiment.loaded import LoadedRun, check_takes, load_run
from anysize.experiment.second_passes import without_second_passes
from anysize.experiment.targets import run_aspect
from anysize.experiment.together import joined_for
from anysize.experiment.train import train
from anysize.files import remove
from anysize.models.spec import ModelSpec
from anysize.models.weights.heads import head_parameters
from anysize.norms.by_size.model import fixed_norm_size
from anysize.norms.calibration import has_running_statistics
from anysize.norms.convert.recognise import recognise
from anysize.recipe import Recipe, to_dict
from anysize.registry import UserError
from anysize.reports import run_files
from anysize.reports.console import progress
from anysize.reports.settings import TrackingSettings
from anysize.sizes.settings import SizeSettings
from anysize.sizes.shapes import SQUARE
from anysize.training.checkpoint.files import Checkpoint, read_checkpoint, write_checkpoint
from anysize.training.checkpoint.store import LAST, find_checkpoint
from anysize.training.regime import Point, constant
from anysize.training.settings import OptimizerSettings

FOLDER = "adapting"
"""Where in the run the fine-tunings lie that are not done yet."""


def adapt(
    run: str | Path,
    size: int,
    *,
    epochs: int = 1,
    steps: int = 0,
    lr: float = 0.01,
    checkpoint: str = LAST,
    overrides: Mapping[str, Any] | None = None,
    console: Console | None = None,
) -> Path:
    """Fine-tune head and norms of a run's checkpoint for an image size; returns the folder of the copy.

    The layer of logits, and weights, biases and statistics of all norms, learn from the training images at that size,
    prepared as at evaluation and mirrored as in training, with SGD and momentum 0.9, from `lr` down to 0 along a
    cosine. Then the norms are calibrated in full: they learnt with the statistics of batches, and running ones lag
    behind in a short training. What all of it took, `flops` forward and backward, and the `images` of the training are
    kept in the checkpoint; `anysize.evaluate` tells it, and measures the copy where it is asked for that size. A call
    that was stopped goes on when it is made again.

    Args:
        run: the run folder.
        size: pixels.
        epochs: passes over the training images.
        steps: of an epoch, at most; 0: all.
        lr: the learning rate at first, for the run's batch.
        checkpoint: what to adapt.
        overrides: settings of the run's recipe to replace, such as `{"data.root": ...}`.
        console: where to show progress; None: standard output.

    Returns:
        `checkpoints/adapted-SIZE` in the run, which other verbs take by that name.

    Raises:
        UserError: not a run, a size that the network cannot take, an int8 network, one without head and norms, or what
            `train` raises.
        Interrupted: a signal asked to stop; the state was saved.

    Example::

        anysize.adapt("runs/quickstart", 42)
        print(anysize.evaluate("runs/quickstart", sizes=[42]))
    """
    (size,) = parse_sizes([size])
    for name, value, least in (("epochs", epochs, 1), ("steps", steps, 0)):
        if value < least:
            raise UserError(f"{name} is {value}; expected at least {least}")
    loaded = load_run(run, checkpoint, overrides)
    spec = ModelSpec.from_dict(loaded.checkpoint.state["model"])
    if spec.is_quantized or spec.aware is not None:
        raise UserError(f"{checkpoint} of {run} is in int8 or trained for it; adapt a run in float, and quantize that")
    check_takes(loaded, size)
    run_files.check_is_own(loaded.folder)
    path = find_checkpoint(loaded.folder / run_files.CHECKPOINTS, checkpoint)
    assert path is not None  # it was loaded
    recipe = adapting_recipe(loaded, path.absolute(), size, epochs, steps, lr)
    folder = loaded.folder / FOLDER / f"{size}-{_digest(loaded, recipe)}"
    trained = train(recipe, run=folder, console=console, kept=False) / run_files.CHECKPOINTS / LAST
    made = loaded.folder / run_files.CHECKPOINTS / adapted_name(size)
    with joined_for(lambda: recipe, "adapting") as (_, world), world.together():
        if world.main:
            if has_running_statistics(loaded.model):
                trained = _calibrated(folder, size, recipe, console)
            _write(made, loaded, read_checkpoint(trained), spec.fix_norm_size(size), checkpoint, size, recipe)
            remove(folder)
            with contextlib.suppress(OSError):  # another size is being adapted to
                folder.parent.rmdir()
    return made


def adapted_name(size: int) -> str:
    """The name of the checkpoint that was adapted to a size."""
    return f"adapted-{size}"


def adapting_recipe(loaded: LoadedRun, weights: Path, size: int, epochs: int, steps: int, lr: float) -> Recipe:
    """The recipe that fine-tunes head and norms of a run at one size, from the checkpoint at `weights`."""
    recipe, own = loaded.recipe, loaded.preprocessing.own_size
    with fixed_norm_size(loaded.model, size):
        learning = learning_parameters(loaded.model)
        frozen = [name for name, _ in loaded.model.named_parameters() if name not in learning]
    if not learning:
        raise UserError(f"{type(loaded.model).__name__} has neither a head nor norms to adapt")
    batch = recipe.training.batch_size
    return dataclasses.replace(
        recipe,
        model=dataclasses.replace(
            recipe.model, weights=str(weights), partial_weights=False, norm_by_size=False, norm_by_size_affine=False
        ),
        sizes=_sizes(recipe, size, own),
        augment=AugmentSettings(crop="none", flip=recipe.augment.flip, backend=recipe.augment.backend),
        training=dataclasses.replace(
            without_second_passes(recipe.training),
            epochs=epochs,
            equal_flops=False,
            batch_size=min(batch, max(2, round(batch * (own / size) ** 2))),  # no more memory than the run took
            copies=1,
            repeats=1,
            limit_steps=float(steps),
            overfit_batches=0,
            average_steps=0,
            early_stopping=0,
            early_stopping_delta=0.0,
            validate_every=epochs,
            keep_best=1,
        ),
        optimizer=OptimizerSettings(
            epochs=epochs,
            lr=(Point(lr, ramp="cosine"), Point(0.0, float(epochs))),
            weight_decay=constant(0.0),
            freeze=tuple(frozen),
        ),
        tracking=TrackingSettings(),
    )


def _sizes(recipe: Recipe, size: int, own: int) -> SizeSettings:
    """One size, in the shapes that a run is evaluated in."""
    settings, aspect = SizeSettings(base=size, trained_base=own if own != size else 0), run_aspect(recipe.sizes)
    if aspect == SQUARE or recipe.evaluation.shape == "square":
        return settings
    ratios = (aspect.ratio,) if aspect else recipe.sizes.aspect_ratios
    return dataclasses.replace(settings, aspect_ratios=ratios, multiple=recipe.sizes.multiple)


def learning_parameters(model: nn.Module) -> set[str]:
    """The names of the parameters of a model's head and norms."""
    in_norms = {id(each) for module in model.modules() if recognise(module) for each in module.parameters()}
    return {name for name, each in model.named_parameters() if id(each) in in_norms} | head_parameters(model)


def adapted_copy(loaded: LoadedRun, checkpoint: str, size: int) -> LoadedRun | None:
    """The copy of a run's checkpoint that was adapted to a size; None where there is none, or one of other weights."""
    path = find_checkpoint(loaded.folder / run_files.CHECKPOINTS, adapted_name(size))
    if path is None or checkpoint == adapted_name(size):
        return None
    copy = load_run(loaded.folder, adapted_name(size), {"training.device": loaded.device.type})
    told = copy.checkpoint.state.get("adapted", {})
    return copy if told.get("of") == _weights_of(loaded) and told.get("from") == checkpoint else None


def _calibrated(folder: Path, size: int, recipe: Recipe, console: Console | None) -> Path:
    """The checkpoint of a trained run with all of a calibration; `recipe` says where the data are by now."""
    told = to_dict(recipe)
    overrides = {key: told[section][name] for key in HARMLESS for section, name in [key.split(".")]}
    overrides["evaluation.calibration_strength"] = "full"
    with progress("calibrating", console) as say:
        return calibrate(folder, size, overrides=overrides, on_progress=say)


def _weights_of(loaded: LoadedRun) -> str:
    """What tells the weights of a checkpoint from others."""
    return str(loaded.checkpoint.state["files"]["model.safetensors"]["blake2b"])


def _digest(loaded: LoadedRun, recipe: Recipe) -> str:
    """Of what is adapted and how, so that a call goes on with what the same one began, and with nothing else."""
    training = {key: getattr(recipe.training, key) for key in ("epochs", "limit_steps", "batch_size", "seed")}
    said = [_weights_of(loaded), training, recipe.optimizer.lr[0].value, recipe.evaluation.averaged]
    return hashlib.blake2b(json.dumps(said).encode(), digest_size=3).hexdigest()


def _write(
    folder: Path, loaded: LoadedRun, trained: Checkpoint, spec: ModelSpec, checkpoint: str, size: int, recipe: Recipe
) -> None:
    state = {key: value for key, value in loaded.checkpoint.state.items() if key not in ("files", "format")}
    own = loaded.preprocessing.own_size
    preprocessing = dataclasses.replace(loaded.preprocessing, image_size=size, trained_size=own if own != size else 0)
    state["preprocessing"] = preprocessing.to_dict()
    state["model"] = spec.to_dict()
    progress, training = trained.state["progress"], recipe.training
    calibrated = trained.state.get("calibrated", {"flops": 0})
    state["adapted"] = {
        "size": size, "from": checkpoint, "of": _weights_of(loaded), "flops": progress["flops"] + calibrated["flops"],
        "images": progress["images"], "epochs": training.epochs, "steps": progress["step"],
        "lr": recipe.optimizer.lr[0].value,
    }  # fmt: skip
    write_checkpoint(folder, Checkpoint({"model": trained.model}, state))
