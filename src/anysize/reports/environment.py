"""The versions and the machine that a run was trained with, found without importing torch."""

import contextlib
import functools
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from anysize.machine import usable_cores

_PACKAGES = ("anysize", "torch", "torchvision", "torchmetrics", "numpy", "pillow", "simplejpeg", "timm")


def describe_environment(**extra: Any) -> dict[str, Any]:
    """A flat dict of versions, processor, cores this process may use, and memory; `extra` adds what only torch knows.

    >>> environment = describe_environment(gpus="none", world_size=1)
    >>> environment["python"] == platform.python_version(), environment["world_size"], environment["cores"] > 0
    (True, 1, True)
    """
    environment = {
        "command": " ".join(sys.argv),
        "python": platform.python_version(),
        **_versions(),
        "revision": _revision(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": usable_cores(),
        "memory": _memory(),
    }
    return {key: value for key, value in environment.items() if value} | extra


# What is cached is found once a process, which goes on with the code that it has loaded.


@functools.cache
def _versions() -> dict[str, str]:
    versions = {}
    for package in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions


@functools.cache
def _revision() -> str:
    """The git revision of a checkout of this package, with `+changes` where files were edited; else empty."""
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():
        return ""
    try:
        git = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--dirty=+changes"], cwd=root, capture_output=True, text=True
        )
    except OSError:  # no git on this machine
        return ""
    return git.stdout.strip()


@functools.cache
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _memory() -> str:
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):  # not a Unix
        return ""
    return f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.1f} GiB"
