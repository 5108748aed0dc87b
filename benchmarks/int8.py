"""int8 files against eager float32, ONNX Runtime, OpenVINO, and two older makers of int8, on the same weights.

    python benchmarks/int8.py [--models resnet50 resnet18 mobilenet_v2] [--size 224] [--at 1:1 32:2] [--rounds 7]

Claims: what `quantize_model` and `export_onnx` make is faster than torchvision's eager float32 model (contiguous) by
the factors in `TARGETS`; no slower than the file of `onnxruntime.quantization.quantize_static`; 1.3 times as fast as
`torchvision.models.quantization` at batch 1 and 1.15 times at batch 32, with a signal-to-noise ratio at most 1 dB
below; at most 0.26 of the size of the float32 file. ResNet-50 is exported in 60 s and 3 GB.

Each side has a process of its own, in which it stays; they take turns, one at a time. `--at` says batch and threads;
`--at 1:1` leaves batch 32 out; processors without int8 instructions have 32:1 as well, for which their targets are.
Weights are random, so a ratio of signal to noise (dB, of the outputs for random images against those of the float32
model) tells that the numbers are sane, not what accuracy results.
quantize_static: per channel, Q/DQ, min-max, `reduce_range` where the processor has no int8 instructions; there ours
takes weights of 7 bits, the same range.

What profiling said (ONNX Runtime, one thread, AVX-512 VNNI): of MobileNetV2's 3.6 ms convolutions take 3.4, of
ResNet-50's 22.4 ms 21.2, sums 0.9; both makers' files become the same operators. Two things were found by it: with its
bias in float the last layer was computed in float (0.27 ms to dequantize its weights), so it keeps whole numbers;
and weights without biases let quantize_static leave the biases out, which made its files 8% faster.
"""

import argparse
import contextlib
import dataclasses
import importlib.metadata
import importlib.util
import math
import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from anysize import export_onnx, quantize_model
from anysize.export.description import Description
from anysize.export.extras import quiet
from anysize.export.processor import int8_instructions
from anysize.export.runtimes import open_runtime
from anysize.export.write import folded
from anysize.preprocessing import Preprocessing
from anysize.quantize.after_training import QuantizeOptions
from harness import in_fresh_process, print_environment, report

# Times the speed of eager float32 at 224 px by (batch, threads): of the best runtime, and of ONNX Runtime alone.
TARGETS: dict[str, dict[str, dict[tuple[int, int], tuple[float, float | None]]]] = {
    "no VNNI": {
        "resnet50": {(1, 1): (3.4, 3.0), (32, 1): (4.0, 3.8)},
        "resnet18": {(1, 1): (3.6, None), (32, 1): (3.4, None)},
        "mobilenet_v2": {(1, 1): (4.2, 3.9), (32, 1): (9, 9)},
    },
    "AMX": {
        "resnet50": {(1, 1): (13, 4.8), (32, 2): (30, 10)},
        "resnet18": {(1, 1): (16, None), (32, 2): (20, None)},
        "mobilenet_v2": {(1, 1): (9, 7), (32, 2): (20, 16)},
    },
}
OVER_TORCHVISION = {1: 1.3, 32: 1.15}

EAGER, TORCHVISION = "eager float32", "torchvision.models.quantization"
ORT, OPENVINO, OPENVINO_OWN = "ONNX Runtime", "OpenVINO", "OpenVINO, own precision"
RUNTIMES = {ORT: "onnxruntime", OPENVINO: "openvino", OPENVINO_OWN: "openvino"}
FLOAT, OURS, STATIC = "float32", "int8", "int8 of quantize_static"
FILES = {FLOAT: "float32.onnx", OURS: "int8.onnx", STATIC: "static.onnx"}
AT_LEAST = 0.3
"""Seconds that are timed in a round: a side that takes less is called several times."""
NOISE_IMAGES = 16


@dataclasses.dataclass(frozen=True)
class Work:
    """A network at a size, and the folder in which its weights, images and files are."""

    name: str
    size: int
    folder: Path
    calibration: int
    bits: int

    def images(self, count: int, seed: int) -> Tensor:
        return torch.randn(count, 3, self.size, self.size, generator=torch.Generator().manual_seed(seed))

    def batches(self) -> list[Tensor]:
        """The images that all makers of int8 calibrate with."""
        return list(self.images(self.calibration, 1).split(8))

    def model(self) -> nn.Module:
        model = torchvision.models.get_model(self.name, weights=None)
        model.load_state_dict(torch.load(self.folder / "weights.pt", weights_only=True))
        return model.eval()

    def description(self) -> Description:
        return Description("classification", Preprocessing(self.size))


def make_weights(work: Work) -> None:
    """Random weights; the variances of norms are what comes to them, so that values neither fade nor grow.

    Means stay 0. Random networks whose norms take means away blow up any difference, rounding too, layer by layer.
    Shifts are small, not 0, of which no bias would be left in a folded network.
    """
    torch.manual_seed(0)
    model = torchvision.models.get_model(work.name, weights=None).eval()

    def scale(norm: nn.Module, inputs: tuple[Tensor]) -> None:
        norm.running_var.fill_(inputs[0].square().mean())

    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.bias, std=0.1)
    hooks = [each.register_forward_pre_hook(scale) for each in model.modules() if isinstance(each, nn.BatchNorm2d)]
    with torch.no_grad():
        model(work.images(16, 0))
        for hook in hooks:
            hook.remove()
        torch.save(model.state_dict(), work.folder / "weights.pt")
        torch.save(model(work.images(NOISE_IMAGES, 2)), work.folder / "outputs.pt")


def export_float(work: Work) -> tuple[float, float]:
    """Seconds and GB at the peak of the process that writes the float32 file."""
    model = work.model()
    start = time.perf_counter()
    export_onnx(folded(model), work.folder / FILES[FLOAT], work.description())
    return time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def export_int8(work: Work) -> tuple[float, float]:
    """Seconds of quantizing, and of writing the int8 file."""
    start = time.perf_counter()
    quantized = quantize_model(work.model(), work.batches(), QuantizeOptions(bits=work.bits))
    made = time.perf_counter()
    export_onnx(quantized, work.folder / FILES[OURS], work.description())
    return made - start, time.perf_counter() - made


def export_static(work: Work) -> float:
    """Seconds of `quantize_static` on the float32 file."""
    start = time.perf_counter()
    with quiet():
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

        class Reader(CalibrationDataReader):
            def __init__(self) -> None:
                self.rest = iter(work.batches())

            def get_next(self) -> Any:
                images = next(self.rest, None)
                return None if images is None else {"images": images.numpy()}

        quantize_static(
            work.folder / FILES[FLOAT], work.folder / FILES[STATIC], Reader(), quant_format=QuantFormat.QDQ,
            per_channel=True, reduce_range=not int8_instructions(), activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )  # fmt: skip
    return time.perf_counter() - start


def torchvision_int8(work: Work) -> nn.Module:
    """The weights in torchvision's quantized network for the engine x86."""
    quantization: Any = torch.ao.quantization
    torch.backends.quantized.engine = "x86"
    model: Any = getattr(torchvision.models.quantization, work.name)(weights=None, quantize=False)
    model.load_state_dict(work.model().state_dict())
    model.eval().fuse_model(is_qat=False)
    model.qconfig = quantization.get_default_qconfig("x86")
    quantization.prepare(model, inplace=True)
    for images in work.batches():
        model(images)
    quantization.convert(model, inplace=True)
    return model


class Side:
    """A process of its own in which one side stays ready."""

    def __init__(self, work: Work, name: str, threads: int) -> None:
        self.pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        self.says, self.noise = self.pool.submit(_open, work, name, threads).result()

    def measure(self, batch: int, calls: int) -> float:
        """Seconds of a call."""
        return self.pool.submit(_measure, batch, calls).result()


_ready: tuple[Work, Callable[[Tensor], Tensor]]  # of the process of a side


@torch.no_grad()
def _open(work: Work, name: str, threads: int) -> tuple[str, float]:
    """What the side says of itself, and the signal-to-noise ratio (dB) of its outputs."""
    global _ready
    torch.set_num_threads(threads)
    run: Callable[[Tensor], Tensor]
    if name == EAGER:
        says, run = f"PyTorch {torch.__version__}", work.model()
    elif name == TORCHVISION:
        with quiet():
            says, run = f"torchvision {torchvision.__version__}, engine x86", torchvision_int8(work)
    else:
        runtime, _, file = name.partition(": ")
        precision = "auto" if runtime == OPENVINO_OWN else "float32"
        opened = open_runtime(work.folder / FILES[file], RUNTIMES[runtime], threads, precision)
        says, run = opened.says, opened
    _ready = work, run
    exact = torch.load(work.folder / "outputs.pt", weights_only=True)
    wrong = (run(work.images(NOISE_IMAGES, 2)) - exact).square().sum().item()
    return says, 10 * math.log10(exact.square().sum().item() / wrong) if wrong else math.inf


@torch.no_grad()
def _measure(batch: int, calls: int) -> float:
    work, run = _ready
    images = work.images(batch, 3)
    start = time.perf_counter()
    for _ in range(calls):
        run(images)
    return (time.perf_counter() - start) / calls


def exists(module: str) -> bool:
    with contextlib.suppress(ModuleNotFoundError), quiet():
        return importlib.util.find_spec(module) is not None
    return False


def side_names() -> list[str]:
    """The sides that are installed; OpenVINO's own precision is among them where it is not float32."""
    static = exists("onnxruntime.quantization")
    names = [EAGER, f"{ORT}: {FLOAT}", f"{ORT}: {OURS}"] + [f"{ORT}: {STATIC}"] * static
    if exists("openvino"):
        names += [f"{OPENVINO}: {FLOAT}", f"{OPENVINO}: {OURS}"] + [f"{OPENVINO}: {STATIC}"] * static
        names += [f"{OPENVINO_OWN}: {FLOAT}", f"{OPENVINO_OWN}: {OURS}"] * (openvino_precision() != "f32")
    return names + [TORCHVISION] * (exists("torchvision.models.quantization") and exists("torch.ao.quantization"))


def openvino_precision() -> str:
    """What OpenVINO chooses on this processor by itself."""
    import openvino

    return str(openvino.Core().get_property("CPU", "INFERENCE_PRECISION_HINT").to_string())


def kind_of_processor() -> str:
    """The column of `TARGETS`; a processor in none of them has no targets."""
    found = int8_instructions()
    return "AMX" if "AMX" in found else " and ".join(found) or "no VNNI"


def time_sides(work: Work, batch: int, threads: int, rounds: int) -> dict[str, tuple[float, float]]:
    """Median milliseconds and dB of each side, printed as they are."""
    sides = {name: Side(work, name, threads) for name in side_names()}
    try:
        calls = {}
        for name, side in sides.items():
            side.measure(batch, 1)
            calls[name] = max(1, math.ceil(AT_LEAST / side.measure(batch, 1)))
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        for round_ in range(rounds):
            for name in list(sides)[:: -1 if round_ % 2 else 1]:
                seconds[name].append(sides[name].measure(batch, calls[name]))
    finally:
        for side in sides.values():
            side.pool.shutdown()
    results = {name: (1000 * statistics.median(each), sides[name].noise) for name, each in seconds.items()}
    print(f"{work.name}, {work.size} px, batch {batch}, threads: {threads}; medians of {rounds}")
    for name, (milliseconds, noise) in results.items():
        times = results[EAGER][0] / milliseconds
        spread = f"{1000 * min(seconds[name]):.2f} to {1000 * max(seconds[name]):.2f}"
        print(
            f"  {name:40} {milliseconds:9.2f} ms ({spread}), {times:6.2f} times eager, {noise:6.1f} dB  "
            f"[{sides[name].says}]"
        )
    return results


def judge(work: Work, batch: int, threads: int, results: dict[str, tuple[float, float]]) -> None:
    """Print the ratios beside their targets."""
    times = {name: results[EAGER][0] / milliseconds for name, (milliseconds, _) in results.items()}
    ours = [name for name in results if name.endswith(f": {OURS}")]
    best = max(ours, key=times.__getitem__)
    kind = kind_of_processor()
    targets = TARGETS.get(kind, {}).get(work.name, {}).get((batch, threads)) if work.size == 224 else None
    where = f"{work.name}, batch {batch}, threads: {threads}"

    def judged(claim: str, ratio: float, target: float | None, **more: Any) -> None:
        if target is None:
            print(f"{where}: {claim}: {ratio:.2f} (no target here)")
        else:
            report(f"{where}: {claim}", ratio, target, **more)

    judged(f"speed of the best runtime ({best}) over eager", times[best], targets[0] if targets else None)
    judged("speed of ONNX Runtime's int8 over eager", times[f"{ORT}: {OURS}"], targets[1] if targets else None)
    known = kind in TARGETS and work.size == 224
    for name in ours:
        if (static := name.replace(OURS, STATIC)) in times:
            judged(f"speed of {name} over {static}", times[name] / times[static], 1.0 if known else None)
            print(f"    signal-to-noise {results[name][1] - results[static][1]:+.1f} dB")
    if TORCHVISION in times:
        for name in ours:
            target = OVER_TORCHVISION.get(batch) if known else None
            judged(f"speed of {name} over {TORCHVISION}", times[name] / times[TORCHVISION], target)
            below = results[TORCHVISION][1] - results[name][1]
            judged(f"dB that {name} is below {TORCHVISION}", below, 1.0 if known else None, at_least=False)


def make_files(work: Work) -> None:
    """Write all files of a network, each in a process of its own, and print what they are."""
    in_fresh_process(make_weights, {}, work)
    seconds, peak = in_fresh_process(export_float, {}, work)
    print(
        f"{work.name}: float32 to ONNX, folded and checked: {seconds:.1f} s, {peak:.2f} GB at the peak of its process"
    )
    if work.name == "resnet50":
        report("export of resnet50 to ONNX, seconds", seconds, 60, at_least=False)
        report("export of resnet50 to ONNX, GB", peak, 3, at_least=False)
    quantizing, writing = in_fresh_process(export_int8, {}, work)
    print(
        f"  int8: {quantizing:.1f} s to quantize ({work.calibration} images, {work.bits} bits), {writing:.1f} s to ONNX"
    )
    if exists("onnxruntime.quantization"):
        print(f"  quantize_static: {in_fresh_process(export_static, {}, work):.1f} s")
    sizes = {kind: path.stat().st_size for kind, file in FILES.items() if (path := work.folder / file).exists()}
    for kind, size in sizes.items():
        print(f"  {kind:24} {size / 1e6:7.2f} MB, {size / sizes[FLOAT]:.3f} of float32")
    report(f"{work.name}: size of int8 over float32", sizes[OURS] / sizes[FLOAT], 0.26, at_least=False, digits=3)


def print_machine() -> None:
    """Print what the figures depend on, and which targets there are."""
    print_environment()
    names = [name for name in ("onnx", "onnxruntime", "openvino") if exists(name)]
    print("runtimes: " + ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names))
    kind = kind_of_processor()
    print(f"int8 instructions: {', '.join(int8_instructions()) or 'none known'}")
    print(f"targets: those for {kind}" if kind in TARGETS else f"targets of speed: there are none for {kind}")
    if exists("openvino"):
        print(f"OpenVINO computes float layers in {openvino_precision()} by itself, and in float32 where asked to")


def main() -> None:
    """Make the files, time them in turn, and print the ratios."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", nargs="+", default=["resnet50", "resnet18", "mobilenet_v2"])
    parser.add_argument("--size", type=int, nargs="+", default=[224])
    default = ["1:1", "32:2"] + ["32:1"] * (not int8_instructions())
    parser.add_argument("--at", nargs="+", default=default, metavar="BATCH:THREADS")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calibration", type=int, default=32, help="images")
    parser.add_argument("--bits", type=int, default=8 if int8_instructions() else 7, help="of our weights")
    options = parser.parse_args()
    print_machine()
    for name in options.models:
        for size in options.size:
            with tempfile.TemporaryDirectory() as folder:
                work = Work(name, size, Path(folder), options.calibration, options.bits)
                make_files(work)
                for batch, threads in (map(int, at.split(":")) for at in options.at):
                    judge(work, batch, threads, time_sides(work, batch, threads, options.rounds))


if __name__ == "__main__":
    main()
