"""Published weights by the name of a recipe, and any model that is trained in one call.

    model = anysize.load_model("torchvision/quantized-mobilenet_v2")
    logits = model(images)                             # model.preprocessing says how images are prepared

A recipe's header names the weights that were made so, such as torchvision's IMAGENET1K_V1.
"""

import functools
import re
import tempfile
from pathlib import Path

from torch import nn

from anysize.experiment.importing import convert, import_checkpoint, import_folder, name_of
from anysize.experiment.weights import checkpoint_folder
from anysize.export.description import Description
from anysize.export.look import is_exported, read_description
from anysize.export.module import RuntimeModel
from anysize.export.runtimes import format_of, open_runtime
from anysize.export.write import EXPORTS, folded
from anysize.models.names import list_models
from anysize.models.spec import ModelSpec, create_model
from anysize.models.weights.addresses import Address, published_addresses
from anysize.models.weights.download import download, is_address
from anysize.models.weights.int8 import read_any
from anysize.models.weights.published import DEFAULT, pretrained_weights
from anysize.preprocessing import Preprocessing
from anysize.recipe import load_recipe
from anysize.recipes import read_header, recipe_names
from anysize.registry import UserError, did_you_mean
from anysize.reports import run_files
from anysize.training.checkpoint import files

_NAMED = re.compile(r"weights (IMAGENET1K_\w+)")


def names_recipe(source: str | Path) -> bool:
    """Whether this is the name of a recipe of the package, and no folder."""
    return str(source) in recipe_names() and not Path(source).is_dir()


@functools.cache
def published_address(recipe: str) -> Address:
    """The published weights that the header of a recipe names.

    Raises:
        UserError: it names none.

    >>> published_address("torchvision/quantized-resnet50").file
    'resnet50_fbgemm_bf931d71.pth'
    """
    named = _NAMED.search(read_header(recipe).published)
    model = load_recipe(recipe).model.name
    found = [each for each in published_addresses(model) if named and each.weights == named[1]]
    if not found:
        raise UserError(
            f"the recipe {recipe} names no published weights; train it with `anysize train {recipe}`, and give the run "
            "folder that it writes"
        )
    return found[0]


def run_folder(run: str | Path) -> Path:
    """The folder of a run; for a recipe's name that of its published weights, which are imported the first time.

    Raises:
        UserError: a recipe without published weights, or ones that cannot be downloaded.
    """
    if not names_recipe(run):
        return Path(run)
    address = published_address(str(run))
    folder = import_folder(address.model, Path(address.file))
    if not (folder / run_files.RECIPE).is_file():
        import_checkpoint(address.url, address.model, out=folder)
    return folder


def load_model(
    source: str | Path, *, name: str = "", weights: str = DEFAULT, runtime: str = "", threads: int = 0
) -> nn.Module:
    """A trained model, in evaluation mode; its attribute `preprocessing` is the `Preprocessing` of its images.

    Args:
        source: a run folder (its best checkpoint, else its last), a checkpoint folder, the name of a recipe whose
            weights are published, an address or a file of another program's, an exported ONNX or pt2 file, or the
            name of a model, with published weights.
        name: the model that a file is of, where neither the file nor its name tells.
        weights: of a model's name: "pretrained", or torchvision's name of them, such as "IMAGENET1K_V1".
        runtime: "onnxruntime", "openvino" or "inductor", which then compute the model on the CPU; empty: PyTorch, or
            what an exported file is for.
        threads: of the runtime; 0: as many as it chooses.

    Raises:
        UserError: there is no such thing, it is damaged or does not fit, or it cannot be downloaded.

    >>> import anysize, tempfile, torch
    >>> file = Path(tempfile.mkdtemp()) / "model.pth"
    >>> torch.save(anysize.create_model("resnet8").state_dict(), file)
    >>> anysize.load_model(file, name="resnet8").preprocessing.image_size
    32
    """
    if is_exported(source):
        described = read_description(source)
        return RuntimeModel(open_runtime(source, runtime, threads), described.preprocessing).eval()
    model = _loaded(source, name, weights)
    if not runtime:
        return model
    preprocessing = model.preprocessing
    if not isinstance(preprocessing, Preprocessing):
        raise UserError(
            f"nothing is known of the images that {source} takes, which {runtime} has to be told; leave it out"
        )
    format = format_of(runtime)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"model.{format}"
        EXPORTS[format](folded(model), file, Description("classification", preprocessing))
        return RuntimeModel(open_runtime(file, runtime, threads), preprocessing).eval()


def _loaded(source: str | Path, name: str, weights: str) -> nn.Module:
    """A trained model as PyTorch computes it; as `load_model`."""
    path = Path(source).expanduser()
    if path.is_dir():
        folder = checkpoint_folder(path)
        return _model_of(files.read_checkpoint(folder, "model", "preprocessing"), folder)
    if names_recipe(source):
        address = published_address(str(source))
        path, name = download(address.url, f"the weights of {source}"), address.model
    elif is_address(source):
        path = download(str(source))
    elif str(source) in list_models() or str(source).startswith("timm:"):
        found = pretrained_weights(str(source), weights)
        model = create_model(str(source), pretrained=weights)
        return _with_input(model, found.preprocessing)
    elif not path.is_file():
        known = [*recipe_names(), *list_models()]
        raise UserError(
            f"there is no folder, file, recipe or model {str(source)!r}: {did_you_mean(str(source), known)}"
        )
    foreign = read_any(path)
    return _model_of(convert(foreign, name or name_of(foreign)).checkpoint, path)


def _model_of(checkpoint: files.Checkpoint, source: Path) -> nn.Module:
    model = ModelSpec.from_dict(checkpoint.state["model"]).build()
    files.load_model(model, checkpoint.weights, source)
    return _with_input(model, Preprocessing.from_dict(checkpoint.state["preprocessing"]))


def _with_input(model: nn.Module, preprocessing: Preprocessing | None) -> nn.Module:
    object.__setattr__(model, "preprocessing", preprocessing)
    return model.eval()
