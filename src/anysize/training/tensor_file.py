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

import torch
from torch import Tensor

from anysize.registry import UserError

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
}


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> tuple[int, str]:
    """Write `tensors` to `path`, synced to the disk; return the number of bytes and their checksum.

    Each tensor is taken from the mapping twice: for its shape, and for its values.

    Raises:
        UserError: a type that the format has no name for.
        OSError: the disk is full or refuses.

    >>> import tempfile, safetensors.torch
    >>> file = Path(tempfile.mkdtemp()) / "model.safetensors"
    >>> write_tensors(file, {"w": torch.ones(2, 2), "n": torch.tensor(3)})[0]
    144
    >>> safetensors.torch.load_file(file)["w"].sum()
    tensor(4.)
    """
    # Wide types first, so that every tensor starts at a multiple of its type's size.
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    digest, written = hashlib.blake2b(digest_size=16), 0
    with path.open("wb") as file:
        for piece in _pieces(tensors, order):
            digest.update(piece)
            file.write(piece)
            written += len(piece)
        file.flush()
        os.fsync(file.fileno())
    return written, digest.hexdigest()


def _pieces(tensors: Mapping[str, Tensor], order: list[str]) -> Iterator[memoryview]:
    header, start = {}, 0
    for name in order:
        tensor = tensors[name]
        if tensor.dtype not in _NAMES:
            raise UserError(f"tensor {name} is of type {tensor.dtype}, which safetensors does not hold")
        end = start + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield memoryview(len(text).to_bytes(8, "little") + text)
    for name in order:
        values = tensors[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        yield values.numpy().data


__all__ = ["write_tensors"]
