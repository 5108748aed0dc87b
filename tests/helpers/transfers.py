"""Counts the values of tensors that Python asks for: on a GPU each such question waits for the device."""

import collections
import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class _Seen(TorchDispatchMode):
    def __init__(self, count: collections.Counter[str]) -> None:
        super().__init__()
        self.count = count

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:  # item(), float(), bool(), `if tensor`
            self.count["item"] += 1
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def transfers() -> Iterator[collections.Counter[str]]:
    """Count what goes from tensors to Python within the block, by how it was asked for.

    On a CPU `tolist`, `numpy` and `cpu` pass the dispatcher unseen, so they are replaced.
    """
    count: collections.Counter[str] = collections.Counter()
    with pytest.MonkeyPatch.context() as patch, _Seen(count):
        for name in ("tolist", "numpy", "cpu", "__array__", "__bool__", "__float__", "__int__", "item"):
            original = getattr(Tensor, name)

            def counted(self: Tensor, *args: Any, _name: str = name, _original: Any = original, **kwargs: Any) -> Any:
                if _name in ("tolist", "numpy", "cpu", "__array__"):
                    count[_name] += 1
                return _original(self, *args, **kwargs)

            patch.setattr(Tensor, name, counted)
        yield count
