"""Names that are no UTF-8, or that a console cannot show, survive what is written."""

import csv
import io
import tomllib
from pathlib import Path

from rich.console import Console

from anysize.recipe import Recipe, dump, load_recipe, override
from anysize.reports import run_files
from anysize.reports.axis_names import on_an_axis
from anysize.reports.console import show_table
from anysize.reports.run_log import RunLog
from anysize.reports.text_table import TextTable

NAME = "caf\udce9 é.jpg"


def test_names_survive_files_and_lines(tmp_path: Path) -> None:
    screen = io.TextIOWrapper(io.BytesIO(), "ascii")
    with RunLog(tmp_path, 1, Console(file=screen)) as log:
        log.warning(NAME)
    show_table(TextTable(["file"], [[NAME]]), Console(file=screen))
    screen.flush()
    assert screen.buffer.getvalue().count(rb"caf\udce9 \xe9.jpg") == 2  # type: ignore[attr-defined]
    assert r"caf\udce9 é.jpg" in (tmp_path / "log.txt").read_text(encoding="utf-8")
    run_files.write_rows(tmp_path / "table.csv", [{"file": NAME, NAME: 1}])
    with (tmp_path / "table.csv").open(encoding="utf-8") as file:
        assert next(csv.DictReader(file))["file"] == r"caf\udce9 é.jpg"


def test_a_folder_that_is_no_utf8_is_found_again(tmp_path: Path) -> None:
    recipe = override(Recipe(), {"data.root": f"/data/{NAME}\x7f"})
    told = {f"{section}.{key}": "" for section, part in tomllib.loads(dump(recipe)).items() for key in part}
    for text in (dump(recipe), dump(recipe, told)):
        run_files.write_recipe(tmp_path, text)
        assert load_recipe(str(tmp_path / "recipe.toml")) == recipe


def test_names_on_an_axis_are_short_and_each_is_its_own() -> None:
    names = ["cat", "cat", "x" * 40, "x" * 41, "cat (2)", *(f"part {i} of a long name that goes on" for i in range(30))]
    shown = on_an_axis(names)
    assert len({*shown}) == len(names)
    assert max(map(len, shown)) <= 20
    assert shown[4] == "cat (2)"
    assert on_an_axis(["cat", "dog"]) == ["cat", "dog"]
