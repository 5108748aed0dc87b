"""Packs that were damaged, moved or made by a newer anysize: what is wrong is found, and named."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from image_files import write_folder
from packs import flip_byte, opened, pack_folder

from anysize.data.catalog import load_dataset
from anysize.data.check import check_dataset
from anysize.data.pack import shards
from anysize.data.pack.format import sha256
from anysize.data.pack.unpack import unpack
from anysize.data.pack.verify import damaged_files
from anysize.data.pictures import BadImage
from anysize.registry import UserError

COUNT = 6


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made")
    return pack_folder(write_folder(root / "folder", COUNT, lambda i: (40 + i, 50)), root / "p", "original,32,16")


@pytest.fixture
def pack(made: Path, tmp_path: Path) -> Path:
    """A sound pack of a test's own."""
    return shutil.copytree(made, tmp_path / "p")


def lossy(*shape: int) -> float:
    return 0.35


def test_a_sound_pack_is_sound_wherever_it_lies(pack: Path, made: Path) -> None:
    seen: list[tuple[int, int]] = []
    assert damaged_files(pack, lambda *progress: seen.append(progress)) == {}
    assert seen[-1] == (12, 12)  # 3 levels, index, targets, names of two splits
    assert not any(split.damaged for split in check_dataset(opened(pack)))
    moved, first = (load_dataset(opened(each), "train") for each in (pack, made))
    assert moved.content() == first.content()
    assert moved.subset(np.arange(3)).content() != first.content()


@pytest.mark.parametrize("level", ["original", "16"])
def test_a_flipped_byte_is_found_and_its_image_is_named(pack: Path, level: str) -> None:
    source = load_dataset(opened(pack), "train")
    column = 0 if level == "original" else 2
    shard = pack / f"train/{level}-00000.shard"
    flip_byte(shard, int(source.index.rows["offset"][8, column]) + 100)
    with pytest.raises(BadImage, match="are not those that were packed"):
        source.read(8, None if level == "original" else lossy)
    assert source.read(7, None if level == "original" else lossy)
    named = "train/dog/002.jpg"
    found = damaged_files(pack)
    assert found.keys() == {str(shard)}
    assert f"was changed: it has another checksum than pack.json says ({named})" in found[str(shard)]
    train, validation = check_dataset(opened(pack))
    assert str(shard) in train.damaged
    assert any(named in name for name in train.damaged) == (level == "original")
    assert not validation.damaged
    if level == "original":
        assert [named in name for name in unpack(pack, pack / "files")[1]] == [True]


def test_a_shard_that_was_cut_short_or_is_gone_is_named_when_the_pack_is_opened(pack: Path) -> None:
    source = load_dataset(opened(pack), "train")  # opened before
    last = source.image(2 * COUNT - 1)
    shard = pack / "train/original-00000.shard"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-10])
    with pytest.raises(BadImage, match=r"its pack was cut short: original-00000\.shard ends at byte"):
        source.read(2 * COUNT - 1)  # no signal ends the program
    with pytest.raises(BadImage, match=r"its pack was cut short: original-00000\.shard has .* and it ends at"):
        shards.Shards(pack / "train", source.manifest.columns).read(source.index.rows[2 * COUNT - 1], 0)
    for remove in (False, True):
        if remove:
            shard.unlink()
        said = "is not there" if remove else f"was cut short: it has {len(whole) - 10:,} bytes, of {len(whole):,}"
        for policy in ("error", "skip"):
            with pytest.raises(UserError, match=rf"original-00000\.shard {said}, and no image of pack train is left"):
                load_dataset(opened(pack, on_bad_image=policy), "train")
        images = "train/cat/000.jpg, train/cat/001.jpg, " if remove else "train/dog/005.jpg)"
        assert damaged_files(pack)[str(shard)].startswith(f"it {said} ({images}")
    shard.write_bytes(whole)
    assert (load_dataset(opened(pack), "train").image(2 * COUNT - 1) == last).all()


def test_with_skip_the_images_of_a_lost_shard_alone_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    root = write_folder(tmp_path / "root", COUNT, lambda i: (40 + i, 50))
    monkeypatch.setattr(shards, "_OPEN", 2)  # fewer than there are
    pack = pack_in_small_shards(root, tmp_path / "p", monkeypatch)
    source = load_dataset(opened(pack), "train")
    parts = source.index.rows["part"].tolist()
    assert parts == sorted(parts)
    assert max(parts) > 2
    files = [(root / source.file_name(i)).read_bytes() for i in range(len(source))]
    assert [source.data(i) for i in range(len(source))] == files
    assert len(source.shards._files) == 2
    (pack / "train/16-00001.shard").unlink()
    with pytest.raises(UserError, match=r"16-00001\.shard is not there; copy it again, .*--data\.on_bad_image skip"):
        load_dataset(opened(pack), "train")
    assert [str(pack / "train/16-00001.shard") in split.damaged for split in check_dataset(opened(pack))] == [
        True,
        False,
    ]
    left = load_dataset(opened(pack, on_bad_image="skip"), "train")
    lost = parts.count(1)
    assert len(left) == 2 * COUNT - lost
    assert f"left out {lost} image" in caplog.text
    assert "16-00001.shard is not there" in caplog.text
    assert [left.data(i) for i in range(len(left))] == [
        data for data, part in zip(files, parts, strict=True) if part != 1
    ]


def pack_in_small_shards(root: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pack of some five parts a split: a MiB is too much for small images."""
    monkeypatch.setattr("anysize.data.pack.write.MIB", 2500)
    return pack_folder(root, out, "original,32,16")


@pytest.mark.parametrize("name", ["index.npy", "targets.npy", "names.bin"])
def test_a_damaged_index_is_refused(pack: Path, name: str) -> None:
    path = pack / "train" / name
    flip_byte(path, -3)
    with pytest.raises(UserError, match=rf"train/{name} was changed: it has another checksum .*: copy the pack again"):
        load_dataset(opened(pack), "train")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=rf"train/{name} was cut short"):
        load_dataset(opened(pack), "train")
    path.unlink()
    with pytest.raises(UserError, match=rf"train/{name} is not there"):
        load_dataset(opened(pack), "train")
    assert damaged_files(pack) == {str(path): "it is not there"}


WHOLE = {"images": 1, "parts": 1, "digest": "", "source": "", "files": {}}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": 2}, "is of version 2 of packs, and this anysize reads 1: install a newer anysize"),
        ({"format": "zip"}, r"pack\.json is damaged \(format is 'zip'"),
        ({"levels": "all"}, r"pack\.json is damaged \(levels is 'all'; expected a list"),
        ({"splits": {"train": {}}}, r"pack\.json is damaged \(splits\.train is a table; expected one with images"),
        ({"splits": {}}, "has no train images"),
        ({"splits": {"../a": WHOLE}}, r"pack\.json is damaged \(it has the split '\.\./a'"),
        ({"levels": []}, r"pack\.json is damaged \(it names no level"),
        ({"channels": 1}, r"pack\.json is damaged \(info\.mean and info\.std are not of 1 channels"),
        ({"channels": 3, "levels": [0, 16]}, "does not hold what pack.json says of it"),
    ],
)
def test_a_manifest_that_is_none_is_refused(pack: Path, change: dict[str, object], said: str) -> None:
    path = pack / "pack.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=said):
        load_dataset(opened(pack), "train")


def test_a_folder_that_is_no_pack_is_refused(tmp_path: Path, pack: Path) -> None:
    with pytest.raises(UserError, match=r"holds no pack\.json; expected a folder that `anysize data pack` wrote"):
        load_dataset(opened(tmp_path), "train")
    (pack / "pack.json").write_text("{")
    with pytest.raises(UserError, match=r"pack\.json is damaged .*copy the pack again"):
        load_dataset(opened(pack), "train")
    (pack / "pack.json").rename(pack / "packing.json")
    with pytest.raises(UserError, match="is a pack that is not finished: give its command again, which goes on"):
        load_dataset(opened(pack), "train")


def rewrite(pack: Path, name: str, data: bytes) -> None:
    """Put another content in place of a file, and its checksum into the manifest, as somebody who means harm does."""
    path = pack / "train" / name
    path.write_bytes(data)
    manifest = json.loads((pack / "pack.json").read_text())
    manifest["splits"]["train"]["files"][name] = [len(data), sha256(path)]
    (pack / "pack.json").write_text(json.dumps(manifest))


def test_names_that_lead_out_of_a_folder_are_not_written(pack: Path) -> None:
    names = (pack / "train/names.bin").read_bytes()
    rewrite(pack, "names.bin", names.replace(b"train/cat/000.jpg", b"../../cat/000.jpg"))
    with pytest.raises(
        UserError, match=r"the pack has an image called '\.\./\.\./cat/000\.jpg', which is no name of a file"
    ):
        unpack(pack, pack / "out")
    assert not list((pack.parent).glob("**/cat/000.jpg"))


def test_an_index_that_asks_for_anything_gives_damaged_images(pack: Path) -> None:
    rows = np.load(pack / "train/index.npy")
    for field, value, said in (
        ("offset", 2**32 - 1, "was cut short"),
        ("length", 2**32 - 1, "was cut short"),
        ("part", 99_999, "cannot be read"),
    ):
        changed = rows.copy()
        changed[field] = value
        file = io.BytesIO()
        np.save(file, changed)
        rewrite(pack, "index.npy", file.getvalue())
        with pytest.raises(BadImage, match=said):
            load_dataset(opened(pack), "train", preload=False).read(0)
    for targets in (np.full(2 * COUNT, 2), np.zeros(2 * COUNT), np.full(2 * COUNT, -1), np.zeros((2 * COUNT, 1, 2))):
        file = io.BytesIO()
        np.save(file, targets)
        rewrite(pack, "targets.npy", file.getvalue())
        with pytest.raises(UserError, match=r"does not hold what pack\.json says of it"):
            load_dataset(opened(pack), "train")
