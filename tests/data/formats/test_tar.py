"""Images in tar archives: read in place, as those in folders are, with ILSVRC's archives as downloaded."""

import io
import multiprocessing
import os
import pickle
import shutil
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from image_files import damage, smooth_image, varied, write_folder

from anysize.data.augment.square import EvalTransform
from anysize.data.catalog import dataset_info, load_dataset
from anysize.data.check import check_dataset
from anysize.data.formats.tar import devkit, index
from anysize.data.formats.tar.index import TarIndex, read_tar_index
from anysize.data.loader import PlanLoader, sequential_batches
from anysize.data.pictures import BadImage
from anysize.data.settings import DataSettings
from anysize.data.source import FileSource
from anysize.experiment.identity import identity_of
from anysize.files import name_beside
from anysize.preprocessing import Preprocessing
from anysize.registry import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that is this test's own."""
    monkeypatch.setenv("ANYSIZE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def pack(archive: Path, folder: Path, below: str = "", format: int = tarfile.PAX_FORMAT) -> Path:
    """Write what is in a folder into an archive, as `tar -C FOLDER -cf ARCHIVE .` does."""
    with tarfile.open(archive, "w", format=format) as tar:
        tar.add(folder, arcname=below or ".")
    return archive


def opened(split: str, name: str = "folder", **settings: object) -> FileSource:
    source = load_dataset(DataSettings(name=name, **settings), split, preload=False)
    assert isinstance(source, FileSource)
    return source


def contents(source: FileSource) -> list[tuple[str, bytes]]:
    """The class and the bytes of each image."""
    return [(source.classes[source.targets[i]], source.data(i)) for i in range(len(source))]


def splits(root: Path) -> Path:
    """An archive a split."""
    for split in ("train", "val"):
        pack(root / f"{split}.tar", root / split)
        os.rename(root / split, root.parent / split)
    return root


def one(root: Path) -> Path:
    return pack(root.parent / "all.tar", root)


def mixed(root: Path) -> Path:
    """A folder to train from, an archive of another format to validate with."""
    pack(root / "val.tar", root / "val", "val", tarfile.GNU_FORMAT).rename(root / "Valid.TAR")
    pack(root / "Valid.TAR", root / "val")
    os.rename(root / "val", root.parent / "val")
    return root


@pytest.mark.parametrize("layout", [splits, one, mixed])
def test_images_of_an_archive_are_those_of_the_folder_in_the_same_order(
    tmp_path: Path, layout: Callable[[Path], Path]
) -> None:
    root = write_folder(tmp_path / "pets", 4, varied)
    (root / "train/cat/deep").mkdir()
    smooth_image(9, 30, 20).save(root / "train/cat/deep/é ü.png")
    plain = {split: contents(opened(split, root=str(root))) for split in ("train", "validation")}
    packed = str(layout(root))
    for split, expected in plain.items():
        source = opened(split, root=packed)
        assert contents(source) == expected
        assert source.classes == ("cat", "dog")
        assert torch.equal(source.image(0), source.read(0)[0])
        assert [contents(source.subset(np.array([3, 1])))] == [[expected[3], expected[1]]]
    described = opened("validation", root=packed).describe(0)
    assert described.endswith({"splits": "val.tar: cat/000.jpg", "one": "all.tar: val/cat/000.jpg"}.get(
        layout.__name__, "Valid.TAR: cat/000.jpg"
    ))  # fmt: skip
    assert dataset_info(DataSettings(name="folder", root=packed)).image_size == 224


def test_a_tenth_of_an_archive_without_splits_is_held_out(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "pets", 10)
    plain = [contents(opened(split, root=str(root / "train"))) for split in ("train", "validation")]
    archive = str(pack(tmp_path / "pets.tar", root / "train"))
    assert [contents(opened(split, root=archive)) for split in ("train", "validation")] == plain
    small = dataset_info(DataSettings(name="folder", root=archive))
    assert (small.image_size, small.crop) == (24, "pad")


@pytest.mark.parametrize("workers", [0, 2])
def test_any_process_reads_any_image(tmp_path: Path, workers: int) -> None:
    root = write_folder(tmp_path / "pets", 5, varied)
    batches = sequential_batches(10, size=16, batch_size=3)
    transform = EvalTransform(Preprocessing(16))
    images = []
    for place in (root / "train", pack(tmp_path / "train.tar", root / "train")):
        source = opened("train", root=str(place), val_split=0.2)
        source = source.subset(np.arange(len(source))[::-1])
        source.image(0)  # opened before the processes begin
        loader = PlanLoader(source, transform, workers=workers)
        images.append([batch.images for batch in loader.load(batches[:2])])
    assert all(torch.equal(one, other) for one, other in zip(*images, strict=True))
    copy = pickle.loads(pickle.dumps(source))  # as where processes are spawned
    assert copy.data(3) == source.data(3)


WNIDS = ("n01440764", "n02119789", "n15075141")
NUMBERS = {1: "n02119789", 2: "n15075141", 7: "n01440764", 9: "n00000001"}  # as meta.mat numbers them


@pytest.fixture
def ilsvrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """ILSVRC's three files in small: a tar of tars, a tar of unsorted images, and the kit."""
    root, scratch = tmp_path / "ilsvrc", tmp_path / "scratch"
    write_folder(scratch, 3, varied, ("train",), "JPEG")
    root.mkdir()
    with tarfile.open(root / "ILSVRC2012_img_train.tar", "w") as outer:
        for number, wnid in enumerate(reversed(WNIDS)):
            folder = scratch / wnid
            folder.mkdir()
            for i in range(3):
                smooth_image(10 * number + i, 20 + i, 30).save(folder / f"{wnid}_{i}.JPEG")
            with tarfile.open(scratch / f"{wnid}.tar", "w", format=tarfile.GNU_FORMAT) as inner:
                for path in sorted(folder.iterdir(), reverse=True):
                    inner.add(path, path.name)
            outer.add(scratch / f"{wnid}.tar", f"{wnid}.tar")
    with tarfile.open(root / "ILSVRC2012_img_val.tar", "w") as tar:
        for number in (3, 1, 2, 4):
            smooth_image(100 + number, 24, 30).save(scratch / "image.JPEG")
            tar.add(scratch / "image.JPEG", f"ILSVRC2012_val_{number:08}.JPEG")
    kit = scratch / devkit.KIT / "data"
    kit.mkdir(parents=True)
    (kit / "meta.mat").write_bytes(b"of Matlab")
    (kit / "ILSVRC2012_validation_ground_truth.txt").write_text("7\n2\n1\n7\n")
    (kit / "more.txt").write_text("x" * 10_000)
    with tarfile.open(root / f"{devkit.KIT}.tar.gz", "w:gz") as tar:
        tar.add(scratch / devkit.KIT, devkit.KIT)
    monkeypatch.setattr(devkit, "wnids_in", lambda meta: NUMBERS if meta == b"of Matlab" else {})
    return root


def test_the_archives_of_ilsvrc_are_read_as_downloaded(ilsvrc: Path, tmp_path: Path) -> None:
    train, validation = (opened(split, "imagenet", root=str(ilsvrc)) for split in ("train", "validation"))
    assert train.classes == validation.classes == WNIDS
    expected = [(wnid, (tmp_path / f"scratch/{wnid}/{wnid}_{i}.JPEG").read_bytes()) for wnid in WNIDS for i in range(3)]
    assert contents(train) == expected
    assert train.describe(0) == f"{ilsvrc}/ILSVRC2012_img_train.tar: n01440764/n01440764_0.JPEG"
    labels = {validation.describe(i)[-13:-5]: validation.classes[validation.targets[i]] for i in range(4)}
    assert labels == {"00000001": WNIDS[0], "00000002": WNIDS[2], "00000003": WNIDS[1], "00000004": WNIDS[0]}
    told = train.left_out.counts, validation.left_out.counts
    assert told == ({}, {})
    plain = tmp_path / "plain"
    (plain / "val").mkdir(parents=True)
    os.rename(ilsvrc / "ILSVRC2012_img_train.tar", plain / "train.tar")
    with tarfile.open(ilsvrc / "ILSVRC2012_img_val.tar") as tar:
        tar.extractall(plain / "val", filter="data")
    with pytest.raises(UserError, match=r"val holds no class folders; .* ILSVRC2012_devkit_t12\.tar\.gz beside it"):
        opened("validation", "imagenet", root=str(plain))
    os.rename(tmp_path / "scratch" / devkit.KIT, plain / devkit.KIT)  # unpacked
    unsorted = opened("validation", "imagenet", root=str(plain))
    assert contents(unsorted) == contents(validation)
    assert contents(opened("train", "imagenet", root=str(plain))) == expected
    assert not unsorted.left_out
    (plain / "train").mkdir()  # a folder goes before an archive; its unsorted images are no validation images
    smooth_image(0, 9, 9).save(plain / "train/n01440764_1.JPEG")
    with pytest.raises(UserError, match=r"train holds no class folders; expected CLASS/IMAGE in it$"):
        opened("train", "imagenet", root=str(plain))


def test_what_is_wrong_with_the_kit_is_said(ilsvrc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kit = ilsvrc / f"{devkit.KIT}.tar.gz"
    whole = kit.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"\x1f\x8b" + os.urandom(50)):
        kit.write_bytes(content)
        with pytest.raises(UserError, match=r"devkit_t12\.tar\.gz is not as published"):
            opened("validation", "imagenet", root=str(ilsvrc))
    kit.write_bytes(whole)
    monkeypatch.setattr(devkit, "wnids_in", lambda meta: {1: "n02119789"})
    with pytest.raises(UserError, match=r"is not as published \(KeyError: 7\)"):
        opened("validation", "imagenet", root=str(ilsvrc))
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(UserError, match=r"need scipy, which is not installed: pip install 'anysize\[imagenet\]'"):
        opened("validation", "imagenet", root=str(ilsvrc))


def test_the_table_of_matlab_is_read() -> None:
    scipy_io = pytest.importorskip("scipy.io", reason="scipy is not installed")
    kinds = [(name, object) for name in ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children")]
    rows = [(1, "n02119789", "kit fox", "", 0), (2, "n02100735", "setter", "", 0), (1001, "n00001740", "entity", "", 2)]
    scipy_io.savemat(file := io.BytesIO(), {"synsets": np.array([[row] for row in rows], dtype=kinds)})
    assert devkit.wnids_in(file.getvalue()) == {1: "n02119789", 2: "n02100735"}


def test_an_index_is_kept_until_the_archive_changes(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_folder(tmp_path / "pets", 3)
    archive = pack(tmp_path / "pets.tar", root)
    calls: list[str] = []
    make = index.index_tar
    monkeypatch.setattr(index, "index_tar", lambda path: calls.append(path) or make(path))

    def rows() -> list[bytes]:
        index._index_of.cache_clear()  # as in another process
        read: TarIndex = read_tar_index(archive)
        return read.names.tolist()

    first = rows()
    assert (len(first), rows(), len(calls)) == (12, first, 1)
    (kept,) = cache.glob("*.npz")
    for content in (b"", kept.read_bytes()[:200], kept.read_bytes().replace(b"train", b"tr")):
        kept.write_bytes(content)
        assert rows() == first
    assert len(calls) == 4
    lock = kept.with_name(f"{kept.name}.lock")
    smooth_image(5, 9, 9).save(root / "val/dog/more.png")
    pack(archive, root)
    assert len(rows()) == 13
    with pytest.MonkeyPatch.context() as patch:  # killed in the middle
        patch.setattr(np, "savez", lambda file, **_: file.write(b"half") and (_ for _ in ()).throw(KeyboardInterrupt))
        os.utime(archive)
        with pytest.raises(KeyboardInterrupt):
            rows()
    assert {*cache.iterdir()} == {kept, lock}
    half, young = name_beside(kept), name_beside(kept)
    for path in (half, young):  # as a process leaves it that is killed at once
        path.write_bytes(b"half")
    os.utime(half, (1, 1))
    assert len(rows()) == 13
    assert {*cache.iterdir()} == {kept, lock, young}  # who wrote the younger one may be at it still


@pytest.mark.parametrize("whole", [False, True])
def test_a_class_with_a_new_name_in_an_archive_is_the_same_data(tmp_path: Path, whole: bool) -> None:
    told = []
    for name, renamed in (("cat", {}), ("zebra", {"cat": "zebra"}), ("zebra", {})):
        root = write_folder(tmp_path / f"{len(told)}" / "pets", 3)
        for split in ("train", "val"):
            (root / split / "cat").rename(root / split / name)
        if whole:
            root = pack(root.parent / "pets.tar", root)
        else:
            splits(root)
        source = opened("train", root=str(root), renamed_classes=renamed)
        told.append(identity_of({"train": source}, DataSettings(root=str(root), renamed_classes=renamed)))
    assert told[0] == told[1] != told[2]


def test_one_of_several_processes_reads_an_archive_even_after_one_that_was_killed(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = pack(tmp_path / "pets.tar", write_folder(tmp_path / "pets", 3))
    told, make = tmp_path / "told", index.index_tar

    def slow(path: str) -> TarIndex:
        with told.open("a") as file:
            file.write("r")
        time.sleep(0.3)
        return make(path)

    monkeypatch.setattr(index, "index_tar", slow)
    context = multiprocessing.get_context("fork")
    killed = context.Process(target=read_tar_index, args=(archive,))
    killed.start()
    while not told.exists() and killed.is_alive():
        time.sleep(0.005)
    killed.kill()
    killed.join()
    assert not list(cache.glob("*.npz"))
    processes = [context.Process(target=read_tar_index, args=(archive,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert told.read_text() == "rr"  # the one that was killed, and one
    assert len(read_tar_index(archive).names) == 12
    assert told.read_text() == "rr"


def test_an_archive_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "pets", 3)
    archive = pack(tmp_path / "pets.tar", root)
    source = opened("train", root=str(archive))
    source.data(0)
    os.utime(archive, ns=(1, 1))
    with pytest.raises(UserError, match=r"pets\.tar was changed while it was in use; start again"):
        source.data(1)


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", **pax: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.pax_headers = kind, link, pax
    return info


def test_names_in_an_archive_are_names_alone(tmp_path: Path) -> None:
    smooth_image(0, 8, 8).save(tmp_path / "image.png")
    image = (tmp_path / "image.png").read_bytes()
    with tarfile.open(tmp_path / "odd.tar", "w") as tar:
        for name in (
            *("/etc/cat/a.png", "../../cat/b.png", "./dog/../c.png", "cat/./d\n\x1b[2J.png", "cat/.hidden.png"),
            *("cat/._e.png", "__MACOSX/cat/f.png", "cat/twice.png", "cat/twice.png", "cat/notes.txt", "top.png"),
            "cat/" + "n" * 2000 + ".png",
        ):
            info = member(name)
            info.size = len(image)
            tar.addfile(info, io.BytesIO(image))
        tar.addfile(member("cat/link.png", tarfile.SYMTYPE, "/etc/passwd"))
        tar.addfile(member("cat/hard.png", tarfile.LNKTYPE, "cat/twice.png"))
        for kind in (tarfile.CHRTYPE, tarfile.FIFOTYPE):
            tar.addfile(member("dog/device.png", kind))
        tar.addfile(member("empty", tarfile.DIRTYPE))
    source = read_tar_index(tmp_path / "odd.tar")
    assert source.names.tolist() == [
        b"cat/b.png", b"cat/d\n\x1b[2J.png", b"cat/twice.png", b"dog/c.png", b"etc/cat/a.png", b"top.png",
    ]  # fmt: skip
    assert source.left_out.counts == {
        "hidden": 2,
        "made by the system": 1,
        "in no format that PIL reads": 1,
        "of a name of more than 1,024 bytes": 1,
        "link, device or pipe in an archive": 4,
        "replaced by a later file of the same name": 1,
    }
    (tmp_path / "data").mkdir()
    (tmp_path / "odd.tar").rename(tmp_path / "data/train.tar")
    folder = opened("train", root=str(tmp_path / "data"))
    assert folder.classes == ("cat", "dog", "etc")
    assert folder.left_out.counts["beside the folders"] == 1


@pytest.mark.parametrize("cut", ["in a file", "in a header", "at the end", "header", "all"])
def test_an_archive_that_is_cut_short_or_damaged_is_refused(tmp_path: Path, cut: str, ilsvrc: Path) -> None:
    for whole in (pack(tmp_path / "pets.tar", write_folder(tmp_path / "pets", 2)), ilsvrc / "ILSVRC2012_img_train.tar"):
        data = whole.read_bytes()
        with tarfile.open(whole) as tar:
            last = tar.getmembers()[-1]
        if cut == "header":
            data = data[: last.offset + 150] + b"garbage" + data[last.offset + 157 :]
        else:
            end = last.offset_data + -(-last.size // 512) * 512
            data = data[: {"in a file": end - 700, "in a header": last.offset + 100, "at the end": end, "all": 0}[cut]]
        (tmp_path / "cut.tar").write_bytes(data)
        with pytest.raises(UserError, match=r"cut\.tar(: .*)? is damaged, cut short, or no tar archive \("):
            read_tar_index(tmp_path / "cut.tar")


def test_packed_and_sparse_archives_and_what_is_no_image_are_refused(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "pets", 2)
    for kind, command in (("gz", "gzip -d"), ("bz2", "bzip2 -d"), ("xz", "xz -d")):
        with tarfile.open(tmp_path / "train.tar", f"w:{kind}") as tar:
            tar.add(root / "train", ".")
        with pytest.raises(UserError, match=rf"train\.tar is packed, so that no image .*: {command} .*train\.tar"):
            opened("train", root=str(tmp_path / "train.tar"))
        (tmp_path / kind).mkdir()
        (tmp_path / "train.tar").rename(tmp_path / kind / f"train.tar.{kind}")
        with pytest.raises(UserError, match=rf"train\.tar\.{kind} is packed, so that no image"):
            opened("train", root=str(tmp_path / kind))
    shutil.make_archive(str(tmp_path / "zip" / "train"), "zip", root / "train")
    for place in (tmp_path / "zip", tmp_path / "zip/train.zip"):
        with pytest.raises(UserError, match=r"train\.zip is a zip archive, and only tar archives .*: unpack it"):
            opened("train", root=str(place))
    with tarfile.open(tmp_path / "train.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        info = member("cat/a.png", **{"GNU.sparse.map": "0,1,5,1", "GNU.sparse.size": "6"})
        info.size = 2
        tar.addfile(info, io.BytesIO(b"ab"))
    with pytest.raises(UserError, match=r"has a sparse file, 'cat/a\.png'"):
        read_tar_index(tmp_path / "train.tar")
    (tmp_path / "text.tar").write_text("hello" * 1000)
    with pytest.raises(UserError, match="or no tar archive"):
        opened("train", root=str(tmp_path / "text.tar"))
    (tmp_path / "pets/train/cat/note.txt").write_text("no image")
    with tarfile.open(tmp_path / "none.tar", "w") as tar:
        tar.add(tmp_path / "pets/train/cat/note.txt", "cat/note.txt")
    with pytest.raises(UserError, match="holds no class folders"):
        opened("train", root=str(tmp_path / "none.tar"))


def test_damaged_images_are_named_checked_and_left_out(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "pets", 4, varied)
    damage(root / "train/dog/001.jpg")
    for split in ("train", "val"):
        pack(root / f"{split}.tar", root / split)
        os.rename(root / split, tmp_path / split)
    settings = DataSettings(name="folder", root=str(root))
    for _ in range(2):  # the second time as remembered
        train, validation = check_dataset(settings)
        assert [*train.damaged] == [f"{root}/train.tar: dog/001.jpg"]
        assert (train.images, validation.images) == (7, 8)
    bad = opened("train", root=str(root))
    with pytest.raises(BadImage):
        bad.image(5)
    (tmp_path / "list.txt").write_text("train.tar: dog/001.jpg\nval.tar: cat/000.jpg\n")
    kept = DataSettings(name="folder", root=str(root), exclude=str(tmp_path / "list.txt"))
    source = load_dataset(kept, "train", preload=False)
    assert (len(source), source.left_out.counts) == (7, {"listed in data.exclude": 1})
    assert identity_of({"train": source}, kept) != identity_of({"train": bad}, settings)
    assert identity_of({"train": bad}, settings)["train"]["bytes"] == sum(
        path.stat().st_size for path in (tmp_path / "train").rglob("*.jpg")
    )


def test_jpegs_in_an_archive_are_decoded_to_scale_where_that_is_asked_for(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "pets", 2, lambda i: (64, 80))
    pack(tmp_path / "train.tar", root / "train")
    half = [
        opened("train", root=str(place), decode="scaled", val_split=0.5).read(0, lambda height, width: 0.5)
        for place in (root / "train", tmp_path / "train.tar")
    ]
    assert half[0][0].shape == (3, 32, 40)
    assert torch.equal(half[0][0], half[1][0])
