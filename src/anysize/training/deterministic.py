"""Deterministic mode: torch takes operations alone that give the same bits each time."""

import contextlib
import os
import re
from collections.abc import Iterator

import torch

from anysize.registry import UserError

_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
_REFUSAL = re.compile(r"(\S+) does not have a deterministic implementation")


@contextlib.contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Within this context torch is deterministic, if `wanted`; afterwards it is as before.

    cuBLAS reads the size of its workspace when CUDA starts: enter this context before.

    Raises:
        UserError: an operation has no deterministic form on the device.

    >>> with deterministic(True):
    ...     torch.are_deterministic_algorithms_enabled()
    True
    """
    if not wanted:
        yield
        return
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.benchmark,
        os.environ.get(_WORKSPACE),
    )
    os.environ.setdefault(_WORKSPACE, ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True)
    try:
        yield
    except RuntimeError as error:
        refused = _REFUSAL.search(str(error))
        if not refused:
            raise
        raise UserError(
            f"training.deterministic is true, and {refused[1]} has no deterministic form on this device; train on the "
            "CPU, use a model or a loss without it, or set training.deterministic to false"
        ) from error
    finally:
        enabled, warn_only, benchmark, workspace = before
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
        torch.backends.cudnn.benchmark = benchmark
        if workspace is None:
            del os.environ[_WORKSPACE]
