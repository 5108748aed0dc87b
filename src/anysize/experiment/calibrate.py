"""`anysize.calibrate`: a copy of a checkpoint with the statistics of its norms for one size."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from anysize.evaluation.sizes import parse_sizes
from anysize.experiment.evaluated_sizes import calibration_flops
from anysize.experiment.exported import flops_of
from anysize.experiment.image_files import image_files
from anysize.experiment.loaded import (
    calibration_loader,
    check_channels,
    check_has_statistics,
    check_takes,
    class_names,
    input_of,
    load_run,
)
from anysize.experiment.targets import build_evaluator
from anysize.machine import plainly
from anysize.models.spec import ModelSpec
from anysize.norms.choice import Choice
from anysize.registry import UserError
from anysize.reports import run_files
from anysize.training.checkpoint.files import (
    Checkpoint,
    model_tensors,
    write_checkpoint,
)


@plainly("calibrating")
def calibrate(
    run: str | Path,
    size: int,
    *,
    checkpoint: str = "last",
    calibration: str | Path | None = None,
    out: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    on_progress: Callable[[str], None] | None = None,
    on_choice: Callable[[Choice], None] | None = None,
) -> Path:
    """Write a copy of a run's checkpoint whose norms are calibrated for an image size; returns its folder.

    How much of the calibration is taken is chosen on held-out images, unless `evaluation.calibration_strength` is
    "full"; the state of the copy tells it under `calibrated`: `strength`, `part` of the norms, the mean score of
    everything that was tried, and the `flops` that it took.

    Args:
        run: the run folder.
        size: pixels.
        checkpoint: what to calibrate.
        calibration: a folder of any pictures, without labels, that calibrate in place of the training images.
        out: where to; by default `checkpoints/calibrated-SIZE` in the run, which other verbs then take by that name.
        overrides: settings of the recipe to replace.
        on_progress: called at each batch with words on how far the calibration is.
        on_choice: called with what was taken of the calibration.

    Raises:
        UserError: not a run, a size that the network cannot take, or a network without running statistics.
    """
    (size,) = parse_sizes([size])
    loaded = load_run(run, checkpoint, overrides)
    check_has_statistics(loaded)
    check_takes(loaded, size)
    folder = Path(out).absolute() if out else loaded.folder / run_files.CHECKPOINTS / f"calibrated-{size}"
    if not out:
        run_files.check_is_own(loaded.folder)
    if folder.exists() and not (folder / "state.json").is_file():
        raise UserError(f"{folder} is there already and holds no checkpoint; give a new folder with --out")
    preprocessing = dataclasses.replace(input_of(loaded), classes=class_names(loaded))
    if calibration is None:
        check_channels(loaded)
    loader = functools.partial(calibration_loader, loaded, preprocessing, calibration)
    nothing = image_files(loaded.recipe, preprocessing, [])  # to validate on
    evaluator = build_evaluator(loaded.recipe, preprocessing, nothing, loader, loaded.device)
    evaluator.say, evaluator.labelled = on_progress or evaluator.say, calibration is None
    state = {key: value for key, value in loaded.checkpoint.state.items() if key not in ("files", "format")}
    preprocessing = dataclasses.replace(
        loaded.preprocessing, image_size=size, trained_size=loaded.preprocessing.own_size
    )
    state["preprocessing"] = preprocessing.to_dict()
    state["model"] = ModelSpec.from_dict(state["model"]).fix_norm_size(size).to_dict()
    with evaluator.calibrated(loaded.model, size) as taken:
        flops = calibration_flops(evaluator, size, loaded.model, taken, functools.cache(flops_of(loaded)))
        state["calibrated"] = {"size": size, "from": checkpoint, "flops": flops, **taken.to_dict()}
        write_checkpoint(folder, Checkpoint({"model": model_tensors(loaded.model)}, state))
    if on_choice:
        on_choice(taken)
    return folder
