"""What a pt2 file is, of its archive alone.

`torch.export.load` trusts what it loads (torch 2.14): it unpickles weights and constants that the archive marks so,
unpickles sample inputs without restriction where reading them with restriction fails, evaluates expressions on sizes as
Python (sympy), takes any function of torch as an operator, and loads compiled code that lies in the archive. So a file
is read here first as what it is, a zip of JSON and raw tensors, and only one that has none of that is handed on: no
pickled part but sample inputs that `weights_only` takes, no compiled code, ATen's operators and arithmetic on sizes.
"""

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from anysize.export.contents import Contents
from anysize.export.description import MEMBER, Description
from anysize.files import open_regular
from anysize.machine import is_short
from anysize.registry import UserError

_MEMBERS = re.compile(
    r"archive_format|archive_version|byteorder|\.data/(version|serialization_id)|version|extra/[\w.]+"
    r"|models/model\.json|data/sample_inputs/model\.pt|data/weights/(model_weights_config\.json|weight_\d+)"
    r"|data/constants/(model_constants_config\.json|tensor_\d+)"
)
_TARGETS = re.compile(
    r"torch\.ops\.aten\.(?!from_file\b|save\b|load\b)\w+\.\w+|_operator\.\w+|math\.\w+|torch\.sym_\w+"
    r"|torch\.ops\.higher_order\.(wrap_with_set_grad_enabled|cond)"
)
_TOKEN = re.compile(r"'[suz]\w*\d'|'-?[\d.]+'|(?P<word>[A-Za-z_]\w*)|\d+(?:\.\d+)?|[\s\-+*/%(),<>=!&|~]")
_KNOWN = re.compile(
    r"Symbol|Integer|Rational|Float|Add|Mul|Pow|Max|Min|Mod|PythonMod|FloorDiv|CleanDiv|CeilDiv|CeilToInt|FloorToInt"
    r"|TruncToInt|TruncToFloat|RoundToInt|IntTrueDiv|FloatTrueDiv|ToFloat|PowByNatural|FloatPow|Identity|LShift|RShift"
    r"|Where|Eq|Ne|Ge|Gt|Le|Lt|Equality|Unequality|GreaterThan|LessThan|StrictGreaterThan|StrictLessThan|And|Or|Not"
    r"|Piecewise|ExprCondPair|True|False|true|false|int_oo|oo|floor|ceiling|precision|positive|nonnegative|integer"
    r"|z?[su]f?\d+"
)
"""The names that an expression on sizes may have: functions, and sizes such as s34."""
_DTYPES = {1: "uint8", 7: "float32"}  # of torch's schema


def look_at_program(path: Path) -> Contents:
    """As `look_at`; nothing is unpickled but tensors."""
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            if any(each.compress_type != zipfile.ZIP_STORED for each in archive.infolist()):
                raise UserError(f"{path} is a compressed archive, which torch.export does not write; export it anew")
            members = {name.partition("/")[2]: name for name in archive.namelist()}
            model = json.loads(archive.read(members["models/model.json"]))
            foreign = next((name for name in members if not _MEMBERS.fullmatch(name)), None)
            if foreign is not None:
                raise UserError(
                    f"{path} holds {foreign!r}, which may be code and is not loaded; expected a program alone"
                )
            _check_payloads(path, archive, members)
            _check_samples(path, archive.read(members["data/sample_inputs/model.pt"]))
            graph = model["graph_module"]["graph"]
            _check_graph(path, model)
            description = archive.read(members[f"extra/{MEMBER}"]).decode() if f"extra/{MEMBER}" in members else None
            signature = model["graph_module"]["signature"]
            inputs = [each["user_input"]["arg"] for each in signature["input_specs"] if "user_input" in each]
            sizes = [graph["tensor_values"][each["as_tensor"]["name"]] for each in inputs]
            outputs = [each["user_output"]["arg"]["as_tensor"]["name"] for each in signature["output_specs"]]
            logits = graph["tensor_values"][outputs[0]]["sizes"]
    except UserError:
        raise
    except (
        zipfile.BadZipFile,
        OSError,
        EOFError,
        KeyError,
        TypeError,
        ValueError,
        IndexError,
        NotImplementedError,
        RecursionError,
    ):
        raise UserError(f"{path} is no pt2 file, or a truncated one; export or copy it anew") from None
    if len(sizes) != 1 or len(sizes[0]["sizes"]) != 4 or sizes[0]["dtype"] not in _DTYPES or not outputs:
        raise UserError(
            f"{path} is no network of images: it has {len(sizes)} inputs; expected one, images (N, C, H, W) of float32 "
            "or uint8"
        )
    _, channels, height, width = (each.get("as_int") for each in sizes[0]["sizes"])
    return Contents(
        path,
        inputs[0]["as_tensor"]["name"],
        _DTYPES[sizes[0]["dtype"]],
        channels,
        (height, width),
        outputs[0],
        logits[1].get("as_int") if len(logits) > 1 else None,
        len(logits) == 4,
        0,  # its int8 weights are multiplied by their scales before anything else
        None if description is None else Description.from_json(description, path),
    )


def _check_payloads(path: Path, archive: zipfile.ZipFile, members: dict[str, str]) -> None:
    for kind in ("weights", "constants"):
        config = json.loads(archive.read(members[f"data/{kind}/model_{kind}_config.json"]))["config"]
        for name, payload in config.items():
            if payload["use_pickle"] or f"data/{kind}/{payload['path_name']}" not in members:
                raise UserError(
                    f"{path} keeps {name!r} as a pickle, which may run code and is not loaded; export it anew"
                )


def _check_samples(path: Path, content: bytes) -> None:
    try:
        torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    except Exception as error:  # whatever torch finds in it
        if is_short(error):
            raise
        raise UserError(f"{path} has a pickle in its sample inputs that may run code; it is not loaded") from None


def _check_graph(path: Path, model: Any) -> None:
    for key, value in _entries(model):
        if key == "target" and not _TARGETS.fullmatch(value):
            raise UserError(f"{path} calls {value!r}; expected ATen's operators alone, and it is not loaded")
        if key == "expr_str" and not _is_arithmetic(value):
            raise UserError(f"{path} computes a size as {value!r}; expected arithmetic alone, and it is not loaded")


def _is_arithmetic(expression: str) -> bool:
    """Whether an expression has nothing but numbers, sizes and known functions of them: no attribute, no other name.

    >>> _is_arithmetic("FloorDiv(Symbol('s34', positive=True, integer=True), Integer(2))")
    True
    >>> _is_arithmetic("__import__('os').system('ls')") or _is_arithmetic("open('s1')") or _is_arithmetic("s1.x")
    False
    """
    rest, at = [], 0
    for token in _TOKEN.finditer(expression):
        word = token["word"]
        if word and not _KNOWN.fullmatch(word):
            return False
        rest.append(expression[at : token.start()])
        at = token.end()
    return not "".join(rest) + expression[at:]


def _entries(value: Any) -> Iterator[tuple[str, str]]:
    """All entries of JSON whose values are text, however deep."""
    if isinstance(value, dict):
        for key, each in value.items():
            if isinstance(each, str):
                yield key, each
            else:
                yield from _entries(each)
    elif isinstance(value, list):
        for each in value:
            yield from _entries(each)
