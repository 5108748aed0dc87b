"""Runs on packs in object storage: killed and gone on with, in two processes, by chunks, to the bits of the disk."""

import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import object_storage
import pytest
import safetensors.torch
import torch
from gloo_group import in_group
from image_files import write_folder
from interruption import stopped_after
from object_storage import Failing, failing, put
from packs import pack_folder

from anysize.experiment.train import train
from anysize.recipe import Recipe, load_recipe
from anysize.stopping import Interrupted

pytestmark = pytest.mark.slow  # each worker of such a run is a new process

SETTINGS = {
    "data.name": "pack", "data.workers": 0, "data.shuffle_chunks": 2, "sizes.base": 28, "sizes.mix": "B+",
    "model.name": "cifar_resnet", "model.options": {"depth": 8, "widths": [8, 8, 8]}, "training.epochs": 2,
    "training.equal_flops": False, "training.batch_size": 8, "training.checkpoint_steps": 1,
    "optimizer.warmup_epochs": 0, "evaluation.calibration_images": 16, "evaluation.pictures": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of 20 images in random order, in some ten chunks."""
    root = write_folder(tmp_path_factory.mktemp("root") / "folder", 20, lambda i: (60 + i, 90 - i))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("anysize.data.pack.write.MIB", 10_000)
        return pack_folder(root, tmp_path_factory.mktemp("pack") / "p", "original,48,32,16", shuffle=True)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, Failing]]:
    """A client, and the server that runs ask."""
    monkeypatch.setenv("ANYSIZE_CACHE", str(tmp_path / "cache"))
    with object_storage.bucket() as (client, port), failing(port) as (proxy, environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        yield client, proxy


def recipe_of(root: str | Path, **changes: Any) -> Recipe:
    given = {key.replace("__", "."): value for key, value in changes.items()}
    return load_recipe("quickstart", SETTINGS | {"data.root": str(root)} | given)


def assert_same_weights(one: Path, other: Path) -> None:
    ours, theirs = (safetensors.torch.load_file(run / "checkpoints/last/model.safetensors") for run in (one, other))
    assert ours.keys() == theirs.keys()
    assert [name for name, value in ours.items() if not torch.equal(value, theirs[name])] == []


def test_a_run_that_is_killed_while_it_streams_goes_on_to_the_bits_of_the_disk(
    pack: Path, server: tuple[Any, Failing], tmp_path: Path
) -> None:
    client, proxy = server
    url, run = put(client, pack, "killed"), tmp_path / "broken"
    whole = train(recipe_of(pack), run=tmp_path / "whole")
    assert "images are shuffled by chunks" in (whole / "log.txt").read_text()
    proxy.how = "slow"
    settings = SETTINGS | {"data.root": url, "data.workers": 1, "data.stream_cache": 64}
    words = [w for k, v in settings.items() for w in (f"--{k}", v if isinstance(v, str) else json.dumps(v))]
    with subprocess.Popen(
        [sys.executable, "-m", "anysize", "train", "quickstart", "--run", str(run), *words],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        end = time.monotonic() + 120
        while not (run / "checkpoints/last").exists() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.stderr
        said = process.stderr.read().decode()
    assert process.returncode == -signal.SIGKILL, said
    assert "Traceback" not in said
    proxy.how = "refuse"
    with stopped_after(2), pytest.raises(Interrupted):
        train(recipe_of(url), run=run)
    assert_same_weights(whole, train(recipe_of(url), run=run))


def streamed_in_two(pack: Path, url: str, folder: Path, rank: int) -> int:
    """A job of `in_group`: a run on the pack on the disk, and the same in two parts on the one in object storage."""
    recipe = functools.partial(recipe_of, training__batch_size=4, training__epochs=1)
    train(recipe(pack), run=folder / "whole")
    with pytest.raises(Interrupted), stopped_after(3 if rank else 10**6):  # one is asked to, and both stop
        train(recipe(url), run=folder / "broken")
    train(recipe(url), run=folder / "broken")
    return os.getpid()


def test_two_processes_that_stream_and_were_interrupted_give_the_bits_of_the_disk(
    pack: Path, server: tuple[Any, Failing], tmp_path: Path
) -> None:
    url = put(server[0], pack, "two")
    (tmp_path / "group").mkdir()
    in_group(2, functools.partial(streamed_in_two, pack, url, tmp_path), tmp_path / "group")
    assert_same_weights(tmp_path / "whole", tmp_path / "broken")
