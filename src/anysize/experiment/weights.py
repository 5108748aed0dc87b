"""First weights of a model from wherever they are: a run, a checkpoint, a foreign file, or published ones by name."""

import contextlib
import dataclasses
import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from anysize.data.settings import DataSettings
from anysize.experiment.identity import how_classes_differ, renamed
from anysize.files import open_regular
from anysize.models.checks import check_is_model
from anysize.models.measure.meta import build_on_meta
from anysize.models.spec import ModelSpec
from anysize.models.weights import FitReport, find_head, fit_state_dict, fit_tensors, read_foreign
from anysize.models.weights.heads import find_first_convolution
from anysize.models.weights.published import DEFAULT, pretrained_weights, published_preprocessing
from anysize.norms.by_size.model import fix_norm_size
from anysize.preprocessing import Preprocessing
from anysize.registry import UserError, counted
from anysize.reports import run_files
from anysize.training.checkpoint.files import DamagedCheckpoint, load_model, read_checkpoint
from anysize.training.checkpoint.store import find_checkpoint, with_another

_WEIGHTS_NAME = re.compile(r"[A-Z][A-Z0-9]*_[A-Z0-9_]+")  # torchvision's: IMAGENET1K_V2


@dataclasses.dataclass
class Weights:
    """Tensors by name, the input that they want (None: nobody says), whose they are, and sentences on what was read.

    `classes` are the names of the outputs in their order; empty: nobody says.
    """

    tensors: Mapping[str, Tensor]
    preprocessing: Preprocessing | None
    source: str
    notes: list[str] = dataclasses.field(default_factory=list)
    classes: tuple[str, ...] = ()


def find_weights(source: str | Path, name: str, options: Mapping[str, Any] | None = None, *, size: int = 0) -> Weights:
    """Read weights for the model `name`, built with `options`.

    Args:
        source: a run folder (its best checkpoint, else its last), a checkpoint folder, a file of another program's,
            "pretrained", or the name of torchvision's weights, such as "IMAGENET1K_V1".
        name, options: of the model, which published weights are looked up by.
        size: pixels: of norms by size those for this size; 0: for the base size of the weights.

    Raises:
        UserError: there is no such thing, it is damaged or wants to run code, or it cannot be downloaded.
    """
    path = Path(source).expanduser()
    if not path.exists() and (str(source) == DEFAULT or _WEIGHTS_NAME.fullmatch(str(source))):
        found = pretrained_weights(name, str(source), options)
        return Weights(found.tensors, found.preprocessing, found.source, [f"weights: {found.source}"])
    if path.is_dir():
        return _ours(checkpoint_folder(path), size)
    if not path.exists():
        raise UserError(
            f"weights are {str(source)!r}, and there is no such file or folder; expected a run folder, a checkpoint "
            f"folder, a file such as model.pth, {DEFAULT!r}, or a name of torchvision's weights such as IMAGENET1K_V1"
        )
    foreign = read_foreign(path)
    wanted = published_preprocessing(name, options)
    return Weights(foreign.tensors, wanted, str(path), foreign.lines(), foreign.classes)


def load_weights(
    model: nn.Module, source: str | Path, *, name: str = "", partial: bool = False, num_classes: int | None = None
) -> FitReport:
    """Load weights into `model`, in place: from a run, a checkpoint, or a file of another program's.

    Names are mapped where the file's differ from the model's, the head stays as it is where the class count differs,
    and the first convolution is adapted where the input channels do.

    Args:
        model: yours or one of `create_model`.
        source: a run folder, a checkpoint folder or a file; with `name` also "pretrained" or a name of torchvision's
            weights.
        name: the model's name, which published weights are looked up by.
        partial: load what fits instead of refusing what does not fit whole.
        num_classes: of the model, by which its head is found; None: the last layer that may be one.

    Raises:
        UserError: no such weights, damaged ones, ones that want to run code, or ones that do not fit; the message ends
            in a table of what does not. The model is as it was.

    >>> import tempfile, torch, anysize
    >>> file = Path(tempfile.mkdtemp()) / "checkpoint.pth.tar"
    >>> torch.save({"state_dict": anysize.create_model("resnet8").state_dict()}, file)
    >>> print(*load_weights(anysize.create_model("resnet8", num_classes=3), file).lines())
    the head fc is new: the file has 10 classes, the model 3
    """
    check_is_model("load_weights", model)
    weights = find_weights(source, name)
    return fit_state_dict(model, weights.tensors, partial=partial, num_classes=num_classes, source=weights.source)


def start_from(spec: ModelSpec, weights: Weights, *, partial: bool = False) -> nn.Module:
    """Build the model of `spec` and load `weights` into it.

    A head that the weights have not, or have for another number of classes, starts anew: a network for multi-label
    classification or for segmentation may start from a classifier. Where norms are swapped or blocks made elastic, that
    is done after loading if the weights are those of the model without, so that a frozen batch norm keeps their
    statistics, and before if they are of such a model themselves. A model is made quantization-aware after loading, but
    for weights of one that is. What was done goes to `weights.notes`.

    Raises:
        UserError: the weights do not fit.
    """

    def load(model: nn.Module) -> None:
        report = fit_state_dict(
            model, weights.tensors, partial=partial, num_classes=spec.num_classes, source=weights.source
        )
        weights.notes += report.lines()
        if report.new and report.fits:
            weights.notes.append(_share(report))

    before_last = len(spec.changes) - 1 if spec.aware else 0
    for after in dict.fromkeys([0, before_last]) if spec.changes else ():
        if fits(dataclasses.replace(spec, changes=spec.changes[:after]).build(), weights, spec.num_classes):
            if any(change.name == "elasticize" for change in spec.changes[after:]):
                weights.notes.append("convolutions that elasticize splits start anew")
            return spec.build(load, after)
    model = spec.build()
    load(model)
    return model


def for_classes(weights: Weights, spec: ModelSpec, classes: Sequence[str], settings: DataSettings) -> Weights:
    """The weights without their head where it was trained for as many classes of other names, or in another order."""
    trained_for = renamed(weights.classes, settings)
    if len(trained_for) != len(classes) or trained_for == tuple(classes):
        return weights
    head = find_head(build_on_meta(spec.build), spec.num_classes)
    if head is None:
        return weights
    tensors = {name: value for name, value in weights.tensors.items() if name.rpartition(".")[0] != head}
    note = (
        f"the head {head} is new, since the weights are for other classes: {how_classes_differ(trained_for, classes)}"
    )
    return dataclasses.replace(weights, tensors=tensors, notes=[*weights.notes, note])


def _share(report: FitReport) -> str:
    """How much was loaded, without counting the counters of batch norms."""
    loaded, new = (
        sum(not name.endswith("num_batches_tracked") for name in names) for names in (report.tensors, report.new)
    )
    return f"{loaded:,} tensors of {loaded + new:,} are loaded, {new:,} start anew"


def fits(model: nn.Module, weights: Weights, num_classes: int | None) -> bool:
    """Whether the weights are the model's, but for class count and input channels."""
    head, first = find_head(model, num_classes), find_first_convolution(model)
    return fit_tensors(model.state_dict(), weights.tensors, head, first).fits


def describe_input(weights: Weights, used: Preprocessing) -> str:
    """One sentence on how images are prepared for a model that starts from `weights`."""
    wanted = weights.preprocessing
    if wanted is None:
        return "nothing is known of how images were prepared for the weights: mean and deviation are the data's"
    if wanted.channels != used.channels:
        return (
            f"the weights are for images of {counted(wanted.channels, 'channel')}, and these have {used.channels}: "
            "mean and "
            "deviation are the data's"
        )
    mean, std = (", ".join(f"{value:.4g}" for value in values) for values in (used.mean, used.std))
    return (
        f"images are prepared with mean {mean}, deviation {std}, {used.interpolation}, crop ratio {used.crop_ratio:.4g}"
    )


def checkpoint_folder(path: Path) -> Path:
    """The checkpoint of a run folder, the best or else the last, or the folder itself where it is a checkpoint."""
    if (path / "state.json").is_file():
        return path
    for name in ("best", "last"):
        if found := find_checkpoint(path / run_files.CHECKPOINTS, name):
            return found
    raise UserError(
        f"{path} is neither a run folder with checkpoints nor a checkpoint folder; expected one that anysize train or "
        "anysize import wrote, or a file"
    )


def digest_of_weights(source: str) -> str:
    """A digest of the weights that a run starts from, by which going on knows others; empty where they are no file.

    Of a checkpoint of ours its state is read, which has the digests of the tensors.

    >>> digest_of_weights("IMAGENET1K_V1")
    ''
    """
    path = Path(source).expanduser()
    if not source or not path.exists():
        return ""
    with contextlib.suppress(OSError, UserError):  # said where they are read; a run that goes on needs them no more
        file = checkpoint_folder(path) / "state.json" if path.is_dir() else path
        with open_regular(file) as content:
            return hashlib.file_digest(content, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    return ""


def check_same_weights(state: Mapping[str, Any], source: str, digest: str) -> None:
    """Raise a `UserError` where a run that goes on, with the `state` of its checkpoint, began from other weights."""
    held = state.get("weights", "")
    if held and digest and held != digest:
        raise UserError(
            f"the run began from other weights than {source} holds now: give a new folder with --out, start over with "
            "--resume never, or go on with --allow-changes"
        )


def _ours(folder: Path, size: int) -> Weights:
    try:
        checkpoint = read_checkpoint(folder, "model", "preprocessing")
    except DamagedCheckpoint as error:
        raise with_another(folder, error, f"take another one of the run, {folder.parent}/{{}}".format) from None
    spec = ModelSpec.from_dict(checkpoint.state["model"])
    if spec.is_quantized:
        raise UserError(f"{folder} holds int8 weights, which are not trained further; start from the float weights")
    note = f"weights: {folder}, a checkpoint of {spec.name} with {spec.num_classes} classes"
    preprocessing = Preprocessing.from_dict(checkpoint.state["preprocessing"])
    tensors = checkpoint.weights
    if spec.norm_sizes:
        size = size or preprocessing.image_size
        note += f"; of its norms by size those for {size} px"
        tensors = _plain(spec, tensors, size, folder)
    return Weights(tensors, preprocessing, str(folder), [note], preprocessing.classes)


def _plain(spec: ModelSpec, tensors: Mapping[str, Tensor], size: int, folder: Path) -> Mapping[str, Tensor]:
    """The weights of a model with norms by size as those of one with plain norms, which are those for `size`."""
    model = spec.build()
    load_model(model, tensors, folder)
    return fix_norm_size(model, size).state_dict()
