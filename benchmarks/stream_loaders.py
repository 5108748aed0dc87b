"""Training images from packs against litdata's and webdataset's own formats and loaders.

    pip install litdata webdataset
    python benchmarks/stream_loaders.py [--repeats 5] [--images 1000]

Claim: random-resized crops of 128 and 224 px with flips, normalised, in batches of 32, each image once an epoch in
random order, come from a pack at least as fast as from the same JPEG files of 500 x 375 px (those of
`image_folder.py`) in litdata's chunks by its StreamingDataset and StreamingDataLoader, and in webdataset's tar shards
by its WebDataset and torch's DataLoader; all on the local disk, with one worker process and with two. The pack holds
the files alone, as the others do; beside it one with the usual levels is measured, from which most crops are read.

litdata decodes JPEGs to tensors by itself, webdataset to PIL images; both then go through torchvision's transforms v2.
webdataset shuffles shards and a buffer of 1,000 images. Peers that are not installed are left out.
"""

import argparse
import contextlib
import gc
import importlib.util
import io
import itertools
import logging
import multiprocessing
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from anysize.data.augment.plain import TrainTransform
from anysize.data.loader import PlanLoader
from anysize.data.pack.format import ORIGINAL
from anysize.data.pack.write import PackOptions
from anysize.data.settings import DataSettings
from anysize.experiment.packing import pack_dataset
from anysize.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from anysize.sizes.batch_plan import BatchPlan
from anysize.sizes.mix import SizeMix
from anysize.sizes.schedule import SizeSchedule
from harness import compare, print_environment, report
from image_folder import AUGMENT, BATCH, write_images
from packed_images import LEVELS, open_pack

SIZES, SHARDS = (128, 224), 8
PACKS = {"pack of the files": (ORIGINAL,), "pack with levels": (ORIGINAL, *LEVELS)}


def transform_of(size: int) -> v2.Compose:
    """What both peers do to an image, a PIL one or a tensor."""
    return v2.Compose(
        [
            v2.ToImage(),
            v2.RandomResizedCrop(size),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )


def from_pack(folder: Path, size: int, workers: int) -> Callable[[], int]:
    """Loads an epoch from a pack."""
    source = open_pack(folder)
    loader = PlanLoader(source, TrainTransform(Preprocessing(size), AUGMENT), workers=workers, reduced=True)
    plan = BatchPlan(len(source), SizeSchedule.constant(SizeMix.fixed(size)), BATCH, drop_last=False)
    epochs = itertools.count()
    return lambda: sum(len(each.images) for each in loader.load(plan.batches(next(epochs))))


def _with_class(item: tuple[str, int]) -> dict[str, Any]:
    """What litdata writes of an image: the file as it is, and its class."""
    return {"image": Image.open(item[0]), "class": item[1]}


def write_litdata(files: list[tuple[str, int]], folder: Path) -> None:
    import litdata

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        litdata.optimize(_with_class, files, str(folder), chunk_bytes="16MB", num_workers=1, verbose=False)
    multiprocessing.set_start_method("fork", force=True)  # litdata has set another one for all


def _litdata_item(transform: v2.Compose) -> Callable[[dict[str, Any]], tuple[torch.Tensor, int]]:
    return lambda item: (transform(item["image"]), item["class"])


def from_litdata(folder: Path, size: int, workers: int) -> Callable[[], int]:
    """Loads an epoch from litdata's chunks."""
    from litdata import StreamingDataLoader, StreamingDataset

    images = StreamingDataset(str(folder), shuffle=True, drop_last=False, transform=_litdata_item(transform_of(size)))
    loader = StreamingDataLoader(images, batch_size=BATCH, num_workers=workers, persistent_workers=True)
    return lambda: sum(len(batch) for batch, _ in loader)


def write_webdataset(files: list[tuple[str, int]], folder: Path) -> None:
    from webdataset import ShardWriter

    folder.mkdir()
    with ShardWriter(str(folder / "%06d.tar"), maxcount=-(-len(files) // SHARDS), verbose=0) as writer:
        for number, (path, target) in enumerate(files):
            writer.write({"__key__": f"{number:06d}", "jpg": Path(path).read_bytes(), "cls": target})


def from_webdataset(folder: Path, size: int, workers: int) -> Callable[[], int]:
    """Loads an epoch from webdataset's shards."""
    from webdataset import WebDataset

    shards = sorted(map(str, folder.glob("*.tar")))
    images = WebDataset(shards, shardshuffle=len(shards)).shuffle(1000).decode("pil").to_tuple("jpg", "cls")
    images = images.map_tuple(transform_of(size), lambda target: target).batched(BATCH)
    loader: Any = DataLoader(images, batch_size=None, num_workers=workers, persistent_workers=True)
    return lambda: sum(len(batch) for batch, _ in loader)


PEERS: dict[str, tuple[Callable[..., None], Callable[..., Callable[[], int]]]] = {
    "litdata": (write_litdata, from_litdata),
    "webdataset": (write_webdataset, from_webdataset),
}


def seconds_of_an_epoch(
    root: Path, peers: list[str], count: int, size: int, workers: int, repeats: int
) -> dict[str, float]:
    """Median seconds of each side; the first epoch, in which workers start, is not timed."""
    sides = {name: from_pack(root / name, size, workers) for name in PACKS}
    sides |= {name: PEERS[name][1](root / name, size, workers) for name in peers}
    for name, epoch in sides.items():
        assert (loaded := epoch()) == count, f"{name} loads {loaded} of {count} images"
    return compare(sides, repeats, warmup=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--images", type=int, default=1000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print_environment()
    logging.getLogger("litdata").setLevel(logging.ERROR)
    peers = {name: peer for name, peer in PEERS.items() if importlib.util.find_spec(name)}
    for name in PEERS.keys() - peers.keys():
        print(f"{name} is not installed and is left out")
    ratios: dict[tuple[int, int, str, str], float] = {}
    with tempfile.TemporaryDirectory() as made:
        root = Path(made)
        os.environ["LITDATA_CACHE_DIR"] = str(root / "cache")
        (root / "images/train").mkdir(parents=True)
        write_images(root / "images/train", arguments.images)
        files = [(str(path), int(path.parent.name[-1])) for path in sorted((root / "images/train").glob("*/*"))]
        for name, levels in PACKS.items():
            settings = DataSettings(name="folder", root=str(root / "images"))
            pack_dataset(settings, root / name, options=PackOptions(levels))
        for name, (write, _) in peers.items():
            write(files, root / name)
        for size, workers in itertools.product(SIZES, (1, 2)):
            print(f"crops of {size} px, {workers} worker{'s' * (workers > 1)}, {len(files)} images:")
            medians = seconds_of_an_epoch(root, list(peers), len(files), size, workers, arguments.repeats)
            gc.collect()  # or forked workers of the next sides would end those of the ones before
            print("  images a second: " + ", ".join(f"{name} {len(files) / s:,.0f}" for name, s in medians.items()))
            for ours, theirs in itertools.product(PACKS, peers):
                ratios[size, workers, ours, theirs] = medians[theirs] / medians[ours]
    for (size, workers, ours, theirs), ratio in ratios.items():
        what = f"crops of {size} px, {workers} worker{'s' * (workers > 1)}, {ours}"
        report(f"{what}: images a second over {theirs}'s", ratio, 1.0)


if __name__ == "__main__":
    main()
