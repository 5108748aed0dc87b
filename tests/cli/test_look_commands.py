"""`anysize data show` and `anysize data stats`: what they print and write, and what they refuse."""

import csv
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

Anysize = Callable[..., CompletedProcess[str]]


def test_show_writes_a_page_of_any_recipe_with_its_settings(anysize: Anysize, tmp_path: Path) -> None:
    done = anysize("data", "show", "quickstart", "--data.limit", "200", "--samples", "2", "--sizes.mix", "D+")
    assert done.returncode == 0, done.stderr
    assert "2 training images of each size (14, 21, 28, 42 px)" in done.stdout
    page = (tmp_path / "quickstart-samples.html").read_text(encoding="utf-8")
    assert "14 px: 20% of the images" in page
    assert "4 copies of each" in page
    assert "2,000 validation images" not in page


def test_stats_of_a_folder_are_printed_and_written(anysize: Anysize, image_folder: Path, tmp_path: Path) -> None:
    done = anysize("data", "stats", "folder", "--data.root", str(image_folder), "--csv", "f.csv", "--html", "f.html")
    assert done.returncode == 0, done.stderr
    assert "colours of 60 training images at 224 px: --data.mean 0." in done.stdout
    assert "train: the smallest: " in done.stdout
    assert "f.csv and f.html are written" in done.stdout
    with open(tmp_path / "f.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {"split": "validation", "what": "images of the class", "of": "banana", "value": "6"} in rows
    assert "<h3>shorter sides" in (tmp_path / "f.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["show"], "no recipe or data set is named; give one, such as `anysize data show quickstart`"),
        (["show", "quickstart", "--samples", "0"], "--samples is 0; expected 1 to 64"),
        (["stats", "quikstart"], "'quikstart' is no recipe, run folder or data set: did you mean 'quickstart'?"),
        (["stats", "quickstart", "--images", "-1"], "expected no negative number"),
        (["stats", "quickstart", "--csv", "none/f.csv"], "none/f.csv"),
        (["shwo"], "anysize data cannot 'shwo': did you mean 'show'?"),
    ],
)
def test_what_cannot_be_looked_at_is_one_sentence(anysize: Anysize, words: list[str], said: str) -> None:
    done = anysize("data", *words)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
