"""A whole training from JPEG files, loader and network on the same two cores, against timm's loader and a plain loop.

    python benchmarks/training_from_files.py [--repeats 5] [--images 512] [--workers 2] [--precision bfloat16]

Claim: ResNet-18 at 64 px on JPEG files of 500 x 375 px trains at least 1.3 times as fast as with timm's loader
(`timm.data.create_loader`, one process or more, without its prefetcher, which needs CUDA) and a loop such as that of
timm's training script: forward, loss, backward, step. Same network, batch of 32, precision, SGD, channels last,
random-resized crops and flips on both sides; ours decodes to scale (data.decode = scaled). The files are those of
`benchmarks/image_folder.py`.

What the network takes alone is printed beside: no loader can gain more than what is left.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from timm.data import create_dataset, create_loader

from anysize.data.augment.plain import TrainTransform
from anysize.data.loader import PlanLoader
from anysize.models.spec import create_model
from anysize.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from anysize.sizes.batch_plan import BatchPlan
from anysize.sizes.mix import SizeMix
from anysize.sizes.schedule import SizeSchedule
from harness import compare, print_environment, report, training_step
from image_folder import AUGMENT, open_source, write_images
from training_loop import Case, trainers_loop

MODEL, SIZE, BATCH = "resnet18", 64, 32


def ours(root: Path, case: Case, workers: int) -> Callable[[], None]:
    """An epoch of the trainer's loop."""
    plan = BatchPlan(case.images, SizeSchedule.constant(SizeMix.fixed(SIZE)), batch_size=BATCH)
    transform = TrainTransform(Preprocessing(SIZE, classes=("0", "1")), AUGMENT)
    loader = PlanLoader(open_source(root, "scaled"), transform, workers=workers, reduced=True)
    return trainers_loop(case, plan, loader)


def timms(root: Path, workers: int, precision: str) -> Callable[[], None]:
    """An epoch of timm's loader and a plain loop."""
    dataset = create_dataset("", root=str(root), split="", is_training=True, batch_size=BATCH)
    loader = create_loader(
        dataset, (3, SIZE, SIZE), BATCH, is_training=True, use_prefetcher=False, num_workers=workers,
        scale=AUGMENT.scale, ratio=AUGMENT.ratio, hflip=AUGMENT.flip, color_jitter=None, auto_augment=None, re_prob=0.0,
        interpolation="bilinear", mean=IMAGENET_MEAN, std=IMAGENET_STD, persistent_workers=workers > 0,
    )  # fmt: skip
    model = create_model(MODEL).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4, fused=True)

    def epoch() -> None:
        model.train()
        for images, targets in loader:
            images = images.contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", getattr(torch, precision), enabled=precision != "float32"):
                loss = F.cross_entropy(model(images), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return epoch


def network_alone(case: Case) -> Callable[[], None]:
    """The steps of an epoch on the same images each time."""
    model = create_model(MODEL).to(memory_format=torch.channels_last)
    step = training_step(model, (BATCH, 3, SIZE, SIZE), precision=case.precision)

    def epoch() -> None:
        for _ in range(case.steps):
            step()

    return epoch


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--folder", type=Path, help="JPEG files in CLASS/; default: made here")
    arguments = parser.parse_args()
    print_environment()
    case = Case(MODEL, SIZE, BATCH, arguments.images // BATCH, precision=arguments.precision)
    with tempfile.TemporaryDirectory() as made:
        root = arguments.folder or write_images(Path(made), case.images)
        sides = {
            "anysize": ours(root, case, arguments.workers),
            "timm's loader": timms(root, arguments.workers, arguments.precision),
            "network alone": network_alone(case),
        }
        medians = compare(sides, arguments.repeats)
    for side, seconds in medians.items():
        print(f"  {side}: {case.images / seconds:,.0f} images/s")
    name = f"{MODEL}, {SIZE} px, {arguments.precision}, {arguments.workers} workers"
    report(f"{name}: images a second, anysize / timm's loader", medians["timm's loader"] / medians["anysize"], 1.3)


if __name__ == "__main__":
    main()
