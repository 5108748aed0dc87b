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
    keep_precision,
    make_run_folder,
    warnings_into,
)
from anysize.experiment.targets import build_evaluator, open_split
from anysize.experiment.together import check_alike, joined_for, resolve
from anysize.experiment.weights import describe_input, find_weights
from anysize.norms.synchronised import synchronise_anywhere
from anysize.preprocessing import Preprocessing
from anysize.recipe import Recipe, dump, origins, override
from anysize.registry import UserError
from anysize.reports import run_files
from anysize.reports.environment import describe_environment
from anysize.reports.run_files import write_environment
from anysize.reports.run_log import RunLog, SilentLog
from anysize.sizes.batch_plan import BatchPlan
from anysize.training.allocator import keep_freed_memory
from anysize.training.batch_rule import is_scaled
from anysize.training.checkpoint.files import DamagedCheckpoint, model_tensors, read_state
from anysize.training.checkpoint.store import checkpoint_to_resume, remove_newer, with_remedy
from anysize.training.checkpoint.writer import CheckpointWriter
from anysize.training.deterministic import deterministic
from anysize.training.guards import check_precision
from anysize.training.length import RunLength, run_length
from anysize.training.loop import fit
from anysize.training.optimizer import RegimeOptimizer, describe_batch, stretch
from anysize.training.parts import Parts, Validation, new_state
from anysize.training.precision import choose_precision
from anysize.training.replicas import has_unused_parameters, one_model, replicate
from anysize.training.settings import TrainingSettings
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
    max_hours: float | None = None,
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
        max_hours: stop in time to be saved before so many hours are over, counted from here; the same call goes on.
        console: where to show progress; None: standard output.

    Raises:
        UserError: a bad recipe, missing data, a run folder of another recipe, out of memory, a full disk, divergence.
        Interrupted: a signal asked to stop; the state was saved. `TimeOver`, which is one, after `max_hours`.

    Example (trains a minute and a half on the embedded images)::

        run = anysize.train("quickstart", {"training.seed": 1})
        print(anysize.evaluate(run, sizes=[14, 28, 42]))
    """
    started = time.monotonic()
    if max_hours is not None and not max_hours > 0:
        raise UserError(f"max_hours is {max_hours}; expected a number of hours above 0")
    name = "recipe" if isinstance(recipe, Recipe) else str(recipe)
    folder = Path(run) if run else build.default_run_folder(name, overrides or {})
    with joined_for(lambda: resolve(recipe, overrides)) as (resolved, world), contextlib.ExitStack() as stack:
        with world.together():
            if resume_from not in ("last", "previous", "never"):
                raise UserError(f"resume is {resume_from!r}; expected last, previous or never")
            if resume_from != "never":
                resolved = keep_precision(folder, resolved)
                if not allow_changes:
                    check_same_recipe(folder, resolved)
        stack.enter_context(deterministic(resolved.training.deterministic))
        taken_over = ""
        with world.together():
            if world.main:
                make_run_folder(folder)
                taken_over = stack.enter_context(alone_in(folder))
        kind = RunLog if world.main else SilentLog
        with world.together():
            log = stack.enter_context(kind(folder, epochs=resolved.training.epochs, console=console))
        stack.enter_context(warnings_into(log))
        if taken_over:
            log.warning(taken_over)
        with world.together():
            resumed = _resumed_state(folder / run_files.CHECKPOINTS, resume_from)
            prepared = prepare(resolved, resumed, world, allow_changes=allow_changes)
            log.epochs = len(prepared.length.steps)
        check_alike(world, resolved, prepared.data.train)
        prepared = settle_precision(prepared)
        with world.together():
            writer = stack.enter_context(CheckpointWriter(background=resolved.training.checkpoint_background))
            parts, state, evaluator = _assemble(prepared, folder, log, writer)
        parts = _replicated(parts, prepared)
        with world.together():
            if resume_from == "never" and world.main:
                clear(folder)  # only now that nothing is wrong with what is to take its place
        with world.together():
            goes_on = _resume(parts, state, resume_from, allow_changes=allow_changes)
        if goes_on and state.progress.epoch >= len(parts.length.steps):
            _finish(folder, evaluator, parts, state)  # it was stopped in between, and may lack them
            log.message(f"{folder} is trained to its end already; its report is {folder / run_files.REPORT}")
            return folder
        with world.together():
            if world.main:
                told = None if isinstance(recipe, Recipe) else origins(name, overrides)
                _introduce(parts, state, prepared, folder, goes_on, told)
            log.truncate(state.progress.epoch)
        with stop_on_signals(StopRequest(max_hours, started, lambda: writer.slowest)) as stop:
            fit(parts, state, stop)
        _finish(folder, evaluator, parts, state)
        log.message(f"done; the report is {folder / run_files.REPORT}")
    return folder


@dataclasses.dataclass
class Prepared:
    """A recipe's data, model and plan, before anything is trained.

    `training` are its settings with as many chunks as make the parts of a batch no larger than the recipe has them.
    """

    recipe: Recipe
    training: TrainingSettings
    world: World
    device: torch.device
    data: build.Data
    model: torch.nn.Module
    plan: BatchPlan
    length: RunLength
    notes: list[str]
    """Sentences on where the first weights came from."""


def prepare(
    recipe: Recipe,
    resumed: Mapping[str, Any] | None = None,
    world: World | None = None,
    *,
    allow_changes: bool = False,
) -> Prepared:
    """Build and check all that a run needs, so that what is wrong is said before the first step.

    `resumed` is the state of a run that goes on: its weights are in its checkpoint, and model.weights is not read. Its
    total batch stands, shared by the processes that there are now, unless `allow_changes`.
    """
    world, resumed = world or World(), resumed or {}
    device = pick_device(recipe.training.device)
    check_precision(recipe.training.precision, device)
    if device.type == "cpu":
        keep_freed_memory()
    if recipe.model.partial_weights and not recipe.model.weights:
        raise UserError("model.partial_weights is set without model.weights; say where the weights come from")
    weights = None
    own_input = None
    if recipe.model.weights and resumed:
        own_input = Preprocessing.from_dict(resumed["preprocessing"])
    elif recipe.model.weights:
        weights = find_weights(recipe.model.weights, recipe.model.name, recipe.model.options)
        own_input = weights.preprocessing
    data = build.build_data(recipe, own_input)
    model = build.build_model(recipe, data.preprocessing, weights)
    together = 0 if allow_changes else resumed.get("batches_a_step", 0)
    plan = build.build_plan(recipe, len(data.train), world, together)
    chunks = -(-recipe.training.chunks * plan.parts // world.size)
    training = dataclasses.replace(recipe.training, chunks=chunks)
    flops = build.flops_by_size(model, data.preprocessing.channels)
    length = run_length(plan, training, data.preprocessing.image_size, lambda size: flops(size).total)
    build.check_phases(plan.schedule, len(length.steps))
    notes = [*weights.notes, describe_input(weights, data.preprocessing)] if weights else []
    return Prepared(recipe, training, world, device, data, model.to(device), plan, length, notes)


def settle_precision(prepared: Prepared) -> Prepared:
    """With the precision that `auto` comes to on the main process in the recipe, and said."""
    recipe, world = prepared.recipe, prepared.world
    if recipe.training.precision != "auto":
        return prepared
    with world.together():
        chosen = choose_precision(
            prepared.model, prepared.plan, prepared.length, prepared.training, prepared.data.preprocessing.channels,
            prepared.device,
        )  # fmt: skip
    precision, why = world.share(chosen)
    recipe = override(recipe, {"training.precision": precision})
    training = dataclasses.replace(prepared.training, precision=precision)
    return dataclasses.replace(prepared, recipe=recipe, training=training, notes=[*prepared.notes, why])


def _resumed_state(checkpoints: Path, resume_from: str) -> dict[str, Any] | None:
    """What the checkpoint of a run that is to go on says; None: the run starts."""
    path = checkpoint_to_resume(checkpoints, resume_from)
    if path is None:
        return None
    try:
        return read_state(path)
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


def _assemble(
    prepared: Prepared, folder: Path, log: RunLog, writer: CheckpointWriter
) -> tuple[Parts, TrainState, Evaluator]:
    recipe, data, device, world = prepared.recipe, prepared.data, prepared.device, prepared.world
    training, plan = prepared.training, prepared.plan
    loader = data.loader(recipe.data, device)
    validation = open_split(recipe, "validation")
    if validation.classes != data.train.classes:
        raise UserError(
            f"the validation images have classes {', '.join(validation.classes[:5])}, ... and the training images "
            f"{', '.join(data.train.classes[:5])}, ...; expected the same"
        )
    evaluator = build_evaluator(recipe, data.preprocessing, validation, lambda: loader, device, world)
    base, model = data.preprocessing.image_size, prepared.model

    fits = not recipe.evaluation.calibrate or evaluator.fits(plan, len(prepared.length.steps))
    each = training.statistics == "each" and world.size > 1
    measure = evaluator.alone() if each else evaluator

    def validate(evaluated: torch.nn.Module, stop: StopRequest) -> Validation:
        with contextlib.ExitStack() as stack:
            stack.enter_context(one_model(evaluated, world, training.statistics))
            if each:
                stack.enter_context(world.together())
            calibrated = False if fits else stack.enter_context(measure.calibrated(evaluated, base, stop))
            metrics = _metrics(measure.evaluate(evaluated, base, stop).values)
            tensors = model_tensors(evaluated)
        if each:
            metrics = dict(zip(metrics, (total / world.size for total in world.sum([*metrics.values()])), strict=True))
        return Validation(metrics, tensors, base, calibrated)

    regime = stretch(recipe.optimizer, recipe.training.epochs)
    optimizer = RegimeOptimizer(model, regime, plan.total_batch)
    parts = Parts(
        forward=compiled(model, plan, prepared.length, training),
        no_sync=contextlib.nullcontext,
        task=evaluator.task,
        plan=plan,
        loader=loader,
        training=training,
        length=prepared.length,
        validate=validate,
        checkpoints=folder / run_files.CHECKPOINTS,
        description=build.describe(recipe, data.preprocessing, len(data.train), plan.parts),
        log=log,
        describe=data.train.describe,
        report=now_and_then(_REPORT_SECONDS, lambda: _write_report(folder)) if world.main else (lambda: None),
        device=device,
        world=world,
        writer=writer,
    )
    return parts, new_state(model, optimizer, training, device, world, plan.total_batch), evaluator


def _replicated(parts: Parts, prepared: Prepared) -> Parts:
    """The parts with the model as several processes train it together; all of them wait here for each other."""
    world, model, training = parts.world, prepared.model, parts.training
    if world.size == 1:
        return parts
    synchronise_anywhere(model)  # torch's own synchronised norms take no tensors of a CPU
    preprocessing = prepared.data.preprocessing
    unused = has_unused_parameters(model, preprocessing.channels, preprocessing.image_size, parts.device)
    unused = world.agree(unused or training.find_unused_parameters)  # chance may leave out a part in one process alone
    replica = replicate(model, parts.device, find_unused=unused)
    forward = compiled(replica, parts.plan, parts.length, training)
    return dataclasses.replace(parts, forward=forward, no_sync=replica.no_sync)


def _finish(folder: Path, evaluator: Evaluator, parts: Parts, state: TrainState) -> None:
    """Write the pictures and the scale policy of the trained model, where they are not there yet, then the report."""
    with one_model(state.evaluated, parts.world, parts.training.statistics):
        if parts.world.main:
            _write_results(folder, evaluator.alone(), parts, state.evaluated)


def _write_results(folder: Path, evaluator: Evaluator, parts: Parts, model: torch.nn.Module) -> None:
    from anysize.experiment.pictures import picture_predictions  # bokeh, as below
    from anysize.experiment.policy import measure_policy
    from anysize.reports.policy_report import write_scale_policy

    base = evaluator.preprocessing.image_size
    fits = not evaluator.settings.calibrate or evaluator.fits(parts.plan, len(parts.length.steps))
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
        total_batch=plan.total_batch,
    )
    regime = stretch(recipe.optimizer, recipe.training.epochs)
    who = describe_batch(regime, plan.total_batch // plan.world_size, plan.world_size)
    run_files.write_atomically(folder / run_files.RECIPE, f"# {who}\n\n{dump(recipe, told)}")
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
    if plan.world_size > 1 or is_scaled(recipe.optimizer, plan.total_batch):
        parts.log.message(who)
    if goes_on:
        parts.log.message(f"going on at epoch {state.progress.epoch + 1}, step {state.progress.step:,}")
