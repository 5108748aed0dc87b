"""`anysize train RECIPE`."""

import sys
from typing import Annotated, Any

from cyclopts import Parameter

from anysize.cli import Settings, check_recipe, parse_settings, with_device, with_short
from anysize.registry import UserError


def command(
    recipe: str,
    /,
    *settings: Settings,
    out: Annotated[str, Parameter(name=("--out", "--run"))] = "",
    repeat: int | None = None,
    resume: str = "last",
    allow_changes: bool = False,
    pretrained: Annotated[bool, Parameter(negative="")] = False,
    device: str = "",
    max_hours: float | None = None,
    fast_dev_run: Annotated[bool, Parameter(negative="")] = False,
    overfit_batches: str = "",
    limit_batches: str = "",
    track: str = "",
) -> None:
    """Train what a recipe says, or go on with it where it was stopped.

    Any field of the recipe is an option: --training.epochs 20 --data.root ~/data (`anysize settings` lists them).

    Args:
        recipe: a recipe's name (`anysize recipes` lists them), the path of a TOML file, or a run folder, which goes on
        out: the run folder; by default runs/RECIPE, with a short digest of the settings given here. --run is short
            for it where nothing else is launched: torchrun takes that word for an option of its own
        repeat: train this many runs, from the seeds training.seed, training.seed + 1, ..., in RUN/seed-K,
            and show their median, range and standard deviation
        resume: last: go on where the run was saved; previous: at the save before that (previous-2 and so on where
            training.keep_previous keeps more); best: with the weights that validated best (best-2 and so on where
            training.keep_best keeps more); never: start over
        allow_changes: go on although the run had other settings, such as a lower learning rate after a divergence
        pretrained: start from torchvision's or timm's published weights of the model: --model.weights pretrained
        device: auto, cpu, cuda, cuda:1, mps, ...: --training.device
        max_hours: stop in time to be saved before so many hours are over; the same command goes on, for as long again
        fast_dev_run: go through all of a training with a few batches (sizes, validation, checkpoints, report), and keep
            nothing
        overfit_batches: train the same so many batches in each epoch, without augmentation, and validate on them:
            --training.overfit-batches
        limit_batches: so many batches of each epoch and of each validation, or their share as 0.1:
            --training.limit-steps and --training.limit-validation
        track: tell these of the run, too, such as tensorboard,mlflow (or wandb, trackio): --tracking.names
    """
    overrides = with_device(parse_settings(settings), device)
    overrides = with_short(
        overrides, f"--overfit-batches {overfit_batches}", overfit_batches, "training.overfit_batches"
    )
    overrides = with_short(overrides, f"--track {track}", track, "tracking.names")
    for name in ("training.limit_steps", "training.limit_validation"):
        overrides = with_short(overrides, f"--limit-batches {limit_batches}", _share(limit_batches), name)
    if pretrained:
        overrides = with_short(overrides, "--pretrained", "pretrained", "model.weights")
    check_recipe(recipe, overrides)
    from anysize.experiment.dev_run import fast_dev_run as try_out
    from anysize.experiment.repeat import repeat as train_repeatedly
    from anysize.experiment.repeat import repeats_table
    from anysize.experiment.train import train
    from anysize.ranks import main_process
    from anysize.registry import printable
    from anysize.reports.console import show_table
    from anysize.stopping import Interrupted, TimeOver

    if fast_dev_run:
        given = {"--out or --run": out, "--repeat": repeat, "--max-hours": max_hours, "--resume": resume != "last"}
        if named := [name for name, value in given.items() if value]:
            raise UserError(f"--fast-dev-run keeps nothing, and goes on with nothing; leave {' and '.join(named)} out")
        if told := try_out(recipe, overrides):
            print(printable(f"fast dev run: {told}"))
        return
    how: dict[str, Any] = {"run": out or None, "resume_from": resume, "allow_changes": allow_changes}
    try:
        if repeat is None:
            train(recipe, overrides, max_hours=max_hours, **how)
        else:
            table = train_repeatedly(recipe, overrides, repeat, max_hours=max_hours, **how)
            if main_process():
                show_table(repeats_table(table))
    except Interrupted as stop:
        again = "the same command" if resume == "last" else "the same command without --resume"
        if main_process():
            print(printable(f"stopped: {stop}; {again} goes on from there"), file=sys.stderr)
        # The time that was asked for is over: no failure, after which torchrun would start the run again.
        sys.exit(0 if isinstance(stop, TimeOver) else 130)


def _share(batches: str) -> str:
    """What a limit of batches is as a setting: 1.0, as in other programs, is all of them, and 1 is one."""
    return "0" if batches.rstrip("0") == "1." else batches
