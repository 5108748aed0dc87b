"""The plan of an epoch of ImageNet on 64 ranks, against torch's samplers.

    python benchmarks/plan_of_many_ranks.py [--repeats 5]

Claim: a rank of 64 that knows the 1,281,167 files of ImageNet's training images lists the batches of an epoch, at the
five sizes of the paper's mixture, in less than 3 seconds, and takes less than 400 MB for names and plan, beside what
the imports of torch and torchvision take. The peer is what torch's `DistributedSampler` and `BatchSampler` list, at one
size. Each side runs in a process of its own, in turn.
"""

import argparse
import resource
import statistics
import time

import numpy as np
from torch.utils.data import BatchSampler, DistributedSampler

from anysize.data.source import FileSource
from anysize.sizes.batch_plan import BatchPlan
from anysize.sizes.mix import SizeMix
from anysize.sizes.schedule import SizeSchedule
from harness import in_fresh_process, print_environment, report

IMAGES, RANKS, BATCH = 1_281_167, 64, 32


def files() -> FileSource:
    """File names as long as ImageNet's."""
    names = [f"imagenet/train/n{i % 1000:08}/n{i % 1000:08}_{i}.JPEG" for i in range(IMAGES)]
    return FileSource(names, np.arange(IMAGES) % 1000, tuple(map(str, range(1000))), "imagenet train")


def by_plan() -> tuple[float, float, int]:
    """Seconds for the batches of an epoch, megabytes for names and plan at their peak, and the number of batches."""
    before = peak()
    plan = BatchPlan(len(files()), SizeSchedule.constant(SizeMix.named("B+", 224)), BATCH, rank=63, world_size=RANKS)
    start = time.perf_counter()
    batches = plan.batches(3)
    return time.perf_counter() - start, peak() - before, len(batches)


def by_samplers() -> tuple[float, float, int]:
    """The same of torch's samplers, which know no names."""
    before = peak()
    sampler: DistributedSampler[int] = DistributedSampler(range(IMAGES), RANKS, 63, drop_last=True)  # type: ignore[arg-type]
    sampler.set_epoch(3)
    start = time.perf_counter()
    batches = list(BatchSampler(sampler, BATCH, drop_last=True))
    return time.perf_counter() - start, peak() - before, len(batches)


def peak() -> float:
    """The most memory that the process has taken so far, in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Measure both, print the medians."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print_environment()
    sides = {"plan": by_plan, "samplers": by_samplers}
    found: dict[str, list[tuple[float, float, int]]] = {name: [] for name in sides}
    for _ in range(options.repeats):
        for name, side in sides.items():
            found[name].append(in_fresh_process(side, {}))
    medians = {}
    for name, each in found.items():
        medians[name] = tuple(statistics.median(values) for values in zip(*each, strict=True))
        seconds, megabytes, batches = medians[name]
        print(f"  {name:9} {seconds:.2f} s, {megabytes:,.0f} MB, {batches:,.0f} batches")
    print(f"  the samplers take {medians['samplers'][0] / medians['plan'][0]:.2f} times as long as the plan")
    report("seconds of the plan", medians["plan"][0], 3, at_least=False)
    report("megabytes of names and plan", medians["plan"][1], 400, at_least=False, digits=0)


if __name__ == "__main__":
    main()
