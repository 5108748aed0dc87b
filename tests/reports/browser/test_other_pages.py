"""The other pages in a browser: each draws, asks for nothing, fits a phone, and is readable in the dark."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from page_checks import outside, violations

from anysize.data.palette import legend_of, painted
from anysize.data.statistics import ChannelStatistics, DatasetStatistics, SplitStatistics
from anysize.preprocessing import Preprocessing
from anysize.reports.data_page import write_data_page
from anysize.reports.grad_cam_page import GradCamPage
from anysize.reports.lr_page import lr_page
from anysize.reports.predictions_page import PredictionsPage
from anysize.reports.samples_page import SizeSamples, TrainingSamples, View
from anysize.tasks.records import Shown

pytestmark = pytest.mark.slow


def data(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    heights = rng.integers(20, 400, 60)
    names = ("background", "<script>alert(1)</script>", *(f"a class with a long name {i}" for i in range(30)))
    split = SplitStatistics(
        "train", 60, 60, heights, heights * 2, np.arange(len(names)), None, np.ones(60, np.int64),
        [("a.png", 20, 40)], [("b.png", 400, 800)], {},
    )  # fmt: skip
    found = DatasetStatistics(names, True, [split], ChannelStatistics((0.5,), (0.25,), 3, 32), (0.4,), (0.2,))
    views = [View(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8), {names[1]: 1.0}, None) for _ in range(4)]
    each = SizeSamples(32, 1, 64, 0.3, (1, 90), [(f"{i}.png", [view]) for i, view in enumerate(views)], -2, 2, 0, 1)
    write_data_page(path := folder / "data.html", "a data set", found,
                    TrainingSamples([each], [], Preprocessing(32, classes=names), 1))  # fmt: skip
    return path


def learning_rate(folder: Path) -> Path:
    rows = [
        {"lr": 10 ** (i / 10 - 5), "loss": 2 - i / 50, "smoothed": 2 - i / 60, "size": (24, 32)[i % 2]}
        for i in range(40)
    ]
    (path := folder / "lr.html").write_text(lr_page("quickstart", rows, 1e-3, 0.1, "It ended."), encoding="utf-8")
    return path


CLASSES = ("background", "<script>alert(1)</script>", "a class with a name that has no end")
LONG = "a-name-without-a-place-to-break-" * 4


def predictions(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    mask = np.tile(np.arange(3, dtype=np.uint8), (48, 16))
    drawing = PredictionsPage()
    for number in range(3):
        image = rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)
        panels = {"prediction": painted(image, mask, CLASSES)}
        lines = [(CLASSES[1], 0.7, "predicted"), (CLASSES[2], 0.3, "other")]
        shown = Shown(0.7, lines, panels, legend_of(CLASSES, [0, 1, 2]), "share of the pixels")
        drawing.add(f"{number}{LONG}.png", image, shown)
    drawing.write(path := folder / "predictions.html", "predictions", "checkpoint last at 48 px", 900)
    return path


def grad_cam(folder: Path) -> Path:
    drawing = GradCamPage()
    for size in (24, 48, 96):
        image = np.random.default_rng(size).integers(0, 256, (size, size, 3), dtype=np.uint8)
        heat = np.linspace(0, 1, size * size, dtype=np.float32).reshape(size, size)
        drawing.add(image, heat, f"{LONG}.png", size, CLASSES[1], 0.3, CLASSES[2])
    drawing.write(path := folder / "grad-cam.html", "what it looks at", "checkpoint last")
    return path


@pytest.mark.parametrize("make", [data, learning_rate, predictions, grad_cam])
def test_a_page(make: Callable[[Path], Path], open_page: Callable[..., Any], tmp_path: Path) -> None:
    path = make(tmp_path)
    opened = open_page(path, 390, color_scheme="dark")
    assert opened.complaints == []
    assert opened.asked_for == [opened.page.url]
    assert outside(opened.page) == []
    opened.page.set_viewport_size({"width": 1280, "height": 900})
    assert outside(opened.page) == []
    assert violations(open_page(path, 390, color_scheme="dark", bypass_csp=True).page) == []
