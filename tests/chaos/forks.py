"""Command lines in forks of a process that has loaded the package: each costs a fraction of a second, not four.

`Forks` starts this file as a program and talks to it by lines of JSON. A fork runs `anysize.cli.main` as a program of
its own would: its folder, its environment, its streams, no settings of pytest; and it is looked after. What does
nothing for seconds hangs, and is ended; what takes too much memory meets a limit; a signal comes at a time, or at a
write that was chosen beforehand.
"""

import atexit
import contextlib
import ctypes
import dataclasses
import importlib
import json
import mmap
import os
import pkgutil
import random
import resource
import signal
import struct
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

IDLE_SECONDS = 8.0
"""A command that computes nothing for so long waits for what does not come."""

LONGEST_SECONDS = 150.0
"""No command of these tests takes a tenth of it on an idle machine."""

MEMORY = 3 << 30
"""Bytes that a command may take beside what the loaded package has."""

_WRITES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.link", "os.symlink", "fsync")


@dataclasses.dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    """The exit status; of one that a signal ended, less than 0."""
    out: str
    err: str
    seconds: float
    memory: int
    """Bytes that it took at its most, beside what the loaded package has."""
    writes: int
    """Times that it changed something below the folder that was watched."""
    hung: bool
    opened: list[str]
    """Files below the folder that was watched which were opened."""
    process: int
    """Its number, which is that of the group of processes that it started, too."""

    @property
    def said(self) -> str:
        """All that it printed."""
        return self.out + self.err


@dataclasses.dataclass(frozen=True)
class Fate:
    """What happens to a command: signals at times in seconds, or one at the n-th change below the folder `below`.

    `torn` leaves of a file that is being synced a part alone, as when the power fails.
    """

    signals: Sequence[tuple[float, int]] = ()
    at_write: int = 0
    number: int = signal.SIGKILL
    below: str = ""
    torn: bool = False


class Forks:
    """The process that forks. Use as a context manager.

    Args:
        environment: added to that of the tests.
        log: a file for what the process itself prints.
    """

    def __init__(self, environment: Mapping[str, str], log: Path) -> None:
        self._log = log.open("w")
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "2000", **environment},
        )  # fmt: skip

    def __enter__(self) -> "Forks":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()
        self._log.close()

    def __call__(
        self,
        *arguments: str,
        folder: Path,
        fate: Fate | None = None,
        report: bool = False,
        environment: Mapping[str, str] | None = None,
        watched: Path | None = None,
    ) -> Done:
        """Run `anysize ARGUMENTS` in `folder`; without `report` it leaves report.html out, which takes a second."""
        out, err, opened = (folder.parent / f"{folder.name}.{name}" for name in ("out", "err", "opened"))
        asked = {
            "arguments": arguments, "folder": str(folder), "out": str(out), "err": str(err), "report": report,
            "fate": dataclasses.asdict(fate or Fate()), "environment": dict(environment or {}),
            "opened": str(opened), "watched": str(watched.resolve()) if watched else "",
        }  # fmt: skip
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, f"the process that forks has ended: {Path(self._log.name).read_text()}"
        texts = [path.read_text(errors="replace") if path.exists() else "" for path in (out, err, opened)]
        for path in (out, err, opened):
            path.unlink(missing_ok=True)
        return Done(**json.loads(answer), out=texts[0], err=texts[1], opened=texts[2].splitlines())


def _load() -> None:
    """Import all that a command may need, which is most of its time."""
    for name in ("cli", "data", "evaluation", "experiment", "export", "models", "quantize", "reports", "training"):
        package = importlib.import_module(f"anysize.{name}")
        for module in pkgutil.walk_packages(package.__path__, f"anysize.{name}."):
            importlib.import_module(module.name)
    for name in ("bokeh.embed", "bokeh.plotting", "bokeh.resources", "onnx", "onnxscript", "onnxruntime"):
        with contextlib.suppress(ImportError):  # what is no part of an installation is not needed either
            importlib.import_module(name)
    importlib.import_module("torch._dynamo")
    importlib.import_module("torch.onnx._internal.exporter._core")
    importlib.import_module("torch").set_num_threads(1)


def _serve() -> None:
    """Read commands until there are no more."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    _load()
    counter = mmap.mmap(-1, 8)
    for line in sys.stdin:
        asked = json.loads(line)
        counter[:] = bytes(8)
        started = time.monotonic()
        child = os.fork()
        if not child:
            _run(asked, counter)
        status, used, hung = _watch(child, [tuple(pair) for pair in asked["fate"]["signals"]], started)
        answer = {
            "code": os.waitstatus_to_exitcode(status),
            "seconds": time.monotonic() - started,
            "memory": max(0, used.ru_maxrss * 1024 - _resident()),
            "writes": struct.unpack("q", counter)[0],
            "hung": hung,
            "process": child,
        }
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    os._exit(0)  # the threads of what was loaded need no end


def _watch(child: int, signals: list[tuple[float, int]], started: float) -> tuple[int, resource.struct_rusage, bool]:
    """Wait for the child, and send it its signals; end it, and what it has started, where it hangs."""
    ticks, moved, looked, hung, pause = -1, started, started, False, 0.002
    while True:
        ended, status, used = os.wait4(child, os.WNOHANG)
        if ended:
            break
        now = time.monotonic()
        while signals and now - started >= signals[0][0]:
            os.kill(child, signals.pop(0)[1])
        if now - looked > 0.5:
            spent, looked = _ticks(child), now
            if spent != ticks:
                ticks, moved = spent, now
        if now - moved > IDLE_SECONDS or now - started > LONGEST_SECONDS:
            hung = True
            os.kill(child, signal.SIGKILL)
        time.sleep(pause)
        pause = min(pause * 1.1, 0.02)
    if hung:  # loaders of images end by themselves when their parent is gone
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
    return status, used, hung


def _ticks(process: int) -> int:
    """What a process and the children that it waited for have computed, and those of its group."""
    total = 0
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
            if int(fields[2]) == process:  # its process group
                total += int(fields[11]) + int(fields[12]) + int(fields[13]) + int(fields[14])
    return total


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


def _run(asked: dict[str, Any], counter: mmap.mmap) -> None:
    """Be the command; does not return."""
    os.setpgid(0, 0)
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: nothing outlives the tests
    for descriptor, path, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, asked["out"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
        (2, asked["err"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
    ):
        opened = os.open(path, flags, 0o644)
        os.dup2(opened, descriptor)
        os.close(opened)
    os.chdir(asked["folder"])
    os.environ.update(asked["environment"])
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if not asked["report"]:
        for name in ("reports.html", "experiment.evaluate", "experiment.policy"):
            module = importlib.import_module(f"anysize.{name}")
            if hasattr(module, "write_report"):
                module.write_report = lambda folder, *rest: Path(folder) / "report.html"  # type: ignore[attr-defined]
    fate = Fate(**asked["fate"])
    if fate.below:
        _count_writes(fate, counter)
    if asked["watched"]:
        _note_opened(asked["watched"], asked["opened"])
    sys.argv = ["anysize", *asked["arguments"]]
    from anysize.cli import main

    code: Any = 0
    try:
        main()
    except SystemExit as stop:
        code = stop.code
    except BaseException:
        traceback.print_exc()
        code = 1
    try:  # as a program ends, but that the loaded libraries are not taken apart, which takes seconds
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        code = code or 1
    if isinstance(code, str):
        os.write(2, f"{code}\n".encode())
    os._exit(code if isinstance(code, int) else int(code is not None))


def _count_writes(fate: Fate, counter: mmap.mmap) -> None:
    """Count what changes files below a folder; at the chosen one the signal comes, before it is done."""
    own = os.getpid()
    rng = random.Random(fate.at_write)

    def look(event: str, arguments: tuple[Any, ...]) -> None:
        if os.getpid() != own:  # a loader of images
            return
        if event == "open":
            path, _, flags = arguments
            if not isinstance(path, (str, bytes)) or not os.fsdecode(path).startswith(fate.below):
                return
            if not isinstance(flags, int) or not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
        elif event not in _WRITES:
            return
        count = struct.unpack("q", counter)[0] + 1
        counter[:] = struct.pack("q", count)
        if count == fate.at_write:
            if fate.torn and event == "fsync":
                with contextlib.suppress(OSError):
                    os.ftruncate(arguments[0], rng.randint(0, os.fstat(arguments[0]).st_size))
            os.kill(own, fate.number)

    sync = os.fsync

    def synced(descriptor: Any) -> None:
        look("fsync", (descriptor if isinstance(descriptor, int) else descriptor.fileno(),))
        sync(descriptor)

    os.fsync = synced
    sys.addaudithook(look)


def _note_opened(watched: str, noted: str) -> None:
    """Write down which files below a folder are opened, by whatever name or link."""
    descriptor = os.open(noted, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def look(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[0], (str, bytes)):
            path = os.path.realpath(os.fsdecode(arguments[0]))
            if path.startswith(watched + os.sep):
                os.write(descriptor, f"{path}\n".encode(errors="replace"))

    sys.addaudithook(look)


if __name__ == "__main__":
    _serve()
