"""ILSVRC 2012's development kit, which says the classes of the validation images: these come unsorted.

Its `meta.mat` is a file of Matlab's, which scipy reads (the extra `imagenet`).
"""

import contextlib
import io
import os
import re
import tarfile
from pathlib import Path
from typing import Any

from anysize.files import read_regular
from anysize.registry import UserError

KIT = "ILSVRC2012_devkit_t12"
_PACKED = f"{KIT}.tar.gz"
_TRUTH, _META = "data/ILSVRC2012_validation_ground_truth.txt", "data/meta.mat"
_MOST = 2**28  # bytes of what is in it; the published one has 2.5 million
_NUMBER = re.compile(r"ILSVRC2012_val_(\d+)\.\w+")


def has_devkit(root: Path) -> bool:
    """Whether the kit is in a folder, as downloaded or unpacked."""
    return (root / _PACKED).is_file() or (root / KIT / _TRUTH).is_file()


def validation_classes(root: Path) -> list[str]:
    """The WordNet ID of each validation image, in the order of their numbers.

    Raises:
        UserError: a file of the kit is missing or not as published, or scipy is.
    """
    kit, files = root / _PACKED, {}
    try:
        if (root / KIT / _TRUTH).is_file():
            kit = root / KIT
            files = {name: read_regular(kit / name, _MOST) for name in (_TRUTH, _META)}
        else:
            files = _unpacked(kit)
        wnids = wnids_in(files[_META])
        return [wnids[int(line)] for line in files[_TRUTH].split()]
    except UserError:
        raise
    except Exception as error:  # tarfile, zlib and scipy have many errors for damaged files
        why = error.strerror if isinstance(error, OSError) and error.strerror else f"{type(error).__name__}: {error}"
        raise UserError(
            f"{kit} is not as published ({why}); expected {_TRUTH} and {_META} in it: download it again"
        ) from error


def wnids_in(meta: bytes) -> dict[int, str]:
    """The WordNet IDs of the classes by ILSVRC's numbers, which are those of meta.mat without finer ones below."""
    try:
        from scipy.io import loadmat
    except ImportError:
        raise UserError(
            f"the classes of unsorted validation images, in {KIT}, need scipy, which is not installed: pip install "
            "'anysize[imagenet]'"
        ) from None
    synsets: Any = loadmat(io.BytesIO(meta), squeeze_me=True)["synsets"]
    return {int(each["ILSVRC2012_ID"]): str(each["WNID"]) for each in synsets if int(each["num_children"]) == 0}


def number_in(name: str) -> int:
    """The number of a validation image, from 1; 0 for what is none.

    >>> number_in("ILSVRC2012_val_00000293.JPEG"), number_in("n01440764_10026.JPEG")
    (293, 0)
    """
    match = _NUMBER.fullmatch(name)
    return int(match[1]) if match else 0


def _unpacked(kit: Path) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    with contextlib.closing(tarfile.open(kit, "r:gz")) as tar:
        while len(found) < 2 and (member := tar.next()) is not None:
            if member.offset + member.size > _MOST:
                raise ValueError("too large")
            name = os.path.normpath(member.name).removeprefix(f"{KIT}/")
            if name in (_TRUTH, _META) and (file := tar.extractfile(member)) is not None:
                found[name] = file.read()
    return found
