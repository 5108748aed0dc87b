"""`anysize data` and `anysize data check NAME --data.root DIR`."""

import sys
from typing import Literal

from anysize.cli import Settings, parse_settings
from anysize.registry import UserError


def command(action: Literal["list", "check"] = "list", name: str = "", /, *settings: Settings) -> None:
    """List the data sets, or decode every image of one and say what is there.

    Parameters
    ----------
    action
        list: a line each; check: count images by class, sizes and damaged files of a data set
    name
        which data set to check; its folder is given with --data.root DIR
    """
    from anysize.data.registry import dataset_docs

    if action == "list":
        docs = dataset_docs()
        width = max(map(len, docs))
        for each, doc in docs.items():
            print(f"{each:{width}}  {doc}")
        return
    if not name:
        raise UserError("no data set named; give one, such as `anysize data check folder --data.root DIR`")
    from anysize.data.check import check_dataset
    from anysize.recipe import Recipe, override

    recipe = override(Recipe(), {**parse_settings(settings), "data.name": name})
    splits = check_dataset(recipe.data)
    for split in splits:
        (low, median, high), (least, middle, most) = split.heights, split.widths
        print(f"{split.split}: {split.images:,} images of {len(split.counts)} classes")
        print(f"  height {low} to {high} px (median {median}), width {least} to {most} px (median {middle})")
        for each, count in split.counts.items():
            print(f"  {count:>8,}  {each}")
    damaged = {path: reason for split in splits for path, reason in split.damaged.items()}
    for path, reason in damaged.items():
        print(f"damaged: {path}: {reason}")
    if damaged:
        print(f"{len(damaged)} damaged files: remove them, or train with --data.on_bad_image skip")
        sys.exit(1)
