"""Memory that training a model takes, computed on the meta device where the model can be computed there."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from anysize.models.measure.flops import IMAGES
from anysize.models.measure.meta import device_of, try_on_meta
from anysize.sizes.mix import SizeBatch
from anysize.sizes.shapes import Extent, sides_of


def activation_bytes(model: nn.Module, size: Extent, channels: int = 3) -> int:
    """Bytes that one image leaves in memory between forward and backward, the image itself included.

    Counts each storage that autograd saves once, parameters and buffers not. In the model's own precision: automatic
    mixed precision needs about half.

    >>> activation_bytes(nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU()), size=10)  # image and output of the ReLU
    4400
    """
    return try_on_meta(model, lambda probe: _saved_bytes(probe.train(), size, channels)) // IMAGES


def _saved_bytes(model: nn.Module, size: Extent, channels: int) -> int:
    kept = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}
    saved: dict[int, Tensor] = {}  # holds the tensors, so that no address is used twice

    def save(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        output = model(torch.zeros(IMAGES, channels, *sides_of(size), device=device_of(model)))
    bytes_saved = sum(tensor.untyped_storage().nbytes() for key, tensor in saved.items() if key not in kept)
    del output
    return bytes_saved


def estimate_memory(
    model: nn.Module,
    batches: Iterable[SizeBatch],
    channels: int = 3,
    *,
    optimizer_slots: int = 1,
    image_bytes: Callable[[SizeBatch], int] | None = None,
) -> int:
    """Bytes that training takes at least: weights, gradients, optimizer, and the activations of the largest step.

    Args:
        model: measured in its own precision.
        batches: the sizes with their batch sizes (of one process) and copies, such as `plan.sizes(epoch)`.
        channels: of the images.
        optimizer_slots: values that the optimizer keeps a weight: 1 for SGD with momentum, 2 for Adam.
        image_bytes: bytes that an image of such a batch leaves in memory; None: its `activation_bytes`.

    The library's workspaces and the gradients of the activations in flight come on top.

    >>> from anysize.sizes.mix import SizeMix
    >>> estimate_memory(nn.Conv2d(3, 8, 1, bias=False), SizeMix.named("B+", base=32).batches(64))
    788256
    """
    weights = sum(parameter.nbytes for parameter in model.parameters())
    trained = sum(parameter.nbytes for parameter in model.parameters() if parameter.requires_grad)
    image = image_bytes or (lambda batch: activation_bytes(model, batch.extent, channels))
    step = max(batch.batch_size * batch.copies * image(batch) for batch in batches)
    return weights + trained * (1 + optimizer_slots) + step
