"""Files of folders: which of them are images, and what is left out, counted and named."""

import functools
import os
import stat
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from anysize.data.decode import image_extensions
from anysize.data.left_out import LeftOut
from anysize.registry import UserError

_CHUNK = 1000  # files that a thread looks at in one go: a network's file system takes milliseconds for each
EXPECTED = "files ending in .jpg .png or what else PIL reads"
_OF_SYSTEMS = {  # in lower case; "trash" and the like are none of them: they are names of classes, too
    *("@eadir", "@tmp", "#recycle", "#snapshot", "@recycle", "@recently-snapshot"),  # of network drives
    *("__macosx", "temporary items", "network trash folder", "thevolumesettingsfolder", "icon\r"),  # of macOS
    *("$recycle.bin", "recycler", "system volume information", "found.000"),  # of Windows
    *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini"),
    *("lost+found", "__pycache__"),
}


def folders_in(folder: Path, left_out: LeftOut) -> list[str]:
    """The names of the folders in a folder, such as those of classes, sorted; files there are left out."""
    names = []
    for entry in _entries(folder):
        if not _is_folder(entry):
            left_out.add("beside the folders", entry.path)
        elif reason := left_alone(entry.name) or _loop(entry.path, (os.path.realpath(folder),)):
            left_out.add(reason, entry.path)
        else:
            names.append(entry.name)
    return names


def images_below(
    folder: str | os.PathLike[str],
    left_out: LeftOut,
    endings: tuple[str, ...] = (),
    above: tuple[str, ...] = (),
    inner: list[str] | None = None,
) -> Iterator[str]:
    """Image files in a folder and below it, in no particular order between folders.

    Hidden files and folders, those that systems make, and links to a folder above are left out.

    Args:
        left_out: takes what is left out.
        endings: in lower case, of the files that are taken; by default all that image files have.
        above: the real paths of the folders that led here.
        inner: takes the names of the folders in `folder` that are not left out.
    """
    other = f"not ending in {' '.join(endings)}" if endings else "in no format that PIL reads"
    taken = endings or image_extensions()
    above = (*above, os.path.realpath(folder))
    folders = []
    for entry in _entries(folder):
        if reason := left_alone(entry.name):
            left_out.add(reason, entry.path)
        elif _is_folder(entry):
            folders.append(entry)
        elif entry.name.lower().endswith(taken):
            yield entry.path
        else:
            left_out.add(other, entry.path)
    for entry in folders:
        if entry.is_symlink() and (reason := _loop(entry.path, above)):
            left_out.add(reason, entry.path)
        else:
            if inner is not None:
                inner.append(entry.name)
            yield from images_below(entry.path, left_out, endings, above)


def each_once(paths: Sequence[str], root: str | os.PathLike[str], left_out: LeftOut) -> list[int]:
    """The numbers of the paths below `root` without those that name a file that is taken already, in order.

    Of the names of one file that is taken on whose way fewest symbolic links are, and of these the first.
    """
    real_root = os.path.realpath(root)

    @functools.cache
    def place(folder: str) -> tuple[str, int]:
        real = os.path.realpath(folder)
        return real, int(real != os.path.normpath(os.path.join(real_root, os.path.relpath(folder, root))))

    def several_names(path: str) -> bool:
        try:
            status = os.lstat(path)
        except OSError:  # a list may name what is not there
            return False
        return stat.S_ISLNK(status.st_mode) or status.st_nlink > 1 or place(path.rpartition(os.sep)[0])[1] > 0

    def some_have(start: int) -> bool:
        return any(map(several_names, paths[start : start + _CHUNK]))

    with ThreadPoolExecutor(16) as pool:
        if len(set(paths)) == len(paths) and not any(pool.map(some_have, range(0, len(paths), _CHUNK))):
            return list(range(len(paths)))
    found: list[tuple[int, int, str | tuple[int, int]]] = []
    for number, path in enumerate(paths):
        real, links = place(path.rpartition(os.sep)[0])
        file = os.path.join(real, os.path.basename(path))
        if os.path.islink(path):
            links, file = links + 1, os.path.realpath(path)
        status = os.stat(file) if os.path.exists(file) else None  # a link to nothing is a damaged file
        # Hard links share a number. Other files are told by their names: not every disk numbers files for good.
        found.append((links, number, (status.st_dev, status.st_ino) if status and status.st_nlink > 1 else file))
    found.sort(key=lambda each: each[:2])
    owners: dict[str | tuple[int, int], int] = {}
    for _, number, file_id in found:
        if owners.setdefault(file_id, number) != number:
            left_out.add("naming a file that is taken already", paths[number])
    return sorted(owners.values())


def left_alone(name: str) -> str:
    """Why a file or folder of this name is none of the user's; empty if it may be."""
    if name.lower() in _OF_SYSTEMS:
        return "made by the system"
    return "hidden" if name.startswith(".") else ""


def _entries(folder: str | os.PathLike[str]) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error.strerror}; allow it, or take it out of the data") from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _loop(path: str, above: tuple[str, ...]) -> str:
    """Why a link to a folder is not followed: it leads to a folder that led here; empty if it does not."""
    real = os.path.realpath(path)
    looping = any(os.path.commonpath([real, each]) == real for each in above)
    return "linking to a folder above" if looping else ""
