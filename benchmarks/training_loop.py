"""The training loop against a bare PyTorch loop on the same batches.

    python benchmarks/training_loop.py [--repeats 7]

Claim: with everything the loop does beside the step (regime, guards of loss and gradient, seeds, records, live line) it
reaches at least 0.97 of the images a second of the ten lines that a user would write: forward, loss, backward, step. And
where Python is what costs (ResNet-8 at 8 px, batch 8), at least 0.90.
SGD with momentum, fused on both sides; channels last; data from the same in-memory loader.

PROFILE
"""

import argparse
import io
import tempfile
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
from anysize.tasks.classification import Classification
from anysize.training.guards import StopRequest
from anysize.training.length import run_length
from anysize.training.loop import train_epoch
from anysize.training.optimizer import RegimeOptimizer
from anysize.training.parts import Parts, Validation, new_state
from anysize.training.settings import OptimizerSettings, TrainingSettings
from anysize.world import World
from harness import compare, print_environment, report

# Model, its options, image size, batch, steps, target.
CASES = (
    ("resnet20", {}, 32, 64, 24, 0.97),
    ("resnet8", {}, 8, 8, 200, 0.90),
)


def make_loader(plan: BatchPlan, size: int) -> PlanLoader:
    """Random images in memory, augmented as CIFAR's."""
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (plan.length, size, size, 3), dtype=np.uint8))
    source = ArraySource(images, rng.integers(0, 10, plan.length), tuple("abcdefghij"), "random")
    preprocessing = Preprocessing(size, resize="stretch", classes=source.classes)
    return PlanLoader(source, TrainTransform(preprocessing, AugmentSettings(crop="pad", flip=0.5)))


def run(name: str, options: dict[str, Any], size: int, batch: int, steps: int, target: float, repeats: int) -> None:
    """Time one case."""
    plan = BatchPlan(steps * batch, SizeSchedule.constant(SizeMix.fixed(size)), batch_size=batch)
    loader, settings, device = make_loader(plan, size), OptimizerSettings(), torch.device("cpu")
    bare_model = create_model(name, **options).to(memory_format=torch.channels_last)
    bare_optimizer = torch.optim.SGD(bare_model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4, fused=True)

    def bare() -> None:
        bare_model.train()
        for loaded in loader.load(plan.batches(0)):
            loss = F.cross_entropy(bare_model(loaded.images), loaded.targets)
            bare_optimizer.zero_grad()
            loss.backward()
            bare_optimizer.step()

    model = create_model(name, **options).to(memory_format=torch.channels_last)
    flops = count_flops(model, size).total
    folder = Path(tempfile.mkdtemp())
    training = TrainingSettings(epochs=1000)
    parts = Parts(
        forward=model,
        task=Classification(list("0123456789")),
        plan=plan,
        loader=loader,
        training=training,
        length=run_length(plan, training, size, lambda size: flops),
        validate=lambda model, stop: Validation({}, {}, size, False),
        checkpoints=folder / "checkpoints",
        description={},
        log=RunLog(folder, epochs=1000, console=Console(file=io.StringIO())),
        describe=loader.source.describe,
        report=lambda: None,
        device=device,
    )
    state = new_state(model, RegimeOptimizer(model, settings), training, device, World())

    def ours() -> None:
        state.progress.epoch = state.progress.step_in_epoch = 0
        state.recorder.start_epoch()
        train_epoch(parts, state, StopRequest())

    print(f"{name}, {size} px, batch {batch}")
    medians = compare({"bare loop": bare, "anysize": ours}, repeats)
    for side, seconds in medians.items():
        print(f"  {side}: {steps * batch / seconds:,.0f} images/s, {1000 * seconds / steps:.2f} ms a step")
    report("images a second, anysize / bare loop", medians["bare loop"] / medians["anysize"], target)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    print_environment()
    for case in CASES:
        run(*case, arguments.repeats)


if __name__ == "__main__":
    main()
