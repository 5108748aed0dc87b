"""A run folder with everything that a report shows, as large as is asked for, without any training."""

import datetime
import math
from pathlib import Path

import numpy as np
import pandas as pd

from anysize.reports import run_files
from anysize.reports.image_predictions import write_image_predictions
from anysize.reports.policy_report import write_scale_policy
from anysize.reports.predictions import Predictions, write_predictions
from anysize.reports.quantization import write_quantization
from anysize.tasks.records import Judged, Shown

_RECIPE = """# a single process makes batches of 64

[data]
name = "fashion-mini"                 # quickstart
limit = 1500                          # override

[model]
name = "resnet14"                     # quickstart

[sizes]
mix = "B+"                            # quickstart
base = 28                             # default

[training]
epochs = {epochs}                     # override
"""


def write_made_up_run(
    folder: Path, *, epochs: int = 4, classes: int = 4, steps: int = 12, pictures: int = 4, name: str = "class {}"
) -> Path:
    """Write the run folder and return it; `name` makes the names of the classes of their numbers."""
    folder.mkdir(parents=True)
    names = [name.format(i) for i in range(classes)]
    rng = np.random.default_rng(0)
    (folder / run_files.RECIPE).write_text(_RECIPE.format(epochs=epochs), encoding="utf-8")
    run_files.write_environment(folder, {"python": "3.11.7", "note": names[0]})
    run_files.write_rows(folder / run_files.METRICS, [_epoch(epoch, epochs) for epoch in range(1, epochs + 1)])
    run_files.write_rows(folder / run_files.STEPS, [_step(step, steps) for step in range(1, steps + 1)])
    _write_log(folder, names[0])
    made = {"checkpoint": "best", "split": "validation", "settings": ""}
    sizes = (14, 21, 28, 35, 42)
    evaluation = [
        {
            **made, "size": size, "calibrated": calibrated, "top1": 0.8 - abs(size - 28) / (60 if calibrated else 30),
            "top5": 0.95, "loss": 0.5 + abs(size - 28) / 20, "images": 2000, "images_per_second": 9e6 / size**2,
            "latency": 1e-5 * size, "flops": 3e4 * size**2,
        }
        for size in sizes
        for calibrated in (False, True)
    ]  # fmt: skip
    run_files.add_rows(folder / run_files.EVALUATION, pd.DataFrame(evaluation).to_dict("records"))
    answers = [(i % classes, int(rng.integers(classes)) if i % 4 == 0 else i % classes) for i in range(5 * classes)]
    judged = {
        f"image-{i}.png": Judged(names[true], names[answer], 0.5, 0.5) for i, (true, answer) in enumerate(answers)
    }
    write_image_predictions(folder, {**made, "size": 28, "calibrated": True}, judged)
    values = rng.random((classes, 3)).round(4)
    run_files.add_rows(
        folder / run_files.EVALUATION_TABLES,
        [
            {**made, "size": 28, "calibrated": True, "table": "by class", "row": row, "column": column, "value": value}
            for row, of_row in zip(names, values.tolist(), strict=True)
            for column, value in zip(("precision", "recall", "F1"), of_row, strict=True)
        ],
    )
    blocks = [f"layer{i}.{j}" for i in (1, 2, 3) for j in (0, 1)]
    shares = [
        {"block": block, "label": label, "images": 500, "size": 28, "low_share": share, "low_share_sd": 0.05}
        for label in ("", *names)
        for block, share in zip(blocks, rng.uniform(0.3, 0.7, len(blocks)).round(4).tolist(), strict=True)
    ]
    write_scale_policy(folder, pd.DataFrame(shares))
    _write_int8(folder)
    write_predictions(folder, Predictions(28, True, 256, [_picture(i, names, rng) for i in range(pictures)]))
    return folder


def _epoch(epoch: int, epochs: int) -> dict[str, object]:
    left = math.exp(-3 * epoch / epochs)
    return {
        "epoch": epoch, "step": 100 * epoch, "images": 6400 * epoch, "flops": 1.5e15 * epoch, "seconds": 1500.5 * epoch,
        "lr": 0.1 * (1 - (epoch - 1) / epochs), "images_per_second": 1210.0 + 10 * math.sin(epoch), "waiting": 0.02,
        "sizes": {"14": 0.25, "21": 0.25, "28": 0.5}, "train_loss": 0.25 + left, "train_top1": 0.9 - left / 2,
        "train_gradient_norm": 1 + left, "validation_loss": 0.3 + left, "validation_top1": 0.875 - left / 2,
        "validation_top5": 0.99 - left / 4, "validation_calibrated": True, "validation_size": 28,
    }  # fmt: skip


def _step(step: int, steps: int) -> dict[str, object]:
    left = math.exp(-3 * step / steps) + 0.05 * math.sin(step)
    return {
        "step": 10 * step, "epoch": step / 4, "images": 640 * step, "flops": 1.5e14 * step, "seconds": 15.0 * step,
        "lr": 0.1 * (1 - step / (steps + 1)), "sizes": {"28": 1.0}, "images_per_second": 1200.0, "waiting": 0.02,
        "loss": 0.25 + left, "top1": 0.9 - left / 2, "gradient_norm": 1 + left,
    }  # fmt: skip


def _write_log(folder: Path, name: str) -> None:
    began = datetime.datetime(2026, 3, 9, 14, 5, tzinfo=datetime.UTC)
    lines = [
        f"{began.isoformat()} INFO resnet14 on fashion-mini",
        f"{(began + datetime.timedelta(hours=1)).isoformat()} WARNING the images of {name} cannot be read",
        f"{(began + datetime.timedelta(hours=30)).isoformat()} INFO done",
    ]
    (folder / run_files.LOG).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_int8(folder: Path) -> None:
    sizes = {
        "checkpoint": "int8", "metric": "top1", "size": 28, "images": 2000, "changed": 7, "float": 80.2, "int8": 80.07,
        "agree": 99.53, "lost": 0.13, "spread": 0.1, "float_bytes": 710_000, "int8_bytes": 200_000, "float_ms_1": 1.27,
        "int8_ms_1": 1.07,
    }  # fmt: skip
    layers = [
        {"checkpoint": "int8", "layer": f"layer{i}", "computed": "int8", "reason": "", "signal_to_noise": 30.0 + i}
        for i in range(6)
    ]
    write_quantization(folder, pd.DataFrame([sizes]), pd.DataFrame(layers))


def _picture(i: int, names: list[str], rng: np.random.Generator) -> tuple[str, np.ndarray, Shown]:
    image = rng.integers(0, 256, (28, 28, 3), dtype=np.uint8)
    first, second = names[i % len(names)], names[(i + 1) % len(names)]
    if i % 2:
        lines = [(first, 0.75, "right"), (second, 0.125, "wrong")]
    else:
        lines = [(second, 0.75, "wrong"), (first, 0.125, "missed")]
    return f"made-up image {i}", image, Shown(i / 10, lines, number="probability", one=True)
