"""An epoch of the mixture against an epoch at the base size: time over FLOPs.

    python benchmarks/mixture_epoch.py [--repeats 3] [--model resnet44] [--mix B+] [--steps 760]

Claim: changing the size at every step costs little beyond the FLOPs: (time of the mixture / time at 32 px) over (FLOPs
of the mixture / FLOPs at 32 px) is at most 1.10 for resnet44 and CIFAR's B+. The epoch is shortened to a data set of
`--images` images, which keeps the shares of the sizes; both sides train the same network with the same loop.
"""

import argparse

import torch
import torch.nn.functional as F

from anysize.models.measure.flops import count_flops
from anysize.models.spec import create_model
from anysize.sizes.batch_plan import BatchPlan
from anysize.sizes.cost import plan_cost
from anysize.sizes.mix import SizeMix
from anysize.sizes.schedule import SizeSchedule
from harness import compare, print_environment, report
from training_loop import make_loader


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--model", default="resnet44")
    parser.add_argument("--mix", default="B+", choices=["B+", "D+", "B+D+"])
    parser.add_argument("--images", type=int, default=5120)
    arguments = parser.parse_args()
    print_environment()
    model = create_model(arguments.model).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    mixes = {"base": SizeMix.fixed(32), "mixture": SizeMix.named(arguments.mix, base=32)}
    plans = {
        name: BatchPlan(arguments.images, SizeSchedule.constant(mix), batch_size=64) for name, mix in mixes.items()
    }
    loader = make_loader(plans["base"])

    def epoch(plan: BatchPlan) -> None:
        model.train()
        for batch in loader.load(plan.batches(0)):
            loss = F.cross_entropy(model(batch.images), batch.targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    medians = compare({name: lambda plan=plan: epoch(plan) for name, plan in plans.items()}, arguments.repeats)
    flops = {
        name: plan_cost(plan, 1, lambda size: count_flops(model, size)).total_flops for name, plan in plans.items()
    }
    time_ratio = medians["mixture"] / medians["base"]
    flops_ratio = flops["mixture"] / flops["base"]
    print(f"  time ratio {time_ratio:.3f}, FLOPs ratio {flops_ratio:.3f}")
    report(
        f"{arguments.model} {arguments.mix}: time ratio / FLOPs ratio", time_ratio / flops_ratio, 1.10, at_least=False
    )


if __name__ == "__main__":
    main()
