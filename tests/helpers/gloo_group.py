"""Several processes in one group over gloo, for tests that ask what they have in common."""

import multiprocessing
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.distributed as dist
from torch import Tensor

from anysize.recipe import Recipe


def in_group(size: int, job: Callable[[int], Any], folder: Path, seconds: float = 120) -> list[Any]:
    """What `job(rank)` returns in each of `size` processes; a function of a module, that returns tensors or numbers.

    Starting processes takes longer than a tiny training: let one job do all that a test file looks at. They come from a
    server that has loaded the package, once for all groups of a test process, and get the environment of this one.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["anysize.experiment.evaluate", "anysize.experiment.train"])
    arguments = (size, job, folder, dict(os.environ))
    processes = [context.Process(target=_on_rank, args=(rank, *arguments)) for rank in range(size)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(seconds)
    for process in processes:
        process.kill()
    failed = sorted(path for path in folder.glob("failed-*"))
    assert not failed, "\n".join(path.read_text() for path in failed)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(size)]


def trained_weights(rank: int, recipe: Recipe, run: Path) -> Tensor:
    """A job for `in_group`: trains, and gives all values of the weights that this process finds in the run folder."""
    from anysize.experiment.train import train

    weights = safetensors.torch.load_file(train(recipe, run=run) / "checkpoints/last/model.safetensors")
    return torch.cat([value.flatten().double() for value in weights.values()])


def _on_rank(rank: int, size: int, job: Callable[[int], Any], folder: Path, environment: dict[str, str]) -> None:
    os.environ.clear()  # that of the server is the first group's
    os.environ.update(environment)
    os.fsync = lambda fd: None  # as in the test's own process
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=(folder / "meeting").as_uri(), rank=rank, world_size=size)
    try:
        torch.save(job(rank), folder / f"{rank}.pt")
        dist.barrier()
    except BaseException:
        (folder / f"failed-{rank}").write_text(traceback.format_exc())
        raise
    finally:
        dist.destroy_process_group()
