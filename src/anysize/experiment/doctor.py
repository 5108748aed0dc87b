"""What this machine and this installation offer: what is used, what is missing, and what would be faster.

    for finding in examine():
        print(finding.area, finding.name, finding.value, finding.advice)

Nothing is downloaded, compiled or changed.
"""

import dataclasses
import functools
import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import PIL.features
import torch

from anysize.data.decode import decoder
from anysize.data.workers import worker_count
from anysize.export.processor import int8_instructions
from anysize.machine import SHARED, free_memory, shared_room, usable_cores
from anysize.norms.online.backends import cpp
from anysize.registry import counted
from anysize.reports.environment import describe_environment
from anysize.training.guards import cpu_has

EXTRAS: dict[str, tuple[tuple[str, ...], str]] = {
    "jpeg": (("simplejpeg",), "decodes JPEG files faster than PIL, to the same pixels"),
    "coco": (("pycocotools",), "paints the masks of COCO's files"),
    "imagenet": (("scipy",), "reads ILSVRC's kit, which says the classes of its validation images"),
    "zoo": (("timm",), "timm's networks and weights, as timm:NAME"),
    "quantize": (("onnx", "onnxscript", "onnxruntime"), "int8, ONNX files and the runtime for them"),
    "openvino": (("openvino",), "another runtime for exported files, fast on Intel's processors"),
    "stream": (("obstore",), "packs in object storage"),
    "track": (("tensorboard", "mlflow", "wandb"), "trackers that a training tells of its figures (--track)"),
}
"""The extras of the package: their libraries, and what each is for."""

_SHARED_ENOUGH = 2**30  # bytes of shared memory: the loaders' batches pass through it
_FILES_ENOUGH = 4096  # open files: each worker and each batch under way takes some
_FLAGS = {
    "AVX2": "avx2", "AVX-512": "avx512_f", "AVX-512 VNNI": "avx512_vnni", "AVX VNNI": "avx_vnni",
    "AMX int8": "amx_int8", "AMX bf16": "amx_bf16", "AVX-512 bf16": "avx512_bf16", "Arm bf16": "bf16", "SVE": "sve",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that was looked at, with what to do about it: `advice`, empty where that is nothing.

    `good` is whether all is well: what is merely not there, such as an extra that nobody asked for, is well, too.
    """

    area: str
    name: str
    value: str
    good: bool = True
    advice: str = ""


def examine() -> list[Finding]:
    """Look at versions, extras, processor, memory, GPU and compilers; takes a second or two.

    >>> {finding.area for finding in examine()} >= {"installed", "extras", "processor", "memory", "GPU", "kernels"}
    True
    """
    return [finding for look in _LOOKS for finding in look()]


def to_dicts(findings: list[Finding]) -> list[dict[str, Any]]:
    """The findings, JSON-ready."""
    return [dataclasses.asdict(finding) for finding in findings]


def _installed() -> Iterator[Finding]:
    found = _environment()
    names = ("anysize", "python", "torch", "torchvision", "torchmetrics", "numpy", "pillow")
    yield Finding("installed", "versions", ", ".join(f"{name} {found[name]}" for name in names if name in found))
    turbo = PIL.features.check_feature("libjpeg_turbo")
    advice = "" if turbo else "install Pillow's own wheel, or the extra jpeg: without libjpeg-turbo JPEGs decode slowly"
    yield Finding("installed", "JPEG", decoder(), turbo or not decoder().startswith("PIL"), advice)


def _extras() -> Iterator[Finding]:
    for extra, (packages, gives) in EXTRAS.items():
        there = {package: found for package in packages if (found := _version(package))}
        missing = [package for package in packages if package not in there]
        value = ", ".join(f"{package} {found}" for package, found in there.items())
        if not missing:
            yield Finding("extras", extra, f"{value}: {gives}")
            continue
        value = f"{value}, without {' and '.join(missing)}" if value else "not installed"
        faster = extra == "jpeg"
        advice = f"pip install 'anysize[{extra}]' {'makes loading faster' if faster else f'gives it: {gives}'}"
        yield Finding("extras", extra, value, not faster and not there, advice)


def _processor() -> Iterator[Finding]:
    capabilities = torch.cpu.get_capabilities()
    found = [name for name, flag in _FLAGS.items() if capabilities.get(flag)]
    yield Finding("processor", "name", str(_environment().get("processor", "unknown")))
    yield Finding("processor", "instructions", ", ".join(found) or "none that torch reports")
    used = torch.backends.cpu.get_cpu_capability()
    onednn = bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
    advice = "" if onednn else "install PyTorch's own wheel: without oneDNN convolutions are slow"
    yield Finding("processor", "used by torch", f"{used}, {'with' if onednn else 'without'} oneDNN", onednn, advice)
    numbers = [name for name in ("bfloat16", "float16") if cpu_has(name)]
    advice = "training.precision auto measures whether it is faster" if numbers else ""
    yield Finding("processor", "half precision", ", ".join(numbers) or "none: float32 alone", True, advice)
    int8 = int8_instructions()
    yield Finding("processor", "int8", ", ".join(int8) if int8 else "no instructions of its own: int8 is little faster")
    yield _threads()


def _threads() -> Finding:
    cores, threads = usable_cores(), torch.get_num_threads()
    given = os.environ.get("OMP_NUM_THREADS")
    value = f"{counted(cores, 'core')}, {counted(threads, 'thread')} of torch, OMP_NUM_THREADS {given or 'not set'}"
    if threads > cores:
        advice = f"set OMP_NUM_THREADS to {cores}: more threads than cores stand in each other's way"
        return Finding("processor", "threads", value, False, advice)
    if threads < cores and given:
        advice = f"unset OMP_NUM_THREADS, or set it to {cores}, where one process trains on the CPU"
        return Finding("processor", "threads", value, False, advice)
    return Finding("processor", "threads", f"{value}, {counted(worker_count(-1), 'worker')} of a loader")


def _memory() -> Iterator[Finding]:
    free = free_memory()
    yield Finding("memory", "free", "unknown" if free is None else f"{free / 2**30:,.1f} GiB")
    enough = True
    if Path(SHARED).is_dir():
        enough = shutil.disk_usage(SHARED).free >= _SHARED_ENOUGH
        advice = "" if enough else "enlarge it (docker run --shm-size 8g), or set data.workers to 0 where loaders fail"
        yield Finding("memory", "shared", shared_room(), enough, advice)
    try:
        import resource
    except ImportError:  # not a Unix
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = soft == resource.RLIM_INFINITY or soft >= _FILES_ENOUGH
    most = "without limit" if hard == resource.RLIM_INFINITY else f"at most {hard:,}"
    advice = "" if enough else f"raise it with ulimit -n {_FILES_ENOUGH}: many workers need more"
    yield Finding("memory", "open files", f"{soft:,} ({most})", enough, advice)


def _gpu() -> Iterator[Finding]:
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            found = torch.cuda.get_device_properties(number)
            free, total = torch.cuda.mem_get_info(number)
            half = "bfloat16" if torch.cuda.is_bf16_supported() else "float16 alone"
            memory = f"{free / 2**30:,.1f} GiB free of {total / 2**30:,.1f}"
            yield Finding("GPU", f"cuda:{number}", f"{found.name}, {found.major}.{found.minor}, {memory}, {half}")
        yield Finding("GPU", "CUDA of torch", str(torch.version.cuda or torch.version.hip))
    elif torch.backends.mps.is_available():
        yield Finding("GPU", "mps", "Apple's, with training.device mps")
    elif shutil.which("nvidia-smi") or Path("/dev/nvidia0").exists():
        built = (
            f"torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch is built for CPUs alone"
        )
        advice = "install PyTorch for the CUDA of the driver (nvidia-smi tells it), or look at the driver"
        yield Finding("GPU", "none that torch can use", built, False, advice)
    else:
        yield Finding("GPU", "none", "training is on the CPU")


def _kernels() -> Iterator[Finding]:
    compiler = cpp.find_compiler()
    off = os.environ.get("ANYSIZE_CPP", "1") == "0"
    advice = (
        "" if compiler else "install g++ or clang++: online norm and torch.compile are several times faster with it"
    )
    value = f"{compiler}{', switched off (ANYSIZE_CPP=0)' if off else ''}" if compiler else "none"
    yield Finding("kernels", "C++ compiler", value, bool(compiler) and not off, "unset ANYSIZE_CPP" if off else advice)
    triton = importlib.util.find_spec("triton") is not None
    if torch.cuda.is_available():
        advice = "" if triton else "pip install triton: online norm is faster with it on a GPU"
        yield Finding("kernels", "Triton", _version("triton") or "not installed", triton, advice)
    else:
        yield Finding("kernels", "Triton", f"{_version('triton') or 'not installed'}, used on GPUs alone")


@functools.cache
def _environment() -> dict[str, Any]:
    """The environment of a run, which takes a process to find out."""
    return describe_environment()


@functools.cache
def _version(package: str) -> str:
    """The version of a package; empty where it is not installed. It is not imported."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


_LOOKS: tuple[Callable[[], Iterator[Finding]], ...] = (_installed, _extras, _processor, _memory, _gpu, _kernels)
