"""Names to builders, the settings of a recipe, and the one error a user sees.

Everything that a user can name (a model, a data set, a task, an optimizer) sits in a `Registry`; an unknown name
is answered with the nearest known one. Each part of the package describes its own options as a frozen dataclass
whose fields are made with `setting`, so that the recipe, the command line and the docs read the same text.
This module imports the standard library alone.
"""

import dataclasses
import difflib
import re
import reprlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

T = TypeVar("T")

_STEERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Control characters but for tab and newline, and those that turn the direction of writing."""


_LONG = re.compile(r"\S{300,}|(?<!\w)'[^'\n]{200,}'(?!\w)|\{.{200,}\}|\[[^][]{200,}\]", re.DOTALL)
"""What a message quotes, such as a path or a whole file, and that is longer than a line."""


class UserError(ValueError):
    """An error that a user can put right: the message says what was received, what was expected, and the remedy.

    It shows at most a line of what was received: the middle of what is longer is left out, and line breaks, as in
    names from elsewhere, are escaped. A `table` may follow it, in lines of its own.

    >>> len(str(UserError(f"state is {dict.fromkeys(range(1000), 0)}; expected a number")))
    210
    >>> print(UserError("no picture 'a\\nb.png'; give one that is there", table="epoch 1\\nepoch 2"))
    no picture 'a\\nb.png'; give one that is there
    epoch 1
    epoch 2
    """

    def __init__(self, message: str = "", table: str = "") -> None:
        line = _cut(_LONG.sub(lambda part: _cut(part[0], 160), message.strip().replace("\n", "\\n")), 1500)
        super().__init__(f"{line}\n{table}" if table else line)


class NotFinite(UserError):
    """What a model gives is NaN or infinite, so that no figure, prediction or statistic of it means anything."""


def printable(text: str) -> str:
    """Text whose control characters are escaped, so that a name from elsewhere does not steer the terminal.

    >>> print(printable("cat\x1b[2J.png"))
    cat\\x1b[2J.png
    """
    return _STEERS.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def in_a_line(received: object, most: int = 120) -> str:
    """What was received, for a message: in one line, without the middle of what is long, and printable.

    >>> in_a_line("state\\nof " + "training" * 100, most=20)
    'state\\\\nof ...ngtraining (810 characters)'
    """
    text = printable(str(received)).replace("\n", "\\n").replace("\t", "\\t")
    return _cut(text, most)


def shown(value: object, most: int = 100) -> str:
    """A value as a message shows it: its `repr`, short where it is long, nested or much.

    >>> shown("abc"), shown("a" * 5000, most=10), shown(10**9999), shown(list(range(1000)))
    ("'abc'", "'aa...aaa'", 'an int too long to show', '[0, 1, 2, 3, 4, 5, ...]')
    """
    brief = reprlib.Repr()  # which goes neither deep nor far into what others have nested
    brief.maxstring = brief.maxother = brief.maxlong = most
    try:
        text = brief.repr(value)
    except (ValueError, RecursionError):  # thousands of digits
        name = type(value).__name__
        return f"{'an' if name[0] in 'aeiou' else 'a'} {name} too long to show"
    return text if len(text) <= most + 1 else f"{text[: most - 3]}..."


def _cut(text: str, most: int) -> str:
    """Text without the middle of what is longer than about `most` characters: the remedy stands at its end."""
    if len(text) <= most + 40:  # or the number would take as much room
        return text
    return f"{text[: most // 2]}...{text[-(most // 2) :]} ({len(text):,} characters)"


def some_of(names: Sequence[str], most: int = 8) -> str:
    """The first of many names, and how many more there are.

    >>> some_of(["a.jpg", "b.jpg", "c.jpg"], most=2)
    'a.jpg, b.jpg and 1 more'
    """
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def did_you_mean(received: str, known: Iterable[str]) -> str:
    """Return `did you mean 'x'?` for the nearest known name, or the list of known names when none is near.

    >>> did_you_mean("resnet5O", ["resnet50", "resnet56", "vgg16"])
    "did you mean 'resnet50'?"
    >>> did_you_mean("zzz", ["resnet50", "vgg16"])
    'choose one of: resnet50, vgg16'
    """
    known = sorted(known)
    for letter, digit in (("O", "0"), ("o", "0"), ("l", "1"), ("I", "1")):  # look-alikes first
        if received.replace(letter, digit) in known:
            return f"did you mean {received.replace(letter, digit)!r}?"
    near = difflib.get_close_matches(received, known, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]!r}?"
    shown = ", ".join(known[:30]) + (f" and {len(known) - 30} more" if len(known) > 30 else "")
    return f"choose one of: {shown}"


def counted(number: int, what: str) -> str:
    """A number with its noun, which stands in the plural where it is not one.

    >>> counted(1, "epoch"), counted(1502, "image"), counted(0, "class"), counted(2, "category"), counted(2, "epoch")
    ('1 epoch', '1,502 images', '0 classes', '2 categories', '2 epochs')
    """
    if number != 1:
        ends = {"y": what[:-1] + "ies"} if what[-2:-1] not in tuple("aeiou") else {}
        what = ends.get(what[-1]) or what + ("es" if what.endswith(("s", "x", "sh", "tch", "nch")) else "s")
    return f"{number:,} {what}"


class Registry(Generic[T]):
    """Builders by name.

    >>> colours = Registry[int]("colour")
    >>> @colours.register("red")
    ... def red() -> int:
    ...     return 1
    >>> colours["red"]()
    1
    >>> colours["rad"]
    Traceback (most recent call last):
    ...
    anysize.registry.UserError: unknown colour 'rad': did you mean 'red'?
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._builders: dict[str, Callable[..., T]] = {}

    def register(self, *names: str) -> Callable[[Callable[..., T]], Callable[..., T]]:
        """Register the decorated builder under each of `names`."""

        def add(builder: Callable[..., T]) -> Callable[..., T]:
            for name in names:
                assert name not in self._builders, f"{self.kind} {name!r} is registered twice"
                self._builders[name] = builder
            return builder

        return add

    def __getitem__(self, name: str) -> Callable[..., T]:
        if name not in self._builders:
            raise UserError(f"unknown {self.kind} {shown(name)}: {did_you_mean(name, self._builders)}")
        return self._builders[name]

    def __contains__(self, name: object) -> bool:
        return name in self._builders

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._builders))

    def __len__(self) -> int:
        return len(self._builders)


def setting(
    default: Any,
    doc: str,
    *,
    choices: tuple[str, ...] = (),
    low: float | None = None,
    high: float | None = None,
    besides: float | None = None,
) -> Any:
    """Make one documented field of a settings dataclass, of which `choices` or a range are checked on load.

    Args:
        default, doc: its value where nobody gives one, and what it means.
        choices: all that it may be.
        low, high: the smallest and the largest number; of a list, a table or a schedule: of each number in it.
        besides: a number outside this range that is taken, too, such as 0 for "off".

    >>> @dataclasses.dataclass(frozen=True)
    ... class Settings:
    ...     depth: int = setting(20, "layers with weights", low=8, high=1000)
    >>> dataclasses.fields(Settings)[0].metadata["doc"]
    'layers with weights'
    """
    metadata = {"doc": doc, "choices": choices, "low": low, "high": high, "besides": besides}
    if isinstance(default, (list, dict)):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)
