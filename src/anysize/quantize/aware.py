"""Training for int8: what moves in which epoch, what processes share, and the int8 model that comes out of it.

    set_epoch(model, settings, epoch)        # behind model.train(): a pure function of the epoch
    share_ranges(model, world)               # behind each step
    fixed = fixed_from_aware(model, images)  # whole numbers, for evaluation and export

`models.surgery.quantization.aware` makes a model quantization-aware.
"""

from typing import Any

import torch
from torch import Tensor, nn

from anysize.models.measure.meta import device_of, try_on_meta
from anysize.models.surgery.quantization.aware import is_aware, without_quantization
from anysize.models.surgery.quantization.fake import fix_weights, quantization_of
from anysize.models.surgery.quantization.placement import Layer
from anysize.models.surgery.quantization.prepare import prepare
from anysize.models.surgery.quantization.quantizers import ValueQuantizer, parameters_of
from anysize.norms.running import running_norms
from anysize.norms.synchronised import each_alone
from anysize.quantize.settings import QuantizeSettings
from anysize.registry import UserError
from anysize.world import World


def set_epoch(model: nn.Module, settings: QuantizeSettings, epoch: int) -> None:
    """Say what moves in an epoch (from 0) of training: ranges of values, running statistics of norms.

    A norm whose statistics stand is in evaluation: it normalises by them. All else stays in training, dropout too.
    That of an online norm is a scale and a shift a channel; its control variables stand, and its gradient is the
    derivative.
    """
    for quantizer in _quantizers(model):
        quantizer.observing = epoch < settings.observer_epochs
    for norm in running_norms(model).values() if statistics_stand(settings, epoch) else ():
        norm.training = False  # not .eval(): a norm may hold a dropout


def statistics_stand(settings: QuantizeSettings, epoch: int) -> bool:
    """Whether the running statistics of norms no longer move in an epoch (from 0)."""
    return epoch >= settings.statistics_epochs


def share_ranges(model: nn.Module, world: World) -> None:
    """Give the ranges that follow the values the lowest and the highest end of any process; waits for no device.

    They are then those that one process with all the images would have.
    """
    quantizers = [each for each in _quantizers(model) if each.observing]
    if world.size == 1 or not quantizers:
        return
    ends = torch.stack([torch.stack([-each.low, each.high]) for each in quantizers], 1)
    world.maximum(ends)
    low, high = -ends[0], ends[1]
    scale, zero_point = parameters_of(low, high)
    for name, values in (("low", low), ("high", high), ("scale", scale), ("zero_point", zero_point)):
        torch._foreach_copy_([getattr(each, name) for each in quantizers], list(values.unbind()))


def check_reached(model: nn.Module, size: int, channels: int = 3) -> None:
    """Do nothing if a forward pass in training rounds all that one in evaluation does.

    Raises:
        UserError: with what it does not reach; its ranges would stay unknown.
    """

    def run(probe: nn.Module) -> list[str]:
        quantization, seen = quantization_of(probe.train()), set()

        def see(layer: Layer, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> Tensor:
            seen.add(layer.name)
            return result

        quantization.on_value, quantization.on_layer = lambda name, values: seen.add(name), see
        with torch.no_grad(), each_alone():
            probe(torch.zeros(2, channels, size, size, device=device_of(probe)))
        layers = (layer.name for layer in quantization.placement.layers.values())
        return [name for name in (*layers, *quantization.placement.quantizers) if name not in seen]

    if missed := try_on_meta(model, run):
        raise UserError(
            f"{type(model).__name__} does not reach {', '.join(missed[:3])} in training as it does in evaluation, so "
            "that ranges would stay unknown there; keep these layers, or those around them, in float with quantize.keep"
        )


@torch.no_grad()
def fixed_from_aware(model: nn.Module, images: Tensor) -> nn.Module:
    """The model that quantization-aware training was for: norms folded, weights as whole numbers, ranges as trained.

    Args:
        model: quantization-aware; it is not changed.
        images: (N, C, H, W), of any content: the model is run on them to see what it does.

    Returns:
        A model for evaluation, as `quantize_model` makes it.

    Raises:
        UserError: the model was not trained for int8, or not at all.

    >>> from anysize.models.surgery.quantization.aware import make_aware
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
    >>> images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    >>> _ = make_aware(model, images)
    >>> _ = model.train()(images)
    >>> torch.allclose(fixed_from_aware(model, images)(images), model.eval()(images), atol=1e-5)
    True
    """
    if not is_aware(model):
        raise UserError(
            f"{type(model).__name__} was not trained for int8; train it with quantize.aware, or use quantize_model, "
            "which calibrates with images"
        )
    trained = quantization_of(model)
    keep = [name for name, reason in trained.placement.kept.items() if reason == "asked for"]
    fixed = prepare(without_quantization(model).eval(), images, bits=trained.bits, keep=keep)
    quantization = quantization_of(fixed)
    assert quantization.placement.quantizers == trained.placement.quantizers, "the model is folded in another way now"
    for name in quantization.placement.quantizers:
        if not trained.value(name).scale:
            raise UserError(f"no values were seen at {name} yet: train the model before its weights are fixed")
        quantization.value(name).load_state_dict(trained.value(name).state_dict())
    fix_weights(fixed, images)
    return fixed


def _quantizers(model: nn.Module) -> list[ValueQuantizer]:
    return [module for module in model.modules() if isinstance(module, ValueQuantizer)]
