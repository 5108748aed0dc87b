"""A prepared run becomes the parts of a training and its state, and its model that of several processes."""

import contextlib
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

import torch

from anysize.data.source import Source
from anysize.evaluation.evaluator import Evaluator
from anysize.experiment import build
from anysize.experiment.prepare import Prepared
from anysize.experiment.targets import build_evaluator, ready
from anysize.norms.synchronised import synchronise_anywhere
from anysize.registry import UserError, in_a_line
from anysize.reports import run_files
from anysize.reports.run_log import RunLog
from anysize.stopping import StopRequest
from anysize.training.checkpoint.files import model_tensors
from anysize.training.checkpoint.writer import CheckpointWriter
from anysize.training.dropout import scheduled_dropout
from anysize.training.optimizer import RegimeOptimizer, stretch
from anysize.training.parts import Parts, Validation, new_state
from anysize.training.replicas import has_unused_parameters, one_model, replicate
from anysize.training.shapes import compiled
from anysize.training.state import TrainState

_REPORT_SECONDS = 20.0
"""Between two renewals of the report while a run trains: it takes a second, as long as an epoch of a small run."""


def assemble(
    prepared: Prepared, folder: Path, log: RunLog, writer: CheckpointWriter
) -> tuple[Parts, TrainState, Evaluator]:
    recipe, data, device, world = prepared.recipe, prepared.data, prepared.device, prepared.world
    training, plan = prepared.training, prepared.plan
    loader = data.loader(recipe.data, device)
    validation = ready(prepared.validation, recipe.data)
    if validation.classes != data.train.classes:
        raise UserError(
            f"the validation images have classes {in_a_line(', '.join(validation.classes[:5]))}, ... and the training "
            f"images {in_a_line(', '.join(data.train.classes[:5]))}, ...; expected the same"
        )
    evaluator = build_evaluator(recipe, data.preprocessing, validation, lambda: loader, device, world)
    evaluator.say = log.doing
    evaluator.validation = first_batches(evaluator, training.limit_validation)
    base, model = data.preprocessing.image_size, prepared.model

    fits = not recipe.evaluation.calibrate or evaluator.fits(model, plan, len(prepared.length.steps))
    each = training.statistics == "each" and world.size > 1
    measure = evaluator.alone() if each else evaluator

    def validate(evaluated: torch.nn.Module, stop: StopRequest) -> Validation:
        with contextlib.ExitStack() as stack:
            stack.enter_context(one_model(evaluated, world, training.statistics))
            if each:
                stack.enter_context(world.together())
            taken = None if fits else stack.enter_context(measure.calibrated(evaluated, base, stop))
            metrics = _metrics(measure.evaluate(evaluated, base, stop).values)
            tensors = model_tensors(evaluated)
        if each:
            metrics = dict(zip(metrics, (total / world.size for total in world.sum([*metrics.values()])), strict=True))
        if taken is not None and taken.criterion:
            log.message(f"calibration for {base} px: {taken}")
        return Validation(metrics, tensors, base, bool(taken))

    regime = stretch(recipe.optimizer, recipe.training.epochs)
    optimizer = RegimeOptimizer(model, regime, plan.total_batch)
    parts = Parts(
        forward=compiled(model, plan, prepared.length, training, prepared.second),
        no_sync=contextlib.nullcontext,
        task=evaluator.task,
        plan=plan,
        loader=loader,
        training=training,
        length=prepared.length,
        validate=validate,
        checkpoints=folder / run_files.CHECKPOINTS,
        description=build.describe(
            recipe,
            data.preprocessing,
            len(data.train),
            plan.parts,
            prepared.identity,
            prepared.weights,
            prepared.norm_sizes,
        ),
        log=log,
        describe=data.train.describe,
        report=now_and_then(_REPORT_SECONDS, lambda: write_report_of(folder, log)) if world.main else (lambda: None),
        device=device,
        world=world,
        writer=writer,
        quantize=recipe.quantize,
        second=prepared.second,
        dropout=scheduled_dropout(model, training),
    )
    return parts, new_state(model, optimizer, training, device, world, plan.total_batch), evaluator


def replicated(parts: Parts, prepared: Prepared) -> Parts:
    """The parts with the model as several processes train it together; all of them wait here for each other."""
    world, model, training = parts.world, prepared.model, parts.training
    if world.size == 1:
        return parts
    synchronise_anywhere(model)  # torch's own synchronised norms take no tensors of a CPU
    preprocessing = prepared.data.preprocessing
    unused = has_unused_parameters(model, preprocessing.channels, preprocessing.image_size, parts.device)
    unused = world.agree(unused or training.find_unused_parameters)  # chance may leave out a part in one process alone
    if unused and training.consistency:
        raise UserError(
            "training.consistency goes backward through two passes at once, in which some parameters of this model "
            "have no gradient; where several processes train, use training.both_sizes or training.distill instead"
        )
    replica = replicate(model, parts.device, find_unused=unused)
    forward = compiled(replica, parts.plan, parts.length, training, parts.second)
    return dataclasses.replace(parts, forward=forward, no_sync=replica.no_sync)


def first_batches(evaluator: Evaluator, limit: float) -> Source:
    """The images of so many batches of a validation, spread over the classes; below 1: this share of them; 0: all.

    Raises:
        UserError: a limit that is no whole number.
    """
    if limit > 1 and limit % 1:
        raise UserError(
            f"training.limit_validation is {limit:g}; expected a whole number of batches, a share below 1, or 0 for all"
        )
    validation = evaluator.validation
    batch = evaluator.batch_size(evaluator.preprocessing.image_size)
    images = int(limit) * batch if limit >= 1 else max(1, round(limit * len(validation)))
    return evaluator.kind.first(validation, images) if limit and images < len(validation) else validation


def now_and_then(seconds: float, do: Callable[[], object]) -> Callable[[], None]:
    """A function that calls `do`, unless the last call, or the making of it, is less than `seconds` ago."""
    last = time.monotonic()

    def call() -> None:
        nonlocal last
        if time.monotonic() - last >= seconds:
            do()
            last = time.monotonic()

    return call


def write_report_of(folder: Path, log: RunLog) -> bool:
    """Write the report of a run that trains, and whether that could be; the log says once that it could not."""

    def write() -> None:
        from anysize.reports.html import write_report  # bokeh takes half a second that the first step need not wait for

        write_report(folder)

    return log.go_on_without(folder / run_files.REPORT, write)


def _metrics(values: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if name not in ("images", "images_per_second")}
