"""Packing images, and training images from packs against torchvision's ImageFolder and DataLoader.

    python benchmarks/packed_images.py [--repeats 5] [--images 1000] [--entries 1281167] [--folder DIR]

Claims, over JPEG files of 500 x 375 px (those of `image_folder.py`) and batches of 32, each image once an epoch:

- Random-resized training crops of 128 px, normalised, come from a pack with JPEG levels at least 6 times as fast as
  from the files with torchvision's ImageFolder (Pillow), the transforms of its reference training and its DataLoader,
  from raw levels at least 20 times; crops of 224 px from JPEG levels at least 2.2 times. Both with one worker process
  and with two; once with data.enlarge = 2, with which crops may be enlarged twice, as those from a folder of small
  images are, and once with 1, with which each crop has all its pixels: a quarter of the crops of 128 px, and three
  quarters of those of 224 px, are then cut from the files themselves, whose decoding takes most of the time.
- An epoch of mixed sizes (B+ around 128 px) from the JPEG levels takes, per FLOP of training on it, at most as long to
  load as an epoch of 128 px alone. FLOPs are counted as the pixels of all crops, to which those of a convolutional
  network are proportional.
- Packing with four levels beside the originals does at least 150 images a second on two cores.
- The index of a pack of ImageNet's size is opened in less than 2 s, and takes less than 400 MB over eight worker
  processes that read it at random: of each the memory that is its own and its part of what is shared, beyond what it
  had before.

Pixels are compared, too, in dB (of the peak signal, 255, over the root of the mean squared difference); with
`--repeats 0` nothing else is done.
"""

import argparse
import itertools
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision.transforms.v2 import functional as F

from anysize.data.augment.plain import TrainTransform
from anysize.data.catalog import load_dataset
from anysize.data.dataset import DatasetInfo
from anysize.data.pack import format as pack
from anysize.data.pack.write import PackOptions
from anysize.data.settings import DataSettings
from anysize.data.source import FileSource
from anysize.experiment.packing import pack_dataset
from anysize.preprocessing import Preprocessing
from anysize.sizes.batch import Batch
from anysize.sizes.batch_plan import BatchPlan
from anysize.sizes.mix import SizeMix
from anysize.sizes.schedule import SizeSchedule
from harness import compare, in_fresh_process, memory_of, print_environment, report
from image_folder import AUGMENT, BATCH, decibels, epoch_of, ours, peer, write_images

LEVELS = (256, 192, 128, 96)
TARGETS = {("jpeg", 128): 6.0, ("raw", 128): 20.0, ("jpeg", 224): 2.2}
ENLARGE = (1.0, 2.0)
PER_PART = 2250  # images of 110 kB in a shard of 256 MiB


def pack_images(root: Path, out: Path, pixels: str, count: int) -> float:
    """Pack a folder; images a second."""
    began = time.perf_counter()
    options = PackOptions((pack.ORIGINAL, *LEVELS), pixels)
    manifest = pack_dataset(DataSettings(name="folder", root=str(root)), out, options=options)
    seconds = time.perf_counter() - began
    taken = {split: f"{each.bytes / each.images / 1000:.0f} kB an image" for split, each in manifest.splits.items()}
    print(f"packed {count} images as {pixels} in {seconds:.1f} s: {count / seconds:,.0f} a second, {taken['train']}")
    return count / seconds


def open_pack(folder: Path, enlarge: float = 1.0) -> FileSource:
    """The training images of a pack."""
    source = load_dataset(DataSettings(name="pack", root=str(folder), enlarge=enlarge), "train", preload=False)
    assert isinstance(source, FileSource)
    return source


def compare_speeds(root: Path, packs: dict[str, Path], repeats: int) -> dict[tuple[str, float, int, int], float]:
    """Images a second from packs over those from the files with the peer, by pixels, enlarging, size and workers."""
    ratios = {}
    for size in (128, 224):
        for workers in (1, 2):
            sides: dict[str, Callable[[], object]] = {}
            for pixels, enlarge in itertools.product(packs, ENLARGE):
                loader, batches = ours(open_pack(packs[pixels], enlarge), "train", size, workers)
                epochs = itertools.count()
                sides[f"{pixels}, enlarge {enlarge:g}"] = lambda loader=loader, batches=batches, epochs=epochs: (
                    epoch_of(loader, batches, epochs)
                )
            count = len(open_pack(packs["jpeg"]))
            theirs = peer(root / "train", "train", size, workers, count)
            sides["torchvision, files"] = lambda theirs=theirs: sum(len(images) for images, _ in theirs)
            print(f"crops of {size} px, {workers} worker{'s' * (workers > 1)}, {count} images:")
            medians = compare(sides, repeats)
            for pixels, enlarge in itertools.product(packs, ENLARGE):
                ours_took = medians[f"{pixels}, enlarge {enlarge:g}"]
                ratios[pixels, enlarge, size, workers] = medians["torchvision, files"] / ours_took
            speeds = ", ".join(f"{name} {count / seconds:,.0f}" for name, seconds in medians.items())
            print(f"  images a second: {speeds}")
            del sides, theirs  # their workers end here
    return ratios


def compare_mixed(folder: Path, repeats: int) -> float:
    """Loading time of an epoch of mixed sizes over that of an epoch of one size, each per FLOP."""
    source = open_pack(folder)
    loader, _ = ours(source, "train", 128, 1)
    sides: dict[str, Callable[[], object]] = {}
    flops = {}
    for name, mix in {"mixed": SizeMix.named("B+", base=128), "fixed": SizeMix.fixed(128)}.items():
        plan = BatchPlan(len(source), SizeSchedule.constant(mix), BATCH)
        epochs = itertools.count()
        sides[name] = lambda plan=plan, epochs=epochs: sum(
            len(each.images) for each in loader.load(plan.batches(next(epochs)))
        )
        flops[name] = sum(len(batch.indices) * batch.copies * batch.size**2 for batch in plan.batches(0))
    print("an epoch of mixed sizes (B+ around 128 px) and one of 128 px, from JPEG levels, 1 worker:")
    medians = compare(sides, repeats)
    return (medians["mixed"] / flops["mixed"]) / (medians["fixed"] / flops["fixed"])


def compare_pixels(packs: dict[str, Path], count: int) -> None:
    """Print how far crops that are cut from levels are from those at the same place of the images in full."""
    for pixels, size, enlarge in itertools.product(packs, (64, 128, 224), ENLARGE):
        source = open_pack(packs[pixels], enlarge)
        transform = TrainTransform(Preprocessing(size), AUGMENT)
        errors = []
        for index in np.linspace(0, len(source) - 1, min(count, len(source))).astype(int).tolist():
            batch = Batch(0, size, 1, np.array([index]))
            level, _, stored = source.read(index, lambda *shape, b=batch, t=transform: t.need(shape, b))  # type: ignore[arg-type]
            shape = (level.shape[1], level.shape[2])
            if shape != stored:
                (box,) = transform._boxes(stored, batch)
                place = box.moved(stored, shape).moved(shape, stored)
                crop = F.resized_crop(source.image(index), *place, [size, size]).float()
                crop = F.horizontal_flip(crop) if transform._flips(batch)[0] else crop
                errors.append((transform.image(level, batch, stored)[0].float() - crop).square().mean().item())
        share = 100 * len(errors) / min(count, len(source))
        print(
            f"  {pixels}, {size} px, enlarge {enlarge:g}: {share:.0f}% of the crops from levels, "
            f"{decibels(errors):.1f} dB from those of the images in full"
        )


def write_index(folder: Path, entries: int) -> None:
    """A pack of so many images whose shards hold nothing but their length."""
    (folder / "train").mkdir(parents=True)
    columns = (pack.ORIGINAL, *LEVELS)
    rng = np.random.default_rng(0)
    rows = np.zeros(entries, pack.row_type(len(columns)))
    rows["height"], rows["width"] = 375, 500
    rows["part"] = np.arange(entries) // PER_PART
    rows["length"] = rng.integers(5_000, 100_000, (entries, len(columns)))
    rows["offset"] = rows["length"].cumsum(0) % 2**28
    names = [b"train/n%08d/n%08d_%d.JPEG" % (i // 1300, i // 1300, i % 1300) for i in range(entries)]
    rows["name"] = np.cumsum([len(name) for name in names])
    np.save(folder / "train" / pack.INDEX, rows)
    np.save(folder / "train" / pack.TARGETS, np.arange(entries) // 1300)
    (folder / "train" / pack.NAMES).write_bytes(b"".join(names))
    parts = -(-entries // PER_PART)
    for part, column in itertools.product(range(parts), columns):
        path = folder / "train" / pack.shard_name(column, part)
        path.touch()
        os.truncate(path, 2**28)  # a hole, which takes no room
    files = {path.name: (path.stat().st_size, "0" * 64) for path in sorted((folder / "train").iterdir())}
    for name in (pack.INDEX, pack.TARGETS, pack.NAMES):
        files[name] = (files[name][0], pack.sha256(folder / "train" / name))
    split = pack.Split(entries, parts, pack.digest_of(files), "", files)
    classes = tuple(f"n{i:08d}" for i in range(-(-entries // 1300)))
    manifest = pack.Manifest(
        "imagenet", "class", classes, 3, False, DatasetInfo(224), columns, "jpeg", 90, {}, {"train": split}
    )
    (folder / pack.MANIFEST).write_bytes(manifest.as_json())


def open_index(folder: Path, workers: int) -> tuple[float, float]:
    """Seconds until a pack is open, and MB that this process and `workers` others then take for it."""
    context = multiprocessing.get_context("fork")
    load_dataset(DataSettings(limit=2), "train")  # what is imported is no part of it
    before = memory_of("self")
    began = time.perf_counter()
    source = open_pack(folder)
    seconds = time.perf_counter() - began
    queue, done = context.Queue(), context.Event()
    processes = [context.Process(target=_read, args=(source, number, queue, done)) for number in range(workers)]
    for process in processes:
        process.start()
    for _ in processes:  # all have read
        queue.get()
    pages = sum(memory_of(process.pid) for process in processes if process.pid) + memory_of("self") - before
    done.set()
    for process in processes:
        process.join()
    return seconds, pages / 1e6


def _read(source: Any, seed: int, queue: Any, done: Any) -> None:
    for index in np.random.default_rng(seed).integers(0, len(source), 20_000).tolist():
        source.describe(index)
        int(source.targets[index])
    queue.put(True)
    done.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--decibels", type=int, default=200, help="images that pixels are compared on")
    parser.add_argument("--entries", type=int, default=1_281_167, help="of the index")
    parser.add_argument("--folder", type=Path, help="a folder with one of JPEG files for each class")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print_environment()
    with tempfile.TemporaryDirectory() as made:
        root = Path(made)
        (root / "images").mkdir()
        if arguments.folder:
            (root / "images/train").symlink_to(arguments.folder.resolve(), target_is_directory=True)
        else:
            (root / "images/train").mkdir()
            write_images(root / "images/train", arguments.images)
        count = sum(1 for _ in (root / "images/train").glob("*/*"))
        speed = pack_images(root / "images", root / "jpeg", "jpeg", count)
        pack_images(root / "images", root / "raw", "raw", count)
        packs = {pixels: root / pixels for pixels in ("jpeg", "raw")}
        if arguments.decibels:
            compare_pixels(packs, arguments.decibels)
        if not arguments.repeats:
            return
        ratios = compare_speeds(root / "images", packs, arguments.repeats)
        mixed = compare_mixed(root / "jpeg", arguments.repeats)
        write_index(root / "index", arguments.entries)
        seconds, memory = in_fresh_process(open_index, {}, root / "index", 8)
        print(f"an index of {arguments.entries:,} images: opened in {seconds:.2f} s, {memory:.0f} MB in nine processes")
    for (pixels, size), target in TARGETS.items():
        for enlarge, workers in itertools.product(ENLARGE, (1, 2)):
            what = (
                f"crops of {size} px from {pixels} levels, enlarge {enlarge:g}, {workers} worker{'s' * (workers > 1)}"
            )
            ratio = ratios[pixels, enlarge, size, workers]
            report(f"{what}: images a second over torchvision's from files", ratio, target)
    report("loading an epoch of mixed sizes per FLOP over one of 128 px", mixed, 1.0, at_least=False)
    report("images packed a second", speed, 150, digits=0)
    report("seconds until the index is open", seconds, 2, at_least=False)
    report("MB that it takes in nine processes", memory, 400, at_least=False, digits=0)


if __name__ == "__main__":
    main()
