"""`anysize.export_run`: a run or a named model becomes one ONNX or pt2 file, checked against the model."""

import contextlib
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anysize.evaluation.sizes import parse_sizes
from anysize.experiment.exported import description_of
from anysize.experiment.loaded import at_norm_size, load_run
from anysize.experiment.named import named_spec, refuse_checkpoint
from anysize.export.check import Exported
from anysize.export.description import Description
from anysize.export.look import is_exported
from anysize.export.write import EXPORTS, folded
from anysize.machine import plainly
from anysize.models.measure.input_size import check_size
from anysize.registry import UserError, did_you_mean
from anysize.reports import run_files
from anysize.reports.run_files import check_writable


@plainly("exporting")
def export_run(
    source: str | Path,
    out: str | Path | None = None,
    format: str = "onnx",
    *,
    checkpoint: str = "last",
    size: int | None = None,
    uint8_input: bool = False,
    overrides: Mapping[str, Any] | None = None,
) -> Exported:
    """Write a model as one file for any batch, height and width, and check it by running it.

    The file takes images (N, C, H, W) named `images` to `logits`. Batch norms are folded first where they can be. How
    images are prepared, the classes and the recipe go along, so `evaluate` and `predict` take the file for the run.

    Args:
        source: a run folder, or the name of a model (untrained).
        out: the file; by default `export/model.onnx` in the run, or MODEL.onnx.
        format: "onnx", or "pt2" for `torch.export.load`.
        checkpoint: of a run: "last", "best", "previous", or the name of a calibrated copy.
        size: pixels that the model is traced at, and checked around; None: the base size. The file takes any. Of norms
            by size it has those for this size.
        uint8_input: the file takes pixels, resized and cropped, and normalises them itself.
        overrides: settings of the recipe to replace; of [model] for a named model.

    Returns:
        What was written: path, bytes, opset, and the checks with image size, batch and largest difference.

    Raises:
        UserError: not a run, a size that the network cannot take, a network that cannot be exported (the layer is
            named), a file that differs from the model, or a missing extra. No file is left.

    Example::

        exported = anysize.export_run("runs/quickstart")
        print(exported.path, exported.difference)
    """
    if format not in EXPORTS:
        raise UserError(f"format is {format!r}: {did_you_mean(format, EXPORTS)}")
    if is_exported(source):
        raise UserError(f"{source} is an exported file already; give the run or the name of a model")
    if size is not None:
        (size,) = parse_sizes([size])
    if Path(source).is_dir():
        loaded = load_run(source, checkpoint, overrides)
        loaded = at_norm_size(loaded, size or loaded.preprocessing.image_size, "in the file")
        model, described = loaded.model, description_of(loaded)
        path = Path(out).expanduser() if out else loaded.folder / "export" / f"model.{format}"
        if not out:
            run_files.check_is_own(loaded.folder, "export")
    else:
        refuse_checkpoint(str(source), checkpoint)
        spec, expected = named_spec(str(source), overrides, size=size)
        model = spec.build()
        described = Description(spec.task or "classification", expected, spec.to_dict())
        path = Path(out).expanduser() if out else Path(f"{_plain(str(source))}.{format}")
    if size is not None:
        described = dataclasses.replace(
            described, preprocessing=dataclasses.replace(described.preprocessing, image_size=size)
        )
    check_size(model, described.preprocessing.image_size, described.preprocessing.channels)
    if not out:
        with contextlib.suppress(OSError):  # an error is reported by the next line
            path.parent.mkdir(exist_ok=True)
    check_writable(path)  # before the model is traced
    return EXPORTS[format](folded(model), path, described, uint8_input=uint8_input)


def _plain(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name).strip("-.")
