"""The C++ backend of Online Normalization, for CPUs: one pass over the activations, forward and backward.

`kernel.cpp` is compiled on first use for this processor, in about ten seconds, and kept in the user's cache
folder (`ANYSIZE_CACHE`, else `XDG_CACHE_HOME/anysize`, else `~/.cache/anysize`). It is loaded from there where file and
folder are the user's own, which nobody else may write, and its content has the digest that the file is named after;
otherwise it is compiled again. Where there is no compiler, a line says so once and the PyTorch backend does the work.
The compiler is `CXX`, else c++, g++ or clang++.

The library is called through ctypes with the addresses of the tensors: it knows nothing of torch, so that it need not
be built again for another version of it.
"""

import contextlib
import ctypes
import functools
import hashlib
import logging
import math
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anysize.files import cache_folders, is_private, open_regular, replacing
from anysize.norms.online.backends import Affine, Saved, statistics_dtype
from anysize.norms.online.options import Options

_SOURCE = Path(__file__).with_name("kernel.cpp")
_FLAGS = ("-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-fPIC", "-shared")
# Each is tried in turn: a compiler may know no OpenMP, as Apple's, or no -march=native.
_TRIES = (
    ("-march=native", "-mprefer-vector-width=512", "-fopenmp"),
    ("-march=native", "-fopenmp"),
    ("-fopenmp",),
    ("-march=native",),
    (),
)
_TYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
_COMPENSATION = {"none": 0, "ls": 1, "ac": 2}
_SMALL = 1 << 15  # values that one thread normalises sooner than several could be woken

log = logging.getLogger("anysize")


class _Call(ctypes.Structure):
    """The kernel's `Call`."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("samples", "channels", "positions")),
        *((name, ctypes.c_double) for name in ("alpha_fwd", "alpha_bkw", "eps", "ls_eps", "clamp_val", "alpha_min")),
        *((name, ctypes.c_int32) for name in ("type", "state_is_double", "channels_last", "ecm", "groups", "threads")),
    )


def available(x: Tensor) -> bool:
    """Whether this backend can normalise `x`; compiles it if need be."""
    library = _library()[0] if x.device.type == "cpu" and x.dtype in _TYPES else None
    return library is not None and bool(library.anysize_online_has(_TYPES[x.dtype]))


def why_not(x: Tensor) -> str:
    """The reason why `available` is false."""
    if x.device.type != "cpu":
        return "it runs on the CPU alone"
    return _library()[1] or f"the compiler has no type for {x.dtype}"


def forward(x: Tensor, affine: Affine, m: Tensor, var: Tensor, options: Options) -> tuple[Tensor, Saved]:
    """Normalise a batch and advance `m` and `var`: see `Backend`."""
    out, saved = torch.empty_like(x), empty_saved(x, options)
    _run("forward", x, m.dtype, options, x, out, *(affine or (None, None)), m, var, *saved)
    return out, saved


def backward(
    grad: Tensor, x: Tensor, affine: Affine, saved: Saved, u: Tensor, v: Tensor, options: Options
) -> tuple[Tensor, Affine]:
    """Gradients of x and of weight and bias; advances `u` and `v`: see `Backend`."""
    out = torch.empty_like(x)
    gradients = torch.empty((2, x.shape[1]), dtype=torch.float64, device=x.device)
    _run("backward", x, u.dtype, options, grad, x, out, *(affine or (None, None)), u, v, *saved, gradients)
    if affine is None:
        return out, None
    of_weight, of_bias = gradients.to(affine[0].dtype).unbind()
    return out, (of_weight, of_bias)


def empty_saved(x: Tensor, options: Options) -> Saved:
    """Tensors as `forward` saves them, not filled: see `Backend`.

    Of each channel the centre and the state at the start; of each plane the mean, relative to m, and the variance. A
    plane of one value needs neither.
    """
    samples, channels, *positions = x.shape
    start = torch.empty((3, channels), dtype=torch.float64, device=x.device)  # the default device may be another
    if math.prod(positions) == 1:
        return start, start
    return start, torch.empty((2, samples, channels), dtype=statistics_dtype(x.dtype), device=x.device)


def _run(direction: str, x: Tensor, state: torch.dtype, options: Options, *tensors: Tensor | None) -> None:
    """Call the compiled function with the addresses of `tensors`."""
    threads = 1 if x.numel() <= _SMALL else torch.get_num_threads()
    call = _call(x.shape, x.dtype, x.is_contiguous(), state, options, threads)
    addresses = (None if tensor is None else tensor.data_ptr() for tensor in tensors)
    status = getattr(_library()[0], f"anysize_online_{direction}")(ctypes.byref(call), *addresses)
    assert status == 0


@functools.lru_cache(maxsize=1024)
def _call(
    shape: torch.Size, dtype: torch.dtype, contiguous: bool, state: torch.dtype, options: Options, threads: int
) -> _Call:
    samples, channels = shape[:2]
    return _Call(
        samples, channels, math.prod(shape[2:]),
        options.alpha_fwd, options.alpha_bkw, options.eps, options.ls_eps, options.clamp_val,
        -math.inf if options.alpha_min is None else options.alpha_min,
        _TYPES[dtype], state == torch.float64, not contiguous,
        _COMPENSATION[options.ecm], options.groups(channels), threads,
    )  # fmt: skip


@functools.lru_cache(maxsize=1)
def _library() -> tuple[Any, str]:
    """The compiled kernel, or None and the reason why there is none."""
    if os.environ.get("ANYSIZE_CPP", "1") == "0":
        reason = "it is switched off (ANYSIZE_CPP=0)"
    elif compiler := find_compiler():
        try:
            return _open(_compile(compiler)), ""
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
    elif named := os.environ.get("CXX"):
        reason = f"CXX is {named!r}, which is not found; unset it or name a compiler"
    else:
        reason = "there is no C++ compiler (c++, g++ or clang++); name one with CXX"
    log.warning("online norm runs on its PyTorch backend, which is slower: %s", reason)
    return None, reason


def find_compiler() -> str | None:
    """The path of the C++ compiler that is used; None: there is none."""
    names = (os.environ["CXX"],) if os.environ.get("CXX") else ("c++", "g++", "clang++")
    return next((path for path in map(shutil.which, names) if path), None)


def _open(path: Path) -> Any:
    library = ctypes.CDLL(str(path))
    for function, pointers in ((library.anysize_online_forward, 8), (library.anysize_online_backward, 10)):
        function.restype = ctypes.c_int
        function.argtypes = (ctypes.POINTER(_Call), *[ctypes.c_void_p] * pointers)
    return library


def _compile(compiler: str) -> Path:
    """The path of the compiled kernel, from the cache where it is there.

    Raises:
        RuntimeError: the compiler refuses the source with all flags; its last line.
    """
    name = f"online_kernel-{_fingerprint(compiler)}"
    for folder in cache_folders():
        if found := _kept(folder, name):
            return found
    log.warning("compiling online norm's kernel for this processor, once; it takes about ten seconds")
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch) / f"{name}.so"
        for flags in _TRIES:
            command = [compiler, *_FLAGS, *flags, "-o", str(made), str(_SOURCE)]
            result = subprocess.run(command, capture_output=True, text=True, timeout=600)
            if result.returncode == 0:
                break
        else:
            lines = [line for line in result.stderr.splitlines() if "error" in line] or ["no reason given"]
            raise RuntimeError(f"{compiler} does not compile the kernel: {lines[0]}")
        content = made.read_bytes()
        for folder in cache_folders():
            with contextlib.suppress(OSError):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                if not is_private(folder.lstat()):
                    continue
                path = folder / f"{name}-{_digest(content)}.so"
                with replacing(path) as file:
                    file.write(content)
                path.chmod(0o600)
                return path
    tried = ", ".join(map(str, cache_folders()))
    raise RuntimeError(f"no folder to keep the compiled kernel in; set ANYSIZE_CACHE (tried {tried})")


def _kept(folder: Path, name: str) -> Path | None:
    """The whole compiled kernel in a folder that is the user's own: that of temporary files is everybody's.

    Of what is not whole, or may be another's, nothing is loaded: the first would end the process at any call.
    """
    with contextlib.suppress(OSError):
        if is_private(folder.lstat()):
            for path in folder.glob(f"{name}-*.so"):
                with contextlib.suppress(OSError), open_regular(path) as file:
                    if is_private(os.fstat(file.fileno())) and path.stem == f"{name}-{_digest(file.read())}":
                        return path
    return None


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _fingerprint(compiler: str) -> str:
    """A digest of all that the compiled code depends on: source, flags, compiler, processor."""
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=60).stdout
    parts = (_SOURCE.read_text(), str(_FLAGS), str(_TRIES), version, sys.platform, platform.machine(), _processor())
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=8).hexdigest()


def _processor() -> str:
    """The instruction sets of the processor, or its name."""
    lines: list[str] = []
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "") or platform.processor()
