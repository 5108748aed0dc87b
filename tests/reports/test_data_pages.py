"""The page of a data set: samples within the page's bytes, names that stay text, classes that are told apart."""

import re
from pathlib import Path

import numpy as np
import pytest
from markupsafe import Markup

from anysize.data.palette import distinct_colors, legend_of, painted
from anysize.data.settings import DataSettings
from anysize.data.statistics import ChannelStatistics, DatasetStatistics, SplitStatistics, dataset_statistics
from anysize.preprocessing import Preprocessing
from anysize.reports.data_page import write_data_page
from anysize.reports.data_statistics import class_table, statistics_lines, statistics_rows
from anysize.reports.samples_page import SizeSamples, TrainingSamples, View, samples_section

EVIL = "<script>alert(1)</script>"


def samples(names: list[str], side: int = 32, copies: int = 1, mask: np.ndarray | None = None) -> TrainingSamples:
    rng = np.random.default_rng(0)

    def view() -> View:
        return View(rng.integers(0, 256, (side, side, 3), dtype=np.uint8), {EVIL: 0.75, "cat": 0.25}, mask)

    of_size = [(name, [view() for _ in range(copies)]) for name in names]
    each = SizeSamples(side, copies, 64, 0.3, (1, 90), of_size, -2.0, 2.0, 0.0, 1.0)
    return TrainingSamples([each], [], Preprocessing(side, classes=("background", EVIL, "cat")), 1)


def statistics(sides: list[int], classes: int = 3) -> DatasetStatistics:
    heights = np.array(sides)
    split = SplitStatistics(
        "train", len(sides), len(sides), heights, heights * 2, np.arange(classes), None, np.ones(len(sides), np.int64),
        [(EVIL, sides[0], 2 * sides[0])], [(EVIL, sides[-1], 2 * sides[-1])], {EVIL: "it is damaged"},
    )  # fmt: skip
    names = (EVIL, *(f"class {i}" for i in range(1, classes)))
    return DatasetStatistics(names, True, [split], ChannelStatistics((0.5,), (0.25,), 3, 32), (0.4,), (0.2,))


def pictures_of(page: str | Markup) -> list[str]:
    return re.findall(r'<img alt="([^"]*)" src="data:image/(?:png|jpeg);base64,[A-Za-z0-9+/=]+"', str(page))


def test_names_and_classes_of_others_stay_text(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    write_data_page(path, EVIL, statistics([10, 20, 400], 30), samples([f"/data/{EVIL}"]))
    page = path.read_text(encoding="utf-8")
    assert EVIL not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; 75%, cat 25%" in page
    assert not re.search(r'(?:src|href)="(?!data:|#)', page.partition("<main>")[2])
    assert len(pictures_of(page)) == 1


def test_every_copy_has_its_picture_and_says_what_it_shows() -> None:
    section = samples_section(samples(["a.png", "b.png"], copies=3))
    assert len(pictures_of(section)) == 6
    assert all(alt.endswith("cat 25%, 32 px") for alt in pictures_of(section))
    assert str(section).count('class="several"') == 2
    assert "30% of the images, 64 in a batch, 3 copies of each, epochs 1 to 90" in section


def test_a_full_page_says_how_many_images_are_left_out() -> None:
    section = samples_section(samples([f"{i}.png" for i in range(9)], side=200), 200_000)
    shown = len(pictures_of(section))
    assert 0 < shown < 9
    assert f"{9 - shown} images left out: the page is full" in section
    assert sum(len(each) for each in re.findall(r"base64,([A-Za-z0-9+/=]+)", section)) <= 100_000


def test_masks_are_painted_in_colours_of_the_legend() -> None:
    mask = np.zeros((32, 32), np.uint8)
    mask[:8], mask[8:16] = 1, 255
    section = samples_section(samples(["a.png"], mask=mask))
    assert pictures_of(section) == ["32 px", "its mask over it, 32 px"]
    assert f"rgb({','.join(map(str, distinct_colors()[1]))})" in section
    image = np.full((32, 32, 3), 100, np.uint8)
    over = painted(image, mask, ("background", EVIL))
    assert (over[8:] == 100).all()
    assert (over[:8] != 100).any()
    first = painted(image, mask, ("road", "car"))  # without a background the first class has a colour, too
    assert (first[16:] != 100).any()
    assert (first[8:16] == 100).all()
    assert legend_of(("road", "car"), [0, 1]) == {
        "road": tuple(distinct_colors()[1].tolist()), "car": tuple(distinct_colors()[2].tolist()),
    }  # fmt: skip


def test_figures_of_the_data_are_rows_lines_and_tables() -> None:
    found = statistics([10, 20, 400], 30)
    lines = "\n".join(statistics_lines(found))
    assert "--data.mean 0.5000 --data.std 0.2500" in lines
    assert "1 image cannot be used, such as <script>" in lines
    assert "the largest class has 29 images, the smallest 0" in lines
    assert len(class_table(found, 10).rows) == 20
    assert len(class_table(found).rows) == 30
    rows = {(row["split"], row["what"], row["of"]): row["value"] for row in statistics_rows(found)}
    assert rows["train", "images of the class", "class 7"] == 7
    assert rows["train", "height", "50%"] == 20
    assert rows["train", "mean at 32 px", "0"] == 0.5


@pytest.mark.parametrize("sides", [[32, 32], [30, 31, 33], [10, 5000]])
def test_sizes_of_any_spread_make_a_page(tmp_path: Path, sides: list[int]) -> None:
    write_data_page(tmp_path / "page.html", "sizes", statistics(sides))
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert ("shorter sides" in page) == (len(set(sides)) > 1)
    assert "aspect ratios" not in page  # which are alike


def test_the_embedded_data_make_a_page_of_the_size_that_is_promised(tmp_path: Path) -> None:
    found = dataset_statistics(DataSettings(limit=300), images=50)
    write_data_page(tmp_path / "page.html", "fashion", found, samples(["a"] * 4))
    assert (tmp_path / "page.html").stat().st_size < 6_000_000
