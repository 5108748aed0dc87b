"""Labels in CSV files: both forms, the splits, and what is said about lines that are not as expected."""

from pathlib import Path

import numpy as np
import pytest
from image_files import smooth_image

from anysize.data.catalog import dataset_info, load_dataset
from anysize.data.settings import DataSettings
from anysize.data.source import Source
from anysize.registry import UserError


def images(root: Path, *names: str) -> None:
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        smooth_image(i, 12, 16).save(root / name)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    images(tmp_path, "a.jpg", "b.jpg", "images/c.jpg", "images/deep/d.jpg", "v.jpg")
    (tmp_path / "val.csv").write_text("image,labels\nv.jpg,dog\n")
    return tmp_path


def load(root: Path, split: str = "train", **changes: object) -> Source:
    return load_dataset(DataSettings(name="folder-labels", root=str(root), memory_limit=0, **changes), split, "labels")


LIST = 'image,labels\na.jpg,dog;cat\nb.jpg,\n\nc.jpg, dog \n"deep/d.jpg","cat;dining table"\n'
COLUMNS = "image,dog,cat,dining table\na.jpg,1,1,0\nb.jpg,0,0,0\nc.jpg,TRUE,false,0\ndeep/d.jpg,0,1,1\n"


@pytest.mark.parametrize("text", [LIST, LIST.replace(";", "|"), COLUMNS, LIST.replace("\n", "\r\n"), "\ufeff" + LIST])
def test_both_forms_say_the_same(root: Path, text: str):
    (root / "train.csv").write_text(text, encoding="utf-8", newline="")
    source = load(root)
    assert source.classes == ("cat", "dining table", "dog")
    assert source.targets.dtype == np.uint8
    assert source.targets.tolist() == [[[1, 0, 1]], [[0, 0, 0]], [[0, 0, 1]], [[1, 1, 0]]]
    files = [str(root / name) for name in ("a.jpg", "b.jpg", "images/c.jpg", "images/deep/d.jpg")]
    assert [source.describe(i) for i in range(4)] == files
    assert source.image(3).shape == (3, 12, 16)
    if "labels" in text:
        assert load(root, "validation").targets.tolist() == [[[0, 0, 1]]]


def test_without_other_marks_spaces_separate_labels(root: Path):
    (root / "train.csv").write_text("image,labels\na.jpg,dog cat\nb.jpg,ant\n")
    (root / "val.csv").write_text("image,labels\nv.jpg,cat dog\n")
    assert load(root).classes == ("ant", "cat", "dog")
    assert load(root, "validation").targets.tolist() == [[[0, 1, 1]]]


def test_the_training_file_says_what_separates_labels(root: Path):
    (root / "train.csv").write_text("image,labels\na.jpg,cat;dining table\nb.jpg,dog\n")
    (root / "val.csv").write_text("image,labels\nv.jpg,dining table\n")
    assert load(root, "validation").targets.tolist() == [[[0, 1, 0]]]


@pytest.mark.parametrize("odd", ["cat+dog", "cat/dog", "cat & dog", "cat\uff1bdog", "cat\u3001bird", "NaN", "None"])
def test_a_label_that_may_be_several_or_none_is_refused_with_its_line(root: Path, odd: str):
    (root / "train.csv").write_text(f"image,labels\na.jpg,cat;bird\nb.jpg,dog\nimages/c.jpg,{odd}\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"train.csv line 4 has the label .* or a classes.txt that has this name"):
        load(root)
    (root / "classes.txt").write_text(f"bird\ncat\ndog\n{odd}\n", encoding="utf-8")
    assert load(root).targets.tolist()[2] == [[0, 0, 0, 1]]


def test_halves_of_a_name_that_spaces_cut_are_warned_of(root: Path, caplog: pytest.LogCaptureFixture):
    rows = "image,label\ra.jpg,dining table\rb.jpg,dining table dog\rimages/c.jpg,dog\r"  # of an old Macintosh
    (root / "train.csv").write_text(rows, newline="")
    assert load(root).classes == ("dining", "dog", "table")
    assert "'dining table' are taken for two labels each, though neither half stands anywhere alone" in caplog.text
    (root / "train.csv").write_text("image,labels\na.jpg,dining and table\nb.jpg,dog\n")
    with pytest.raises(UserError, match="line 2 has the label 'and', which is a word between names"):
        load(root)


def test_classes_txt_says_the_order_and_categories_choose(root: Path):
    (root / "train.csv").write_text(LIST)
    (root / "classes.txt").write_text("dog\ncat\nbird\ndining table\n")
    assert load(root).classes == ("dog", "cat", "bird", "dining table")
    assert load(root).targets[0].tolist() == [[1, 1, 0, 0]]
    source = load(root, categories=("bird", "cat"))
    assert source.classes == ("bird", "cat")
    assert source.targets.tolist() == [[[0, 1]], [[0, 0]], [[0, 0]], [[0, 1]]]
    with pytest.raises(UserError, match=r"'brid', which .*classes.txt does not have: did you mean 'bird'\?"):
        load(root, categories=("brid",))


def test_of_labels_csv_alone_a_fixed_tenth_is_held_out(tmp_path: Path):
    names = [f"{i}.jpg" for i in range(30)]
    images(tmp_path, *names)
    (tmp_path / "labels.csv").write_text(
        "image,labels\n" + "".join(f"{name},c{i % 5}\n" for i, name in enumerate(names))
    )
    train, validation = load(tmp_path), load(tmp_path, "validation")
    assert (len(train), len(validation)) == (27, 3)
    assert train.classes == validation.classes == ("c0", "c1", "c2", "c3", "c4")
    every = {
        source.describe(i): source.targets[i, 0].argmax() for source in (train, validation) for i in range(len(source))
    }
    assert every == {str(tmp_path / name): i % 5 for i, name in enumerate(names)}
    assert [validation.describe(i) for i in range(3)] == [load(tmp_path, "validation").describe(i) for i in range(3)]


def test_its_usual_preparation():
    info = dataset_info(DataSettings(name="folder-labels"), "labels")
    assert (info.image_size, info.resize, info.crop) == (224, "stretch", "random-resized")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"train.csv is empty; expected 'image,labels', or 'image' and a column a class"),
        ("image,labels\n", "train.csv has a header and no images"),
        ("file,labels\na.jpg,dog\n", "train.csv begins with 'file,labels'; expected 'image,labels'"),
        ("image,labels\na.jpg,\n", "train.csv names no label in any line"),
        ("image,labels\na.jpg,dog\nb.jpg,dog,cat\n", r"train.csv line 3 has 3 values; expected 2"),
        ("image,labels\na.jpg,dog\nb.jpg,cat\n\n./a.jpg,cat\n", r"train.csv line 5 names ./a.jpg again, after line 2"),
        ("image,labels\na.jpg,dog\nno.jpg,cat\n", r"train.csv line 3 names .*/no.jpg, which is not there; add it"),
        ("image,labels\n,dog\n", "train.csv line 2 names no image"),
        ("image,dog,cat\na.jpg,1,2\n", r"train.csv line 2 has '2' in column 'cat'; expected 0 or 1"),
        ("image,dog,cat\na.jpg,1,\n", r"line 2 has '' in column 'cat'; expected 0 or 1"),
        ("image,dog,dog\na.jpg,1,0\n", r"line 1 has two columns 'dog'"),
        ("image,dog,\na.jpg,1,0\n", r"line 1 has a column without a name"),
        ('image,labels\na.jpg,"dog\n', r"train.csv line 2 is no CSV"),
    ],
)
def test_lines_that_are_not_as_expected_are_named(root: Path, text: str, message: str):
    (root / "train.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        load(root)


@pytest.mark.parametrize(
    ("training", "validation", "message"),
    [
        (
            "image,labels\na.jpg,dog\n",
            "image,labels\n\nv.jpg,dot\n",
            r"val.csv line 3 has the label 'dot', which .*train.csv",
        ),
        (
            "image,dog\na.jpg,1\n",
            "image,cow\nv.jpg,1\n",
            r"val.csv has a column 'cow', which .*train.csv does not have",
        ),
        ("image,dog,cat\na.jpg,1,0\n", "image,dog\nv.jpg,1\n", r"val.csv has no column 'cat', which .*train.csv has"),
    ],
)
def test_classes_of_validation_are_those_of_training(root: Path, training: str, validation: str, message: str):
    (root / "train.csv").write_text(training)
    (root / "val.csv").write_text(validation)
    with pytest.raises(UserError, match=message):
        load(root, "validation")


def test_classes_that_classes_txt_lacks_are_refused(root: Path):
    (root / "train.csv").write_text("image,labels\na.jpg,dog\nb.jpg,cat\n")
    (root / "classes.txt").write_text("dog\n")
    with pytest.raises(UserError, match=r"train.csv line 3 has the label 'cat', which .*classes.txt does not have"):
        load(root)


def test_missing_images_may_be_left_out(root: Path):
    (root / "train.csv").write_text("image,labels\nno.jpg,dog\na.jpg,cat\n")
    source = load(root, on_bad_image="skip")
    assert [source.describe(0)] == [str(root / "a.jpg")]
    assert source.targets.tolist() == [[[1, 0]]]
    wanted = root / "images" / "no.jpg" if (root / "images").is_dir() else root / "no.jpg"
    assert list(source.bad_files) == [str(wanted)]


def test_an_image_that_is_nowhere_is_wanted_in_the_folder_of_images_where_there_is_one(root: Path):
    (root / "train.csv").write_text("image,labels\nno.jpg,dog\na.jpg,cat\n")
    (root / "images").mkdir(exist_ok=True)
    with pytest.raises(UserError, match=r"train.csv line 2 names .*/images/no.jpg, which is not there; add it"):
        load(root)
    (root / "train.csv").write_text("image,labels\nother/no.jpg,dog\na.jpg,cat\n")
    with pytest.raises(UserError) as error:
        load(root)
    assert f"names {root / 'other' / 'no.jpg'}, which is not there" in str(error.value)


def test_files_that_are_not_there_are_named(tmp_path: Path):
    with pytest.raises(
        UserError,
        match=r"has no train.csv \(or training.csv\); expected train.csv and validation.csv .* or labels.csv alone",
    ):
        load(tmp_path)
    images(tmp_path, "a.jpg")
    (tmp_path / "train.csv").write_text("image,labels\na.jpg,dog\n")
    with pytest.raises(UserError, match=r"has no validation.csv \(or val.csv"):
        load(tmp_path, "validation")
    (tmp_path / "train.csv").rename(tmp_path / "labels.csv")
    with pytest.raises(UserError, match=r"labels\.csv has one image; expected two at least"):
        load(tmp_path)
    (tmp_path / "labels.csv").write_bytes(b"image,labels\na.jpg,\xff\n")
    with pytest.raises(UserError, match=r"labels.csv is no text in UTF-8 \(byte 19\)"):
        load(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        'a.jpg,"dog,cat"\nb.jpg,cat\n',
        'a.jpg,"dog, cat"\nb.jpg,cat\n',
        'a.jpg, "dog ,cat,"\nb.jpg, cat\n',
        "a.jpg,dog ; cat\nb.jpg,cat;\n",
        "a.jpg, dog | cat \nb.jpg,cat\n",
        "a.jpg,dog  cat\nb.jpg,cat\n",
        'a.jpg,"dog\tcat"\nb.jpg,cat\n',
    ],
)
def test_usual_ways_to_separate_labels_are_split_rightly(root: Path, text: str):
    (root / "train.csv").write_text("image,labels\n" + text)
    source = load(root)
    assert source.classes == ("cat", "dog")
    assert source.targets.tolist() == [[[1, 1]], [[1, 0]]]


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("a.jpg,\"['dog', 'cat']\"\nb.jpg,cat\n", r"\['dog'"),
        ('a.jpg,dog;cat\nb.jpg,"dog,cat"\n', "dog,cat"),
        ('a.jpg,dog;cat\nb.jpg,"dog,emu"\n', "dog,emu"),
        ("a.jpg,dog;cat\nb.jpg,dog cat\n", "dog cat"),
        ("a.jpg,dog;cat\nb.jpg,dog|cat\n", r"dog\|cat"),
        ('a.jpg,"dog,cat"\nb.jpg,dog cat\n', "dog cat"),
        ("a.jpg,dog / cat\nb.jpg,cat\n", "/"),
        ("a.jpg,dog;'cat'\nb.jpg,cat\n", "'cat'"),
        ("a.jpg,-\nb.jpg,cat\n", "-"),
    ],
)
def test_labels_that_are_written_otherwise_are_refused_with_their_line(root: Path, text: str, label: str):
    (root / "train.csv").write_text("image,labels\n" + text)
    with pytest.raises(
        UserError, match=rf"train.csv line [23] has the label ['\"]{label}['\"], which (may|is) .*classes"
    ):
        load(root)
    (root / "val.csv").write_text("image,labels\n" + 'v.jpg,"dog,cat"\n')
    (root / "train.csv").write_text("image,labels\na.jpg,dog;cat\n")
    with pytest.raises(UserError, match=r"val.csv line 2 has the label 'dog,cat', which .*train.csv does not have"):
        load(root, "validation")


def test_names_with_commas_and_spaces_need_a_semicolon_or_classes_txt(root: Path):
    (root / "train.csv").write_text('image,labels\na.jpg,"tench, Tinca tinca;hot dog"\nb.jpg,dog;\n')
    assert load(root).classes == ("dog", "hot dog", "tench, Tinca tinca")
    (root / "train.csv").write_text("image,labels\na.jpg,hot;dog\nb.jpg,hot dog\n")
    (root / "classes.txt").write_text("hot\ndog\nhot dog\n")
    assert load(root).targets.tolist() == [[[1, 1, 0]], [[0, 0, 1]]]


@pytest.mark.parametrize("text", ["0 dog\n1 cat\n", "1: cat\n2: dog\n", "dog,cat\n", "dog,\ncat\n", '"dog"\n"cat"\n'])
def test_a_list_of_classes_holds_names_alone(root: Path, text: str):
    (root / "train.csv").write_text("image,labels\na.jpg,dog;cat\n")
    (root / "classes.txt").write_text(text)
    with pytest.raises(UserError, match=r"classes.txt line 1 is .*; expected the name of one class alone"):
        load(root)
    (root / "classes.txt").write_text("10 cats\ndog\ncat\n7, up\n")
    assert load(root).classes == ("10 cats", "dog", "cat", "7, up")
