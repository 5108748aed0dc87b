"""A run folder is written by one process: what refuses another one, on this machine and on others."""

import errno
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from anysize.experiment import owner, run_folder
from anysize.experiment.run_folder import alone_in
from anysize.experiment.train import train
from anysize.recipe import Recipe
from anysize.registry import UserError


def leave_record(folder: Path, host: str, pid: int, age: float) -> Path:
    path = folder / ".owner"
    path.write_text(json.dumps({"host": host, "pid": pid, "since": "", "id": "theirs"}))
    then = time.time() - age
    os.utime(path, (then, then))
    return path


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that has no locks."""

    def flock(file: object, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(run_folder.fcntl, "flock", flock)


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_two_processes_never_write_one_run(tiny: Callable[..., Recipe], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    named = rf"is being trained by process {os.getpid()} on {socket.gethostname()}"
    with alone_in(tmp_path / "run") as held, pytest.raises(UserError, match=named):
        train(tiny(data__limit=30), run=tmp_path / "run")
    assert held.owner.taken_over == ""
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]


def test_another_machine_is_refused_while_it_is_heard_of(tiny: Callable[..., Recipe], tmp_path: Path) -> None:
    record = leave_record(tmp_path, "node7", 4242, age=100)
    named = r"is being trained by process 4242 on node7, last heard of 10\d seconds ago; .* try again in \d+ seconds"
    with pytest.raises(UserError, match=named), alone_in(tmp_path):
        pass
    assert json.loads(record.read_text())["host"] == "node7"
    leave_record(tmp_path, "node7", 4242, age=200)
    train(tiny(data__limit=40, training__epochs=1), run=tmp_path)
    assert "process 4242 on node7 trained here and was last heard of 20" in (tmp_path / "log.txt").read_text()
    assert not record.exists()


@pytest.mark.parametrize("locks", [True, False])
def test_a_process_of_this_machine_that_is_gone_is_followed_at_once(
    tmp_path: Path, request: pytest.FixtureRequest, locks: bool
) -> None:
    if not locks:
        request.getfixturevalue("no_locks")
    leave_record(tmp_path, socket.gethostname(), dead_process(), age=1)
    with alone_in(tmp_path) as held:
        assert held.owner.taken_over == ""
        assert json.loads((tmp_path / ".owner").read_text())["pid"] == os.getpid()


@pytest.mark.usefixtures("no_locks")
def test_without_locks_the_record_holds_the_folder(tmp_path: Path) -> None:
    with alone_in(tmp_path), pytest.raises(UserError, match=f"trained by process {os.getpid()}"), alone_in(tmp_path):
        pass
    (tmp_path / ".owner").touch()  # made by a process that has not written it yet
    with pytest.raises(UserError, match="is being trained by another process, last heard of 0 seconds ago"):
        alone_in(tmp_path).__enter__()


def test_the_record_is_renewed_until_another_one_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(owner, "RENEW_SECONDS", 0.01)

    def wait_for(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    with alone_in(tmp_path):
        path = tmp_path / ".owner"
        os.utime(path, (0, 0))
        wait_for(lambda: path.stat().st_mtime > 0)
        beside = leave_record(tmp_path / "..", "node7", 4242, age=0)
        beside.rename(path)
        wait_for(lambda: "was taken over by process 4242 on node7" in caplog.text)
    assert json.loads(path.read_text())["host"] == "node7"  # not ours to remove


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(record: object, file: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(owner.json, "dump", full)
    with pytest.raises(UserError, match=r"cannot write the run folder .*No space left on device"):
        alone_in(tmp_path).__enter__()
    assert not (tmp_path / ".owner").exists()
