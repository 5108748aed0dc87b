"""Names of classes on an axis: so short that they leave room for the figure on a phone, and each of its own."""

from collections import Counter
from collections.abc import Sequence

_MOST = 20  # characters


def on_an_axis(names: Sequence[str], most: int = _MOST) -> list[str]:
    """The names with at most `most` characters each; those that are alike then, or were before, have their number.

    The middle of a long name is left out, since names of breeds or parts often differ at their ends.

    >>> on_an_axis(["cat", "German short-haired pointer"])
    ['cat', 'German sh…d pointer']
    >>> on_an_axis(["German short-haired pointer", "German shaggy-haired pointer"])
    ['Germa…inter (1)', 'Germa…inter (2)']
    """
    short = [_cut(name, most) for name in names]
    often = Counter(short)
    taken = {name for name in short if often[name] == 1}
    found = []
    for number, (name, brief) in enumerate(zip(names, short, strict=True), start=1):
        if often[brief] > 1:
            mark, room = f" ({number})", most - 8
            brief = _cut(name, room) + mark
            while brief in taken:  # somebody's class has such a number itself
                mark += "'"
                brief = _cut(name, room) + mark
            taken.add(brief)
        found.append(brief)
    return found


def _cut(name: str, most: int) -> str:
    half = most // 2 - 1
    return name if len(name) <= most else f"{name[:half]}…{name[-half:].strip()}"
