"""The report of one run: `report.html` in the run's folder, one file that opens offline."""

from pathlib import Path

from markupsafe import Markup

from anysize.registry import counted
from anysize.reports import figures, run_files
from anysize.reports.best_size import best_size_table, worth_their_cost
from anysize.reports.columns import label, show
from anysize.reports.curves import epoch_curves, step_curves
from anysize.reports.evaluation_tables import tables_at
from anysize.reports.log_reading import LogFacts, read_log, show_day
from anysize.reports.mistakes import mistakes_section
from anysize.reports.page import card, cards, choice, folded, page, plot, section, table, tiles
from anysize.reports.policy_report import class_figure, policy_figure
from anysize.reports.predictions import predictions_section, read_predictions
from anysize.reports.quantization import quantization_section
from anysize.reports.reading import Run
from anysize.reports.recipe_card import recipe_cards
from anysize.reports.tables import evaluation_metrics, evaluation_table
from anysize.reports.text_table import TextTable
from anysize.sizes.settings import TAKERS

_FEW = 12


def write_report(folder: str | Path) -> Path:
    """Write `report.html` into a run folder from the files there, whatever of them there is, and return its path."""
    run = Run.read(folder)
    path, settings = run.folder / run_files.REPORT, run.settings
    named = [str(settings[key]) for key in ("model.name", "data.name") if key in settings]
    subtitle = " · ".join([*named, *_mixture(run)])
    predictions = predictions_section(read_predictions(run.folder))
    int8 = quantization_section(run.folder)
    parts = [_summary(run), _training(run), _evaluation(run), mistakes_section(run), predictions, _scale_policy(run)]
    parts += [int8, _settings(run)]
    run_files.write_atomically(path, page(run.name, subtitle, parts))
    return path


def _mixture(run: Run) -> list[str]:
    """The sizes of a mixture of one's own; the name of one that the paper names."""
    mix = str(run.settings.get("sizes.mix", ""))
    sizes = sorted({size for epoch in run.sizes for size in epoch})
    if any(mix in takers for takers in TAKERS.values()) and 0 < len(sizes) <= _FEW:
        return [f"{', '.join(map(str, sizes))} px"]
    return [mix] if mix else []


def _summary(run: Run) -> Markup:
    metric = run.main_metric
    best, at = run.best(metric)
    total = run.settings.get("training.epochs")
    done, _ = run.epochs
    early = "stopped early" if run.ended_early else ""
    if run.settings.get("training.equal_flops"):  # the number of passes then follows from the sizes
        values = [("epochs", str(done), early or f"for the FLOPs of {total} at the base size")]
    else:
        values = [("epochs", f"{done} of {total}" if total else str(done), early)]
    if at:
        calibrated = bool(run.metrics.get("validation_calibrated", run.metrics["epoch"] < 0).iloc[-1])
        how = ", calibrated" if calibrated else ""
        values += [
            (f"best {label(metric)}", show(metric, best), f"epoch {at}{how}"),
            (f"last {label(metric)}", show(metric, run.last(metric)), how.removeprefix(", ")),
        ]
    if len(worth := worth_their_cost(run.evaluation)):
        top, name = worth.iloc[-1], evaluation_metrics(run.evaluation)[0]
        cost = f"{label(name)} {show(name, top[name])} for {show('flops', top['flops'])} an image"
        values.append(("best size", f"{top['size']} px", cost))
    for what, column, note in (
        ("training time", "seconds", "hours, minutes, seconds" if run.last("seconds") >= 3600 else "minutes, seconds"),
        ("computation", "flops", "forward and backward"),
        ("images trained", "images", "copies counted"),
    ):
        if column in run.metrics:
            values.append((what, show(column, run.last(column)), note))
    log = read_log(run.folder)
    if log.began and log.ended:
        other = "" if log.ended.date() == log.began.date() else f"{show_day(log.ended)}, "
        values.append(("started", show_day(log.began), f"{log.began:%H:%M} UTC; its log ends {other}{log.ended:%H:%M}"))
    return Markup("\n").join([tiles(values), *_warnings(log)])


def _warnings(log: LogFacts) -> list[Markup]:
    rows = [[f"{show_day(last)}, {last:%H:%M}", text, f"{often:,}"] for text, often, last in log.warnings]
    if not rows:
        return []
    lines = table(TextTable(["last, UTC", "warning", "times"], rows, labels=2))
    return [folded(f"The run warned of {counted(len(rows), 'thing')}", lines)]


def _training(run: Run) -> Markup:
    if not len(run.metrics):
        return section("Training", card("", "", "No epoch has been trained yet."))
    by_epoch = cards(*epoch_curves(run))
    by_step = step_curves(run.steps)
    curves = choice("Curves", {"by epoch": by_epoch, "by step": cards(*by_step)}) if by_step else by_epoch
    return section("Training", curves)


def _evaluation(run: Run) -> Markup | str:
    frame = run.evaluation
    if not len(frame):
        return ""
    by_size = figures.size_figures(frame, evaluation_metrics(frame)[0])
    by_size |= figures.object_size_figure(frame)
    drawn = cards(*(plot(title, figure) for title, figure in by_size.items()))
    how, tables = tables_at(run.evaluation_tables, run.base_size)
    details = [card(f"{title}, {how}", table(cells), tall=True) for title, cells in tables.items()]
    title = ", ".join(part for part in ("by image size", run.evaluated_with) if part)
    whole = cards(card(title, table(evaluation_table(frame, all_twice=True))))  # wider than half the page
    if budgets := best_size_table(frame):
        note = "An image that may cost as much, or more up to the next row, is best seen at this size."
        details.insert(0, card("best size for a budget", table(budgets), note))
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
        "standard deviation over images to either side. 50%: both contribute alike."
    )
    drawn = [plot("by block", policy_figure(frame), note)]
    classes = class_figure(frame)
    if classes is not None:
        note = "Difference in percentage points from all images; classes in the order of their use of half resolution."
        drawn.append(plot("by class", classes, note))
    return section("Scale policy: what comes from half resolution", cards(*drawn))


def _settings(run: Run) -> Markup | str:
    parts = list(recipe_cards(run.recipe)) if run.recipe else []
    if run.environment:
        rows = [[key.replace("_", " "), str(value)] for key, value in run.environment.items()]
        parts.append(folded("Environment", table(TextTable(["", ""], rows, labels=2))))
    return section("How it was made", *parts) if parts else ""
