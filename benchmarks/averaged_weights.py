"""Averaged weights, every 32 steps, against training without them.

    python benchmarks/averaged_weights.py [--repeats 9]

Claim: they take at most 1% of the time of training. ResNet-20 at 32 px, batch 64, whose step is short for its weights
(270,000); the larger the images and the batch, the less it is. Both sides are the trainer's loop, in turn.

What profiling said: an update takes 0.66 ms (foreach operations on parameters and running statistics, copies of the
counts of batches), a step 110 ms, so that one update in 32 steps is 0.02% of the time, far below the spread of runs.
"""

import argparse

from anysize.sizes.batch_plan import BatchPlan
from anysize.sizes.mix import SizeMix
from anysize.sizes.schedule import SizeSchedule
from harness import compare, print_environment, report
from training_loop import Case, make_loader, trainers_loop

CASE = Case("resnet20", size=32, batch=64, steps=64)


def main() -> None:
    """Time both loops, print medians and the ratio."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    print_environment()
    plan = BatchPlan(CASE.images, SizeSchedule.constant(SizeMix.fixed(CASE.size)), batch_size=CASE.batch)
    loader = make_loader(plan, CASE)
    sides = {
        "plain": trainers_loop(CASE, plan, loader),
        "averaged": trainers_loop(CASE, plan, loader, average_steps=32),
    }
    seconds = compare(sides, options.repeats)
    report(
        "time with averaged weights over the time without", seconds["averaged"] / seconds["plain"], 1.01, at_least=False
    )


if __name__ == "__main__":
    main()
