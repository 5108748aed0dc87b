"""The report of one run: `report.html` in the run's folder, one file that opens offline."""

from pathlib import Path

from markupsafe import Markup

from anysize.registry import counted
from anysize.reports import figures, run_files
from anysize.reports.columns import SPLITS, error_of, label, metrics_of, show
from anysize.reports.evaluation_tables import tables_at
from anysize.reports.figures import COLORS, Line, line_figure
from anysize.reports.mistakes import mistakes_section
from anysize.reports.page import as_it_stands, card, cards, page, plot, section, table, tiles
from anysize.reports.policy_report import class_figure, policy_figure
from anysize.reports.predictions import predictions_section, read_predictions
from anysize.reports.quantization import quantization_section
from anysize.reports.reading import Run
from anysize.reports.tables import evaluation_metrics, evaluation_table
from anysize.reports.text_table import TextTable
from anysize.tasks.records import OBJECT_SIZES


def write_report(folder: str | Path) -> Path:
    """Write `report.html` into a run folder from the files there, whatever of them there is, and return its path."""
    run = Run.read(folder)
    path, settings = run.folder / run_files.REPORT, run.settings
    subtitle = " · ".join(str(settings[key]) for key in ("model.name", "data.name", "sizes.mix") if key in settings)
    predictions = predictions_section(read_predictions(run.folder))
    int8 = quantization_section(run.folder)
    parts = [_summary(run), _training(run), _evaluation(run), mistakes_section(run), predictions, _scale_policy(run)]
    parts += [int8, _settings(run)]
    run_files.write_atomically(path, page(run.name, subtitle, parts))
    return path


def _summary(run: Run) -> Markup:
    metric = run.main_metric
    best, at = run.best(metric)
    total = run.settings.get("training.epochs")
    done = len(run.metrics) and int(run.metrics["epoch"].iloc[-1])
    if run.settings.get("training.equal_flops"):  # the number of passes then follows from the sizes
        values = [("epochs", str(done), f"for the FLOPs of {total} at the base size")]
    else:
        values = [("epochs", f"{done} of {total}" if total else str(done), "")]
    if at:
        calibrated = bool(run.metrics.get("validation_calibrated", run.metrics["epoch"] < 0).iloc[-1])
        how = ", calibrated" if calibrated else ""
        values += [
            (f"best {label(metric)}", show(metric, best), f"epoch {at}{how}"),
            (f"last {label(metric)}", show(metric, run.last(metric)), how.removeprefix(", ")),
        ]
    for what, column, note in (
        ("training time", "seconds", "without evaluation"),
        ("computation", "flops", "forward and backward"),
        ("images trained", "images", "copies counted"),
    ):
        if column in run.metrics:
            values.append((what, show(column, run.last(column)), note))
    return tiles(values)


def _training(run: Run) -> Markup:
    frame, color = run.metrics, COLORS[0]
    if not len(frame):
        return section("Training", card("", "", "No epoch has been trained yet."))
    curves = []
    for metric in metrics_of(frame.columns):
        if error_of(metric) or metric.endswith(tuple(f"_{size}" for size in OBJECT_SIZES)):
            continue  # its error is drawn, or all object sizes together
        lines = [
            Line(label(split), frame["epoch"], frame[f"{split}_{metric}"], color, dashed=split == "train")
            for split in SPLITS
            if f"{split}_{metric}" in frame and frame[f"{split}_{metric}"].notna().any()
        ]
        if lines:
            curves.append(plot(label(metric), line_figure(lines, "epoch", metric)))
    curves += [plot(title, figure) for title, figure in figures.object_size_curves(frame).items()]
    if any(run.sizes):
        curves.append(plot("image sizes", figures.sizes_figure(frame["epoch"].to_list(), run.sizes)))
    for column in ("lr", "images_per_second"):
        if column in frame:
            line = Line("", frame["epoch"], frame[column], color)
            curves.append(plot(label(column), line_figure([line], "epoch", column)))
    return section("Training", cards(*curves))


def _evaluation(run: Run) -> Markup | str:
    frame = run.evaluation
    if not len(frame):
        return ""
    by_size = figures.size_figures([(run.name, frame)], COLORS[:1], evaluation_metrics(frame)[0])
    by_size |= figures.object_size_figure(frame)
    drawn = cards(*(plot(title, figure) for title, figure in by_size.items()))
    how, tables = tables_at(run.evaluation_tables, run.base_size)
    details = [card(f"{title}, {how}", table(cells), tall=True) for title, cells in tables.items()]
    title = ", ".join(part for part in ("by image size", run.evaluated_with) if part)
    whole = cards(card(title, table(evaluation_table(frame, all_twice=True))))  # wider than half the page
    others = [card(what, table(evaluation_table(rows))) for what, rows in run.other_evaluations.items()]
    return section("Evaluation by image size", drawn, whole, cards(*details, *others) if details or others else "")


def _scale_policy(run: Run) -> Markup | str:
    frame = run.scale_policy
    if not len(frame):
        return ""
    images, size = frame["images"].max(), frame["size"].iloc[0]
    note = (
        f"Part of the variation in the sum of both branches, over {counted(int(images), 'image')} at {size} px; the "
        "bar is one "
        "standard deviation over images to either side. 50 %: both contribute alike."
    )
    drawn = [plot("by block", policy_figure(frame), note)]
    classes = class_figure(frame)
    if classes is not None:
        note = "Difference in percentage points from all images; classes in the order of their use of half resolution."
        drawn.append(plot("by class", classes, note))
    return section("Scale policy: what comes from half resolution", cards(*drawn))


def _settings(run: Run) -> Markup | str:
    parts = []
    if run.recipe:
        parts.append(card("Recipe", as_it_stands(run.recipe)))
    if run.environment:
        rows = [[key.replace("_", " "), str(value)] for key, value in run.environment.items()]
        parts.append(card("Environment", table(TextTable(["", ""], rows, labels=2))))
    return section("How it was made", cards(*parts)) if parts else ""
