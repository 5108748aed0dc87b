"""Files from others hold bytes and do nothing: pipes do not hang, links lead nowhere, names stay in their folder."""

import contextlib
import os
import stat
from pathlib import Path

import pytest

from anysize.files import is_inside, open_in_place, open_regular, read_regular, read_text, remove, replacing


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "to_device").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe")
    assert read_regular(tmp_path / "file") == read_regular(tmp_path / "link", 7) == b"content"
    for name, said in (("pipe", "named pipe"), ("to_device", "device"), (".", "folder"), ("none", "No such file")):
        with pytest.raises(OSError, match=said):
            open_regular(tmp_path / name)
    assert read_text(tmp_path / "file") == "content"
    with pytest.raises(OSError, match="7 bytes, of at most 6"):
        read_regular(tmp_path / "file", 6)


@pytest.mark.parametrize("append", [False, True])
def test_writing_in_place_follows_no_link(tmp_path: Path, append: bool) -> None:
    (tmp_path / "other").write_text("other")
    (tmp_path / "link").symlink_to("other")
    (tmp_path / "own").write_text("own")
    os.mkfifo(tmp_path / "pipe")
    for name, said in (("link", "it is a link, and no file"), ("pipe", "it is a named pipe"), (".", "it is a folder")):
        with pytest.raises(OSError, match=said):
            open_in_place(tmp_path / name, append=append)
    assert (tmp_path / "other").read_text() == "other"
    with open_in_place(tmp_path / "own", append=append) as file:
        file.write("é\udce9")
    assert (tmp_path / "own").read_text() == ("own" if append else "") + "é\\udce9"


def test_replacing_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("other")
    (tmp_path / "link").symlink_to("other")
    with replacing(tmp_path / "link") as file:
        file.write(b"new")
    assert not (tmp_path / "link").is_symlink()
    assert (tmp_path / "other").read_text() == "other"
    with contextlib.suppress(KeyboardInterrupt), replacing(tmp_path / "other") as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert (tmp_path / "other").read_text() == "other"
    assert sorted(os.listdir(tmp_path)) == ["link", "other"]
    mask = os.umask(0o027)
    try:
        with replacing(tmp_path / "shared"):
            pass
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "shared").stat().st_mode) == 0o640


def test_what_is_removed_is_the_link_and_not_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other/kept").touch()
    (tmp_path / "link").symlink_to("other")
    for name in ("link", "nothing"):
        remove(tmp_path / name)
    assert (tmp_path / "other/kept").exists()
    assert not (tmp_path / "link").is_symlink()
    remove(tmp_path / "other")
    assert os.listdir(tmp_path) == []


def test_a_name_that_leaves_its_folder_is_told_apart() -> None:
    assert all(map(is_inside, ("a.png", "a/b", "..a/b", "a/../b", "ü/ b.png", "a:b.png")))
    assert not any(map(is_inside, ("/a", "..", "../a", "a/../../b", "..\\a", "\\\\host\\a", "c:/a", ".", "")))
