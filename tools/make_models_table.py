"""Measure every model of ours and torchvision's; write models/measure/table.csv, which `anysize models` shows.

python tools/make_models_table.py [NAME ...]   # without names all of them, about a minute; others keep their figures
"""

import csv
import dataclasses
import sys
from pathlib import Path

from anysize.models.measure.structure import model_figures
from anysize.models.measure.table import ModelFigures, read_table
from anysize.models.names import list_models

PATH = Path(__file__).parent.parent / "src/anysize/models/measure/table.csv"


def main() -> None:
    wanted = sys.argv[1:] or list_models()
    known = {figures.name: figures for figures in read_table()} if sys.argv[1:] else {}
    measured = {name: model_figures(name) for name in wanted}
    rows = {name: figures for name, figures in (known | measured).items() if name in list_models()}
    with PATH.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(field.name for field in dataclasses.fields(ModelFigures))
        writer.writerows(dataclasses.astuple(rows[name]) for name in sorted(rows))
    print(f"{PATH} is written: {len(measured)} of {len(rows)} models measured")


if __name__ == "__main__":
    main()
