"""A model made ready for int8 after training: folded, with the places where it will round."""

from collections.abc import Sequence

from torch import Tensor, nn

from anysize.models.surgery.fold import fold_in_place
from anysize.models.surgery.quantization.fake import fake_quantize
from anysize.models.surgery.quantization.graph import record
from anysize.models.surgery.quantization.placement import place


def prepare(model: nn.Module, images: Tensor, *, bits: int = 8, keep: Sequence[str] = ()) -> nn.Module:
    """Fold the norms of `model`, in place, and let it round values and weights; returns it, in evaluation mode.

    What it rounds to is not known yet: ranges are to be set, and weights to be fixed.

    Args:
        model: any that runs on `images`.
        images: (N, C, H, W), of any content: the model is run on them once to see what it does.
        bits: of the weights, 8 or 7.
        keep: patterns of the names of layers that stay in float.

    Raises:
        UserError: no layer can be quantized, or a pattern matches none.

    >>> import torch
    >>> model = prepare(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()), torch.zeros(1, 3, 8, 8))
    >>> model.quantization.placement.points
    {'images': 'images', '2:relu:0': '0:conv2d:0'}
    """
    fold_in_place(model)
    fake_quantize(model, place(record(model, images), keep), bits)
    return model.requires_grad_(requires_grad=False)
