"""`ModelSpec` says what a model is made of: recipes make it, checkpoints keep it, and every model is built from it.

    spec = ModelSpec("resnext50_elastic", num_classes=10, task="segmentation")
    model = spec.build()

`create_model` is short for that. `names` tells what a model can be named.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from anysize.models import trust
from anysize.models.builders import builder_parameters, call_builder, replace_first_convolution, timm_model
from anysize.models.expected import expected_preprocessing
from anysize.models.families import MODELS
from anysize.models.names import find_builder, made_for
from anysize.models.settings import ModelSettings
from anysize.models.surgery.elasticize import elasticize as elasticize_blocks
from anysize.models.surgery.quantization.aware import make_aware
from anysize.models.surgery.quantization.fake import expect_integers
from anysize.models.surgery.quantization.prepare import prepare
from anysize.models.weights.fitting import fit_state_dict
from anysize.models.weights.published import DEFAULT, pretrained_weights
from anysize.norms.by_size.model import fix_norm_size, norm_by_size
from anysize.norms.convert.model import convert_norms
from anysize.norms.factory import check_options
from anysize.registry import Registry, UserError, counted

# Off unless asked for: the auxiliary heads, with which the network returns a tuple in training, and the initialization
# of the papers, which takes seconds.
_TORCHVISION_DEFAULTS = {
    "googlenet": {"aux_logits": False, "init_weights": False},
    "inception_v3": {"aux_logits": False, "init_weights": False},
}

CHANGES: "Registry[None]" = Registry("change of a model")
"""Functions by the name of the change that they make to a model; each takes the model, its spec and its options."""


@dataclasses.dataclass(frozen=True)
class Change:
    """A change that is made to a model after it was built: its name in `CHANGES` and its options."""

    name: str
    options: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """A description from which a model is built; it is JSON-ready, so that a checkpoint can keep it.

    Args:
        name: as `create_model` takes it.
        num_classes: of the data; None: as many as the model was published with, 10 for a builder of your own.
        in_channels: of the data.
        task: "classification", "multilabel" or "segmentation"; empty: what the model was made for.
        options: of the model's builder. An option `norm` of the model's own is one of them.
        image_size: pixels; the norm `layer_elementwise` is built for it where its options name none.
        changes: are made to the model after it was built, in this order.

    Raises:
        UserError: fewer than 1 classes or channels. `build` raises for the rest.

    >>> ModelSpec("resnet8", num_classes=10).swap_norms("layer").build().bn1
    GroupNorm(1, 16, eps=1e-05, affine=True, bias=True)
    """

    name: str
    num_classes: int | None = None
    in_channels: int = 3
    task: str = ""
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    image_size: int = 0
    changes: tuple[Change, ...] = ()

    def __post_init__(self) -> None:
        for argument, number in (("num_classes", self.num_classes), ("in_channels", self.in_channels)):
            if number is not None and (not isinstance(number, int) or number < 1):
                raise UserError(f"model {self.name!r}: {argument} is {number!r}; expected at least 1, a whole number")

    @classmethod
    def from_settings(
        cls, settings: ModelSettings, aware: Mapping[str, Any] | None = None, sizes: Sequence[int] = (), **of_data: Any
    ) -> "ModelSpec":
        """The model that `[model]` of a recipe asks for; `of_data` are classes, channels, task and image size.

        `aware` are the options of `quantize_aware` where it is trained for int8, `sizes` those of training, by which
        norms are kept where the settings say so; without them they are plain.
        """
        spec = cls(settings.name, options=settings.options, **of_data)
        spec = spec.elasticize(settings.elasticize).swap_norms(settings.norm, settings.norm_options)
        if settings.norm_by_size and sizes:
            spec = spec.norm_by_size(sizes, affine=settings.norm_by_size_affine)
        return spec if aware is None else spec.quantize_aware(**aware)

    def elasticize(self, stages: str | Sequence[str]) -> "ModelSpec":
        """This model with a branch at half resolution in the blocks of these stages; empty: as it is."""
        return self._then(Change("elasticize", {"stages": stages})) if stages else self

    def swap_norms(self, norm: str, norm_options: Mapping[str, Any] | None = None) -> "ModelSpec":
        """This model with its norms swapped for those named `norm`; empty: as it is."""
        if norm:
            return self._then(Change("norms", {"norm": norm, "norm_options": dict(norm_options or {})}))
        if norm_options:
            raise UserError(f"norm_options {dict(norm_options)} are given without a norm; name it with norm")
        return self

    def norm_by_size(self, sizes: Sequence[int], *, affine: bool = False) -> "ModelSpec":
        """This model with a norm for each of these image sizes (pixels), as `anysize.norm_by_size` makes them."""
        return self._then(Change("norm_by_size", {"sizes": [*sizes], "affine": affine}))

    def fix_norm_size(self, size: int) -> "ModelSpec":
        """This model with plain norms again, those for one image size; a model with plain norms: as it is."""
        return self._then(Change("fix_norm_size", {"size": size})) if self.norm_sizes else self

    @property
    def norm_sizes(self) -> list[int]:
        """The image sizes that the model keeps norms for; empty: its norms are plain."""
        done = {change.name: change.options for change in self.changes}
        return [] if "fix_norm_size" in done else done.get("norm_by_size", {}).get("sizes", [])

    def without_relu6(self) -> "ModelSpec":
        """This model with ReLU where it has ReLU6, as torchvision quantizes its networks."""
        return self._then(Change("relu6_to_relu", {}))

    def quantize_aware(self, bits: int = 8, keep: Sequence[str] = ()) -> "ModelSpec":
        """This model, to be trained for int8: it rounds values, and weights to 8 or 7 bits; `keep` stay in float."""
        return self._then(Change("quantize_aware", {"bits": bits, "keep": list(keep)}))

    def quantized(self, bits: int = 8, keep: Sequence[str] = (), *, biases: bool = False) -> "ModelSpec":
        """This model, for evaluation alone, with weights of 8 or 7 bits; the layers `keep` stay in float.

        Ranges and weights are none yet: those of a checkpoint are loaded into it. A model that was trained for int8
        rounds where it did. With `biases` each layer has one, as bias correction gives it.
        """
        changes = tuple(change for change in self.changes if change.name != "quantize_aware")
        return dataclasses.replace(self, changes=changes)._then(
            Change("quantized", {"bits": bits, "keep": list(keep), **({"biases": True} if biases else {})})
        )

    @property
    def is_quantized(self) -> bool:
        """Whether the model is for evaluation alone, with weights in whole numbers."""
        return any(change.name == "quantized" for change in self.changes)

    def _then(self, change: Change) -> "ModelSpec":
        return dataclasses.replace(self, changes=(*self.changes, change))

    @property
    def settings(self) -> dict[str, Any]:
        """The fields of `[model]` in a recipe that asks for this model."""
        done = {change.name: change.options for change in self.changes}
        return {
            "name": self.name,
            "options": self.options,
            "elasticize": done.get("elasticize", {}).get("stages", ""),
            **done.get("norms", {"norm": "", "norm_options": {}}),
            "norm_by_size": "norm_by_size" in done,
            "norm_by_size_affine": done.get("norm_by_size", {}).get("affine", False),
        }

    @property
    def aware(self) -> dict[str, Any] | None:
        """The options of `quantize_aware`; None where the model is not trained for int8."""
        return next((change.options for change in self.changes if change.name == "quantize_aware"), None)

    def to_dict(self) -> dict[str, Any]:
        """A dict that `from_dict` reads back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ModelSpec":
        """Read a dict of `to_dict`, or that of an older checkpoint, which has settings in the place of the changes."""
        trust.found(values)
        known = {field.name for field in dataclasses.fields(cls)}
        given = {key: value for key, value in values.items() if key in known}
        if "changes" in given:
            return cls(**{**given, "changes": tuple(Change(**change) for change in given["changes"])})
        spec = cls(**given).elasticize(values.get("elasticize", ""))
        return spec.swap_norms(values.get("norm", ""), values.get("norm_options"))

    def build(self, first_weights: Callable[[nn.Module], object] | None = None, after: int = 0) -> nn.Module:
        """Build the model; `first_weights` is called with it once so many changes (`after`) are made.

        Raises:
            UserError: as `create_model`.
        """
        model = _network(self, _with_task(self.name, self.task, self.options))
        for number, change in enumerate((*self.changes, None)):
            if first_weights and number == after:
                first_weights(model)
            if change:
                CHANGES[change.name](model, self, **change.options)
        return model


@CHANGES.register("elasticize")
def _elasticize(model: nn.Module, spec: ModelSpec, stages: str | Sequence[str]) -> None:
    elasticize_blocks(model, stages)


@CHANGES.register("norms")
def _swap_norms(model: nn.Module, spec: ModelSpec, norm: str, norm_options: Mapping[str, Any]) -> None:
    if norm == "layer_elementwise" and spec.image_size:
        norm_options = {"image_size": spec.image_size, **norm_options}
    try:
        check_options(norm, {key: value for key, value in norm_options.items() if key not in ("skip", "image_size")})
        convert_norms(model, norm, in_channels=spec.in_channels, **norm_options)
    except UserError as error:
        raise UserError(f"model {spec.name!r} with norm {norm!r}: {error}") from None


@CHANGES.register("norm_by_size")
def _norm_by_size(model: nn.Module, spec: ModelSpec, sizes: Sequence[int], affine: bool = False) -> None:
    norm_by_size(model, sizes, affine)


@CHANGES.register("fix_norm_size")
def _fix_norm_size(model: nn.Module, spec: ModelSpec, size: int) -> None:
    fix_norm_size(model, size)


@CHANGES.register("relu6_to_relu")
def _plain_relus(model: nn.Module, spec: ModelSpec) -> None:
    """As torchvision does before it quantizes: what is above 6 is cut off by the range of the values, if at all."""
    for parent in list(model.modules()):
        for name, module in list(parent.named_children()):
            if type(module) is nn.ReLU6:
                setattr(parent, name, nn.ReLU(inplace=module.inplace))


@CHANGES.register("quantized")
def _quantize(model: nn.Module, spec: ModelSpec, bits: int = 8, keep: Sequence[str] = (), biases: bool = False) -> None:
    images = _sample(spec)
    expect_integers(prepare(model, images, bits=bits, keep=keep), images, biases=biases)


@CHANGES.register("quantize_aware")
def _quantize_aware(model: nn.Module, spec: ModelSpec, bits: int = 8, keep: Sequence[str] = ()) -> None:
    make_aware(model, _sample(spec), bits=bits, keep=keep)


def _sample(spec: ModelSpec) -> torch.Tensor:
    """An image to see what a model does."""
    size = spec.image_size or expected_preprocessing(spec.name, spec.task).image_size
    return torch.zeros(1, spec.in_channels, size, size)


def create_model(
    name: str, num_classes: int | None = None, in_channels: int = 3, *,
    task: str = "", elasticize: str | Sequence[str] = "", norm: str = "", norm_options: Mapping[str, Any] | None = None,
    pretrained: bool | str = False, **options: Any,
) -> nn.Module:  # fmt: skip
    """Build a model that maps images (N, in_channels, H, W) to logits (N, num_classes), untrained unless asked for.

    Args:
        name: one of `list_models()`, or a builder of your own as `FILE.py:FUNCTION` or `MODULE:FUNCTION`, which is
            called with `num_classes`, `in_channels` and the options.
        num_classes: of the data; None: as many as the model was published with, such as 1000 for ImageNet; 10 for a
            builder of your own.
        in_channels: of the data. A torchvision model gets a new first convolution for other than 3 channels.
        task: "classification" and "multilabel" want logits of an image; with "segmentation" a model that has such a
            head returns (N, num_classes, H, W), in training with auxiliary logits beside where it has a head for them;
            empty: what the model was made for.
        elasticize: stages whose residual blocks get a branch at half resolution, as `anysize.elasticize` takes them:
            "auto", "all" or names; empty: none.
        norm: swap the model's norms for this one, as `convert_norms` does; empty: the model's own.
        norm_options: options of the norm, and `skip` and `image_size` of `convert_norms`.
        pretrained: start from published weights, torchvision's, timm's or the authors'; the name of torchvision's
            where they are not the default ones, such as "IMAGENET1K_V1". With another class count the head stays
            untrained, and the first convolution is adapted to other input channels. `load_weights` takes files and
            runs.
        options: further arguments of the builder.

    Raises:
        UserError: an unknown model, file, function or norm, fewer than 1 classes or channels, a task that the model
            has no head for, an option that the builder or the norm does not take, a result that is no `nn.Module`,
            norms that cannot be swapped, `norm` for a builder that has an option of that name itself, or published
            weights that there are not or that cannot be downloaded.

    >>> import torch
    >>> create_model("resnet20", num_classes=100, in_channels=1)(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 100])
    """
    trust.consent(name)
    spec = ModelSpec(name, num_classes, in_channels, task, options).elasticize(elasticize)
    spec = spec.swap_norms(norm, norm_options)
    timm = name.startswith("timm:")
    if norm and not timm and "norm" in (builder_parameters(find_builder(name)) or {}):
        raise UserError(
            f"model {name!r} has an option 'norm' of its own, so that norm= may mean either; build the model with its "
            "own builder, then call anysize.convert_norms"
        )

    def load(model: nn.Module) -> None:
        found = pretrained_weights(name, DEFAULT if pretrained is True else str(pretrained), options)
        fit_state_dict(model, found.tensors, num_classes=num_classes, source=found.source)

    return spec.build(load if pretrained else None)


def _network(spec: ModelSpec, options: Mapping[str, Any]) -> nn.Module:
    """The model with its own norms and blocks."""
    name, in_channels = spec.name, spec.in_channels
    if name.startswith("timm:"):
        return timm_model(name, spec.num_classes, in_channels, options)
    builder = find_builder(name)
    if ":" in name or name in MODELS:
        classes = spec.num_classes or (10 if ":" in name else None)
        return call_builder(name, builder, {"num_classes": classes, "in_channels": in_channels}, options)
    if options.get("transform_input") and in_channels != 3:
        raise UserError(
            f"model {name!r}: transform_input changes the scale of three colours, and the images have "
            f"{counted(in_channels, 'channel')}; leave it out"
        )
    fixed = {"weights": None, "num_classes": spec.num_classes or 1000}
    model = call_builder(name, builder, fixed, {**_TORCHVISION_DEFAULTS.get(name, {}), **options})
    if in_channels != 3:
        replace_first_convolution(model, in_channels)
    return model


def _with_task(name: str, task: str, options: Mapping[str, Any]) -> Mapping[str, Any]:
    """The options of a builder with the head that a task wants."""
    if task not in ("", "classification", "multilabel", "segmentation"):
        raise UserError(f"task is {task!r}; expected classification, multilabel or segmentation")
    if not task:
        return options
    own_task = made_for(name)
    if task == "segmentation":
        if own_task is None and ":" not in name:
            heads = ", ".join(ours for ours in MODELS if made_for(ours))
            raise UserError(f"model {name!r} has no head for segmentation; those that have one: {heads}")
        return {**options, "task": task}
    if own_task == "segmentation":
        raise UserError(
            f"model {name!r} is for segmentation alone, and the task is {task}; choose another model, or task "
            "segmentation"
        )
    return options
