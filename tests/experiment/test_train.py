"""Training a recipe: what a run leaves, and that it survives being stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch

from anysize.experiment import train as train_module
from anysize.experiment.evaluate import evaluate
from anysize.experiment.loaded import load_run, make_evaluator
from anysize.experiment.train import train
from anysize.recipe import Recipe, dump, load_recipe
from anysize.registry import UserError
from anysize.stopping import Interrupted, StopRequest
from anysize.training import loop
from anysize.training.checkpoint.files import read_checkpoint, read_state
from anysize.training.guards import Diverged

Make = Callable[..., Recipe]


def weights(run: Path, checkpoint: str = "last") -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(run / "checkpoints" / checkpoint / "model.safetensors")


def assert_same_bits(one: Path, other: Path) -> None:
    for name in ("model.safetensors", "optimizer.safetensors"):
        a = safetensors.torch.load_file(one / "checkpoints/last" / name)
        b = safetensors.torch.load_file(other / "checkpoints/last" / name)
        assert a.keys() == b.keys()
        for key in a:
            assert torch.equal(a[key], b[key]), f"{name}: {key}"
    ours, theirs = pd.read_csv(one / "metrics.csv"), pd.read_csv(other / "metrics.csv")
    timing = ["images_per_second", "seconds", "waiting"]
    pd.testing.assert_frame_equal(ours.drop(columns=timing), theirs.drop(columns=timing), check_exact=True)
    steps = [pd.read_csv(run / "steps.csv").drop(columns=timing) for run in (one, other)]
    pd.testing.assert_frame_equal(*steps, check_exact=True)
    assert steps[0]["step"].iloc[-1] == ours["step"].iloc[-1]


def stop_at(monkeypatch: pytest.MonkeyPatch, *steps: int) -> None:
    """Make a signal seem to arrive after each of these steps of the run."""
    original = loop.train_step

    def train_step(parts: Any, state: Any, *arguments: Any) -> None:
        original(parts, state, *arguments)
        if state.progress.step + 1 in steps:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop, "train_step", train_step)


@pytest.mark.report
def test_a_run_explains_itself(tiny: Make, tmp_path: Path) -> None:
    recipe = tiny(data__limit=400)
    run = train(recipe, run=tmp_path / "run")
    assert load_recipe(str(run / "recipe.toml")) == recipe
    environment = json.loads((run / "environment.json").read_text())
    assert environment["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert environment["total_batch"] == 16
    metrics = pd.read_csv(run / "metrics.csv")
    assert list(metrics["epoch"]) == [1, 2]
    assert metrics["validation_calibrated"].all()
    assert json.loads(metrics["sizes"][0]).keys() == {"14", "21", "28", "42"}
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["best", "last", "previous"]
    assert "14, 21, 28, 42 px" in (run / "log.txt").read_text()
    assert (run / "report.html").stat().st_size > 100_000
    steps = pd.read_csv(run / "steps.csv")
    assert steps["step"].tolist() == [1, *range(10, metrics["step"].max(), 10), metrics["step"].max()]
    assert (
        steps[["epoch", "images", "flops", "lr"]].iloc[-1].tolist()
        == metrics[["epoch", "images", "flops", "lr"]].iloc[-1].tolist()
    )
    weights = np.diff(steps["images"], prepend=0)
    mean = np.average(metrics["train_loss"], weights=np.diff(metrics["images"], prepend=0))
    assert np.average(steps["loss"], weights=weights) == pytest.approx(mean, rel=1e-5)


@pytest.mark.parametrize(
    ("equal_flops", "steps"), [pytest.param(False, (1, 4, 9, 14, 18), marks=pytest.mark.slow), (True, (5, 14))]
)
def test_stopped_at_several_steps_of_an_epoch_and_resumed_the_bits_are_the_same(
    tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, equal_flops: bool, steps: tuple[int, ...]
) -> None:
    recipe = tiny(sizes__mix="D+", augment__mixup=0.2, training__equal_flops=equal_flops)
    whole = train(recipe, run=tmp_path / "whole")
    stop_at(monkeypatch, *steps)
    stops = 0
    while True:
        try:
            broken = train(recipe, run=tmp_path / "broken")
            break
        except Interrupted:
            stops += 1
    assert stops == len(steps)
    assert_same_bits(whole, broken)


@pytest.mark.parametrize("optimizer", ["adamw", pytest.param("rmsprop", marks=pytest.mark.slow), "0:sgd 1:adam"])
def test_resuming_keeps_every_optimizers_state(
    tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    recipe = tiny(optimizer__name=optimizer, optimizer__lr=1e-3, data__limit=80, sizes__mix="fixed")
    whole = train(recipe, run=tmp_path / "whole")
    stop_at(monkeypatch, 2, 6)
    for _ in range(2):
        with pytest.raises(Interrupted):
            train(recipe, run=tmp_path / "broken")
    assert_same_bits(whole, train(recipe, run=tmp_path / "broken"))


@pytest.mark.slow
def test_files_through_workers_stopped_and_resumed_with_another_number_of_them(
    tiny: Make, tmp_path: Path, image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {
        "data__name": "folder",
        "data__root": str(image_folder),
        "data__limit": 0,
        "data__memory_limit": 0,
        "sizes__base": 24,
        "augment__color_jitter": 0.4,
        "training__batch_size": 8,
    }
    whole = train(tiny(**changes, data__workers=0), run=tmp_path / "whole")
    stop_at(monkeypatch, 2, 5)
    with pytest.raises(Interrupted):
        train(tiny(**changes, data__workers=2), run=tmp_path / "broken")
    with pytest.raises(Interrupted):
        train(tiny(**changes, data__workers=0), run=tmp_path / "broken")
    broken = train(tiny(**changes, data__workers=1), run=tmp_path / "broken")
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(broken)[name]), name


@pytest.mark.slow
@pytest.mark.parametrize(
    "number",
    [signal.SIGTERM, signal.SIGKILL, signal.SIGINT],
)
def test_a_killed_process_goes_on_from_its_last_save(
    tiny: Make, tmp_path: Path, anysize: Callable[..., Any], number: signal.Signals
) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(dump(tiny(training__checkpoint_minutes=0.0)))
    whole = train(load_recipe(str(recipe)), run=tmp_path / "whole")
    command = ["train", str(recipe), "--run", str(tmp_path / "broken")]
    process = subprocess.Popen(
        [sys.executable, "-m", "anysize", *command],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    state = tmp_path / "broken/checkpoints/last/state.json"
    deadline = time.monotonic() + 60
    while not state.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    if number == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 130
        assert "the same command goes on from there" in errors
    done = read_state(state.parent)["progress"]["step"]
    assert 0 < done < pd.read_csv(tmp_path / "whole/metrics.csv")["step"].max()
    assert anysize(*command).returncode == 0
    assert_same_bits(whole, tmp_path / "broken")


def test_a_stop_during_validation_trains_no_step_twice(
    tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny(data__limit=80)
    whole = train(recipe, run=tmp_path / "whole")
    evaluate = train_module.Evaluator.evaluate
    calls = []

    def interrupted(self: Any, model: Any, size: int, stop: StopRequest | None = None) -> dict[str, float]:
        calls.append(size)
        if len(calls) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(self, model, size, stop)

    monkeypatch.setattr(train_module.Evaluator, "evaluate", interrupted)
    with pytest.raises(Interrupted):
        train(recipe, run=tmp_path / "broken")
    assert_same_bits(whole, train(recipe, run=tmp_path / "broken"))


def test_the_best_checkpoint_is_the_calibrated_copy_that_was_validated(tiny: Make, tmp_path: Path) -> None:
    run = train(tiny(), run=tmp_path / "run")
    best = load_run(run, "best")
    measured = make_evaluator(best).evaluate(best.model, 28)
    recorded = best.checkpoint.state["metrics"]
    assert measured.values["top1"] == recorded["top1"]
    assert measured.values["loss"] == pytest.approx(recorded["loss"], rel=1e-6)
    # Training went on with its own statistics: calibration touched only the copy.
    means = [name for name in weights(run) if name.endswith("running_mean")]
    assert not any(torch.equal(weights(run)[name], weights(run, "best")[name]) for name in means)
    rows = pd.read_csv(run / "metrics.csv")
    assert rows["validation_top1"].max() == recorded["top1"]


def test_a_run_at_one_size_is_validated_as_trained(tiny: Make, tmp_path: Path) -> None:
    run = train(tiny(sizes__mix="fixed", data__limit=80), run=tmp_path / "run")
    rows = pd.read_csv(run / "metrics.csv")
    assert not rows["validation_calibrated"].any()
    best = int(rows["validation_top1"].idxmax()) + 1
    if best == len(rows):
        assert torch.equal(weights(run)["bn1.running_mean"], weights(run, "best")["bn1.running_mean"])


def test_validation_calibrates_no_copy_where_told(tiny: Make, tmp_path: Path) -> None:
    run = train(tiny(evaluation__calibrate=False, data__limit=120), run=tmp_path / "run")
    rows = pd.read_csv(run / "metrics.csv")
    assert not rows["validation_calibrated"].any()
    trained = load_run(run, "last")
    measured = make_evaluator(trained).evaluate(trained.model, 28)
    assert measured.values["loss"] == pytest.approx(rows["validation_loss"].iloc[-1], rel=1e-6)
    assert len(evaluate(run, [28])) == 2  # as trained, and calibrated


@pytest.mark.slow
def test_equal_flops_spends_the_same_at_any_size(tiny: Make, tmp_path: Path) -> None:
    spent = {}
    for mix in ("fixed", "B+", "D+"):
        run = train(tiny(sizes__mix=mix, training__equal_flops=True), run=tmp_path / mix)
        spent[mix] = pd.read_csv(run / "metrics.csv")["flops"].max()
    step = spent["fixed"] / (2 * 12)  # two epochs of 12 batches
    assert max(spent.values()) - min(spent.values()) <= 2 * step


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", pytest.param("rmsprop", marks=pytest.mark.slow)])
def test_divergence_stops_before_the_weights_are_touched(
    tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    recipe = tiny(sizes__mix="fixed", optimizer__name=optimizer, optimizer__lr=0.001, optimizer__gradient_smoothing=0.9)
    original, save = loop.train_step, loop.save
    seen: list[dict[str, torch.Tensor]] = []

    def copies(state: Any) -> dict[str, torch.Tensor]:
        held = {**dict(state.model.named_parameters()), **state.optimizer.state_dict()}
        return {name: value.detach().clone() for name, value in held.items() if name != "name"}

    def poisoned(parts: Any, state: Any, batch: Any, seed: int) -> None:
        if state.progress.step == 3:
            save(parts, state)
        if state.progress.step == 5:
            batch.images[3] = float("nan")
            seen.append(copies(state))
        original(parts, state, batch, seed)
        if state.progress.step >= 5:  # not the failed step nor those until the host learns of it
            seen.append(copies(state))

    monkeypatch.setattr(loop, "train_step", poisoned)
    with pytest.raises(Diverged) as raised:
        train(recipe, run=tmp_path / "run")
    message = str(raised.value)
    assert "loss is nan at epoch 1, step 6 (image size 28)" in message
    assert "fashion-mini train image" in message
    assert "the first of the model that is not finite is bn1.running_mean" in message
    assert len(seen) > 5
    for name, value in seen[0].items():
        assert all(torch.equal(value, later[name]) for later in seen), name
    state = read_state(tmp_path / "run/checkpoints/last")
    assert state["progress"]["step"] == 3
    monkeypatch.setattr(loop, "train_step", original)
    train(recipe, run=tmp_path / "run")  # the same command goes on from the last good step


def test_another_recipe_in_the_same_folder_is_refused(tiny: Make, tmp_path: Path) -> None:
    train(tiny(data__limit=40, training__epochs=1), run=tmp_path / "run")
    before = weights(tmp_path / "run")
    with pytest.raises(UserError, match=r"training\.batch_size was 16 and is now 8; .*--resume never"):
        train(tiny(data__limit=40, training__epochs=1, training__batch_size=8), run=tmp_path / "run")
    assert torch.equal(weights(tmp_path / "run")["fc.weight"], before["fc.weight"])
    train(tiny(data__limit=40, training__epochs=1, training__batch_size=8), run=tmp_path / "run", resume_from="never")
    assert not torch.equal(weights(tmp_path / "run")["fc.weight"], before["fc.weight"])


def test_a_damaged_checkpoint_is_told_and_the_one_before_goes_on(
    tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny(training__checkpoint_minutes=0.0)
    whole = train(recipe, run=tmp_path / "whole")
    stop_at(monkeypatch, 7)
    with pytest.raises(Interrupted):
        train(recipe, run=tmp_path / "broken")
    path = tmp_path / "broken/checkpoints/last/model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"last is damaged: model\.safetensors .*--resume previous"):
        train(recipe, run=tmp_path / "broken")
    monkeypatch.undo()
    broken = train(recipe, run=tmp_path / "broken", resume_from="previous")
    assert_same_bits(whole, broken)


def test_chunks_accumulate_the_gradient_of_the_whole_batch(tiny: Make, tmp_path: Path) -> None:
    # Without batch norm (frozen here by a network without it) chunks change nothing but rounding.
    model = tmp_path / "plain.py"
    model.write_text(
        "from torch import nn\n\n"
        "def build(num_classes, in_channels):\n"
        "    return nn.Sequential(nn.Conv2d(in_channels, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1),\n"
        "                         nn.Flatten(), nn.Linear(4, num_classes))\n"
    )
    runs = [
        train(
            tiny(model__name=f"{model}:build", model__options={}, data__limit=80, sizes__mix="D+", training__chunks=n),
            run=tmp_path / str(n),
        )
        for n in (1, 3)
    ]
    for name, value in weights(runs[0]).items():
        torch.testing.assert_close(value, weights(runs[1])[name], rtol=1e-4, atol=1e-6)


def test_lr_scales_to_the_batch(tiny: Make, tmp_path: Path) -> None:
    changes = {"optimizer__batch_size": 32, "data__limit": 60, "training__epochs": 1, "sizes__mix": "fixed"}
    run = train(tiny(**changes, optimizer__lr=0.05), run=tmp_path / "run")
    assert pd.read_csv(run / "metrics.csv")["lr"][0] == pytest.approx(0.05 * 0.5 * (1 - 0.9**0.5) / 0.1)
    said = "makes batches of 16; the learning rate, at its largest 0.05 for batches of 32, becomes 0.0128"
    assert said in (run / "log.txt").read_text()


def test_a_size_that_the_network_cannot_take_is_said_before_training(tiny: Make, tmp_path: Path) -> None:
    recipe = tiny(model__name="alexnet", model__options={})
    with pytest.raises(UserError, match=r"cannot take images of 28 pixels.*the smallest it takes is 63"):
        train(recipe, run=tmp_path / "run")


def test_out_of_memory_is_met_before_the_first_epoch_and_names_the_step(tiny: Make, tmp_path: Path) -> None:
    model = tmp_path / "greedy.py"
    model.write_text(
        "from torch import nn\n\n"
        "class Greedy(nn.Sequential):\n"
        "    def forward(self, x):\n"
        "        if x.device.type != 'meta' and x.shape[2] == 42:\n"
        '            raise RuntimeError("DefaultCPUAllocator: can\'t allocate memory: you tried 99999 bytes")\n'
        "        return super().forward(x)\n\n"
        "def build(num_classes, in_channels):\n"
        "    return Greedy(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(in_channels, num_classes))\n"
    )
    recipe = tiny(model__name=f"{model}:build", model__options={}, training__batch_size=64)
    with pytest.raises(UserError, match=r"out of memory in the largest step .* 28 samples x 1 copy at 42 px"):
        train(recipe, run=tmp_path / "run")


def test_mixed_precision_is_refused_where_the_processor_would_emulate_it(
    tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    with pytest.raises(UserError, match="this processor has no bfloat16 arithmetic"):
        train(tiny(training__precision="bfloat16", training__device="cpu"), run=tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_mixed_precision_trains_and_resumes(
    tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    capable = {"avx512_bf16": True, "avx512_fp16": True}  # whatever this machine has: emulation is slow, not wrong
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capable)
    recipe = tiny(training__precision=precision, data__limit=120, training__epochs=1)
    whole = train(recipe, run=tmp_path / "whole")
    stop_at(monkeypatch, 2)
    with pytest.raises(Interrupted):
        train(recipe, run=tmp_path / "broken")
    assert_same_bits(whole, train(recipe, run=tmp_path / "broken"))
    assert all(value.dtype in (torch.float32, torch.int64) for value in weights(whole).values())


def test_compiling_more_shapes_than_allowed_is_refused(tiny: Make, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="4 distinct input shapes"):
        train(tiny(training__compile=True, training__compile_shapes=3, data__limit=400), run=tmp_path / "run")


@pytest.mark.slow
def test_a_compiled_run_trains_and_evaluates_as_an_eager_one(tiny: Make, tmp_path: Path) -> None:
    small = {"data__limit": 400, "training__epochs": 1, "model__options": {"depth": 8, "widths": [8, 8, 16]}}
    eager = train(tiny(**small), run=tmp_path / "eager")
    compiled = train(tiny(**small, training__compile=True), run=tmp_path / "compiled")
    assert weights(eager).keys() == weights(compiled).keys()
    for name, value in weights(eager).items():
        torch.testing.assert_close(value, weights(compiled)[name], rtol=0.05, atol=0.01)


def test_a_size_with_too_few_images_for_a_batch_makes_a_smaller_one(tiny: Make, tmp_path: Path) -> None:
    run = train(tiny(data__limit=60, training__epochs=1), run=tmp_path / "run")
    assert set(json.loads(pd.read_csv(run / "metrics.csv")["sizes"][0])) == {"14", "21", "28", "42"}
    small = train(tiny(data__limit=10, training__epochs=1, sizes__mix="custom",
                       sizes__weights={"28": 0.9, "14": 0.1}), run=tmp_path / "small")  # fmt: skip
    assert "14 px is never trained at" in (small / "log.txt").read_text()


def test_schedules_stretch_to_the_length_of_the_run(tiny: Make, tmp_path: Path) -> None:
    changes = {"optimizer__lr": "0:0.1 3:0.01", "optimizer__epochs": 6, "data__limit": 80, "sizes__mix": "fixed"}
    run = train(tiny(**changes), run=tmp_path / "run")  # two epochs: the step from 0.1 to 0.01 falls between them
    assert list(pd.read_csv(run / "metrics.csv")["lr"]) == [0.1, 0.01]
    assert "stretched to 2" in (run / "log.txt").read_text()


def test_settings_may_change_when_asked_to(tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_at(monkeypatch, 3)
    with pytest.raises(Interrupted):
        train(tiny(), run=tmp_path / "run")
    changed = tiny(optimizer__lr=0.001)
    with pytest.raises(UserError, match=r"optimizer\.lr was 0\.05 and is now 0\.001; .*--allow-changes"):
        train(changed, run=tmp_path / "run")
    run = train(changed, run=tmp_path / "run", allow_changes=True)
    assert pd.read_csv(run / "metrics.csv")["lr"].iloc[-1] == 0.001
    assert load_recipe(str(run / "recipe.toml")) == changed


def test_a_failed_start_blocks_no_later_one(tiny: Make, tmp_path: Path) -> None:
    with pytest.raises(UserError):
        train(tiny(model__name="alexnet", model__options={}), run=tmp_path / "run")
    train(tiny(data__limit=40, training__epochs=1), run=tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"optimizer__lr": "abc"}, r"optimizer\.lr is 'abc'; expected a number"),
        ({"optimizer__lr": -1.0}, "expected from 0 to 3"),
        ({"optimizer__nesterov": True, "optimizer__momentum": 0}, "refuses its settings at epoch 0"),
        ({"training__device": "gpu"}, r"training\.device is 'gpu', which cannot be used"),
        ({"sizes__phases": [{"epoch": 1, "size": 14}, {"epoch": 50, "size": 28}]}, "at epoch 50 never starts"),
        ({"sizes__phases": [{"epoch": 0, "size": 14}]}, r"sizes\.mix is 'B\+', but a phase replaces it"),
        ({"evaluation__crops": "5", "evaluation__copies": 2}, "expected one of them to be 1"),
        ({"data__name": "folder", "data__root": "/nowhere"}, "/nowhere"),
    ],
)
def test_what_is_wrong_is_said_before_the_old_run_is_gone(
    tiny: Make, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    """`--resume never` replaces a run only once nothing stands in the way of the new one."""
    checkpoint = tmp_path / "run/checkpoints/last"
    checkpoint.mkdir(parents=True)
    (tmp_path / "run/recipe.toml").write_text(dump(tiny()))
    with pytest.raises(UserError, match=said):
        train(tiny(**changes), run=tmp_path / "run", resume_from="never")
    assert checkpoint.is_dir()
    assert load_recipe(str(tmp_path / "run/recipe.toml")) == tiny()


def test_any_seed_trains(tiny: Make, tmp_path: Path) -> None:
    train(tiny(training__seed=2**62, data__limit=30, training__epochs=1), run=tmp_path / "run")


def test_a_single_size_other_than_the_base_is_validated_calibrated(tiny: Make, tmp_path: Path) -> None:
    changes = {"sizes__mix": "fixed", "sizes__phases": [{"epoch": 0, "size": 20}], "data__limit": 60}
    run = train(tiny(**changes), run=tmp_path / "run")
    assert pd.read_csv(run / "metrics.csv")["validation_calibrated"].all()


def test_rmsprop_takes_up_momentum_in_a_later_phase(tiny: Make, tmp_path: Path) -> None:
    changes = {"optimizer__name": "rmsprop", "optimizer__momentum": "0:0 1:0.9", "optimizer__lr": 1e-3}
    train(tiny(**changes, data__limit=60), run=tmp_path / "run")


@pytest.mark.parametrize("chunks", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_copies_are_scaled_adaptively_and_resumed(
    tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunks: int
) -> None:
    changes = {"sizes__mix": "D+", "optimizer__adapt_copies": 2, "training__chunks": chunks, "training__epochs": 1}
    whole = train(tiny(**changes), run=tmp_path / "whole")
    factors = read_state(whole / "checkpoints/last")["copies"]["factors"]
    assert set(factors) == {"21", "14"}  # the sizes with more than one copy
    assert all(0.5 < factor < 3 for factor in factors.values())
    stop_at(monkeypatch, 5)
    with pytest.raises(Interrupted):
        train(tiny(**changes), run=tmp_path / "broken")
    assert_same_bits(whole, train(tiny(**changes), run=tmp_path / "broken"))


def test_a_row_of_metrics_survives_a_kill_at_any_moment(
    tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny(data__limit=60)
    save = loop.save

    def killed(parts: Any, state: Any, **options: Any) -> None:
        save(parts, state, **options)
        if state.progress.epoch == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, run=tmp_path / "run")
    monkeypatch.undo()
    run = train(recipe, run=tmp_path / "run")
    assert list(pd.read_csv(run / "metrics.csv")["epoch"]) == [1, 2]


def test_the_good_save_outlives_the_damaged_one(tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tiny(training__checkpoint_minutes=0.0)
    stop_at(monkeypatch, 7)
    with pytest.raises(Interrupted):
        train(recipe, run=tmp_path / "run")
    (tmp_path / "run/checkpoints/last/model.safetensors").write_bytes(b"damaged")
    monkeypatch.undo()
    stop_at(monkeypatch, 7)  # again one step after going on from `previous`: its save must not displace `previous`
    with pytest.raises(Interrupted):
        train(recipe, run=tmp_path / "run", resume_from="previous")
    assert read_checkpoint(tmp_path / "run/checkpoints/last").state["progress"]["step"] == 7
    assert read_checkpoint(tmp_path / "run/checkpoints/previous").state["progress"]["step"] in (6, 7)


def test_the_advised_remedy_for_a_damaged_file_goes_on_in_the_same_folder(
    tiny: Make, tmp_path: Path, image_folder: Path
) -> None:
    path = image_folder / "train/banana/007.jpg"
    path.write_bytes(path.read_bytes()[:300])
    changes = {
        "data__name": "folder", "data__root": str(image_folder), "data__limit": 0, "data__memory_limit": 0,
        "data__workers": 1, "sizes__base": 24, "training__batch_size": 8, "training__checkpoint_minutes": 0.0,
        "training__epochs": 1,
    }  # fmt: skip
    with pytest.raises(UserError, match=r"007\.jpg cannot be used: it cannot be decoded .*--data\.on_bad_image skip"):
        train(tiny(**changes), run=tmp_path / "run")
    run = train(tiny(**changes, data__on_bad_image="skip"), run=tmp_path / "run")
    assert "left out" in (run / "log.txt").read_text()
    assert pd.read_csv(run / "metrics.csv")["images"].iloc[-1] < 60
