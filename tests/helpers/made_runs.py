"""Run folders as trainings leave them, made up: any number of runs of any number of epochs, without training."""

import json
import math
import os
import random
import socket
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from anysize.reports import run_files

RECIPE = """[data]
name = "fashion-mini"
[model]
name = "resnet20"
norm = "{norm}"
[sizes]
mix = "{mix}"
base = 32
[optimizer]
lr = {lr}
[training]
epochs = {epochs}
seed = {seed}
"""
METRICS = ("loss", "top1")


def epoch_rows(epochs: int, reach: float, seed: int, validate_every: int = 1, total: int = 0) -> list[dict[str, Any]]:
    """Rows of `metrics.csv`: an accuracy that rises to `reach`, with noise."""
    chance = random.Random(f"{seed}-{reach}")
    speed, made = chance.uniform(0.9, 1.1), []
    for epoch in range(1, epochs + 1):
        top1 = reach * (1 - math.exp(-5 * epoch / (total or epochs))) + chance.gauss(0, 0.004)
        row: dict[str, Any] = {
            "epoch": epoch, "step": 94 * epoch, "images": 6000 * epoch, "flops": 2.5e12 * epoch,
            "seconds": round(14.2 * epoch / speed, 2), "lr": round(0.1 * (1 - epoch / (epochs + 1)), 6),
            "images_per_second": round(420 * speed * chance.uniform(0.97, 1.03), 1), "waiting": 0.02,
            "sizes": {"16": 0.25, "24": 0.35, "32": 0.4}, "train_loss": round(1.9 * (1 - top1) + 0.05, 5),
            "train_top1": round(min(1.0, top1 + 0.02), 5), "train_gradient_norm": round(chance.uniform(0.8, 2.2), 4),
        }  # fmt: skip
        if epoch % validate_every == 0 or epoch == epochs:
            row |= {
                "validation_loss": round(2.1 * (1 - top1) + 0.1, 5), "validation_top1": round(top1, 5),
                "validation_calibrated": True, "validation_size": 32,
            }  # fmt: skip
        made.append(row)
    return made


def evaluation(reach: float, seed: int, sizes: Iterable[int] = (16, 24, 32, 40, 48)) -> list[dict[str, Any]]:
    """Rows of `evaluation.csv`."""
    chance = random.Random(seed)
    return [
        {
            "checkpoint": "last", "split": "validation", "settings": "", "size": size, "calibrated": calibrated,
            "top1": round(reach - abs(size - 32) / (400 if calibrated else 90) + chance.gauss(0, 0.003), 4),
            "images": 2000, "images_per_second": 9e5 / size, "flops": 4e4 * size**2,
        }
        for size in sizes
        for calibrated in (False, True)
    ]  # fmt: skip


def make_run(
    folder: Path, *, seed: int = 0, epochs: int = 20, done: int | None = None, reach: float = 0.85, norm: str = "batch",
    mix: str = "D+", lr: float = 0.1, validate_every: int = 1, evaluated: bool = True,
) -> Path:  # fmt: skip
    """Write a run folder, trained to epoch `done` of `epochs`."""
    folder.mkdir(parents=True, exist_ok=True)
    text = RECIPE.format(norm=norm, mix=mix, lr=lr, epochs=epochs, seed=seed)
    run_files.write_recipe(folder, text)
    run_files.write_environment(folder, {"python": "3.11.7", "world_size": 1})
    made = epoch_rows(epochs if done is None else done, reach, seed, validate_every, epochs)
    run_files.write_rows(folder / run_files.METRICS, made)
    if evaluated:
        run_files.write_rows(folder / run_files.EVALUATION, evaluation(reach, seed))
    return folder


def make_many(parent: Path, count: int, epochs: int = 20, seeds: int = 1) -> list[Path]:
    """Write `count` runs, `seeds` of each recipe; they differ in norm, mixture and learning rate."""
    made = []
    for number in range(count):
        recipe, seed = divmod(number, seeds)
        norm, mix = ("batch", "online", "group")[recipe % 3], ("D+", "fixed")[recipe // 3 % 2]
        lr, name = round(0.02 * (1 + recipe // 6), 3), f"run-{recipe + 1}" + (f"-seed-{seed}" if seeds > 1 else "")
        reach = 0.8 + 0.1 * math.sin(recipe) ** 2 + random.Random(number).gauss(0, 0.002)
        made.append(make_run(parent / name, seed=seed, epochs=epochs, reach=reach, norm=norm, mix=mix, lr=lr))
    return made


def step(number: int, **changes: Any) -> dict[str, Any]:
    """A row of `steps.csv`: a hundred steps an epoch, two a second."""
    row = {"step": number, "epoch": number / 100, "seconds": number / 2, "flops": 1e9 * number, "loss": 1 / number}
    return row | {"images_per_second": 320.0, "waiting": 0.25, "lr": 0.1, "top1": 0.5} | changes


def add_steps(folder: Path, *rows: dict[str, Any]) -> None:
    """Add rows to `steps.csv` as training does."""
    path = folder / run_files.STEPS
    with path.open("a", encoding="utf-8") as file:
        file.write(run_files.text_of(rows, header=file.tell() == 0))


def hold(folder: Path, pid: int = os.getpid(), host: str = "", age: float = 0) -> None:
    """Leave the record of a process that trains there, touched `age` seconds ago; by default of this one."""
    path = folder / ".owner"
    path.write_text(json.dumps({"host": host or socket.gethostname(), "pid": pid, "id": "x"}))
    os.utime(path, (time.time() - age,) * 2)
