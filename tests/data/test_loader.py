"""The loader: the same batches on every path, each image once in evaluation, damaged files told."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from image_files import damage, smooth_image, varied, write_folder
from loading import eval_batches

from anysize.data.augment.plain import TrainTransform
from anysize.data.augment.square import EvalTransform
from anysize.data.catalog import load_dataset
from anysize.data.loader import LoadedBatch, PlanLoader
from anysize.data.settings import AugmentSettings, DataSettings
from anysize.data.source import ArraySource, FileSource, Source
from anysize.preprocessing import Preprocessing
from anysize.registry import UserError
from anysize.sizes.batch import Batch
from anysize.sizes.batch_plan import BatchPlan
from anysize.sizes.mix import SizeMix
from anysize.sizes.schedule import SizeSchedule

SMALL = Preprocessing(image_size=24, resize="stretch")
GREY = Preprocessing(image_size=28, mean=(0.286,), std=(0.353,), resize="stretch")
EVERYTHING = AugmentSettings(crop="pad", flip=0.5, autoaugment="cifar10", color_jitter=0.4, lighting=0.1, cutout=8)
OTHERS = [
    AugmentSettings(crop="random-resized", flip=0.5, autoaugment="augmix", random_erasing=0.5),
    AugmentSettings(crop="pad", flip=0.5, autoaugment="randaugment", cutout=4, random_erasing=0.5),
    AugmentSettings(crop="random-resized", flip=0.5, autoaugment="trivialaugment", backend="pil"),
    AugmentSettings(crop="pad", flip=0.5, random_erasing=0.5, backend="pil"),
]
MIX = SizeMix.custom({16: 0.5, 24: 0.25, 32: 0.25}, base=24, budget="D+")


def open_folder(root: Path, **changes: object) -> Source:
    return load_dataset(DataSettings(name="folder", root=str(root), **changes), "train")


def batches_of(source: Source, epoch: int = 0, repeats: int = 1) -> list[Batch]:
    return BatchPlan(len(source), SizeSchedule.constant(MIX), 3, seed=5, repeats=repeats).batches(epoch)


def assert_equal(ours: list[LoadedBatch], expected: list[LoadedBatch]) -> None:
    assert len(ours) == len(expected)
    for a, b in zip(ours, expected, strict=True):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.targets, b.targets)
        assert (a.size, a.copies, a.epoch, a.step) == (b.size, b.copies, b.epoch, b.step)


@pytest.mark.parametrize("augment", [EVERYTHING, AugmentSettings(crop="random-resized", flip=0.5), *OTHERS])
@pytest.mark.parametrize("repeats", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_memory_files_and_workers_give_the_same_batches(tmp_path: Path, augment: AugmentSettings, repeats: int):
    root = write_folder(tmp_path, 10)
    memory, files = open_folder(root), open_folder(root, memory_limit=0)
    assert isinstance(memory, ArraySource)
    assert isinstance(files, FileSource)
    transform = TrainTransform(SMALL, augment, seed=7)
    with_workers = PlanLoader(files, transform, workers=2)
    for epoch in (0, 3):
        batches = batches_of(memory, epoch, repeats)
        expected = list(PlanLoader(memory, transform).load(batches))
        assert len({batch.size for batch in expected}) == 3
        assert_equal(list(PlanLoader(files, transform, workers=0).load(batches)), expected)
        torch.manual_seed(0)
        assert_equal(list(with_workers.load(batches)), expected)  # the second epoch by the same workers
        assert torch.initial_seed() == 0
        assert torch.equal(torch.get_rng_state(), torch.Generator().manual_seed(0).get_state())  # a model's own numbers


def test_leaving_an_epoch_early_does_no_harm_to_the_next(tmp_path: Path):
    files = open_folder(write_folder(tmp_path, 10), memory_limit=0)
    transform = TrainTransform(SMALL, EVERYTHING, seed=7)
    loader = PlanLoader(files, transform, workers=2)
    first = loader.load(batches_of(files))
    next(first)
    first.close()
    assert_equal(list(loader.load(batches_of(files, 1))), list(PlanLoader(files, transform).load(batches_of(files, 1))))


@pytest.mark.parametrize("augment", [AugmentSettings(crop="pad", flip=0.5), *OTHERS])
def test_resuming_is_slicing(augment: AugmentSettings):
    source = load_dataset(DataSettings(limit=60), "train")
    transform = TrainTransform(GREY, augment)
    batches = batches_of(source, repeats=2)
    whole = list(PlanLoader(source, transform).load(batches))
    rest = list(PlanLoader(source, transform).load(batches[10:]))
    assert_equal([dataclasses.replace(batch, step=batch.step + 10) for batch in rest], whole[10:])


@pytest.mark.parametrize("augment", [AugmentSettings(crop="pad", flip=0.5, cutout=8, color_jitter=0.2), *OTHERS])
def test_a_sample_is_augmented_alike_in_any_batch(augment: AugmentSettings):
    source = load_dataset(DataSettings(limit=50), "train")
    transform = TrainTransform(GREY, augment)
    loader = PlanLoader(source, transform)
    together = next(loader.load([Batch(2, 20, 2, np.arange(50))])).images.unflatten(0, (2, 50))
    for index in (0, 17, 49):
        alone = next(loader.load([Batch(2, 20, 2, np.array([index]))])).images
        assert torch.equal(alone, together[:, index])


def test_copies_come_copy_by_copy_with_their_targets():
    source = load_dataset(DataSettings(limit=50), "train")
    transform = TrainTransform(GREY, AugmentSettings(crop="pad", flip=0.5))
    batch = next(PlanLoader(source, transform).load([Batch(0, 14, 4, np.array([40, 3, 7]))]))
    assert batch.images.shape == (12, 1, 14, 14)
    assert batch.images.dtype == torch.float32
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert batch.targets.tolist() == source.targets[[40, 3, 7] * 4].tolist()
    assert batch.targets.dtype == torch.int64
    assert batch.copies == 4
    assert len({image.numpy().tobytes() for image in batch.images}) == 12


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("crops", [1, 5])
def test_evaluation_sees_each_image_once_in_order(tmp_path: Path, workers: int, crops: int):
    source = open_folder(write_folder(tmp_path, 9, varied))
    transform = EvalTransform(Preprocessing(image_size=24), crops)
    loaded = list(eval_batches(source, transform, size=20, batch_size=4, workers=workers))
    assert np.concatenate([batch.indices for batch in loaded]).tolist() == list(range(18))
    assert [len(batch.images) for batch in loaded] == [4 * crops] * 4 + [2 * crops]
    for batch in loaded:
        assert batch.targets.unflatten(0, (crops, -1))[-1].tolist() == source.targets[batch.indices].tolist()
        index = int(batch.indices[-1])
        alone = Batch(0, 20, 1, np.array([index]))
        expected = transform.finish(transform.image(source.image(index), alone), alone)
        assert torch.equal(batch.images.unflatten(0, (crops, -1))[:, -1], expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_file_leaves_its_batch_and_is_named_and_counted(
    tmp_path: Path, workers: int, caplog: pytest.LogCaptureFixture
):
    root = write_folder(tmp_path, 6, varied)
    bad = [root / "train/cat/001.jpg", root / "train/dog/004.jpg", root / "train/dog/005.jpg"]
    for path in bad:
        damage(path)
    source = open_folder(root, on_bad_image="skip")
    loader = PlanLoader(source, EvalTransform(Preprocessing(image_size=24)), workers=workers)
    batches = [Batch(0, 16, 1, np.array(indices)) for indices in ([0, 1, 2], [10, 11], [3, 4])]
    for _ in range(2):
        loaded = list(loader.load(batches))
        assert [(batch.step, batch.indices.tolist(), len(batch.images)) for batch in loaded] == [
            (0, [0, 2], 2),
            (2, [3, 4], 2),
        ]
        assert loaded[0].targets.tolist() == [0, 0]
    assert sorted(loader.bad_files) == [str(path) for path in bad]
    assert all(caplog.text.count(str(path)) == 1 for path in bad)


def test_repeats_keep_their_pixels_where_damaged_files_drop_out(tmp_path: Path):
    root = write_folder(tmp_path, 6, varied)
    transform = TrainTransform(SMALL, dataclasses.replace(OTHERS[1], lighting=0.1), seed=7)
    indices, repeats = np.array([0, 1, 4, 0, 1, 4]), np.array([0, 0, 0, 1, 1, 1])
    whole = next(PlanLoader(open_folder(root), transform).load([Batch(0, 16, 2, indices, repeats)]))
    assert len({image.numpy().tobytes() for image in whole.images}) == 12
    damage(root / "train/cat/001.jpg")
    loader = PlanLoader(open_folder(root, on_bad_image="skip"), transform)
    rest = next(loader.load([Batch(0, 16, 2, indices, repeats)]))
    assert rest.indices.tolist() == [0, 4, 0, 4]
    assert torch.equal(rest.images, whole.images[np.tile(indices != 1, 2)])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_file_stops_the_run_by_default(tmp_path: Path, workers: int):
    root = write_folder(tmp_path, 6, varied)
    damage(root / "train/cat/001.jpg")
    source = open_folder(root, memory_limit=0)
    loaded = eval_batches(source, EvalTransform(SMALL), 16, 4, workers=workers)
    expected = r"^\S*train/cat/001.jpg cannot be used: it cannot be decoded .*; mend or remove the file, or .* skip$"
    with pytest.raises(UserError, match=expected):
        list(loaded)


def test_targets_may_have_a_row_an_image():
    images = torch.stack([torch.from_numpy(np.array(smooth_image(i, 24, 24))) for i in range(4)])
    labels = np.eye(4, 6, dtype=np.float32)
    source = ArraySource(images, labels, tuple("abcdef"), "several labels")
    transform = TrainTransform(SMALL, AugmentSettings(crop="pad", flip=0.5))
    batch = next(PlanLoader(source, transform).load([Batch(0, 24, 2, np.array([2, 1]))]))
    assert np.array_equal(batch.targets.numpy(), labels[[2, 1, 2, 1]])
