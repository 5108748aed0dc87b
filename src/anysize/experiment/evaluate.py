"""`anysize.evaluate`: how good the model of a run is at any size."""

import contextlib
import dataclasses
import functools
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast, get_args

import pandas as pd

from anysize.data.catalog import load_dataset
from anysize.data.dataset import MissingSplit, Split
from anysize.data.source import FileSource, Source
from anysize.data.spread import spread
from anysize.evaluation.evaluator import Evaluator
from anysize.evaluation.settings import EvaluationSettings
from anysize.evaluation.sizes import parse_extents, parse_sizes
from anysize.experiment.adapt import adapted_copy, adapted_name
from anysize.experiment.evaluated_sizes import (
    EvaluatedSize,
    calibration_flops,
    default_sizes,
    evaluated_size,
    mean_flops,
)
from anysize.experiment.exported import evaluation_files, flops_of
from anysize.experiment.identity import identity_of, then_and_now
from anysize.experiment.loaded import (
    LoadedRun,
    check_has_statistics,
    check_takes,
    load_run,
    make_evaluator,
    recipe_of,
)
from anysize.experiment.pictures import picture_predictions
from anysize.experiment.published import names_recipe, run_folder
from anysize.experiment.together import joined_for
from anysize.export.look import is_exported
from anysize.export.module import RuntimeModel
from anysize.models.measure.timing import latency_of
from anysize.norms.by_size.model import fixed_norm_size
from anysize.norms.calibration import has_running_statistics
from anysize.norms.choice import Choice
from anysize.norms.strength import having_statistics
from anysize.recipe import Recipe, differences, load_recipe
from anysize.registry import UserError, did_you_mean
from anysize.reports import run_files
from anysize.reports.evaluation_tables import table_rows
from anysize.reports.html import write_report
from anysize.reports.image_predictions import write_confusion, write_image_predictions
from anysize.reports.run_files import add_rows
from anysize.sizes.shapes import sides_of
from anysize.tasks.base import task_class
from anysize.tasks.records import Judged, Summary, Table

logger = logging.getLogger(__name__)

_NAMED = 50_000
"""Images at most of which a run folder keeps what is predicted."""

_COMPUTED = (
    "data.workers", "data.memory_limit", "data.download", "data.renamed_classes", "training.device",
    "evaluation.pictures", "evaluation.calibrate",
)  # fmt: skip
"""Settings that say how an evaluation is computed, not what is measured; evaluation.calibrate is of training."""


def evaluate(
    run: str | Path,
    sizes: str | Iterable[int] | None = None,
    *,
    calibrate: bool = True,
    calibration: str | Path | None = None,
    checkpoint: str = "last",
    split: str = "validation",
    overrides: Mapping[str, Any] | None = None,
    on_row: Callable[[dict[str, Any]], None] | None = None,
    on_progress: Callable[[str], None] | None = None,
    runtime: str = "",
    threads: int = 0,
    latency: bool = False,
) -> pd.DataFrame:
    """Accuracy by image size; the table also goes into the run's `evaluation.csv` and report.

    Rows that are there of other sizes, checkpoints, splits or test-time settings stay.

    What the task tells by class, by object size and the like goes into `evaluation_tables.csv`, and predictions at the
    base size, the worst first, into `predictions/`. What is predicted for each image at the size nearest to the base,
    calibrated where that is measured, goes into `predictions.csv`, of at most 50,000 images, and of masks which class
    is taken for which into `confusion.csv`. The report shows all of it. An exported file, or a run that is computed
    by a runtime, has fixed statistics and no report: its tables go beside the file, as FILE.evaluation.csv,
    FILE.predictions.csv and so on, or into the run, as evaluation-RUNTIME.csv, predictions-RUNTIME.csv.

    Args:
        run: the run folder, an exported file, or the name of a recipe, for the published weights that it names: a run
            is made of them.
        sizes: pixels, as `range(16, 49, 4)`, `"16:48:4"`, `"16,32"` or, HEIGHTxWIDTH, `"192x256"`; by default the
            training sizes and their neighbours, from half to one and a half times the base; of published weights the
            size they are for.
        calibrate: also evaluate with the statistics of the norms calibrated for each size, as far as that is better on
            held-out images, or wholly where `evaluation.calibration_strength` is "full". Where there are no images to
            calibrate with, the log says so, and the model is evaluated as trained alone.
        calibration: a folder of any pictures, without labels, that calibrate in place of the training images; these
            are then not needed.
        checkpoint: "last" has the running statistics of training ("as trained"); "best" was calibrated for the base
            size where the run mixes sizes.
        split: "validation", "test" for the final figure on images that chose nothing, or "train".
        overrides: settings of the recipe to replace, such as `{"data.root": ..., "evaluation.crops": "10"}`.
        on_row: called with each row when it is measured.
        on_progress: called at each batch with words on how far the evaluation is.
        runtime: computes the network: onnxruntime, openvino, torch or inductor; a run is exported for it. Empty:
            PyTorch for a run, the default of its format for a file.
        threads: of the runtime; 0: as many as it chooses.
        latency: also measure how long one image alone takes, the median of several times.

    Returns:
        A row a size, as trained and (where `calibrate`) calibrated: `checkpoint`, `split`, `settings` (those of test
        time that are not as usual, or not the run's), `size`, `calibrated`, the task's metrics (such as top1, top5,
        loss), `images`, `images_per_second`, `latency` (seconds, where measured), `flops` (of one image forward), and
        `prepared_flops`, what the calibration took. A size that `anysize.adapt` has adapted this checkpoint to has a
        row of that copy, too, first in the table, with what the adapting took.
        `attrs["written"]` has the files that it
        went into: one that cannot be written is warned of, and the table is returned.

    Raises:
        UserError: not a run, sizes that are no sizes or that the network cannot take, missing data.
    """
    of_recipe = names_recipe(run)

    def resolved() -> Recipe:
        if is_exported(run):
            return Recipe()
        return load_recipe(str(run), overrides) if of_recipe else recipe_of(run, overrides)

    with joined_for(resolved, "evaluating") as (_, world):
        with world.together():
            if world.main and of_recipe:
                run_folder(run)  # so that the others find it
        with world.together():
            if calibration is not None and not calibrate:
                raise UserError("a folder to calibrate with is given, and calibration is off; leave one of the two out")
            given = None if sizes is None else parse_extents(sizes)
            largest = max((max(sides_of(extent)) for extent in given or ()), default=None)
            loaded = load_run(run_folder(run), checkpoint, overrides, runtime=runtime, threads=threads, size=largest)
            base = loaded.preprocessing.image_size
            evaluator = make_evaluator(loaded, calibration, world, _check_split(split))
            evaluator.say = on_progress or evaluator.say
            told = _told_settings(loaded, calibration)
            wanted = [
                evaluated_size(extent, evaluator, told)
                for extent in given or parse_sizes([base] if of_recipe else default_sizes(base))
            ]
            for each in sorted(wanted, key=lambda each: each.size):
                check_takes(loaded, each.size, each.extents)
            made = {"checkpoint": checkpoint, "split": split}
            if split == "test" and world.main and _validates(loaded, evaluator):
                logger.warning("these test images were the validation images, too, which chose the best checkpoint")
            if world.main:
                _warn_of_other_files(loaded, evaluator.validation, _check_split(split))
            if calibration is not None:
                check_has_statistics(loaded)
            calibrate = calibrate and has_running_statistics(loaded.model) and _can_calibrate(evaluator)
            if world.main and (nothing := evaluator.kind.first_doubts(evaluator.validation).nothing):
                logger.warning("nothing can be measured with the %s images: %s", split, nothing)
        return _evaluate(loaded, made, wanted, evaluator, calibrate=calibrate, latency=latency, on_row=on_row)


def _evaluate(
    loaded: LoadedRun,
    made: Mapping[str, str],
    wanted: Sequence[EvaluatedSize],
    evaluator: Evaluator,
    *,
    calibrate: bool,
    latency: bool,
    on_row: Callable[[dict[str, Any]], None] | None,
) -> pd.DataFrame:
    model, base = loaded.model, loaded.preprocessing.image_size
    flops = functools.cache(flops_of(loaded))
    # Calibration changes no time: both rows of a size have one, and a report with one figure of it.
    time = functools.cache(lambda usual: latency_of(model, loaded.preprocessing.channels, usual, loaded.device))
    rows: list[dict[str, Any]] = []
    details: list[dict[str, Any]] = []
    adapted: list[dict[str, Any]] = []
    judged: dict[int, Judged] = {}
    choices: dict[int, Choice] = {}
    confusion: Table = {}
    summary = Summary({})
    nearest = min(wanted, key=lambda each: (abs(each.size - base), each.size))
    told = {**made, "settings": nearest.settings, "size": nearest.size, "calibrated": calibrate}

    def add(each: EvaluatedSize, taken: Choice | None) -> None:
        nonlocal summary
        key = {**made, "settings": each.settings, "size": each.size, "calibrated": taken is not None}
        if taken is None or taken:  # else it is the network as it is, which has just been measured
            summary = each.evaluator.evaluate(model, each.size, judged=judged if each is nearest else None)
        if key == told:
            confusion.update(summary.confusion)
        how = {} if taken is None else taken.to_row()
        row = {**key, **how, **summary.values, "flops": mean_flops(flops, each.extents)}
        if latency and evaluator.world.main:
            row["latency"] = time(max(each.extents, key=lambda extent: each.extents[extent]))
        rows.append(row)
        details.extend({**key, **row} for row in table_rows(summary.tables))
        if on_row:
            on_row(rows[-1])

    for each in wanted:
        add(each, None)
        if calibrate:
            with each.evaluator.calibrated(model, each.size) as choice:
                add(each, choice)
            if each.evaluator is evaluator:
                choices[each.size] = choice
            rows[-1]["prepared_flops"] = calibration_flops(each.evaluator, each.size, model, choice, flops)
        if not isinstance(model, RuntimeModel) and (copy := adapted_copy(loaded, made["checkpoint"], each.size)):
            values = each.evaluator.evaluate(copy.model, each.size).values
            spent = copy.checkpoint.state["adapted"]["flops"]
            of_copy = {"checkpoint": adapted_name(each.size), "settings": each.settings, "size": each.size}
            of_copy |= {"calibrated": False, **values, "flops": rows[-1]["flops"], "prepared_flops": spent}
            adapted.append({**made, **of_copy})
    rows = [*adapted, *rows]  # what was asked for is the latest
    table = pd.DataFrame(rows)
    table.attrs["written"] = []
    files, own = evaluation_files(loaded), not isinstance(model, RuntimeModel)  # a runtime's have no report
    if own and evaluator.settings.pictures and made["split"] == "validation":
        with contextlib.ExitStack() as stack:
            if base in choices:
                stack.enter_context(fixed_norm_size(model, base))
                stack.enter_context(having_statistics(model, choices[base].statistics))
            elif calibrate:
                choices[base] = stack.enter_context(evaluator.calibrated(model, base))
            if evaluator.world.main:
                known = judged if nearest.size == base and nearest.evaluator is evaluator else None
                taken = bool(choices.get(base))
                picture_predictions(loaded.folder, evaluator, model, base, calibrated=taken, judged=known)
    if evaluator.world.main:
        named = by_name(judged, evaluator.validation, loaded.recipe.data.root)
        writes: dict[str, Callable[[Path], object]] = {
            run_files.EVALUATION_TABLES: lambda path: add_rows(path, details),
            run_files.IMAGE_PREDICTIONS: lambda path: write_image_predictions(path.parent, told, named, path.name),
            run_files.CONFUSION: lambda path: write_confusion(path.parent, told, confusion, path.name),
        }
        for name, write in writes.items():
            if name != run_files.CONFUSION or confusion:
                run_files.go_on_without(files[name], functools.partial(write, files[name]))
        path = files[run_files.EVALUATION]
        shown: dict[Path, Callable[[], object]] = {path: lambda: add_rows(path, rows)}
        if own:
            shown[loaded.folder / run_files.REPORT] = lambda: write_report(loaded.folder)
        table.attrs["written"] = run_files.write_all_that_can_be(shown)
    return table


def by_name(judged: Mapping[int, Judged], source: Source, root: str) -> dict[str, Judged]:
    """What is predicted for images, by their names within the data set at `root`: of many, 50,000 that are spread."""
    places = spread(len(source), _NAMED).tolist()
    before = os.path.join(os.path.abspath(os.path.expanduser(root)), "") if root else ""
    return {source.describe(i).removeprefix(before): judged[i] for i in places if i in judged}


def _check_split(split: str) -> Split:
    if split not in get_args(Split):
        raise UserError(f"split is {split!r}: {did_you_mean(split, get_args(Split))}")
    return cast(Split, split)


def _validates(loaded: LoadedRun, evaluator: Evaluator) -> bool:
    """Whether the images of an evaluator are the validation images of the run."""
    targets = task_class(loaded.recipe.task.name).targets
    with contextlib.suppress(UserError):
        validation = load_dataset(loaded.recipe.data, "validation", targets, preload=False)
        return validation.describe(0) == evaluator.validation.describe(0)
    return False


def _warn_of_other_files(loaded: LoadedRun, source: Source, split: Split) -> None:
    """Say where the images of a split, `source`, are chosen as the run says and not those that its training had."""
    held, path = loaded.checkpoint.state.get("data", {}).get(split), loaded.folder / run_files.RECIPE
    if not held or not path.is_file():
        return
    changed = {key for key in differences(load_recipe(str(path)), loaded.recipe) if key.startswith("data.")}
    if changed - {*_COMPUTED, "data.root", "data.on_bad_image"}:
        return  # other images are meant
    if not isinstance(source, FileSource):  # it may have been decoded into memory: the files are few and small
        source = load_dataset(loaded.recipe.data, split, task_class(loaded.recipe.task.name).targets, preload=False)
    now = identity_of({split: source}, loaded.recipe.data).get(split)
    if now and now["digest"] != held["digest"]:
        logger.warning(
            "the %s images are not those that the run was trained with: %s; figures on the two do not compare",
            split,
            then_and_now(held, now),
        )


def _told_settings(loaded: LoadedRun, calibration: str | Path | None) -> str:
    """The settings of test time that are not as usual, and those that are not the run's, in a line."""
    path = loaded.folder / run_files.RECIPE
    saved = load_recipe(str(path)) if path.is_file() else loaded.recipe
    changed = {key: new for key, (_, new) in differences(saved, loaded.recipe).items() if key not in _COMPUTED}
    usual = dataclasses.replace(loaded.recipe, evaluation=EvaluationSettings())
    changed |= {key: new for key, (_, new) in differences(usual, loaded.recipe).items() if key not in _COMPUTED}
    if calibration is not None:
        changed["calibration"] = str(calibration)
    return " ".join(f"{key}={value}" for key, value in sorted(changed.items()))


def _can_calibrate(evaluator: Evaluator) -> bool:
    """Whether there are images to calibrate with; if not, the log says what is missing."""
    try:
        return bool(evaluator.loader)
    except MissingSplit as error:
        if evaluator.world.main:
            logger.warning("evaluated as trained alone: %s", error)
        return False
