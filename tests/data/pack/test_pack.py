"""Packs hold what was packed: files to the byte, levels, targets of every kind; and give it back."""

import errno
import filecmp
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from image_files import smooth_image, write_folder
from mask_folders import mask_of, save_grey, save_image
from packs import opened, pack_folder
from PIL import Image

from anysize.data.augment.plain import TrainTransform
from anysize.data.augment.square import resize
from anysize.data.catalog import build_preprocessing, dataset_info, load_dataset
from anysize.data.loader import PlanLoader, sequential_batches
from anysize.data.pack.format import level_size, parse_levels, read_manifest
from anysize.data.pack.source import PackSource
from anysize.data.pack.unpack import unpack
from anysize.data.settings import AugmentSettings, DataSettings
from anysize.data.source import ArraySource
from anysize.preprocessing import Preprocessing
from anysize.registry import UserError

SIZES = ((40, 60), (64, 48), (20, 24), (12, 12))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of four images: two larger than both levels, one between them, one smaller than both."""
    return write_folder(tmp_path_factory.mktemp("folder"), count=4, size=lambda i: SIZES[i])


@pytest.fixture(scope="module")
def pack(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack_folder(root, tmp_path_factory.mktemp("pack") / "p")


def same(one: Path, other: Path) -> bool:
    """Whether two folders hold the same files of the same content."""
    names = [{path.relative_to(each) for path in each.rglob("*") if path.is_file()} for each in (one, other)]
    return names[0] == names[1] and all(filecmp.cmp(one / name, other / name, shallow=False) for name in names[0])


def test_in_full_images_targets_and_names_are_those_of_the_files(root: Path, pack: Path, tmp_path: Path) -> None:
    for split in ("train", "validation"):
        files, packed = (
            load_dataset(each, split) for each in (DataSettings(name="folder", root=str(root)), opened(pack))
        )
        assert isinstance(packed, PackSource)
        assert (packed.classes, len(packed), packed.channels) == (files.classes, 8, 3)
        for index in range(len(files)):
            image, target, stored = packed.read(index)
            assert torch.equal(image, files.image(index))
            assert int(target) == files.targets[index]
            assert stored == tuple(image.shape[1:])
            assert packed.data(index) == Path(files.describe(index)).read_bytes()
            assert packed.describe(index) == f"{pack / split}: {Path(files.describe(index)).relative_to(root)}"
    part = pickle.loads(pickle.dumps(packed.subset(np.array([5, 2]))))  # as for a process that is not forked
    assert torch.equal(part.image(0), packed.image(5))
    assert (part.describe(1), part.targets.tolist()) == (packed.describe(2), [1, 0])
    whole = pickle.loads(pickle.dumps(packed))
    assert len(pickle.dumps(packed)) < 5000  # the index is mapped again, not sent
    assert torch.equal(whole.read(7)[1], packed.read(7)[1])
    assert unpack(pack, tmp_path / "out")[1] == {}
    assert same(tmp_path / "out/train", root / "train")
    assert same(tmp_path / "out/validation", root / "val")
    with pytest.raises(UserError, match="is there already"):
        unpack(pack, tmp_path / "out")


def test_what_was_unpacked_in_part_is_not_taken_for_all(pack: Path, tmp_path: Path) -> None:
    def full(done: int, total: int) -> None:
        if done == 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(UserError, match=r"out cannot be written \(No space left .*\), and nothing of it is left"):
        unpack(pack, tmp_path / "out", on_image=full)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("scale", "shapes"),
    [
        (0.0, [(16, 24), (22, 16), (16, 20), (12, 12)]),
        (0.4, [(16, 24), (43, 32), (16, 20), (12, 12)]),
        (0.41, [(32, 48), (43, 32), (16, 20), (12, 12)]),
        (0.81, [(40, 60), (64, 48), (20, 24), (12, 12)]),
        (1.0, list(SIZES)),
    ],
)
def test_an_image_is_read_at_the_smallest_level_that_suffices_and_none_is_enlarged(
    pack: Path, scale: float, shapes: list[tuple[int, int]]
) -> None:
    source = load_dataset(opened(pack), "train")
    asked = []
    for index, shape in enumerate(shapes):
        image, _, stored = source.read(index, lambda height, width: asked.append((height, width)) or scale)
        assert tuple(image.shape) == (3, *shape)
        assert stored == SIZES[index] == asked[-1]
        shrunk = source.image(index).float().mean((1, 2)) - image.float().mean((1, 2))
        assert shrunk.abs().max() < 4  # the same picture


def test_batches_are_cut_from_levels_in_training_alone(root: Path, pack: Path) -> None:
    transform = TrainTransform(Preprocessing(16), AugmentSettings(crop="random-resized", flip=0.5))
    batches = sequential_batches(8, size=16, batch_size=8)
    files = load_dataset(DataSettings(name="folder", root=str(root)), "train")
    packed = load_dataset(opened(pack), "train")
    whole, trained = PlanLoader(files, transform), PlanLoader(packed, transform, reduced=True)
    (from_files,), (from_levels,), (in_full,) = (
        list(loader.load(batches, **how)) for loader, how in ((whole, {}), (trained, {}), (trained, {"in_full": True}))
    )
    assert torch.equal(in_full.images, from_files.images)  # as evaluation calibrates
    assert torch.equal(in_full.targets, from_levels.targets)
    different = (from_levels.images - from_files.images).abs().mean()
    assert 0 < different < 0.15  # of a standard deviation: the same crops, from smaller images


def test_fewer_pixels_may_be_enough(pack: Path) -> None:
    source = load_dataset(opened(pack, enlarge=2.0), "train")
    sides = [source.read(0, lambda *shape, scale=scale: scale)[0].shape[1] for scale in (0.8, 0.81, 1.0)]
    assert sides == [16, 32, 32]
    with pytest.raises(UserError, match=r"data\.enlarge is set, but data set 'folder' has its images at one size"):
        load_dataset(DataSettings(name="folder", enlarge=2.0), "train")


def test_a_level_is_decoded_at_a_smaller_scale_where_the_setting_says_so(pack: Path) -> None:
    full, scaled = (load_dataset(opened(pack, decode=how), "train") for how in ("full", "scaled"))
    for index, scale, shape in ((0, 0.1, (4, 6)), (0, 0.2, (8, 12)), (1, 0.4, (43, 32)), (0, 0.9, (40, 60))):
        image, _, stored = scaled.read(index, lambda *shape, scale=scale: scale)
        assert tuple(image.shape[1:]) == shape
        assert stored == SIZES[index]
        level, _, _ = full.read(index, lambda *shape, scale=scale: scale)
        assert (level.float().mean((1, 2)) - image.float().mean((1, 2))).abs().max() < 3
    assert torch.equal(scaled.read(0)[0], full.read(0)[0])  # evaluation


def test_raw_levels_and_a_pack_without_the_originals(root: Path, tmp_path: Path) -> None:
    raw = pack_folder(root, tmp_path / "raw", "original,32,16", pixels="raw")
    source = load_dataset(opened(raw), "train")
    for index, (height, width) in enumerate(SIZES):
        side = 16 if index < 3 else 12
        level, _, _ = source.read(index, lambda height, width: 0.0)
        full = source.image(index)
        size = level_size(height, width, 16)
        assert min(level.shape[1:]) == side
        expected = resize(full, size, "bicubic") if side == 16 else full
        assert torch.equal(level, expected)  # shrunk once, from the image in full

    for pixels, name in (("raw", "r"), ("jpeg", "j")):
        small = pack_folder(root, tmp_path / name, "32", pixels=pixels)
        source = load_dataset(opened(small), "train")
        sizes = [tuple(source.read(index)[0].shape[1:]) for index in range(4)]
        assert sizes == [(32, 48), (43, 32), (20, 24), (12, 12)]
        assert source.read(0)[2] == (32, 48)  # in full is what there is
        assert source.read(1, lambda *shape: 0.1)[2] == (43, 32)
        files = load_dataset(DataSettings(name="folder", root=str(root)), "train")
        assert torch.equal(source.image(2), files.image(2))  # it is no larger than the level
        assert "evaluation sees images shrunk to a shorter side of 32" in read_manifest(small).evaluated
        unpack(small, tmp_path / f"{name} files")
        told = load_dataset(DataSettings(name="folder", root=str(tmp_path / f"{name} files")), "train")
        assert torch.equal(told.image(0), source.image(0))
    assert not read_manifest(raw).evaluated


def test_labels_pack_with_their_rows(tmp_path: Path) -> None:
    settings = DataSettings(name="scenes", limit=6)
    scenes = load_dataset(settings, "train", "labels")
    pack = pack_folder(None, tmp_path / "p", "original,32", name="scenes", limit=6)
    packed = load_dataset(opened(pack), "train", "labels")
    assert packed.targets.shape == (6, 3, 10)
    assert np.array_equal(packed.targets, scenes.targets)
    assert all(torch.equal(packed.read(i)[0], scenes.image(i)) for i in range(6))
    assert torch.equal(packed.read(3)[1], scenes.target(3, (128, 128)))
    assert dataset_info(opened(pack), "labels").areas == dataset_info(settings, "labels").areas == (256, 2304)
    unpack(pack, tmp_path / "out")
    files = load_dataset(DataSettings(name="folder-labels", root=str(tmp_path / "out")), "train", "labels")
    assert files.classes == scenes.classes
    assert np.array_equal(files.targets[:, 0], scenes.targets.any(1))
    assert torch.equal(files.image(5), scenes.image(5))
    with pytest.raises(UserError, match="has labels, and the task wants one class an image"):
        load_dataset(opened(pack), "train")


def test_masks_pack_without_loss(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for split in ("train", "validation"):
        for i in range(3):
            save_image(root / split / f"images/{i}.jpg", i)
            save_grey(root / split / f"masks/{i}.png", mask_of(0, 7, 255, i))
    settings = {"name": "folder-masks", "mask_values": (0, 7, 1, 2)}
    pack = pack_folder(root, tmp_path / "p", "original,16", **settings)
    files = load_dataset(DataSettings(root=str(root), **settings), "train", "masks")
    packed = load_dataset(opened(pack), "train", "masks").subset(np.array([2, 1]))
    assert packed.classes == files.classes
    for place, index in enumerate((2, 1)):
        image, mask, stored = packed.read(place, lambda *shape: 0.1)
        assert image.shape == (3, 16, 22)  # the mask is that of the image in full
        assert stored == mask.shape == (30, 40)
        assert torch.equal(mask, files.read(index)[1])
    infos = [dataset_info(each, "masks") for each in (DataSettings(root=str(root), **settings), opened(pack))]
    assert (infos[1].crop, infos[1].resize, infos[1].image_size) == (infos[0].crop, infos[0].resize, 40)
    assert infos[1].num_classes == len(files.classes)
    unpack(pack, tmp_path / "out")
    back = load_dataset(DataSettings(name="folder-masks", root=str(tmp_path / "out")), "train", "masks")
    assert torch.equal(back.read(1)[1], files.read(1)[1])
    assert (tmp_path / "out/train/images/1.jpg").read_bytes() == (root / "train/images/1.jpg").read_bytes()
    with pytest.raises(UserError, match="the levels have no `original`, but a mask"):
        pack_folder(root, tmp_path / "q", "16", **settings)


def test_grey_images_in_memory_pack_as_files_and_are_held_in_memory_again(tmp_path: Path) -> None:
    pack = pack_folder(None, tmp_path / "p", "original,16", name="fashion-mini", limit=20)
    settings = DataSettings(limit=20)
    for split in ("train", "validation"):
        arrays, packed = load_dataset(settings, split), load_dataset(opened(pack), split)
        assert torch.equal(packed.images, arrays.images)
        assert packed.targets.tolist() == arrays.targets.tolist()
    shrunk, _, _ = load_dataset(opened(pack), "train", preload=False).read(0, lambda *shape: 0.1)
    assert shrunk.shape == (1, 16, 16)
    info = dataset_info(opened(pack))
    assert (info.mean, info.crop, info.train_images, info.num_classes) == ((0.2860,), "pad", 20, 10)
    assert build_preprocessing(opened(pack), info).image_size == 28
    unpack(pack, tmp_path / "out")
    files = load_dataset(DataSettings(name="folder", root=str(tmp_path / "out")), "train")
    assert files.classes[-1] == "Trouser"
    assert "T-shirt-top" in files.classes
    assert len(load_dataset(opened(pack, limit=10), "train")) == 10


def test_images_in_an_archive_pack_as_files_do(root: Path, pack: Path, tmp_path: Path) -> None:
    (tmp_path / "tars").mkdir()
    for name in ("train", "val"):
        with tarfile.open(tmp_path / f"tars/{name}.tar", "w") as archive:
            archive.add(root / name, ".")
    packed = pack_folder(tmp_path / "tars", tmp_path / "p")
    assert load_dataset(opened(packed), "train").file_name(3) == "train.tar/cat/003.jpg"
    unpack(packed, tmp_path / "out")
    assert same(tmp_path / "out/train", root / "train")
    assert pack_folder(tmp_path / "tars", packed) == packed  # it is known again
    shards = ("train/original-00000.shard", "validation/16-00000.shard")
    assert all((packed / shard).read_bytes() == (pack / shard).read_bytes() for shard in shards)


def test_images_of_a_pack_are_left_out_by_their_names(pack: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("train: train/cat/001.jpg\nvalidation: val/dog/003.jpg\n")
    settings = opened(pack, exclude=str(tmp_path / "list.txt"))
    train, validation = load_dataset(settings, "train"), load_dataset(settings, "validation")
    assert [train.file_name(i)[-11:] for i in range(3)] == ["cat/000.jpg", "cat/002.jpg", "cat/003.jpg"]
    assert (len(train), len(validation)) == (7, 7)
    assert str(train.left_out) == f"1 listed in data.exclude ({pack}/train: train/cat/001.jpg)"


def test_splits_are_those_that_were_packed(root: Path, tmp_path: Path) -> None:
    alone = write_folder(tmp_path / "train alone", count=10, splits=("train",))
    pack = pack_folder(alone, tmp_path / "p")
    with pytest.raises(UserError, match=r"has no validation images, but train; .*--data.val_split 0.1"):
        load_dataset(opened(pack), "validation")
    sizes = [len(load_dataset(opened(pack, val_split=0.2), split)) for split in ("train", "validation")]
    assert sizes == [16, 4]
    held_out = pack_folder(alone, tmp_path / "q", val_split=0.2)
    assert {split: each.images for split, each in read_manifest(held_out).splits.items()} == {
        "train": 16,
        "validation": 4,
    }
    with pytest.raises(UserError, match=r"data.val_split is 0.2, but the pack .* has validation images"):
        load_dataset(opened(held_out, val_split=0.2), "train")
    for name, value in (("categories", ("cat",)), ("areas", (1.0, 2.0)), ("renamed_classes", {"a": "cat"})):
        with pytest.raises(UserError, match=f"data.{name} is set, but the targets of a pack are settled"):
            load_dataset(opened(held_out, **{name: value}), "train")
    with pytest.raises(UserError, match=r"data\.exif is true, but the images of the pack .* were not turned"):
        load_dataset(opened(held_out, exif=True), "train")


def test_photographs_are_turned_as_they_were_when_they_were_packed(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / "root" / split / name).mkdir(parents=True)
            exif = Image.Exif()
            exif[274] = 6
            smooth_image(1, 20, 40).save(tmp_path / f"root/{split}/{name}/1.jpg", exif=exif)
    pack = pack_folder(tmp_path / "root", tmp_path / "p", "original,16", exif=True)
    source = load_dataset(opened(pack), "train", preload=False)
    assert source.read(0)[0].shape == (3, 40, 20)
    assert source.read(0, lambda *shape: 0.1)[0].shape == (3, 32, 16)


def test_training_images_may_be_laid_in_random_order_in_chunks(
    root: Path, pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anysize.data.pack.write.MIB", 2500)
    mixed = pack_folder(root, tmp_path / "p", shuffle=True)
    assert pack_folder(root, mixed, shuffle=True) == mixed  # it is done
    with pytest.raises(UserError, match=r"is a pack already, .* of other images or with other options"):
        pack_folder(root, mixed)
    plain, source = (load_dataset(opened(each, memory_limit=0), "train") for each in (pack, mixed))
    assert isinstance(source, PackSource)
    names = [source.file_name(i) for i in range(8)]
    assert names != sorted(names) == [plain.file_name(i) for i in range(8)]
    for i, name in enumerate(names):
        there = plain.read(sorted(names).index(name))
        assert all(torch.equal(a, b) for a, b in zip(source.read(i)[:2], there[:2], strict=True))
    validation = load_dataset(opened(mixed), "validation")
    assert [validation.file_name(i) for i in range(8)] == sorted(validation.file_name(i) for i in range(8))

    parts = source.index.rows["part"].tolist()
    assert source.chunks() == tuple(parts.count(part) for part in range(max(parts) + 1))
    assert len(source.chunks()) > 2
    assert source.subset(np.array([0, 7, 1])).chunks() == (1, 1, 1)  # in another order
    assert plain.chunks() == (8,)
    assert load_dataset(DataSettings(name="folder", root=str(root)), "train").chunks() == ()


def test_images_that_are_shuffled_by_chunks_stay_in_their_pack(tmp_path: Path) -> None:
    small = pack_folder(write_folder(tmp_path / "root", 2), tmp_path / "p", "original")
    assert isinstance(load_dataset(opened(small), "train"), ArraySource)
    assert isinstance(load_dataset(opened(small, shuffle_chunks=1), "train"), PackSource)
    with pytest.raises(UserError, match="the images of data set 'folder' lie in no chunks; remove it, or pack them"):
        load_dataset(DataSettings(name="folder", root=str(tmp_path / "root"), shuffle_chunks=1), "train")


@pytest.mark.parametrize("levels", ["", "0", "original,original", "64,64", "64,huge", "5", "20000", "-64"])
def test_levels_that_are_none_are_refused(levels: str) -> None:
    with pytest.raises(UserError, match=r"--levels is '.*; expected"):
        parse_levels(levels)
