"""Settings that have another name than they had: the old one is taken for a while, with a warning that says until when.

    RENAMED = {"training.amp": Renamed("training.precision", until="0.3")}

Recipes, the command line, run folders and exported files are all read by the names of now. A version that comes to
`until` takes the entry out, and with it the old name.
"""

import dataclasses
import functools
import logging
from collections.abc import Mapping
from typing import Any

from anysize.registry import UserError

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Renamed:
    """What a setting is called now, and the first version that does not take its old name any more."""

    name: str
    until: str


RENAMED: dict[str, Renamed] = {}
"""By the old name, `section.field`."""


def name_now(setting: str, where: str = "", *, say: bool = True) -> str:
    """The name of a setting, or of a value within it, where it may be given by an old one, which is warned of.

    Args:
        setting: `section.field`, with underscores or dashes.
        where: the file that has it; empty: the command line.
        say: whether to warn.

    >>> name_now("training.batch-size")
    'training.batch-size'
    """
    old = ".".join(setting.replace("-", "_").split(".")[:2])
    found = RENAMED.get(old)
    if found is None:
        return setting
    if say:
        say_deprecated(f"{where}: " if where else "--", old, found.name, found.until)
    return found.name + setting[len(old) :]


def by_names_now(tree: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The sections of a recipe, of `where`, with each setting under its name of now; old names are warned of.

    Raises:
        UserError: a setting is there by both of its names.
    """
    now = {section: dict(part) if isinstance(part, dict) else part for section, part in tree.items()}
    for old, found in RENAMED.items():
        section, field = old.split(".")
        if not isinstance(now.get(section), dict) or field not in now[section]:
            continue
        value = now[section].pop(field)
        if not now[section]:
            del now[section]
        section, field = name_now(old, where).split(".")
        if field in now.setdefault(section, {}):
            raise UserError(
                f"{where}: {old} and {found.name} are one setting, which has the second name now; leave out {old}"
            )
        now[section][field] = value
    return now


@functools.lru_cache(maxsize=1000)
def say_deprecated(before: str, old: str, new: str, until: str) -> None:
    """Warn, once a process, that an old name is taken still; `before` says where it stands."""
    logger.warning("%s%s is called %s now; the old name is taken until anysize %s", before, old, new, until)
