"""`anysize data check` names copies, missing and small images, remembers what it looked at, and writes a list."""

import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from image_files import damage, smooth_image, varied, write_folder
from mask_folders import mask_of, save_grey, save_image
from PIL import Image

from anysize.cli import build_app
from anysize.data import fingerprints
from anysize.data.catalog import load_dataset
from anysize.data.check import check_dataset
from anysize.data.copies import Prints, look_alike, same_content
from anysize.data.fingerprints import difference_hash
from anysize.data.formats import mask_files
from anysize.data.settings import DataSettings
from anysize.files import own_cache
from anysize.registry import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that is this test's own."""
    monkeypatch.setenv("ANYSIZE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Two classes; the validation images are others than the training images but for what is made so here."""
    root = write_folder(tmp_path / "pets", 4, varied)
    for number, path in enumerate(sorted((root / "val").rglob("*.jpg"))):
        smooth_image(1000 + number, 60, 50).save(path)
    damage(root / "train/cat/000.jpg")
    shutil.copy(root / "val/dog/000.jpg", root / "train/dog/same.jpg")
    shutil.copy(root / "train/cat/001.jpg", root / "train/dog/other.jpg")
    smooth_image(1001, 60, 50).resize((100, 120)).save(root / "train/cat/large.jpg", quality=60)
    return root


def folder(root: Path, **changes: object) -> DataSettings:
    return DataSettings(name="folder", root=str(root), memory_limit=0, **changes)


def test_copies_are_found_within_splits_and_between_them(pets: Path) -> None:
    prints = [split.prints for split in check_dataset(folder(pets))]
    across, within = same_content(prints)
    assert across.images == (("validation", str(pets / "val/dog/000.jpg")), ("train", str(pets / "train/dog/same.jpg")))
    assert across.across
    assert not across.differ
    assert within.images == tuple(("train", str(pets / name)) for name in ("train/cat/001.jpg", "train/dog/other.jpg"))
    assert within.differ
    assert within.surplus == [name for _, name in within.images]  # nothing says which of the two is right
    (alike,) = look_alike(prints, 4)
    assert [Path(name).name for _, name in alike.images] == ["001.jpg", "large.jpg"]


@pytest.mark.parametrize("bits", [1, 3, 6])
def test_images_look_alike_exactly_where_few_bits_of_their_hashes_differ(bits: int) -> None:
    rng = np.random.default_rng(bits)
    first = rng.integers(0, 2**64, 40, dtype=np.uint64)
    flips = [np.uint64(sum({1 << int(bit) for bit in rng.integers(0, 64, count)})) for count in range(2 * bits + 2)]
    hashes = np.concatenate([*(first ^ flip for flip in flips), np.zeros(9, np.uint64)])  # 0: as smooth images have
    digests = np.arange(len(hashes), dtype=np.uint64)
    source = load_dataset(DataSettings(limit=len(hashes)), "train")
    found = look_alike([Prints("train", source, np.arange(len(hashes)), digests, hashes, digests)], bits)
    near = np.bitwise_count(hashes[:, None] ^ hashes) <= bits
    for _ in range(10):  # whatever is linked by up to 2^10 steps
        near = near.astype(np.float32) @ near > 0
    expected = {tuple(np.flatnonzero(row).tolist()) for row in near if row.sum() > 1}
    names = [source.describe(i) for i in range(len(hashes))]
    assert {tuple(names.index(name) for _, name in each.images) for each in found} == expected
    assert len(expected) > 1


def test_a_hash_stands_scaling_and_compression_and_tells_images_apart(tmp_path: Path) -> None:
    hashes = []
    for seed in range(4):
        image = smooth_image(seed, 200, 160)
        image.resize((80, 100)).save(tmp_path / "a.jpg", quality=40)
        near, far = (difference_hash(np.array(each)) for each in (Image.open(tmp_path / "a.jpg"), image))
        assert (near ^ far).bit_count() <= 3
        hashes.append(far)
    assert all((a ^ b).bit_count() > 10 for a in hashes for b in hashes if a != b)
    assert difference_hash(np.full((9, 9, 1), 7, np.uint8)) == 0


def test_a_second_check_decodes_nothing_but_what_has_changed(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    decode = fingerprints.decode_with_orientation

    def counting(data: bytes, max_pixels: int) -> tuple[np.ndarray, int]:
        decoded.append(len(data))
        return decode(data, max_pixels)

    monkeypatch.setattr(fingerprints, "decode_with_orientation", counting)
    told: list[tuple[int, int]] = []
    first = check_dataset(folder(pets), on_image=lambda done, total: told.append((done, total)))
    assert told == [(19, 19)]
    assert len(decoded) == 19
    monkeypatch.chdir(pets.parent)
    again = check_dataset(folder(Path("pets/../pets")))  # another way to say where they are
    assert len(decoded) == 19
    again = check_dataset(folder(pets))
    for one, other in zip(first, again, strict=True):
        assert (one.damaged, one.counts, one.heights, one.too_small) == (
            other.damaged, other.counts, other.heights, other.too_small,
        )  # fmt: skip
        assert one.prints.alike.tolist() == other.prints.alike.tolist()
    damage(pets / "val/dog/003.jpg")
    shutil.copy(pets / "train/dog/001.jpg", pets / "train/cat/000.jpg")
    train, validation = check_dataset(folder(pets))
    assert len(decoded) == 21
    assert (len(train.damaged), [*validation.damaged]) == (0, [str(pets / "val/dog/003.jpg")])
    large = check_dataset(folder(pets, max_pixels=2999))[1].too_large  # whose sides are known
    assert (len(large), len(decoded)) == (7, 21)


def test_what_is_remembered_may_be_damaged_someone_elses_or_nowhere(
    pets: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = check_dataset(folder(pets))[0].counts
    (kept,) = cache.iterdir()
    kept.write_bytes(b"no database at all" * 1000)
    assert check_dataset(folder(pets))[0].counts == expected
    with sqlite3.connect(kept) as database:
        database.execute("UPDATE found SET content = 'x'")
    database.close()
    assert check_dataset(folder(pets))[0].counts == expected
    monkeypatch.setattr(fingerprints, "VERSION", "another")
    cache.chmod(0o777)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(kept))  # and no folder can be made there
    assert own_cache() is None
    assert check_dataset(folder(pets))[0].counts == expected


def test_masks_are_remembered_until_they_or_what_they_mean_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[str] = []
    read = mask_files.read_mask
    monkeypatch.setattr(mask_files, "read_mask", lambda path, limit: reads.append(path) or read(path, limit))
    for split, name in (("train", "a"), ("train", "b"), ("validation", "c")):
        save_image(tmp_path / f"d/{split}/images/{name}.jpg", seed=ord(name))
        save_grey(tmp_path / f"d/{split}/masks/{name}.png", mask_of(0, 1))
    (tmp_path / "d/classes.txt").write_text("background\ncat\ndog\n")
    settings = DataSettings(name="folder-masks", root=str(tmp_path / "d"))
    assert check_dataset(settings)[0].counts == {"background": 2, "cat": 2, "dog": 0}
    assert len(reads) == 3
    assert check_dataset(settings)[0].counts == {"background": 2, "cat": 2, "dog": 0}
    assert len(reads) == 3
    save_grey(tmp_path / "d/train/masks/b.png", mask_of(0, 1, 2))
    assert check_dataset(settings)[0].counts == {"background": 2, "cat": 2, "dog": 1}
    (tmp_path / "d/train/masks/a.png").write_bytes(b"")
    kept = DataSettings(name="folder-masks", root=str(tmp_path / "d"), categories=("dog",))
    assert check_dataset(kept)[0].counts == {"background": 1, "dog": 1}


def run(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> str:
    if status:
        with pytest.raises(SystemExit) as ended:
            build_app()(["data", "check", *words], result_action="return_value")
        assert ended.value.code == status
    else:
        build_app()(["data", "check", *words], result_action="return_value")
    return capsys.readouterr().out


def test_what_is_found_is_named_and_a_list_leaves_it_out(pets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fixed = str(pets.parent / "list.txt")
    said = run(capsys, "folder", "--data.root", str(pets), "--near", "4", "--fix", fixed, status=1)
    for text in (
        f"damaged: {pets}/train/cat/000.jpg: it cannot be decoded",
        "images smaller than 224 px: 8",
        f"{pets}/train/dog/other.jpg (train) has the content of {pets}/train/cat/001.jpg (train), but other classes",
        "copies: 2, of 2 images; 1 in several splits, 1 with other classes",
        f"{pets}/train/cat/large.jpg (train) has the looks of {pets}/val/cat/001.jpg (validation)",
        f"{fixed} is written and lists 4 files",
    ):
        assert text in said
    lines = Path(fixed).read_text().splitlines()
    names = [line for line in lines if line and not line.startswith("#")]
    assert names == ["train/cat/000.jpg", "train/dog/same.jpg", "train/cat/001.jpg", "train/dog/other.jpg"]
    assert "#train/cat/large.jpg" in lines
    given = ("--data.root", str(pets), "--data.exclude", fixed)
    said = run(capsys, "folder", *given, "--smallest", "50", "--fix", fixed)
    assert "left out: 4 listed in data.exclude" in said
    assert f"too small: {pets}/train/cat/002.jpg" in said
    again = [line for line in Path(fixed).read_text().splitlines() if line and not line.startswith("#")]
    assert again[:4] == names
    assert "train/cat/002.jpg" in again
    assert "val/cat/000.jpg" not in again  # 60 x 50
    for words, fault in {
        ("folder", "--data.root", str(pets), "--fix", fixed): "is there already",
        ("fashion-mini", "--fix", "new.txt"): "are in no folder",
        ("folder", "--near", "40"): "expected 0 to 16 bits",
    }.items():
        with pytest.raises(UserError, match=fault):
            run(capsys, *words)


def test_files_that_lists_name_and_that_are_not_there_are_all_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "d"
    for name in "abcd":
        save_image(root / f"{name}.jpg", seed=ord(name))
    (root / "train.csv").write_text("image,labels\na.jpg,cat\nx.jpg,dog\nb.jpg,dog\ny.jpg,cat\n")
    (root / "val.csv").write_text("image,labels\nc.jpg,cat\nd.jpg,dog\n")
    fixed = str(tmp_path / "list.txt")
    said = run(capsys, "folder-labels", "--data.root", str(root), "--fix", fixed, status=1)
    assert f"missing: {root}/x.jpg: {root}/train.csv line 3 names {root}/x.jpg, which is not there" in said
    assert "2 missing files: add them, or train with" in said
    assert not caplog.records  # nothing is left out here
    said = run(capsys, "folder-labels", "--data.root", str(root), "--data.exclude", fixed)
    assert "left out: 2 listed in data.exclude" in said
