"""What can happen to a file of a run folder: bytes that change, files that are something else, values that are altered.

A change takes a file, chance, and a folder outside the run that it may lead to; it says in a word what it did. It
returns an empty string where it does not fit the file, and then has changed nothing.
"""

import csv
import hashlib
import io
import json
import os
import random
import re
import shutil
import struct
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from PIL import Image

Change = Callable[[Path, random.Random, Path], str]

HUGE = ("9" * 400, "1e999", "-1e308", "99999999999999999999", "1e300", "-1", "0", "nan", "1e-320")
_TEXT = (".json", ".csv", ".toml", ".txt", ".html")


def checksum(data: bytes) -> str:
    """As checkpoints have it."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Write `state.json` of a checkpoint, with a checksum that is right."""
    path.write_text(json.dumps({"blake2b": checksum(json.dumps(state).encode()), "state": state}, indent=1))


def sign(tensors: Path) -> None:
    """Give `state.json` beside a file of tensors the length and the checksum that the file now has."""
    path, data = tensors.with_name("state.json"), tensors.read_bytes()
    state = json.loads(path.read_text())["state"]
    state["files"][tensors.name] = {"bytes": len(data), "blake2b": checksum(data)}
    write_state(path, state)


def flip(path: Path, rng: random.Random, outside: Path) -> str:
    data = bytearray(path.read_bytes())
    for _ in range(rng.choice((1, 1, 3, 20)) if data else 0):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    return "bits flipped" if data else ""


def cut(path: Path, rng: random.Random, outside: Path) -> str:
    data = path.read_bytes()
    path.write_bytes(data[: rng.randrange(len(data))] if data else b"")
    return "cut" if data else ""


def empty(path: Path, rng: random.Random, outside: Path) -> str:
    if not path.stat().st_size:
        return ""
    path.write_bytes(b"")
    return "empty"


def double(path: Path, rng: random.Random, outside: Path) -> str:
    data = path.read_bytes()
    path.write_bytes(data * 2)
    return "doubled" if data else ""


def noise(path: Path, rng: random.Random, outside: Path) -> str:
    path.write_bytes(rng.randbytes(rng.choice((1, 100, 5000))))
    return "random bytes"


def zeros(path: Path, rng: random.Random, outside: Path) -> str:
    size = path.stat().st_size
    path.write_bytes(bytes(size))
    return "zeros" if size else ""


def not_utf8(path: Path, rng: random.Random, outside: Path) -> str:
    if path.suffix not in _TEXT:
        return ""
    data, at = path.read_bytes(), rng.random()
    place = int(at * len(data))
    path.write_bytes(data[:place] + rng.choice((b"\xff\xfe", b"\xc3", b"\x80\x81")) + data[place:])
    return "not UTF-8"


def deep(path: Path, rng: random.Random, outside: Path) -> str:
    if path.suffix == ".json":
        path.write_text("[" * 100_000 + "]" * 100_000)
    elif path.suffix == ".toml":
        path.write_text("a = " + "[" * 2000 + "]" * 2000)
    else:
        return ""
    return "nested deep"


def removed(path: Path, rng: random.Random, outside: Path) -> str:
    _remove(path)
    return "removed"


def folder(path: Path, rng: random.Random, outside: Path) -> str:
    _remove(path)
    path.mkdir()
    (path / "file").write_text("in the way")
    return "a folder"


def pipe(path: Path, rng: random.Random, outside: Path) -> str:
    _remove(path)
    os.mkfifo(path)
    return "a pipe"


def device(path: Path, rng: random.Random, outside: Path) -> str:
    _remove(path)
    path.symlink_to(name := rng.choice(("/dev/zero", "/dev/full", "/dev/null", "/dev/urandom")))
    return f"a link to {name}"


def link_same(path: Path, rng: random.Random, outside: Path) -> str:
    target = outside / f"same{path.suffix}"
    _copy(path, target)
    _remove(path)
    path.symlink_to(target)
    return "a link to the same elsewhere"


def link_other(path: Path, rng: random.Random, outside: Path) -> str:
    _remove(path)
    path.symlink_to(outside / "secret.txt")
    return "a link to another file"


def link_lost(path: Path, rng: random.Random, outside: Path) -> str:
    _remove(path)
    path.symlink_to(rng.choice((path.name, str(outside / "nothing"))))
    return "a link to nothing"


def unreadable(path: Path, rng: random.Random, outside: Path) -> str:
    if os.geteuid() == 0:  # who may do everything
        return ""
    path.chmod(0)
    return "unreadable"


def altered(path: Path, rng: random.Random, outside: Path) -> str:
    """Another digit: the file is as well-formed as before."""
    if path.suffix not in (".json", ".csv", ".toml"):
        return ""
    before = path.read_text()
    places = [match.start() for match in re.finditer(r"(?<=[\s\[:,.\d])\d(?=[\d.,\s\]])", before)]
    if not places:
        return ""
    at = rng.choice(places)
    text = before[:at] + rng.choice([digit for digit in "123456789" if digit != before[at]]) + before[at + 1 :]
    return _put(path, text, rng, "a digit altered")


def huge(path: Path, rng: random.Random, outside: Path) -> str:
    """A number that is none, or larger than all that makes sense."""
    if path.suffix not in (".json", ".csv", ".toml"):
        return ""
    before = path.read_text()
    found = list(re.finditer(r"(?<=[\s\[:,])-?\d+(\.\d+)?(e-?\d+)?(?=[,\s\]])", before))
    if not found:
        return ""
    match, number = rng.choice(found), rng.choice(HUGE)
    number = "NaN" if number == "nan" and path.suffix == ".json" else number
    return _put(path, before[: match.start()] + number + before[match.end() :], rng, f"the number {number[:12]}")


def another_kind(path: Path, rng: random.Random, outside: Path) -> str:
    """A value of another kind, a key that is gone, or one that nobody knows."""
    if path.suffix == ".json":
        whole = json.loads(path.read_text())
        inside = "state" if path.name == "state.json" else None
        state = whole[inside] if inside else whole
        holder, key = rng.choice(_places(state))
        what = rng.choice(("removed", "null", "list", "text", "number", "object", "true"))
        if what == "removed":
            del holder[key]
        else:
            values: dict[str, Any] = {"null": None, "list": [1, "a"], "text": "x", "number": 7, "object": {"a": []}}
            holder[key] = values.get(what, True)
        return _put(path, json.dumps(whole, indent=1), rng, f"{key} {what}")
    if path.suffix == ".toml":
        lines = path.read_text().splitlines()
        settings = [i for i, line in enumerate(lines) if " = " in line and not line.startswith("#")]
        i = rng.choice(settings)
        name = lines[i].partition(" = ")[0]
        value = rng.choice(('"x"', "[]", "{ a = 1 }", "7", "true", "1979-05-27", '"a\\u0000b"', "inf"))
        lines[i] = rng.choice((f"{name} = {value}", f"{name} = {value}", f"unknown = {value}", "[[model]]"))
        path.write_text("\n".join(lines) + "\n")
        return f"{name} is now {lines[i]}"
    if path.suffix == ".csv":
        table = list(csv.reader(io.StringIO(path.read_text())))
        row = rng.choice(table)
        i = rng.randrange(len(row))
        was, row[i] = row[i], rng.choice(("", "text", "{", '{"a": 1}', "-", "True", "inf", "\t", "a,b"))
        with path.open("w", newline="") as file:
            csv.writer(file).writerows(table)
        return f"{was[:12]} is now {row[i]!r}"
    return ""


def not_finite(path: Path, rng: random.Random, outside: Path) -> str:
    """NaN or infinity in a tensor, with a checksum that is right."""
    return _tensor(
        path, rng, lambda value: torch.full_like(value, rng.choice((float("nan"), float("inf")))), "not finite"
    )


def other_values(path: Path, rng: random.Random, outside: Path) -> str:
    """Other weights, with a checksum that is right."""
    return _tensor(path, rng, lambda value: value + 1, "other values")


def other_shape(path: Path, rng: random.Random, outside: Path) -> str:
    """A tensor of another shape or type, with a checksum that is right."""
    makes: list[Callable[[torch.Tensor], torch.Tensor]] = [
        lambda value: value.reshape(-1)[:-1],
        lambda value: value.double(),
        lambda value: value.to(torch.float8_e4m3fn),
        lambda value: value.to(torch.complex64),
        lambda value: value.bool(),
    ]
    return _tensor(path, rng, rng.choice(makes), "another shape or type")


def bad_header(path: Path, rng: random.Random, outside: Path) -> str:
    """A header of safetensors that lies, with a checksum that is right."""
    if path.suffix != ".safetensors" or not path.with_name("state.json").is_file():
        return ""
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    what = rng.choice(("length", "offsets", "shape"))
    entry = header[rng.choice([key for key in header if key != "__metadata__"])]
    if what == "offsets":
        entry["data_offsets"] = [0, 1 << 60]
    elif what == "shape":
        entry["shape"] = [1 << 31, 1 << 31]
    text = json.dumps(header).encode()
    start = 1 << 62 if what == "length" else len(text)
    path.write_bytes(struct.pack("<Q", start) + text + data[8 + length :])
    sign(path)
    return f"a header whose {what} lies"


def picture_bomb(path: Path, rng: random.Random, outside: Path) -> str:
    """A picture that says it has 40,000 x 40,000 pixels."""
    if path.suffix not in (".jpg", ".png"):
        return ""
    path.write_bytes(jpeg_bomb())
    return "a picture of 1.6 gigapixels"


def jpeg_bomb(side: int = 40_000) -> bytes:
    """A JPEG of one pixel's data that says it is `side` x `side` pixels."""
    content = io.BytesIO()
    Image.new("RGB", (8, 8)).save(content, "JPEG")
    data = bytearray(content.getvalue())
    at = data.index(b"\xff\xc0") + 5  # SOF0: length, bits, then height and width
    data[at : at + 4] = struct.pack(">HH", side, side)
    return bytes(data)


BYTES: list[Change] = [flip, flip, cut, cut, empty, double, noise, zeros, not_utf8, deep]
ELSE: list[Change] = [removed, removed, folder, pipe, device, link_same, link_other, link_lost, unreadable]
VALUES: list[Change] = [altered, altered, huge, huge, another_kind, another_kind]
TENSORS: list[Change] = [not_finite, not_finite, other_values, other_shape, bad_header, picture_bomb]
CHANGES = [BYTES, ELSE, VALUES, TENSORS]
OF_FOLDERS: list[Change] = [removed, pipe, device, link_same, link_lost, noise]


def alike(before: bytes, path: Path) -> bool:
    """Whether a file is well-formed still, with the columns, keys and kinds of values that it had.

    Such a file of figures is another file, and no damaged one: nobody can tell it from what was measured.
    """
    if path.is_symlink() or not path.is_file():
        return False
    try:
        now = path.read_bytes()
        if path.name == "environment.json":  # whatever its writer knew
            return isinstance(_form(json.loads(now)), dict)
        if path.suffix == ".json":
            return _form(json.loads(before)) == _form(json.loads(now))
        if path.suffix == ".toml":
            return _form(tomllib.loads(before.decode())) == _form(tomllib.loads(now.decode()))
        if path.suffix == ".csv":
            first, second = (list(csv.reader(io.StringIO(each.decode(), newline=""))) for each in (before, now))
            forms = {tuple(map(_cell, row)) for row in first[1:]}
            whole = now.endswith(b"\n")
            return whole and first[0] == second[0] and all(tuple(map(_cell, row)) in forms for row in second[1:])
        if path.suffix in (".jpg", ".png"):
            with Image.open(path) as image:
                image.load()
            return True
        return path.suffix in (".txt", ".html") and bool(now.decode())
    except (ValueError, OSError, RecursionError, Image.DecompressionBombError):
        return False


def _form(value: Any) -> Any:
    """The keys and kinds of what JSON or TOML holds."""
    if isinstance(value, dict):
        return {key: _form(each) for key, each in value.items()}
    if isinstance(value, list):
        return sorted({repr(_form(each)) for each in value})
    if isinstance(value, float) and not abs(value) < 1e30:
        return "no number"
    return "number" if isinstance(value, (int, float)) and not isinstance(value, bool) else type(value).__name__


def _cell(text: str) -> str:
    try:
        return "number" if abs(float(text)) < 1e30 else "no number"
    except ValueError:
        return text if text in ("", "True", "False") else "text"


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every place of a JSON value: what holds it, and its key."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    found = [(value, key) for key in keys]
    for key in keys:
        found += _places(value[key])
    return found


def _put(path: Path, text: str, rng: random.Random, told: str) -> str:
    """Write a text; that of `state.json` with a right checksum two times of three."""
    if path.name == "state.json" and rng.random() < 0.67:
        try:
            write_state(path, json.loads(text)["state"])
        except (ValueError, KeyError):
            path.write_text(text)
        return f"{told}, with a checksum"
    path.write_text(text)
    return told


def _tensor(path: Path, rng: random.Random, make: Callable[[torch.Tensor], torch.Tensor], told: str) -> str:
    if path.suffix != ".safetensors" or not path.with_name("state.json").is_file():
        return ""
    tensors = safetensors.torch.load_file(path)
    names = [name for name, value in tensors.items() if value.is_floating_point() and value.numel() > 1]
    if not names:
        return ""
    name = rng.choice(names)
    tensors[name] = make(tensors[name]).contiguous()
    path.write_bytes(safetensors.torch.save(tensors))
    sign(path)
    return f"{name} {told}"


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _copy(path: Path, target: Path) -> None:
    if path.is_dir():
        shutil.copytree(path, target)
    else:
        shutil.copy(path, target)
