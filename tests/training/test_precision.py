"""`training.precision = "auto"`: what it comes to, that it is said, and that a run keeps to it."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from interruption import stopped_after
from torch import Tensor, nn

from anysize.experiment.prepare import prepare, settle_precision
from anysize.experiment.train import train
from anysize.recipe import Recipe, load_recipe
from anysize.registry import UserError
from anysize.stopping import Interrupted
from anysize.training import precision

Make = Callable[..., Recipe]


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """How long a step takes in each precision, on a processor that has bfloat16."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    told = {"float32": 1.0, "bfloat16": 0.5}
    measure, calls = precision.step_seconds, [0]

    def step_seconds(model: nn.Module, images: Tensor, kind: str) -> float:
        assert measure(model, images, kind) > 0
        assert images.shape[0] <= 8
        calls[0] += 1
        return told[kind] * (100 if calls[0] <= 2 else 1)  # the first of each does not count

    monkeypatch.setattr(precision, "step_seconds", step_seconds)
    return told


@pytest.mark.parametrize(("bfloat16", "expected"), [(0.90, "bfloat16"), (0.92, "float32"), (3.0, "float32")])
def test_bfloat16_is_taken_where_it_is_faster_by_a_tenth(
    tiny: Make, seconds: dict[str, float], bfloat16: float, expected: str
) -> None:
    seconds["bfloat16"] = bfloat16
    prepared = prepare(tiny(training__precision="auto", model__norm="online", training__device="cpu"))
    before = {name: value.clone() for name, value in prepared.model.state_dict().items()}
    settled = settle_precision(prepared)
    assert settled.recipe.training.precision == expected
    said = f"auto is {expected}: a step with 8 images of 28 px takes 1e+03 ms in float32"
    assert said in settled.notes[-1]
    for name, value in prepared.model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(parameter.grad is None for parameter in prepared.model.parameters())


def test_a_processor_without_bfloat16_is_not_measured(
    tiny: Make, monkeypatch: pytest.MonkeyPatch, seconds: dict[str, float]
) -> None:
    seconds.clear()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    settled = settle_precision(prepare(tiny(training__precision="auto", training__device="cpu")))
    assert settled.recipe.training.precision == "float32"
    assert "no bfloat16" in settled.notes[-1]


@pytest.mark.parametrize(("supported", "expected"), [(True, "bfloat16"), (False, "float32")])
def test_cuda_takes_bfloat16_where_it_has_it(
    tiny: Make, monkeypatch: pytest.MonkeyPatch, supported: bool, expected: str
) -> None:
    prepared = prepare(tiny(training__precision="auto", training__device="cpu"))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    prepared.device = torch.device("cuda")
    assert settle_precision(prepared).recipe.training.precision == expected


def test_a_run_says_what_it_takes_and_goes_on_with_it(tiny: Make, tmp_path: Path, seconds: dict[str, float]) -> None:
    recipe, run = tiny(training__precision="auto", training__device="cpu", data__limit=80), tmp_path / "run"
    with stopped_after(3), pytest.raises(Interrupted):
        train(recipe, run=run)
    assert load_recipe(str(run / "recipe.toml")).training.precision == "bfloat16"
    seconds["bfloat16"] = 2.0  # the machine is busy now
    train(recipe, run=run)
    assert load_recipe(str(run / "recipe.toml")).training.precision == "bfloat16"
    text = (run / "log.txt").read_text()
    assert text.count("training.precision auto is bfloat16") == 1
    assert "auto is float32" not in text
    with pytest.raises(UserError, match=r"training\.precision was 'bfloat16' and is now 'float32'"):
        train(tiny(training__device="cpu", data__limit=80), run=run)
    train(recipe, run=run, resume_from="never")  # a new run is measured anew
    assert load_recipe(str(run / "recipe.toml")).training.precision == "float32"
