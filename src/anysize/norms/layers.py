"""Norms that torch does not have, and the module that keeps an activation behind a new norm."""

from typing import Any

import torch
from torch import Tensor, nn

from anysize.registry import UserError


class FrozenBatchNorm(nn.Module):
    """Batch norm whose statistics and affine parameters never change: (N, C, *) to the same shape.

    What is fixed is a buffer, so that no optimizer sees it. The names in the state_dict are batch norm's; a checkpoint
    of batch norm loads. The backward pass keeps no activation. For fine-tuning with small batches: a network from
    scratch is not normalised by it at all.

    Args:
        num_features: channels C.
        eps: added to the variance, inside the root.
        factory: device and dtype of the buffers.

    >>> norm = FrozenBatchNorm(2, eps=0.0)
    >>> norm.running_mean[0] = 1.0
    >>> norm(torch.ones(1, 2))
    tensor([[0., 1.]])
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_features: int, eps: float = 1e-5, **factory: Any) -> None:
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        for name, value in {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}.items():
            self.register_buffer(name, torch.full((num_features,), value, **factory))

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() < 2 or x.shape[1] != self.num_features:
            raise UserError(
                f"frozen batch norm received an input of shape {tuple(x.shape)}; expected (N, {self.num_features}, ...)"
            )
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        shape = (1, -1, *[1] * (x.dim() - 2))
        # Not in the precision of a half input: scale and shift would be rounded.
        return (x * scale.reshape(shape)).add_(shift.reshape(shape)).to(x.dtype)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        state_dict.pop(f"{prefix}num_batches_tracked", None)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps:g}"


class ElementwiseLayerNorm(nn.LayerNorm):
    """Layer norm over (C, H, W) with a weight and a bias for each value: the layer norm of Online Normalization's code.

    It takes images of one size alone. The norm `layer`, with a weight and a bias a channel, takes any.

    Args:
        num_features: channels C.
        shape: (H, W), or (L,), (D, H, W), () for other inputs.
        eps: added to the variance, inside the root.
        affine: learn weight and bias.
        factory: their device and dtype.

    Raises:
        UserError: in `forward`, an input of another shape.

    >>> ElementwiseLayerNorm(3, (8, 8))(torch.zeros(2, 3, 9, 9))
    Traceback (most recent call last):
    ...
    anysize.registry.UserError: this layer norm has a weight for each value of (N, 3, 8, 8) and received ...
    """

    def __init__(
        self, num_features: int, shape: tuple[int, ...], eps: float = 1e-5, affine: bool = True, **factory: Any
    ) -> None:
        super().__init__([num_features, *shape], eps, affine, **factory)
        self.num_features = num_features

    def forward(self, input: Tensor) -> Tensor:
        if tuple(input.shape[1:]) != self.normalized_shape:
            expected = ", ".join(map(str, self.normalized_shape))
            raise UserError(
                f"this layer norm has a weight for each value of (N, {expected}) and received {tuple(input.shape)}; "
                "give images of the size it was built for, or use the norm 'layer', which takes any size"
            )
        return super().forward(input)


class InstanceNorm1d(nn.InstanceNorm1d):
    """torch's instance norm for sequences (N, C, L), which would take vectors (N, C) for one sequence of N channels.

    Raises:
        UserError: in `forward`, an input of two dimensions.
    """

    def forward(self, input: Tensor) -> Tensor:
        if input.dim() == 2:
            raise UserError(
                f"instance norm received {tuple(input.shape)}: one value a channel, which leaves nothing to normalise; "
                "expected (N, C, L): leave this norm as it is (skip), or choose another norm"
            )
        return super().forward(input)


class NormAct(nn.Module):
    """A norm, then dropout, then an activation: what takes the place of timm's modules that are all three.

    Its state_dict has the norm's names behind `norm.`, such as `bn1.norm.weight`. `weight`, `bias` and `num_features`
    are the norm's, or None where it has none.

    >>> list(NormAct(nn.BatchNorm2d(4), nn.Identity(), nn.SiLU()).state_dict())[:2]
    ['norm.weight', 'norm.bias']
    """

    def __init__(self, norm: nn.Module, drop: nn.Module, act: nn.Module) -> None:
        super().__init__()
        self.norm = norm
        self.drop = drop
        self.act = act

    @property
    def weight(self) -> Any:
        return getattr(self.norm, "weight", None)

    @property
    def bias(self) -> Any:
        return getattr(self.norm, "bias", None)

    @property
    def num_features(self) -> Any:
        return getattr(self.norm, "num_features", getattr(self.norm, "num_channels", None))

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(self.norm(x)))  # type: ignore[no-any-return]
