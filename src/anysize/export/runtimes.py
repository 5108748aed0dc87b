"""The runtimes that compute an exported file: ONNX Runtime, OpenVINO, PyTorch as it is and compiled by inductor.

    runtime = open_runtime("model.onnx", "openvino", threads=1)
    logits = runtime(images)                        # (N, C, H, W) to (N, classes), or to maps (N, classes, H, W)

A new runtime is a function that `RUNTIMES.register` decorates, and its format in `FORMATS`. It takes the contents of a
file and `RuntimeOptions`, and returns its name with version, and a function from images to logits.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from anysize.export.contents import Contents
from anysize.export.extras import import_extra, quiet
from anysize.export.look import look_at
from anysize.export.saturation import Compute, OnnxFile, start_without_saturation
from anysize.files import open_regular
from anysize.machine import is_short
from anysize.models.measure.threads import torch_threads
from anysize.registry import Registry, UserError


@dataclasses.dataclass(frozen=True)
class RuntimeOptions:
    """How a runtime computes.

    Args:
        threads: 0: as many as the runtime chooses.
        precision: float32, or auto: OpenVINO's own choice, which is bfloat16 on processors that have it; the other
            runtimes compute in float32 anyway.
    """

    threads: int = 0
    precision: str = "float32"

    def __post_init__(self) -> None:
        if self.threads < 0:
            raise UserError(f"threads is {self.threads}; expected at least 0, which leaves it to the runtime")
        if self.precision not in ("float32", "auto"):
            raise UserError(f"precision is {self.precision!r}; expected float32 or auto")


@dataclasses.dataclass(frozen=True)
class Runtime:
    """An exported file that can be called: images (N, C, H, W), float32 or uint8 as the file takes them, to logits.

    `says` names the runtime with its version and what was chosen for it.
    """

    name: str
    says: str
    contents: Contents
    options: RuntimeOptions
    run: Compute

    def __call__(self, images: Tensor) -> Tensor:
        return self.run(images)


Opener = tuple[str, Compute]
RUNTIMES: Registry[Opener] = Registry("runtime")
FORMATS = {"onnxruntime": "onnx", "openvino": "onnx", "torch": "pt2", "inductor": "pt2"}
"""The format that each runtime computes; the first of a format is its default."""


def format_of(runtime: str) -> str:
    """The format that a runtime computes; a `UserError` for an unknown one.

    >>> format_of("openvino")
    'onnx'
    """
    RUNTIMES[runtime]
    return FORMATS[runtime]


def open_runtime(
    path: str | Path, name: str = "", threads: int = 0, precision: str = "float32", contents: Contents | None = None
) -> Runtime:
    """Open an exported file in a runtime, after a look at what it is (`look_at`).

    Args:
        path: the file.
        name: onnxruntime or openvino for ONNX files, torch or inductor for pt2 files; empty: the first of these.
        threads, precision: as of `RuntimeOptions`.
        contents: what `look_at` found, where that is known.

    Raises:
        UserError: as `look_at`; an unknown runtime, one that does not compute such a file, a missing extra, or a file
            that the runtime refuses.
    """
    options, contents = RuntimeOptions(threads, precision), contents or look_at(path)
    own = contents.path.suffix.removeprefix(".")
    fitting = [runtime for runtime, format in FORMATS.items() if format == own]
    name = name or fitting[0]
    if format_of(name) != own:
        raise UserError(
            f"{contents.path} cannot be computed by {name}, which takes {FORMATS[name]} files; choose "
            f"{' or '.join(fitting)}, or export with --format {FORMATS[name]}"
        )
    try:
        says, run = RUNTIMES[name](contents, options)
    except UserError:
        raise
    except Exception as error:  # of the runtime, whichever it is
        if is_short(error):
            raise
        raise UserError(f"{name} does not take {contents.path}: {str(error).strip().splitlines()[0]}") from error
    return Runtime(name, says, contents, options, run)


@RUNTIMES.register("onnxruntime")
def _onnxruntime(contents: Contents, options: RuntimeOptions) -> Opener:
    library = import_extra("onnxruntime", "quantize")

    def start(file: OnnxFile, settings: Mapping[str, str]) -> Compute:
        session_options = library.SessionOptions()
        session_options.intra_op_num_threads = options.threads
        session_options.log_severity_level = 3  # errors; it warns of what it leaves to other operators
        for name, value in settings.items():
            session_options.add_session_config_entry(name, value)
        session = library.InferenceSession(file, session_options, providers=["CPUExecutionProvider"])
        (inputs,), output = session.get_inputs(), session.get_outputs()[0]

        def run(images: Tensor) -> Tensor:
            (logits,) = session.run([output.name], {inputs.name: images.contiguous().numpy()})
            return torch.from_numpy(logits)

        return run

    ways = {"": {}, "int8 in x64quantprecision, as it saturates here otherwise": {"session.x64quantprecision": "1"}}
    says, run = start_without_saturation(contents, ways, start)
    return ", ".join([f"ONNX Runtime {library.__version__}", *says]), run


@RUNTIMES.register("openvino")
def _openvino(contents: Contents, options: RuntimeOptions) -> Opener:
    library = import_extra("openvino", "openvino")
    config: dict[str, object] = {"INFERENCE_NUM_THREADS": options.threads} if options.threads else {}
    if options.precision == "float32":
        config["INFERENCE_PRECISION_HINT"] = "f32"
    precisions = []

    def start(file: OnnxFile, settings: Mapping[str, str]) -> Compute:
        core = library.Core()
        compiled = core.compile_model(core.read_model(file), "CPU", {**config, **settings})
        precisions.append(compiled.get_property("INFERENCE_PRECISION_HINT").to_string())
        output = compiled.output(0)

        def run(images: Tensor) -> Tensor:
            return torch.from_numpy(compiled(images.contiguous().numpy(), share_inputs=True)[output])

        return run

    says, run = start_without_saturation(contents, {"": {}}, start)
    return ", ".join([f"OpenVINO {library.__version__.partition('-')[0]}", precisions[-1], *says]), run


@RUNTIMES.register("torch")
def _torch(contents: Contents, options: RuntimeOptions) -> Opener:
    return f"PyTorch {torch.__version__}", _called(_program(contents), options)


@RUNTIMES.register("inductor")
def _inductor(contents: Contents, options: RuntimeOptions) -> Opener:
    import torch._inductor.config as config

    run = _called(torch.compile(_program(contents)), options)

    def compiled(images: Tensor) -> Tensor:
        with config.patch(freezing=True):  # a size that is new is compiled when it comes
            return run(images)

    return f"PyTorch {torch.__version__}, inductor", compiled


def _program(contents: Contents) -> torch.nn.Module:
    with quiet(), open_regular(contents.path) as file:
        return torch.export.load(file).module()


def _called(module: Callable[[Tensor], Tensor], options: RuntimeOptions) -> Callable[[Tensor], Tensor]:
    def run(images: Tensor) -> Tensor:
        with torch.no_grad(), torch_threads(options.threads or torch.get_num_threads()):
            # One channel in channels-last order counts as contiguous, and inductor takes the rest to be in that order.
            return module(images.flatten().view(images.shape))

    return run
