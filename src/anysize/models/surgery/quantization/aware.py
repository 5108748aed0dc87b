"""A model made ready to be trained in the numbers that it will compute in: quantization-aware training.

    make_aware(model, torch.zeros(1, 3, 224, 224))     # from then on it rounds, with gradients straight through

A model is quantized with its norms folded into its layers, and trained with its norms as they are. So the places are
those of a folded copy. A value that a folded norm reads is rounded behind the norm. Where the norm stands further down,
behind a sum or an average, the folded layers give values that its scale and shift have been applied to: they are
rounded as such, by its running statistics, and put back.
"""

import copy
import dataclasses
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from anysize.models.surgery.fold import fold_in_place
from anysize.models.surgery.fold_layers import Compensation, affine_of, split_fused
from anysize.models.surgery.quantization.calls import NORM
from anysize.models.surgery.quantization.fake import Quantization, fake_quantize, is_quantized, quantization_of
from anysize.models.surgery.quantization.graph import Graph, record
from anysize.models.surgery.quantization.placement import IMAGES, JOINS, LAYERS, SUMS, Placement, place, place_of
from anysize.models.surgery.quantization.quantizers import ValueQuantizer
from anysize.registry import UserError

_SMALLEST = 2.0**-60
"""Of a scale that values are divided by."""


def make_aware(model: nn.Module, images: Tensor, *, bits: int = 8, keep: Sequence[str] = ()) -> Quantization:
    """Let `model` round values and weights where its int8 form will, in place; ranges follow the values in training.

    Parameters keep their names, but for those of modules that are norm and activation at once (timm's): these are taken
    apart. `model.quantization` is added. Layers that run in training alone, such as those of an auxiliary head, stay in
    float.

    Args:
        model: any that runs on `images`, in float.
        images: (N, C, H, W), of any content: the model is run on them, in evaluation, to see what it does.
        bits: of the weights, 8 or 7.
        keep: patterns of the names of layers that stay in float.

    Raises:
        UserError: no layer can be quantized, a pattern matches none, or a norm is folded into a layer behind it.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
    >>> make_aware(model, torch.zeros(1, 3, 8, 8)).placement.points
    {'images': 'images', '2:relu:0': '0:conv2d:0'}
    """
    was_training = model.training
    split_fused(model)
    folded = copy.deepcopy(model)
    norms = fold_in_place(folded)
    placement = place(record(folded, images), keep)
    graph = record(model.eval(), images)
    model.train(was_training)
    _check_none_is_behind(graph, placement, norms)
    compensated = {name for name in norms if isinstance(folded.get_submodule(name), Compensation)}
    moved, through = _around_norms(graph, model, {name for name in norms if norms[name] == "before"}, compensated)
    points = {moved.get(where, where): name for where, name in placement.points.items()}
    places = {IMAGES, *(place_of(node, value) for node in graph.nodes for value in node.outputs)}
    strange = {*points, *placement.layers} - places
    assert not strange, f"the model does not make the calls that it makes with its norms folded: {sorted(strange)}"
    quantization = fake_quantize(model, dataclasses.replace(placement, points=points), bits)
    quantization.through = through
    for name in placement.quantizers:
        quantization.value(name).observing = True
    return quantization


def is_aware(model: nn.Module) -> bool:
    """Whether a model rounds weights that are trained, rather than holding whole numbers."""
    return is_quantized(model) and all(each.integers is None for each in quantization_of(model).weights.values())


def without_quantization(model: nn.Module) -> nn.Module:
    """A copy of a quantization-aware model that rounds nothing."""
    plain = copy.deepcopy(model)
    del plain.forward
    del plain.quantization
    return plain


@dataclasses.dataclass(frozen=True)
class Through:
    """Rounds values that a norm further down reads, as they are once its scale and shift are in the layers.

    Args:
        norm: the norm.
        start, stop: the first of its channels that these values become, and the one behind the last.
        shifted: whether its shift goes to these values: of several that are added up, to those of the first.
    """

    norm: nn.Module
    start: int
    stop: int
    shifted: bool

    def __call__(self, quantizer: ValueQuantizer, values: Tensor) -> Tensor:
        """Round values (N, C, ...)."""
        affine = affine_of(self.norm)
        if affine is None:  # its statistics are being measured anew, and are none yet
            return values
        shape, wide = (1, -1, *[1] * (values.dim() - 2)), torch.promote_types(values.dtype, torch.float32)
        scale, shift, weight = (
            each[self.start : self.stop].to(wide).view(shape)
            for each in (affine.scale, affine.shift, self._weight(affine.scale))
        )
        shift = shift if self.shifted else torch.zeros_like(shift)
        rounded = quantizer(values.to(wide) * scale + shift)
        fine = scale.abs() > _SMALLEST
        if self.norm.training:
            # A channel that is smaller than a step of the rounding would move its own statistics, and without end.
            fine = fine & (weight.abs() >= quantizer.scale)
        return torch.where(fine, ((rounded - shift) / torch.where(fine, scale, 1.0)).to(values.dtype), values)

    def _weight(self, like: Tensor) -> Tensor:
        weight = getattr(self.norm, "weight", None)
        return torch.ones_like(like) if weight is None else weight.detach()


def _around_norms(
    graph: Graph, model: nn.Module, folded: set[str], compensated: set[str]
) -> tuple[dict[str, str], dict[str, Through]]:
    """Where norms are folded: the places of values that they read, each with that behind the norm; and the values that
    are rounded as the norm will see them."""
    moved: dict[str, str] = {}
    through: dict[str, Through] = {}
    for node in graph.nodes:
        name = node.call.module
        if node.call.function != NORM or name not in folded:
            continue
        (value,) = node.inputs
        producer = graph.producers[value]
        channels = node.args[0][1]
        for where, start, stop, shifted in _upstream(graph, value, 0, channels, True):
            through[where] = Through(model.get_submodule(name), start, stop, shifted)
        if name not in compensated:  # the compensation stays in float behind the rounded values
            del through[place_of(producer, value)]
            moved[place_of(producer, value)] = place_of(node, node.outputs[0])
    return moved, through


def _upstream(graph: Graph, value: int, start: int, stop: int, shifted: bool) -> Iterator[tuple[str, int, int, bool]]:
    """The places of a value and of those that it is made of, up to the layers, with what `Through` is to know."""
    producer = graph.producers[value]
    yield place_of(producer, value), start, stop, shifted
    function = producer.call.function
    if function in LAYERS:
        return
    if function in SUMS:
        for i, summand in enumerate(producer.inputs):
            yield from _upstream(graph, summand, start, stop, shifted and i == 0)
    elif function in JOINS:
        for part, shape in zip(producer.inputs, producer.args[0], strict=True):
            yield from _upstream(graph, part, start, start + shape[1], shifted)
            start += shape[1]
    else:
        yield from _upstream(graph, producer.inputs[0], start, stop, shifted)


def _check_none_is_behind(graph: Graph, placement: Placement, norms: dict[str, str]) -> None:
    """Raise a `UserError` for a norm that is folded into quantized layers behind it."""
    for node in graph.nodes:
        if node.call.function != NORM or norms.get(node.call.module) != "behind":
            continue
        for reader in graph.readers.get(node.outputs[0], []):
            if layer := placement.layers.get(reader.key):
                raise UserError(
                    f"the norm {node.call.module} is folded into the layer behind it, {layer.name}, whose rounding "
                    f"cannot be trained: keep that layer in float with quantize.keep {layer.name}"
                )
