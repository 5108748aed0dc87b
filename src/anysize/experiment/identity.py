"""Which data a run is trained on: a digest of its files, by which going on knows other data, wherever they lie.

Names and sizes of files alone are looked at, so that a million of them take seconds. Of images that are held in memory
the targets count, and a thousand of the images.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from anysize.data.dataset import Split
from anysize.data.decode import decoder
from anysize.data.settings import DataSettings
from anysize.data.source import ArraySource, FileSource, Source
from anysize.registry import UserError, counted, shown
from anysize.reports.run_files import read_environment

_CHUNK = 1000  # files whose sizes a thread asks for in one go: a network's file system takes milliseconds for each
_PAIRS = 4  # of old and new names that a message shows
_SEPARATORS = re.compile(r"(/|(?<=\.tar): )", re.IGNORECASE)
_SAMPLED = 1000  # images in memory that are looked at


def identity_of(sources: Mapping[Split, Source], settings: DataSettings) -> dict[str, Any]:
    """By split `digest`, `images` and `bytes` of the data, JSON-ready; empty for data in the package."""
    return {str(split): _identity(source, settings) for split, source in sources.items()} if settings.root else {}


def short(identity: Mapping[str, Any]) -> str:
    """One digest of all splits; empty for data in the package."""
    text = json.dumps({split: of_split["digest"] for split, of_split in sorted(identity.items())})
    return hashlib.blake2b(text.encode(), digest_size=5).hexdigest() if identity else ""


def _identity(source: Source, settings: DataSettings) -> dict[str, Any]:
    digest, total = hashlib.blake2b(digest_size=16), 0
    targets = source.targets
    if isinstance(source, FileSource) and (content := source.content()):
        told, total = content
        digest.update(told)
    elif isinstance(source, FileSource):
        paths = [source.describe(i) for i in range(len(source))]
        if not isinstance(targets, np.ndarray):
            paths += targets.files()
        known = source.sizes() or []
        sizes = known + _sizes(paths[len(known) :])
        total = sum(sizes)
        digest.update(b"\0".join(_names(paths, settings)))
        digest.update(np.array(sizes, np.int64).tobytes())
    elif isinstance(source, ArraySource):
        step = -(-len(source) // _SAMPLED) or 1
        digest.update(np.ascontiguousarray(source.images[::step].numpy()).tobytes())
    if isinstance(targets, np.ndarray):
        digest.update(np.ascontiguousarray(targets).tobytes())
    return {"digest": digest.hexdigest(), "images": len(source), "bytes": total}


def _names(paths: Sequence[str], settings: DataSettings) -> list[bytes]:
    """The paths of files below data.root, with the old names of classes that are renamed."""
    root = os.fspath(Path(settings.root).expanduser())
    names = [path.removeprefix(root) for path in paths]
    if olds := {new: old for old, new in settings.renamed_classes.items()}:
        # In an archive an image is called train.tar: cat/1.jpg.
        names = ["".join(olds.get(part, part) for part in _SEPARATORS.split(name)) for name in names]
    return list(map(os.fsencode, names))


def _sizes(paths: Sequence[str]) -> list[int]:
    """The sizes of files in bytes, -1 for one that is not there."""

    def ask(start: int) -> list[int]:
        return [_size(path) for path in paths[start : start + _CHUNK]]

    with ThreadPoolExecutor(16) as pool:
        return [size for sizes in pool.map(ask, range(0, len(paths), _CHUNK)) for size in sizes]


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return -1


def renamed(classes: Sequence[str], settings: DataSettings) -> tuple[str, ...]:
    """The classes of a run or of weights by the names that data.renamed_classes gives them now.

    >>> renamed(("cat", "dog"), DataSettings(renamed_classes={"cat": "zebra"}))
    ('zebra', 'dog')
    """
    return tuple(settings.renamed_classes.get(name, name) for name in classes)


def how_classes_differ(before: Sequence[str], now: Sequence[str]) -> str:
    """In words, what the classes that a model was trained for are and those of the data; and how a renaming is said."""
    gone, came = [c for c in before if c not in now], [c for c in now if c not in before]
    if len(before) == len(now) and gone:
        pairs = dict(list(zip(gone, came, strict=True))[:_PAIRS])
        said = json.dumps(pairs, ensure_ascii=False)[:-1] + ", ..." * (len(gone) > _PAIRS) + "}"
        said = f" '{said}'" if len(said) < 120 else ", {old = new}"
        hint = f"if they have other names alone, say so with --data.renamed_classes{said}"
    else:
        hint = "give the data that it was trained on, or train a new head with --model.weights"
    place = next((i for i, (a, b) in enumerate(zip(before, now, strict=False)) if a != b), min(len(before), len(now)))
    old, new = (shown(names[place], 60) if place < len(names) else "none" for names in (before, now))
    return (
        f"output {place} was trained as {old} and is {new} in the data ({counted(len(before), 'class')} then, "
        f"{len(now)} now); {hint}"
    )


def check_same_data(
    state: Mapping[str, Any], classes: Sequence[str], identity: Mapping[str, Any], settings: DataSettings,
    *, allow_changes: bool,
) -> None:  # fmt: skip
    """Compare the data of a run that goes on with what the `state` of its checkpoint says.

    Raises:
        UserError: other classes, or another order of them; without `allow_changes`, other files.
    """
    before = renamed(state["preprocessing"].get("classes", ()), settings)
    if before and before != tuple(classes):
        differ = how_classes_differ(before, classes)
        raise UserError(f"the run has other classes than the data: {differ}, or give a new folder with --out")
    if allow_changes:
        return
    for split, held in state.get("data", {}).items():
        now = identity.get(split)
        if now is None or now["digest"] == held["digest"]:
            continue
        raise UserError(
            f"the run began with other {split} images: {then_and_now(held, now)}; give the data it began with, or go "
            "on with --allow-changes"
        )


def then_and_now(held: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """How the images of a split differ from those that a checkpoint `held`, in words."""
    return (
        f"{held['images']:,} in {held['bytes']:,} bytes then, {now['images']:,} in {now['bytes']:,} bytes now, or of "
        "other names or targets"
    )


def check_same_decoder(state: Mapping[str, Any], settings: DataSettings, *, allow_changes: bool) -> str:
    """Compare what decodes JPEGs to scale with what did when the `state` of a checkpoint was saved.

    Returns:
        A sentence where it has another version; mostly none.

    Raises:
        UserError: it is another decoder, without `allow_changes`.
    """
    before, now = state.get("decoder", ""), decoder()
    if settings.decode != "scaled" or before in ("", now):
        return ""
    differ = (
        f"JPEGs were decoded to scale by {before} so far and are now by {now}, whose pixels may differ by some levels"
    )
    name, _, version = before.partition(" ")
    if name == now.partition(" ")[0] or allow_changes:
        return differ
    remedy = f"pip install {name}=={version}" if name != "PIL" else "pip uninstall simplejpeg"
    raise UserError(f"the run's {differ}; {remedy}, or go on with --allow-changes")


def folder_for(plain: Path, identity: Mapping[str, Any], *, allow_changes: bool) -> Path:
    """The default run folder for data: `plain`, or with a digest of the data where `plain` holds a run on others."""
    own = plain.with_name(f"{plain.name}-{short(identity)[:6]}")
    held = _data_of(plain)
    if not identity or not held or held == short(identity):
        return plain
    return plain if allow_changes and not own.exists() else own


def _data_of(folder: Path) -> str:
    """The digest of the data that the run in a folder, or the first of several, was begun with; empty: not known."""
    for each in (folder, *sorted(folder.glob("seed-*/"))):
        if found := read_environment(each):
            return str(found.get("data", ""))
    return ""
