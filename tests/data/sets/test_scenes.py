"""Scenes: the same pixels everywhere, labels and masks that say what is to be seen, sizes as promised."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from anysize.data.catalog import dataset_info, load_dataset
from anysize.data.scenes import compose as compose_module
from anysize.data.scenes.compose import MIN_AREA, MIN_SHARE, SceneArrays, compose, compose_many
from anysize.data.scenes.materials import load_garments, resample, resampling_weights
from anysize.data.sets.fashion_mnist import CLASSES
from anysize.data.settings import DataSettings
from anysize.registry import UserError

# Whoever changes these changes the data set: accuracies that were measured before no longer compare.
GOLDEN = {
    "train": "eff059b647611a2822be36345f8760ef90073940ef2bc397c2f185cf3b87fd55",
    "validation": "5f80753a92447b3cae1d05c8aea6d65971e5c5f9eadbcec1ec3a5907487b774a",
}


@pytest.fixture(scope="module")
def scenes() -> SceneArrays:
    return compose_many("train", 300)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_scenes_have_the_pixels_that_they_always_had(split):
    first = compose_many(split, 20)
    digest = hashlib.sha256(first.images.tobytes() + first.masks.tobytes()).hexdigest()
    assert digest == GOLDEN[split]


def test_a_scene_depends_on_its_split_and_number_alone():
    many = compose_many("validation", 4)
    alone = compose("validation", 3)
    assert np.array_equal(many.images[3], alone.image)
    again = compose("validation", 3)
    assert np.array_equal(alone.image, again.image)
    others = [compose("validation", 2).image, compose("train", 3).image]
    assert not any(np.array_equal(alone.image, other) for other in others)


def test_resampling_rounds_nothing_on_the_way_and_agrees_with_pil():
    image = load_garments("validation").layers[5, 0]
    for side in (8, 20, 28, 57, 96):
        resized = resample(image, side, side)
        weights = resampling_weights(28, side).astype(np.int64)
        assert (weights.sum(axis=1) == 256).all()
        assert np.array_equal(resized, weights @ image @ weights.T + 2**15 >> 16)
        reference = np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR))
        assert np.abs(resized.astype(int) - reference).max() <= 3
    assert np.array_equal(resample(image, 28, 28), image)


def test_objects_masks_and_areas_say_the_same():
    source = load_dataset(DataSettings(name="scenes", limit=30), "train", "masks")
    assert (len(source), source.targets.shape, source.classes) == (30, (30, 128, 128), ("background", *CLASSES))
    for index in range(30):
        scene = compose("train", index)
        mask = np.zeros((128, 128), np.uint8)
        for each in scene.objects:
            left, top, width, height = each.bbox
            assert each.area == each.mask.sum()
            assert each.mask[top : top + height, left : left + width].sum() == each.area
            edges = (each.mask[top], each.mask[top + height - 1], each.mask[:, left], each.mask[:, left + width - 1])
            assert all(edge.any() for edge in edges)
            assert not mask[each.mask].any()  # one object a pixel
            mask[each.mask] = 1 + each.label
        assert np.array_equal(source.read(index)[1], mask)
        assert np.array_equal(source.image(index), scene.image.transpose(2, 0, 1))


def test_a_garment_that_is_there_can_be_seen(monkeypatch: pytest.MonkeyPatch):
    placed: list[int] = []  # how many pixels each garment had before others were put on it

    def place(draws, mask, *rest):
        found = original(draws, mask, *rest)
        if found:
            placed.append(int(mask.sum()))
        return found

    original = compose_module._place
    monkeypatch.setattr(compose_module, "_place", place)
    objects = compose_many("train", 200).objects
    assert len(placed) == len(objects)  # all that are painted are labelled
    assert (objects[:, 2] >= np.maximum(np.array(placed) / MIN_SHARE, MIN_AREA)).all()
    assert (objects[:, 2] < placed).mean() > 0.2  # and many are partly hidden
    in_scene = np.bincount(objects[:, 0], minlength=200)
    assert in_scene.max() == 6
    assert (in_scene >= 3).mean() > 0.95


def test_sizes_and_classes_are_all_well_populated(scenes: SceneArrays):
    objects = scenes.objects
    size = np.digitize(objects[:, 2], dataset_info(DataSettings(name="scenes"), "labels").areas)
    assert np.bincount(size).min() > 0.15 * len(objects)
    count = np.bincount(objects[:, 1], minlength=10)
    assert count.min() > 0.7 * count.max()


def test_no_class_has_a_colour_of_its_own(scenes: SceneArrays):
    means = np.array([scenes.images[scenes.masks == 1 + label].mean(axis=0) for label in range(10)])
    assert np.abs(means - means.mean(axis=0)).max() < 25  # of 255; a garment's own colours vary by 50


def test_training_and_validation_scenes_share_no_garment():
    train, validation = load_garments("train"), load_garments("validation")
    assert (len(train.labels), len(validation.labels)) == (10_000, 2_000)
    known = {garment.tobytes() for garment in train.layers}
    assert sum(garment.tobytes() in known for garment in validation.layers) < 5  # Fashion-MNIST has some twice


def test_labels_are_those_of_the_objects_by_area():
    settings = DataSettings(name="scenes", limit=12)
    source = load_dataset(settings, "validation", "labels")
    assert (source.targets.shape, source.classes) == ((12, 3, 10), CLASSES)
    for index in range(12):
        expected = np.zeros((3, 10), np.uint8)
        for each in compose("validation", index).objects:
            expected[0 if each.area < 256 else 1 if each.area < 2304 else 2, each.label] = 1
        assert np.array_equal(source.targets[index], expected)
    other = load_dataset(DataSettings(name="scenes", limit=12, areas=(1, 1e6)), "validation", "labels")
    assert not other.targets[:, [0, 2]].any()
    assert np.array_equal(other.targets[:, 1], source.targets.max(axis=1))


def test_categories_keep_some_classes_in_their_order():
    settings = DataSettings(name="scenes", limit=20, categories=("Bag", "Dress"))
    labels, every = (load_dataset(s, "train", "labels") for s in (settings, DataSettings(name="scenes", limit=20)))
    assert labels.classes == ("Bag", "Dress")
    assert np.array_equal(labels.targets, every.targets[:, :, [8, 3]])
    masks = load_dataset(settings, "train", "masks")
    assert masks.classes == ("background", "Bag", "Dress")
    whole = compose_many("train", 20).masks
    assert np.array_equal(masks.targets, np.where(whole == 9, 1, np.where(whole == 4, 2, 0)))
    with pytest.raises(UserError, match=r"'Bags', which data set 'scenes' does not have: did you mean 'Bag'"):
        load_dataset(DataSettings(name="scenes", categories=("Bags",)), "train", "labels")


def test_a_root_that_would_be_ignored_is_refused():
    with pytest.raises(UserError, match=r"'scenes' is embedded in the package and takes no data\.root"):
        load_dataset(DataSettings(name="scenes", root="/data"), "train", "masks")


def test_mean_and_std_are_those_of_the_scenes(scenes: SceneArrays):
    info = dataset_info(DataSettings(name="scenes"), "labels")
    for channel in range(3):
        values = scenes.images[..., channel].ravel()
        share = np.bincount(values, minlength=256) / len(values)
        mean = (share * np.arange(256)).sum() / 255
        std = ((share * np.arange(256) ** 2).sum() / 255**2 - mean**2) ** 0.5
        assert abs(mean - info.mean[channel]) < 0.02
        assert abs(std - info.std[channel]) < 0.02
    assert (info.image_size, info.resize, info.crop, info.areas) == (128, "stretch", "pad", (256, 2304))
    masks = dataset_info(DataSettings(name="scenes"), "masks")
    assert (masks.resize, masks.crop) == ("pad", "rescale")
