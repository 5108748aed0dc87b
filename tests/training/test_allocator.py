"""The allocator keeps memory where it is glibc's and nobody wishes otherwise."""

import os
import platform
import subprocess
import sys

import pytest

from anysize.training.allocator import keep_freed_memory

PROGRAM = """
import ctypes, resource
from anysize.training.allocator import keep_freed_memory

def faults_of_a_large_block():
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        block = libc.malloc(64 << 20)
        ctypes.memset(block, 1, 64 << 20)
        libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before = faults_of_a_large_block()
print(keep_freed_memory(), before > 100, faults_of_a_large_block() < 10)
"""

glibc = pytest.mark.skipif(
    not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc", reason="the C library is not glibc"
)


@glibc
def test_a_large_block_is_asked_of_the_system_once() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == ["True", "True", "True"]


@pytest.mark.parametrize(
    ("name", "value"),
    [("ANYSIZE_MALLOC", "0"), ("LD_PRELOAD", "/usr/lib/libjemalloc.so.2"), ("MALLOC_TRIM_THRESHOLD_", "100000")],
)
def test_wishes_of_the_environment_are_left_alone(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    assert not keep_freed_memory()
