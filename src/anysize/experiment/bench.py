"""A model, a run or an exported file as several runtimes compute it, to be measured in turn."""

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from anysize.experiment.named import named_model, refuse_checkpoint
from anysize.export.description import Description
from anysize.export.look import is_exported, look_at
from anysize.export.module import measured
from anysize.export.runtimes import FORMATS, format_of, open_runtime
from anysize.export.write import EXPORTS, folded
from anysize.models.measure.speed import Ready, torch_ready
from anysize.preprocessing import Preprocessing
from anysize.registry import UserError


@contextlib.contextmanager
def in_runtimes(
    source: str, names: Sequence[str], settings: Mapping[str, Any] | None = None, *, task: str = "",
    size: int | None = None, threads: int = 0, checkpoint: str = "last",
) -> Iterator[tuple[dict[str, Ready], dict[str, str], Preprocessing | None]]:  # fmt: skip
    """What `bench_runtimes` measures: a call for each runtime by name, what each says of itself, and the input.

    `torch` of a model or a run is PyTorch as it is; for the others it is exported for a while. Of an exported file the
    input is None where it does not tell.

    Raises:
        UserError: as `named_model`, `export_onnx` and `open_runtime`.
    """
    for name in names:
        format_of(name)  # says what is known
    if is_exported(source):
        refuse_checkpoint(source, checkpoint)
        contents = look_at(source)
        if settings or task:
            raise UserError(f"{source} is an exported file, whose model is what it is; leave the model's options out")
        runtimes = {name: open_runtime(source, name, threads, contents=contents) for name in names}
        known = contents.description.preprocessing if contents.description else None
        yield {name: measured(each) for name, each in runtimes.items()}, _says(runtimes), known
        return
    model, expected = named_model(source, settings, task=task, size=size, checkpoint=checkpoint)
    with tempfile.TemporaryDirectory() as folder:
        described = Description(task or "classification", expected)
        ready: dict[str, Ready] = {}
        runtimes = {}
        for name in names:
            if name == "torch":
                ready[name] = torch_ready(model, threads)
                continue
            path = Path(folder) / f"model.{FORMATS[name]}"
            if not path.exists():
                EXPORTS[FORMATS[name]](folded(model), path, described)
            runtimes[name] = open_runtime(path, name, threads)
            ready[name] = measured(runtimes[name])
        yield ready, _says(runtimes), expected


def _says(runtimes: Mapping[str, Any]) -> dict[str, str]:
    return {name: runtime.says for name, runtime in runtimes.items()}
