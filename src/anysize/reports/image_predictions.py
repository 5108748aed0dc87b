"""What is predicted for each image of an evaluation, and which class is taken for which: files of a run folder.

`predictions.csv` has a row an image: `checkpoint`, `split`, `settings`, `size` and `calibrated` of the evaluation,
`image`, what is true of it (`truth`) and what was `predicted` (of labels and masks the names, separated by semicolons),
`score` (how good the prediction is) and `probability`. `confusion.csv`, of masks, has `true`, `predicted` and the
`pixels` of the one that are taken for the other. Both hold the latest evaluation of a split.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from anysize.reports import run_files, schema
from anysize.reports.read_tables import of_split, read_table
from anysize.tasks.records import Judged, Table

_LATEST = ("split",)  # rows of the same split are replaced


def write_image_predictions(
    folder: Path, made: Mapping[str, Any], judged: Mapping[str, Judged], name: str = run_files.IMAGE_PREDICTIONS
) -> None:
    """Write `predictions.csv`; rows of other splits stay.

    Args:
        folder: of the run.
        made: `checkpoint`, `split`, `settings`, `size` and `calibrated` of the evaluation.
        judged: by the name of the image.
        name: of the file, where it is none of a run's own.
    """
    rows = [
        {
            **made,
            "image": image,
            "truth": each.truth,
            "predicted": each.predicted,
            "score": float(f"{each.score:.6g}"),
            "probability": None if each.probability is None else float(f"{each.probability:.6g}"),
        }
        for image, each in judged.items()
    ]
    run_files.add_rows(folder / name, rows, _LATEST)


def write_confusion(folder: Path, made: Mapping[str, Any], confusion: Table, name: str = run_files.CONFUSION) -> None:
    """Write `confusion.csv`; rows of other splits stay. The arguments are as of `write_image_predictions`."""
    rows = [
        {**made, "true": true, "predicted": predicted, "pixels": int(pixels)}
        for true, row in confusion.items()
        for predicted, pixels in row.items()
    ]
    run_files.add_rows(folder / name, rows, _LATEST)


def read_image_predictions(folder: str | Path, split: str = "validation") -> pd.DataFrame:
    """`predictions.csv` of a split: a row an image, in the order of the data set; empty where there is none.

    Two runs that were evaluated on the same data have the same names in `image`. An answer of a classification is right
    where `truth` equals `predicted`; `score` is then the probability of the true class, of labels minus their binary
    cross-entropy, of masks the mean IoU in the image.
    """
    return of_split(read_table(Path(folder) / run_files.IMAGE_PREDICTIONS, schema.IMAGE_PREDICTIONS), split)


def read_confusion(folder: str | Path, split: str = "validation") -> pd.DataFrame:
    """`confusion.csv` of a split; empty where there is none."""
    return of_split(read_table(Path(folder) / run_files.CONFUSION, schema.CONFUSION), split)
