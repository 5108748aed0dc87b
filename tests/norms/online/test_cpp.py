"""The compiled kernel is built once, found again, done without where it cannot be had, and the same on any threads."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from anysize.norms.online.backends import cpp as online_cpp
from anysize.norms.online.backends import pytorch as online_torch
from anysize.norms.online.backends.choose import choose_backend
from anysize.norms.online.norm import OnlineNorm2d
from anysize.norms.online.options import Options

SLOWER = "online norm runs on its PyTorch backend, which is slower: "
needs_compiler = pytest.mark.skipif(online_cpp.find_compiler() is None, reason="there is no C++ compiler")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder with nothing in it, and no other."""
    monkeypatch.setenv("ANYSIZE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ANYSIZE_CPP", "1")
    monkeypatch.setattr(online_cpp.tempfile, "gettempdir", lambda: str(tmp_path))
    return tmp_path / "cache"


def load() -> tuple[Any, str]:
    """The kernel as a fresh process finds it, or None and the reason."""
    return online_cpp._library.__wrapped__()


@pytest.mark.slow
@needs_compiler
def test_the_kernel_is_compiled_once_and_kept(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        library, reason = load()
        assert library.anysize_online_has(0)
        assert reason == ""
    assert caplog.messages == ["compiling online norm's kernel for this processor, once; it takes about ten seconds"]
    assert [path.suffix for path in cache.iterdir()] == [".so"]


@needs_compiler
def test_a_kernel_that_is_no_library_is_done_without(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache.mkdir(mode=0o700)
    name = f"online_kernel-{online_cpp._fingerprint(online_cpp.find_compiler() or '')}"
    kept = cache / f"{name}-{online_cpp._digest(b'no library')}.so"
    kept.write_bytes(b"no library")
    kept.chmod(0o600)
    assert load()[0] is None
    (notice,) = caplog.messages
    assert notice.startswith(SLOWER)


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="this system knows no owners and modes")
def test_only_a_whole_kernel_that_is_the_user_s_own_is_loaded(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, compiler = tmp_path / "made", tmp_path / "compiler"
    compiler.write_text(
        f'#!/bin/sh\nfor word; do [ "$last" = -o ] && echo kernel > "$word" && echo >> {made}; last=$word; done\n'
    )
    compiler.chmod(0o755)
    monkeypatch.setattr(online_cpp, "_fingerprint", lambda compiler: "0")

    def compiled_again() -> bool:
        """Whether the next process compiles; what it loads then is what the compiler made."""
        before = made.read_bytes() if made.exists() else b""
        path = online_cpp._compile(str(compiler))
        assert path.parent == cache
        assert path.read_bytes() == b"kernel\n"
        assert (path.lstat().st_mode & 0o777, path.is_symlink()) == (0o600, False)
        return made.read_bytes() != before

    old = os.umask(0o002)
    try:
        assert [compiled_again(), compiled_again()] == [True, False]
    finally:
        os.umask(old)
    (path,) = cache.iterdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"kernel\n")
    elsewhere.chmod(0o666)
    for spoil in (
        lambda: path.write_bytes(b"kern"),
        lambda: path.write_bytes(b"kernem\n"),
        lambda: path.write_bytes(b""),
        lambda: path.chmod(0o620),
        lambda: path.chmod(0o602),
        lambda: (path.unlink(), path.symlink_to(elsewhere)),
        lambda: (path.unlink(), os.mkfifo(path)),
    ):
        spoil()
        assert [compiled_again(), compiled_again()] == [True, False]
    path.unlink()
    path.mkdir()  # cannot be replaced
    assert online_cpp._compile(str(compiler)).parent.parent == tmp_path
    path.rmdir()
    cache.chmod(0o770)
    assert online_cpp._compile(str(compiler)).parent != cache  # somebody else may write what lies in it


@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        ("ANYSIZE_CPP", "0", "it is switched off (ANYSIZE_CPP=0)"),
        ("CXX", "/no-compiler", "CXX is '/no-compiler', which is not found; unset it or name a compiler"),
        ("PATH", "/nowhere", "there is no C++ compiler (c++, g++ or clang++); name one with CXX"),
    ],
)
def test_without_a_compiler_one_line_says_so_and_pytorch_does_the_work(
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    variable: str,
    value: str,
    reason: str,
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv(variable, value)
    assert load() == (None, reason)
    assert caplog.messages == [SLOWER + reason]
    assert not cache.exists()
    monkeypatch.setattr(online_cpp, "_library", lambda: (None, reason))
    assert choose_backend(torch.ones(1, 1)) is online_torch
    assert online_cpp.why_not(torch.ones(1, 1)) == reason


def test_a_compiler_that_fails_is_named(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = tmp_path / "broken"
    compiler.write_text("#!/bin/sh\necho 'x.cpp:1: error: no such language' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    assert load() == (None, f"{compiler} does not compile the kernel: x.cpp:1: error: no such language")


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
