"""Values of recipe files and of the command line: from TOML or text to the types of the settings, checked, and back."""

import dataclasses
import functools
import json
import math
import typing
from collections.abc import Iterator, Mapping
from typing import Any

import tomli_w

from anysize.registry import UserError, did_you_mean, shown
from anysize.training.regime import Point, Schedule, is_schedule, parse_schedule, to_data

_EXPECTED = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    tuple: "a list",
    dict: 'a table such as {"depth": 20}',
}
_DEEPEST = 16  # lists and tables in each other; a builder's options need one or two
_LONGEST = 4096  # of text, in characters: as long as a path
_LARGEST = 2**63 - 1  # a whole number in TOML


@functools.cache
def type_hints(cls: Any) -> dict[str, Any]:
    """The type of each field of a settings dataclass."""
    return typing.get_type_hints(cls)


def build_settings(cls: Any, tree: Any, file: str, path: str = "") -> Any:
    """Build a settings dataclass from a TOML table, which is at `path` in `file` (no file: on the command line).

    Raises a `UserError` for an unknown key, or a value of the wrong type or outside its range.
    """
    where = (f"{file}: [{path}]" if path else f"{file}:") if file else f"--{path}"
    if not isinstance(tree, dict):
        raise UserError(f"{where} is {shown(tree)}; expected a table")
    fields = {field.name: field for field in dataclasses.fields(cls)}
    values = {}
    for key, value in tree.items():
        if key not in fields:
            kind = "key" if path else "section"
            raise UserError(f"{where} unknown {kind} {shown(key)}: {did_you_mean(key, fields)}")
        values[key] = check_value(cls, fields[key], value, file, f"{path}.{key}" if path else key)
    return cls(**values)


def check_value(cls: Any, field: "dataclasses.Field[Any]", value: Any, file: str, path: str) -> Any:
    """Convert `value` to the type of a field of `cls` and check its choices and its range.

    The range holds for each number of a list, a table or a schedule.
    """
    where = f"{file}: {path}" if file else f"--{path}"
    _check_simple(value, where)
    result = _convert(type_hints(cls)[field.name], value, file, path)
    choices, besides = field.metadata.get("choices"), field.metadata.get("besides")
    if choices and result not in choices:
        raise UserError(f"{where} is {shown(value)}: {did_you_mean(str(value), [c or '(empty)' for c in choices])}")
    if is_schedule(result):
        kind = str if field.name == "name" else float  # the one setting of names that moves by epoch
        if wrong := [point.value for point in result if not isinstance(point.value, kind)]:
            raise UserError(f"{where} is {shown(wrong[0])}; expected {_EXPECTED[kind]}")
    low, high = (field.metadata.get(what) for what in ("low", "high"))
    for number in _numbers(result):
        inside = (low is None or number >= low) and (high is None or number <= high)
        if not inside and number != besides:
            of = "" if isinstance(value, (int, float)) else f", of which {shown(number)} is out of range"
            raise UserError(f"{where} is {shown(value)}{of}; expected {allowed_numbers(field.metadata)}")
    return result


def allowed_numbers(metadata: Mapping[str, Any], range_: str = "from {} to {}") -> str:
    """The numbers that a setting takes, in words; empty: all.

    >>> allowed_numbers({"low": 1, "high": 1_000_000})
    'from 1 to 1,000,000'
    >>> allowed_numbers({"low": 0.1, "high": 1.0, "besides": 0}, "{} .. {}")
    '0 or 0.1 .. 1'
    """
    low, high, besides = (metadata.get(what) for what in ("low", "high", "besides"))
    if low is None and high is None:
        return ""
    written = [f"{bound:,}" if isinstance(bound, int) else f"{bound:g}" for bound in (low, high) if bound is not None]
    text = range_.format(*written) if len(written) > 1 else f"at {'most' if low is None else 'least'} {written[0]}"
    return text if besides is None else f"{besides:g} or {text}"


def _check_simple(value: Any, where: str) -> None:
    """Raise a `UserError` for what no setting can be: too deep, too long, or no value that JSON and TOML share."""
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > _DEEPEST:
            raise UserError(f"{where} has lists and tables in each other, more than {_DEEPEST}; expected fewer")
        below: list[Any] = []
        for item in level:
            if isinstance(item, Mapping):
                below += [*item, *item.values()]
            elif isinstance(item, (list, tuple)):
                below += item
            elif isinstance(item, float) and not math.isfinite(item):
                raise UserError(f"{where} is {shown(value)}; expected a finite number")
            elif isinstance(item, int) and abs(item) > _LARGEST:
                raise UserError(f"{where} is {shown(value)}; expected a number that 64 bits hold")
            elif isinstance(item, str) and len(item) > _LONGEST:
                raise UserError(f"{where} is {shown(value)}; expected text of {_LONGEST:,} characters at most")
            elif not isinstance(item, (bool, int, float, str, Point)):
                raise UserError(f"{where} is {shown(value)}; expected numbers, text, true, false, lists or tables")
        level = below


def _numbers(value: Any) -> Iterator[float]:
    """All numbers of a setting: of a list, of a table, of the points of a schedule."""
    if isinstance(value, Point):
        value = value.value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        yield value
    elif isinstance(value, (tuple, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _numbers(item)


def from_text(hint: Any, value: Any) -> Any:
    """Turn the text of a command line into what a TOML file would have held for this type.

    >>> from_text(tuple[float, ...], "0.5,1"), from_text(int, "3"), from_text(str, "3")
    ([0.5, 1], 3, '3')
    """
    if not isinstance(value, str) or hint is str:
        return value
    if typing.get_origin(hint) is tuple and not value.startswith("[") and hint != Schedule:
        return [from_text(Any, part) for part in value.replace(",", " ").split()]
    for read in (int, float, json.loads):
        try:
            return read(value)
        except (ValueError, RecursionError):
            continue
    return value


def plain(value: Any) -> Any:
    """Settings as TOML-ready data."""
    if is_schedule(value):
        return to_data(value)
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return [plain(item) for item in value] if isinstance(value, (tuple, list)) else value


def to_toml(value: Any) -> str:
    """A value in TOML: a list of points or phases has a line for each, all else is one line.

    >>> to_toml({"16": 0.5, "a b": [True, "x"]})
    '{ 16 = 0.5, "a b" = [true, "x"] }'
    """
    if isinstance(value, dict):  # tomli_w quotes a key that needs it; [:-5] takes its " = 0" and the line's end away
        inner = ", ".join(f"{tomli_w.dumps({key: 0})[:-5]} = {to_toml(item)}" for key, item in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "\n".join(["[", *(f"    {to_toml(item)}," for item in value), "]"])
    if isinstance(value, list):
        return f"[{', '.join(map(to_toml, value))}]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # which JSON takes, and TOML does not


def _convert(hint: Any, value: Any, file: str, path: str) -> Any:
    where = f"{file}: {path}" if file else f"--{path}"
    if dataclasses.is_dataclass(hint):
        return build_settings(hint, value, file, path)
    if hint == Schedule:
        try:
            return parse_schedule(value)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple and isinstance(value, (list, tuple)):
        if arguments[-1] is not Ellipsis and len(value) != len(arguments):
            raise UserError(f"{where} is {shown(value)}; expected {len(arguments)} values")
        named = dataclasses.is_dataclass(arguments[0])
        return tuple(_convert(arguments[0], item, file, f"{path}[{i}]" * named or path) for i, item in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return {str(key): _convert(arguments[1], item, file, path) for key, item in value.items()}
    if hint is Any or type(value) is hint:
        return value
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if number and hint in (int, float, str) and (hint is not int or float(value).is_integer()):
        return hint(value)
    raise UserError(f"{where} is {shown(value)} ({type(value).__name__}); expected {_EXPECTED[origin or hint]}")
