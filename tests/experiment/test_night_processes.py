"""What a run of two processes meets in a night ends both alike: its time, a full disk, too little memory on one."""

import errno
import multiprocessing
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from anysize.experiment import assemble as assemble_module
from anysize.experiment.train import train
from anysize.recipe import Recipe, override
from anysize.reports import html
from anysize.training.checkpoint import files
from anysize.training.checkpoint.files import read_state

pytestmark = pytest.mark.slow


def greedy(rank: int, model: torch.nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """The model, for which the second process has too little memory where there are more than four images."""

    def forward(x: torch.Tensor) -> torch.Tensor:
        if rank == 1 and len(x) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        outputs: torch.Tensor = model(x)
        return outputs

    return forward


def full(path: Path, tensors: Any) -> tuple[int, str]:
    raise OSError(errno.ENOSPC, "No space left on device")


def on_rank(rank: int, root: Path, recipe: Recipe, results: Any) -> None:
    torch.set_num_threads(1)
    html.write_report = lambda folder: folder / "report.html"

    def attempt(name: str, changes: dict[str, Any], **how: Any) -> str:
        try:
            train(override(recipe, changes), run=root / name, **how)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return "ended"

    try:
        dist.init_process_group("gloo", init_method=f"file://{root}/meeting", rank=rank, world_size=2)
        said = {"time": attempt("time", {}, max_hours=1e-6), "time again": attempt("time", {}, max_hours=10)}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(files, "write_tensors", full)
            said["disk"] = attempt("disk", {"training.checkpoint_steps": 1})
        said["disk again"] = attempt("disk", {"training.checkpoint_steps": 1})
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(assemble_module, "compiled", lambda model, *rest: greedy(rank, model))
            said["memory"] = attempt("memory", {})
            said["smaller"] = attempt("smaller", {"training.micro_batches": "auto"})
        dist.destroy_process_group()
    except BaseException:
        said = {"failed": traceback.format_exc()}
    results.put((rank, said))


@pytest.fixture(scope="module")
def seen(
    tiny: Callable[..., Recipe], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, str], dict[str, str]]:
    root, context = tmp_path_factory.mktemp("night"), multiprocessing.get_context("spawn")
    results = context.Queue()
    recipe = tiny(data__limit=80, sizes__mix="fixed", training__epochs=1, training__batch_size=8)
    processes = [context.Process(target=on_rank, args=(rank, root, recipe, results)) for rank in range(2)]
    for process in processes:
        process.start()
    said = dict(results.get(timeout=120) for _ in processes)
    for process in processes:
        process.join(timeout=30)
    assert "failed" not in said[0], said[0]["failed"]
    return root, said[0], said[1]


def test_the_time_is_over_for_both_at_the_same_step(seen: Any) -> None:
    _, one, other = seen
    assert one["time"] == other["time"] == "TimeOver: --max-hours 1e-06 is over: saved at epoch 1, step 2"
    assert one["time again"] == other["time again"] == "ended"


def test_a_disk_that_is_full_beside_the_training_ends_both(seen: Any) -> None:
    _, one, other = seen
    assert one["disk"].startswith("UserError: could not write the checkpoint")
    assert other["disk"] == one["disk"].replace("UserError: ", "UserError: process 0: ")
    assert one["disk again"] == other["disk again"] == "ended"


def test_both_cut_their_batches_where_one_has_too_little_memory(seen: Any) -> None:
    root, one, other = seen
    assert one["memory"].startswith("OutOfMemory: process 1: out of memory in the largest step")
    assert other["memory"].startswith("OutOfMemory: out of memory in the largest step")
    assert one["smaller"] == other["smaller"] == "ended"
    assert read_state(root / "smaller/checkpoints/last")["micro_batches"] == {"factor": 2}
