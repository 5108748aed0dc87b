"""Online Normalization: normalization without a batch (Chiley et al., NeurIPS 2019, arXiv 1905.05894).

    norm = OnlineNorm2d(64, alpha_fwd=0.999, alpha_bkw=0.99)
    y = norm(x)                                   # x: (N, 64, H, W), N = 1 included

Each sample is normalised by running statistics of the samples before it, so a batch is no more than samples in a row:
cutting it in two changes nothing. The backward pass is not the derivative of the forward pass; two control variables,
`u` and `v`, keep the gradient orthogonal to the ones and to the activations in the long run, which is what the
derivative of batch norm does within a batch.

What a training step costs is decided in `backends`: C++ on CPUs, Triton on CUDA, PyTorch anywhere.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, SupportsIndex, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anysize.norms.online.backends import statistics_dtype
from anysize.norms.online.backends.choose import check_backend
from anysize.norms.online.function import check_input, layer_scaling, online_norm
from anysize.norms.online.options import Options
from anysize.norms.online.recomputation import Passes, may_run_again, runs_again
from anysize.registry import UserError


class _State(nn.Module):
    """The running statistics `m`, `var` and the control variables `u`, `v`, named as in the authors' checkpoints."""

    m: Tensor
    var: Tensor
    u: Tensor
    v: Tensor

    def __init__(self, num_features: int, **factory: Any) -> None:
        super().__init__()
        for name in ("m", "var", "u", "v"):
            self.register_buffer(name, torch.empty(num_features, **factory))

    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """m, var, u, v, at a quarter of the cost of four attributes."""
        state = cast(dict[str, Tensor], self._buffers)
        return state["m"], state["var"], state["u"], state["v"]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "_State":
        before = dict(self._buffers)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, value in self._buffers.items():
            if value is not None and value.dtype in (torch.float16, torch.bfloat16):
                self._buffers[name] = cast(Tensor, before[name]).to(value.device)  # model.half() is not for statistics
        return self


class _Base(nn.Module):
    """Online Normalization of (N, C, *); the subclasses say how many dimensions they take."""

    weight: nn.Parameter
    bias: nn.Parameter
    dimensions: tuple[int, ...] = ()
    shape = "(N, C, ...)"

    def __init__(
        self, num_features: int, alpha_fwd: float = 0.999, alpha_bkw: float = 0.99, eps: float = 1e-5,
        affine: bool = True, ecm: str = "ls", *, ls_eps: float = 1e-5, clamp_val: float = 5.0, group_size: int = -1,
        alpha_min: float | None = None, backend: str = "auto", device: Any = None, dtype: torch.dtype | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        check_backend(backend)
        self.num_features = num_features
        self.options = Options(alpha_fwd, alpha_bkw, eps, ecm, ls_eps, clamp_val, group_size, alpha_min)
        if not isinstance(num_features, SupportsIndex) or num_features < 1:
            raise UserError(f"num_features is {num_features!r}; expected a number of channels of at least 1")
        self.options.groups(num_features)
        self.backend = backend
        self.affine = affine
        for name in ("weight", "bias"):
            value = nn.Parameter(torch.empty(num_features, device=device, dtype=dtype)) if affine else None
            self.register_parameter(name, value)
        self.norm = _State(num_features, device=device, dtype=statistics_dtype(dtype))
        self._passes = Passes()
        self.reset_parameters()

    def reset_running_stats(self) -> None:
        """Put the state back to where training starts: m, u, v = 0, var = 1."""
        with torch.no_grad():
            for name, value in self.norm.named_buffers():
                value.fill_(1.0 if name == "var" else 0.0)

    def reset_parameters(self) -> None:
        """Put state, weight (1) and bias (0) back to where training starts."""
        self.reset_running_stats()
        if self.affine:
            nn.init.ones_(self.weight)
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x; in training the state moves on."""
        if x.dim() not in self.dimensions:
            raise UserError(
                f"{type(self).__name__} received an input of shape {tuple(x.shape)}; expected {self.shape} with "
                f"C = {self.num_features}"
            )
        if not self.training:
            return self._evaluate(x)
        m, var, u, v = self.norm.tensors()
        if not torch.compiler.is_compiling():
            if runs_again() and self._passes:
                m, var = self._passes.recall(x) or (m, var)
            elif may_run_again():
                self._passes.remember(x, m, var)
        return online_norm(x, m, var, u, v, self.weight, self.bias, self.options, self.backend)

    def _evaluate(self, x: Tensor) -> Tensor:
        check_input(x, self.num_features)
        options, state = self.options, self.norm
        dtype = statistics_dtype(x.dtype)
        weight, bias = (None if value is None else value.to(dtype) for value in (self.weight, self.bias))
        out = F.batch_norm(x, state.m.to(dtype), state.var.to(dtype), weight, bias, eps=options.eps)
        return self.compensate(out)

    def compensate(self, x: Tensor) -> Tensor:
        """Apply the error compensation alone to x, (N, C, *)."""
        options = self.options
        if options.ecm == "ac":
            return x.clamp(-options.clamp_val, options.clamp_val)
        if options.ecm == "ls":
            return layer_scaling(x, options.groups(self.num_features), options.ls_eps)
        return x

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_passes": Passes()}

    def extra_repr(self) -> str:
        o = self.options
        text = f"{self.num_features}, alpha_fwd={o.alpha_fwd:g}, alpha_bkw={o.alpha_bkw:g}, eps={o.eps:g}"
        text += f", affine={self.affine}, ecm={o.ecm!r}"
        usual = Options()
        for name in ("ls_eps", "clamp_val", "group_size", "alpha_min"):
            if getattr(o, name) != getattr(usual, name):
                text += f", {name}={getattr(o, name)}"
        return text if self.backend == "auto" else f"{text}, backend={self.backend!r}"


class OnlineNorm1d(_Base):
    """Online Normalization of vectors (N, C) or sequences (N, C, L); takes the arguments of `OnlineNorm2d`."""

    dimensions = (2, 3)
    shape = "(N, C) or (N, C, L)"


class OnlineNorm2d(_Base):
    """Online Normalization of images (N, C, H, W) (arXiv 1905.05894), for any N.

    Args:
        num_features: channels C.
        alpha_fwd: decay factor of the running mean and variance a sample, in (0, 1] (equations 8a to 8c); the norm
            remembers about 1 / (1 - alpha_fwd) samples.
        alpha_bkw: decay factor of the control variables of the backward pass (equations 11 and 12).
        eps: added to the variance, inside the root.
        affine: learn a weight and a bias a channel, applied before the error compensation.
        ecm: error compensation: "ls" layer scaling (each sample divided by the root mean square of all its values,
            equations 9 and 10), "ac" activation clamping to +-clamp_val, "none".
        ls_eps: added to the mean square in layer scaling.
        clamp_val: bound of activation clamping.
        group_size: channels scaled together in layer scaling; -1: all.
        alpha_min: lower bound of the decay of the control variable v, such as 1e-5, the variant that the paper's own
            experiments ran with; None: the method as published.
        backend: "auto", "torch", "cpp" or "triton".
        device, dtype: of weight and bias; the state is float32, or float64 for float64.

    Raises:
        UserError: an option out of range; in `forward`, an input of another shape, of integers, or empty.

    The state_dict has the names of the authors' modules: `weight`, `bias`, `norm.m`, `norm.var`, `norm.u`, `norm.v`.
    Evaluation normalises by `norm.m` and `norm.var` and changes nothing.

    Works under `torch.compile` without graph breaks and, in evaluation, under `torch.export`. A forward pass that
    activation checkpointing runs a second time, inside the backward pass, starts from the state that it started from
    the first time and does not move it; not both at once (see `compiled.py`). Of several ranks each keeps a state
    of its own (see `distributed.py`). u and v are in units of the gradient (see `scale_gradient_state`).

    >>> OnlineNorm2d(16, alpha_fwd=0.99)(torch.randn(1, 16, 8, 8)).shape
    torch.Size([1, 16, 8, 8])
    """

    dimensions = (4,)
    shape = "(N, C, H, W)"


class OnlineNorm3d(_Base):
    """Online Normalization of volumes (N, C, D, H, W); takes the arguments of `OnlineNorm2d`."""

    dimensions = (5,)
    shape = "(N, C, D, H, W)"


def online_norms(model: nn.Module) -> Iterator[tuple[str, _Base]]:
    """The online norms of a model, by name."""
    return ((name, module) for name, module in model.named_modules() if isinstance(module, _Base))


def scale_gradient_state(model: nn.Module, factor: float) -> None:
    """Multiply the control variables u and v of a model's online norms by `factor`, in place.

    They are in units of the gradient. So when the scale of the loss changes during training, they have to change with
    it: when a GradScaler changes its scale, by new / old; when a loss that is a mean over the batch comes from batches
    of another size, by old size / new size.

    Raises:
        UserError: a factor that is not a number above 0.

    >>> norm = OnlineNorm2d(1)
    >>> _ = norm.norm.v.fill_(0.5)
    >>> scale_gradient_state(norm, 8)
    >>> norm.norm.v
    tensor([4.])
    """
    if not 0 < factor < math.inf:
        raise UserError(f"the factor of the gradient's state is {factor!r}; expected a number above 0, such as 0.5")
    with torch.no_grad():
        for _, module in online_norms(model):
            module.norm.u.mul_(factor)
            module.norm.v.mul_(factor)
