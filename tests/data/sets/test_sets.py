"""The data sets by name: what they hold, and what each says without its files."""

import gzip
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from anysize.data.catalog import DATASETS, dataset_docs, dataset_info, load_dataset, resolve_augment
from anysize.data.settings import AugmentSettings, DataSettings
from anysize.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from anysize.registry import UserError


def test_the_data_sets_are_listed_without_torch():
    code = "import sys, anysize.data.catalog as r; print(len(r.dataset_docs())); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert all(doc.endswith(".") for doc in dataset_docs().values())


@pytest.mark.parametrize("name", sorted(set(DATASETS) - {"fashion-mini", "scenes"}))
@pytest.mark.parametrize("split", ["train", "validation"])
def test_without_its_files_each_says_which_folder_and_what_was_expected(name: str, split, tmp_path: Path):
    offers = DATASETS[name]().offers
    for targets in offers:
        with pytest.raises(UserError, match=f"data set '{name}' needs a folder: set data.root"):
            load_dataset(DataSettings(name=name), split, targets)
        with pytest.raises(UserError, match="gone"):
            load_dataset(DataSettings(name=name, root=str(tmp_path / "gone")), split, targets)
        with pytest.raises(UserError, match=str(tmp_path)) as caught:
            load_dataset(DataSettings(name=name, root=str(tmp_path)), split, targets)
    if offers == ("class",) and name not in ("folder", "imagenet"):
        assert "--data.download true" in str(caught.value)


@pytest.mark.parametrize("name", DATASETS)
def test_defaults_are_those_of_the_protocol(name: str, tmp_path: Path):
    (tmp_path / "train/a").mkdir(parents=True)
    info = DATASETS[name]().defaults
    usual = (IMAGENET_MEAN, IMAGENET_STD)
    expected = {
        "mnist": ((0.5,), (0.5,)),
        "fashion-mnist": ((0.2860,), (0.3530,)),
        "fashion-mini": ((0.2860,), (0.3530,)),
        "scenes": (info.mean, info.std),  # measured: tests/data/test_scenes.py
    }
    assert (info.mean, info.std) == expected.get(name, usual)
    assert info.flip == (0.0 if name == "mnist" else 0.5)
    if name in ("imagenet", "folder", "pack"):
        assert (info.image_size, info.crop, info.resize) == (224, "random-resized", "center-crop")
    elif name in ("coco", "folder-labels"):
        assert (info.image_size, info.crop, info.resize) == (224, "random-resized", "stretch")
    elif DATASETS[name]().offers == ("masks",):
        assert (info.image_size, info.crop, info.resize) == (513 if name == "voc" else 512, "rescale", "pad")
    else:
        assert (info.crop, info.resize) == ("pad", "stretch")


def test_fashion_mini_is_embedded():
    train, validation = (load_dataset(DataSettings(), split) for split in ("train", "validation"))
    assert (train.images.shape, validation.images.shape) == ((10_000, 28, 28, 1), (2_000, 28, 28, 1))
    assert np.bincount(train.targets).tolist() == [1000] * 10
    assert np.bincount(validation.targets).tolist() == [200] * 10
    assert train.targets[:8].tolist() == [9, 0, 0, 3, 0, 2, 7, 2]  # the original's first labels
    pixels = train.images.double() / 255
    assert abs(float(pixels.mean()) - 0.2860) < 0.003
    assert abs(float(pixels.std()) - 0.3530) < 0.003
    assert train.describe(17) == "fashion-mini train image 17"
    assert train.classes[9] == "Ankle boot"
    limited = load_dataset(DataSettings(limit=30), "train")
    assert np.bincount(limited.targets).tolist() == [3] * 10
    place = int(np.flatnonzero(train.targets == 9)[2])
    assert f"fashion-mini train image {place}" in {limited.describe(i) for i in range(30)}


def test_the_script_makes_the_embedded_files_from_idx_files(tmp_path: Path):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(10, dtype=np.uint8), 1002))
    images = np.zeros((len(labels), 28, 28), np.uint8)
    images[:, 0, 0], images[:, 3, 20] = labels, np.arange(len(labels)) % 256
    for prefix in ("train", "t10k"):
        _write_idx(tmp_path, prefix, images, labels, zipped=True)
    script = Path(__file__).parents[3] / "tools/make_fashion_mini.py"
    subprocess.run([sys.executable, script, tmp_path, tmp_path / "out"], check=True)
    mosaic = np.asarray(Image.open(tmp_path / "out/train.png"))
    kept = np.frombuffer((tmp_path / "out/train-labels.bin").read_bytes(), np.uint8)
    assert mosaic.shape == (100 * 28, 100 * 28)
    assert np.array_equal(mosaic[::28, ::28].ravel(), kept)
    left_out = np.concatenate([np.flatnonzero(labels == label)[1000:] for label in range(10)])
    assert np.array_equal(mosaic[3::28, 20::28].ravel(), np.delete(np.arange(len(labels)) % 256, left_out))


def test_fashion_mini_refuses_a_root_that_it_would_ignore():
    with pytest.raises(UserError, match=r"embedded in the package and takes no data\.root"):
        load_dataset(DataSettings(root="/data"), "train")


@pytest.mark.parametrize("layout", [".", "FashionMNIST/raw"])
@pytest.mark.parametrize("zipped", [True, False])
def test_idx_files_are_read_plain_and_zipped_in_both_places(tmp_path: Path, layout: str, zipped: bool):
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28), dtype=np.uint8)
    labels = np.array([3, 1, 4, 1, 5], dtype=np.uint8)
    _write_idx(tmp_path / layout, "t10k", images, labels, zipped)
    source = load_dataset(DataSettings(name="fashion-mnist", root=str(tmp_path)), "validation")
    assert torch.equal(source.images[..., 0], torch.from_numpy(images))
    assert source.targets.tolist() == labels.tolist()
    with pytest.raises(UserError, match=f"{tmp_path} does not hold 'fashion-mnist'; expected train-images"):
        load_dataset(DataSettings(name="fashion-mnist", root=str(tmp_path)), "train")


def test_a_damaged_idx_file_is_named(tmp_path: Path):
    _write_idx(tmp_path, "train", np.zeros((5, 28, 28), np.uint8), np.zeros(5, np.uint8), zipped=True)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=f"{path} is not a readable IDX file"):
        load_dataset(DataSettings(name="mnist", root=str(tmp_path)), "train")


def _write_idx(folder: Path, prefix: str, images: np.ndarray, labels: np.ndarray, zipped: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in ((f"{prefix}-images-idx3-ubyte", images), (f"{prefix}-labels-idx1-ubyte", labels)):
        data = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes() + array.tobytes()
        (folder / (name + ".gz" * zipped)).write_bytes(gzip.compress(data) if zipped else data)


def test_cifar_is_read_as_torchvision_stores_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    data = np.random.default_rng(0).integers(0, 256, (4, 3 * 32 * 32), dtype=np.uint8)
    (folder / "test_batch").write_bytes(pickle.dumps({"data": data, "labels": [3, 1, 2, 0]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    settings = DataSettings(name="cifar10", root=str(tmp_path))
    with pytest.raises(UserError, match="does not hold 'cifar10' as torchvision stores it, or its files are damaged"):
        load_dataset(settings, "validation")  # the checksums differ: nothing is unpickled
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr(torchvision.datasets.cifar, "check_integrity", lambda path, md5: True)
    source = load_dataset(settings, "validation")
    assert source.targets.tolist() == [3, 1, 2, 0]
    assert torch.equal(source.image(2), torch.from_numpy(data[2].reshape(3, 32, 32)))
    assert source.classes == tuple("abcdefghij")


@pytest.mark.parametrize(("split", "prefix"), [("train", "train"), ("validation", "test")])
def test_stl10_is_read_as_torchvision_stores_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, split, prefix: str):
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    data = np.random.default_rng(0).integers(0, 256, (3, 3, 96, 96), dtype=np.uint8)
    (folder / f"{prefix}_X.bin").write_bytes(data.tobytes())
    (folder / f"{prefix}_y.bin").write_bytes(bytes([1, 10, 5]))
    (folder / "class_names.txt").write_text("\n".join("abcdefghij"))
    monkeypatch.setattr(torchvision.datasets.STL10, "_check_integrity", lambda self: True)
    source = load_dataset(DataSettings(name="stl10", root=str(tmp_path)), split)
    assert source.targets.tolist() == [0, 9, 4]
    assert torch.equal(source.image(1), torch.from_numpy(data[1].transpose(0, 2, 1)))  # stored by columns
    assert source.classes == tuple("abcdefghij")


def test_an_unknown_data_set_is_answered_with_the_nearest():
    with pytest.raises(UserError, match="unknown data set 'cifar-10': did you mean 'cifar10'"):
        dataset_info(DataSettings(name="cifar-10"))


def test_automatic_augmentation_settings_are_settled_by_the_data_set():
    cifar, imagenet = (dataset_info(DataSettings(name=name)) for name in ("cifar10", "imagenet"))
    assert resolve_augment(AugmentSettings(), cifar).crop == "pad"
    assert resolve_augment(AugmentSettings(), imagenet).crop == "random-resized"
    kept = resolve_augment(AugmentSettings(crop="none", flip=0.25), cifar)
    assert (kept.crop, kept.flip) == ("none", 0.25)
