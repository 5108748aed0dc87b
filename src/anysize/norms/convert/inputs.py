"""The inputs of a model's norms: measured with one image, or told from the layers around them."""

import copy
import functools
from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from anysize.norms.factory import check_count
from anysize.registry import UserError

Shape = tuple[int, ...]


def measure_inputs(
    model: nn.Module, names: Collection[str], image_size: int, in_channels: int = 3
) -> dict[str, list[Shape]]:
    """The shapes behind the channels that modules receive in evaluation, for an image (in_channels, S, S).

    A copy of the model is called, on the meta device, or for real where it cannot run there.

    Returns for each module of `names` that is reached the different shapes it received: (H, W), or () for (N, C).

    Raises:
        UserError: no size S (pixels), or the model does not take such an image.

    >>> model = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4))
    >>> measure_inputs(model, ["1"], image_size=9)
    {'1': [(4, 4)]}
    """
    check_count("image_size", image_size)
    check_count("in_channels", in_channels)
    for copied in (meta_copy, copy.deepcopy):
        probe = copied(model).eval()
        seen: dict[str, list[Shape]] = {name: [] for name in names}
        for name in names:
            probe.get_submodule(name).register_forward_pre_hook(functools.partial(_record, seen[name]))
        device = next((parameter.device for parameter in probe.parameters()), torch.device("cpu"))
        dtype = next((p.dtype for p in probe.parameters() if p.is_floating_point()), torch.float32)
        try:
            with torch.no_grad():
                probe(torch.zeros(2, in_channels, image_size, image_size, device=device, dtype=dtype))
            return {name: shapes for name, shapes in seen.items() if shapes}
        except Exception as error:  # models answer a size that they cannot take with any exception
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    raise UserError(
        f"{type(model).__name__} does not take images ({in_channels}, {image_size}, {image_size}), with which the "
        f"inputs of its norms were to be measured: {reason}; give another image_size or in_channels"
    )


def layer_dims(model: nn.Module) -> dict[str, int]:
    """For each module the dimensions behind the channels that the layer before it, in the order of registration, makes.

    1, 2 or 3 behind a convolution, 0 behind a linear or flattening layer. For modules before the first layer, what that
    one makes; 0 where there is none.

    >>> layer_dims(nn.Sequential(nn.Conv1d(3, 4, 3), nn.GroupNorm(1, 4), nn.Flatten(), nn.GroupNorm(1, 4)))
    {'': 1, '0': 1, '1': 1, '2': 0, '3': 0}
    """
    made: dict[str, int | None] = {}
    for name, module in model.named_modules():
        flat = isinstance(module, (nn.Linear, nn.Flatten))
        made[name] = 0 if flat else len(module.kernel_size) if isinstance(module, _ConvNd) else None
    last = next((dims for dims in made.values() if dims is not None), 0)
    result = {}
    for name, dims in made.items():
        result[name] = last = last if dims is None else dims
    return result


def meta_copy(model: nn.Module) -> nn.Module:
    """Copy `model` to the meta device, where it computes shapes alone; no weight is copied.

    >>> meta_copy(nn.Linear(3, 4))(torch.empty(2, 3, device="meta")).shape
    torch.Size([2, 4])
    """
    memo: dict[int, Tensor] = {
        id(parameter): nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)
        for parameter in model.parameters()
    }
    memo |= {id(buffer): buffer.to("meta") for buffer in model.buffers()}
    return copy.deepcopy(model, memo)


def _record(seen: list[Shape], module: nn.Module, args: tuple[Tensor, ...]) -> None:
    shape = tuple(args[0].shape[2:])
    if shape not in seen:
        seen.append(shape)
