"""The two ends of a model that depend on the data: the layer that makes the logits and the first convolution."""

from collections.abc import Mapping

from torch import Tensor, nn


def find_head(model: nn.Module, num_classes: int | None = None) -> str | None:
    """Name of the layer that makes the logits: the last linear layer or 1x1 convolution, with `num_classes` outputs.

    Without `num_classes` the last one, whatever its outputs. Auxiliary classifiers are passed over.

    >>> import torchvision
    >>> find_head(torchvision.models.alexnet(), 1000), find_head(torchvision.models.squeezenet1_1(), 1000)
    ('classifier.6', 'classifier.1')
    """
    found = None
    for name, module in model.named_modules():
        if name.lower().startswith("aux") or not _maps_vectors(module):
            continue
        if num_classes is None or _outputs(module) == num_classes:
            found = name
    return found


def head_parameters(model: nn.Module) -> set[str]:
    """Names of the parameters of the head: of the children that `model.head_modules` names, else of the last layer.

    Empty where there is neither.

    >>> import torchvision
    >>> sorted(head_parameters(torchvision.models.resnet18()))
    ['fc.bias', 'fc.weight']
    """
    named = getattr(model, "head_modules", None)
    heads = [find_head(model)] if named is None else named
    beginnings = tuple(join(head, "") for head in heads if head is not None)
    return {name for name, _ in model.named_parameters() if name.startswith(beginnings)}


def find_first_convolution(model: nn.Module) -> str | None:
    """Name of the first convolution."""
    return next((name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)), None)


def file_classes(tensors: Mapping[str, Tensor], head: str | None) -> int | None:
    """Classes of the weights of a file whose head has this name; None where it has none.

    >>> import torch
    >>> file_classes({"fc.weight": torch.zeros(80, 512)}, "fc")
    80
    """
    weight = tensors.get(join(head, "weight")) if head is not None else None
    return None if weight is None or weight.ndim < 2 else len(weight)


def adapt_channels(weight: Tensor, channels: int) -> Tensor | None:
    """The weight (outputs, inputs, h, w) of a first convolution for images of another number of channels.

    To one channel it is summed, which is what the layer computes of a grey image in all channels. From one or three
    channels to others it is repeated and scaled by their ratio, so that the layer's output keeps its size (as timm
    does). None: there is no telling which channel is which.

    >>> import torch
    >>> adapt_channels(torch.ones(1, 3, 1, 1), 1).flatten(), adapt_channels(torch.ones(1, 3, 1, 1), 4).flatten()
    (tensor([3.]), tensor([0.7500, 0.7500, 0.7500, 0.7500]))
    """
    inputs = weight.shape[1]
    if channels == 1:
        return weight.sum(1, keepdim=True)
    if inputs not in (1, 3):
        return None
    repeated = weight.repeat(1, -(-channels // inputs), 1, 1)[:, :channels]
    return repeated * (inputs / channels)


def join(module: str, attribute: str) -> str:
    """The name of an attribute of a module; the name of the model itself is empty."""
    return f"{module}.{attribute}" if module else attribute


def _maps_vectors(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1))


def _outputs(module: nn.Module) -> int:
    return module.out_features if isinstance(module, nn.Linear) else module.out_channels  # type: ignore[return-value]
