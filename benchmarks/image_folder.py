"""Training and evaluation images from a folder of JPEG files against torchvision's ImageFolder and DataLoader.

    python benchmarks/image_folder.py [--repeats 5] [--folder DIR] [--images 512] [--decibels 400]

Claim: JPEG files of 500 x 375 px become random-resized training crops, normalised and in batches of 32, at least 1.5
times as fast as with `torchvision.datasets.ImageFolder` (Pillow), torchvision's transforms of its reference training
and `torch.utils.data.DataLoader` at 128 and at 64 px, and 1.1 times at 224 px, with data.decode = scaled; evaluation
crops at 128 px, which are decoded in full always, at least as fast. Both with one worker process and with two. Both
sides read the same files in the same order; each draws its own crops, from the same distribution. The figures of
data.decode = full stand beside.

The files are made here: smooth colours, edges and noise, saved at quality 90, 96 kB each on average, as large as those
of ImageNet. `--folder` takes JPEG files from DIR/CLASS instead, as they are.

The last table is the price: over the files of DIR (else over those made here, which are harder: noise), how far crops
from images decoded to scale are from crops of images decoded in full, in dB (of the peak signal, 255, over the root of
the mean squared difference), by size. "as trained" is the crop that training gets; "same box" compares with the crop of
the full image at the very same place: the crop of a smaller image begins and ends at whole pixels of that, so it lies
up to half of such a pixel beside the box that was drawn, which as a crop is as good as the one drawn.

What profiling said (--profile, and the fastest of many runs of each image on a core of an EPYC that others used, too;
simplejpeg 1.9.0, Pillow 13.0.0, torch 2.14.1; ms an image of 500 x 375 px and 96 kB):

    decoding in full: simplejpeg 0.93, Pillow 1.03; grey alone 0.79
    at 1/2, 1/4, 1/8: simplejpeg 0.81, 0.76, 0.68, Pillow's draft 0.94, 0.87, 0.77
    resize of a random crop to 64, 128, 224 px: torch 0.12, 0.12, 0.14 of a crop that is one piece of memory, channels
    last (0.11, 0.16, 0.25 of one that is not), Pillow 0.25, 0.33, 0.53
    all of a sample at 128 px: 1.4, of which decoding takes 0.95, the resize 0.13, the random box 0.1, the file 0.05,
    copying the crop 0.04, the draw of the flip 0.03; torchvision's takes 2.4

Reading the entropy code takes most of the decoding, and no scale saves it: so scaled decoding gains a quarter at most,
and a pack, which stores images at small sizes, several times as much. What was left to save was ours, 0.4 ms an image:
a copy of the whole image before each crop, a resize from pieces of rows, three draws where one is needed, a
transposition of each batch.

Weighed and left out: scales other than these three, which have no fast transform (5/8 takes longer than the whole);
simplejpeg's fast transform and plain upsampling in full (0.87 ms, 43 to 46 dB beside the exact ones), which gain less
than 4% of a sample; OpenCV, PyTurboJPEG, torchvision's and torchcodec's decoders, all of which call the same
libjpeg-turbo (torchvision's are being retired, torchcodec's decode in full alone); Pillow's resize with a box of
fractions, which meets the drawn box exactly and takes two to four times as long as torch's.
"""

import argparse
import cProfile
import dataclasses
import io
import itertools
import math
import pstats
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.datasets import ImageFolder
from torchvision.transforms.v2 import functional as F

from anysize.data.augment.plain import TrainTransform
from anysize.data.augment.square import EvalTransform
from anysize.data.augment.transform import Transform
from anysize.data.loader import PlanLoader, sequential_batches
from anysize.data.settings import AugmentSettings
from anysize.data.source import FileSource
from anysize.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from anysize.sizes.batch import Batch
from harness import compare, print_environment, report

HEIGHT, WIDTH, BATCH = 375, 500, 32
AUGMENT = AugmentSettings(crop="random-resized", flip=0.5)
TARGETS = {("train", 64): 1.5, ("train", 128): 1.5, ("train", 224): 1.1, ("evaluation", 128): 1.0}


def photo_like(rng: np.random.Generator) -> Image.Image:
    """Smooth colours, edges, and noise in the brightness."""
    layers = [
        np.asarray(Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).resize((WIDTH, HEIGHT), how))
        for shape, how in (((12, 16, 3), Image.Resampling.BICUBIC), ((48, 64, 3), Image.Resampling.NEAREST))
    ]
    pixels = 0.7 * layers[0] + 0.3 * layers[1] + rng.normal(0, 10, (HEIGHT, WIDTH, 1))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def write_images(root: Path, count: int) -> Path:
    """`count` JPEG files of two classes; returns their folder."""
    rng = np.random.default_rng(0)
    for number in range(count):
        buffer = io.BytesIO()
        photo_like(rng).save(buffer, "JPEG", quality=90)
        folder = root / f"class{number % 2}"
        folder.mkdir(exist_ok=True)
        (folder / f"{number:05d}.jpg").write_bytes(buffer.getvalue())
    return root


def ours(source: FileSource, kind: str, size: int, workers: int) -> tuple[PlanLoader, list[Batch]]:
    """A loader and the batches of an epoch, each image once."""
    preprocessing = Preprocessing(size)
    transform: Transform = TrainTransform(preprocessing, AUGMENT) if kind == "train" else EvalTransform(preprocessing)
    loader = PlanLoader(source, transform, workers=workers, reduced=kind == "train")
    return loader, sequential_batches(len(source), size, BATCH)


def epoch_of(loader: PlanLoader, batches: list[Batch], epochs: Iterator[int]) -> int:
    """Load every image once, with other crops than the epoch before; returns their number."""
    epoch = next(epochs)
    return sum(len(each.images) for each in loader.load([dataclasses.replace(each, epoch=epoch) for each in batches]))


def peer(root: Path, kind: str, size: int, workers: int, count: int) -> "DataLoader[tuple[Tensor, Tensor]]":
    """What torchvision's reference training builds, over the first `count` images in order."""
    crop = [transforms.Resize(int(size / 0.875)), transforms.CenterCrop(size)]
    if kind == "train":
        crop = [transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip()]
    rest = [transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    folder: Dataset[tuple[Tensor, Tensor]] = ImageFolder(str(root), transforms.Compose([*crop, *rest]))
    images = torch.utils.data.Subset(folder, range(count))
    return DataLoader(images, BATCH, num_workers=workers, persistent_workers=workers > 0)


def compare_speeds(root: Path, count: int, repeats: int) -> dict[tuple[str, int, int], float]:
    """Our images a second over the peer's by kind of crop, size, and workers."""
    sources = {decode: open_source(root, decode).subset(np.arange(count)) for decode in ("scaled", "full")}
    ratios = {}
    for kind, size in TARGETS:
        for workers in (1, 2):
            sides = {}
            for decode, source in sources.items():
                if kind == "train" or decode == "full":
                    loader, batches = ours(source, kind, size, workers)
                    epochs = itertools.count()
                    sides[f"anysize, decode {decode}"] = lambda loader=loader, batches=batches, epochs=epochs: epoch_of(
                        loader, batches, epochs
                    )
            theirs = peer(root, kind, size, workers, count)
            sides["torchvision"] = lambda theirs=theirs: sum(len(images) for images, _ in theirs)
            print(f"{kind} crops of {size} px, {workers} worker{'s' * (workers > 1)}, {count} images:")
            medians = compare(sides, repeats)
            claimed = "scaled" if kind == "train" else "full"
            ratios[kind, size, workers] = medians["torchvision"] / medians[f"anysize, decode {claimed}"]
            speeds = ", ".join(f"{name} {count / seconds:,.0f}" for name, seconds in medians.items())
            print(f"  images a second: {speeds}; ratio {ratios[kind, size, workers]:.2f}")
            del sides, theirs  # their workers end here
    return ratios


def open_source(root: Path, decode: str) -> FileSource:
    """The files that ImageFolder finds."""
    folder = ImageFolder(str(root))
    paths, targets = zip(*folder.samples, strict=True)
    return FileSource(paths, np.array(targets), tuple(folder.classes), "images", scaled=decode == "scaled")


def decibels(errors: list[float]) -> float:
    """Of mean squared errors: their mean, in dB below the square of 255."""
    mean = sum(errors) / len(errors) if errors else 0.0
    return 10 * math.log10(255**2 / mean) if mean else math.inf


def compare_pixels(root: Path, count: int) -> None:
    """Print by size how far crops of images decoded to scale are from those of whole ones."""
    scaled, full = open_source(root, "scaled"), open_source(root, "full")
    every = np.linspace(0, len(full) - 1, min(count, len(full))).astype(int).tolist()
    print(f"pixels: crops of {len(every)} images decoded to scale against those of the same images in full")
    for size in (32, 64, 96, 128, 160, 224):
        transform = TrainTransform(Preprocessing(size), AUGMENT)
        parts, all_, drawn, same = Counter[int](), list[float](), list[float](), list[float]()
        for index in every:
            batch = Batch(0, size, 1, np.array([index]))
            small, _, stored = scaled.read(
                index, lambda height, width, batch=batch, transform=transform: transform.need((height, width), batch)
            )
            whole = full.image(index)
            shape = (small.shape[1], small.shape[2])
            parts[round(stored[0] / shape[0])] += 1
            crop, expected = transform.image(small, batch, stored).float(), transform.image(whole, batch).float()
            all_.append((crop - expected).square().mean().item())
            if shape != stored:
                (box,) = transform._boxes(stored, batch)
                there = F.resized_crop(whole, *box.moved(stored, shape).moved(shape, stored), [size, size])
                there = F.horizontal_flip(there) if transform._flips(batch)[0] else there
                drawn.append(all_[-1])
                same.append((crop[0] - there).square().mean().item())
        shares = ", ".join(f"{100 * parts[part] / len(every):.0f}% at 1/{part}" for part in sorted(parts))
        print(
            f"  {size:3} px: {shares}; as trained {decibels(drawn):.1f} dB, same box {decibels(same):.1f} dB, over all "
            f"images {decibels(all_):.1f} dB"
        )


def profile(root: Path, count: int) -> None:
    """Show where our side's time goes in one process."""
    loader, batches = ours(open_source(root, "scaled").subset(np.arange(count)), "train", 128, 0)
    epochs = itertools.count()
    epoch_of(loader, batches, epochs)
    profiler = cProfile.Profile()
    profiler.runcall(lambda: [epoch_of(loader, batches, epochs) for _ in range(4)])
    pstats.Stats(profiler).sort_stats("tottime").print_stats(20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--images", type=int, default=512, help="images an epoch")
    parser.add_argument("--folder", type=Path, help="a folder with one of JPEG files for each class")
    parser.add_argument("--decibels", type=int, default=400, help="images that pixels are compared on; 0: none")
    parser.add_argument("--profile", action="store_true", help="show where our side's time goes, and end")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print_environment()
    with tempfile.TemporaryDirectory() as made:
        root = arguments.folder or write_images(Path(made), arguments.images)
        count = min(arguments.images, len(open_source(root, "full")))
        if arguments.profile:
            profile(root, count)
            return
        ratios = compare_speeds(root, count, arguments.repeats) if arguments.repeats else {}
        if arguments.decibels:
            compare_pixels(root, arguments.decibels)
    for (kind, size), target in TARGETS.items():
        for workers in (1, 2):
            if (kind, size, workers) in ratios:
                what = f"{kind} crops of {size} px with {workers} worker{'s' * (workers > 1)}, images a second"
                report(f"{what} over torchvision's", ratios[kind, size, workers], target)


if __name__ == "__main__":
    main()
