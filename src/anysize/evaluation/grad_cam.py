"""Grad-CAM: where in an image a network sees a class (Selvaraju et al., ICCV 2017, arXiv 1610.02391).

found = grad_cam(model, images)        # (N, h, w), of the class that is predicted
heat = over_images(found.maps, images.shape[-2:])
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anysize.evaluation.evaluate import in_evaluation
from anysize.models.checks import check_is_model
from anysize.registry import UserError, did_you_mean
from anysize.tasks.base import main_logits


class GradCam(NamedTuple):
    """Maps (N, h, w) of the layer's resolution, logits (N, K), and the classes that the maps are of (N,)."""

    maps: Tensor
    logits: Tensor
    targets: Tensor


def grad_cam(
    model: nn.Module, images: Tensor, targets: int | Tensor | None = None, layer: str | None = None
) -> GradCam:
    """Find out how much each place of a network's last feature maps speaks for a class.

    With feature maps A (N, C, h, w) and the logit y of the class, the weight of map k is the mean of its gradient over
    all places, alpha_k = 1/Z sum_ij dy / dA_kij (eq. 1), and the map is ReLU(sum_k alpha_k A_k) (eq. 2).

    Args:
        model: a classifier or multi-label classifier, evaluated without being changed; images (N, C, H, W) to logits
            (N, K).
        images: normalised input.
        targets: a class for all images or one for each, (N,); None: the one with the largest logit.
        layer: the name of the module whose output the maps are of; None: `feature_layer`.

    Raises:
        UserError: the outputs are no logits (N, K), no such class or layer, or a layer that gives no maps.

    >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    >>> found = grad_cam(network, torch.rand(5, 3, 8, 8), targets=1)
    >>> found.maps.shape, bool((found.maps >= 0).all())
    (torch.Size([5, 6, 6]), True)
    """
    check_is_model("grad_cam", model)
    name = feature_layer(model, images[:1]) if layer is None else layer
    modules = dict(model.named_modules())
    if name not in modules:
        raise UserError(f"the network has no layer {name!r}: {did_you_mean(name, modules)}")
    held: list[Tensor] = []

    def begin_here(module: nn.Module, inputs: Any, output: Any) -> Any:
        if not isinstance(output, Tensor) or output.ndim != 4:
            raise UserError(f"the layer {name!r} gives no feature maps (N, C, h, w); name one that does")
        torch.set_grad_enabled(True)  # from here on: what lies before needs no gradients
        held.append(output.detach().requires_grad_())
        return held[-1].clone()  # what follows may write into it

    with in_evaluation(model), torch.no_grad():
        handle = modules[name].register_forward_hook(begin_here)
        try:
            logits = main_logits(model(images)).float()
        finally:
            handle.remove()
        if logits.ndim != 2:
            raise UserError(
                f"the outputs of the network are {tuple(logits.shape)}; Grad-CAM explains one class of a whole image, "
                "and masks say by themselves where a class is: expected logits (N, classes)"
            )
        classes = _classes(logits, targets)
        score = logits.gather(1, classes[:, None]).sum()  # of each image its own: images do not meet in evaluation
        gradient = torch.autograd.grad(score, held[-1], allow_unused=True)[0] if held and score.requires_grad else None
    if gradient is None:
        raise UserError(f"the logits do not depend on the layer {name!r}; name one that leads to them")
    weights = gradient.mean((2, 3), keepdim=True)
    maps = F.relu((weights * held[-1].detach()).sum(1))
    return GradCam(maps, logits.detach(), classes)


def feature_layer(model: nn.Module, images: Tensor) -> str:
    """The name of the last module that gives feature maps: what a network pools into a vector.

    Maps are (N, C, h, w) of more than one place and of the shape of the images. With images so small that the last maps
    have one place, earlier ones would be taken: choose the layer at a larger size.

    Raises:
        UserError: no module gives maps, or they become a sequence, as in a transformer.

    >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    >>> feature_layer(network, torch.rand(1, 3, 8, 8))
    '1'
    """
    given = (images.shape[2], images.shape[3])
    found, sequence = "", False

    def look(name: str, module: nn.Module) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            nonlocal found, sequence
            if isinstance(output, Tensor) and not isinstance(module, _POOLS):
                if output.ndim == 4 and _are_maps(output, given):
                    found, sequence = name, False
                sequence |= output.ndim == 3

        return module.register_forward_hook(hook)

    with in_evaluation(model), torch.no_grad():
        handles = [look(name, module) for name, module in model.named_modules() if name]
        try:
            model(images)
        finally:
            for handle in handles:
                handle.remove()
    if not found or sequence:
        raise UserError(
            f"{type(model).__name__} has no layer whose maps (N, C, h, w) are pooled into a vector, which Grad-CAM "
            "looks at; name a layer that gives maps, or take a convolutional network"
        )
    return found


_POOLS = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)


def over_images(maps: Tensor, shape: tuple[int, int]) -> Tensor:
    """Maps (N, h, w) brought to images of this height and width, bilinearly, each with 1 as its largest value.

    A map without any value above 0 stays 0.

    >>> over_images(torch.tensor([[[0.0, 4.0]]]), (1, 2))
    tensor([[[0., 1.]]])
    """
    large = F.interpolate(maps[:, None], list(shape), mode="bilinear", align_corners=False)[:, 0]
    return large / large.amax((1, 2), keepdim=True).clamp(min=torch.finfo(large.dtype).tiny)


def _are_maps(output: Tensor, given: tuple[int, int]) -> bool:
    """Whether an output (N, C, h, w) has places in the proportions of the image, up to a pixel of rounding."""
    height, width = output.shape[2:]
    alike = abs(height * given[1] - width * given[0]) <= max(given)
    return height * width > 1 and height <= given[0] and width <= given[1] and alike


def _classes(logits: Tensor, targets: int | Tensor | None) -> Tensor:
    if targets is None:
        return logits.detach().argmax(1)
    classes = torch.as_tensor(targets, device=logits.device).long().expand(len(logits))
    if len(classes) and not 0 <= int(classes.min()) <= int(classes.max()) < logits.shape[1]:
        raise UserError(f"received the classes {targets}; expected numbers from 0 to {logits.shape[1] - 1}")
    return classes
