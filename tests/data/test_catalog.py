"""What a data set is asked for: targets it has, areas, categories, lists; and how it is used with each."""

from pathlib import Path

import numpy as np
import pytest

from anysize.data.catalog import DATASETS, build_preprocessing, dataset_info, load_dataset, resolve_augment
from anysize.data.settings import AugmentSettings, DataSettings
from anysize.preprocessing import Preprocessing
from anysize.registry import UserError


@pytest.mark.parametrize(
    ("name", "targets", "has", "wants", "others"),
    [
        ("cifar10", "labels", "one class an image", "labels", ["coco", "folder-labels", "scenes"]),
        ("cifar10", "masks", "one class an image", "masks", ["coco", "folder-masks", "scenes", "voc"]),
        ("scenes", "class", "labels and masks", "one class an image", ["cifar10", "folder", "imagenet"]),
        ("folder-labels", "masks", "labels", "masks", ["folder-masks"]),
        ("folder-masks", "labels", "masks", "labels", ["folder-labels"]),
    ],
)
def test_targets_that_a_data_set_has_not_are_refused_with_sets_that_have_them(
    tmp_path: Path, name: str, targets: str, has: str, wants: str, others: list[str]
) -> None:
    for ask in (dataset_info, lambda settings, targets: load_dataset(settings, "train", targets)):
        with pytest.raises(UserError) as raised:
            ask(DataSettings(name=name, root=str(tmp_path)), targets)
        said = str(raised.value)
        assert f"data set '{name}' has {has}, and the task wants {wants}; choose another task.name" in said
        known = said.split("as data.name one of ")[1].split(", ")
        assert set(others) <= set(known)
        assert all(targets in DATASETS[other]().offers for other in known)


@pytest.mark.parametrize("areas", [(5.0,), (9.0, 4.0), (0.0, 4.0), (4.0, 4.0), (1.0, 2.0, 3.0), (-1.0, 2.0)])
def test_areas_are_two_that_grow(areas: tuple[float, ...]) -> None:
    with pytest.raises(UserError, match=r"data\.areas is .*; expected two areas in pixels, the smaller first"):
        dataset_info(DataSettings(name="scenes", areas=areas), "labels")


def test_areas_of_the_settings_replace_the_data_sets() -> None:
    assert dataset_info(DataSettings(name="scenes", areas=(10.0, 90.0)), "labels").areas == (10.0, 90.0)
    assert dataset_info(DataSettings(name="scenes"), "labels").areas == (256, 2304)
    settings = DataSettings(name="scenes", limit=10, areas=(1e-9, 1e9))  # all objects are medium then
    labels = load_dataset(settings, "train", "labels").targets
    assert labels[:, 1].any()
    assert not labels[:, [0, 2]].any()


def test_a_list_of_images_that_there_is_not_is_refused() -> None:
    with pytest.raises(UserError, match=r"data\.image_set is 'trainval'; choose one of: 2017, 2014"):
        dataset_info(DataSettings(name="coco", image_set="trainval"), "labels")
    with pytest.raises(UserError, match=r"data\.image_set is '2017'; data set 'scenes' has one list alone: remove it"):
        dataset_info(DataSettings(name="scenes", image_set="2017"), "labels")
    with pytest.raises(UserError, match=r"data\.image_set is 'x'; .*'fashion-mini' has one list alone"):
        load_dataset(DataSettings(image_set="x"), "train")


def test_categories_are_for_labels_and_masks() -> None:
    with pytest.raises(UserError, match=r"data\.categories is set, but data set 'fashion-mini' has one class an image"):
        load_dataset(DataSettings(categories=("Bag",)), "train")
    with pytest.raises(UserError, match="Bagg"):
        load_dataset(DataSettings(name="scenes", categories=("Bagg",), limit=2), "train", "labels")


@pytest.mark.parametrize("categories", [(), ("Sneaker", "Bag")])
def test_the_number_of_classes_is_that_of_what_is_loaded(categories: tuple[str, ...]) -> None:
    settings = DataSettings(name="scenes", limit=30, categories=categories)
    for targets, background in (("labels", ()), ("masks", ("background",))):
        source = load_dataset(settings, "train", targets)
        assert dataset_info(settings, targets).num_classes == len(source.classes)
        if categories:
            assert source.classes == (*background, *categories)
    whole = load_dataset(DataSettings(name="scenes", limit=30), "train", "labels")
    places = [whole.classes.index(name) for name in categories or whole.classes]
    labels = load_dataset(settings, "train", "labels").targets
    assert np.array_equal(labels, whole.targets[:, :, places])


def test_interpolation_and_crop_ratio_override_what_is_usual() -> None:
    info = dataset_info(DataSettings(name="imagenet"))
    usual = build_preprocessing(DataSettings(name="imagenet"), info)
    assert (usual.interpolation, usual.crop_ratio) == ("bilinear", 0.875)
    set_ = DataSettings(name="imagenet", interpolation="bicubic", crop_ratio=384 / 384)
    changed = build_preprocessing(set_, info)
    assert (changed.interpolation, changed.crop_ratio) == ("bicubic", 1)
    for mode in ("pad", "crop-or-pad"):
        with pytest.raises(UserError, match=rf"^data\.crop_ratio is 0\.9, but .* is '{mode}', which has none"):
            build_preprocessing(DataSettings(name="imagenet", crop_ratio=0.9, resize=mode), info)


@pytest.mark.parametrize(
    ("size", "resized"), [(224, 256), (224, 232), (299, 342), (384, 384), (480, 480), (40, 53), (23, 30)]
)
def test_a_crop_ratio_of_two_sides_gives_them_back(size: int, resized: int) -> None:
    assert Preprocessing(size, crop_ratio=size / resized).resize_side(size) == resized


def test_masks_keep_the_shape_of_their_images() -> None:
    labels, masks = (dataset_info(DataSettings(name="coco"), targets) for targets in ("labels", "masks"))
    assert (labels.image_size, labels.resize, labels.crop, labels.num_classes) == (224, "stretch", "random-resized", 80)
    assert (masks.image_size, masks.resize, masks.crop, masks.num_classes) == (513, "pad", "rescale", 81)
    assert dataset_info(DataSettings(name="scenes"), "masks").image_size == 128  # one base size for both
    assert dataset_info(DataSettings(name="voc"), "masks").num_classes == 21  # counts its background itself
    assert build_preprocessing(DataSettings(name="coco"), masks, base=257).resize == "pad"
    assert resolve_augment(AugmentSettings(), masks).crop == "rescale"
    assert resolve_augment(AugmentSettings(crop="none"), masks).crop == "none"
    assert build_preprocessing(DataSettings(name="coco", resize="stretch"), masks).resize == "stretch"
