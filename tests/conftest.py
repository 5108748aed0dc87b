"""What several tests share: a recipe that trains in seconds, and a folder of image files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from anysize.recipe import Recipe, load_recipe

torch.set_num_threads(1)

TINY = {
    "data.limit": 200,
    "sizes.mix": "B+",
    "model.name": "cifar_resnet",
    "model.options": {"depth": 8, "widths": [8, 8, 16], "dropout": 0.1},
    "training.epochs": 2,
    "training.equal_flops": False,
    "training.batch_size": 16,
    "training.validate_every": 1,
    "evaluation.calibration_images": 100,
    "optimizer.lr": 0.05,
    "optimizer.warmup_epochs": 0,
}


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Recipe]:
    """Makes the quickstart small enough for a test; keyword `section__field` overrides."""

    def make(**changes: Any) -> Recipe:
        overrides = {**TINY, **{key.replace("__", "."): value for key, value in changes.items()}}
        return load_recipe("quickstart", overrides)

    return make


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """Three classes of JPEGs that differ in colour, 20 to train and 6 to validate each, of several shapes."""
    rng = np.random.default_rng(0)
    root = tmp_path / "images"
    for split, count in (("train", 20), ("val", 6)):
        for label, name in enumerate(("apple", "banana", "cherry")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 120, (30 + i % 5, 34 + label, 3), dtype=np.uint8)
                pixels[..., label] += 100
                Image.fromarray(pixels).save(folder / f"{i:03}.jpg")
    return root
