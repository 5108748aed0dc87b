"""Workers that cannot deliver or may not be started: one sentence, and no waiting for ever."""

import multiprocessing
from typing import Any

import pytest
import torch

from anysize.data.mixed import MixedSizeLoader
from anysize.data.workers import worker_count
from anysize.machine import plainly
from anysize.registry import UserError
from anysize.sizes.mix import SizeMix


@pytest.mark.parametrize("reason", ["No space left on device (28)", "Too many open files"])
def test_what_a_worker_cannot_hand_over_ends_the_loading(monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    def full(*_: Any) -> Any:
        raise RuntimeError(f"unable to allocate shared memory(shm) for file </torch_1>: {reason}")

    monkeypatch.setattr(torch.UntypedStorage, "_share_fd_cpu_", full)  # which workers take over
    data = [(torch.zeros(3, 8, 8, dtype=torch.uint8), i) for i in range(4)]
    loader = MixedSizeLoader(data, SizeMix.fixed(8), batch_size=2, workers=1)
    with pytest.raises(UserError, match=r"could not hand over a batch .*/dev/shm.*") as error:
        next(iter(loader))
    assert reason in str(error.value)
    assert "data.workers" in str(error.value)
    assert ("ulimit -n" in str(error.value)) == reason.startswith("Too many")


def test_a_daemonic_process_starts_no_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert worker_count(-1) > 0
    monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)  # type: ignore[attr-defined]
    assert worker_count(-1) == worker_count(0) == 0
    with pytest.raises(UserError, match=r"this process is daemonic.*set data.workers to 0"):
        worker_count(2)


def test_a_worker_that_is_gone_is_one_sentence() -> None:
    killed = "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that workers are out of memory."
    with (
        pytest.raises(UserError, match=r"\(pid 7\) is killed by signal: Bus error: .*/dev/shm.*data.workers"),
        plainly(),
    ):
        raise RuntimeError(killed)
    with pytest.raises(RuntimeError, match=r"^another$"), plainly():
        raise RuntimeError("another")
