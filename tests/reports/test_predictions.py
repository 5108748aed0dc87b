"""Pictures of predictions: what a run folder keeps of them, and what the report shows."""

import io
import json
import re
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anysize.registry import UserError
from anysize.reports import predictions, run_files
from anysize.reports.html import write_report
from anysize.reports.predictions import Predictions, predictions_section, read_predictions, write_predictions
from anysize.tasks.records import Shown


def picture(height: int, width: int, level: int = 0) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


def classes_of_pixels(height: int, width: int) -> np.ndarray:
    """Sharp blocks of pure colours, which a blur or a JPEG would change."""
    blocks = np.random.default_rng(0).integers(0, 2, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8) * 255
    return np.kron(blocks, np.ones((4, 4, 1), np.uint8))[:height, :width]


def two(size: int = 96, calibrated: bool = True, pictures: int = 2) -> Predictions:
    masks = classes_of_pixels(40, 60)
    first = Shown(
        -1.5,
        [("cat", 0.875, "right"), ("dog & cow", 0.5, "wrong"), ("<b>emu</b>", None, "missed")],
        {"truth": masks, "what was predicted": masks[::-1]},
        {"cat": (0, 128, 255), "a<b": (1, 2, 3)},
    )
    second = Shown(0.25, [("fox", 0.123, "wrong")], {}, {"cat": (0, 128, 255), "fox": (9, 9, 9)})
    images = [("folder/of/first.jpg", picture(40, 60), first), ("scenes image 7", picture(800, 400, 200), second)]
    return Predictions(size, calibrated, 250, images[:pictures])


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    write_predictions(tmp_path, two())
    found = read_predictions(tmp_path)
    assert (found["size"], found["calibrated"], found["seen"]) == (96, True, 250)
    first, second = found["images"]
    assert (first["name"], second["name"]) == ("folder/of/first.jpg", "scenes image 7")
    assert (first["score"], second["score"]) == (-1.5, 0.25)
    assert first["lines"] == [["cat", 0.875, "right"], ["dog & cow", 0.5, "wrong"], ["<b>emu</b>", None, "missed"]]
    assert list(first["pictures"]) == ["image", "truth", "what was predicted"]
    assert list(second["pictures"]) == ["image"]
    name, content = first["pictures"]["truth"]
    assert (tmp_path / run_files.PREDICTIONS / name).read_bytes() == content
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(content))), classes_of_pixels(40, 60))  # to the pixel
    assert np.asarray(Image.open(io.BytesIO(second["pictures"]["image"][1]))).mean() == pytest.approx(200, abs=2)


def test_large_pictures_are_made_small_in_their_shape_and_small_ones_kept(tmp_path: Path) -> None:
    large = Shown(0.0, [], {"truth": classes_of_pixels(700, 1400)})
    write_predictions(tmp_path, Predictions(96, False, 1, [("x.jpg", picture(1400, 700), large)]))
    (entry,) = read_predictions(tmp_path)["images"]
    sizes = {title: Image.open(io.BytesIO(content)).size for title, (_, content) in entry["pictures"].items()}
    assert sizes == {"image": (160, 320), "truth": (320, 160)}  # width, height
    mask = np.asarray(Image.open(io.BytesIO(entry["pictures"]["truth"][1])))
    assert set(np.unique(mask)) == {0, 255}  # no colour that means nothing


def test_writing_again_leaves_nothing_of_the_earlier_one(tmp_path: Path) -> None:
    write_predictions(tmp_path, two())
    write_predictions(tmp_path, two(size=64, pictures=1))
    assert read_predictions(tmp_path)["size"] == 64
    assert len(list((tmp_path / run_files.PREDICTIONS).iterdir())) == 1 + 3
    assert [path.name for path in tmp_path.iterdir()] == [run_files.PREDICTIONS]


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_predictions(tmp_path, two())
    before = {path.name: path.read_bytes() for path in (tmp_path / run_files.PREDICTIONS).iterdir()}

    def full(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(predictions, "_save", full)
    with pytest.raises(UserError, match=r"cannot write .*predictions: No space left on device; make room"):
        write_predictions(tmp_path, two(size=64))
    assert {path.name: path.read_bytes() for path in (tmp_path / run_files.PREDICTIONS).iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == [run_files.PREDICTIONS]


def test_without_them_or_with_a_part_of_them_there_is_no_section(make_run: Callable[..., Path]) -> None:
    run = make_run()
    assert predictions_section(read_predictions(run)) == ""
    assert "Predictions" not in write_report(run).read_text()
    write_predictions(run, two())
    next((run / run_files.PREDICTIONS).glob("*.png")).unlink()
    assert [entry["name"] for entry in read_predictions(run)["images"]] == ["scenes image 7"]
    (run / run_files.PREDICTIONS / "predictions.json").write_text("{")
    assert read_predictions(run) == {}
    write_predictions(run, two(pictures=0))
    assert predictions_section(read_predictions(run)) == ""


def test_the_report_shows_them_with_all_that_is_said(make_run: Callable[..., Path]) -> None:
    run = make_run()
    write_predictions(run, two())
    page = write_report(run).read_text()
    section = page.split("<h2>Predictions</h2>")[1].split("<h2>")[0]
    assert "The worst of 250 validation images at 96 px, calibrated, the worst first." in section
    shown = re.findall(r'<img alt="([^"]*)" src="data:image/(\w+);base64,([^"]*)">', section)
    assert [(title, kind) for title, kind, _ in shown] == [
        ("image of first.jpg: right cat 88%; wrong dog &amp; cow 50%; missed &lt;b&gt;emu&lt;/b&gt;", "jpeg"),
        ("truth of first.jpg", "png"),
        ("what was predicted of first.jpg", "png"),
        ("image of scenes image 7: wrong fox 12%", "jpeg"),
    ]
    truth = np.asarray(Image.open(io.BytesIO(b64decode(shown[1][2]))))
    assert np.array_equal(truth, classes_of_pixels(40, 60))
    assert '<li class="right">✓ cat 88%</li>' in section
    assert '<li class="wrong">✗ dog &amp; cow 50%</li>' in section
    assert '<li class="missed">○ &lt;b&gt;emu&lt;/b&gt;</li>' in section
    assert section.index("first.jpg") < section.index("scenes image 7")
    assert "folder/of" not in section  # the name is enough
    assert section.count('<i style="background:rgb(0,128,255)"></i>cat') == 1  # a colour of several images once
    assert "a&lt;b" in section
    assert "img-src data:" in page  # the page's policy lets them be shown


def test_as_trained_is_not_called_calibrated(make_run: Callable[..., Path]) -> None:
    run = make_run()
    write_predictions(run, two(calibrated=False))
    assert "at 96 px, the worst first." in write_report(run).read_text()
    assert json.loads((run / run_files.PREDICTIONS / "predictions.json").read_text())["calibrated"] is False


def test_what_the_figures_are_is_said_once(make_run: Callable[..., Path]) -> None:
    run = make_run()
    shown = Shown(0.0, [("cat", 0.5, "right")], number="IoU in this image")
    write_predictions(run, Predictions(96, False, 2, [("a", picture(8, 8), shown), ("b", picture(8, 8), shown)]))
    section = predictions_section(read_predictions(run))
    assert section.count("Figures: IoU in this image.") == 1
    found = read_predictions(run)
    for entry in found["images"]:
        del entry["number"]  # as in a run of an earlier version
    assert "Figures" not in predictions_section(found)


def test_of_many_wrong_labels_a_few_are_shown_and_of_right_and_missed_ones_all(make_run: Callable[..., Path]) -> None:
    run = make_run()
    lines = [("first", 0.9, "right"), *((f"wrong-{i}", 0.5, "wrong") for i in range(80)), ("last", 0.1, "missed")]
    write_predictions(run, Predictions(96, False, 1, [("a", picture(8, 8), Shown(0.0, lines))]))
    section = predictions_section(read_predictions(run))
    assert re.findall(r'<li class="\w+">. ([\w-]+)', section) == ["first", *(f"wrong-{i}" for i in range(14)), "last"]
    assert "and 66 more" in section


def test_of_one_class_an_image_the_card_says_truth_prediction_and_what_came_next(make_run: Callable[..., Path]) -> None:
    run = make_run()
    wrong = Shown(0.1, [("cat", 0.5, "wrong"), ("dog", 0.3, "wrong"), ("emu", 0.1, "missed")], one=True)
    right = Shown(0.4, [("cat", 0.375, "right"), ("dog", 0.25, "wrong")], one=True)
    write_predictions(run, Predictions(96, False, 2, [("a", picture(8, 8), wrong), ("b", picture(8, 8), right)]))
    first, second = predictions_section(read_predictions(run)).split('<section class="card ')[1:]
    assert re.findall(r"<dt>(.*?)</dt><dd><ul>(.*?)</ul>", first) == [
        ("truth", '<li class="">emu 10%</li>'),
        ("predicted", '<li class="wrong">✗ cat 50%</li>'),
        ("then", '<li class="">dog 30%</li>'),
    ]
    assert first.startswith("prediction wrong")
    assert 'alt="image of a: truth emu 10%; predicted cat 50%; then dog 30%"' in first
    assert second.startswith("prediction right")
    assert '<dt>predicted</dt><dd><ul><li class="right">✓ cat 38%</li>' in second
    assert '<li class="">dog 25%</li>' in second  # no prediction: neither wrong nor right


def test_a_class_of_a_mask_that_is_hardly_met_is_not_called_right(make_run: Callable[..., Path]) -> None:
    run = make_run()
    shown = Shown(0.0, [("cat", 0.75, "right"), ("dog", 0.03, "right")], number="IoU in this image")
    write_predictions(run, Predictions(96, False, 1, [("a", picture(8, 8), shown)]))
    section = predictions_section(read_predictions(run))
    assert '<li class="right">✓ cat 75%</li>' in section
    assert '<li class="partly">◐ dog 3%</li>' in section
    assert "✓ right, ◐ in part (IoU below 50%)." in section
