"""Outputs that are NaN or infinite are counted, their images named, and nothing is made of them."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from image_files import smooth_image
from torch import nn

from anysize.data.loader import LoadedBatch
from anysize.evaluation.evaluate import evaluate_batches
from anysize.experiment.calibrate import calibrate
from anysize.experiment.compare_int8 import compare_at
from anysize.experiment.evaluate import evaluate
from anysize.experiment.loaded import load_run, make_evaluator
from anysize.experiment.predict import predict
from anysize.experiment.quantize import quantize_run
from anysize.experiment.train import train
from anysize.export.check import check_file, close
from anysize.norms.calibration import calibrate_batch_norm
from anysize.registry import NotFinite
from anysize.tasks.base import create_task
from anysize.training.checkpoint.files import Checkpoint, read_checkpoint, write_checkpoint

CPU = torch.device("cpu")
NAN, INF = float("nan"), float("inf")


def batch(images: torch.Tensor, targets: torch.Tensor, first: int, copies: int = 1) -> LoadedBatch:
    indices = np.arange(first, first + len(images) // copies)
    return LoadedBatch(images, targets, images.shape[-1], copies, indices, epoch=0, step=0)


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_one_value_of_an_image_is_enough_in_every_task(bad: float) -> None:
    """The network returns its input, one value of which is not finite, in the second batch alone."""
    outputs = {
        "classification": (torch.zeros(3, 4), torch.tensor([0, 1, 2])),
        "multilabel": (torch.zeros(3, 4), torch.ones(3, 1, 4, dtype=torch.uint8)),
        "segmentation": (torch.zeros(3, 4, 6, 6), torch.ones(3, 6, 6, dtype=torch.uint8)),
    }
    for name, (fine, targets) in outputs.items():
        task, spoilt = create_task(name, ["a", "b", "c", "d"]), fine.clone()
        spoilt[1].view(-1)[0] = bad
        batches = [batch(fine, targets, 0), batch(spoilt, targets, 3)]
        assert evaluate_batches(nn.Identity(), task, batches[:1], CPU).values["images"] == 3
        with pytest.raises(NotFinite, match=r"for 1 of 6 images: image 4; it has diverged, or these images"):
            evaluate_batches(nn.Identity(), task, batches, CPU)
        metrics = task.metrics(CPU)  # of who measures by himself: the loss is not that of the other images
        task.measure(metrics, nn.Identity(), batches[1])
        if bad != -INF:  # which says of a class that it is not it, and of a pixel too
            assert not np.isfinite(float(metrics["loss"].compute()))
    copies = torch.tensor([[0.0, 1.0], [0.0, 1.0], [bad, 0.0], [0.0, bad]])
    task, one = create_task("classification", ["a", "b"]), batch(copies, torch.tensor([0, 1, 0, 1]), 0, 2)
    with pytest.raises(NotFinite, match="for 2 of 2 images: a, b"):  # one of two copies is enough
        evaluate_batches(nn.Identity(), task, [one], CPU, None, "ab".__getitem__)


def test_calibration_is_refused_and_the_statistics_stay() -> None:
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(4, 2))
    images = torch.rand(6, 1, 2, 2)
    with torch.no_grad():
        model[2].weight[0, 0] = NAN
    with pytest.raises(NotFinite, match="for 6 of 6 images that calibrate it: image 0, image 1"):
        calibrate_batch_norm(model, images.split(3))
    nn.init.ones_(model[2].weight)
    spoilt = images.clone()
    spoilt[4, 0, 0, 0] = INF
    with pytest.raises(NotFinite, match="for 3 of 6 images that calibrate it: image 3, image 4, image 5"):
        calibrate_batch_norm(model, spoilt.split(3))  # a batch norm spreads it over the batch
    with pytest.raises(NotFinite, match="1 of 1 norms see of 6 images is NaN or infinite"):
        calibrate_batch_norm(nn.Sequential(nn.BatchNorm2d(1), Forgetful()), spoilt.split(3))
    assert model[0].running_mean.tolist() == [0]
    assert model[0].running_var.tolist() == [1]


class Forgetful(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(x), 2)


@pytest.fixture(scope="module")
def diverged(tmp_path_factory: pytest.TempPathFactory, tiny) -> Path:
    """A run whose last step was far too long, so that its validation failed."""
    folder = tmp_path_factory.mktemp("run")
    changes = {"training__epochs": 1, "data__limit": 32, "training__batch_size": 32, "sizes__mix": "fixed"}
    with pytest.raises(NotFinite, match=r"for 32 of 32 images: fashion-mini validation image 0, .* and 24 more"):
        train(tiny(**changes, optimizer__lr=1e25, optimizer__warmup_epochs=0), run=folder)
    return folder


def test_every_verb_says_so_and_ends(diverged: Path, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        smooth_image(1, 28, 28).save(tmp_path / name)
    with pytest.raises(NotFinite, match="for 32 of 32 images: fashion-mini validation image 0"):
        evaluate(diverged, [28], calibrate=False)
    assert not (diverged / "evaluation.csv").exists()
    with pytest.raises(NotFinite, match="for 32 of 32 images that calibrate it: fashion-mini train image"):
        calibrate(diverged, 28)
    assert not (diverged / "checkpoints/calibrated-28").exists()
    with pytest.raises(NotFinite, match=r"for 2 of 2 images: .*a\.png, .*b\.png; it has diverged"):
        predict(diverged, tmp_path, tmp_path / "out")
    assert not (tmp_path / "out/predictions.csv").exists()
    with pytest.raises(NotFinite, match="for 32 of 32 images: fashion-mini train image"):
        quantize_run(diverged, checkpoint="last", onnx=False)
    loaded = load_run(diverged, "last")
    with pytest.raises(NotFinite, match="at 28 x 28 px are NaN or infinite"):
        check_file(
            lambda values: values, loaded.model, loaded.preprocessing, [(28, 28)], uint8_input=False, compare=close
        )
    with pytest.raises(NotFinite, match="for 32 of 32 images"):
        train(loaded.recipe, run=diverged)  # going on ends the same way


def test_of_some_images_alone_the_others_are_predicted(diverged: Path, tmp_path: Path, monkeypatch) -> None:
    for number in range(3):
        smooth_image(number, 28, 28).save(tmp_path / f"{number}.png")

    class Sometimes(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            outputs = torch.zeros(len(images), 10)
            outputs[1] = NAN
            return outputs

    loaded = dataclasses.replace(load_run(diverged, "last"), model=Sometimes())
    monkeypatch.setattr("anysize.experiment.predict.load_run", lambda *_, **__: loaded)
    monkeypatch.setattr("anysize.experiment.predict.check_takes", lambda *_: None)
    with pytest.raises(NotFinite, match=r"for 1 of 3 images: .*1\.png"):
        predict(diverged, tmp_path, tmp_path / "out")
    table = (tmp_path / "out/predictions.csv").read_text()
    assert "0.png" in table
    assert "2.png" in table
    assert "1.png" not in table
    evaluator = make_evaluator(loaded)
    fine = nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 10))
    with pytest.raises(NotFinite, match=r"for 1 of 32 images: fashion-mini validation image 1"):
        compare_at(evaluator, fine, Sometimes(), 28)


def test_a_damaged_tensor_is_named(diverged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    last = diverged / "checkpoints/last"
    kept = read_checkpoint(last)
    tensors = {name: value.clone() for name, value in kept.model.items()}
    tensors["fc.weight"][0, 0] = NAN
    state = {key: value for key, value in kept.state.items() if key not in ("files", "format")}
    with pytest.raises(NotFinite, match=r"is not written, since fc\.weight is not finite"):
        write_checkpoint(diverged / "checkpoints/best", Checkpoint({"model": tensors}, state))
    with monkeypatch.context() as patch:  # as somebody else may write it
        patch.setattr("anysize.training.checkpoint.tensors.first_not_finite", lambda tensors: None)
        write_checkpoint(diverged / "checkpoints/best", Checkpoint({"model": tensors}, state))
    with pytest.raises(NotFinite, match=r"fc\.weight in model\.safetensors is NaN or infinite"):
        evaluate(diverged, [28], calibrate=False, checkpoint="best")
