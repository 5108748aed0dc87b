"""`anysize.train`: a recipe becomes a run folder."""

import contextlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from anysize.evaluation.evaluator import Evaluator
from anysize.evaluation.scale_policy import has_scales
from anysize.experiment import build
from anysize.experiment.assemble import assemble, replicated, write_report_of
from anysize.experiment.first_images import start_from_images
from anysize.experiment.identity import check_same_data, check_same_decoder, folder_for, identity_of
from anysize.experiment.introduce import introduce
from anysize.experiment.prepare import prepare, resumed_state, settle_precision
from anysize.experiment.rescue import saved_beside
from anysize.experiment.resume import make_last, restore_metrics, resume
from anysize.experiment.run_folder import (
    alone_in,
    check_same_recipe,
    clear,
    keep_precision,
    made,
    not_as_trained,
    trained_recipe,
    warnings_into,
)
from anysize.experiment.targets import open_sources
from anysize.experiment.together import check_alike, joined_for, of_run_folder, resolve
from anysize.experiment.tracked import TrackedLog
from anysize.experiment.tracking import open_trackers
from anysize.experiment.weights import check_same_weights, digest_of_weights
from anysize.ranks import concerns_all
from anysize.recipe import Recipe, origins
from anysize.registry import UserError
from anysize.reports import run_files
from anysize.reports.run_log import RunLog, SilentLog
from anysize.stopping import StopRequest, stop_on_signals
from anysize.training.checkpoint.files import LostFolder
from anysize.training.checkpoint.store import (
    NEVER,
    check_resume,
    is_best_name,
    remove_left_overs,
)
from anysize.training.checkpoint.writer import CheckpointWriter
from anysize.training.deterministic import deterministic
from anysize.training.loop import ended_early, fit, still_own
from anysize.training.parts import Parts
from anysize.training.replicas import one_model
from anysize.training.state import TrainState


def train(
    recipe: str | Path | Recipe,
    overrides: Mapping[str, Any] | None = None,
    *,
    run: str | Path | None = None,
    resume_from: str = "last",
    allow_changes: bool = False,
    max_hours: float | None = None,
    console: Console | None = None,
    kept: bool = True,
) -> Path:
    """Train what a recipe says, or go on with it; returns the run folder.

    Args:
        recipe: a recipe's name, the path of its TOML file, a `Recipe`, or a run folder: that run goes on.
        overrides: `{"section.field": value}`.
        run: the run folder; by default `runs/RECIPE`, with a digest of the overrides, and with one of the data where
            that folder holds a run on others. Where it holds the same run unfinished, training goes on at the step
            where it was saved.
        resume_from: "last", "previous" (the save before it; "previous-2" and so on where more are kept), "best" (the
            weights that validated best, after a divergence; the optimizer starts anew; "best-2" and so on where more
            are kept) or "never" (start over; removes what the run had).
        allow_changes: go on although the folder's run had other settings, such as a lower learning rate.
        max_hours: stop in time to be saved before so many hours are over, counted from here; the same call goes on.
        console: where to show progress; None: standard output.
        kept: False where the caller removes the folder afterwards: the last line then names no file in it.

    Raises:
        UserError: a bad recipe, missing data, a run folder of another recipe, out of memory, a full disk, divergence.
        LostFolder: the run folder was moved, deleted or taken over meanwhile; the state was saved beside it.
        Interrupted: a signal asked to stop; the state was saved. `TimeOver`, which is one, after `max_hours`.

    Example (trains a minute and a half on the embedded images)::

        run = anysize.train("quickstart", {"training.seed": 1})
        print(anysize.evaluate(run, sizes=[14, 28, 42]))
    """
    started = time.monotonic()
    if max_hours is not None and not max_hours > 0:
        raise UserError(f"max_hours is {max_hours}; expected a number of hours above 0")
    recipe, run, own = of_run_folder(recipe, run)
    name = "recipe" if isinstance(recipe, Recipe) else str(recipe)
    plain = build.default_run_folder(name, overrides or {})
    joint = joined_for(lambda: resolve(recipe, overrides), "training")
    with joint as (resolved, world), contextlib.ExitStack() as stack:
        identity: dict[str, Any] = {}
        folder = Path(run) if run else plain
        with world.together():
            tracking = open_trackers(resolved.tracking) if world.main and resolved.tracking.names else None
            check_resume(resume_from)
            sources = open_sources(resolved)
            if world.main:
                identity = identity_of(sources, resolved.data)
                folder = folder if run else folder_for(plain, identity, allow_changes=allow_changes)
        shared: tuple[Path, dict[str, Any]] = world.share((folder, identity))
        folder, identity = shared
        with world.together():
            before = trained_recipe(folder, resume_from) if resume_from != NEVER else None
            resolved = keep_precision(resolved, before)
            if not allow_changes:
                check_same_recipe(folder, resolved, before)
        stack.enter_context(deterministic(resolved.training.deterministic))
        held = None
        with world.together():
            if world.main:
                stack.enter_context(made(folder))
                run_files.check_is_own(folder)
                held = stack.enter_context(alone_in(folder))
                remove_left_overs(folder / run_files.CHECKPOINTS)
        with world.together():
            epochs = resolved.training.epochs
            log: RunLog
            if tracking:
                log = TrackedLog(folder, epochs, console, tracking)
            else:
                log = RunLog(folder, epochs, console) if world.main else SilentLog(folder, epochs, console, world.rank)
            stack.enter_context(log)
        if world.main:  # what the others read before the first step, and what is wrong with it, is the same
            stack.enter_context(warnings_into(log))
        if folder != plain and not run:
            log.message(f"{plain} holds a run with these settings on other data; this one is in {folder}")
        if held and held.owner.taken_over:
            log.warning(held.owner.taken_over)
        if held and not allow_changes and (odd := not_as_trained(folder, before, resume_from)):
            log.warning(odd)
        with world.together():
            resumed = resumed_state(folder / run_files.CHECKPOINTS, resume_from)
            if resumed:
                check_same_data(resumed, sources["train"].classes, identity, resolved.data, allow_changes=allow_changes)
                if odd := check_same_decoder(resumed, resolved.data, allow_changes=allow_changes):
                    log.warning(odd)
            digest = digest_of_weights(resolved.model.weights) if world.main else ""
            if not allow_changes:
                check_same_weights(resumed or {}, resolved.model.weights, digest)
            prepared = prepare(
                resolved, resumed, world, allow_changes=allow_changes, sources=sources, identity=identity, digest=digest
            )
            log.epochs = len(prepared.length.steps)
        check_alike(world, resolved, prepared.data.train)
        prepared = settle_precision(prepared)
        if not resumed:
            start_from_images(prepared)
        with world.together():
            saves = resolved.training
            writer = CheckpointWriter(
                background=saves.checkpoint_background,
                kept=saves.keep_previous,
                check=held.check if held else lambda: None,
            )
            stack.enter_context(writer)
            parts, state, evaluator = assemble(prepared, folder, log, writer)
            if world.main:
                measured = None if resolved.training.overfit_batches else evaluator.validation
                build.check_targets(prepared.data.train, measured, evaluator.kind, log.warning)
        parts = replicated(parts, prepared)
        with world.together():
            writer.check()
            if resume_from == NEVER and world.main:
                clear(folder)  # only now that nothing is wrong with what is to take its place
        with world.together():
            goes_on = resume(parts, state, resume_from, allow_changes=allow_changes)
        if goes_on and is_best_name(resume_from):
            make_last(parts, state)
        early = ended_early(parts, state) if goes_on else ""
        if goes_on and (early or state.progress.epoch >= len(parts.length.steps)):
            report = _finish(folder, evaluator, parts, state)  # it was stopped in between, and may lack them
            how = f"was {early}" if early else "is trained to its end already"
            log.message(f"{folder} {how}; " + (f"its report is {report}" if report else "done"))
            return folder
        with world.together():
            if world.main:
                told = None if isinstance(recipe, Recipe) or own else origins(name, overrides)
                introduce(parts, state, prepared, folder, goes_on, told)
                restore_metrics(parts, state)
                if isinstance(log, TrackedLog):
                    log.track(prepared.recipe, state.progress.step)
        state.history.text = world.share(state.history.text)  # the end of a run may follow from it
        if not world.main:
            stack.enter_context(warnings_into(log))
        try:
            with stop_on_signals(StopRequest(max_hours, started, lambda: writer.slowest)) as stop:
                fit(parts, state, stop)
            if early := ended_early(parts, state):
                log.message(early)
            report = _finish(folder, evaluator, parts, state)
        except LostFolder as lost:
            if world.size == 1 or concerns_all(lost):
                raise saved_beside(parts, state, prepared.recipe, lost) from None
            raise
        there = f"; the report is {report}" if report else f"; the run is {folder}"
        log.message(f"done{there if kept else ''}")
    return folder


def _finish(folder: Path, evaluator: Evaluator, parts: Parts, state: TrainState) -> Path | None:
    """Write the pictures and the scale policy of the trained model, where they are not there yet, then the report.

    Returns:
        The report; None where it could not be written, which was said.
    """
    still_own(parts)
    with one_model(state.evaluated, parts.world, parts.training.statistics):
        written = parts.world.main and _write_results(folder, evaluator.alone(), parts, state.evaluated)
    return folder / run_files.REPORT if written else None


def _write_results(folder: Path, evaluator: Evaluator, parts: Parts, model: torch.nn.Module) -> bool:
    from anysize.experiment.pictures import picture_predictions  # bokeh, as below
    from anysize.experiment.policy import measure_policy
    from anysize.reports.policy_report import write_scale_policy

    base = evaluator.preprocessing.image_size
    fits = not evaluator.settings.calibrate or evaluator.fits(model, parts.plan, len(parts.length.steps))
    if not (folder / run_files.PREDICTIONS).exists():
        with contextlib.nullcontext() if fits else evaluator.calibrated(model, base) as taken:
            picture_predictions(folder, evaluator, model, base, calibrated=bool(taken))
    parts.writer.check()
    if has_scales(model) and not (folder / run_files.SCALE_POLICY).exists():
        policy = measure_policy(evaluator, model, base)
        run_files.go_on_without(folder / run_files.SCALE_POLICY, lambda: write_scale_policy(folder, policy))
    parts.writer.check()
    return write_report_of(folder, parts.log)
