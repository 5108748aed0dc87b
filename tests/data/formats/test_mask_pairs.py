"""Your own images and masks: how pairs are found, which classes there are, and what is said when a pair is not one."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from mask_folders import mask_of, save_grey, save_image, save_palette

from anysize.data.augment.joint import JointEvalTransform, JointTrainTransform
from anysize.data.catalog import build_preprocessing, dataset_info, load_dataset
from anysize.data.loader import PlanLoader, sequential_batches
from anysize.data.settings import AugmentSettings, DataSettings
from anysize.data.source import Source
from anysize.registry import UserError
from anysize.sizes.batch import Batch


def write(folder: Path, names: list[str], numbers: tuple[int, ...] = (0, 1, 2)) -> None:
    for i, name in enumerate(names):
        save_image(folder / f"images/{name}.jpg", i)
        save_palette(folder / f"masks/{name}.png", mask_of(*numbers))


def load(root: Path, split: str = "train", **changes: object) -> Source:
    return load_dataset(DataSettings(name="folder-masks", root=str(root), **changes), split, "masks")


@pytest.mark.parametrize("name", ["validation", "val", "test"])
def test_pairs_are_found_by_name_also_in_folders_below(tmp_path: Path, name: str):
    write(tmp_path / "train", ["b", "deep/er/a", "c"])
    write(tmp_path / name, ["d"])
    save_image(tmp_path / "train/images/e.PNG")
    save_grey(tmp_path / "train/masks/e.tif", mask_of(1, 2))
    (tmp_path / "train/images/.hidden.jpg").write_bytes(b"no image")
    (tmp_path / "train/masks/notes.txt").write_text("no mask")
    source = load(tmp_path)
    images = [Path(source.describe(i)).relative_to(tmp_path / "train/images").as_posix() for i in range(4)]
    assert images == ["b.jpg", "c.jpg", "deep/er/a.jpg", "e.PNG"]
    assert len(source.targets) == 4
    assert (source.read(2)[1].numpy() == mask_of(0, 1, 2)).all()
    assert (source.read(3)[1].numpy() == mask_of(1, 2)).all()
    assert len(load(tmp_path, "validation")) == 1


def test_without_train_a_fixed_tenth_is_held_out(tmp_path: Path):
    write(tmp_path, [f"{i:02d}" for i in range(30)])
    sources = [load(tmp_path, split) for split in ("train", "validation", "validation")]
    names = [[source.describe(i) for i in range(len(source))] for source in sources]
    assert [len(each) for each in names] == [27, 3, 3]
    assert not set(names[0]) & set(names[1])
    assert names[1] == names[2]
    for i in range(3):
        assert (sources[1].read(i)[1] == sources[2].read(i)[1]).all()


def test_classes_are_numbered_up_to_the_largest_in_the_training_masks(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    write(tmp_path / "train", ["a", "b"], (0, 2, 255))
    write(tmp_path / "val", ["c"], (0, 3))
    with caplog.at_level(logging.INFO):
        train, validation = load(tmp_path), load(tmp_path, "validation")
    assert train.classes == validation.classes == ("background", "1", "2")
    assert [record.message for record in caplog.records].count(
        "no classes.txt: reading 2 training masks for the largest class number"
    ) == 1
    loader = PlanLoader(validation, JointEvalTransform(build_preprocessing(DataSettings(resize="pad"), info(tmp_path))))
    with pytest.raises(UserError, match=r"val/masks/c.png has the class number 3; expected 0 to 2"):
        next(loader.load(sequential_batches(1, 40, 1)))


def info(root: Path):
    return dataset_info(DataSettings(name="folder-masks", root=str(root)), "masks")


def test_classes_txt_names_them(tmp_path: Path):
    write(tmp_path / "train", ["a"])
    write(tmp_path / "val", ["b"])
    (tmp_path / "classes.txt").write_text("ground\nroad\n\nhouse\n", encoding="utf-8-sig")
    assert load(tmp_path).classes == ("ground", "road", "house")
    source = load(tmp_path, categories=("house",))
    assert source.classes == ("ground", "house")
    assert (source.read(0)[1].numpy() == mask_of(0, 0, 1)).all()
    for text, message in (("", "is empty"), ("a\nb\na", "names the class 'a' twice")):
        (tmp_path / "classes.txt").write_text(text)
        with pytest.raises(UserError, match=rf"classes.txt {message}"):
            load(tmp_path)
    (tmp_path / "classes.txt").write_text("\n".join(map(str, range(256))))
    with pytest.raises(UserError, match="has 256 classes; expected at most 255"):
        load(tmp_path)
    (tmp_path / "classes.txt").write_bytes("gr\xfcn".encode("latin-1"))
    with pytest.raises(UserError, match="is no text in UTF-8"):
        load(tmp_path)


def test_the_base_size_is_512_or_that_of_small_images(tmp_path: Path):
    write(tmp_path / "train", ["b"])
    assert info(tmp_path).image_size == 40
    assert (info(tmp_path).resize, info(tmp_path).crop) == ("pad", "rescale")
    save_image(tmp_path / "train/images/a.jpg", 0, 300, 700)
    save_grey(tmp_path / "train/masks/a.png", mask_of(0, 1, height=300, width=700))
    assert info(tmp_path).image_size == 512


def test_a_mask_of_another_size_is_named_and_may_be_left_out(tmp_path: Path):
    write(tmp_path / "train", ["a", "b"])
    write(tmp_path / "val", ["c"])
    save_grey(tmp_path / "train/masks/a.png", np.zeros((31, 40), dtype=np.uint8))
    transform = JointEvalTransform(build_preprocessing(DataSettings(resize="pad"), info(tmp_path)))
    with pytest.raises(
        UserError, match=r"images/a.jpg .*its mask .*masks/a.png has 31 x 40 pixels and the image 30 x 4"
    ):
        list(PlanLoader(load(tmp_path), transform).load(sequential_batches(2, 40, 2)))
    loader = PlanLoader(load(tmp_path, on_bad_image="skip"), transform)
    (batch,) = loader.load(sequential_batches(2, 40, 2))
    assert batch.indices.tolist() == [1]
    assert list(loader.bad_files) == [str(tmp_path / "train/images/a.jpg")]


def test_augmented_pairs_are_the_same_for_any_number_of_workers(tmp_path: Path):
    write(tmp_path / "train", ["a", "b", "c"])
    preprocessing = build_preprocessing(DataSettings(resize="pad"), info(tmp_path))
    transform = JointTrainTransform(preprocessing, AugmentSettings(crop="rescale", flip=0.5, color_jitter=0.3), seed=2)
    batches = [Batch(1, 24, 2, np.array([2, 0])), Batch(1, 48, 1, np.array([1]))]
    alone, shared = (list(PlanLoader(load(tmp_path), transform, workers=n).load(batches)) for n in (0, 2))
    for one, other, size, count in zip(alone, shared, (24, 48), (4, 1), strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.targets, other.targets)
        assert one.images.shape == (count, 3, size, size)
        assert one.targets.shape == (count, size, size)


def test_what_is_not_a_pair_is_named(tmp_path: Path):
    write(tmp_path / "train", ["a", "b"])
    save_image(tmp_path / "train/images/x.png")
    with pytest.raises(UserError, match=r"images/x.png has no mask; expected .*train/masks/x.png"):
        load(tmp_path)
    save_image(tmp_path / "train/images/x.jpg")
    with pytest.raises(UserError, match=r"x\.(jpg|png) and .*x\.(jpg|png) have one name"):
        load(tmp_path)
    for ending in ("png", "jpg"):
        (tmp_path / f"train/images/x.{ending}").unlink()
    save_grey(tmp_path / "train/masks/y.png", mask_of(0))
    with pytest.raises(UserError, match=r"masks/y.png has no image; expected .*train/images/y.jpg"):
        load(tmp_path)
    (tmp_path / "train/masks/y.png").unlink()
    with pytest.raises(
        UserError, match=r"has no folder validation \(or val, valid, dev, test\); expected train/images"
    ):
        load(tmp_path, "validation")
    (tmp_path / "val/images").mkdir(parents=True)
    with pytest.raises(UserError, match="val/images holds no images"):
        load(tmp_path, "validation")


def test_folders_that_are_not_as_expected_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"has no folder train \(or training\), nor images; expected train/images"):
        load(tmp_path)
    save_image(tmp_path / "images/a.jpg")
    with pytest.raises(UserError, match="masks is no folder; expected one with masks"):
        load(tmp_path)
    save_grey(tmp_path / "masks/a.png", mask_of(0))
    with pytest.raises(UserError, match="has one image; expected two at least: a tenth is held out"):
        load(tmp_path)
