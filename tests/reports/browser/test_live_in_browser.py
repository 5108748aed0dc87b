"""The live page in a browser, served by the command: it follows a run that grows, and leaves the machine alone."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from made_runs import add_steps, hold, make_run, step
from page_checks import outside, violations

if TYPE_CHECKING:  # it is not imported for tests that open no page
    from playwright.sync_api import Browser

pytestmark = pytest.mark.slow

HOSTILE = "<img src=x onerror=document.title='attacked'>"
_LOSS = """() => Bokeh.documents[0].roots().find(one => one.name === "loss").renderers[0].data_source.data"""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str, Path]]:
    """The command, the address of its page and a run that it follows."""
    folder = make_run(tmp_path / "runs" / HOSTILE, epochs=4, done=1)
    make_run(tmp_path / "runs" / "ended", epochs=4)
    hold(folder)
    add_steps(folder, step(50), step(100), step(150))
    command = [sys.executable, "-m", "anysize", "watch", "--port", "0"]
    environment = os.environ | {"BOKEH_RESOURCES": "cdn"}  # whatever is set, nothing comes from elsewhere
    with subprocess.Popen(
        command, cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
    ) as process:
        assert process.stdout
        line = process.stdout.readline()
        assert line.startswith("the page is http://localhost:"), line
        yield process, line.split()[3], folder
        process.kill()


def test_the_page_follows_a_run_until_the_command_ends(served: Any, browser: "Browser") -> None:
    process, url, folder = served
    context = browser.new_context(viewport={"width": 390, "height": 900}, color_scheme="dark", bypass_csp=True)
    page, heard, asked = context.new_page(), list[str](), list[str]()
    page.on("console", lambda line: heard.append(f"{line.type}: {line.text}"))
    page.on("pageerror", lambda error: heard.append(f"error: {error}"))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(url)
    page.wait_for_function("window.Bokeh?.documents[0]?.is_idle")
    assert page.title() == "Runs"
    cells = page.locator("tbody tr").first.locator("td").all_text_contents()
    assert [cell.strip() for cell in cells[:3]] == [HOSTILE, "running", "1.5/4"]
    assert outside(page) == []
    drawn = page.evaluate(f"Array.from(({_LOSS})().xs[0])")
    assert drawn == [0.5, 1, 1.5]

    add_steps(folder, step(200))
    page.wait_for_function(f"({_LOSS})().xs[0].length === 4", timeout=15000)
    page.get_by_label("ended").uncheck()
    page.get_by_label("step", exact=True).check()
    page.wait_for_function(f"({_LOSS})().name.length === 1 && ({_LOSS})().xs[0][3] === 200", timeout=15000)
    (folder / ".owner").unlink()
    page.locator("td.stopped").wait_for(timeout=15000)

    assert violations(page) == []
    assert [line for line in heard if not line.startswith(("log:", "info:"))] == []
    assert {address.partition("?")[0].rpartition("/static/")[0] or address for address in asked} <= {
        url,
        url[:-1],
        "data:,",
    }

    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30)[0] == "stopped watching; the runs go on\n"
    assert process.returncode == 0
    context.close()
