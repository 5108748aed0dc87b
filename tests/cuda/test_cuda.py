"""A GPU trains and resumes every task, in each precision, and no step waits for it.

make gpu-check                                           # with a GPU
ANYSIZE_CHECK_DEVICE=cpu pytest -m cuda tests/cuda       # the same tests on a CPU
"""

import contextlib
import csv
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from interruption import stopped_after
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from anysize.data.handover import Handover
from anysize.data.waiting import Waiting
from anysize.experiment.evaluate import evaluate
from anysize.experiment.find_batch import find_batch
from anysize.experiment.loaded import load_run
from anysize.experiment.train import train
from anysize.norms.online.norm import OnlineNorm2d
from anysize.recipe import Recipe, override
from anysize.stopping import Interrupted
from anysize.training import guards, loop

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.filterwarnings("ignore:.*does not have a deterministic implementation"),
]

DEVICE = os.environ.get("ANYSIZE_CHECK_DEVICE", "cuda")
# Without dropout, whose random numbers depend on the memory order and on the compiler.
SMALL = {"data__limit": 96, "sizes__mix": "fixed", "model__options": {"depth": 8, "widths": [8, 8, 16]}}
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "classification": ("", {"data__limit": 96}),
    "float32": ("", SMALL),
    "bfloat16": ("", {**SMALL, "training__precision": "bfloat16"}),
    "float16": ("", {**SMALL, "training__precision": "float16"}),
    "contiguous": ("", {**SMALL, "training__channels_last": False}),
    "compiled": ("", {**SMALL, "training__compile": True}),
    "online": ("", {**SMALL, "model__norm": "online", "training__batch_size": 4, "training__precision": "float16"}),
    "copies": (
        "",
        {
            **SMALL,
            "sizes__mix": "B+D+",
            "training__copies": 2,
            "training__chunks": 3,
            "optimizer__adapt_copies": 2,
            "optimizer__gradient_smoothing": 0.9,
        },
    ),
    "adamw": (
        "",
        {
            **SMALL,
            "optimizer__name": "adamw",
            "optimizer__lr": 0.002,
            "optimizer__clip_norm": 0.5,
            "augment__mixup": 0.2,
        },
    ),
    "multilabel": ("multilabel", {"training__precision": "bfloat16"}),
    "segmentation": ("segmentation", {}),
}
# CUDA adds up the gradient of a bilinear resize in no fixed order. So two runs of these differ, by at most this share
# of the largest value of a tensor.
ALIKE = {"multilabel": 1e-3, "segmentation": 1e-3}


@pytest.fixture(scope="module", autouse=True)
def deterministic() -> Iterator[None]:
    """Algorithms that give the same bits twice, where CUDA has them."""
    if DEVICE.startswith("cuda") and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device; ANYSIZE_CHECK_DEVICE=cpu runs these tests on the CPU")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        if DEVICE == "cpu":  # emulated arithmetic is slow, and good enough for a test
            patch.setattr(guards, "cpu_has", lambda precision: True)
        torch.use_deterministic_algorithms(True, warn_only=True)
        yield
        torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def make(tiny: Callable[..., Recipe], tiny_scenes: Callable[..., Recipe]) -> Callable[[str], Recipe]:
    """The recipe of one of `RUNS`."""

    def recipe(name: str) -> Recipe:
        task, changes = RUNS[name]
        changes = {**changes, "training__device": DEVICE}
        return tiny_scenes(task, **changes) if task else tiny(**changes)

    return recipe


@pytest.fixture(scope="module")
def trained(make: Callable[[str], Recipe], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of one of `RUNS`, trained once."""
    folders: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in folders:
            folders[name] = train(make(name), run=tmp_path_factory.mktemp("runs") / name)
        return folders[name]

    return folder


def losses(run: Path) -> list[float]:
    """The mean loss of each epoch."""
    with (run / "metrics.csv").open() as file:
        return [float(row["train_loss"]) for row in csv.DictReader(file)]


# ------------------------------------------------------------------------------------------------- whole runs


@pytest.mark.parametrize("name", [name for name in RUNS if name not in ("float32", "compiled")])
def test_a_run_that_is_stopped_and_resumed_ends_as_an_unbroken_one(
    name: str, make: Callable[[str], Recipe], trained: Callable[[str], Path], tmp_path: Path
) -> None:
    with stopped_after(2), pytest.raises(Interrupted):
        train(make(name), run=tmp_path / "run")
    resumed = train(make(name), run=tmp_path / "run")
    for file in ("model", "optimizer"):
        expected, values = (
            load_file(run / "checkpoints" / "last" / f"{file}.safetensors") for run in (trained(name), resumed)
        )
        assert values.keys() == expected.keys()
        for key, value in values.items():
            assert value.isfinite().all(), key
            far = float((value.double() - expected[key].double()).abs().max()) if value.numel() else 0.0
            share = 0.0 if DEVICE == "cpu" else ALIKE.get(name, 0.0)
            assert far <= share * float(expected[key].double().abs().max()), (file, key, far)


@pytest.mark.parametrize(
    ("name", "share"), [("bfloat16", 0.1), ("float16", 0.1), ("contiguous", 0.02), ("compiled", 0.02)]
)
def test_it_trains_as_float32_in_channels_last_does(name: str, share: float, trained: Callable[[str], Path]) -> None:
    """The loss of the first epoch is within `share` of that of plain training.

    float16 skips its first steps, in which it finds the scale of its loss; hence it is compared by its last epoch, and
    only asked for a loss that is lower than at its start.
    """
    expected, seen = losses(trained("float32")), losses(trained(name))
    if name == "float16":
        assert seen[-1] < seen[0] * 1.05
    else:
        assert seen[0] == pytest.approx(expected[0], rel=share)


@pytest.mark.parametrize("name", ["classification", "multilabel", "segmentation", "online"])
def test_a_run_is_evaluated_on_the_device_and_its_model_answers_there_as_on_the_cpu(
    name: str, trained: Callable[[str], Path]
) -> None:
    run = trained(name)
    base = load_run(run).preprocessing.image_size
    assert set(evaluate(run, [base, base - 8])["size"]) == {base, base - 8}
    model = load_run(run).model.eval()
    images = torch.rand(2, next(model.parameters()).shape[1], base, base)
    with torch.no_grad():
        expected = model(images)
        torch.testing.assert_close(model.to(DEVICE)(images.to(DEVICE)).cpu(), expected, rtol=1e-2, atol=1e-2)


# ------------------------------------------------------------------------------------------------- a step that waits


class Waits(Exception):
    """Something asked the device for a value."""


class _RefuseValues(TorchDispatchMode):
    """On a CPU: raises where a value of a tensor goes to Python, which on a GPU is where the host would wait."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            raise Waits(str(func))
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def no_waiting() -> Iterator[None]:
    """Raise where the host would wait for the device."""
    if DEVICE == "cpu":
        with _RefuseValues():
            yield
        return
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def test_asking_the_device_for_a_value_is_noticed() -> None:
    value = torch.ones(1, device=DEVICE)
    with pytest.raises((Waits, RuntimeError)), no_waiting():
        value.item()
    assert value.item() == 1


@pytest.mark.parametrize("name", ["classification", "adamw", "float16", "online", "multilabel", "segmentation"])
def test_no_step_waits_for_the_device(
    name: str, make: Callable[[str], Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`train_step` is called with the mode on in which CUDA raises where the host waits.

    The first step is let alone: libraries measure and load what they need in it.
    """
    original, count = loop.train_step, 0

    def watched(*arguments: Any, **named: Any) -> Any:
        nonlocal count
        count += 1
        with no_waiting() if count > 1 else contextlib.nullcontext():
            return original(*arguments, **named)

    monkeypatch.setattr(loop, "train_step", watched)
    # Mixup draws its share on the CPU, wherever the images are: there such a question is one of the device.
    alike = {"augment.mixup": 0.0} if DEVICE == "cpu" else {}
    train(override(make(name), alike), run=tmp_path / "run")
    assert count >= 4


# ------------------------------------------------------------------------------------------------- online norm


def batches(dtype: torch.dtype, channels_last: bool) -> list[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(0)
    order = torch.channels_last if channels_last else torch.contiguous_format
    tensors = torch.randn(6, 12, 48, 9, 7, generator=draw) + 0.25
    parts = [part.to(DEVICE, dtype).contiguous(memory_format=order) for part in tensors]
    return list(zip(parts[::2], parts[1::2], strict=True))


def steps(backend: str, dtype: torch.dtype, channels_last: bool, **options: Any) -> list[Tensor]:
    """Three training steps of an online norm; what they yield and leave behind."""
    torch.manual_seed(1)
    norm = OnlineNorm2d(48, 0.99, 0.9, backend=backend, **options)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2)
        norm.bias.normal_()
    norm.to(DEVICE)
    results = []
    for x, grad in batches(dtype, channels_last):
        x.requires_grad_()
        out = norm(x)
        out.backward(grad)
        assert x.grad is not None
        results += [out.detach(), x.grad]
    return [*results, norm.weight.grad, norm.bias.grad, *norm.buffers()]


FAST = "triton" if DEVICE.startswith("cuda") else "auto"


@pytest.mark.parametrize("options", [{}, {"group_size": 16}, {"ecm": "ac", "clamp_val": 1.5}, {"ecm": "none"}], ids=str)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_online_norm_by_its_kernels_is_what_it_is_by_pytorch_and_the_same_twice(
    dtype: torch.dtype, channels_last: bool, options: dict[str, Any]
) -> None:
    first, again = (steps(FAST, dtype, channels_last, **options) for _ in range(2))
    expected = steps("torch", dtype, channels_last, **options)
    close = max(2 * torch.finfo(dtype).eps, 1e-4)
    for ours, same, theirs in zip(first, again, expected, strict=True):
        assert torch.equal(ours, same)
        assert ours.stride() == theirs.stride()
        largest = max(1.0, float(theirs.abs().max()))
        torch.testing.assert_close(ours, theirs, rtol=close, atol=close * largest)


def test_online_norm_of_more_values_than_32_bits_count() -> None:
    """All samples but the last are zero, so that the state before it is known."""
    shape = (33, 8, 8, 8)
    if DEVICE.startswith("cuda"):
        shape = (33, 256, 512, 512)  # 2^31 values lie before the last sample
        if torch.cuda.get_device_properties(DEVICE).total_memory < 24e9:
            pytest.skip("it needs 24 GB of GPU memory")
    x = torch.zeros(shape, dtype=torch.bfloat16, device=DEVICE)
    x[-1].normal_()
    x.requires_grad_()
    norm = OnlineNorm2d(shape[1], 0.99, 1.0, eps=0.0, ecm="none", backend=FAST, affine=False).to(DEVICE)
    out = norm(x)
    scale = 0.99 ** (-32 / 2)
    torch.testing.assert_close(out[-1], (x[-1].detach().float() * scale).bfloat16(), rtol=1e-2, atol=1e-6)
    grad = torch.zeros_like(out)
    grad[-1] = 1.0
    out.backward(grad)
    assert x.grad is not None
    torch.testing.assert_close(x.grad[-1], torch.full_like(x.grad[-1], scale), rtol=1e-2, atol=1e-6)
    assert not x.grad[:-1].any()


def test_online_norm_in_a_compiled_network_is_what_it_is_in_an_eager_one() -> None:
    networks = []
    for _ in range(2):
        torch.manual_seed(0)
        networks.append(
            nn.Sequential(nn.Conv2d(3, 8, 3), OnlineNorm2d(8, 0.9, 0.8, backend=FAST), nn.ReLU(inplace=True)).to(DEVICE)
        )
    eager, plain = networks
    run = torch.compile(plain, fullgraph=True)
    for seed in range(3):
        x = torch.randn(4, 3, 9, 9, generator=torch.Generator().manual_seed(seed)).to(DEVICE)
        for model in (eager, run):
            model(x).square().sum().backward()
    for ours, theirs in zip(plain.buffers(), eager.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
    for ours, theirs in zip(plain.parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-2)


def test_waiting_for_images_is_the_time_that_the_device_stands_still() -> None:
    waiting = Waiting(torch.device(DEVICE))
    for _ in waiting.over(map(time.sleep, [0.2])):
        pass
    synchronize()
    assert waiting.take() >= 0.19
    if DEVICE == "cpu":
        return
    torch.cuda._sleep(4 * 10**9)  # more than a second, while the host waits for images
    for _ in waiting.over(map(time.sleep, [0.2])):
        pass
    assert waiting.take() == 0  # not known yet
    synchronize()
    assert waiting.take() < 0.1


def test_a_copy_overlaps_the_step_under_way_and_is_whole_when_it_is_used() -> None:
    handover, count = Handover(torch.device(DEVICE)), 100
    if DEVICE == "cpu":
        assert torch.equal(handover([torch.ones(3)])[0], torch.ones(3))
        return
    synchronize()
    torch.cuda._sleep(4 * 10**9)  # a step of more than a second
    (first,) = handover([torch.full((2**20,), 7.0).pin_memory()])
    handover._copies.synchronize()  # returns while the step is under way
    assert not torch.cuda.current_stream().query()
    assert bool((first == 7).all())
    sums = []
    for number in range(count):  # memory of the host and of the device is used again and again
        torch.cuda._sleep(10**6)
        pixels, kept = handover([torch.full((2**20,), float(number)).pin_memory(), first])
        assert kept is first
        sums.append((pixels - number).abs().sum())
        del pixels
    assert torch.stack(sums).tolist() == [0.0] * count


def synchronize() -> None:
    if DEVICE != "cpu":
        torch.cuda.synchronize()


def test_the_largest_batch_is_found_by_trying(tiny: Callable[..., Recipe]) -> None:
    found = find_batch(tiny(training__device=DEVICE), images=300)
    assert (found.batch_size, found.all_images) == (300, True)
    assert 0 < found.memory < found.free
    assert found.tried == (DEVICE != "cpu")
