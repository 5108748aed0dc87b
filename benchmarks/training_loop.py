"""The training loop against a bare PyTorch loop on the same batches.

    python benchmarks/training_loop.py [--repeats 7]

Claim: with everything the loop does beside the step (regime, guards of loss and gradient, seeds, records, live line) it
reaches at least 0.97 of the images a second of the ten lines that a user would write: forward, loss, backward, step.
ResNet-20 at 32 px, batch 64; SGD with momentum, fused, channels last on both sides; data from the same in-memory
loader. Where
a step is so small that Python is what costs, ResNet-8 at 8 px and batch 8, it reaches at least 0.90.

What profiling said (timers around the parts, two threads of an AMD EPYC with AVX-512). At 8 px a step of the bare loop
takes 4.5 ms and the trainer's 0.8 ms more: the gradient's norm 0.2, the optimizer in two groups (with and without
decay) and with its flag 0.1, metrics and their sums 0.1, whether the step is finite 0.07, the regime, seed, records
and live line 0.1, and the rest is Python between them. At 32 px, in 100 ms a step, they are lost in the noise. Before,
when each step asked for the loss and the norm, and seeding visited every accelerator, these took 1.6 ms.
"""

import argparse
import contextlib
import dataclasses
import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console

from anysize.data.augment.plain import TrainTransform
from anysize.data.loader import PlanLoader
from anysize.data.settings import AugmentSettings
from anysize.data.source import ArraySource
from anysize.models.measure.flops import count_flops
from anysize.models.spec import create_model
from anysize.preprocessing import Preprocessing
from anysize.reports.run_log import RunLog
from anysize.sizes.batch_plan import BatchPlan
from anysize.sizes.mix import SizeMix
from anysize.sizes.schedule import SizeSchedule
from anysize.stopping import StopRequest
from anysize.tasks.classification import Classification
from anysize.training.length import run_length
from anysize.training.loop import train_epoch
from anysize.training.optimizer import RegimeOptimizer
from anysize.training.parts import Parts, Validation, new_state
from anysize.training.regime import constant
from anysize.training.settings import OptimizerSettings, TrainingSettings
from anysize.world import World
from harness import compare, print_environment, report


@dataclasses.dataclass(frozen=True)
class Case:
    """A network and its batches; one call of a loop trains `steps` of them."""

    model: str
    size: int
    batch: int
    steps: int
    device: str = "cpu"
    precision: str = "float32"

    @property
    def images(self) -> int:
        """In a call of a loop."""
        return self.steps * self.batch


CASES = {
    Case("resnet20", size=32, batch=64, steps=24): 0.97,
    Case("resnet8", size=8, batch=8, steps=100): 0.90,  # Python is what costs
}


def loops(case: Case) -> dict[str, Callable[[], None]]:
    """An epoch by the bare loop, and one by the trainer's."""
    plan = BatchPlan(case.images, SizeSchedule.constant(SizeMix.fixed(case.size)), batch_size=case.batch)
    loader = make_loader(plan, case)
    return {"bare loop": bare_loop(case, plan, loader), "anysize": trainers_loop(case, plan, loader)}


def make_loader(plan: BatchPlan, case: Case) -> PlanLoader:
    """Random images in memory, augmented as CIFAR's."""
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (plan.length, case.size, case.size, 3), dtype=np.uint8))
    source = ArraySource(images, rng.integers(0, 10, plan.length), tuple("abcdefghij"), "random")
    preprocessing = Preprocessing(case.size, resize="stretch", classes=source.classes)
    return PlanLoader(source, TrainTransform(preprocessing, AugmentSettings(crop="pad", flip=0.5)), device=case.device)


def bare_loop(case: Case, plan: BatchPlan, loader: PlanLoader) -> Callable[[], None]:
    """What a user would write."""
    model = create_model(case.model).to(case.device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4, fused=True)
    half = case.precision != "float32"

    def epoch() -> None:
        model.train()
        for batch in loader.load(plan.batches(0)):
            images = batch.images.contiguous(memory_format=torch.channels_last)
            with torch.autocast(case.device, getattr(torch, case.precision), enabled=half):
                loss = F.cross_entropy(model(images), batch.targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return epoch


def trainers_loop(case: Case, plan: BatchPlan, loader: PlanLoader, **settings: Any) -> Callable[[], None]:
    """The trainer's loop, without validation and checkpoints; `settings` of training."""
    model = create_model(case.model).to(memory_format=torch.channels_last)
    flops = count_flops(model, case.size).total
    folder = Path(tempfile.mkdtemp())
    training = TrainingSettings(epochs=1000, precision=case.precision, **settings)
    parts = Parts(
        forward=model.to(case.device),
        no_sync=contextlib.nullcontext,
        task=Classification(list("0123456789")),
        plan=plan,
        loader=loader,
        training=training,
        length=run_length(plan, training, case.size, lambda size: flops),
        validate=lambda model, stop: Validation({}, {}, case.size, False),
        checkpoints=folder / "checkpoints",
        description={},
        log=RunLog(folder, epochs=1000, console=Console(file=io.StringIO())),
        describe=loader.source.describe,
        report=lambda: None,
        device=torch.device(case.device),
    )
    device, optimizer = torch.device(case.device), RegimeOptimizer(model, OptimizerSettings(lr=constant(0.01)))
    state = new_state(model, optimizer, training, device, World(), plan.total_batch)

    def epoch() -> None:
        state.progress.epoch = state.progress.step_in_epoch = 0
        state.recorder.start_epoch()
        train_epoch(parts, state, StopRequest())

    return epoch


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    print_environment()
    for case, at_least in CASES.items():
        name = f"{case.model}, {case.size} px, batch {case.batch}"
        print(name)
        medians = compare(loops(case), arguments.repeats)
        for side, seconds in medians.items():
            print(f"  {side}: {case.images / seconds:,.0f} images/s")
        report(f"{name}: images a second, anysize / bare loop", medians["bare loop"] / medians["anysize"], at_least)


if __name__ == "__main__":
    main()
