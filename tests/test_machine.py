"""What a machine lacks is one sentence with the remedy, and what it does not is left as it is."""

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import torch
from PIL import Image

from anysize import cli
from anysize.data import decode
from anysize.data.source import FileSource
from anysize.export import capture
from anysize.machine import is_short, plainly, sentence
from anysize.models.measure.input_size import smallest_size
from anysize.registry import UserError, shown
from anysize.training.checkpoint.files import Checkpoint, DamagedCheckpoint, read_checkpoint, write_checkpoint

Command = Callable[..., CompletedProcess[str]]
TORCH = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"
IN_A_WORKER = (
    "Caught OSError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  ...\n"
    "OSError: [Errno 24] Too many open files: '/data/a.jpg'\n"
)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RuntimeError(TORCH), r"out of memory while testing \(DefaultCPUAllocator: can't allocate .* smaller batches"),
        (RuntimeError("could not create a primitive"), r"out of memory while testing \(could not create a primitive\)"),
        (RuntimeError("CUDA error: out of memory"), "out of memory while testing"),
        (MemoryError(), r"out of memory while testing \(MemoryError\)"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out of memory while testing"),
        (OSError(errno.ENOSPC, "No space left", "a.csv"), "^a.csv: No space left while testing; make room$"),
        (OSError(errno.EFBIG, "File too large", b"a.csv"), r"^a.csv: File too large .*ulimit -f"),
        (OSError(errno.EMFILE, "Too many open files"), r"^Too many open files while testing; .*ulimit -n.*workers"),
        (OSError(IN_A_WORKER), r"^/data/a.jpg: Too many open files while testing; .*ulimit -n"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "x" * 300), r"\(300 characters\): .*give a shorter name"),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), r"ulimit -u.*data.workers"),
        (RuntimeError("can't start new thread"), r"no thread can be started while testing: .*ulimit -u"),
        (RuntimeError("Could not determine home directory."), "set HOME"),
        (FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']"), "set TMPDIR"),
        (RuntimeError("DataLoader worker (pid 7) exited unexpectedly"), r"\(pid 7\) exited unexpectedly: .*workers"),
    ],
)  # fmt: skip
def test_what_a_machine_lacks_is_a_sentence(error: Exception, told: str) -> None:
    with pytest.raises(UserError, match=told) as caught, plainly("testing"):
        raise error
    assert caught.value.__cause__ is error


@pytest.mark.parametrize(
    "error",
    [RuntimeError("shapes differ"), KeyError("key"), OSError("odd"), OSError(errno.EBADF, "Bad file descriptor"),
     BrokenPipeError(errno.EPIPE, "Broken pipe"), FileNotFoundError(errno.ENOENT, "No such file or directory")],
)  # fmt: skip
def test_what_says_nothing_of_the_machine_stays(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, plainly("testing"):
        raise error
    assert caught.value is error


def test_a_folder_that_is_gone_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gone").mkdir()
    os.chdir("gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(UserError, match="the folder that this command was started in is gone"), plainly():
        Path("run").absolute()


def test_a_machine_that_is_short_damages_no_file_and_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def short(*_: Any, **__: Any) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    def full(*_: Any, **__: Any) -> None:
        raise MemoryError

    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    write_checkpoint(tmp_path / "last", Checkpoint({"model": {"w": torch.zeros(2)}}, {}))
    source = FileSource([str(tmp_path / "a.png")], torch.zeros(1).numpy(), ("a",), "x", on_bad_image="skip")
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", short)
        with pytest.raises(OSError, match="Too many"):
            source.image(0)
    with monkeypatch.context() as patch:
        patch.setattr(decode.Image, "open", full)
        with pytest.raises(MemoryError):
            source.image(0)
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", short)
        with pytest.raises(OSError, match="Too many") as caught:
            read_checkpoint(tmp_path / "last")
        assert not isinstance(caught.value, DamagedCheckpoint)
    model = torch.nn.Conv2d(3, 4, 3)
    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.Conv2d, "forward", full)
        with pytest.raises(MemoryError):
            smallest_size(model, 3)
        with pytest.raises(MemoryError):
            capture.capture(model, torch.zeros(2, 3, 8, 8), any_size=True)


@pytest.mark.parametrize(
    "arguments",
    [("evaluate", "NAME"), ("predict", "NAME"), ("calibrate", "NAME", "--size", "28"), ("quantize", "NAME"),
     ("compare", "NAME"), ("export", "NAME"), ("import", "NAME"), ("plan", "NAME"),
     ("train", "quickstart", "--out", "NAME"), ("bench", "resnet8", "--csv", "NAME"), ("models", "show", "NAME"),
     ("data", "check", "folder", "--data.root", "NAME")],
    ids=lambda arguments: arguments[0],
)  # fmt: skip
def test_a_name_of_300_letters_is_a_sentence_in_every_verb(arguments: tuple[str, ...], anysize: Command) -> None:
    done = anysize(*("n" * 300 if each == "NAME" else each for each in arguments))
    assert done.returncode == 2
    assert done.stderr.startswith("anysize: ")
    assert "File name too long" in done.stderr
    assert "n" * 200 not in done.stderr


def test_the_command_line_says_what_is_lacking_while_what(monkeypatch: pytest.MonkeyPatch, anysize: Command) -> None:
    def app(error: Exception) -> Callable[[], Callable[[list[str]], None]]:
        def run(arguments: list[str]) -> None:
            raise error

        return lambda: run

    monkeypatch.setattr(cli, "build_command_line", app(OSError(errno.EIO, "Input/output error", "run/metrics.csv")))
    done = anysize("report", "run")
    said = "anysize: run/metrics.csv: Input/output error while running anysize report; look at the disk"
    assert (done.returncode, done.stderr.startswith(said)) == (2, True)
    monkeypatch.setattr(cli, "build_command_line", app(ZeroDivisionError("a bug")))
    with pytest.raises(ZeroDivisionError):  # which keeps its traceback
        anysize("report", "run")


def test_a_standard_output_that_is_full_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        monkeypatch.setattr(sys, "argv", ["anysize", "recipes"])
        full.write("x")
        cli._flush()
        assert "the standard output cannot be written: No space left on device" in capsys.readouterr().err


def test_a_message_shows_a_line_of_what_it_received() -> None:
    state = {f"layer{i}": {"mean": i} for i in range(200)}
    told = str(UserError(f"state is {state}, in [{'a, ' * 100}] of {'x/' * 2500}; expected 'a number'"))
    assert len(told) < 700
    assert told.endswith("expected 'a number'")
    assert len(shown(["a"] * 500, 20)) <= 21
    assert is_short(MemoryError())
    assert sentence(UserError("a message")) is None
