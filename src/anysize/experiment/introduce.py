"""What is said and written down of a training before its first step: on what it runs, and what it will compute."""

import contextlib
from pathlib import Path
from typing import Any

import torch

from anysize.data.catalog import DATASETS
from anysize.data.decode import decoder
from anysize.experiment.identity import short
from anysize.experiment.prepare import Prepared
from anysize.experiment.run_folder import forget_results, read_recipe
from anysize.models import trust
from anysize.recipe import dump
from anysize.recipes import leading_comment
from anysize.registry import UserError, counted
from anysize.reports import run_files
from anysize.reports.columns import show
from anysize.reports.environment import describe_environment
from anysize.reports.run_files import write_environment
from anysize.training.batch_rule import is_scaled
from anysize.training.optimizer import describe_batch, stretch
from anysize.training.parts import Parts
from anysize.training.state import TrainState


def introduce(
    parts: Parts, state: TrainState, prepared: Prepared, folder: Path, goes_on: bool, told: dict[str, str] | None
) -> None:
    """Say what is about to be trained, and write down on what, and where each setting is from (`told`)."""
    recipe, plan, length = prepared.recipe, prepared.plan, prepared.length
    regime = stretch(recipe.optimizer, recipe.training.epochs)
    who = describe_batch(regime, plan.total_batch // plan.world_size, plan.world_size)
    written = folder / run_files.RECIPE
    # A run that goes on by its own recipe keeps what that says of where each setting is from.
    if told is not None or not (goes_on and _says(written, who) and read_recipe(folder) == recipe):
        run_files.write_recipe(folder, f"# {who}\n\n{dump(recipe, told)}")
    trust.remember(recipe.model.name, recipe.model.options)
    forget_results(folder)
    path = folder / run_files.ENVIRONMENT
    parts.log.go_on_without(path, lambda: write_environment(folder, _environment(prepared)))
    parameters = sum(p.numel() for p in prepared.model.parameters())
    counts = [plan.counts(span.start) for span in plan.spans(len(length.steps))]
    sizes = sorted({part.size for epoch in counts for part, steps, _ in epoch if steps})
    parts.log.message(
        f"{recipe.model.name} ({counted(parameters, 'parameter')}) on {recipe.data.name}: "
        f"{counted(plan.length, 'image')} of {counted(len(prepared.data.preprocessing.classes), 'class')}, "
        f"size{'s' * (len(sizes) > 1)} {', '.join(map(str, sizes))} px, {counted(length.total_steps, 'step')}, "
        f"{show('flops', length.flops)}, on {prepared.device}; run folder {folder}"
    )
    for size in sorted({part.size for epoch in counts for part, _, _ in epoch} - set(sizes)):
        few = (
            f"an epoch is cut to {counted(plan.steps(0), 'step')}; allow more of them"
            if plan.limit_steps
            else f"its share of {counted(plan.length, 'image')} is less than two; use fewer sizes or more images"
        )
        parts.log.warning(f"{size} px is never trained at: {few}")
    if splits := DATASETS[recipe.data.name]().splits(recipe.data):
        parts.log.message(splits)
    for note in () if goes_on else prepared.notes:
        parts.log.message(note)
    if len(length.steps) != recipe.training.epochs:
        base = f"{counted(recipe.training.epochs, 'epoch')} at {prepared.data.preprocessing.image_size} px"
        parts.log.message(
            f"the run computes as much as {base} would (training.equal_flops): at its own sizes that is enough for "
            f"{counted(len(length.steps), 'epoch')}, the last of which may end early"
        )
    if recipe.optimizer.epochs not in (0, recipe.training.epochs):
        parts.log.message(
            f"the optimizer's schedules, written for {counted(recipe.optimizer.epochs, 'epoch')}, are stretched to "
            f"{recipe.training.epochs} (optimizer.epochs)"
        )
    if plan.world_size > 1 or is_scaled(recipe.optimizer, plan.total_batch):
        parts.log.message(who)
    if goes_on:
        parts.log.message(f"going on at epoch {state.progress.epoch + 1}, step {state.progress.step:,}")


def _says(recipe: Path, who: str) -> bool:
    """Whether a run's recipe begins with this sentence on who trains it."""
    with contextlib.suppress(UserError):  # there is none, or it cannot be read
        return leading_comment(recipe).partition("\n")[0] == f"# {who}"
    return False


def _environment(prepared: Prepared) -> dict[str, Any]:
    """What a run is trained on."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return describe_environment(
        device=str(prepared.device),
        gpus=", ".join(gpus) or "none",
        threads=torch.get_num_threads(),
        world_size=prepared.plan.world_size,
        total_batch=prepared.plan.total_batch,
        **({"data": short(prepared.identity)} if prepared.identity else {}),
        **({"decoder": decoder()} if prepared.recipe.data.decode == "scaled" else {}),
    )
