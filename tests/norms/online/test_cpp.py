"""The compiled kernel is built once, found again, done without where it cannot be had, and the same on any threads."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from anysize.norms.online.backends import cpp as online_cpp
from anysize.norms.online.backends import pytorch as online_torch
from anysize.norms.online.norm import OnlineNorm2d
from anysize.norms.online.options import Options

PROGRAM = """
import torch
from anysize.norms.online.norm import OnlineNorm2d
torch.manual_seed(0)
x = torch.randn(3, 4, 5, 5, requires_grad=True)
OnlineNorm2d(4)(x).pow(3).sum().backward()
print(f"{x.grad.abs().sum():.3g}")
"""


def run(cache: Path, **environment: str) -> tuple[str, list[str]]:
    """What a fresh process computes, and the notices it gives."""
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "ANYSIZE_CACHE": str(cache), "TMPDIR": str(cache.parent), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return result.stdout, result.stderr.splitlines()


needs_compiler = pytest.mark.skipif(online_cpp._compiler() is None, reason="there is no C++ compiler")


@needs_compiler
def test_the_kernel_is_compiled_once_and_kept(tmp_path: Path) -> None:
    first, notices = run(tmp_path / "cache")
    assert notices == ["compiling online norm's kernel for this processor, once; it takes about ten seconds"]
    (kept,) = (tmp_path / "cache").iterdir()
    again, notices = run(tmp_path / "cache")
    assert (again, notices) == (first, [])
    plain, notices = run(tmp_path / "cache", ANYSIZE_CPP="0")
    assert plain == first
    assert notices == ["online norm runs on its PyTorch backend, which is slower: it is switched off (ANYSIZE_CPP=0)"]
    kept.write_bytes(b"not a library")
    damaged, notices = run(tmp_path / "cache")
    assert damaged == first
    assert len(notices) == 1
    assert "PyTorch backend" in notices[0]


def test_without_a_compiler_one_line_says_so_and_the_result_is_the_same(tmp_path: Path) -> None:
    result, notices = run(tmp_path / "cache", CXX=str(tmp_path / "no-compiler"))
    assert notices == [
        f"online norm runs on its PyTorch backend, which is slower: CXX is {str(tmp_path / 'no-compiler')!r}, which is "
        "not found; unset it or name a compiler"
    ]
    assert result == run(tmp_path / "cache", ANYSIZE_CPP="0")[0]
    assert not (tmp_path / "cache").exists()


def test_a_compiler_that_fails_is_named(tmp_path: Path) -> None:
    compiler = tmp_path / "broken"
    compiler.write_text("#!/bin/sh\necho 'x.cpp:1: error: no such language' >&2\nexit 1\n")
    compiler.chmod(0o755)
    _, notices = run(tmp_path / "cache", CXX=str(compiler))
    assert notices[-1].endswith(f"{compiler} does not compile the kernel: x.cpp:1: error: no such language")


CASES = [  # shape, channels last, options, dtype; the second and third have fewer samples than threads
    ((7, 40, 33, 31), False, {"ecm": "ac"}, torch.float32),
    ((1, 192, 40, 40), True, {"ecm": "ls", "group_size": 96}, torch.float32),
    ((2, 192, 40, 40), False, {"ecm": "ls", "group_size": 64}, torch.float64),
    ((5, 64, 40, 40), True, {"ecm": "none"}, torch.float32),
    ((2, 3, 120, 120), True, {"ecm": "ls"}, torch.float32),
    ((5, 129, 20, 20), True, {"ecm": "none"}, torch.float64),
    ((300, 200), False, {"ecm": "ac"}, torch.float32),
    ((300, 200), False, {"ecm": "ls", "group_size": 50}, torch.float32),
    ((9, 70, 30, 30), True, {"ecm": "ac"}, torch.bfloat16),
]


@needs_compiler
@pytest.mark.parametrize(("shape", "channels_last", "options", "dtype"), CASES)
def test_the_number_of_threads_changes_no_bit(
    shape: tuple[int, ...], channels_last: bool, options: dict[str, Any], dtype: torch.dtype
) -> None:
    generator, channels = torch.Generator().manual_seed(0), shape[1]
    x, grad = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
    if channels_last:
        x, grad = (value.to(memory_format=torch.channels_last) for value in (x, grad))
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    weight, bias = (torch.rand(channels, generator=generator).to(wide) for _ in range(2))
    results, before = [], torch.get_num_threads()
    for backend, threads in ((online_cpp, 1), (online_cpp, 2), (online_cpp, 3), (online_torch, 1)):
        m, var, u, v = torch.zeros(channels), torch.ones(channels), torch.zeros(channels), torch.zeros(channels)
        torch.set_num_threads(threads)
        try:
            out, saved = backend.forward(x, (weight, bias), m, var, Options(0.9, 0.8, **options))
            of_x, of_affine = backend.backward(grad, x, (weight, bias), saved, u, v, Options(0.9, 0.8, **options))
        finally:
            torch.set_num_threads(before)
        results.append((out, m, var, u, v, of_x, *of_affine))
    for other in results[1:3]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
    close = {torch.float64: 1e-6, torch.float32: 1e-4, torch.bfloat16: 2e-2}[dtype]  # the state is float32
    for a, b in zip(results[0], results[3], strict=True):
        torch.testing.assert_close(a, b.to(a.dtype), rtol=close, atol=close * float(b.abs().max()))


@needs_compiler
@pytest.mark.parametrize("shape", [(1, 3, 1100, 1000), (1, 16, 1100, 1000)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_large_images_are_added_up_exactly(shape: tuple[int, ...], channels_last: bool) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)) + 0.5
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
    m, var = torch.zeros(shape[1]), torch.zeros(shape[1])
    online_cpp.forward(x, None, m, var, Options(1e-6))  # a decay that leaves the sample's own statistics
    exact = x.double().flatten(2)[0]
    torch.testing.assert_close(m.double(), exact.mean(1), rtol=3e-6, atol=0)
    torch.testing.assert_close(var.double(), exact.var(1, correction=0), rtol=3e-6, atol=0)


@needs_compiler
def test_another_default_device_does_no_harm() -> None:
    norm, x = OnlineNorm2d(4), torch.randn(2, 4, 3, 3, requires_grad=True)
    with torch.device("meta"):
        norm(x).square().sum().backward()
    assert x.grad is not None
    assert x.grad.device.type == "cpu"
