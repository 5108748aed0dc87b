"""Processes that a launcher starts: where they meet, what the real torchrun passes on, and how they end together."""

import contextlib
import datetime
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
import torch.distributed as dist
from torch.distributed import TCPStore
from torch.distributed.run import get_args_parser

from anysize.launch import _attempt
from anysize.launch import watch as watch_module
from anysize.launch.meeting import Meeting, find_meeting
from anysize.launch.watch import Watch
from anysize.ranks import EndedElsewhere, main_process
from anysize.recipe import documented_settings
from anysize.registry import UserError
from anysize.stopping import stop_on_signals

TINY = [
    "--model.name", "cifar_resnet", "--model.options", '{"depth": 8, "widths": [8, 8, 16]}', "--data.limit", "200",
    "--training.epochs", "1", "--training.batch_size", "16", "--optimizer.warmup_epochs", "0",
    "--evaluation.calibration_images", "64", "--evaluation.pictures", "0",
]  # fmt: skip


class Launch:
    """Starts processes, with what they say in files, and leaves none behind."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[tuple[subprocess.Popen[bytes], Path]] = []

    def torchrun(self, *words: str, processes: int = 2) -> "subprocess.Popen[bytes]":
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        return self.start([*launcher, "-m", "anysize", *words])

    def by_hand(self, rank: int, port: int, *words: str) -> "subprocess.Popen[bytes]":
        """One of two processes that nobody watches over, as under srun."""
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": "2"}
        return self.start(["-m", "anysize", *words], **where)

    def start(self, words: list[str], **variables: str) -> "subprocess.Popen[bytes]":
        launched = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
        own = {name: value for name, value in os.environ.items() if name not in launched}
        path = self.folder / f"said-{len(self.started)}"
        with path.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, *words], env={**own, "OMP_NUM_THREADS": "1", **variables}, stdout=file, stderr=file
            )
        self.started.append((process, path))
        return process

    def wait(self, process: "subprocess.Popen[bytes]", seconds: float = 120) -> tuple[int, str]:
        """Exit status, and all that the process has said."""
        status = process.wait(seconds)
        return status, next(path for one, path in self.started if one is process).read_text()

    def close(self) -> None:
        for process, _ in self.started:
            process.kill()
            process.wait()


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    with contextlib.closing(Launch(tmp_path)) as started:
        yield started


def free_port() -> int:
    with contextlib.closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def test_where_processes_meet() -> None:
    torchruns = {
        "RANK": "3",
        "WORLD_SIZE": "4",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "a",
        "MASTER_PORT": "5",
    }
    found = find_meeting(torchruns)
    assert found is not None
    assert (found.rank, found.size, found.local_rank, found.address, found.port) == (3, 4, 1, "a", 5)
    assert find_meeting({}) is None
    assert find_meeting({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}) is None  # in a batch script, outside srun
    assert find_meeting({**torchruns, "WORLD_SIZE": "1"}) is None
    with pytest.raises(UserError, match="RANK is set without MASTER_ADDR and MASTER_PORT; start the processes with"):
        find_meeting({"RANK": "0", "WORLD_SIZE": "2"})


@pytest.fixture
def watches(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Watch]]:
    """Those of four processes, with little patience."""
    for name, seconds in (("_BEAT", 0.05), ("_SETTLE", 0.5), ("_GONE", 2.0)):
        monkeypatch.setattr(watch_module, name, seconds)
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    four = [Watch(Meeting(rank, 4, rank, 4, "127.0.0.1", store.port), "first") for rank in range(4)]
    yield four
    for watch in four:
        watch.leave()


def test_all_that_are_silent_are_named_whoever_notices(
    watches: list[Watch], capsys: pytest.CaptureFixture[str]
) -> None:
    for rank in (0, 2):
        watches[rank]._left.set()  # its signs end, and it has not said that it leaves
    with pytest.raises(EndedElsewhere, match=r"processes 0, 2 on \S+ ended the run: they gave no sign of life"):
        watches[3].explain(dist.DistBackendError("Connection closed by peer"))
    with pytest.raises(EndedElsewhere, match=r"processes 0, 2 on"):
        watches[1].explain(dist.DistBackendError("Connection closed by peer"))
    assert capsys.readouterr().err.count("anysize: ") == 1


def test_an_exchange_that_fails_while_all_live_blames_none(
    watches: list[Watch], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(EndedElsewhere, match=r"no process is gone \(Timed out.*raise training.timeout_minutes"):
        watches[1].explain(dist.DistBackendError("Timed out waiting 600000ms for recv operation to complete"))
    assert capsys.readouterr().err.count("anysize: ") == 1


def test_one_that_the_launcher_ends_blames_none(watches: list[Watch], capsys: pytest.CaptureFixture[str]) -> None:
    watches[0]._left.set()
    error = dist.DistBackendError("Connection closed by peer")
    with contextlib.suppress(dist.DistBackendError), stop_on_signals():
        os.kill(os.getpid(), signal.SIGTERM)
        raise error
    with pytest.raises(EndedElsewhere, match="the launcher ended the run"):
        watches[1].explain(error)
    assert capsys.readouterr().err == ""


def test_the_first_process_does_not_wait_for_one_that_is_gone(watches: list[Watch]) -> None:
    for watch in watches[:3]:
        watch.leave()
    watches[3]._left.set()
    start = time.monotonic()
    watches[0].wait_for_all()
    assert 1 < time.monotonic() - start < 10


def test_a_start_finds_nothing_of_the_one_before() -> None:
    """torchrun's store is the same for both; the second process of the first start has left its question there."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)

    def start(rank: int) -> str:
        own = TCPStore("127.0.0.1", store.port, is_master=False)
        return _attempt(own, Meeting(rank, 2, rank, 2, "127.0.0.1", store.port), datetime.timedelta(seconds=20))

    words = []
    for _ in range(2):
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(start, 0)
            time.sleep(0.2)  # in which it finds what is left of before
            words.append({pool.submit(start, 1).result(), first.result()})
    assert [len(each) for each in words] == [1, 1]
    assert words[0] != words[1]


def test_a_process_that_is_alone_speaks_whatever_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    assert main_process()
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert not main_process()


def options(verb: str) -> list[str]:
    shown = subprocess.run(
        [sys.executable, "-m", "anysize", verb, "--help"], capture_output=True, text=True, check=True
    )
    return sorted(set(re.findall(r"--[a-z][a-z-]+", shown.stdout)) - {"--help", "--version"})


@pytest.mark.parametrize("verb", ["train", "evaluate"])
def test_torchrun_passes_every_option_on(verb: str) -> None:
    """Its parser takes a word for an option of its own where one begins so; `--run` begins its `--run-path`."""
    parser, known = get_args_parser(), options(verb)
    assert "--out" in known if verb == "train" else "--sizes" in known
    for option in [*known, *(f"--{row[0]}" for row in documented_settings())]:
        words = ["anysize", verb, "quickstart", option, "1"]
        if option == "--run":
            with pytest.raises(SystemExit):
                parser.parse_args(["-m", *words])
        else:
            assert parser.parse_args(["-m", *words]).training_script_args == words[1:]


@pytest.mark.slow
def test_two_processes_of_torchrun_train_and_evaluate(launch: Launch, tmp_path: Path) -> None:
    run = tmp_path / "run"
    status, said = launch.wait(launch.torchrun("train", "quickstart", *TINY, "--out", str(run)))
    assert status == 0, said
    assert said.count("2 processes with 16 images each make batches of 32") == 1
    assert said.count("done; the report is") == 1
    status, said = launch.wait(launch.torchrun("evaluate", str(run), "--sizes", "14,28"))
    assert status == 0, said
    assert said.count("evaluation.csv and") == 1
    both = pd.read_csv(run / "evaluation.csv")
    status, said = launch.wait(launch.start(["-m", "anysize", "evaluate", str(run), "--sizes", "14,28"]))
    assert status == 0, said
    one = pd.read_csv(run / "evaluation.csv")
    assert (both["images"] == one["images"]).all()
    as_trained = ~one["calibrated"]  # calibration pools the parts of two processes, which rounds otherwise
    assert (both["top1"][as_trained] == one["top1"][as_trained]).all()
    assert both["top1"].tolist() == pytest.approx(one["top1"].tolist(), abs=0.02)


@pytest.mark.slow
def test_one_two_and_four_processes_follow_the_same_losses(launch: Launch, tmp_path: Path) -> None:
    """With synchronised norms and the same total batch; what is left is rounding, which ten steps make larger."""
    losses = []
    for processes in (1, 2, 4):
        run, batch = tmp_path / str(processes), ["--training.batch_size", str(32 // processes)]
        words = [*TINY, "--data.limit", "320", "--sizes.mix", "fixed", "--model.norm", "sync_batch", *batch]
        words = ["train", "quickstart", *words, "--out", str(run)]
        status, said = launch.wait(launch.torchrun(*words, processes=processes))
        assert status == 0, said
        losses.append(pd.read_csv(run / "metrics.csv")["train_loss"].tolist())
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert losses[2] == pytest.approx(losses[0], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_the_death_of_one_ends_the_other_which_names_it(launch: Launch, tmp_path: Path, rank: int) -> None:
    run, port = tmp_path / "run", free_port()
    often = ["--training.epochs", "200", "--training.checkpoint_minutes", "0"]
    pair = [launch.by_hand(one, port, "train", "quickstart", *TINY, *often, "--out", str(run)) for one in range(2)]
    wait_for(run / "checkpoints/last", pair[0])
    pair[rank].kill()
    killed = time.monotonic()
    status, said = launch.wait(pair[1 - rank])
    assert time.monotonic() - killed < 60
    assert status == 1, said
    says = (
        "process 1 on \\S+ ended the run: it gave no sign"
        if rank
        else "lost its connection to process 0, which is gone"
    )
    assert re.search(f"anysize: .*{says}", said), said
    assert "Traceback" not in said


@pytest.mark.slow
def test_those_who_do_not_come_and_those_who_differ_are_named(launch: Launch, tmp_path: Path) -> None:
    words = ["train", "quickstart", *TINY, "--training.timeout_minutes", "0.1", "--out", str(tmp_path / "run")]
    lonely = launch.by_hand(0, free_port(), *words)
    with contextlib.closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        late = launch.by_hand(0, int(taken.getsockname()[1]), *words)
        assert "is taken by another program; give another port" in launch.wait(late)[1]
    port = free_port()
    pair = [launch.by_hand(rank, port, *words, "--optimizer.lr", f"0.{rank + 1}") for rank in range(2)]
    ends = [launch.wait(process) for process in (lonely, *pair)]
    assert [status for status, _ in ends] == [2, 2, 2], ends
    assert "process 0 of 2 on" in ends[0][1]
    assert "waited 0.1 minutes at 127.0.0.1" in ends[0][1]
    differs = "differs from process 0: optimizer.lr is 0.2 there and 0.1 in process 0; start all processes with the"
    assert differs in ends[1][1]
    assert "anysize:" not in ends[2][1]  # one of them speaks


@pytest.mark.slow
def test_a_signal_to_the_launcher_stops_all_and_the_same_command_goes_on(launch: Launch, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ["train", "quickstart", *TINY, "--training.epochs", "8", "--out", str(run)]
    training = launch.torchrun(*words)
    wait_for(run / "checkpoints/last", training)
    training.send_signal(signal.SIGTERM)
    assert launch.wait(training)[1].count("stopped: ") == 1
    status, said = launch.wait(launch.torchrun(*words))
    assert status == 0, said
    assert said.count("going on at epoch") == 1


def wait_for(path: Path, process: "subprocess.Popen[bytes]", seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.1)
