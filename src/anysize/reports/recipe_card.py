"""The recipe in a report: what differs from the one that it was begun with, and the whole of it to be opened."""

import re
import tomllib

from markupsafe import Markup

from anysize.reports.page import as_it_stands, card, folded, table
from anysize.reports.text_table import TextTable

_LINE = re.compile(r"([\w-]+) = (.*?)\s+# ([^#]+)")  # a value and where it is from, as `recipe.dump` writes it
_OVERRIDE, _DEFAULT = "override", "default"


def recipe_cards(recipe: str) -> tuple[Markup, Markup]:
    """What was changed, and the whole recipe, folded; `recipe` is the text of `recipe.toml`."""
    return _changed(origins(recipe)), folded("The whole recipe", as_it_stands(recipe))


def origins(recipe: str) -> list[tuple[str, str, str]]:
    """The settings of a recipe that says where each is from: (name, value as TOML, from where).

    A recipe without such remarks, as one that was handed over from Python, has none.

    >>> origins("[data]\\nname = 'cifar10'  # override\\nroot = ''   # default\\nlimit = 5")
    [('data.name', "'cifar10'", 'override'), ('data.root', "''", 'default')]
    """
    found, section = [], ""
    for line in recipe.splitlines():
        if heading := re.fullmatch(r"\[([\w.-]+)\]", line):
            section = heading[1]
        elif setting := _LINE.fullmatch(line):
            found.append((f"{section}.{setting[1]}", _whole(setting[2]), setting[3].strip()))
    return found


def _whole(value: str) -> str:
    """A value of one line; of one that goes on for several lines its first is no value."""
    try:
        tomllib.loads(f"value = {value}")
    except tomllib.TOMLDecodeError:
        return f"{value} ..."
    return value


def _changed(settings: list[tuple[str, str, str]]) -> Markup:
    title = "What differs from the recipe"
    if not settings:
        return card(title, "", "This run's recipe does not say where its settings are from.")
    bases = dict.fromkeys(
        base for *_, origin in settings for base in origin.split(", ") if base not in (_OVERRIDE, _DEFAULT)
    )
    base = ", ".join(bases) or "the defaults"
    rows = [[name, value] for name, value, origin in settings if _OVERRIDE in origin.split(", ")]
    if not rows:
        return card(title, "", f"Nothing: the run is as {base} says.")
    return card(title, table(TextTable(["setting", "here"], rows, labels=2)), f"All else is as {base} says.")
