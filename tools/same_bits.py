"""Whether the present code trains to the same bits as another revision: step losses, metrics, weights, a resumed run.

    python tools/same_bits.py HEAD~3                  # all cases, about two minutes on two cores
    python tools/same_bits.py main fixed segmentation # some of them
    python tools/same_bits.py HEAD --list

REVISION is checked out into a temporary worktree, and both versions train the same tiny runs, each in one process with
one thread. Compared are the loss of every call of `torch.autograd.backward` on a scalar, `metrics.csv` but for its
times, and every tensor of the checkpoints `last` and `best`. A last case stops REVISION's run in the middle of an
epoch, and the present code goes on with it. Exit status 1: something differs; the table says what and by how much.

Run it after every change that promises to change no bit of a training. Where other bits are wanted, the commit says
why. What is compared is what a user of either version can reach: `anysize.train`, and the files of a run folder.
"""

import argparse
import contextlib
import csv
import io
import itertools
import json
import os
import signal
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TIMES = ("seconds", "images_per_second", "waiting")  # of metrics.csv: no two runs have the same

_NETWORK = {"depth": 8, "widths": [8, 8, 16], "dropout": 0.1}
_TINY = {
    "data.limit": 200,
    "model.name": "cifar_resnet",
    "model.options": _NETWORK,
    "training.epochs": 2,
    "training.equal_flops": False,
    "training.batch_size": 16,
    "sizes.mix": "custom",  # whatever mixture the recipe of either revision has
    "sizes.weights": {"28": 0.4, "21": 0.3, "14": 0.3},
    "sizes.budget": "B+",
    "evaluation.calibration_images": 100,
    "optimizer.lr": 0.05,
    "optimizer.warmup_epochs": 0,
}
_SCENES = {
    "data.limit": 24,
    "sizes.mix": "custom",
    "sizes.weights": {"32": 0.5, "48": 0.5},
    "sizes.base": 48,
    "training.epochs": 2,
    "training.equal_flops": False,
    "training.batch_size": 8,
    "optimizer.lr": 0.02,
    "optimizer.warmup_epochs": 0,
    "evaluation.calibration_images": 16,
    "evaluation.pictures": 2,
}
_MASKS = {
    "layers": [1, 1, 1, 1], "widths": [8, 8, 8, 8], "cardinality": 2, "stem": 8, "pooling": False,
    "aspp_width": 8, "aspp_rates": [1, 2, 3], "aspp_momentum": 0.1,
}  # fmt: skip
_COPIES = {
    "sizes.mix": "B+D+",
    "training.copies": 2,
    "training.chunks": 3,
    "optimizer.adapt_copies": 2,
    "optimizer.gradient_smoothing": 0.9,
}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "fixed": ("quickstart", {**_TINY, "sizes.mix": "fixed"}),
    "copies": ("quickstart", {**_TINY, **_COPIES}),
    "online": ("quickstart", {**_TINY, "sizes.mix": "B+", "model.norm": "online", "training.batch_size": 4}),
    "online-copies": ("quickstart", {**_TINY, **_COPIES, "model.norm": "online"}),
    "elastic": ("quickstart", {**_TINY, "sizes.mix": "D+", "model.elasticize": "auto"}),
    "adamw": (
        "quickstart",
        {
            **_TINY,
            "sizes.mix": "B+",
            "optimizer.name": "adamw",
            "optimizer.lr": 0.002,
            "optimizer.clip_norm": 0.5,
            "optimizer.momentum": 0.9,
            "augment.mixup": 0.2,
            "augment.cutmix": 1.0,
            "task.label_smoothing": 0.1,
            "training.equal_flops": True,
        },
    ),
    "rmsprop": ("quickstart", {**_TINY, "optimizer.name": "rmsprop", "optimizer.lr": 0.001, "training.epochs": 1}),
    "multilabel": (
        "quickstart-multilabel",
        {**_SCENES, "model.options": {"depth": 18, "widths": [8, 8, 8, 8]}, "training.chunks": 3},
    ),
    "segmentation": ("quickstart-segmentation", {**_SCENES, "model.options": _MASKS, "training.chunks": 3}),
    "files": (
        "folder",
        {
            **_TINY,
            "data.limit": 0,
            "data.workers": 2,
            "data.memory_limit": 0,
            "model.options": {**_NETWORK, "widths": [16, 16, 32]},
            "sizes.mix": "D+",
            "sizes.base": 32,
            "augment.color_jitter": 0.3,
            "training.batch_size": 8,
        },
    ),
    "bfloat16": ("quickstart", {**_TINY, "sizes.mix": "B+", "training.precision": "bfloat16", "training.epochs": 1}),
    "resumed": ("quickstart", {**_TINY, **_COPIES, "model.norm": "online", "optimizer.name": "0:sgd 1:adamw"}),
}
STOP = {"resumed": 9}  # calls of backward after which REVISION's run of this name is stopped


class Stopped(Exception):
    """The run was stopped by its signal, as it was meant to be."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("revision", help="commit, branch or tag to compare with")
    parser.add_argument("cases", nargs="*", metavar="CASE", help="by default all")
    parser.add_argument("--list", action="store_true", help="list the cases and end")
    parser.add_argument("--worker", metavar="DIR", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    cases = arguments.cases or list(CASES)
    unknown = [name for name in cases if name not in CASES]
    if unknown:
        parser.error(f"unknown case {unknown[0]!r}; choose from {', '.join(CASES)}")
    if arguments.list:
        print(*CASES, sep="\n")
        return 0
    if arguments.worker:
        work(Path(arguments.worker), cases, present=arguments.revision == "present")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        return compare(arguments.revision, cases, Path(folder))


def compare(revision: str, cases: list[str], folder: Path) -> int:
    """Train the cases with both versions and print what differs; the number of cases that do, at most 1."""
    git = ("git", "-C", str(ROOT))
    commit = subprocess.run(
        [*git, "rev-parse", "--short", f"{revision}^{{commit}}"], capture_output=True, text=True, check=False
    )
    if commit.returncode:
        raise SystemExit(f"{revision!r} is no commit of this repository: {commit.stderr.strip()}")
    other = folder / "worktree"
    subprocess.run([*git, "worktree", "add", "--detach", "--quiet", str(other), revision], check=True)
    try:
        make_images(folder / "images")
        versions = {"revision": other / "src", "present": ROOT / "src"}
        processes = {
            name: subprocess.Popen(
                [sys.executable, __file__, name, *cases, "--worker", str(folder)],
                env={**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for name, source in versions.items()
        }
        outputs = {name: process.communicate()[0] for name, process in processes.items()}
    finally:
        subprocess.run([*git, "worktree", "remove", "--force", str(other)], check=True)
    for name, process in processes.items():
        if process.returncode:
            raise SystemExit(f"{name} failed:\n{outputs[name]}")
    print(f"the present code against {revision} ({commit.stdout.strip()})")
    differing = 0
    for case in cases:
        problems = list(differences(folder, case))
        differing += bool(problems)
        losses = json.loads((folder / "present" / f"{case}.json").read_text())["losses"]
        print(f"{case:15} {len(losses):4} losses  {'; '.join(problems) or 'the same bits'}")
    return int(differing > 0)


def differences(folder: Path, case: str) -> Iterator[str]:
    """What the two runs of a case do not agree in."""
    one, other = (json.loads((folder / side / f"{case}.json").read_text()) for side in ("revision", "present"))
    if one["skipped"] or other["skipped"]:
        if one["skipped"] != other["skipped"]:
            yield f"skipped by one side: {one['skipped'] or other['skipped']}"
        return
    for step, (a, b) in enumerate(itertools.zip_longest(one["losses"], other["losses"])):
        if a != b:
            values = [struct.unpack("<d", bytes.fromhex(value))[0] if value else None for value in (a, b)]
            yield f"loss {step + 1}: {values[0]!r} and {values[1]!r}"
            break
    for (key, a), (_, b) in zip(one["metrics"].items(), other["metrics"].items(), strict=True):
        if a != b:
            yield f"metrics.csv {key}: {a} and {b}"
            break
    yield from tensor_differences(*(folder / side / case / "checkpoints" for side in ("revision", "present")))


def tensor_differences(one: Path, other: Path) -> Iterator[str]:
    """The first tensor of each checkpoint file that has other bits, and how many have."""
    import torch
    from safetensors.torch import load_file

    for checkpoint, file in itertools.product(("last", "best"), ("model", "optimizer", "averaged")):
        paths = [folder / checkpoint / f"{file}.safetensors" for folder in (one, other)]
        if not any(path.exists() for path in paths):
            continue
        if not all(path.exists() for path in paths):
            yield f"{checkpoint}/{file}: one side has none"
            continue
        a, b = (load_file(path) for path in paths)
        if a.keys() != b.keys():
            yield f"{checkpoint}/{file}: other names: {sorted(a.keys() ^ b.keys())[:3]}"
            continue
        changed = [name for name in a if not torch.equal(bits(a[name]), bits(b[name]))]
        if changed:
            far = max((a[name].double() - b[name].double()).abs().max().item() for name in changed)
            yield f"{checkpoint}/{file}: {len(changed)} of {len(a)} tensors, {changed[0]} first, by at most {far:.2g}"


def bits(tensor: Any) -> Any:
    """The bytes of a tensor, so that NaN equals itself and 0 is not -0."""
    import torch

    return tensor.reshape(-1).view(torch.uint8)


def make_images(root: Path) -> None:
    """A folder of small JPEG files of three classes and several shapes, the same whenever it is made."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for split, count in (("train", 16), ("val", 6)):
        for label, name in enumerate(("apple", "banana", "cherry")):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 120, (30 + i % 5, 34 + label, 3), dtype=np.uint8)
                pixels[..., label] += 100
                Image.fromarray(pixels).save(root / split / name / f"{i:03}.jpg")


def work(folder: Path, cases: list[str], *, present: bool) -> None:
    """Train the cases with the version that is imported; where one is stopped, the present code goes on with it."""
    side = folder / ("present" if present else "revision")
    side.mkdir()
    for case in cases:
        if case not in STOP:
            result = train(case, side / case, folder)
        elif not present:  # stopped first, for the other side to go on with; then whole
            halves = folder / "halves" / case
            stopped = train(case, halves, folder, stop_after=STOP[case])
            result = train(case, side / case, folder)
            (folder / "halves" / f"{case}.json").write_text(json.dumps(stopped))
        else:
            result = go_on(case, side / case, folder)
        (side / f"{case}.json").write_text(json.dumps(result))


def go_on(case: str, run: Path, folder: Path) -> dict[str, Any]:
    """Finish what the other side has stopped."""
    import shutil
    import time

    stopped = folder / "halves" / f"{case}.json"
    while not stopped.exists():
        time.sleep(0.2)
    before = json.loads(stopped.read_text())
    shutil.copytree(folder / "halves" / case, run)
    result = train(case, run, folder)
    return {**result, "losses": before["losses"] + result["losses"]}


def train(case: str, run: Path, folder: Path, stop_after: int = 0) -> dict[str, Any]:
    """Train a case; the losses as bits, the rows of `metrics.csv`, and why it was skipped, if it was."""
    import torch

    import anysize

    torch.set_num_threads(1)
    recipe, overrides = CASES[case]
    if recipe == "folder":
        overrides = {**overrides, "data.root": str(folder / "images")}
    losses: list[str] = []
    skipped = ""
    with recorded(losses, stop_after), contextlib.redirect_stdout(io.StringIO()):
        try:
            anysize.train(recipe, overrides, run=run)
        except anysize.UserError as error:
            if "emulate" not in str(error):  # no bfloat16 on this processor
                raise
            skipped = str(error)
        except Exception as error:
            if not stop_after or type(error).__name__ != "Interrupted":
                raise
    return {"losses": losses, "metrics": {} if skipped else read_metrics(run), "skipped": skipped}


def read_metrics(run: Path) -> dict[str, list[str]]:
    """`metrics.csv` by column, without times; empty where an epoch was never finished."""
    if not (run / "metrics.csv").exists():
        return {}
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {key: [row[key] for row in rows] for key in rows[0] if key not in TIMES}


@contextlib.contextmanager
def recorded(losses: list[str], stop_after: int) -> Iterator[None]:
    """Note every scalar that backward starts from, as the bits of a double; ask the run to stop after so many."""
    import torch

    backward: Callable[..., None] = torch.autograd.backward

    def noted(tensors: Any, *args: Any, **kwargs: Any) -> None:
        if isinstance(tensors, torch.Tensor) and tensors.ndim == 0:
            losses.append(struct.pack("<d", tensors.detach().double().cpu().numpy().item()).hex())
            if len(losses) == stop_after:
                os.kill(os.getpid(), signal.SIGTERM)
        backward(tensors, *args, **kwargs)

    torch.autograd.backward = noted
    try:
        yield
    finally:
        torch.autograd.backward = backward


if __name__ == "__main__":
    sys.exit(main())
