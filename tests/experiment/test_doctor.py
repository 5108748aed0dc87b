"""`anysize doctor`: every extra of the package is told of, and what is short is named with its remedy."""

import json
import tomllib
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from anysize.data import workers
from anysize.experiment import doctor
from anysize.experiment.doctor import EXTRAS, Finding, examine
from anysize.machine import usable_cores
from anysize.reports import environment


def found(name: str) -> Finding:
    return next(finding for finding in examine() if finding.name == name)


def test_extras_are_those_of_the_package() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {
        extra: tuple(need.partition(">")[0] for need in needs)
        for extra, needs in project["optional-dependencies"].items()
        if extra not in ("all", "dev", "docs")
    }
    assert {extra: packages for extra, (packages, _) in EXTRAS.items()} == extras


def test_missing_extra_says_what_it_would_give(monkeypatch: pytest.MonkeyPatch) -> None:
    version, missing = doctor._version, ("timm", "onnx", "simplejpeg")
    monkeypatch.setattr(doctor, "_version", lambda name: "" if name in missing else version(name))
    timm, quantize = found("zoo"), found("quantize")
    assert (timm.good, timm.value) == (True, "not installed")
    assert "pip install 'anysize[zoo]' gives it: timm's networks" in timm.advice
    assert (quantize.good, "without onnx" in quantize.value) == (False, True)  # a part of an extra
    assert not found("jpeg").good


def test_what_is_short_has_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage(2**26, 0, 2**26))
    monkeypatch.setattr(doctor.cpp, "find_compiler", lambda: None)
    monkeypatch.setattr(doctor, "usable_cores", lambda: 64)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert "--shm-size" in found("shared").advice
    assert "g++" in found("C++ compiler").advice
    assert "set it to 64" in found("threads").advice
    monkeypatch.setattr(doctor, "usable_cores", lambda: 0)
    assert "set OMP_NUM_THREADS to 0" in found("threads").advice


def test_time_that_a_container_is_given_counts_as_cores(tmp_path: Path) -> None:
    limit = tmp_path / "sys/fs/cgroup/cpu.max"
    limit.parent.mkdir(parents=True)
    limit.write_text("100000 100000\n")
    assert usable_cores(tmp_path) == 1
    limit.write_text("max 100000\n")
    assert usable_cores(tmp_path) == usable_cores()
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("3:cpu,cpuacct:/jobs/7\n0::/user.slice/one.service\n")
    of_all = limit.parent / "user.slice/cpu.max"
    of_all.parent.mkdir()
    of_all.write_text("50000 100000\n")  # half a core for all that is in the group
    assert usable_cores(tmp_path) == 1
    of_all.unlink()
    old = limit.parent / "cpu/jobs/7"  # version 1
    old.mkdir(parents=True)
    (old / "cpu.cfs_period_us").write_text("100000\n")
    for quota, cores in (("-1", usable_cores()), ("100000", 1)):
        (old / "cpu.cfs_quota_us").write_text(f"{quota}\n")
        assert usable_cores(tmp_path) == cores


@pytest.mark.parametrize("cores", [1, 3])
def test_what_works_side_by_side_takes_the_cores_that_it_may_use(cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (workers, environment):
        monkeypatch.setattr(module, "usable_cores", lambda: cores)
    assert workers.worker_count(-1) == cores
    assert environment.describe_environment()["cores"] == cores


def test_command_prints_lines_or_json(anysize: Callable[..., Any]) -> None:
    lines = anysize("doctor").stdout.splitlines()
    assert {"installed", "extras", "processor", "memory", "GPU", "kernels"} <= set(lines)
    findings = json.loads(anysize("doctor", "--json").stdout)
    assert {tuple(finding) for finding in findings} == {("area", "name", "value", "good", "advice")}
