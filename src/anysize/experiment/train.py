"""`anysize.train`: a recipe becomes a run folder."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from anysize.evaluation.evaluator import Evaluator
from anysize.evaluation.scale_policy import has_scales
from anysize.experiment import build
from anysize.experiment.run_folder import (
    alone_in,
    check_same_recipe,
    clear,
    forget_results,
    make_run_folder,
    warnings_into,
)
from anysize.experiment.targets import build_evaluator, open_split
from anysize.experiment.weights import describe_input, find_weights
from anysize.preprocessing import Preprocessing
from anysize.recipe import Recipe, dump, load_recipe, origins, override
from anysize.registry import UserError
from anysize.reports import run_files
from anysize.reports.environment import describe_environment
from anysize.reports.run_files import write_environment
from anysize.reports.run_log import RunLog, SilentLog
from anysize.sizes.batch_plan import BatchPlan
from anysize.training.allocator import keep_freed_memory
from anysize.training.checkpoint.files import DamagedCheckpoint, model_tensors, read_state
from anysize.training.checkpoint.store import checkpoint_to_resume, remove_newer, with_remedy
from anysize.training.guards import check_precision
from anysize.training.length import RunLength, run_length
from anysize.training.loop import fit
from anysize.training.optimizer import RegimeOptimizer, stretch
from anysize.training.parts import Parts, Validation, new_state
from anysize.training.shapes import compiled
from anysize.training.state import TrainState
from anysize.world import StopRequest, World, pick_device, stop_on_signals

_REPORT_SECONDS = 10.0
"""Between two renewals of the report while a run trains: it takes half a second, as long as an epoch of a small run."""


def train(
    recipe: str | Path | Recipe,
    overrides: Mapping[str, Any] | None = None,
    *,
    run: str | Path | None = None,
    resume_from: str = "last",
    allow_changes: bool = False,
    console: Console | None = None,
) -> Path:
    """Train what a recipe says, or go on with it; returns the run folder.

    Args:
        recipe: a recipe's name, the path of its TOML file, or a `Recipe`.
        overrides: `{"section.field": value}`.
        run: the run folder; by default `runs/RECIPE`, with a digest of the overrides. Where it holds the same run
            unfinished, training goes on at the step where it was saved.
        resume_from: "last", "previous" (the save before it) or "never" (start over; removes what the run had).
        allow_changes: go on although the folder's run had other settings, such as a lower learning rate.
        console: where to show progress; None: standard output.

    Raises:
        UserError: a bad recipe, missing data, a run folder of another recipe, out of memory, a full disk, divergence.
        Interrupted: a signal asked to stop; the state was saved.

    Example (trains a minute and a half on the embedded images)::

        run = anysize.train("quickstart", {"training.seed": 1})
        print(anysize.evaluate(run, sizes=[14, 28, 42]))
    """
    name = "recipe" if isinstance(recipe, Recipe) else str(recipe)
    resolved = override(recipe, overrides or {}) if isinstance(recipe, Recipe) else load_recipe(name, overrides)
    folder = Path(run) if run else build.default_run_folder(name, overrides or {})
    if resume_from not in ("last", "previous", "never"):
        raise UserError(f"resume is {resume_from!r}; expected last, previous or never")
    if resume_from != "never" and not allow_changes:
        check_same_recipe(folder, resolved)
    world = World.here()
    with contextlib.ExitStack() as stack:
        with world.together():
            if world.main:
                make_run_folder(folder)
                stack.enter_context(alone_in(folder))
        kind = RunLog if world.main else SilentLog
        log = stack.enter_context(kind(folder, epochs=resolved.training.epochs, console=console))
        stack.enter_context(warnings_into(log))
        checkpoints = folder / run_files.CHECKPOINTS
        with world.together():
            resumed = _resumed_input(checkpoints, resume_from) if resolved.model.weights else None
            prepared = prepare(resolved, resumed, world)
            log.epochs = len(prepared.length.steps)
            parts, state, evaluator = _assemble(prepared, folder, log)
        with world.together():
            if resume_from == "never" and world.main:
                clear(folder)  # only now that nothing is wrong with what is to take its place
        with world.together():
            goes_on = _resume(parts, state, resume_from, allow_changes=allow_changes)
        if goes_on and state.progress.epoch >= len(parts.length.steps):
            _finish(folder, evaluator, parts, state)  # it was stopped in between, and may lack them
            log.message(f"{folder} is trained to its end already; its report is {folder / run_files.REPORT}")
            return folder
        if world.main:
            told = None if isinstance(recipe, Recipe) else origins(name, overrides)
            _introduce(parts, state, prepared, folder, goes_on, told)
        log.truncate(state.progress.epoch)
        with stop_on_signals() as stop:
            fit(parts, state, stop)
        _finish(folder, evaluator, parts, state)
        log.message(f"done; the report is {folder / run_files.REPORT}")
    return folder


@dataclasses.dataclass
class Prepared:
    """A recipe's data, model and plan, before anything is trained."""

    recipe: Recipe
    world: World
    device: torch.device
    data: build.Data
    model: torch.nn.Module
    plan: BatchPlan
    length: RunLength
    notes: list[str]
    """Sentences on where the first weights came from."""


def prepare(recipe: Recipe, resumed: Preprocessing | None = None, world: World | None = None) -> Prepared:
    """Build and check all that a run needs, so that what is wrong is said before the first step.

    `resumed` is the input of a run that goes on: its weights are in its checkpoint, and model.weights is not read.
    """
    world = world or World()
    device = pick_device(recipe.training.device)
    check_precision(recipe.training.precision, device)
    if device.type == "cpu":
        keep_freed_memory()
    if recipe.model.partial_weights and not recipe.model.weights:
        raise UserError("model.partial_weights is set without model.weights; say where the weights come from")
    weights = None
    if recipe.model.weights and resumed is None:
        weights = find_weights(recipe.model.weights, recipe.model.name, recipe.model.options)
    data = build.build_data(recipe, weights.preprocessing if weights else resumed)
    model = build.build_model(recipe, data.preprocessing, weights)
    plan = build.build_plan(recipe, len(data.train), world.rank, world.size)
    flops = build.flops_by_size(model, data.preprocessing.channels)
    length = run_length(plan, recipe.training, data.preprocessing.image_size, lambda size: flops(size).total)
    build.check_phases(plan.schedule, len(length.steps))
    notes = [*weights.notes, describe_input(weights, data.preprocessing)] if weights else []
    return Prepared(recipe, world, device, data, model.to(device), plan, length, notes)


def _resumed_input(checkpoints: Path, resume_from: str) -> Preprocessing | None:
    """How the images were prepared in a run that is to go on; None: it starts."""
    path = checkpoint_to_resume(checkpoints, resume_from)
    if path is None:
        return None
    try:
        return Preprocessing.from_dict(read_state(path)["preprocessing"])
    except DamagedCheckpoint as error:
        raise with_remedy(path, error) from None


def _resume(parts: Parts, state: TrainState, resume_from: str, *, allow_changes: bool) -> bool:
    """Let the state go on from a checkpoint; whether there is one.

    Raises:
        UserError: `previous` was asked for and is not there, or the number of training images has changed.
    """
    path = checkpoint_to_resume(parts.checkpoints, resume_from)
    if path is None:
        return False
    before, now = state.load(path)["images"], parts.description["images"]
    if before != now and not allow_changes:
        raise UserError(
            f"the run was trained on {before:,} images and the data now has {now:,}; give the data it began with, or "
            "go on with --allow-changes"
        )
    if resume_from == "previous" and parts.world.main:
        remove_newer(parts.checkpoints)
    return True


def _assemble(prepared: Prepared, folder: Path, log: RunLog) -> tuple[Parts, TrainState, Evaluator]:
    recipe, data, device, world = prepared.recipe, prepared.data, prepared.device, prepared.world
    loader = data.loader(recipe.data, device)
    validation = open_split(recipe, "validation")
    if validation.classes != data.train.classes:
        raise UserError(
            f"the validation images have classes {', '.join(validation.classes[:5])}, ... and the training images "
            f"{', '.join(data.train.classes[:5])}, ...; expected the same"
        )
    evaluator = build_evaluator(recipe, data.preprocessing, validation, lambda: loader, device)
    base, model = data.preprocessing.image_size, prepared.model

    fits = evaluator.fits(prepared.plan, len(prepared.length.steps))

    def validate(evaluated: torch.nn.Module, stop: StopRequest) -> Validation:
        with contextlib.nullcontext(False) if fits else evaluator.calibrated(evaluated, base, stop) as calibrated:
            metrics = _metrics(evaluator.evaluate(evaluated, base, stop).values)
            return Validation(metrics, model_tensors(evaluated), base, calibrated)

    regime = stretch(recipe.optimizer, recipe.training.epochs)
    optimizer = RegimeOptimizer(model, regime, recipe.training.batch_size * world.size)
    parts = Parts(
        forward=compiled(model, prepared.plan, prepared.length, recipe.training),
        task=evaluator.task,
        plan=prepared.plan,
        loader=loader,
        training=recipe.training,
        length=prepared.length,
        validate=validate,
        checkpoints=folder / run_files.CHECKPOINTS,
        description=build.describe(recipe, data.preprocessing, len(data.train)),
        log=log,
        describe=data.train.describe,
        report=now_and_then(_REPORT_SECONDS, lambda: _write_report(folder)) if world.main else (lambda: None),
        device=device,
        world=world,
    )
    return parts, new_state(model, optimizer, recipe.training, device, world), evaluator


def _finish(folder: Path, evaluator: Evaluator, parts: Parts, state: TrainState) -> None:
    """Write the pictures and the scale policy of the trained model, where they are not there yet, then the report."""
    if not parts.world.main:
        return
    from anysize.experiment.pictures import picture_predictions  # bokeh, as below
    from anysize.experiment.policy import measure_policy
    from anysize.reports.policy_report import write_scale_policy

    model = state.evaluated
    base, fits = evaluator.preprocessing.image_size, evaluator.fits(parts.plan, len(parts.length.steps))
    if not (folder / run_files.PREDICTIONS).exists():
        with contextlib.nullcontext(False) if fits else evaluator.calibrated(model, base) as calibrated:
            picture_predictions(folder, evaluator, model, base, calibrated=calibrated)
    if has_scales(model) and not (folder / run_files.SCALE_POLICY).exists():
        write_scale_policy(folder, measure_policy(evaluator, model, base))
    _write_report(folder)


def now_and_then(seconds: float, do: Callable[[], object]) -> Callable[[], None]:
    """A function that calls `do`, unless the last call, or the making of it, is less than `seconds` ago."""
    last = time.monotonic()

    def call() -> None:
        nonlocal last
        if time.monotonic() - last >= seconds:
            do()
            last = time.monotonic()

    return call


def _write_report(folder: Path) -> None:
    from anysize.reports.html import write_report  # bokeh takes half a second that the first step need not wait for

    write_report(folder)


def _metrics(values: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if name not in ("images", "images_per_second")}


def _introduce(
    parts: Parts, state: TrainState, prepared: Prepared, folder: Path, goes_on: bool, told: dict[str, str] | None
) -> None:
    """Say what is about to be trained, and write down on what, and where each setting is from (`told`)."""
    recipe, plan, length = prepared.recipe, prepared.plan, prepared.length
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    environment = describe_environment(
        device=str(prepared.device),
        gpus=", ".join(gpus) or "none",
        threads=torch.get_num_threads(),
        world_size=plan.world_size,
        total_batch=plan.batch_size * plan.world_size,
    )
    run_files.write_atomically(folder / run_files.RECIPE, dump(recipe, told))
    forget_results(folder)
    write_environment(folder, environment)
    parameters = sum(p.numel() for p in prepared.model.parameters())
    counts = [plan.counts(epoch) for epoch in range(len(length.steps))]
    sizes = sorted({part.size for epoch in counts for part, steps, _ in epoch if steps})
    parts.log.message(
        f"{recipe.model.name} ({parameters:,} parameters) on {recipe.data.name}: {plan.length:,} images of "
        f"{len(prepared.data.preprocessing.classes)} classes, sizes {', '.join(map(str, sizes))} px, "
        f"{length.total_steps:,} steps, {length.flops / 1e15:.3g} PFLOPs, on {prepared.device}; run folder {folder}"
    )
    for size in sorted({part.size for epoch in counts for part, _, _ in epoch} - set(sizes)):
        parts.log.warning(
            f"{size} px is never trained at: its share of {plan.length:,} images is less than two; use fewer sizes or "
            "more images"
        )
    for note in () if goes_on else prepared.notes:
        parts.log.message(note)
    if len(length.steps) != recipe.training.epochs:
        parts.log.message(
            f"{len(length.steps)} passes over the images cost what {recipe.training.epochs} epochs at "
            f"{prepared.data.preprocessing.image_size} px do"
        )
    if recipe.optimizer.epochs not in (0, recipe.training.epochs):
        parts.log.message(
            f"the optimizer's schedules, written for {recipe.optimizer.epochs} epochs, are stretched to "
            f"{recipe.training.epochs} (optimizer.epochs)"
        )
    total, written_for = plan.batch_size * plan.world_size, recipe.optimizer.batch_size
    if written_for not in (0, total):
        parts.log.message(
            f"the optimizer's lr and momentum, written for batches of {written_for}, are scaled to batches of {total} "
            "(optimizer.batch_size)"
        )
    if goes_on:
        parts.log.message(f"going on at epoch {state.progress.epoch + 1}, step {state.progress.step:,}")
