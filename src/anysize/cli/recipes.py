"""`anysize recipes` and `anysize recipes show NAME`."""

import textwrap
from typing import Literal

from anysize.registry import UserError


def command(action: Literal["list", "show"] = "list", name: str = "", /) -> None:
    """List the recipes of the package, or print one.

    Parameters
    ----------
    action
        list: a line each with the expected result and the cost; show: the file of one
    name
        which recipe to show
    """
    from anysize.recipe import read_header, recipe_names, recipe_path

    if action == "show":
        if not name:
            raise UserError("no recipe named; give one, such as `anysize recipes show quickstart`")
        print(recipe_path(name).read_text(encoding="utf-8"), end="")
        return
    for recipe in recipe_names():
        header = read_header(recipe)
        print(f"{recipe}\n  {header.title}")
        for what in ("published", "measured", "cost"):
            if text := getattr(header, what).strip("- "):
                print(textwrap.fill(f"{what}: {text}", 100, initial_indent="  ", subsequent_indent="    "))
