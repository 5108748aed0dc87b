"""Writing safetensors a tensor at a time, so that a file of any size needs no memory beside its tensors.

The library's writer wants all bytes at once, or pointers to tensors that lie ready and share no memory. Here each
tensor is asked for when its turn comes: a mapping may convert or copy it only then. Format: eight bytes with the length
of the header, the header as JSON, padded to eight bytes, then the values (safetensors, "Format").
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anysize.models.checks import first_not_finite
from anysize.registry import NotFinite, UserError

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.complex64: "C64",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
}


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> tuple[int, str]:
    """Write `tensors` to `path`, synced to the disk; return the number of bytes and their checksum.

    Each tensor is taken from the mapping twice: for its shape, and for its values.

    Raises:
        UserError: a type that the format has no name for.
        NotFinite: a value that is NaN or infinite; the message names the tensor.
        OSError: the disk is full or refuses.

    >>> import tempfile, safetensors.torch
    >>> file = Path(tempfile.mkdtemp()) / "model.safetensors"
    >>> write_tensors(file, {"w": torch.ones(2, 2), "n": torch.tensor(3)})[0]
    144
    >>> safetensors.torch.load_file(file)["w"].sum()
    tensor(4.)
    """
    digest, written = hashlib.blake2b(digest_size=16), 0
    header, order = _header(tensors)
    with path.open("xb") as file:
        for piece in _pieces(tensors, header, order):
            digest.update(piece)
            file.write(piece)
            written += len(piece)
        file.flush()
        os.fsync(file.fileno())
    return written, digest.hexdigest()


def _header(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Any], list[str]]:
    """The header of the file, which describes each tensor, and the order of the tensors."""
    forms = {name: (tensor.dtype, list(tensor.shape), tensor.nbytes) for name, tensor in tensors.items()}
    # Wide types first, so that every tensor starts at a multiple of its type's size.
    order = sorted(forms, key=lambda name: (-forms[name][0].itemsize, name))
    header, start = {}, 0
    for name in order:
        dtype, shape, size = forms[name]
        if dtype not in _NAMES:
            raise UserError(f"tensor {name} is of type {dtype}, which safetensors does not hold")
        header[name] = {"dtype": _NAMES[dtype], "shape": shape, "data_offsets": [start, start + size]}
        start += size
    return header, order


def _pieces(tensors: Mapping[str, Tensor], header: dict[str, Any], order: list[str]) -> Iterator[memoryview]:
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield memoryview(len(text).to_bytes(8, "little") + text)
    for name in order:
        tensor = tensors[name].detach().cpu().resolve_conj().resolve_neg()
        if first_not_finite({name: tensor}):
            raise NotFinite(f"{name} is not finite")
        values = tensor.contiguous().reshape(-1).view(torch.uint8)
        yield values.numpy().data
