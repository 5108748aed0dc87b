"""Evaluation at each image's own shape: each image once, and the figures of a loop that is written by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch
from image_files import smooth_image
from torch import nn
from torchvision.transforms.v2 import functional as F

from anysize.data.image_shapes import image_shapes
from anysize.data.kinds.base import create_kind
from anysize.data.loader import PlanLoader, own_shape_batches
from anysize.data.source import FileSource
from anysize.evaluation.evaluator import Evaluator
from anysize.evaluation.settings import EvaluationSettings
from anysize.evaluation.shapes import EvaluatedShape
from anysize.evaluation.sizes import parse_extents
from anysize.preprocessing import Preprocessing
from anysize.registry import UserError
from anysize.sizes.shapes import Aspect
from anysize.tasks.base import create_task

SHAPES = [(30, 40), (40, 30), (30, 40), (25, 25), (60, 80), (20, 90), (31, 40)]
RGB = Preprocessing(32, (0.5,) * 3, (0.25,) * 3, classes=("a", "b"))


def files(folder: Path) -> FileSource:
    for number, shape in enumerate(SHAPES):
        smooth_image(number, *shape).save(folder / f"{number}.png")
    paths = [str(folder / f"{number}.png") for number in range(len(SHAPES))]
    return FileSource(paths, np.arange(len(SHAPES)) % 2, RGB.classes, "shapes")


def network() -> nn.Sequential:
    torch.manual_seed(0)
    pooled = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    return nn.Sequential(pooled, nn.Flatten(), nn.Linear(4, 2)).eval()


def evaluator_of(source: FileSource, shape: EvaluatedShape, **settings: object) -> Evaluator:
    kind, settled = create_kind("class"), EvaluationSettings(batch_size=2, **settings)
    cpu, transform = torch.device("cpu"), kind.eval_transform(RGB, 1, 1, shape.own)
    return Evaluator(
        settled, kind, create_task("classification", RGB.classes), RGB, source,
        lambda: PlanLoader(source, transform), cpu, lambda: transform, training_batch=2, shape=shape,
    )  # fmt: skip


def test_it_is_that_of_a_loop_by_hand(tmp_path: Path) -> None:
    source, model = files(tmp_path), network()
    evaluator = evaluator_of(source, EvaluatedShape(own=True, multiple=8))
    judged: dict = {}
    summary = evaluator.evaluate(model, 32, judged=judged)
    losses, right = [], 0
    for index, (height, width) in enumerate(SHAPES):
        sides = Aspect.of(height, width, 8).sides(32)
        pixels = F.resize(source.image(index), list(sides), antialias=True).float()
        with torch.no_grad():
            logits = model((pixels / 255 - 0.5)[None] / 0.25)
        target = torch.tensor([index % 2])
        losses.append(nn.functional.cross_entropy(logits, target).item())
        right += int(logits.argmax(1) == target)
    assert summary.values["images"] == len(SHAPES)
    assert sorted(judged) == list(range(len(SHAPES)))
    assert summary.values["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert summary.values["top1"] == pytest.approx(right / len(SHAPES))


def test_calibration_sees_the_shapes_of_evaluation(tmp_path: Path) -> None:
    source, model = files(tmp_path), network()
    evaluator = evaluator_of(source, EvaluatedShape(own=True, multiple=8), calibration_images=6)
    batches = evaluator.calibration_batches(model, 32)
    seen = np.concatenate([batch.indices for batch in batches])
    assert len(seen) == len(set(seen.tolist())) == 6
    for batch in batches:
        assert {Aspect.of(*SHAPES[index], 8).sides(32) for index in batch.indices} == {batch.sides}
    wide = evaluator.in_shape(EvaluatedShape(aspect=Aspect(2.0, 8)))
    assert {batch.sides for batch in wide.calibration_batches(model, 32)} == {(24, 48)}
    assert wide.loader is evaluator.loader


def test_every_image_is_in_one_batch_of_its_shape(tmp_path: Path) -> None:
    batches = own_shape_batches(np.array(SHAPES * 5), 48, 3, 4)
    assert sorted(np.concatenate([batch.indices for batch in batches]).tolist()) == list(range(5 * len(SHAPES)))
    assert max(len(batch.indices) for batch in batches) == 3
    extents = EvaluatedShape(own=True, multiple=4).extents(files(tmp_path), 48)
    assert sum(extents.values()) == len(SHAPES)
    assert extents[48] == 1


def test_shapes_come_from_headers_and_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that has changed is looked at again, a damaged one counts as square, and a damaged cache as none."""
    monkeypatch.setenv("ANYSIZE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("anysize.data.image_shapes._MANY", 1)
    (tmp_path / "images").mkdir()
    source = files(tmp_path / "images")
    opened: list[int] = []
    own = source.header
    monkeypatch.setattr(source, "header", lambda index: opened.append(index) or own(index))
    for _ in range(2):
        assert image_shapes(source).tolist() == [list(shape) for shape in SHAPES]
    assert sorted(opened) == list(range(len(SHAPES)))
    (kept,) = (tmp_path / "cache").glob("shapes-*.npz")
    kept.write_bytes(kept.read_bytes()[:100])
    smooth_image(0, 50, 60).save(tmp_path / "images" / "2.png")
    (tmp_path / "images" / "3.png").write_bytes(b"no image")
    assert image_shapes(source)[[2, 3, 4]].tolist() == [[50, 60], [1, 1], [60, 80]]


def test_sizes_may_be_shapes() -> None:
    assert parse_extents("24,192X256 64x64") == [24, (192, 256), 64]
    assert parse_extents(range(8, 17, 8)) == [8, 16]
    with pytest.raises(UserError, match="expected HEIGHTxWIDTH"):
        parse_extents("24,192x")
