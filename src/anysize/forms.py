"""What data from elsewhere must look like: forms, put together of smaller ones, that a value fits or not.

A form is called with a value and with where it stands; it gives the value back or raises `Unfit`, which says in a line
what was received and what was expected. What a form does not name is left out of the value.

    picture = fields(name=text(), size=number(1, 10_000, whole=True), labels=each(text()))
"""

import math
from collections.abc import Callable, Hashable
from typing import Any

from anysize.registry import in_a_line

Form = Callable[[Any, str], Any]


class Unfit(ValueError):
    """A value that does not fit its form."""

    def __init__(self, where: str, received: object, expected: str) -> None:
        shown = (
            repr(received)
            if isinstance(received, (str, int, float, bool, type(None)))
            else _KINDS.get(type(received), "of another kind")
        )
        super().__init__(f"{in_a_line(where or 'it')} is {in_a_line(shown, 60)}; expected {expected}")


_KINDS: dict[type, str] = {list: "a list", dict: "a table"}


def text(most: int = 1000) -> Form:
    """Text of at most so many characters.

    >>> text()(7, "name")
    Traceback (most recent call last):
    ...
    anysize.forms.Unfit: name is 7; expected text of at most 1,000 characters
    """

    def check(value: Any, where: str) -> str:
        if not isinstance(value, str) or len(value) > most:
            raise Unfit(where, value, f"text of at most {most:,} characters")
        return value

    return check


def number(low: float = -math.inf, high: float = math.inf, *, whole: bool = False) -> Form:
    """A finite number within bounds, which are inclusive.

    >>> number(0, 1)(1, "share"), number(0, 255, whole=True)(7.0, "red")
    (1, 7)
    """

    def check(value: Any, where: str) -> int | float:
        fits = isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high
        if not fits or abs(value) >= 2**1023 or (whole and value != int(value)):
            kind = "a whole number" if whole else "a number"
            bounds = "" if math.inf in (-low, high) else f" from {low:,} to {high:,}"
            raise Unfit(where, value, kind + bounds)
        return int(value) if whole else value

    return check


def one_of(*values: Hashable) -> Form:
    """One of these values: `one_of(True, False)` is a truth."""

    def check(value: Any, where: str) -> Any:
        if not any(type(value) is type(each) and value == each for each in values):
            raise Unfit(where, value, f"one of {', '.join(map(repr, values))}")
        return value

    return check


def optional(form: Form) -> Form:
    """Such a value, or none (null)."""
    return lambda value, where: None if value is None else form(value, where)


def either(*forms: Form) -> Form:
    """A value that fits the first of these forms that it fits."""

    def check(value: Any, where: str) -> Any:
        for form in forms[:-1]:
            try:
                return form(value, where)
            except Unfit:
                continue
        return forms[-1](value, where)

    return check


def each(form: Form, most: int = 10_000) -> Form:
    """A list of at most so many such values.

    >>> each(number())([1, "2"], "sizes")
    Traceback (most recent call last):
    ...
    anysize.forms.Unfit: sizes[1] is '2'; expected a number
    """

    def check(value: Any, where: str) -> list[Any]:
        if not isinstance(value, (list, tuple)) or len(value) > most:
            raise Unfit(where, value, f"a list of at most {most:,}")
        return [form(part, f"{where}[{i}]") for i, part in enumerate(value)]

    return check


def series(*forms: Form) -> Form:
    """A list of one value a form."""

    def check(value: Any, where: str) -> list[Any]:
        if not isinstance(value, (list, tuple)) or len(value) != len(forms):
            raise Unfit(where, value, f"a list of {len(forms)}")
        return [form(part, f"{where}[{i}]") for i, (form, part) in enumerate(zip(forms, value, strict=True))]

    return check


def table(form: Form, most: int = 10_000, key: Form | None = None) -> Form:
    """Values by names, which are text of at most 200 characters or fit `key`."""
    key = key or text(200)

    def check(value: Any, where: str) -> dict[Any, Any]:
        if not isinstance(value, dict) or len(value) > most:
            raise Unfit(where, value, f"a table of at most {most:,}")
        return {key(name, f"a name in {where}"): form(part, f"{where}.{name}") for name, part in value.items()}

    return check


def fields(maybe: dict[str, Form] | None = None, /, **needed: Form) -> Form:
    """A table with these values; those in `maybe` may be missing.

    >>> fields({"number": text()}, size=number())({"size": 8, "other": []}, "")
    {'size': 8}
    """

    def check(value: Any, where: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise Unfit(where, value, "a table")
        if missing := [name for name in needed if name not in value]:
            raise Unfit(where, value, f"one with {', '.join(missing)}")
        forms = {**needed, **(maybe or {})}
        before = f"{where}." if where else ""
        return {name: form(value[name], before + name) for name, form in forms.items() if name in value}

    return check
