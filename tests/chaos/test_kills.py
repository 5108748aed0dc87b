"""Runs that are killed at random moments and at random writes, over every task; the same command then goes on.

In the end the weights, the best weights and the figures are those of an unbroken run, bit for bit, and the folder holds
the same files. Kills at the n-th change of a file find more than those at a random time: they fall between two renames.
"""

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_runs
from forks import Done, Fate, Forks
from outcomes import blame

BLOCKS = {"mixed": 3, "copies": 3, "averaged": 3, "aware": 2, "online": 2, "multilabel": 2, "segmentation": 3}
"""How often each case is tried: 16 times 6 kills, and 2 times 4."""

SHORT = ("averaged", "segmentation")
"""The cases whose first block is the short form, with a few kills."""

KILLS, FEW = 6, 4
STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def marked(case: str, block: int) -> pytest.MarkDecorator:
    """The short form is a part of `make test-slow`."""
    return pytest.mark.slow if case in SHORT and block == 0 else pytest.mark.exhaustive


PARAMETERS = [
    pytest.param(case, block, marks=marked(case, block), id=f"{case}-{block}")
    for case, blocks in BLOCKS.items()
    for block in range(blocks)
]


def fate_of(rng: random.Random, run: Path, seconds: float, writes: int) -> Fate:
    """Three of five are killed at a write, of which some tear the file; the others at a time, or asked to stop."""
    kind = rng.choice(("write", "write", "torn", "time", "stop at write", "stop at time", "impatient"))
    moment, write = rng.uniform(0, seconds), rng.randint(1, rng.randint(1, writes))  # of one that goes on, less is left
    below = str(run)
    if kind == "time":
        return Fate(signals=[(moment, signal.SIGKILL)])
    if kind == "stop at time":
        return Fate(signals=[(moment, rng.choice(STOPS))])
    if kind == "impatient":  # Ctrl-C again and again
        return Fate(
            signals=[(moment + each * rng.uniform(0.01, 0.3), signal.SIGINT) for each in range(rng.randint(2, 5))]
        )
    if kind == "stop at write":
        return Fate(at_write=write, number=rng.choice(STOPS), below=below)
    return Fate(at_write=write, below=below, torn=kind == "torn")


def fault_of_end(done: Done) -> str:
    """What is not in order with the end of a run that met its fate."""
    if done.hung:
        return "hang: it was ended"
    if "Traceback" in done.said:
        return f"traceback: {done.said.strip().splitlines()[-1][:200]}"
    ended = {0, 130, *(-number for number in (*STOPS, signal.SIGKILL)), *(128 + number for number in STOPS)}
    return "" if done.code in ended else f"traceback: status {done.code}"


def loaders_end(processes: list[int]) -> bool:
    """Whether all that the commands started comes to an end by itself."""
    end = time.monotonic() + 40
    while processes and time.monotonic() < end:
        for process in list(processes):
            try:
                os.killpg(process, 0)
            except ProcessLookupError:
                processes.remove(process)
        time.sleep(0.1)
    return not processes


@pytest.mark.parametrize(("case", "block"), PARAMETERS)
def test_a_killed_run_goes_on_to_the_same_bits(
    forks: Forks, whole: Callable[[str], tuple[Path, Done]], data: Path, place: Path, rng: random.Random,
    case: str, block: int,
) -> None:  # fmt: skip
    unbroken, trained = whole(case)
    wanted = FEW if case in SHORT and block == 0 else KILLS
    fates: list[Fate] = []
    processes: list[int] = []
    kills, number = 0, f"[{case}-{block}]"
    while kills < wanted:
        run = place / f"run{len(fates)}"
        command = tiny_runs.command(case, run, data)
        for _ in range(rng.randint(2, wanted)):
            fates.append(fate_of(rng, run, trained.seconds, trained.writes))
            done = forks(*command, folder=place, fate=fates[-1], report=rng.random() < 0.2)
            processes.append(done.process)
            blame(fault_of_end(done), f"{number}, {len(fates)} kills, the last {fates[-1]}", done.said)
            if done.code == 0:  # before it was killed
                break
            kills += 1
            if kills == wanted:
                break
        done = forks(*command, folder=place)
        blame("" if done.code == 0 else "stopped: it does not go on", f"{number}: {fates}", done.said)
        blame(tiny_runs.difference(unbroken, run), f"{number}: {fates}", done.said)
        again = forks(*command, folder=place)
        assert again.code == 0, again.said
        assert "is trained to its end already" in again.out, again.said
    blame("" if loaders_end(processes) else "left over: processes", f"{number}: {fates}", "")
    beside = [path.name for path in place.iterdir() if not path.name.startswith("run")]
    assert not beside, f"left over: {beside}"
