"""Makes the pictures of docs/gallery.md: runs the page's commands, opens what they write, and takes pictures of parts.

    python tools/make_gallery.py              # or: make gallery
    python tools/make_gallery.py --pictures   # of runs that are there

The runs take about a quarter of an hour on two CPU cores, and lie in build/gallery; a run that is there is not trained
again. What stands behind `anysize watch` runs while its page is looked at. The pictures take a minute. They want
Chromium, as the tests of pages do: `apt-get install chromium`, or its path in CHROMIUM.
"""

import argparse
import contextlib
import dataclasses
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, ViewportSize, sync_playwright

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "gallery.md"
IMAGES = ROOT / "docs" / "images" / "gallery"
RUNS = ROOT / "build" / "gallery"
MOST_BYTES = 1_000_000  # of all pictures together
_MARGIN = 12  # pixels above a part and below it


@dataclasses.dataclass(frozen=True)
class Picture:
    """A part of a page: from above what `selector` finds, so many pixels high at most."""

    page: str
    selector: str = "body"
    height: int = 700
    width: int = 1000
    dark: bool = False


PICTURES = {
    "report": Picture("runs/mixed/report.html", height=1000),
    "report-phone": Picture("runs/mixed/report.html", height=900, width=390, dark=True),
    "sizes": Picture("runs/mixed/report.html", "#evaluation-by-image-size", 430),
    "confusion": Picture("runs/mixed/report.html", "#what-is-taken-for-what", 540),
    "mistakes": Picture("runs/mixed/report.html", "#predictions", 640),
    "watch": Picture("runs", height=900),
    "int8": Picture("runs/mixed/report.html", "section[id*=int8]", 620),
    "policy": Picture("runs/elastic/report.html", "[id^=scale-policy]", 490),
    "segmentation": Picture("runs/segmentation/report.html", "#predictions", 760),
    "multilabel": Picture("runs/multilabel/report.html", "#predictions", 640),
    "grad-cam": Picture("grad-cam.html", "main section, main", 700),
    "comparison": Picture("comparison.html", height=1000),
    "comparison-sizes": Picture("comparison.html", "#evaluation-by-image-size", 470),
    "data": Picture("data-show.html", height=900),
    "lr-find": Picture("lr-find.html", "#loss", 530),
}


def commands() -> list[list[str]]:
    """The words of the page's commands, behind `anysize`."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [words[1:] for line in lines if (words := shlex.split(line, comments=True))[:1] == ["anysize"]]


def start(*words: str, **options: object) -> "subprocess.Popen[str]":
    """A command that has begun."""
    print("anysize", shlex.join(words), flush=True)
    return subprocess.Popen([sys.executable, "-m", "anysize", *words], cwd=RUNS, text=True, **options)


def run(*words: str) -> None:
    """A command from its start to its end."""
    if start(*words).wait():
        raise SystemExit(f"anysize {shlex.join(words)} failed")


@contextlib.contextmanager
def served(*words: str) -> Iterator[str]:
    """The address of the page of `anysize watch`, while it is there."""
    process = start(*words, "--port", "0", stdout=subprocess.PIPE)
    assert process.stdout
    try:
        yield re.findall(r"http://\S+", process.stdout.readline())[0]
    finally:
        process.terminate()
        process.wait()


def wait_for_epochs(training: "subprocess.Popen[str]", folder: Path, epochs: int) -> None:
    """Wait until the table of a run has so many, or the run has ended."""
    table = folder / "metrics.csv"
    while training.poll() is None and not (table.exists() and len(table.read_text().splitlines()) > epochs):
        time.sleep(1)


def take(browser: Browser, picture: Picture, address: str) -> Image.Image:
    """A picture of the part as the browser draws it."""
    scheme = "dark" if picture.dark else "light"
    viewport: ViewportSize = {"width": picture.width, "height": 900}
    context = browser.new_context(viewport=viewport, color_scheme=scheme, bypass_csp=True)  # of the live page
    page = context.new_page()
    page.goto(address)
    if page.locator("figure.drawn").count() or address.startswith("http"):  # drawn when bokeh has nothing left to do
        page.wait_for_function("window.Bokeh?.documents.length && Bokeh.documents.every(each => each.is_idle)")
    box = page.locator(picture.selector).first.bounding_box()
    assert box is not None, f"{picture.page} has no {picture.selector}"
    top = max(0, box["y"] - _MARGIN)
    clip = {"x": 0, "y": top, "width": picture.width, "height": min(picture.height, box["height"] + 2 * _MARGIN)}
    taken = page.screenshot(full_page=True, clip=clip, animations="disabled")
    context.close()
    return Image.open(io.BytesIO(taken)).convert("RGB")


def save(browser: Browser, name: str, address: str) -> None:
    """Take a picture and write it among those of the page."""
    path = IMAGES / f"{name}.webp"
    take(browser, PICTURES[name], address).save(path, quality=80, method=6)
    print(path.relative_to(ROOT), f"{path.stat().st_size / 1024:.0f} KB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", action="store_true", help="take the pictures of runs that are there")
    arguments = parser.parse_args()
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("pictures are taken by Chromium, which is not here: apt-get install chromium, or set CHROMIUM")
    for folder in (RUNS, IMAGES):
        folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        words = iter(commands())
        for command in words:
            if command[0] == "watch":
                training = next(words)
                with served(*command) as address, start(*training) as running:
                    wait_for_epochs(running, RUNS / training[-1], 3)
                    save(browser, "watch", address)
            elif not arguments.pictures and not (command[:2] == ["data", "export"] and (RUNS / command[3]).exists()):
                run(*command)
        for name, picture in PICTURES.items():
            if name != "watch":
                save(browser, name, (RUNS / picture.page).as_uri())
        browser.close()
    total = sum(path.stat().st_size for path in IMAGES.iterdir())
    assert total < MOST_BYTES, f"the pictures take {total:,} bytes together"


if __name__ == "__main__":
    main()
