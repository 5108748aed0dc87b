"""One, two, three and four processes share an evaluation: the same figures, from each image once."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from gloo_group import in_group

from anysize.data.loader import LoadedBatch, sequential_batches
from anysize.evaluation.evaluate import evaluate_batches, share_of
from anysize.sizes.batch import Batch
from anysize.tasks.base import create_task
from anysize.tasks.records import Judged
from anysize.world import World

IMAGES = 101  # a prime number
SIZES = (1, 2, 3, 4)
CPU = torch.device("cpu")


def images_and_targets(task: str) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    images = torch.randn(IMAGES, 3, 6, 6, generator=draw)
    if task == "classification":
        return images, torch.randint(7, (IMAGES,), generator=draw)
    if task == "multilabel":  # coarse values, so that many scores are equal and ranks depend on the order of images
        return images.round(), torch.randint(2, (IMAGES, 3, 7), generator=draw, dtype=torch.uint8)
    masks = torch.randint(8, (IMAGES, 6, 6), generator=draw, dtype=torch.uint8)
    return images, torch.where(masks == 7, torch.tensor(255, dtype=torch.uint8), masks)


def network(task: str) -> torch.nn.Module:
    torch.manual_seed(0)
    convolution = torch.nn.Conv2d(3, 7, 3, padding=1)
    if task == "segmentation":
        return convolution
    return torch.nn.Sequential(convolution, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())


def evaluate(task: str, world: World, batch_size: int) -> dict[str, Any]:
    images, targets = images_and_targets(task)
    whole = np.array([6, 6])

    def load(number: int, planned: Batch) -> LoadedBatch:
        rows = torch.from_numpy(planned.indices)
        dense = task == "segmentation"
        boxes = np.tile([0, 0, 6, 6], (len(rows), 1)) if dense else None
        shapes = np.tile(whole, (len(rows), 1)) if dense else None
        return LoadedBatch(images[rows], targets[rows], 6, 1, planned.indices, 0, number, boxes, shapes)

    batches = share_of(sequential_batches(IMAGES, 6, batch_size), world)
    judged: dict[int, Judged] = {}
    summary = evaluate_batches(
        network(task),
        create_task(task, tuple("abcdefg")),
        (load(number, planned) for number, planned in enumerate(batches)),
        CPU,
        world,
        judged=judged,
    )
    tables = [number for table in summary.tables.values() for row in table.values() for number in row.values()]
    answers = [list(judged[image]) for image in sorted(judged)]
    return {
        "values": summary.values,
        "tables": tables,
        "answers": answers,
        "own": sum(len(batch.indices) for batch in batches),
    }


def job(rank: int) -> dict[str, Any]:
    found = {}
    for size in SIZES:
        group = dist.new_group(list(range(size)))
        if rank < size:
            world = World(rank, size, group)
            for task in ("classification", "multilabel", "segmentation"):
                for batch_size in (13, 64):  # with 64 two processes have all there is, and the others nothing
                    found[f"{task} {batch_size} {size}"] = evaluate(task, world, batch_size)
    return found


@pytest.mark.slow
def test_the_same_figures_for_any_number_of_processes(tmp_path: Path) -> None:
    ranks = in_group(4, job, tmp_path)
    for task in ("classification", "multilabel", "segmentation"):
        for batch_size in (13, 64):
            alone = ranks[0][f"{task} {batch_size} 1"]
            assert alone["values"]["images"] == len(alone["answers"]) == IMAGES
            for size in SIZES[1:]:
                several = [ranks[rank][f"{task} {batch_size} {size}"] for rank in range(size)]
                assert sum(each["own"] for each in several) == IMAGES
                assert all(each["answers"] == alone["answers"] for each in several)
                for each in several:  # all know the figures, and know the same
                    assert_same_figures(alone, each)


def assert_same_figures(one: dict[str, Any], other: dict[str, Any]) -> None:
    """All figures are equal, bit for bit, but for means over images: they are summed in another order."""
    assert one["values"].keys() == other["values"].keys()
    for name in one["values"].keys() - {"images_per_second"}:
        rounded = name == "loss" or name.startswith("iou_")
        assert same(one["values"][name], other["values"][name], 1e-6 if rounded else 0.0), name
    assert all(same(value, again, 1e-6) for value, again in zip(one["tables"], other["tables"], strict=True))


def same(one: float, other: float, tolerance: float) -> bool:
    return math.isclose(one, other, rel_tol=tolerance) or (math.isnan(one) and math.isnan(other))
