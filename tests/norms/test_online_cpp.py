"""The compiled kernel is built once, found again, done without where it cannot be had, and the same on any threads."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from anysize.norms import online_cpp, online_torch
from anysize.norms.online_options import Options

PROGRAM = """
import torch
from anysize.norms.online import OnlineNorm2d
torch.manual_seed(0)
x = torch.randn(3, 4, 5, 5, requires_grad=True)
OnlineNorm2d(4)(x).pow(3).sum().backward()
print(f"{x.grad.abs().sum():.3g}")
"""


def run(cache: Path, **environment: str) -> tuple[str, list[str]]:
    """What a fresh process computes, and the notices it gives."""
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "ANYSIZE_CACHE": str(cache), **environment},
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
        "online norm runs on its PyTorch backend, which is slower: there is no C++ compiler (CXX, c++, g++ or clang++)"
    ]
    assert result == run(tmp_path / "cache", ANYSIZE_CPP="0")[0]
    assert not (tmp_path / "cache").exists()


def test_a_compiler_that_fails_is_named(tmp_path: Path) -> None:
    compiler = tmp_path / "broken"
    compiler.write_text("#!/bin/sh\necho 'x.cpp:1: error: no such language' >&2\nexit 1\n")
    compiler.chmod(0o755)
    _, notices = run(tmp_path / "cache", CXX=str(compiler))
    assert notices[-1].endswith(f"{compiler} does not compile the kernel: x.cpp:1: error: no such language")


@needs_compiler
@pytest.mark.parametrize("ecm", ["none", "ls", "ac"])
@pytest.mark.parametrize("shape", [(7, 40, 33, 31), (1, 64, 40, 40), (2, 3, 120, 120), (300, 200)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_the_number_of_threads_changes_no_bit(shape: tuple[int, ...], ecm: str, channels_last: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x, grad = (torch.randn(shape, generator=generator) for _ in range(2))
    if channels_last and len(shape) == 4:
        x, grad = (value.to(memory_format=torch.channels_last) for value in (x, grad))
    weight, bias = torch.rand(shape[1], generator=generator), torch.rand(shape[1], generator=generator)
    options, results = Options(0.9, 0.8, ecm=ecm), []
    before = torch.get_num_threads()
    for backend, threads in ((online_cpp, 1), (online_cpp, 2), (online_cpp, 3), (online_torch, 1)):
        m, var, u, v = torch.zeros(shape[1]), torch.ones(shape[1]), torch.zeros(shape[1]), torch.zeros(shape[1])
        torch.set_num_threads(threads)
        try:
            out, saved = backend.forward(x, weight, bias, m, var, options)
            gradients = backend.backward(grad, x, weight, bias, saved, u, v, options)
        finally:
            torch.set_num_threads(before)
        results.append((out, m, var, u, v, *gradients))
    for other in results[1:3]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
    for a, b in zip(results[0], results[3], strict=True):
        torch.testing.assert_close(a, b.to(a.dtype), rtol=1e-3, atol=1e-5 * float(b.abs().max()))
