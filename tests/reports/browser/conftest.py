"""Chromium without a screen, and the report of a made-up run in it.

Playwright keeps an event loop in this thread while a browser is open, and other tests run loops of their own: a browser
is a module's.
"""

import dataclasses
import functools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from made_up_run import write_made_up_run
from page_checks import IDLE

from anysize.reports.html import write_report

if TYPE_CHECKING:  # it is not imported for tests that open no page
    from playwright.sync_api import Browser, Page

HOSTILE = "<script>document.title = 'attacked {}'</script>"
_NAMES = ("chromium", "chromium-browser", "google-chrome")


@dataclasses.dataclass
class Opened:
    """A page, the run folder that it is of, and what the browser said and asked for while it was open."""

    page: "Page"
    run: Path
    said: list[str]
    requests: list[str]

    @property
    def complaints(self) -> list[str]:
        """What the console says, but for bokeh's news."""
        return [line for line in self.said if not line.startswith(("info:", "log: [bokeh"))]

    @property
    def asked_for(self) -> list[str]:
        """What was loaded, but for what lies in the page."""
        return [url for url in self.requests if not url.startswith(("data:", "blob:"))]


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    from playwright.sync_api import sync_playwright

    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)
    if path is None:
        pytest.skip("pages are looked at in Chromium, which is not here: apt-get install chromium, or set CHROMIUM")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = write_made_up_run(tmp_path_factory.mktemp("runs") / "<script>alert(1)", name=HOSTILE)
    return write_report(run)


@pytest.fixture
def open_page(browser: "Browser") -> Iterator[Callable[..., Opened]]:
    """Opens a file in a window of its own; keywords are those of playwright's `new_context`."""
    contexts = []

    def open_(path: Path, width: int = 1280, **options: Any) -> Opened:
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        opened = Opened(page, path.parent, [], [])
        page.on("console", lambda line: opened.said.append(f"{line.type}: {line.text}"))
        page.on("pageerror", lambda error: opened.said.append(f"error: {error}"))
        page.on("request", lambda request: opened.requests.append(request.url))
        page.goto(path.as_uri())
        if page.locator("figure.drawn").count():
            page.wait_for_function(IDLE)
        return opened

    yield open_
    for context in contexts:
        context.close()


@pytest.fixture
def open_report(open_page: Callable[..., Opened], report: Path) -> Callable[..., Opened]:
    """Opens the report of the made-up run."""
    return functools.partial(open_page, report)
