"""The best image size for what an image may cost."""

import pandas as pd

from anysize.reports.columns import label, lower_is_better, show
from anysize.reports.tables import AS_TRAINED, CALIBRATED, evaluation_metrics
from anysize.reports.text_table import TextTable


def worth_their_cost(evaluation: pd.DataFrame) -> pd.DataFrame:
    """The rows of an evaluation that no cheaper row matches, the cheapest first; empty where costs are not known.

    >>> rows = {"size": [32, 48, 64], "calibrated": [False] * 3, "top1": [0.7, 0.6, 0.8], "flops": [1e6, 2e6, 4e6]}
    >>> worth_their_cost(pd.DataFrame(rows))["size"].tolist()
    [32, 64]
    """
    metric = next(iter(evaluation_metrics(evaluation)), "")
    if not metric or "flops" not in evaluation:
        return pd.DataFrame()
    known = evaluation.dropna(subset=[metric, "flops"])
    sign = -1.0 if lower_is_better(metric) else 1.0
    order = known.assign(_worth=-sign * known[metric]).sort_values(["flops", "_worth"], kind="stable")
    best = (sign * order[metric]).cummax().shift(fill_value=float("-inf"))
    return order[sign * order[metric] > best].drop(columns="_worth")


def best_size_table(evaluation: pd.DataFrame) -> TextTable | None:
    """What to run at for a budget: a row for each size that is worth its cost; None: costs are not known."""
    rows = worth_their_cost(evaluation)
    if not len(rows):
        return None
    metric = evaluation_metrics(evaluation)[0]
    times = [name for name in ("images_per_second", "latency") if name in rows and rows[name].notna().any()]
    header = ["an image may cost", "size", "", label(metric), *map(label, times)]
    cells = [
        [
            f"from {show('flops', row['flops'])}",
            f"{row['size']} px",
            CALIBRATED if row["calibrated"] else AS_TRAINED,
            show(metric, row[metric]),
            *(show(name, row[name]) for name in times),
        ]
        for row in rows.to_dict("records")
    ]
    return TextTable(header, cells, labels=3)
