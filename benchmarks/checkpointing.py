"""What saving takes from training: in the foreground, and written beside it.

    python benchmarks/checkpointing.py [--rounds 9]

Claim: with `training.checkpoint_background`, saving every 500 steps takes at most 1% of the time of a training of
ResNet-50 (25.6 million parameters; 205 MB of weights and momentum) at 64 px with batch 2. So small a batch of so small
images makes the step short, and what a save takes a large share of it.

Timed are stretches of steps with one save at their start, which are long enough for the thread to write its files
within them, against as many steps without one: what a stretch takes longer is what a save takes, its wait and the
slowing down of the steps beside which the thread works together. The three kinds of stretches take turns. The wait
alone is printed, too. A save is what the loop calls: it waits for the device, looks for weights that are not finite,
copies or writes.

What profiling said (timers around the parts, one thread): the look for weights that are not finite takes 0.05 s, the
files 0.5 to 0.6 s, of which BLAKE2b 0.2 s and bringing channels-last weights into the files' order 0.1 s; the rest is
writing and syncing. Written beside the training, a save waits for the look, and for 0.02 s of copying, the first time
0.1 s, for new memory.
"""

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from anysize.models.spec import create_model
from anysize.training.checkpoint.writer import CheckpointWriter
from anysize.training.optimizer import RegimeOptimizer
from anysize.training.parts import new_state
from anysize.training.regime import constant
from anysize.training.settings import OptimizerSettings, TrainingSettings
from anysize.training.state import TrainState
from anysize.world import World
from harness import print_environment, report

STEPS_BETWEEN_SAVES = 500
SHAPE = (2, 3, 64, 64)


def make_state() -> TrainState:
    """ResNet-50 with momentum, as a run makes it."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = create_model("resnet50").to(device, memory_format=torch.channels_last)
    optimizer = RegimeOptimizer(model, OptimizerSettings(lr=constant(1e-3)))
    optimizer.apply(0.0)
    return new_state(model, optimizer, TrainingSettings(), device, World(), 2)


def make_step(state: TrainState) -> Callable[[], None]:
    """Forward, backward and the optimizer's step on random images."""
    device = state.optimizer.parameters[0].device
    images = torch.randn(SHAPE, device=device).contiguous(memory_format=torch.channels_last)
    targets = torch.randint(1000, SHAPE[:1], device=device)
    fine = torch.ones((), dtype=torch.bool, device=device)
    state.model.train()

    def step() -> None:
        state.optimizer.torch.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(state.model(images), targets).backward()
        state.optimizer.step(fine)

    return step


def wait_for_device() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds_of(do: Callable[[], object]) -> float:
    wait_for_device()
    start = time.perf_counter()
    do()
    wait_for_device()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    print_environment()
    torch.manual_seed(0)
    state, folder = make_state(), Path(tempfile.mkdtemp())  # on the disk that holds temporary files
    step = make_step(state)
    writers = {"foreground": CheckpointWriter(), "background": CheckpointWriter(background=True)}

    def save(kind: str) -> None:
        place = folder / kind
        state.save(place / "last", {}, keep=place / "previous", write=writers[kind].write)

    for _ in range(5):
        step()
    for kind in writers:
        for _ in range(2):  # the first save makes room for the copy, the second one replaces one
            save(kind)
            writers[kind].wait()
    step_seconds = statistics.median(seconds_of(step) for _ in range(20))
    steps = max(8, round(3 * writers["background"].slowest / step_seconds))
    stretches: dict[str, list[float]] = {"no save": [], **{kind: [] for kind in writers}}
    waits: dict[str, list[float]] = {kind: [] for kind in writers}

    def stretch(kind: str) -> None:
        if kind in writers:
            waits[kind].append(seconds_of(lambda: save(kind)))
        for _ in range(steps):
            step()

    for round_, kind in itertools.product(range(arguments.rounds), stretches):
        turn = list(stretches)[(list(stretches).index(kind) + round_) % len(stretches)]
        stretches[turn].append(seconds_of(lambda turn=turn: stretch(turn)))
        for writer in writers.values():
            writer.wait()
    for writer in writers.values():
        with writer:
            pass

    plain = statistics.median(stretches["no save"])
    step_seconds = plain / steps
    size = sum(file.stat().st_size for file in (folder / "background/last").iterdir()) / 1e6
    print(f"a step takes {1000 * step_seconds:.1f} ms, a checkpoint has {size:.0f} MB; stretches of {steps} steps")
    for kind in writers:
        taken = [with_save - without for with_save, without in zip(stretches[kind], stretches["no save"], strict=True)]
        print(
            f"  {kind}: a save takes {statistics.median(taken):.3f} s ({min(taken):.3f} to {max(taken):.3f}), of which "
            f"the loop waits {statistics.median(waits[kind]):.3f} s"
        )
        share = 100 * statistics.median(taken) / (STEPS_BETWEEN_SAVES * step_seconds)
        claim = f"percent of the time, saving every {STEPS_BETWEEN_SAVES} steps, {kind}"
        if kind == "background":
            report(claim, share, 1.0, at_least=False)
        else:
            print(f"{claim}: {share:.2f}")


if __name__ == "__main__":
    main()
