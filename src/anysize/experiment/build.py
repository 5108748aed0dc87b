"""A recipe's parts: data, model, and what each checkpoint says of them; its plan is made in `sizing`."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from anysize.data.augment.transform import Transform
from anysize.data.catalog import build_preprocessing, resized_as_set
from anysize.data.copies import shared_images
from anysize.data.decode import decoder
from anysize.data.kinds.base import TargetKind
from anysize.data.loader import PlanLoader
from anysize.data.settings import DataSettings
from anysize.data.source import Source
from anysize.experiment.sizing import base_size
from anysize.experiment.targets import info_of, open_split, ready, train_transform
from anysize.experiment.weights import Weights, start_from
from anysize.models.measure.flops import count_flops
from anysize.models.measure.input_size import check_size
from anysize.models.spec import ModelSpec
from anysize.models.surgery.narrow import make_narrow_safe
from anysize.models.surgery.recompute import checkpoint_segments
from anysize.norms.by_size.model import check_norm_by_size
from anysize.norms.online.norm import online_norms
from anysize.preprocessing import Preprocessing
from anysize.recipe import Recipe, to_dict
from anysize.registry import UserError
from anysize.sizes.cost import Flops
from anysize.sizes.shapes import Extent
from anysize.training.decay import freeze


@dataclasses.dataclass(frozen=True)
class Data:
    """The training images with all that the rest of a run needs to know of them."""

    train: Source
    preprocessing: Preprocessing
    transform: Transform

    def loader(self, settings: DataSettings, device: torch.device) -> PlanLoader:
        """A loader that serves every size and epoch."""
        return PlanLoader(self.train, self.transform, device=device, workers=settings.workers, reduced=True)


def check_targets(train: Source, validation: Source | None, kind: TargetKind, warn: Callable[[str], object]) -> None:
    """Refuse training images from which nothing can be learnt; warn about classes that cannot be, or not be measured.

    `validation` is None where it is training images on purpose.

    Raises:
        UserError: all targets of the training images are alike.
    """
    doubts = kind.first_doubts(train)
    doubts.check()
    measured = kind.first_doubts(validation).of_split("validation") if validation else []
    for text in [*doubts.of_split("train"), *measured]:
        warn(text)
    if validation is None:
        return
    if len(train) <= _MOST_COMPARED and (shared := shared_images(train, validation)):
        warn(shared)


def build_data(recipe: Recipe, weights_want: Preprocessing | None = None, opened: Source | None = None) -> Data:
    """Open the training images and settle how they are fed to the model.

    `weights_want` is the input of the weights that the model starts from or has; see `feed_alike`. `opened` are the
    training images where they are open already, and not decoded.
    """
    source = ready(opened, recipe.data) if opened else open_split(recipe, "train")
    preprocessing = build_preprocessing(recipe.data, info_of(recipe), base_size(recipe), source.classes)
    preprocessing = feed_alike(preprocessing, weights_want, recipe.data)
    trained = recipe.sizes.trained_base
    preprocessing = dataclasses.replace(preprocessing, backend=recipe.augment.backend, trained_size=trained)
    return Data(source, preprocessing, train_transform(recipe, preprocessing))


def feed_alike(data: Preprocessing, weights: Preprocessing | None, settings: DataSettings) -> Preprocessing:
    """The data's preprocessing with mean, deviation, interpolation and crop ratio of the weights.

    What the recipe sets of them stays. So does everything where the weights are for another number of
    channels.

    >>> grey = Preprocessing(28, (0.5,), (0.25,))
    >>> feed_alike(grey, Preprocessing(224), DataSettings()) == grey
    True
    """
    if weights is None or weights.channels != data.channels:
        return data
    alike = dataclasses.replace(
        data,
        mean=data.mean if settings.mean else weights.mean,
        std=data.std if settings.std else weights.std,
        interpolation=weights.interpolation,
        crop_ratio=weights.crop_ratio,
    )
    return resized_as_set(alike, settings)


def build_model(recipe: Recipe, preprocessing: Preprocessing, weights: Weights | None = None) -> nn.Module:
    """The model with the data's classes and channels; its first weights follow from the seed where none are given.

    Its norms are plain: `norm_by_size` is done once it is known which sizes occur, and checked here.
    """
    _check_aware(recipe)
    if recipe.model.norm_by_size_affine and not recipe.model.norm_by_size:
        raise UserError("model.norm_by_size_affine is set without model.norm_by_size; set that, or leave this out")
    torch.manual_seed(recipe.training.seed)
    spec = model_spec(recipe, preprocessing)
    model = start_from(spec, weights, partial=recipe.model.partial_weights) if weights else spec.build()
    freeze(model, recipe.optimizer.freeze)
    if recipe.training.channels_last:
        make_narrow_safe(model)
        model = model.to(memory_format=torch.channels_last)
    if recipe.model.checkpoint_segments:
        if recipe.training.compile and any(online_norms(model)):
            raise UserError(
                "online norm cannot be compiled and recomputed at once: set training.compile to false or "
                "model.checkpoint_segments to 0"
            )
        checkpoint_segments(model, recipe.model.checkpoint_segments)
    if recipe.model.norm_by_size:
        check_norm_by_size(model, affine=recipe.model.norm_by_size_affine)
    return model


def _check_aware(recipe: Recipe) -> None:
    """Raise a `UserError` for settings of [quantize] that say nothing, or do not go with others."""
    if not recipe.quantize.aware:
        for field in dataclasses.fields(recipe.quantize):
            if getattr(recipe.quantize, field.name) != field.default:
                raise UserError(f"quantize.{field.name} is set without quantize.aware; set that, or leave this out")
        return
    if recipe.model.norm_by_size:
        raise UserError(
            "model.norm_by_size does not go with quantize.aware, whose integers are for one set of statistics: leave "
            "one of them out, or quantize the trained run (anysize quantize)"
        )
    for name, value in (
        ("training.compile", recipe.training.compile), ("model.checkpoint_segments", recipe.model.checkpoint_segments),
    ):  # fmt: skip
        if value:
            raise UserError(
                f"{name} does not go with quantize.aware, which follows each call of the forward pass; leave one of "
                "them out"
            )


def flops_by_size(model: nn.Module, channels: int) -> Callable[[Extent], Flops]:
    """FLOPs of one image of a size, counted once a size; raises a `UserError` for a size the network cannot take."""

    @functools.cache
    def flops(size: Extent) -> Flops:
        check_size(model, size, channels, training=True)
        return count_flops(model, size, channels)

    return flops


def model_spec(recipe: Recipe, preprocessing: Preprocessing, sizes: Sequence[int] = ()) -> ModelSpec:
    """The model of a recipe for the classes, channels and image size of its data.

    `sizes` are those that it trains at, which `training_sizes` tells; without them its norms are plain.
    """
    return ModelSpec.from_settings(
        recipe.model,
        recipe.quantize.options,
        sizes,
        num_classes=len(preprocessing.classes),
        in_channels=preprocessing.channels,
        task=recipe.task.name,
        image_size=preprocessing.image_size,
    )


def describe(
    recipe: Recipe,
    preprocessing: Preprocessing,
    images: int,
    batches_a_step: int,
    data: Mapping[str, Any],
    weights: str = "",
    sizes: Sequence[int] = (),
) -> dict[str, Any]:
    """The description that every checkpoint carries, enough to rebuild the model and feed it rightly.

    `batches_a_step` of training.batch_size are the total batch of the run, which stands when it goes on. `data` is
    the identity of its images (`anysize.experiment.identity`), `weights` a digest of its first weights, `sizes` those
    that it trains at; what decodes the images is kept where that tells in pixels.
    """
    return {
        "recipe": to_dict(recipe),
        "model": model_spec(recipe, preprocessing, sizes).to_dict(),
        "task": recipe.task.name,
        "images": images,
        "data": dict(data),
        **({"decoder": decoder()} if recipe.data.decode == "scaled" else {}),
        "batches_a_step": batches_a_step,
        "preprocessing": preprocessing.to_dict(),
        **({"weights": weights} if weights else {}),
    }


_MOST_COMPARED = 100_000  # training files among which validation files are looked for; `data check` takes any number
# Settings that change where or how a run is computed, not what comes out: they may differ when a run goes on. So may
# what is done about damaged images, of which a run that stopped at the first has trained on none, and the place of the
# list of those that are left out: which these are belongs to the identity of the data.
HARMLESS = (
    "data.root", "data.renamed_classes", "data.download", "data.workers", "data.memory_limit", "data.on_bad_image",
    "data.max_pixels", "data.outside", "data.exclude", "data.stream_limit", "data.stream_cache",
    "training.checkpoint_minutes", "training.checkpoint_steps", "training.checkpoint_background",
    "training.keep_previous", "training.keep_best", "training.timeout_minutes", "model.checkpoint_segments",
    "tracking.names", "tracking.project", "tracking.folder",
)  # fmt: skip


def default_run_folder(name: str, overrides: Mapping[str, Any]) -> Path:
    """`runs/RECIPE`, with a short digest of the settings that differ, so that the same command finds the same folder.

    >>> default_run_folder("mixsize/mine", {"data.root": "~/data"}).as_posix()
    'runs/mixsize-mine'
    """
    overrides = {key: value for key, value in overrides.items() if key not in HARMLESS}
    stem = Path(name).stem if name.endswith(".toml") else name.replace("/", "-")
    if overrides:
        text = json.dumps({key: str(value) for key, value in sorted(overrides.items())})
        stem += "-" + hashlib.blake2b(text.encode(), digest_size=3).hexdigest()
    return Path("runs") / stem
