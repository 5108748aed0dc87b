"""Packing that is killed at random moments and at random writes; the same command then goes on, to the same bytes.

A pack whose files are damaged is never read without a word: see `tests/data/pack/test_damaged_packs.py`.
"""

import random
import signal
from pathlib import Path

import numpy as np
import pytest
from forks import Fate, Forks
from outcomes import blame, digest, manner
from PIL import Image

KILLS = 12
COMMAND = ("data", "pack", "folder", "p", "--levels", "original,48,24", "--shard", "1")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of noise, which nothing makes small, so that a pack has several parts of a MiB."""
    root, noise = tmp_path_factory.mktemp("noise"), np.random.default_rng(0)
    for split, count in (("train", 14), ("val", 6)):
        for name in ("a", "b"):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = noise.integers(0, 256, (200, 220, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png", compress_level=0)
    return root


def fate_of(rng: random.Random, pack: Path, seconds: float, writes: int) -> Fate:
    """Three of four are killed at a write, of which some tear the file; the others at a time, or are asked to stop."""
    kind = rng.choice(("write", "write", "torn", "time"))
    if kind == "time":
        return Fate(signals=[(rng.uniform(0, seconds), rng.choice((signal.SIGKILL, signal.SIGTERM, signal.SIGINT)))])
    return Fate(at_write=rng.randint(1, writes), below=str(pack), torn=kind == "torn")


def files(pack: Path) -> dict[str, str]:
    return digest(pack, lambda path: path.name in (".lock", ".owner"))


@pytest.mark.slow
def test_a_killed_packing_goes_on_to_the_same_bytes(
    forks: Forks, images: Path, place: Path, rng: random.Random
) -> None:
    (place / "whole").mkdir()
    command = (*COMMAND, "--data.root", str(images))
    pack = place / "whole" / "p"
    whole = forks(*command, folder=pack.parent, fate=Fate(below=str(pack)))
    assert whole.code == 0, whole.said
    assert len(list((pack / "train").glob("original-*.shard"))) > 2
    kills, number, fates = 0, 0, list[Fate]()
    while kills < KILLS:
        folder = place / str(number)
        folder.mkdir()
        for _ in range(rng.randint(1, 5)):
            fates.append(fate_of(rng, folder / "p", whole.seconds, whole.writes))
            done = forks(*command, folder=folder, fate=fates[-1])
            ended = {0, 130, 143, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT}
            fault = "" if done.code in ended and "Traceback" not in done.said else f"traceback: status {done.code}"
            blame(fault or ("hang: it was ended" if done.hung else ""), f"{number}: {fates[-1]}", done.said)
            kills += done.code != 0
        done = forks(*command, folder=folder)
        blame(manner(done) or ("" if done.code == 0 else "stopped: it does not go on"), f"{number}: {fates}", done.said)
        same = files(folder / "p") == files(pack)
        blame("" if same else f"left over: {sorted(files(folder / 'p').keys() ^ files(pack).keys())}", f"{fates}", "")
        number += 1
    checked = forks("data", "check", "pack", "--data.root", "p", folder=folder)
    assert checked.code == 0, checked.said
    assert "train: 28 images of 2 classes" in checked.out
