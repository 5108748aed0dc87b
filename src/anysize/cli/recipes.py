"""`anysize recipes` and `anysize recipes show NAME`."""

import textwrap
from typing import Literal

from anysize.registry import UserError


def command(action: Literal["list", "show"] = "list", name: str = "", /) -> None:
    """List the recipes of the package, or print one.

    Args:
        action: list: a line each with the expected result and the cost; show: every value of one,
            and the file that it is from
        name: which recipe to show, also one to extend, such as elastic/coco-base, or the path of a TOML file
    """
    from anysize.recipes import read_header, recipe_names

    if action == "show":
        if not name:
            raise UserError("no recipe named; give one, such as `anysize recipes show quickstart`")
        from rich.console import Console
        from rich.text import Text

        from anysize.recipe import explain

        for line in explain(name).splitlines():
            Console().print(Text(line, style="dim" if line.endswith("# default") else ""), soft_wrap=True)
        return
    for recipe in recipe_names():
        header = read_header(recipe)
        print(f"{recipe}\n  {header.title}")
        for what, text in header._asdict().items():
            if what not in ("title", "command") and text.strip("- "):
                told = f"{what.replace('_', ' ')}: {text}"
                print(textwrap.fill(told, 100, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False))
