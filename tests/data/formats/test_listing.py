"""Which files of folders are taken: every format, each file once; what is left out is counted and named."""

import os
from pathlib import Path

import pytest
from image_files import smooth_image, write_folder
from mask_folders import mask_of, save_grey, save_image

from anysize.data.catalog import load_dataset
from anysize.data.check import check_dataset
from anysize.data.decode import image_extensions
from anysize.data.formats.listing import each_once, folders_in, images_below
from anysize.data.left_out import LeftOut
from anysize.data.settings import DataSettings
from anysize.experiment.image_files import images_in
from anysize.registry import UserError

ENDINGS = ("jpg", "JPE", "jfif", "png", "gif", "avif", "jp2", "webp", "tif", "tga", "ico", "pbm")


def test_a_million_names_are_counted_and_the_first_kept():
    left_out = LeftOut()
    for i in range(1000):
        left_out.add("hidden", f".{i}")
    assert (len(left_out), len(left_out.names["hidden"])) == (1000, 20)
    assert str(left_out) == "1,000 hidden (.0, .1, .2 and 997 more)"


def found(folder: Path, left_out: LeftOut | None = None) -> list[str]:
    paths = sorted(images_below(folder, LeftOut() if left_out is None else left_out))
    return [os.path.relpath(path, folder) for path in paths]


def folder_of(root: Path) -> DataSettings:
    return DataSettings(name="folder", root=str(root))


def test_every_format_that_pil_decodes_is_taken_and_read(tmp_path: Path):
    for i, ending in enumerate(ENDINGS):
        for name in ("cat", "dog"):
            path = tmp_path / f"train/{name}/{i}.{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            smooth_image(i, 24, 24).save(path, "JPEG" if ending == "jfif" else None)
    source = load_dataset(folder_of(tmp_path), "train")
    assert len(source) == 2 * len(ENDINGS)
    assert all(source.image(i).shape == (3, 24, 24) for i in range(len(source)))
    assert not source.left_out
    assert not {".pdf", ".eps", ".h5", ".mpg", ".txt"} & set(image_extensions())  # no program is run for an image


def test_what_systems_make_is_no_class_and_no_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    root = write_folder(tmp_path, 2)
    for name in ("@eaDir", "__MACOSX", "lost+found", "$RECYCLE.BIN", ".Trash-1000", "System Volume Information"):
        for place in ("train", "train/cat"):
            save_image(root / place / name / "thumb.jpg")
    for name in ("Thumbs.db", "desktop.ini", "._000.jpg", ".DS_Store", "IMG_1.heic", "notes.txt"):
        (root / "train/dog" / name).write_bytes(b"")
    save_image(root / "train/loose.jpg")
    save_image(root / "train/trash/can.jpg")  # a name of a class, too
    save_image(root / "val/trash/can.jpg")
    train, validation = check_dataset(folder_of(root))
    assert train.counts == {"cat": 2, "dog": 2, "trash": 1}
    assert train.left_out.counts == {
        "made by the system": 12,
        "hidden": 4,
        "beside the folders": 1,
        "in no format that PIL reads": 2,
    }
    assert len(train.left_out) == 19
    assert not validation.left_out
    assert "IMG_1.heic" in str(train.left_out)
    assert train.left_out.lines(3)[0].startswith("12 made by the system")
    assert train.left_out.lines(3)[0].endswith("and 9 more)")


def test_a_link_to_a_folder_above_does_not_multiply(tmp_path: Path):
    root = write_folder(tmp_path, 2)
    for link, to in (("train/cat/up", ".."), ("train/all", "."), ("train/cat/whole", root), ("train/cat/me", "me")):
        (root / link).symlink_to(to)
    other = tmp_path / "other/deep"
    save_image(other / "x.jpg")
    (root / "train/dog/far").symlink_to(other)  # two folders that link to each other
    (other / "back").symlink_to(root / "train/dog")
    source = load_dataset(folder_of(root), "train")
    assert [Path(source.describe(i)).name for i in range(len(source))] == [
        *("000.jpg", "001.jpg", "000.jpg", "001.jpg", "x.jpg")
    ]
    assert source.classes == ("cat", "dog")
    assert len(source.left_out.names["linking to a folder above"]) == 4


def test_each_file_counts_once_under_its_own_name(tmp_path: Path):
    root = write_folder(tmp_path, 3)
    (root / "train/cat/dogs").symlink_to("../dog")  # comes before the class dog
    (root / "train/cat/again.jpg").symlink_to("000.jpg")
    os.link(root / "train/dog/000.jpg", root / "train/dog/hard.jpg")
    (root / "train/dog/nowhere.jpg").symlink_to("gone.jpg")
    train, _ = check_dataset(folder_of(root))
    assert train.counts == {"cat": 3, "dog": 3}
    assert list(train.damaged) == [str(root / "train/dog/nowhere.jpg")]
    names = train.left_out.names["naming a file that is taken already"]
    assert {os.path.relpath(name, root / "train") for name in names} == {
        *("cat/again.jpg", "dog/hard.jpg", "cat/dogs/hard.jpg", "cat/dogs/nowhere.jpg"),
        *(f"cat/dogs/00{i}.jpg" for i in range(3)),
    }
    linked = tmp_path / "subset/train"  # classes that are links alone are images like others
    linked.mkdir(parents=True)
    for name in ("cat", "dog"):
        (linked / name).symlink_to(root / "train" / name)
    (root / "train/cat/dogs").unlink()
    assert len(load_dataset(DataSettings(name="folder", root=str(linked.parent), memory_limit=0), "train")) == 7
    (linked / "emu").symlink_to(root / "train/cat")
    with pytest.raises(UserError, match=r"class 'emu' has no image .*left out: .* naming a file that is taken"):
        load_dataset(DataSettings(name="folder", root=str(linked.parent)), "train")


def test_masks_may_be_shared_and_images_with_two_names_are_one_pair(tmp_path: Path):
    for name in ("a", "b"):
        save_image(tmp_path / f"train/images/{name}.jpg")
    save_grey(tmp_path / "train/masks/a.png", mask_of(0, 1))
    (tmp_path / "train/masks/b.png").symlink_to("a.png")
    (tmp_path / "train/images/c.jpg").symlink_to("a.jpg")
    (tmp_path / "train/masks/c.png").symlink_to("a.png")
    (tmp_path / "train/masks/up").symlink_to("..")
    save_image(tmp_path / "train/images/@eaDir/a.jpg")
    (tmp_path / "train/masks/c.jpg.json").write_text("{}")
    source = load_dataset(DataSettings(name="folder-masks", root=str(tmp_path)), "train", "masks")
    assert [Path(source.describe(i)).name for i in range(len(source))] == ["a.jpg", "b.jpg"]
    assert sorted(source.left_out.names) == [
        *("linking to a folder above", "made by the system", "naming a file that is taken already"),
        "not ending in .png .bmp .tif .tiff",
    ]


def test_folders_to_predict_for_and_to_calibrate_with_say_what_they_leave_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    for name in ("a.gif", "@eaDir/a.jpg", "below/b.jpg"):
        save_image(tmp_path / name)
    (tmp_path / "below/up").symlink_to("..")
    assert [os.path.relpath(path, tmp_path) for path in images_in(tmp_path)] == ["a.gif", "below/b.jpg"]
    assert "left out 1 made by the system" in caplog.text
    assert "1 linking to a folder above" in caplog.text
    (tmp_path / "none").mkdir()
    (tmp_path / "none/a.heic").write_bytes(b"")
    with pytest.raises(UserError, match=r"holds no image; expected .*left out: 1 in no format that PIL reads .*a.heic"):
        images_in(tmp_path / "none")


def test_a_folder_without_links_and_a_root_that_is_a_link(tmp_path: Path):
    root = write_folder(tmp_path / "real", 2)
    (tmp_path / "link").symlink_to(root)
    paths = [str(tmp_path / "link/train/cat" / name) for name in found(tmp_path / "link/train/cat")]
    left_out = LeftOut()
    assert each_once(paths, tmp_path / "link", left_out) == [0, 1]
    assert folders_in(tmp_path / "link/train", left_out) == ["cat", "dog"]
    assert not left_out


@pytest.mark.parametrize("targets", ["labels", "masks"])
def test_lists_that_name_a_file_twice_have_it_once(tmp_path: Path, targets: str):
    (tmp_path / "images").mkdir()
    images, masks = ("JPEGImages", "SegmentationClass") if targets == "masks" else ("images", "masks")
    for name in ("a", "b"):
        save_image(tmp_path / images / f"{name}.jpg")
        save_grey(tmp_path / masks / f"{name}.png", mask_of(0, 1))
    (tmp_path / images / "c.jpg").symlink_to("a.jpg")
    os.link(tmp_path / images / "b.jpg", tmp_path / images / "d.jpg")
    for name in ("c", "d"):
        (tmp_path / masks / f"{name}.png").symlink_to("a.png")
    if targets == "masks":
        (tmp_path / "ImageSets/Segmentation").mkdir(parents=True)
        (tmp_path / "ImageSets/Segmentation/train.txt").write_text("c\na\nb\nd\nb\n")
    else:
        (tmp_path / "train.csv").write_text("image,labels\nc.jpg,x\na.jpg,x\nb.jpg,y\nd.jpg,y\nimages/b.jpg,y\n")
    settings = DataSettings(name="voc" if targets == "masks" else "folder-labels", root=str(tmp_path), memory_limit=0)
    source = load_dataset(settings, "train", targets)
    assert [Path(source.describe(i)).name for i in range(len(source))] == ["a.jpg", "b.jpg"]
    assert [os.path.basename(name) for name in source.left_out.names["naming a file that is taken already"]] == [
        *("d.jpg", "b.jpg", "c.jpg")
    ]
