"""Memory while many small images go through packing, planning and two epochs of training.

    python benchmarks/pack_memory.py [--images 200000] [--workers 2] [--folder DIR]

Claims, with 200,000 generated JPEGs of 48 px in 100 classes and 10,000 to validate with:

- Two epochs of a small network from the pack, with worker processes, take no more memory from step to step: in the
  second epoch, when all is started (validation has workers of its own), the median over the last quarter is at most
  1.05 times that over the second quarter.
- Packing takes no more in the last quarter of its time than in the second.

Memory is that of the command and all processes below it: of each what is its own and its part of what is shared,
looked at once a second. The commands are those that a user gives. Validation comes at the end of both epochs.

Seen on two busy cores: 582 MB at the peak of packing and 550 to 577 from its middle on; 1,118 MB at the end of the
first epoch, 1,644 when validation has its workers, and 1,614 at the end of the second epoch.

"""

import argparse
import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from harness import memory_of, print_environment, report

SIDE, CLASSES, VALIDATION = 48, 100, 10_000
PACK = "data pack folder packed --data.root images --levels original,32 --shard 32"
SETTINGS = {
    "data.name": "pack", "data.memory_limit": 0, "sizes.base": 32, "sizes.mix": "B+", "training.epochs": 2,
    "training.equal_flops": "false", "training.batch_size": 128, "training.validate_every": 1,
    "model.name": "cifar_resnet", "model.options": '{"depth": 8, "widths": [8, 8, 16]}', "optimizer.warmup_epochs": 0,
    "evaluation.calibration_images": 1000, "evaluation.pictures": 0,
}  # fmt: skip


def write_images(root: Path, count: int) -> None:
    """JPEGs of smooth colours, each another one, in a folder a class."""
    rng = np.random.default_rng(0)
    for split, images in (("train", count), ("val", VALIDATION)):
        for name in range(CLASSES):
            (root / split / f"{name:03d}").mkdir(parents=True)
        for i in range(images):
            small = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
            buffer = io.BytesIO()
            Image.fromarray(small).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
            (root / split / f"{i % CLASSES:03d}" / f"{i:06d}.jpg").write_bytes(buffer.getvalue())


def below(process: int) -> list[int]:
    """A process and all that it has started, and these."""
    parents: dict[int, list[int]] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            parent = int(Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:  # it is gone
            continue
        parents.setdefault(parent, []).append(int(name))
    found = [process]
    for each in found:  # which grows
        found += parents.get(each, [])
    return found


def watch(folder: Path, *words: str) -> list[tuple[float, int]]:
    """Run `anysize WORDS` in a folder; by second the MB that it and its processes took, and the epochs behind it."""
    began, table = time.monotonic(), folder / "run/metrics.csv"
    seen = list[tuple[float, int]]()
    with subprocess.Popen([sys.executable, "-m", "anysize", *words], cwd=folder, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            total = 0
            for each in below(process.pid):
                try:
                    total += memory_of(each)
                except (OSError, StopIteration):  # it has just ended
                    continue
            seen.append((total / 1e6, len(table.read_text().splitlines()) - 1 if table.exists() else 0))
            time.sleep(1)
    if process.returncode:
        sys.exit(f"anysize {' '.join(words)} ended with status {process.returncode}")
    seen = seen[:-1] or seen  # the last look may fall into its end
    taken = [megabytes for megabytes, _ in seen]
    tenths = [round(statistics.median(part)) for part in np.array_split(taken, 10) if len(part)]
    print(
        f"anysize {' '.join(words[:2])}: {time.monotonic() - began:.0f} s, {max(taken):.0f} MB at the peak; medians by "
        f"tenths of its time: {', '.join(map(str, tenths))}",
        flush=True,
    )
    return seen


def growth(taken: list[float]) -> float:
    """The median of the last quarter over that of the second."""
    _, second, _, last = (part.tolist() for part in np.array_split(taken, 4))
    return statistics.median(last) / statistics.median(second)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where images, pack and run are written; default: a temporary one")
    arguments = parser.parse_args()
    print_environment()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as made:
        folder = Path(made)
        write_images(folder / "images", arguments.images)
        packing = watch(folder, *PACK.split())
        settings = {**SETTINGS, "data.root": "packed", "data.workers": arguments.workers}
        words = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
        watch(folder, "plan", "quickstart", *words)
        training = watch(folder, "train", "quickstart", "--run", "run", *words)
        print(f"{arguments.images:,} images of {SIDE} px, {arguments.workers} workers:")
        second = [megabytes for megabytes, epochs in training if epochs == 1]
        for what, taken in (("the second epoch", second), ("packing", [megabytes for megabytes, _ in packing])):
            ratio = growth(taken)
            report(
                f"memory in the last quarter of {what} over that in the second", ratio, 1.05, at_least=False, digits=3
            )


if __name__ == "__main__":
    main()
