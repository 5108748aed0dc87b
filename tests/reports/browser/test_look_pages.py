"""The pages that one looks at data and predictions with, in a browser: they fit, are read, and ask for nothing."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser

from anysize.data.palette import legend_of, painted
from anysize.data.settings import DataSettings
from anysize.data.statistics import dataset_statistics
from anysize.preprocessing import Preprocessing
from anysize.reports.data_page import write_data_page
from anysize.reports.grad_cam_page import GradCamPage
from anysize.reports.predictions_page import PredictionsPage
from anysize.reports.samples_page import SizeSamples, TrainingSamples, View
from anysize.tasks.records import Shown

pytestmark = pytest.mark.slow

HOSTILE = "<script>document.title = 'attacked'</script>"
CLASSES = ("background", HOSTILE, "a class with a long name that has no end")
LONG = "a-name-without-a-place-to-break-" * 4


def image(side: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def data_page(path: Path) -> None:
    mask = np.tile(np.arange(3, dtype=np.uint8), (48, 16))
    views = [View(image(48, i), {HOSTILE: 0.7, CLASSES[2]: 0.3}, mask) for i in range(3)]
    of_size = SizeSamples(48, 3, 64, 0.3, (1, 90), [(f"/data/{LONG}.png", views)] * 3, -2.0, 2.0, 0.0, 1.0)
    found = TrainingSamples([of_size], [(48, views[0])] * 2, Preprocessing(48, classes=CLASSES), 1)
    write_data_page(path, HOSTILE, dataset_statistics(DataSettings(limit=100), images=20), found)


def predictions_page(path: Path) -> None:
    page = PredictionsPage()
    mask = np.tile(np.arange(3, dtype=np.uint8), (48, 16))
    panels = {"prediction": painted(image(48), mask, CLASSES)}
    for number in range(3):
        lines = [(HOSTILE, 0.7, "predicted"), (CLASSES[2], 0.3, "other")]
        shown = Shown(0.7, lines, panels, legend_of(CLASSES, [0, 1, 2]), "probability")
        page.add(f"{number}{LONG}.png", image(48, number), shown)
    page.write(path, HOSTILE, "checkpoint last", 900)


def grad_cam_page(path: Path) -> None:
    page = GradCamPage()
    for size in (24, 48, 96):
        heat = np.linspace(0, 1, size * size, dtype=np.float32).reshape(size, size)
        page.add(image(size), heat, f"{LONG}{HOSTILE}.png", size, HOSTILE, 0.3, CLASSES[2])
    page.write(path, HOSTILE, "checkpoint last")


@pytest.fixture(scope="module", params=[data_page, predictions_page, grad_cam_page])
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    write: Callable[[Path], None] = request.param
    path = tmp_path_factory.mktemp("pages") / "page.html"
    write(path)
    return path


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_a_page_fits_is_read_and_asks_for_nothing(written: Path, browser: Browser, width: int, scheme: str) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    said: list[str] = []
    requests: list[str] = []
    page.on("console", lambda line: said.append(f"{line.type}: {line.text}"))
    page.on("pageerror", lambda error: said.append(f"error: {error}"))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(written.as_uri())
    assert page.title() == HOSTILE
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("[...document.images].every(each => each.complete && each.naturalWidth && each.alt)")
    found = Axe().run(page, options={"resultTypes": ["violations"]})
    assert [f"{one['id']}: {one['nodes'][0]['html'][:200]}" for one in found.response["violations"]] == []
    assert [line for line in said if not line.startswith(("info:", "log: [bokeh"))] == []
    assert [url for url in requests if not url.startswith(("data:", "blob:"))] == [page.url]
    context.close()
