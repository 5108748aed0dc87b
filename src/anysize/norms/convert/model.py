"""Swap the norms of any model: `convert_norms`.

    print(convert_norms(model, "online", alpha_fwd=0.999, alpha_bkw=0.99))

All is planned before anything is changed: a model that is refused is as it was.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from torch import nn

from anysize.norms.convert.inputs import layer_dims, measure_inputs
from anysize.norms.convert.recognise import Found, find_norms, recognise
from anysize.norms.convert.replace import channels, replacement
from anysize.norms.factory import NORMS, check_options, largest_divisor, norm_options
from anysize.norms.layers import NormAct
from anysize.registry import UserError


@dataclasses.dataclass(frozen=True)
class Conversion:
    """The result of `convert_norms`, by the names of the modules; a module with two names is listed under its first.

    Args:
        swapped: the class that was there and the one that is there now.
        skipped: the class of norms that `skip` left out.
        unchanged: the class of norms that were of the wanted kind already.

    >>> print(Conversion({"bn1": ("BatchNorm2d", "OnlineNorm2d"), "bn2": ("BatchNorm2d", "OnlineNorm2d")}))
    2 norms: BatchNorm2d to OnlineNorm2d
    """

    swapped: dict[str, tuple[str, str]]
    skipped: dict[str, str] = dataclasses.field(default_factory=dict)
    unchanged: dict[str, str] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        swapped = [f"{old} to {new}" for old, new in self.swapped.values()]
        kinds = {"": swapped, " unchanged": self.unchanged.values(), " skipped": self.skipped.values()}
        return "\n".join(
            f"{count} norm{'s' * (count > 1)}{what}: {classes}"
            for what, names in kinds.items()
            for classes, count in Counter(names).items()
        )


def convert_norms(
    model: nn.Module, name: str, *,
    skip: str | Sequence[str] = (), image_size: int | None = None, in_channels: int = 3, **options: Any,
) -> Conversion:  # fmt: skip
    """Swap the norms of `model` for those named `name`, in place.

    Known are torch's batch, synchronised, instance and group norms, `FrozenBatchNorm2d` and `LayerNorm2d` of
    torchvision and timm, timm's modules of norm, dropout and activation, our own norms, and layer norms over
    (C, H, W). Anything else that is a norm is refused, such as the layer norms of transformers, RMS norms, and norms
    with a forward of their own.

    A new norm has the name of the old one. Of the old norm it keeps the weight and the bias a channel (the parameters
    themselves, so that an optimizer goes on with them), dtype, device, training mode, whether it is affine, `eps`, and
    where both kinds have one the running mean and variance and the options that are not given. timm's modules of norm,
    dropout and activation become a `NormAct` with the same dropout and activation: their `bn1.weight` is then
    `bn1.norm.weight`. Where they have neither, the new norm stands alone and the names are as before. With `none` the
    activations of the model no longer work in place, since one behind a norm would now overwrite what the norm
    received. Norms that are of the kind already are replaced where options are given, and left alone otherwise;
    torch's synchronised norm is replaced by ours, which works on CPUs too.

    Args:
        model: any module.
        name: of the new norms, as for `create_norm`.
        skip: patterns (`fnmatch`) of names or classes of modules; the norms in a module that matches stay as they are.
        image_size: side (pixels) of square images, of which one is put through a copy of the model to measure the
            inputs of its norms. `layer_elementwise` needs it. Without it, norms that do not tell whether they see
            (N, C, L) or (N, C, H, W), such as group norms, are taken to see what the convolution or linear layer
            before them makes.
        in_channels: of these images.
        options: of the new norms, as for `create_norm`.

    Raises:
        UserError: an unknown norm or option; no norm in the model; a norm that cannot be swapped, with the `skip` that
            leaves it out; `num_groups` that does not divide the channels; `layer_elementwise` without `image_size`.
            The model is then as it was.

    >>> print(convert_norms(nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16)), "group", num_groups=4))
    1 norm: BatchNorm2d to GroupNorm
    """
    if not isinstance(model, nn.Module):
        raise UserError(f"convert_norms received {model!r}; expected a torch.nn.Module and then the name of a norm")
    NORMS[name]
    check_options(name, options)
    if "shape" in options:
        raise UserError("convert_norms measures the shape itself; give image_size in its place")
    if recognise(model) is not None:
        raise UserError(
            f"the model is itself a norm ({type(model).__name__}), which cannot be swapped in place; build another "
            f"with create_norm({name!r}, ...)"
        )
    patterns = [skip] if isinstance(skip, str) else skip
    if not isinstance(patterns, Sequence) or not all(isinstance(pattern, str) for pattern in patterns):
        raise UserError(f"skip is {skip!r}; expected a list of patterns, such as ['head.*', 'LayerNorm']")
    found, matched = find_norms(model, patterns)
    for pattern in patterns:
        if pattern not in matched:
            raise UserError(f"skip pattern {pattern!r} matches the name or class of no module; leave it out")
    chosen = [norm for norm in found if not norm.skipped]
    if not chosen:
        none = "none was found (after a conversion to 'none' there is none left)"
        why = "skip leaves out all of its norms" if found else none
        raise UserError(f"{type(model).__name__} has no norm to swap: {why}")
    _refuse_unknown(chosen)
    renew = bool(options) or (name == "layer_elementwise" and image_size is not None)
    todo = [norm for norm in chosen if norm.kind.name != name or renew or isinstance(norm.module, nn.SyncBatchNorm)]
    inputs = _Inputs(model, todo, image_size, in_channels)
    _check_inputs(name, todo, inputs, options)
    like = next(model.parameters(), None)
    new: dict[str, nn.Module] = {}
    for norm in todo:
        shape = {"shape": inputs.shapes[norm.name][0]} if name == "layer_elementwise" else {}
        try:
            new[norm.name] = replacement(norm.module, name, inputs.dims(norm), {**shape, **options}, like)
        except UserError as error:
            raise UserError(f"norm {norm.name!r} ({norm.class_name}): {error}") from None
    for norm in todo:
        for place in norm.names:
            parent, _, attribute = place.rpartition(".")
            setattr(model.get_submodule(parent), attribute, new[norm.name])
    if name == "none":
        for module in model.modules():
            if getattr(module, "inplace", False) is True:
                module.inplace = False  # type: ignore[assignment]
    return Conversion(
        {norm.name: (norm.class_name, _label(new[norm.name])) for norm in todo},
        {norm.name: norm.class_name for norm in found if norm.skipped},
        {norm.name: norm.class_name for norm in chosen if norm not in todo},
    )


class _Inputs:
    """The inputs of the norms, by name: shapes behind the channels, if an image size was given to measure them with."""

    def __init__(self, model: nn.Module, norms: list[Found], image_size: int | None, in_channels: int) -> None:
        self.measured = image_size is not None
        names = [norm.name for norm in norms]
        self.shapes = {} if image_size is None else measure_inputs(model, names, image_size, in_channels)
        self.behind = layer_dims(model)  # the dimensions that the layer before a norm makes

    def dims(self, norm: Found) -> int:
        """1 for (N, C) and (N, C, L), 2 for (N, C, H, W), 3 for (N, C, D, H, W)."""
        seen = self.shapes.get(norm.name)
        return norm.kind.dims or max(1, len(seen[0]) if seen else self.behind[norm.name])

    def one_value(self, norm: Found) -> bool:
        """Whether the norm sees (N, C), as far as can be told."""
        seen = self.shapes.get(norm.name)
        return () in seen if seen else self.dims(norm) == 1 and self.behind[norm.name] != 1


def _refuse_unknown(norms: list[Found]) -> None:
    refused = [norm for norm in norms if norm.kind.refused]
    if refused:
        first = refused[0]
        good = {norm.class_name for norm in norms if not norm.kind.refused}
        skip = sorted({norm.name if norm.class_name in good else norm.class_name for norm in refused})
        more = f", one of {len(refused)} such norms," if len(refused) > 1 else ""
        raise UserError(
            f"norm {first.name!r} ({first.class_name}){more} cannot be swapped: it {first.kind.refused}; leave such "
            f"norms as they are with skip={skip}"
        )


def _check_inputs(name: str, norms: list[Found], inputs: _Inputs, options: dict[str, Any]) -> None:
    """Raise a `UserError` where the wanted norm does not go with what the norms see."""
    if name == "layer_elementwise" and norms and not inputs.measured:
        raise UserError(
            "norm 'layer_elementwise' has a weight for each position, so the size of the images must be known: give "
            "image_size, their side in pixels"
        )
    for norm in norms:
        problem = None
        if name == "instance" and inputs.one_value(norm):
            problem = "sees (N, C), one value a channel, which leaves nothing to normalise to an instance norm"
        elif name == "layer_elementwise" and norm.name not in inputs.shapes:
            problem = "is not reached in evaluation, so that its shape is not known"
        elif name == "layer_elementwise" and len(inputs.shapes[norm.name]) > 1:
            problem = f"sees several shapes, {inputs.shapes[norm.name]}, and has one weight for each position"
        if problem:
            raise UserError(
                f"norm {norm.name!r} ({norm.class_name}) {problem}; leave it as it is with skip=[{norm.name!r}]"
            )
    if name == "group" and norms:
        default = norm_options("group")["num_groups"]
        fits = math.gcd(*(channels(norm.module) for norm in norms))
        for norm in norms:
            groups = options.get("num_groups", norm.module.num_groups if norm.kind.name == "group" else default)
            if groups > 0 and channels(norm.module) % groups:
                raise UserError(
                    f"num_groups is {groups}, which does not divide the {channels(norm.module)} channels of norm "
                    f"{norm.name!r}; num_groups={largest_divisor(fits, groups)} divides those of every norm of this "
                    "model"
                )


def _label(norm: nn.Module) -> str:
    """How a summary names a new norm."""
    if not isinstance(norm, NormAct):
        return type(norm).__name__
    return f"NormAct({type(norm.norm).__name__}, {type(norm.act).__name__})"
