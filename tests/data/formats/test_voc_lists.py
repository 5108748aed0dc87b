"""PASCAL VOC as it is unpacked: roots, lists, masks and what is said when something is missing."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mask_folders import mask_of, save_image, save_palette

from anysize.data.catalog import dataset_info, load_dataset
from anysize.data.formats.voc_lists import CLASSES
from anysize.data.pictures import BadImage
from anysize.data.settings import DataSettings
from anysize.data.source import FileSource, Source
from anysize.registry import UserError

NAMES = [f"2007_{i:06d}" for i in range(6)]
LISTS = {"train": NAMES[:3], "val": NAMES[3:5], "trainval": NAMES[:5]}


@pytest.fixture
def year(tmp_path: Path) -> Path:
    """VOC2012 with six images: three to train on, two to validate on, one that is in the augmented set alone."""
    folder = tmp_path / "VOCdevkit/VOC2012"
    (folder / "ImageSets/Segmentation").mkdir(parents=True)
    for name, lines in LISTS.items():
        (folder / f"ImageSets/Segmentation/{name}.txt").write_text("\n".join(lines) + "\n")
    for i, name in enumerate(NAMES):
        save_image(folder / f"JPEGImages/{name}.jpg", i)
        if i < 5:
            save_palette(folder / f"SegmentationClass/{name}.png", mask_of(0, i + 1, 255))
        save_palette(folder / f"SegmentationClassAug/{name}.png", mask_of(0, i + 10))
    return folder


def settings(root: Path, **changes: object) -> DataSettings:
    return DataSettings(name="voc", root=str(root), **changes)


def load(root: Path, split: str = "train", **changes: object) -> Source:
    return load_dataset(settings(root, **changes), split, "masks")


def stems(source: Source) -> list[str]:
    return [Path(source.describe(i)).stem for i in range(len(source))]


def test_a_split_is_its_list_with_images_and_masks_from_any_root(year: Path):
    for root in (year, year.parent, year.parent.parent):
        train, validation = load(root), load(root, "validation")
        assert stems(train) == NAMES[:3]
        assert stems(validation) == NAMES[3:5]
    assert isinstance(train, FileSource)
    assert train.classes == CLASSES
    assert len(CLASSES) == 21
    assert (CLASSES[0], CLASSES[15], CLASSES[20]) == ("background", "person", "tvmonitor")
    image, mask, _ = validation.read(1)
    assert image.shape == (3, 30, 40)
    assert torch.equal(mask, torch.from_numpy(mask_of(0, 5, 255)))
    assert (train.subset(np.array([2])).read(0)[1].numpy() == mask_of(0, 3, 255)).all()


def test_the_augmented_set_comes_as_a_list_of_names_or_of_paths(year: Path):
    with pytest.raises(UserError, match=r"no list of the images of 'train_aug'; expected ImageSets/.*train_aug.txt or"):
        load(year, image_set="train_aug")
    for name in ("train_aug", "trainaug"):
        path = year / f"ImageSets/Segmentation/{name}.txt"
        path.write_text("\n".join(NAMES[1:]))
        source = load(year, image_set="train_aug")
        assert stems(source) == NAMES[1:]
        assert (source.read(4)[1].numpy() == mask_of(0, 15)).all()
        path.unlink()
    (year / "list").mkdir()
    for name, chosen in (("train_aug", NAMES[4:]), ("val", NAMES[:1])):
        lines = [f"/JPEGImages/{n}.jpg /SegmentationClassAug/{n}.png\n" for n in chosen]
        (year / f"list/{name}.txt").write_text("".join(lines))
    source = load(year, image_set="train_aug")
    assert stems(source) == NAMES[4:]
    assert (source.read(1)[1].numpy() == mask_of(0, 15)).all()
    assert stems(load(year, "validation", image_set="train_aug")) == NAMES[3:5]  # VOC's own list comes first
    (year / "ImageSets/Segmentation/val.txt").unlink()
    source = load(year, "validation", image_set="train_aug")
    assert stems(source) == NAMES[:1]
    assert (source.read(0)[1].numpy() == mask_of(0, 10)).all()


def test_trainval_is_for_training_alone(year: Path):
    assert stems(load(year, image_set="trainval")) == NAMES[:5]
    assert stems(load(year, "validation", image_set="trainval")) == NAMES[3:5]
    with pytest.raises(UserError, match="image_set is 'trainaug'; choose one of: train, train_aug, trainval"):
        load(year, image_set="trainaug")


def test_its_usual_preparation_and_the_number_of_images(year: Path):
    info = dataset_info(settings(year), "masks")
    assert (info.image_size, info.resize, info.crop, info.num_classes) == (513, "pad", "rescale", 21)
    assert (info.train_images, info.validation_images) == (3, 2)
    published = dataset_info(DataSettings(name="voc", image_set="train_aug"), "masks")
    assert (published.train_images, published.validation_images) == (10_582, 1449)


def test_categories_make_background_of_the_others(year: Path):
    source = load(year, categories=("bird", "aeroplane"))
    assert source.classes == ("background", "bird", "aeroplane")
    assert (source.read(0)[1].numpy() == mask_of(0, 2, 255)).all()  # aeroplane
    assert (source.read(1)[1].numpy() == mask_of(0, 0, 255)).all()  # bicycle
    assert (source.read(2)[1].numpy() == mask_of(0, 1, 255)).all()  # bird
    assert dataset_info(settings(year, categories=("bird",)), "masks").num_classes == 2
    with pytest.raises(UserError, match=r"names 'brid', which VOC does not have: did you mean 'bird'\?"):
        load(year, categories=("brid",))


def test_other_classes_in_this_layout_are_named_in_a_file(year: Path):
    (year / "classes.txt").write_text("background\nroad\nhouse\ncar\n")
    assert load(year).classes == ("background", "road", "house", "car")
    assert dataset_info(settings(year.parent), "masks").num_classes == 4
    source = load(year, "validation")
    with pytest.raises(BadImage, match=r"2007_000003.png has the class number 4; expected 0 to 3"):
        source.read(0)


def test_of_several_years_2012_is_taken(year: Path):
    (year.parent / "VOC2007/JPEGImages").mkdir(parents=True)
    (year.parent / "VOC2013/JPEGImages").mkdir(parents=True)
    assert len(load(year.parent)) == 3
    (year.parent / "VOC2012").rename(year.parent / "VOC2008")
    with pytest.raises(UserError, match=r"VOC2013 has no list of the images of 'train'; expected ImageSets"):
        load(year.parent)


def test_missing_files_are_named_and_may_be_left_out(year: Path):
    mask, image = year / f"SegmentationClass/{NAMES[1]}.png", year / f"JPEGImages/{NAMES[2]}.jpg"
    mask.unlink()
    with pytest.raises(UserError, match=rf"train.txt line 2 names its mask {mask}, which is not there; add it, or"):
        load(year)
    image.unlink()
    with pytest.raises(UserError, match=r"line 2 names its mask .* \(so it is with 2 of the 3 lines\); add it"):
        load(year)
    source = load(year, on_bad_image="skip")
    assert stems(source) == NAMES[:1]
    assert {Path(path).stem for path in source.bad_files} == set(NAMES[1:3])
    assert f"{image}, which is not there" in source.bad_files[str(image)]
    for path in (year / "JPEGImages").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="nor is what any other of the 3 lines names; unpack"):
        load(year, on_bad_image="skip")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\n \n", r"train.txt names no images"),
        ("a b c", r"train.txt line 1 is 'a b c'; expected the name of an image, or the paths"),
        ("2007_000000\nJPEGImages/x.jpg SegmentationClass/x.png", "line 2 is 'JPEGImages/x.jpg .*begin with '/'"),
    ],
)
def test_lists_that_are_not_as_expected_are_refused(year: Path, text: str, message: str):
    (year / "ImageSets/Segmentation/train.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        load(year)


def test_a_root_without_voc_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"holds no VOC2012 .* expected VOCdevkit/VOC2012 with JPEGImages"):
        load(tmp_path)
    (tmp_path / "VOC2012").mkdir()
    with pytest.raises(UserError, match="VOC2012 has no folder 'JPEGImages'"):
        load(tmp_path)


def test_names_may_have_spaces_and_images_any_ending(tmp_path: Path):
    names = {"a": "jpg", "b c": "png", "d": "JPG", "e": "jpeg", "f  g": "tif", "below/h": "gif"}
    for i, (name, ending) in enumerate(names.items()):
        save_image(tmp_path / f"JPEGImages/{name}.{ending}", i)
        save_palette(tmp_path / f"SegmentationClass/{name}.png", mask_of(0, i + 1))
    save_image(tmp_path / "JPEGImages/a.png")  # beside a.jpg, which is VOC's own
    save_palette(tmp_path / "SegmentationClass/d.PNG", mask_of(0, 9))
    (tmp_path / "ImageSets/Segmentation").mkdir(parents=True)
    path = tmp_path / "ImageSets/Segmentation/train.txt"
    path.write_text("".join(f"{name} \n" for name in names) + "a\n")
    source = load(tmp_path)
    found = [Path(source.describe(i)).relative_to(tmp_path / "JPEGImages").as_posix() for i in range(len(source))]
    assert found == [f"{name}.{ending}" for name, ending in names.items()]
    assert [int(source.read(i)[1].max()) for i in range(len(source))] == [1, 2, 3, 4, 5, 6]
    assert str(source.left_out) == f"1 naming a file that is taken already ({tmp_path}/JPEGImages/a.jpg)"
    assert dataset_info(settings(tmp_path), "masks").num_classes == 21
    path.write_text("b c\nx y\n")  # a missing image is one that is not there
    with pytest.raises(UserError, match=r"train.txt line 2 names .*JPEGImages/x y.jpg, which is not there"):
        load(tmp_path)
    assert stems(load(tmp_path, on_bad_image="skip")) == ["b c"]
    path.write_text("/JPEGImages/b c.png   /SegmentationClass/b c.png\n")
    assert int(load(tmp_path).read(0)[1].max()) == 2
    save_image(tmp_path / "JPEGImages/e.bmp")
    with pytest.raises(UserError, match=r"e.bmp and .*e.jpeg have one name"):
        load(tmp_path)
