"""The report is one file that opens offline, shows the numbers, and runs nothing of what it quotes."""

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from made_up_run import write_made_up_run

from anysize.registry import UserError
from anysize.reports.html import _mixture, write_report
from anysize.reports.log_reading import LogFacts, read_log
from anysize.reports.page import card, choice
from anysize.reports.reading import Run

MakeRun = Callable[..., Path]


class Page(HTMLParser):
    """What a browser would load, and what it would show as text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.text = ""
        self.scripts = 0
        self._within = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        sources = [value or "" for name, value in attributes if name in ("src", "href", "srcset", "data")]
        self.loads += [source for source in sources if not source.startswith("#")]  # the table of contents
        self.scripts += tag == "script"
        self._within = tag

    def handle_endtag(self, tag: str) -> None:
        self._within = ""

    def handle_data(self, data: str) -> None:
        if self._within not in ("script", "style"):
            self.text += f"{data}\n"


def test_it_loads_nothing_and_forbids_loading(make_run: MakeRun, evaluation: Callable[..., pd.DataFrame]) -> None:
    path = write_report(make_run(evaluation=evaluation()))
    page = Page(path)
    assert page.loads == []
    source = path.read_text()
    assert "default-src 'none'" in source
    assert "@import" not in source.split("</style>")[0]
    assert path.name == "report.html"
    assert path.stat().st_size < 1.6e6


def test_the_numbers_are_there(make_run: MakeRun, evaluation: Callable[..., pd.DataFrame]) -> None:
    text = Page(write_report(make_run("mixed-sizes", evaluation=evaluation()))).text
    for expected in (
        "mixed-sizes",
        "resnet20 · fashion-mini · B+",
        "5 of 8",
        "78.1%",  # best and last validation top-1: 0.875 - exp(-5/3) / 2
        "epoch 5, calibrated",
        "7.50 TFLOPs",
        "32,000",
        "Top-1 error".lower(),
        "image sizes",
        "learning rate",
        "top-1 as trained",
        "71.4%",
        "61.2%",
        "30.7 MFLOPs",
        "2.14.1",
        "16 px",
    ):
        assert expected in text, expected


def test_the_recipe_is_quoted_not_run(make_run: MakeRun) -> None:
    attack = 'name = "</pre><script>alert(1)</script>"\n[training]\nepochs = 8\n'
    plain, hostile = Page(write_report(make_run("plain"))), Page(write_report(make_run("hostile", recipe=attack)))
    assert hostile.scripts == plain.scripts
    assert "<script>alert(1)</script>" in hostile.text
    assert "<i>&</i>" in plain.text  # of the environment


@pytest.mark.parametrize("epochs", [1, 2, 200])
def test_any_number_of_epochs(make_run: MakeRun, epochs: int) -> None:
    assert f"{epochs} of 8" in Page(write_report(make_run(epochs=epochs))).text


def test_before_the_first_epoch(make_run: MakeRun) -> None:
    folder = make_run()
    (folder / "metrics.csv").unlink()
    page = Page(write_report(folder))
    assert "No epoch has been trained yet." in page.text
    assert "0 of 8" in page.text


def test_epochs_without_validation(make_run: MakeRun, metrics_row: Callable[..., dict[str, Any]]) -> None:
    nothing = {"validation_loss": None, "validation_top1": float("nan"), "validation_top5": None}
    some = [metrics_row(1, **nothing), metrics_row(2, validation_top1=0.625), metrics_row(3, **nothing)]
    text = Page(write_report(make_run("some", rows=some))).text
    assert "62.5%" in text
    assert "epoch 2" in text
    assert "nan" not in text.lower()
    never = [metrics_row(epoch, **nothing) for epoch in (1, 2)]
    text = Page(write_report(make_run("never", rows=never))).text
    assert "best validation" not in text
    assert "loss" in text


def test_metrics_of_other_tasks(make_run: MakeRun) -> None:
    rows = [{"epoch": 1, "train_loss": 1.0, "validation_mean_iou": 0.4375, "validation_loss": 1.25}]
    evaluation = pd.DataFrame(
        {"size": [256, 512], "calibrated": [False, False], "mean_iou": [0.4, 0.5], "loss": [2, 1.5]}
    )
    text = Page(write_report(make_run(rows=rows, evaluation=evaluation))).text
    assert "best validation mean IoU" in text
    assert "43.8%" in text
    assert "mean IoU by image size" in text
    assert "50.0%" in text


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has none of recipe"):
        write_report(tmp_path)
    with pytest.raises(UserError, match="is no folder"):
        write_report(tmp_path / "typo")


def test_a_recipe_that_cannot_be_parsed_is_still_shown(make_run: MakeRun) -> None:
    page = Page(write_report(make_run(recipe="epochs = = 3")))
    assert "epochs = = 3" in page.text


def test_what_a_screen_reader_and_a_keyboard_need(make_run: MakeRun, evaluation: Callable[..., pd.DataFrame]) -> None:
    source = write_report(make_run(evaluation=evaluation())).read_text(encoding="utf-8")
    contents = re.findall(r'<li><a href="#([^"]+)">([^<]+)</a></li>', source)
    assert ("training", "Training") in contents
    assert all(f'<section class="part" id="{id}"><h2>{heading}</h2>' in source for id, heading in contents)
    assert '<a class="skip" href="#content">' in source
    assert "Top-1 error".lower() in source
    (said,) = re.findall(r'<figure class="drawn" aria-label="(top-1 error [^"]*)">', source)
    assert said.startswith("top-1 error (%) by epoch; training: 45.83 at 1, 19.44 at 5; validation: ")
    assert re.findall(r'class="scroll[^>]*" tabindex="0" role="group" aria-label="[^"]+"', source)


@pytest.mark.parametrize(("mix", "told"), [("points", "14, 28 px"), ("custom", "14, 28 px"), ("B+", "B+")])
def test_a_mixture_of_ones_own_is_told_by_its_sizes(mix: str, told: str) -> None:
    metrics = pd.DataFrame({"epoch": [1, 2], "sizes": ['{"14": 1.0}', '{"14": 0.5, "28": 0.5}']})
    run = Run(Path(), "a run", metrics, *[pd.DataFrame()] * 3, f"sizes.mix = '{mix}'", {})
    assert _mixture(run) == [told]


def test_pieces_of_which_one_is_seen() -> None:
    both = choice("Curves", {"by epoch": card("", "one"), "by <step>": card("", "two")})
    assert re.findall(r'<input type="radio" name="([^"]+)"( checked)?>([^<]+)<', both) == [
        (group := re.search('name="([^"]+)"', both)[1], " checked", "by epoch"),
        (group, "", "by &lt;step&gt;"),
    ]
    assert group not in choice("", {"": ""})


@pytest.mark.slow
def test_a_run_of_300_epochs_and_1000_classes_makes_a_small_file(tmp_path: Path) -> None:
    run = write_made_up_run(tmp_path / "large", epochs=300, classes=1000, steps=20_000, pictures=16)
    path = write_report(run)
    assert path.stat().st_size < 6e6
    text = Page(path).text
    assert "300 of 300" in text
    assert "class 999" in text


def test_when_it_began_what_it_warned_of_and_what_differs_from_its_recipe(tmp_path: Path) -> None:
    run = write_made_up_run(tmp_path / "run", name="<b>cat {}</b>")
    text = Page(write_report(run)).text
    for expected in (
        "9 Mar 2026", "14:05 UTC; its log ends 10 Mar 2026, 20:05", "The run warned of 1 thing",
        "the images of <b>cat 0</b> cannot be read", "data.limit", "1500", "All else is as quickstart says.",
        "The whole recipe", "best size", "by step", "waiting for images",
    ):  # fmt: skip
        assert expected in text, expected
    (run / "log.txt").write_bytes(b"\xff\x00 no log\n2026-99-99T00:00:00 INFO never\n")
    assert read_log(run) == LogFacts()


def test_a_recipe_of_which_nothing_was_changed_says_so(make_run: MakeRun) -> None:
    recipe = '[data]\nname = "mnist"  # quickstart\nroot = ""  # default\n'
    assert "Nothing: the run is as quickstart says." in Page(write_report(make_run("as-is", recipe=recipe))).text
    assert "does not say where its settings are from" in Page(write_report(make_run("from-python"))).text
