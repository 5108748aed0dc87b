"""What a model takes for what: a figure and tables of a run's latest evaluation on validation images."""

import dataclasses
import itertools
from collections import Counter

import numpy as np
import pandas as pd
from bokeh.models import ColumnDataSource, HoverTool
from bokeh.palettes import interp_palette
from bokeh.transform import linear_cmap
from markupsafe import Markup

from anysize.registry import counted
from anysize.reports.axis_names import on_an_axis
from anysize.reports.columns import show
from anysize.reports.figures import empty_figure
from anysize.reports.image_predictions import read_confusion
from anysize.reports.page import card, cards, plot, section, table
from anysize.reports.reading import Run
from anysize.reports.text_table import TextTable

_DRAWN = 30  # classes at most that a figure shows all of
_OF_MANY = 20  # that it shows of more
_PAIRS = 20
_CLASSES = 200  # at most that a table lists
_SHADES = ("#f4f7fa", "#9cc4dd", "#2a78b0", "#0b2c4d")  # none to all


@dataclasses.dataclass(frozen=True)
class Confusion:
    """How often each class is taken for which.

    `counts` has the columns `true`, `predicted` and `count`, without those that are 0; `classes` are those
    that occur. `unit` is what is counted: images, pixels, or images in which a label is missed and another one
    is predicted wrongly (of labels there are no right ones). `how` says of which evaluation.
    """

    classes: list[str]
    counts: pd.DataFrame
    unit: str
    how: str

    @property
    def mistakes(self) -> pd.DataFrame:
        """The counts of classes that are taken for others, the most frequent first."""
        wrong = self.counts[self.counts["true"] != self.counts["predicted"]]
        return wrong.sort_values("count", ascending=False, kind="stable").reset_index(drop=True)


def confusion_of(run: Run) -> Confusion | None:
    """The confusion of a run's latest evaluation on validation images; None where there is none.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from anysize.reports.image_predictions import write_image_predictions
    >>> from anysize.tasks.records import Judged
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "recipe.toml").write_text("")
    >>> made = {"checkpoint": "last", "split": "validation", "settings": "", "size": 28, "calibrated": False}
    >>> judged = {f"{i}.png": Judged("cat", answer, 0.5) for i, answer in enumerate(["cat", "dog", "dog"])}
    >>> write_image_predictions(folder, made, judged)
    >>> confusion_of(Run.read(folder)).mistakes.to_dict("records")
    [{'true': 'cat', 'predicted': 'dog', 'count': 2}]
    """
    pixels = read_confusion(run.folder)
    if len(pixels):
        counts = pixels.rename(columns={"pixels": "count"})
        return _confusion(counts, "pixels", counts)
    images = run.image_predictions
    if not len(images):
        return None
    if _has_labels(run):
        return _confusion(_missed_for(images), "images", images)
    counts = images.groupby(["truth", "predicted"], sort=False).size().reset_index(name="count")
    return _confusion(counts.rename(columns={"truth": "true"}), "images", images)


def _confusion(counts: pd.DataFrame, unit: str, made: pd.DataFrame) -> Confusion:
    first = made.iloc[0]
    how = f"at {first['size']} px{', calibrated' if first['calibrated'] else ''}"
    met = dict.fromkeys([*counts["true"], *counts["predicted"]])
    classes = [*met] if unit == "pixels" else sorted(met)  # of masks in the order of the data set
    return Confusion(classes, counts[["true", "predicted", "count"]].reset_index(drop=True), unit, how)


def _has_labels(run: Run) -> bool:
    return run.settings.get("task.name") == "multilabel"


def _missed_for(images: pd.DataFrame) -> pd.DataFrame:
    """How often a label is missed in an image that another one is predicted for wrongly."""
    pairs: Counter[tuple[str, str]] = Counter()
    for truth, predicted in zip(images["truth"], images["predicted"], strict=True):
        true, answered = ({*names.split(";")} - {""} for names in (truth, predicted))
        pairs.update(itertools.product(sorted(true - answered), sorted(answered - true)))
    return pd.DataFrame([(*pair, count) for pair, count in pairs.items()], columns=["true", "predicted", "count"])


def most_confused(confusion: Confusion, most: int = _PAIRS) -> TextTable:
    """The pairs of classes that are most often taken one for the other, in this direction."""
    of_class = confusion.counts.groupby("true")["count"].sum()
    rows = [
        [true, predicted, f"{count:,}", show("share", count / of_class[true])]
        for true, predicted, count in confusion.mistakes.head(most).itertuples(index=False)
    ]
    share = "of the class" if confusion.unit == "pixels" or not _only_wrong(confusion) else "of its pairs"
    return TextTable(["true class", "taken for", confusion.unit, share], rows, labels=2)


def _only_wrong(confusion: Confusion) -> bool:
    return len(confusion.mistakes) == len(confusion.counts)


def class_table(images: pd.DataFrame) -> TextTable:
    """A classification by class, the class with the fewest right answers first, from `Run.image_predictions`.

    `right` is the share of the class's images that are taken for it (recall), `precision` the share of the images taken
    for it that are of the class.
    """
    truth, predicted = images["truth"], images["predicted"]
    there, answered = truth.value_counts(), predicted.value_counts()
    hits = truth[truth == predicted].value_counts()
    pairs = images[truth != predicted].groupby(["truth", "predicted"], sort=False).size()
    wrong = dict(pairs.sort_values(kind="stable").index)  # of each class the most frequent comes last
    rows = []
    for name in sorted(there.index, key=lambda name: (hits.get(name, 0) / there[name], name))[:_CLASSES]:
        right = hits.get(name, 0)
        precision = right / answered[name] if name in answered else float("nan")
        cells = [show("recall", right / there[name]), show("precision", precision)]
        rows.append([name, str(wrong.get(name, "-")), f"{there[name]:,}", *cells])
    caption = (
        f"The {_CLASSES} of {len(there):,} classes with the fewest right answers." if len(there) > _CLASSES else ""
    )
    return TextTable(["class", "most often taken for", "images", "right", "precision"], rows, labels=2, caption=caption)


def confusion_figure(confusion: Confusion) -> tuple[object, str]:
    """A confusion matrix, a row a true class; of many classes those that are confused most. And what is to be said."""
    classes, note = confusion.classes, ""
    if len(classes) > _DRAWN:
        pairs = confusion.mistakes[["true", "predicted"]].to_numpy().ravel().tolist()
        chosen = {*list(dict.fromkeys(pairs))[:_OF_MANY]}
        note = f" The {len(chosen)} of {len(classes):,} classes that are confused most."
        classes = [name for name in classes if name in chosen]
    total = confusion.counts.groupby("true")["count"].sum()
    shown = confusion.counts[confusion.counts["true"].isin(classes) & confusion.counts["predicted"].isin(classes)]
    share = (shown["count"] / shown["true"].map(total)).to_numpy()
    short = dict(zip(classes, on_an_axis(classes), strict=True))
    source = ColumnDataSource(
        {
            "true": shown["true"].to_list(),
            "predicted": shown["predicted"].to_list(),
            "row": shown["true"].map(short).to_list(),
            "column": shown["predicted"].map(short).to_list(),
            "count": shown["count"].to_numpy(),
            "share": 100 * share,
            "shade": np.sqrt(share),  # few mistakes are seen, too
        }
    )
    names = [short[name] for name in classes]
    drawn = empty_figure(
        "predicted", "true", x_range=names, y_range=names[::-1], height=220 + 18 * len(names), x_axis_location="above"
    )
    color = linear_cmap("shade", interp_palette(_SHADES, 64), 0, 1)
    drawn.rect("column", "row", 1, 1, source=source, fill_color=color, line_color="white")
    tips = [("true", "@true"), ("predicted", "@predicted"), (confusion.unit, "@count{0,0}"), ("share", "@share{0.0}%")]
    drawn.add_tools(HoverTool(tooltips=tips))
    drawn.xaxis.major_label_orientation = "vertical"  # slanted ones leave the figure, or cross on a phone
    drawn.xaxis.major_label_text_font_size = "11px"
    drawn.grid.visible = False
    return drawn, f"Share of the {confusion.unit} of each true class (row), from none, left empty, to all.{note}"


def mistakes_section(run: Run) -> Markup | str:
    """The section of the report; empty for a run that was not evaluated, or whose labels were never confused."""
    confusion = confusion_of(run)
    if confusion is None or not len(confusion.counts):
        return ""
    parts = []
    labels = _has_labels(run)
    if not labels:
        drawn, note = confusion_figure(confusion)
        parts.append(cards(plot(f"confusion matrix, {confusion.how}", drawn, note)))
    details = []
    if len(confusion.mistakes):
        note = (
            "An image counts for each pair of a label that is missed and one that is predicted wrongly."
            if labels
            else ""
        )
        details.append(card(f"most confused, {confusion.how}", table(most_confused(confusion)), note, tall=True))
    if confusion.unit == "images" and not labels:
        content = class_table(run.image_predictions)
        note = (
            content.caption
            or f"{counted(len(confusion.classes), 'class')}, the one with the fewest right answers first."
        )
        details.append(card(f"by class, {confusion.how}", table(content), note, tall=True))
    return section("What is taken for what", *parts, cards(*details) if details else "")
