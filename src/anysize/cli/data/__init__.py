"""`anysize data`: the data sets, and what is done with one: `check`, `show`, `stats`, `export`, `pack`, `unpack`."""

import sys
from typing import TYPE_CHECKING, Annotated, Literal

import cyclopts

from anysize.cli import Settings, parse_settings, tell
from anysize.cli.data.look import show, stats
from anysize.registry import UserError, counted, did_you_mean

if TYPE_CHECKING:
    from anysize.data.copies import Copies
    from anysize.recipe import Recipe

command = cyclopts.App(
    help="List the data sets; look at one, check it, write it in the format of COCO or VOC, or pack it.",
    help_format="plaintext",
)
command.command(show)
command.command(stats)
_Words = Annotated[str, cyclopts.Parameter(allow_leading_hyphen=True)]
_ACTIONS = ("check", "export", "list", "pack", "show", "stats", "unpack")
_NAMED = 20  # of the images that are there more than once
_MOST_BITS = 16  # of 64: beyond that most images look alike


@command.default
def list_datasets(action: str = "", /, *words: Settings) -> None:
    """List the data sets, a line each.

    Args:
        action: none; else what is done with one, see the commands
    """
    if action:
        raise UserError(f"anysize data cannot {action!r}: {did_you_mean(action, _ACTIONS)}")
    from anysize.data.catalog import dataset_docs

    docs = dataset_docs()
    width = max(map(len, docs))
    for dataset, doc in docs.items():
        tell(f"{dataset:{width}}  {doc}")


@command.command(name="list")
def list_all() -> None:
    """List the data sets, as without a word."""
    list_datasets()


@command.command
def check(name: str = "", /, *settings: Settings, fix: str = "", near: int = 0, smallest: int = 0) -> None:
    """Decode every image of a data set: count them by class, name the damaged, the missing, and copies.

    Args:
        name: of the data set; its folder is given with --data.root DIR, and --task.name segmentation checks masks where
            there are labels, too
        fix: write a list of the damaged and missing files, and of the copies, for --data.exclude
        near: name images, too, that look alike: whose difference hashes differ in at most so many of 64 bits (4 finds
            what was scaled or compressed again)
        smallest: name the images of fewer pixels on a side; by default those below the base size are counted
    """
    if not 0 <= near <= _MOST_BITS or smallest < 0:
        raise UserError(
            f"received --near {near} --smallest {smallest}; expected 0 to {_MOST_BITS} bits, and no negative size"
        )
    if not name:
        raise UserError("no data set named; give one, such as `anysize data check folder --data.root DIR`")
    from anysize.data.catalog import DATASETS
    from anysize.data.check import check_dataset, other_doubts
    from anysize.data.copies import look_alike, same_content
    from anysize.data.mend import check_list, write_list
    from anysize.reports.console import progress

    recipe, targets = _chosen(name, settings)
    if fix:
        check_list(fix, recipe.data)
    if told := DATASETS[name]().splits(recipe.data):
        tell(told)
    with progress("looking at the images") as say:
        splits = check_dataset(
            recipe.data,
            targets,
            smallest=smallest or recipe.sizes.base,
            on_image=lambda done, total: say(f"looked at {done:,} of {counted(total, 'image')}"),
        )
    for split in splits:
        (low, median, high), (least, middle, most) = split.heights, split.widths
        tell(f"{split.split}: {counted(split.images, 'image')} of {counted(len(split.counts), 'class')}")
        tell(f"  height {low} to {high} px (median {median}), width {least} to {most} px (median {middle})")
        for each, count in split.counts.items():
            tell(f"  {count:>8,}  {each}")
        if split.too_small:
            tell(f"  images smaller than {split.smallest} px: {len(split.too_small):,}")
        if split.turned:
            what = "data.exif applies it" if recipe.data.exif else "it is not applied: --data.exif true does that"
            tell(f"  images that carry an EXIF rotation: {split.turned:,}; {what}")
        for line in split.left_out.lines():
            tell(f"  left out: {line}")
        for text in split.doubts.of_split(split.split):
            tell(f"warning: {text}")
    for kind, doubts in other_doubts(recipe.data, targets).items():
        for text in doubts.of_split("train"):
            tell(f"warning: {kind}: {text}")
    empty = [folder for split in splits for folder in split.empty]
    for folder in empty:
        tell(f"empty: {folder} holds no image")
    if empty:
        tell(f"{counted(len(empty), 'empty class')}: add images, or remove {'it' if len(empty) == 1 else 'them'}")
    damaged = {path: reason for split in splits for path, reason in split.damaged.items()}
    too_large = {path: reason for split in splits for path, reason in split.too_large.items()}
    missing = {path: reason for split in splits for path, reason in split.missing.items()}
    for found, what, remedy in (
        (damaged, "damaged", DATASETS[name]().mending),
        (too_large, "too large", "raise data.max_pixels, remove {them}"),
        (missing, "missing", "add {them}"),
    ):
        for path, reason in found.items():
            tell(f"{what}: {path}: {reason}")
        if found:
            first = remedy.format(them="it" if len(found) == 1 else "them")
            tell(f"{counted(len(found), f'{what} file')}: {first}, or train with --data.on_bad_image skip")
    if smallest:
        for path in (path for split in splits for path in split.too_small):
            tell(f"too small: {path}")
    prints = [split.prints for split in splits]
    copies, alike = same_content(prints), look_alike(prints, near) if near else []
    _tell_copies(copies, "copies", "the content")
    _tell_copies(alike, "images that look alike", "the looks")
    if fix:
        count = write_list(fix, recipe.data, splits, copies, alike, too_small=bool(smallest))
        use = f"leave them out with --data.exclude {fix}" if count else "there is nothing that it leaves out"
        tell(f"{fix} is written and lists {counted(count, 'file')}; {use}")
    if damaged or too_large or missing or empty or splits[0].doubts.nothing:
        sys.exit(1)


@command.command
def export(
    name: str = "",
    /,
    *folder: _Words,
    format: Literal["coco", "voc"] | None = None,
    images: int = 0,
    polygons: bool = False,
) -> None:
    """Write a data set in the format of COCO or VOC.

    Args:
        name: of the data set
        folder: a new one
        format: coco with PNG images, or voc with JPEG images (quality 95) and palette PNG masks
        images: write the first so many of each split only
        polygons: coco: outline objects without holes by polygons; otherwise all have run lengths
    """
    usage = "`anysize data export scenes --format coco DIR`"
    if not name or not format:
        raise UserError(f"{'no format is' if name else 'no data set is'} named; expected one, as in {usage}")
    if len(folder) != 1 or folder[0].startswith("--"):
        raise UserError(f"received {' '.join(folder) or 'no folder'}; expected one new folder, as in {usage}")
    from anysize.data.export import export_dataset
    from anysize.reports.console import progress

    with progress("writing") as say:
        written = export_dataset(
            name,
            format,
            folder[0],
            images=images,
            polygons=polygons,
            on_image=lambda done, total: say(f"wrote {done:,} of {counted(total, 'image')}"),
        )
    tell(f"{written} is written; use it with --data.name {format} --data.root {written}")


@command.command
def pack(
    name: str = "",
    /,
    *out: _Words,
    levels: str = "original,256,192,128,96",
    raw: bool = False,
    quality: int = 90,
    shard: int = 256,
    shuffle: bool = False,
) -> None:
    """Write the images of all splits into a few large files, each at several sizes; or go on with a packing.

    Args:
        name: of the data set; its folder is given with --data.root DIR, and --task.name says which targets are packed
            where it has several
        out: a new folder, or that of a packing that was interrupted; settings may follow it
        levels: the shorter sides in pixels at which images are kept, and `original` for the files themselves; no image
            is enlarged
        raw: keep the levels as raw pixels, which takes some five times the room and is read without decoding
        quality: of the JPEGs of the levels
        shard: MiB after which a new file is begun
        shuffle: lay the training images in random order, always the same one, for data.shuffle_chunks; otherwise they
            lie in the order of the data set, mostly class by class
    """
    usage = "`anysize data pack folder OUT --data.root DIR`"
    if not name or not out or out[0].startswith("--"):
        raise UserError(f"no {'folder is named for the pack' if name else 'data set is named'}; expected {usage}")
    from anysize.data.pack.format import parse_levels, spoken
    from anysize.data.pack.write import PackOptions
    from anysize.experiment.packing import pack_dataset
    from anysize.reports.console import progress

    folder, *settings = out
    recipe, targets = _chosen(name, tuple(settings))
    options = PackOptions(parse_levels(levels), "raw" if raw else "jpeg", quality, shard, shuffle)
    with progress("packing") as say:
        manifest = pack_dataset(
            recipe.data,
            folder,
            targets,
            options,
            on_image=lambda done, total: say(f"packed {done:,} of {counted(total, 'image')}"),
        )
    for split, of_split in manifest.splits.items():
        size = f"{of_split.bytes / 2**20:,.1f} MiB"
        tell(f"{split}: {counted(of_split.images, 'image')}, levels {spoken(manifest.levels)}, {size}")
    if manifest.evaluated:
        tell(f"warning: {manifest.evaluated}")
    tell(f"{folder} is a pack; use it with --data.name pack --data.root {folder}")


@command.command
def unpack(packed: str = "", /, *out: _Words) -> None:
    """Give the files of a pack back.

    Args:
        packed: the folder of the pack, or its address in object storage
        out: a new folder
    """
    usage = "`anysize data unpack PACK OUT`"
    if not packed or len(out) != 1 or out[0].startswith("--"):
        raise UserError(
            f"received {' '.join((packed, *out)) or 'no pack'}; expected a pack and a new folder, as {usage}"
        )
    from pathlib import Path

    from anysize.data.pack.unpack import LAYOUTS
    from anysize.data.pack.unpack import unpack as write_files
    from anysize.reports.console import progress

    folder = Path(out[0]).expanduser()
    with progress("unpacking") as say:
        manifest, bad = write_files(
            packed,
            folder,
            on_image=lambda done, total: say(f"wrote {done:,} of {counted(total, 'image')}"),
        )
    for image, reason in bad.items():
        tell(f"damaged: {image}: {reason}")
    if manifest.evaluated:
        tell("warning: the pack has no originals: the files are its largest level")
    tell(f"{folder} is written; use it with --data.name {LAYOUTS[manifest.targets]} --data.root {folder}")
    if bad:
        sys.exit(1)


def _chosen(name: str, settings: tuple[str, ...]) -> "tuple[Recipe, str]":
    """The settings of a data set, and the kind of targets that they ask for; empty where they ask for none."""
    from anysize.recipe import Recipe, override
    from anysize.tasks.base import task_class

    given = parse_settings(settings)
    recipe = override(Recipe(), {**given, "data.name": name})
    return recipe, task_class(recipe.task.name).targets if "task.name" in given else ""


def _tell_copies(groups: "list[Copies]", what: str, of: str) -> None:
    """Name the first of the images that are there more than once, and count all."""
    for each in groups[:_NAMED]:
        (split, first), *others = each.images
        for other, path in others:
            tell(f"{path} ({other}) has {of} of {first} ({split}){', but other classes' if each.differ else ''}")
    if groups:
        extra = sum(len(each.images) - 1 for each in groups)
        across, differ = sum(each.across for each in groups), sum(each.differ for each in groups)
        where = f"{across:,} in several splits, {differ:,} with other classes"
        where += f"; the first {_NAMED} are named" if len(groups) > _NAMED else ""
        tell(f"{what}: {extra:,}, of {counted(len(groups), 'image')}; {where}")
