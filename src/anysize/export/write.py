"""Write a model as an ONNX or a pt2 file: one file, for any batch, height and width, checked before it has its name."""

import contextlib
import copy
import dataclasses
import os
import re
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from anysize.export.capture import Normalised, capture, first_line, layer_of
from anysize.export.check import Compare, Exported, check_file, close, sizes_to_check, within_noise
from anysize.export.description import KEY, MEMBER, Description
from anysize.export.extras import import_extra, quiet
from anysize.export.int8_graph import ready_for_runtimes
from anysize.export.runtimes import open_runtime
from anysize.models.checks import check_is_model
from anysize.models.surgery.fold import fold_batch_norm
from anysize.models.surgery.onnx_words import writing_onnx
from anysize.models.surgery.quantization.aware import is_aware
from anysize.models.surgery.quantization.fake import is_quantized
from anysize.models.surgery.same_padding import padded_for_export
from anysize.norms.by_size.model import refuse_norm_by_size
from anysize.registry import UserError
from anysize.reports.run_files import check_writable

OPSET = 20
"""Version of the operators of ONNX: that which torch 2.14 writes without a conversion, ONNX Runtime and OpenVINO read;
scales a channel, which int8 needs, are in it since 13."""


def export_onnx(
    model: nn.Module,
    path: str | Path,
    description: Description,
    *,
    uint8_input: bool = False,
    check: Compare | None = None,
) -> Exported:
    """Write `model` as one ONNX file, images (N, C, H, W) named `images` to `logits`; N, H and W are any.

    The file is run by ONNX Runtime on random pictures, at 3 image sizes x 2 batch sizes, and has its name only where it
    gives what the model gives. A model that takes one image size alone gets a file for that size.

    Args:
        model: in evaluation; of several outputs the first counts. It is not changed.
        path: the file to write, which is replaced.
        description: goes along as metadata. Its image size is that which the model is traced at.
        uint8_input: the file takes pixels uint8, resized and cropped, and normalises them itself.
        check: compares outputs of the file with the model's: words on the difference, or a `UserError`. None: `close`;
            of a quantized model, whose values may be rounded otherwise now and then, `within_noise`.

    Raises:
        UserError: what `capture` raises, an operator that ONNX has not, a file that differs from its model or cannot be
            written, or a missing extra. No file is left.
    """
    onnx = import_extra("onnx", "quantize")
    for module in ("onnxscript", "onnxruntime"):
        import_extra(module, "quantize")
    wrapped, description, images = _prepared(model, description, uint8_input)
    sizes = sizes_to_check(model, description.preprocessing)
    with writing_onnx(), padded_for_export(wrapped):
        program = capture(wrapped, images, any_size=len(sizes) > 1)
    proto = _converted(program)
    for node in proto.graph.node:  # of all notes on where it is from the names of its modules alone are kept
        kept = [entry for entry in node.metadata_props if entry.key == "pkg.torch.onnx.name_scopes"]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)
    del proto.graph.value_info[:]
    del proto.graph.metadata_props[:]
    _name_sides(proto)
    onnx.helper.set_model_props(proto, {KEY: description.to_json()})
    if is_quantized(model):
        ready_for_runtimes(proto)
    with _beside(Path(path)) as beside:
        onnx.save(proto, str(beside))
        return _checked(beside, path, model, description, check, sizes, OPSET)


def export_program(
    model: nn.Module,
    path: str | Path,
    description: Description,
    *,
    uint8_input: bool = False,
    check: Compare | None = None,
) -> Exported:
    """Write `model` as a pt2 file (`torch.export.save`); as `export_onnx`, checked by running the loaded program.

    Raises:
        UserError: as `export_onnx`, and for a name that does not end in .pt2.
    """
    if Path(path).suffix != ".pt2":
        raise UserError(f"{path} is no name for a program of torch.export; expected one that ends in .pt2")
    wrapped, description, images = _prepared(model, description, uint8_input)
    sizes = sizes_to_check(model, description.preprocessing)
    with padded_for_export(wrapped):
        program = capture(wrapped, images, any_size=len(sizes) > 1)
    with _beside(Path(path)) as beside:
        with beside.open("wb") as file:  # torch takes no path that is no UTF-8
            torch.export.save(program, file, extra_files={MEMBER: description.to_json()})
        return _checked(beside, path, model, description, check, sizes)


EXPORTS: dict[str, Callable[..., Exported]] = {"onnx": export_onnx, "pt2": export_program}
"""By the format's name, which is the suffix of its files."""


def folded(model: nn.Module) -> nn.Module:
    """The model with batch norms folded where torch.fx can trace it, else as it is.

    The exporter folds a norm behind a convolution by itself, but not one behind a sum, as in Elastic blocks.
    """
    if is_quantized(model):  # its norms are folded, and it is more than its graph
        return model
    try:
        return fold_batch_norm(model)
    except UserError:
        return model


def _prepared(
    model: nn.Module, description: Description, uint8_input: bool
) -> tuple[nn.Module, Description, torch.Tensor]:
    check_is_model("export", model)
    refuse_norm_by_size(model, "an exported file")
    if is_aware(model):
        raise UserError(
            f"{type(model).__name__} was trained for int8 and holds its weights in float still; `anysize quantize` "
            "makes the int8 model of it, and exports that"
        )
    copied = copy.deepcopy(getattr(model, "_orig_mod", model)).eval().cpu().float()
    copied = copied.to(memory_format=torch.contiguous_format)
    expected = description.preprocessing
    shape = (2, expected.channels, expected.image_size, expected.image_size)
    if uint8_input:
        images, copied = torch.zeros(shape, dtype=torch.uint8), Normalised(copied, expected)
    else:
        images = torch.zeros(shape)
    return copied.eval(), dataclasses.replace(description, uint8_input=uint8_input), images


def _converted(program: torch.export.ExportedProgram) -> Any:
    """The program as an ONNX model (`onnx.ModelProto`)."""
    try:
        with quiet():
            written = torch.onnx.export(
                program,
                dynamo=True,
                external_data=False,
                opset_version=OPSET,
                input_names=["images"],
                output_names=["logits"],
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        missing = re.search(r"No ONNX function found for <OpOverload\(op='([\w.]+)', overload='(\w+)'", str(error))
        if not missing:
            raise UserError(f"the model cannot be written as ONNX: {first_line(error.__cause__ or error)}") from error
        operator = ".".join(missing.groups())
        raise UserError(
            f"{layer_of(program, operator)} calls {operator}, which ONNX has not; write it with other operations, or "
            "export with --format pt2"
        ) from None
    assert written is not None
    return written.model_proto


def _name_sides(proto: Any) -> None:
    """Name the sides of the input that may be any, and those of the output that are the same."""
    named: dict[str, str] = {}
    for each in (*proto.graph.input, *proto.graph.output):
        for dim, name in zip(each.type.tensor_type.shape.dim, ("batch", "channels", "height", "width"), strict=False):
            if dim.dim_param:
                dim.dim_param = named.setdefault(dim.dim_param, name)


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A file to write first, which then takes the place of `path`; whatever is raised leaves `path` as it was."""
    check_writable(path)
    beside = path.with_name(f".{secrets.token_hex(8)}.{path.name}")
    try:
        beside.touch(exist_ok=False)
        yield beside
        os.replace(beside, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; make room or write elsewhere") from error
    finally:
        beside.unlink(missing_ok=True)


def _checked(
    written: Path, path: str | Path, model: nn.Module, description: Description, check: Compare | None,
    sizes: list[tuple[int, int]], opset: int | None = None,
) -> Exported:  # fmt: skip
    reference = copy.deepcopy(getattr(model, "_orig_mod", model)).eval().cpu()
    if check is None:
        check = within_noise(reference, description.preprocessing) if is_quantized(reference) else close
    checks = check_file(
        open_runtime(written),
        reference,
        description.preprocessing,
        sizes,
        uint8_input=description.uint8_input,
        compare=check,
    )
    return Exported(Path(path), written.stat().st_size, len(sizes) > 1, checks, opset)
