"""Whatever goes to the processes that load images can be sent there, and reads the same: data sets, kinds, transforms.

Linux forks them by default, which sends nothing; packs in object storage, other systems and newer Pythons start them
anew, and then every part of a source and of a transform is pickled.
"""

import importlib
import inspect
import io
import itertools
import multiprocessing
import pickle
import pkgutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from coco_files import write_coco
from image_files import varied, write_folder
from mask_folders import mask_of, save_grey, save_image, save_palette
from packs import opened, pack_folder

from anysize import data
from anysize.data.catalog import DATASETS, load_dataset
from anysize.data.kinds.base import create_kind
from anysize.data.settings import AugmentSettings, DataSettings
from anysize.data.source import FileTargets, Source
from anysize.preprocessing import Preprocessing
from anysize.sizes.batch import Batch

Made = tuple[DataSettings, str]


def embedded(name: str, targets: str) -> Callable[[Path], Made]:
    return lambda at: (DataSettings(name=name, limit=6), targets)


def folder(at: Path, **settings: Any) -> Made:
    return DataSettings(name="folder", root=str(write_folder(at, 3, varied)), **settings), "class"


def tars(at: Path, name: str = "folder") -> Made:
    root = write_folder(at / "files", 3, varied)
    for split in ("train", "val"):
        with tarfile.open(at / f"{split}.tar", "w") as tar:
            tar.add(root / split, arcname=".")
    return DataSettings(name=name, root=str(at), decode="scaled"), "class"


def folder_labels(at: Path) -> Made:
    for split in ("train", "validation"):
        for i in range(3):
            save_image(at / f"images/{split}{i}.png", i, 30 + i)
        rows = "".join(f"images/{split}{i}.png,{i % 2},1\n" for i in range(3))
        (at / f"{split}.csv").write_text(f"image,cat,dog\n{rows}")
    return DataSettings(name="folder-labels", root=str(at)), "labels"


def folder_masks(at: Path) -> Made:
    for split, i in itertools.product(("train", "validation"), range(3)):
        save_image(at / split / f"images/{i}.jpg", i, 30 + i)
        save_grey(at / split / f"masks/{i}.png", mask_of(0, 1, 255, height=30 + i))
    (at / "classes.txt").write_text("nothing\nthing\n")
    return DataSettings(name="folder-masks", root=str(at)), "masks"


def voc(at: Path) -> Made:
    year = at / "VOCdevkit/VOC2012"
    (year / "ImageSets/Segmentation").mkdir(parents=True)
    for split in ("train", "val"):
        (year / f"ImageSets/Segmentation/{split}.txt").write_text(f"{split}0\n{split}1\n")
        for i in range(2):
            save_image(year / f"JPEGImages/{split}{i}.jpg", i)
            save_palette(year / f"SegmentationClass/{split}{i}.png", mask_of(0, i + 1, 255))
    return DataSettings(name="voc", root=str(at), categories=("aeroplane", "bicycle")), "masks"


def coco(targets: str) -> Callable[[Path], Made]:
    return lambda at: (DataSettings(name="coco", root=str(write_coco(at))), targets)


def packed(of: Callable[[Path], Made], pixels: str = "jpeg", **settings: Any) -> Callable[[Path], Made]:
    """A pack of a data set; with `stream_limit` read by its address, as from object storage."""

    def make(at: Path) -> Made:
        chosen, targets = of(at / "data")
        root = Path(chosen.root) if chosen.root else None
        how = {"name": chosen.name, "targets": targets, "limit": chosen.limit, "pixels": pixels}
        pack = pack_folder(root, at / "pack", **how)
        return opened(f"file://{pack}" if "stream_limit" in settings else pack, **settings), targets

    return make


def idx(name: str) -> Callable[[Path], Made]:
    def make(at: Path) -> Made:
        at.mkdir(parents=True, exist_ok=True)
        arrays = np.zeros((4, 28, 28), np.uint8), np.arange(4, dtype=np.uint8)
        for prefix, array in itertools.product(("train", "t10k"), arrays):
            kind = f"{'images' if array.ndim == 3 else 'labels'}-idx{array.ndim}-ubyte"
            head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
            (at / f"{prefix}-{kind}").write_bytes(head + array.tobytes())
        return DataSettings(name=name, root=str(at)), "class"

    return make


def cifar(name: str, below: str, files: tuple[str, ...], meta: str, labels: str) -> Callable[[Path], Made]:
    def make(at: Path) -> Made:
        inner = at / below
        inner.mkdir(parents=True)
        for i, file in enumerate(files):
            (inner / file).write_bytes(pickle.dumps({"data": np.full((2, 3072), i, np.uint8), labels: [1, 0]}))
        (inner / meta).write_bytes(pickle.dumps({labels.replace("labels", "label_names"): ["a", "b"]}))
        return DataSettings(name=name, root=str(at)), "class"

    return make


def stl10(at: Path) -> Made:
    inner = at / "stl10_binary"
    inner.mkdir(parents=True)
    for prefix in ("train", "test"):
        (inner / f"{prefix}_X.bin").write_bytes(bytes(range(256)) * (2 * 3 * 96 * 96 // 256))
        (inner / f"{prefix}_y.bin").write_bytes(bytes([1, 2]))
    (inner / "class_names.txt").write_text("\n".join("abcdefghij"))
    return DataSettings(name="stl10", root=str(at)), "class"


CIFAR10 = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch")
MADE: dict[str, Callable[[Path], Made]] = {
    "fashion-mini": embedded("fashion-mini", "class"),
    "scenes labels": embedded("scenes", "labels"),
    "scenes masks": embedded("scenes", "masks"),
    "mnist": idx("mnist"),
    "fashion-mnist": idx("fashion-mnist"),
    "cifar10": cifar("cifar10", "cifar-10-batches-py", CIFAR10, "batches.meta", "labels"),
    "cifar100": cifar("cifar100", "cifar-100-python", ("train", "test"), "meta", "fine_labels"),
    "stl10": stl10,
    "folder": folder,
    "folder scaled, turned": lambda at: folder(at, decode="scaled", exif=True, on_bad_image="skip"),
    "folder of tars": tars,
    "imagenet": lambda at: tars(at, "imagenet"),
    "folder-labels": folder_labels,
    "folder-masks": folder_masks,
    "voc": voc,
    "coco labels": coco("labels"),
    "coco masks": coco("masks"),
    "pack": packed(folder, decode="scaled"),
    "pack raw": packed(folder, "raw", enlarge=2.0),
    "pack labels": packed(folder_labels),
    "pack masks": packed(folder_masks),
    "pack of arrays": packed(embedded("fashion-mini", "class")),
    "pack streamed": packed(folder, stream_limit=5),
    "pack streamed and kept": packed(folder, stream_limit=5, stream_cache=64),
    "pack streamed, raw": packed(folder, "raw", stream_limit=5, stream_cache=64),
    "pack streamed, masks": packed(folder_masks, stream_limit=5, stream_cache=64),
}


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """torchvision's sets take what the tests write for the published files; the caches are the test's own."""
    for name in ("CIFAR10", "CIFAR100", "STL10"):
        monkeypatch.setattr(getattr(torchvision.datasets, name), "_check_integrity", lambda self: True)
    monkeypatch.setattr(torchvision.datasets.cifar, "check_integrity", lambda path, md5: True)
    monkeypatch.setenv("ANYSIZE_CACHE", str(tmp_path / "cache"))


def seen(source: Source) -> list[Any]:
    """All that a process that loads images may ask of a source."""
    indices = list(range(len(source)))
    needs = [None if i % 2 else (lambda height, width: 0.3) for i in indices]
    source.ahead(indices, needs)
    found: list[Any] = [source.classes, source.name, source.channels, source.forks, dict(source.bad_files)]
    for index, need in zip(indices, needs, strict=True):
        image, target, stored = source.read(index, need)
        about = (source.describe(index), source.header(index), source.shape(index))
        found += [image.tolist(), target.tolist(), tuple(stored), about]
    return found


class _Noting(pickle.Pickler):
    """Notes of which classes objects are sent."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.classes: set[type] = set()

    def reducer_override(self, obj: Any) -> Any:
        self.classes.add(type(obj))
        return NotImplemented


@pytest.mark.parametrize("name", MADE)
def test_a_source_that_was_sent_reads_the_same(name: str, tmp_path: Path, unchecked: None) -> None:
    settings, targets = MADE[name](tmp_path)
    for preload in (True, False):
        source = load_dataset(settings, "train", targets, preload=preload)
        for each in (source, source.subset(np.array([len(source) - 1, 0]))):
            sent = pickle.loads(pickle.dumps(each))
            assert seen(sent) == seen(each)
            again = pickle.loads(pickle.dumps(sent.subset(np.array([1, 1]))))  # part of a copy is sent on
            assert seen(again) == seen(each.subset(np.array([1, 1])))


def every_class(is_meant: Callable[[type], bool]) -> set[type]:
    """The concrete classes in the modules of the data that are meant."""
    modules = [importlib.import_module(each.name) for each in pkgutil.walk_packages(data.__path__, "anysize.data.")]
    held = {each for module in modules for each in vars(module).values() if isinstance(each, type)}
    return {each for each in held if not inspect.isabstract(each) and is_meant(each)}


def test_no_data_set_source_or_target_in_files_is_left_out_above(tmp_path: Path, unchecked: None) -> None:
    assert {name.split()[0] for name in MADE} == {*DATASETS}
    noting = _Noting(io.BytesIO())
    for i, make in enumerate(MADE.values()):
        settings, targets = make(tmp_path / str(i))
        noting.dump(load_dataset(settings, "train", targets, preload=False))
    noting.dump(create_kind("masks").unknown(1))  # what `predict` has for masks
    in_files = {"read", "files", "__getitem__"}
    assert every_class(lambda each: issubclass(each, Source)) <= noting.classes
    assert every_class(lambda each: in_files <= {*dir(each)}) - {FileTargets} <= noting.classes


_PLAIN = [{"crop": crop, "cutout": 4, "random_erasing": 0.5} for crop in ("pad", "random-resized", "none")]
_POLICIES = [
    {"crop": "none", "autoaugment": policy, "backend": backend}
    for policy in ("imagenet", "randaugment", "trivialaugment", "augmix")
    for backend in ("tensor", "pil")
]
_JOINT = [{"crop": crop} for crop in ("rescale", "random-resized", "none")]


@pytest.mark.parametrize(
    ("targets", "augment"),
    [(name, each) for name in ("class", "labels") for each in _PLAIN + _POLICIES]
    + [("masks", each) for each in _JOINT],
)
def test_a_transform_that_was_sent_makes_the_same(targets: str, augment: dict[str, Any]) -> None:
    kind, preprocessing = create_kind(targets), Preprocessing(16, resize="pad" if targets == "masks" else "stretch")
    settings = AugmentSettings(flip=0.5, color_jitter=0.1, lighting=0.1, **augment)
    image = torch.arange(3 * 40 * 50).view(3, 40, 50).to(torch.uint8)
    target = torch.zeros(40, 50, dtype=torch.uint8) if targets == "masks" else torch.tensor(1)
    for transform, batch in (
        (kind.train_transform(preprocessing, settings, 7), Batch(1, 16, 2, np.array([3]))),
        (kind.eval_transform(preprocessing, 1, 1), Batch(0, 16, 1, np.array([3]))),
    ):
        made = []
        for each in (transform, pickle.loads(pickle.dumps(transform))):
            collated = each.collate([each.sample(image, target, batch)])
            made.append((each.need((40, 50), batch), each.finish(collated[0], batch).tolist(), collated[1].tolist()))
        assert made[0] == made[1]


def _seen_there(sent: bytes) -> list[Any]:
    return seen(pickle.loads(sent))


@pytest.mark.slow
def test_a_process_that_is_started_anew_reads_the_same(tmp_path: Path, unchecked: None) -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        for i, (name, make) in enumerate(MADE.items()):
            settings, targets = make(tmp_path / str(i))
            source = load_dataset(settings, "train", targets)
            assert pool.apply(_seen_there, (pickle.dumps(source),)) == seen(source), name
