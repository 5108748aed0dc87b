"""Our commands in a page of the docs: read, cut down to what a test can train, and run, several processes too."""

import dataclasses
import gc
import multiprocessing
import re
import shlex
import shutil
import traceback
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.run import get_args_parser

from anysize.cli import build_app
from anysize.experiment import evaluate, policy
from anysize.reports import html


@dataclasses.dataclass(frozen=True)
class Command:
    """One of our commands: the words behind `anysize`, and what started it."""

    words: tuple[str, ...]
    launcher: tuple[str, ...] = ()

    @property
    def verb(self) -> str:
        return self.words[0]

    @property
    def devices(self) -> int:
        given = dict(word.split("=", 1) for word in self.launcher if "=" in word)
        return int(given.get("--nproc-per-node", 1)) * int(given.get("--nnodes", 1))

    def option(self, name: str) -> str:
        return self.words[self.words.index(name) + 1] if name in self.words else ""


def expand(script: str) -> list[str]:
    """The lines of a shell script, those within `for` once for each value."""
    found, lines = [], script.replace("\\\n", " ").splitlines()
    while lines:
        line = lines.pop(0).strip()
        if loop := re.fullmatch(r"for (\w+) in (.*); do", line):
            end = next(i for i, inner in enumerate(lines) if inner.strip() == "done")
            body, lines = lines[:end], lines[end + 1 :]
            for value in loop[2].split():
                found += [re.sub(rf"\$(\{{{loop[1]}\}}|{loop[1]}\b)", value, inner.strip()) for inner in body]
        elif line:
            found.append(line)
    return found


def read_commands(script: str) -> list[Command]:
    """The commands of a script; an error for what is none of ours, or what torchrun does not take."""
    commands = []
    for line in expand(script):
        words = shlex.split(line, comments=True)
        if words[0] == "torchrun":
            known = get_args_parser().parse_args(words[1:])
            assert (known.module, known.training_script) == (True, "anysize"), line
            rest = known.training_script_args
            commands.append(Command(tuple(rest), tuple(words[1 : -len(rest) - 2])))
        else:
            assert words[0] == "anysize", line
            commands.append(Command(tuple(words[1:])))
    return commands


def run(words: list[str], report: bool = False) -> None:
    """Do a command in this process, without the report unless it is wanted: it takes longer than a tiny training."""
    with pytest.MonkeyPatch.context() as patch:
        for module in () if report else (html, evaluate, policy):
            patch.setattr(module, "write_report", lambda folder: Path(folder) / "report.html")
        with pytest.raises(SystemExit) as end:
            build_app()(words, exit_on_error=False, print_error=False)
    assert not end.value.code, words
    gc.collect()


def lacks(words: list[str]) -> str:
    """Say so where a training has left no checkpoint; take the run folder away, since checkpoints are large."""
    if words[0] != "train":
        return ""
    folder = Path(words[words.index("--out") + 1])
    found = list(folder.rglob("last/model.safetensors"))
    shutil.rmtree(folder)
    return "" if found else f"no checkpoint of {' '.join(words)}"


def run_in_pair(jobs: list[list[str]], hub: str, folder: Path, seconds: float = 400) -> list[str]:
    """Do commands one after the other in one pair of processes; what failed, in words, for each."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    arguments = ((folder / "meeting").as_uri(), jobs, hub, queue)
    pair = [context.Process(target=_on_rank, args=(rank, *arguments)) for rank in range(2)]
    for process in pair:
        process.start()
    try:
        return [str(queue.get(timeout=seconds)) for _ in range(2 * len(jobs))]
    finally:
        for process in pair:
            process.join(10)
            process.kill()


def _on_rank(rank: int, meeting: str, jobs: list[list[str]], hub: str, queue: Any) -> None:
    torch.set_num_threads(1)
    torch.hub.set_dir(hub)
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    for words in jobs:
        try:
            run(words)
            dist.barrier()
            queue.put("" if rank else lacks(words))
        except BaseException:
            queue.put(f"{' '.join(words)}\n{traceback.format_exc()}")
    dist.destroy_process_group()
