"""`anysize recipes [PATTERN]` and `anysize recipes show NAME`."""

import textwrap

import cyclopts

from anysize.cli import tell
from anysize.registry import UserError

command = cyclopts.App(help="List the recipes of the package, or print one.", help_format="plaintext")


@command.default
def list_recipes(pattern: str = "", /) -> None:
    """List the recipes of the package, each with the expected result and the cost.

    Args:
        pattern: only recipes whose name or title contains this, or matches it where it has * or ?
    """
    import fnmatch

    from anysize.recipes import read_header, recipe_names
    from anysize.registry import did_you_mean

    wanted = pattern.lower() if set("*?[") & set(pattern) else f"*{pattern.lower()}*"
    found = {name: read_header(name) for name in recipe_names()}
    found = {
        name: header
        for name, header in found.items()
        if any(fnmatch.fnmatchcase(text.lower(), wanted) for text in (name, header.title))
    }
    if not found:
        hint = did_you_mean(pattern, recipe_names())
        hint = hint if hint.startswith("did") else "`anysize recipes` lists all"
        raise UserError(f"no recipe has {pattern!r} in its name or title: {hint}")
    for recipe, header in found.items():
        tell(f"{recipe}\n  {header.title}")
        for what, text in header._asdict().items():
            if what not in ("title", "command") and text.strip("- "):
                told = f"{what.replace('_', ' ')}: {text}"
                tell(textwrap.fill(told, 100, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False))


@command.command(name="list")
def list_all() -> None:
    """List all recipes of the package, as without a pattern."""
    list_recipes()


@command.command
def show(name: str = "", /) -> None:
    """Print every value of a recipe, and the file that it is from.

    Args:
        name: a recipe, also one to extend, such as elastic/coco-base, or the path of a TOML file
    """
    if not name:
        raise UserError("no recipe named; give one, such as `anysize recipes show quickstart`")
    from rich.console import Console
    from rich.text import Text

    from anysize.recipe import explain

    for line in explain(name).splitlines():
        Console().print(Text(line, style="dim" if line.endswith("# default") else ""), soft_wrap=True)
