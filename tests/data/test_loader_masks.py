"""Images with masks through the loader: shapes in one batch, copies, workers, and pairs that do not fit."""

from pathlib import Path

import numpy as np
import pytest
import torch
from image_files import damage
from loading import eval_batches
from mask_folders import save_grey
from PIL import Image

from anysize.data.augment.joint import JointEvalTransform, JointTrainTransform
from anysize.data.augment.joint_geometry import mean_colour
from anysize.data.augment.transform import normalize
from anysize.data.catalog import load_dataset
from anysize.data.formats.mask_files import MaskFiles
from anysize.data.loader import LoadedBatch, PlanLoader
from anysize.data.settings import AugmentSettings, DataSettings
from anysize.data.source import VOID, ArraySource, FileSource
from anysize.preprocessing import Preprocessing
from anysize.registry import UserError
from anysize.sizes.batch import Batch
from anysize.sizes.batch_plan import BatchPlan
from anysize.sizes.mix import SizeMix
from anysize.sizes.schedule import SizeSchedule

BASE = 48
INPUT = Preprocessing(BASE, resize="pad")
SHAPES = ((40, 70), (60, 30), (48, 48), (33, 47), (20, 20), (64, 65), (50, 31))
COLORS = np.random.default_rng(3).permutation(256).astype(np.uint8)  # of class k: red COLORS[k]
CLASSES = 5


def pair(number: int) -> tuple[np.ndarray, np.ndarray]:
    """An image whose red says the class of each pixel, in blocks that tell directions apart; and its mask."""
    height, width = SHAPES[number]
    blocks = np.random.default_rng(number).integers(0, CLASSES, (9, 9), dtype=np.uint8)
    mask = np.kron(blocks, np.ones((8, 8), np.uint8))[:height, :width]
    image = np.stack([COLORS[mask], np.full_like(mask, number), 255 - COLORS[mask]], axis=2)
    return image, mask


def write(root: Path) -> Path:
    (root / "images").mkdir(parents=True)
    for number in range(len(SHAPES)):
        image, mask = pair(number)
        Image.fromarray(image).save(root / f"images/{number}.png")
        save_grey(root / f"masks/{number}.png", mask)
    return root


def open_pairs(root: Path, policy: str = "error") -> FileSource:
    count = len(SHAPES)
    masks = MaskFiles([str(root / f"masks/{i}.png") for i in range(count)], CLASSES)
    names = tuple(str(i) for i in range(CLASSES))
    return FileSource([str(root / f"images/{i}.png") for i in range(count)], masks, names, "pairs", policy)


@pytest.fixture
def pairs(tmp_path: Path) -> FileSource:
    return open_pairs(write(tmp_path))


def levels(images: torch.Tensor) -> np.ndarray:
    """Normalised input (N, 3, H, W) back to uint8 levels (N, H, W, 3)."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (INPUT.mean, INPUT.std))
    return (255 * (images * std + mean)).round().permute(0, 2, 3, 1).byte().numpy()


def assert_equal(ours: list[LoadedBatch], expected: list[LoadedBatch]) -> None:
    assert len(ours) == len(expected)
    for a, b in zip(ours, expected, strict=True):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.targets, b.targets)
        assert np.array_equal(a.boxes, b.boxes)
        assert np.array_equal(a.shapes, b.shapes)
        assert np.array_equal(a.indices, b.indices)
        assert (a.size, a.copies, a.epoch, a.step) == (b.size, b.copies, b.epoch, b.step)


def test_at_the_base_size_each_image_of_a_batch_keeps_its_pixels_and_its_mask(pairs: FileSource) -> None:
    loaded = list(eval_batches(pairs, JointEvalTransform(INPUT), BASE, batch_size=4))
    assert [batch.indices.tolist() for batch in loaded] == [[0, 1, 2, 3], [4, 5, 6]]
    for batch in loaded:
        own = np.array([SHAPES[i] for i in batch.indices])
        assert batch.images.dtype == torch.float32
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        assert batch.images.shape[2:] == tuple(np.maximum(own, BASE).max(axis=0))  # the largest canvas of the batch
        assert batch.targets.dtype == torch.uint8
        assert batch.targets.shape == (len(own), *own.max(axis=0))
        assert batch.shapes.tolist() == own.tolist()
        for row, number in enumerate(batch.indices):
            image, mask = pair(number)
            top, left, height, width = batch.boxes[row]
            assert (height, width) == SHAPES[number]
            pixels = levels(batch.images)[row]
            assert np.array_equal(pixels[top : top + height, left : left + width], image)
            around = np.ones(pixels.shape[:2], bool)
            around[top : top + height, left : left + width] = False
            assert (pixels[around] == mean_colour(INPUT)).all()
            target = batch.targets[row].numpy()
            assert np.array_equal(target[:height, :width], mask)
            assert (target[height:] == VOID).all()
            assert (target[:, width:] == VOID).all()


def test_at_half_the_base_size_images_shrink_and_masks_do_not(pairs: FileSource) -> None:
    (batch,) = eval_batches(pairs, JointEvalTransform(INPUT), BASE // 2, batch_size=7)
    assert [tuple(box[2:]) for box in batch.boxes] == [(round(h / 2), round(w / 2)) for h, w in SHAPES]
    assert [tuple(shape) for shape in batch.shapes] == list(SHAPES)
    for row in range(len(SHAPES)):
        image, mask = pair(row)
        assert np.array_equal(batch.targets[row, : mask.shape[0], : mask.shape[1]], mask)
        top, left, height, width = batch.boxes[row]
        smaller = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
        found = levels(batch.images)[row, top : top + height, left : left + width]
        assert np.abs(found.astype(int) - np.asarray(smaller)).max() <= 1


def test_stretched_images_fill_their_squares(pairs: FileSource) -> None:
    transform = JointEvalTransform(Preprocessing(BASE, resize="stretch"))
    (batch,) = eval_batches(pairs, transform, 32, batch_size=7)
    assert batch.images.shape == (7, 3, 32, 32)
    assert (batch.boxes == [0, 0, 32, 32]).all()
    assert [tuple(shape) for shape in batch.shapes] == list(SHAPES)


def test_copies_come_copy_by_copy_each_with_the_mask_of_its_own_crop(pairs: FileSource) -> None:
    """At factor 1 no pixel is interpolated, so that an image's red tells what its mask must be."""
    transform = JointTrainTransform(INPUT, AugmentSettings(crop="rescale", rescale=(1.0, 1.0), flip=0.5), seed=1)
    order = np.array([5, 0, 4])
    batch = next(PlanLoader(pairs, transform).load([Batch(0, BASE, 3, order)]))
    assert batch.images.shape == (9, 3, BASE, BASE)
    assert batch.targets.shape == (9, BASE, BASE)
    assert batch.copies == 3
    assert batch.indices.tolist() == order.tolist()
    pixels, class_of = levels(batch.images), np.argsort(COLORS)
    for row, number in enumerate(np.tile(order, 3)):
        inside = batch.targets[row].numpy() != VOID
        assert (pixels[row][inside][:, 1] == number).all()
        assert np.array_equal(class_of[pixels[row][inside][:, 0]], batch.targets[row].numpy()[inside])
        assert (pixels[row][~inside] == mean_colour(INPUT)).all()
        height, width = np.minimum(SHAPES[number], BASE)
        assert height * (width - 1) <= inside.sum() <= height * width  # one more pixel is padded where halves differ
    assert len({image.numpy().tobytes() for image in batch.images[::3]}) == 3  # of the image that leaves most choice


@pytest.mark.parametrize("crop", ["rescale", "random-resized"])
def test_workers_change_nothing_and_going_on_is_slicing(pairs: FileSource, crop: str) -> None:
    augment = AugmentSettings(crop=crop, flip=0.5, color_jitter=0.3, lighting=0.1)
    transform = JointTrainTransform(INPUT, augment, seed=7)
    mix = SizeMix.custom({24: 0.5, 48: 0.5}, base=BASE, budget="D+")
    plan = BatchPlan(len(pairs), SizeSchedule.constant(mix), 2, seed=5)
    with_workers = PlanLoader(pairs, transform, workers=2)
    for epoch in (0, 2):
        batches = plan.batches(epoch)
        expected = list(PlanLoader(pairs, transform).load(batches))
        assert {batch.size for batch in expected} == {24, 48}
        assert all(np.all(np.array(batch.targets.shape[1:]) == batch.size) for batch in expected)
        assert_equal(list(with_workers.load(batches)), expected)
        rest = list(PlanLoader(pairs, transform).load(batches[1:]))
        assert all(torch.equal(a.images, b.images) for a, b in zip(rest, expected[1:], strict=True))


def test_workers_change_nothing_in_evaluation(pairs: FileSource) -> None:
    transform = JointEvalTransform(INPUT)
    ours, theirs = (list(eval_batches(pairs, transform, 36, 3, workers=workers)) for workers in (2, 0))
    assert_equal(ours, theirs)


def test_images_in_memory_come_as_files_do(tmp_path: Path) -> None:
    scenes = load_dataset(DataSettings(name="scenes", limit=len(SHAPES)), "train", "masks")
    assert isinstance(scenes, ArraySource)
    for number in range(len(SHAPES)):
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.fromarray(scenes.image(number).permute(1, 2, 0).numpy()).save(tmp_path / f"images/{number}.png")
        save_grey(tmp_path / f"masks/{number}.png", scenes.read(number)[1].numpy())
    files = open_pairs(tmp_path)
    files.targets = MaskFiles([str(tmp_path / f"masks/{i}.png") for i in range(len(SHAPES))], 11)
    transform = JointTrainTransform(Preprocessing(128, resize="pad"), AugmentSettings(crop="rescale", flip=0.5), 3)
    batches = [Batch(1, 64, 2, np.array([3, 1])), Batch(1, 128, 1, np.array([6, 0, 2]))]
    assert_equal(list(PlanLoader(scenes, transform).load(batches)), list(PlanLoader(files, transform).load(batches)))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_mask_of_another_size_than_its_image_is_told_with_both_files(tmp_path: Path, workers: int) -> None:
    root = write(tmp_path)
    save_grey(root / "masks/3.png", pair(3)[1][:-1])
    loaded = eval_batches(open_pairs(root), JointEvalTransform(INPUT), BASE, 2, workers=workers)
    expected = (
        rf"^{root}/images/3\.png cannot be used: its mask {root}/masks/3\.png has 32 x 47 pixels and the image "
        r"33 x 47 \(height x width\); expected the same; mend or remove the file, or .*--data\.on_bad_image skip$"
    )
    with pytest.raises(UserError, match=expected):
        list(loaded)


@pytest.mark.parametrize("workers", [0, 2])
def test_pairs_that_cannot_be_used_are_left_out_and_named_once(
    tmp_path: Path, workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    root = write(tmp_path)
    save_grey(root / "masks/1.png", pair(1)[1].T)
    damage(root / "images/4.png")
    (root / "masks/5.png").unlink()
    save_grey(root / "masks/6.png", pair(6)[1] + CLASSES)
    source = open_pairs(root, "skip")
    loader = PlanLoader(source, JointEvalTransform(INPUT), workers=workers)
    batches = [Batch(0, BASE, 1, np.array(indices)) for indices in ([0, 1], [4, 5, 6], [2, 3])]
    for _ in range(2):
        loaded = list(loader.load(batches))
        assert [(batch.step, batch.indices.tolist()) for batch in loaded] == [(0, [0]), (2, [2, 3])]
        assert loaded[0].images.shape == (1, 3, 48, 70)  # the pair that was left out pads nobody
        assert loaded[0].targets.shape == (1, 40, 70)
        assert loaded[0].shapes.tolist() == [[40, 70]]
        assert len(loaded[1].boxes) == 2
    assert sorted(loader.bad_files) == [str(root / f"images/{i}.png") for i in (1, 4, 5, 6)]
    reasons = loader.bad_files.values()
    for part in ("masks/1.png has 30 x 60 pixels", "cannot be decoded", "masks/5.png is not there", "class number 9"):
        assert sum(part in reason for reason in reasons) == 1
    assert all(caplog.text.count(f"left out {root}/images/{i}.png") == 1 for i in (1, 4, 5, 6))


def test_finish_normalises_as_for_images_with_a_class(pairs: FileSource) -> None:
    (batch,) = eval_batches(pairs.subset(np.array([5])), JointEvalTransform(INPUT), BASE, 1)
    assert torch.equal(batch.images, normalize(torch.from_numpy(pair(5)[0]).permute(2, 0, 1)[None], INPUT))
