"""An int8 model in a run folder, on the console and in the report: compared with the original, and its layers."""

import functools
import re
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from anysize.forms import Unfit
from anysize.reports import run_files, schema
from anysize.reports.columns import label
from anysize.reports.page import card, cards, section, table
from anysize.reports.predictions import predictions_parts, read_predictions
from anysize.reports.read_tables import read_table
from anysize.reports.text_table import TextTable


def write_quantization(folder: Path, sizes: pd.DataFrame, layers: pd.DataFrame) -> None:
    """Write `int8.csv`, a row an image size, and `int8_layers.csv`, a row a layer, in place of earlier ones.

    One that cannot be written is warned of.
    """
    for name, frame in ((run_files.INT8, sizes), (run_files.INT8_LAYERS, layers)):
        write = functools.partial(run_files.write_rows, folder / name, frame.to_dict("records"))
        run_files.go_on_without(folder / name, write)


def read_quantization(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both tables, empty where there are none."""
    return (
        read_table(folder / run_files.INT8, schema.INT8, _check_speed),
        read_table(folder / run_files.INT8_LAYERS, schema.INT8_LAYERS),
    )


def _check_speed(sizes: pd.DataFrame) -> None:
    """The milliseconds of `int8.csv` are those of both models."""
    for name in sizes.columns:
        if re.fullmatch(r"(int8|float)_ms_.*", name):
            kind, _, batch = name.partition("_ms_")
            other = f"{'float' if kind == 'int8' else 'int8'}_ms_{batch}"
            if other not in sizes or not re.fullmatch(r"[1-9]\d{0,6}", batch) or not (sizes[name] > 0).all():
                raise Unfit("the column", name, "milliseconds of both models by batch size")
    if len({"float_bytes", "int8_bytes"} & {*sizes.columns}) == 1:
        raise Unfit("the header", ",".join(sizes.columns), "the bytes of both models")


def comparison_table(sizes: pd.DataFrame) -> TextTable:
    """The original and the int8 model by image size."""
    metric = label(str(sizes["metric"].iloc[0]))
    header = ["size", f"{metric}\nfloat", f"{metric}\nint8", "lost", "± paired", "same answers", "images", "changed"]
    rows = [
        [
            f"{row['size']} px",
            *(f"{row[key]:.2f}%" for key in ("float", "int8")),
            *(_shown(row.get(key, ""), "{:.2f}") for key in ("lost", "spread")),
            f"{row['agree']:.2f}%",
            f"{row['images']:,}",
            f"{row['changed']:,}",
        ]
        for row in sizes.to_dict("records")
    ]
    caption = "lost: percentage points; ±: one standard error of the paired difference over the images"
    return TextTable(header, rows, title=f"{sizes['checkpoint'].iloc[0]} and its original", caption=caption)


def speed_table(sizes: pd.DataFrame) -> TextTable:
    """Milliseconds of both in ONNX Runtime by image size and batch size, and the sizes of the files."""
    batches = [int(name.removeprefix("int8_ms_")) for name in sizes.columns if name.startswith("int8_ms_")]
    rows = []
    for row in sizes.to_dict("records"):
        for batch in batches:
            before, after = float(row[f"float_ms_{batch}"]), float(row[f"int8_ms_{batch}"])
            rows.append(
                [
                    f"{row['size']} px",
                    str(batch),
                    f"{before:,.2f}",
                    f"{after:,.2f}",
                    f"{before / after:.2f}",
                    f"{1000 * batch / after:,.0f}",
                ]
            )
    first = sizes.iloc[0]
    before, after = float(first["float_bytes"]) / 1e6, float(first["int8_bytes"]) / 1e6
    caption = f"files: {before:.2f} MB in float, {after:.2f} MB in int8, {after / before:.3f} of it"
    header = ["size", "batch", "float\nms", "int8\nms", "times as fast", "int8\nimages/s"]
    return TextTable(header, rows, title="ONNX Runtime, in turn", caption=caption)


def layers_table(layers: pd.DataFrame) -> TextTable:
    """The layers: in int8 with their signal-to-noise ratio, or in float and why."""
    shares = "time" in layers and any(_shown(value, "{}") for value in layers["time"])
    header = ["layer", "computed in", "signal to noise", *(["time"] if shares else [])]
    rows = []
    for row in layers.to_dict("records"):
        how = f"{row['computed']}: {row['reason']}" if row["reason"] else row["computed"]
        time = [_shown(row["time"], "{:.1%}")] if shares else []
        rows.append([row["layer"], how, _shown(row["signal_to_noise"], "{:.1f} dB"), *time])
    return TextTable(header, rows, labels=2)


def _shown(value: Any, form: str) -> str:
    """A number in that form; what is missing, in a file or in a frame, is empty."""
    return "" if value == "" or pd.isna(value) else form.format(float(value))


def quantization_section(folder: Path) -> Markup | str:
    """The section of the report; empty for a run that was not quantized."""
    sizes, layers = read_quantization(folder)
    if not len(sizes):
        return ""
    compared = comparison_table(sizes)
    timed = speed_table(sizes) if "float_bytes" in sizes else None
    whole = cards(
        card(compared.title, table(compared), compared.caption),
        *([card(timed.title, table(timed), timed.caption)] if timed else []),
        card("layers", table(layers_table(layers)), tall=True),
    )
    changed = read_predictions(folder, run_files.CHANGED)
    if not changed.get("images"):
        return section("int8", whole)
    note = f"Answers that int8 changed, at {changed['size']} px, as it gives them: {changed['seen']:,} in all."
    return section("int8", whole, *predictions_parts(changed, note))
