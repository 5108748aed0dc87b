"""In-memory augmentation against a DataLoader over per-image torchvision v2 transforms.

    python benchmarks/augmentation.py [--repeats 5]

Claim: crop, flip, resize and normalise of images at 32 px are at least 10 times as fast as with a
`torch.utils.data.DataLoader` of 2 (persistent) workers over torchvision's transforms v2 for single images.
Both sides produce the same kind of batches (64 images, float32, normalised) of the same uint8 images, at each size of
the CIFAR mixture; torchvision's side starts from tensors (no PIL conversion), its fastest way.
Our side takes one thread, the other two processes: on a machine that others use as well, small operations on several
threads measure the scheduler.

What profiling said (batch of 64 at 24 px, a core of a 2.3 GHz Xeon): 9 us an image, of which torch's antialiased
uint8 resize takes 3, crop and flip 2, normalise 1, the random numbers 0.4, and Python's calls the rest. Gathering
single pixels by index took 8 us for crop and flip; copying whole rows of pixels out of padded images, the mirrored ones
first, replaced it.
"""

import argparse

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from anysize.data.augment.plain import TrainTransform
from anysize.data.loader import PlanLoader, sequential_batches
from anysize.data.settings import AugmentSettings
from anysize.data.source import ArraySource
from anysize.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from harness import compare, print_environment, report

COUNT, BATCH, BASE = 20_000, 64, 32


class PerImage(Dataset[tuple[Tensor, int]]):
    """The peer: what a user of torchvision writes."""

    def __init__(self, images: Tensor, size: int) -> None:
        self.images = images.permute(0, 3, 1, 2).contiguous()
        self.transform = v2.Compose(
            [
                v2.RandomCrop(BASE, padding=4),
                *([v2.Resize(size)] if size != BASE else []),
                v2.RandomHorizontalFlip(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.images[index]), 0


def drain(batches: object) -> int:
    """Take every batch."""
    return sum(1 for _ in batches)  # type: ignore[attr-defined]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    print_environment()
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (COUNT, BASE, BASE, 3), dtype=np.uint8))
    source = ArraySource(images, np.zeros(COUNT, dtype=np.int64), ("one",), "random")
    transform = TrainTransform(Preprocessing(BASE, resize="stretch"), AugmentSettings(crop="pad", flip=0.5))
    loader = PlanLoader(source, transform)
    ratios: dict[int, float] = {}
    for size in (16, 24, 32, 48):
        batches = sequential_batches(COUNT, size, BATCH)
        peer = DataLoader(PerImage(images, size), BATCH, shuffle=True, num_workers=2, persistent_workers=True)
        print(f"{size} px, {COUNT} images, batches of {BATCH}:")
        medians = compare(
            {
                "anysize, in memory": lambda batches=batches: drain(loader.load(batches)),
                "DataLoader, 2 workers": lambda peer=peer: drain(peer),
            },
            repeats,
        )
        ratios[size] = medians["DataLoader, 2 workers"] / medians["anysize, in memory"]
        print(f"  {COUNT / medians['anysize, in memory']:,.0f} images a second; ratio {ratios[size]:.1f}")
    report("images a second over the DataLoader's at 32 px", ratios[BASE], 10)


if __name__ == "__main__":
    main()
