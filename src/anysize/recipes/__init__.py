"""The recipe files: the package's own by name, the header of each, and the files that a file extends.

A recipe file may begin with `extends = "elastic/coco-base"`, the name of a recipe of the package, or with
`extends = "mine.toml"`, a path from the file's own folder. It then holds only what differs: its tables are merged into
those of the base key by key, and its values, lists and schedules replace the base's. A base may extend another file.

A recipe of the package whose name ends in `-base` is there to be extended, and is not listed as one to train.
"""

import functools
import itertools
import os
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

from anysize.files import read_text
from anysize.models import trust
from anysize.registry import UserError, did_you_mean
from anysize.renamed import by_names_now

_ROOT = Path(__file__).parent
_MOST_BYTES = 1 << 24  # of a recipe file


class RecipeHeader(NamedTuple):
    """The comment at the top of a recipe file: purpose, command, published and measured results, cost, devices."""

    title: str
    command: str = ""
    published: str = ""
    measured: str = ""
    cost: str = ""
    written_for: str = ""


def recipe_names(*, bases: bool = False) -> list[str]:
    """Names of the package's recipes, such as `mixsize/cifar10-resnet44`; with `bases` also those only to extend."""
    return [name for name in _names() if bases or not name.endswith("-base")]


@functools.cache
def _names() -> tuple[str, ...]:
    return tuple(sorted(map(file_label, _ROOT.rglob("*.toml"))))


def recipe_path(name: str, extended_by: Path | None = None) -> Path:
    """The file of a recipe, by its name in the package or its path (from the folder of the file `extended_by`).

    Where neither is there, the `UserError` names the nearest recipe.
    """
    if name.endswith(".toml"):
        path = extended_by.parent / name if extended_by else Path(name)
        if not path.is_file():
            what = "is no file" if os.path.lexists(path) else "does not exist"
            raise UserError(f"recipe file {path} {what}; `anysize recipes` lists the recipes of the package")
        return path
    if name not in recipe_names(bases=True):
        raise UserError(f"unknown recipe {name!r}: {did_you_mean(name, recipe_names(bases=extended_by is not None))}")
    return _ROOT / f"{name}.toml"


def file_label(path: Path) -> str:
    """The name of a recipe file of the package, the path of any other."""
    return path.relative_to(_ROOT).with_suffix("").as_posix() if path.is_relative_to(_ROOT) else str(path)


def leading_comment(path: Path) -> str:
    """The comment of a recipe file before its first value."""
    lines = _text(path).splitlines()
    return "\n".join(itertools.takewhile(lambda line: not line or line.startswith("#"), lines)).strip()


def read_header(name: str) -> RecipeHeader:
    """Read the leading comment of a recipe; what stands behind `Published:` and the like may go on over several lines.

    >>> read_header("quickstart").command
    'anysize train quickstart'
    """
    found, key = {"title": ""}, "title"
    for line in leading_comment(recipe_path(name)).partition("\n\n")[0].splitlines():
        text = line[1:].strip()
        if line.startswith("#   ") and text.startswith("anysize "):
            found["command"] = text
            continue
        word = text.split(":")[0]
        if word in ("Published", "Measured", "Cost", "Written for"):
            key, text = word.lower().replace(" ", "_"), text[len(word) + 1 :].strip()
        found[key] = f"{found.get(key, '')} {text}".strip()
    return RecipeHeader(**found)


def read_files(name: str) -> dict[Path, dict[str, Any]]:
    """The tables of a recipe file and of the files that it extends, the last base first.

    Raises a `UserError` where a file is not there or not TOML, or the files extend each other in a circle.
    """
    path = recipe_path(name)
    found: dict[Path, dict[str, Any]] = {}
    while path.resolve() not in map(Path.resolve, found):
        try:
            tree = tomllib.loads(_text(path))
        except tomllib.TOMLDecodeError as error:
            raise UserError(f"{path}: not a TOML file: {error}") from None
        except (RecursionError, ValueError):  # the second: numbers of thousands of digits
            raise UserError(
                f"{path}: its values are nested too deeply, or have too many digits; expected a recipe"
            ) from None
        found[path] = tree = by_names_now(tree, str(path))
        if not path.is_relative_to(_ROOT):
            trust.found(tree.get("model"), path)
        if "extends" not in tree:
            return dict(reversed(found.items()))
        base = tree.pop("extends")
        if not isinstance(base, str):
            raise UserError(f"{path}: extends is {base!r}; expected the name of a recipe or the path of a TOML file")
        try:
            path = recipe_path(base, extended_by=path)
        except UserError as error:
            raise UserError(f"{path}: extends: {error}") from None
    circle = " > ".join(map(file_label, [*found, path]))
    raise UserError(f"{recipe_path(name)}: extends goes in a circle, {circle}; take it out of one of these files")


def _text(path: Path) -> str:
    """A recipe file, in which a path may be no UTF-8."""
    try:
        return read_text(path, _MOST_BYTES, "surrogateescape")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}); expected a recipe") from None


def merge(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """The tables of a file over those of its base: tables are merged, all else is replaced.

    >>> merge({"model": {"name": "resnet20", "options": {"a": 1}}}, {"model": {"options": {"b": 2}}, "task": {}})
    {'model': {'name': 'resnet20', 'options': {'a': 1, 'b': 2}}, 'task': {}}
    """
    merged = dict(base)
    for key, value in own.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = merge(base[key], value) if both else value
    return merged
