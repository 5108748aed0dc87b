"""What a model computes while it is written down as ONNX: words of that format in place of operations of PyTorch."""

import contextlib
import contextvars
from collections.abc import Iterator

_WRITING = contextvars.ContextVar("writing", default=False)


@contextlib.contextmanager
def writing_onnx() -> Iterator[None]:
    """Within this context a model is traced to become ONNX, and not to be run by PyTorch."""
    token = _WRITING.set(True)
    try:
        yield
    finally:
        _WRITING.reset(token)


def is_writing_onnx() -> bool:
    """Whether a model is traced to become ONNX.

    >>> is_writing_onnx()
    False
    """
    return _WRITING.get()
