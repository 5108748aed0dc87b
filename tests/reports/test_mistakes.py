"""What is taken for what: read from a run folder, as tables, as a figure and in the report."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from anysize.reports.image_predictions import read_image_predictions, write_confusion, write_image_predictions
from anysize.reports.mistakes import class_table, confusion_figure, confusion_of, mistakes_section, most_confused
from anysize.reports.reading import Run
from anysize.tasks.records import Judged

MADE = {"checkpoint": "last", "split": "validation", "settings": "", "size": 28, "calibrated": True}


def judged(truth: str, answers: str) -> Mapping[str, Judged]:
    rows = enumerate(zip(truth, answers, strict=True))
    return {f"{i}.png": Judged(true, answer, 0.25, 0.5) for i, (true, answer) in rows}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "recipe.toml").write_text("")
    return tmp_path


def test_classes_by_their_right_answers_and_pairs_by_their_mistakes(folder: Path) -> None:
    write_image_predictions(folder, MADE, judged("aaaaabbbbc", "aaabbbbbaa"))
    run = Run.read(folder)
    confusion = confusion_of(run)
    assert confusion
    assert (confusion.classes, confusion.unit, confusion.how) == (["a", "b", "c"], "images", "at 28 px, calibrated")
    pairs = [["a", "b", "2", "40.0%"], ["b", "a", "1", "25.0%"], ["c", "a", "1", "100.0%"]]
    assert most_confused(confusion).rows == pairs
    assert class_table(read_image_predictions(folder)).rows == [
        ["c", "a", "1", "0.0%", "-"],
        ["a", "b", "5", "60.0%", "60.0%"],
        ["b", "a", "4", "75.0%", "60.0%"],
    ]


def test_missed_labels_are_paired_with_those_predicted_wrongly(folder: Path) -> None:
    (folder / "recipe.toml").write_text('[task]\nname = "multilabel"\n')
    rows = [("cat;dog", "cat;cow"), ("dog", "cow"), ("", "cow"), ("dog", ""), ("cat", "cat")]
    write_image_predictions(folder, MADE, {str(i): Judged(*row, -1.0) for i, row in enumerate(rows)})
    run = Run.read(folder)
    confusion = confusion_of(run)
    assert confusion
    assert confusion.mistakes.to_dict("records") == [{"true": "dog", "predicted": "cow", "count": 2}]
    assert "matrix" not in mistakes_section(run)
    assert "An image counts for each pair" in mistakes_section(run)


def test_pixels_are_counted_where_there_are_masks(folder: Path) -> None:
    write_image_predictions(folder, MADE, {"0": Judged("cat;sky", "sky", 0.5)})
    write_confusion(folder, MADE, {"cat": {"sky": 3}, "sky": {"sky": 5, "cat": 1}})
    confusion = confusion_of(Run.read(folder))
    assert confusion
    assert most_confused(confusion).rows == [["cat", "sky", "3", "100.0%"], ["sky", "cat", "1", "16.7%"]]
    assert "by class" not in mistakes_section(Run.read(folder))


def test_of_many_classes_those_that_are_confused_are_drawn(folder: Path) -> None:
    many = {
        f"{i}.png": Judged(f"class {i:03}", f"class {i ^ 1:03}" if i < 4 else f"class {i:03}", 0.5) for i in range(99)
    }
    write_image_predictions(folder, MADE, many)
    confusion = confusion_of(Run.read(folder))
    assert confusion
    figure, note = confusion_figure(confusion)
    assert list(figure.x_range.factors) == [f"class {i:03}" for i in range(4)]
    assert "The 4 of 99 classes" in note


def test_rows_of_another_split_stay_and_a_class_is_text(folder: Path) -> None:
    write_image_predictions(folder, {**MADE, "split": "test"}, judged("a", "a"))
    for answers in ("ab", "bb"):
        write_image_predictions(folder, MADE, judged("ab", answers))
    assert read_image_predictions(folder)["predicted"].tolist() == ["b", "b"]
    assert read_image_predictions(folder, "test")["predicted"].tolist() == ["a"]
    script = "<script>alert(1)</script>"
    write_image_predictions(folder, MADE, {"0": Judged("a", script, 0.5), "1": Judged(script, script, 0.5)})
    section = str(mistakes_section(Run.read(folder)))
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in section
    assert '<td class="label"><script>' not in section


@pytest.mark.parametrize(
    "content", [b"", b"image\na\n", b"\xff", b"size,calibrated,image,truth,predicted\n1,maybe,a,b,c\n"]
)
def test_a_damaged_file_leaves_the_section_out(folder: Path, content: bytes) -> None:
    (folder / "predictions.csv").write_bytes(content)
    assert mistakes_section(Run.read(folder)) == ""
