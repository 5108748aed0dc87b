"""The choice of a backend for a tensor."""

import functools
import importlib
from typing import Any, cast

from torch import Tensor

from anysize.norms.online.backends import Backend, pytorch
from anysize.registry import UserError, did_you_mean

BACKENDS = ("auto", "torch", "cpp", "triton")


def choose_backend(x: Tensor, name: str = "auto") -> Backend:
    """The backend that normalises `x`.

    Args:
        x: the input; its device and dtype decide.
        name: "auto" takes C++ on a CPU and Triton on CUDA where they can be had and PyTorch elsewhere; a name insists.

    Raises:
        UserError: an unknown name, or a backend that cannot take `x`.
    """
    if name == "torch" or (x.device.type == "meta" and name in BACKENDS):  # shapes alone, as when FLOPs are counted
        return pytorch
    if name == "auto":
        kind = {"cpu": "cpp", "cuda": "triton"}.get(x.device.type)
        backend = _load(kind) if kind else None
        return backend if backend is not None and backend.available(x) else pytorch
    check_backend(name)
    backend = _load(name)
    if not backend.available(x):
        raise UserError(
            f"the {name} backend of online norm cannot take {x.dtype} on {x.device} here: {backend.why_not(x)}; use "
            "backend='auto', which takes what there is"
        )
    return cast(Backend, backend)


def check_backend(name: str) -> None:
    """Raise a UserError unless `name` is a backend's or "auto"."""
    if name not in BACKENDS:
        raise UserError(f"unknown backend {name!r} of online norm: {did_you_mean(str(name), BACKENDS)}")


@functools.cache
def _load(name: str) -> Any:
    return importlib.import_module(f"anysize.norms.online.backends.{name}")
