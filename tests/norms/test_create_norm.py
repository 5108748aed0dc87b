"""Every norm by name computes what it is called after; options are checked; every name is known to recipes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from anysize.models.settings import NORM_NAMES
from anysize.norms.factory import NORMS, create_norm, norm_options
from anysize.norms.online.norm import OnlineNorm1d, OnlineNorm2d, OnlineNorm3d
from anysize.registry import UserError

SHAPES = {1: (4, 16, 9), 2: (4, 16, 6, 5), 3: (4, 16, 3, 4, 2)}


def standard(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """x with mean 0 and variance 1 over `dims`."""
    x = x.double()
    mean, var = x.mean(dims, keepdim=True), x.var(dims, correction=0, keepdim=True)
    return (x - mean) / (var + 1e-5).sqrt()


REFERENCES: dict[str, Callable[[Tensor], Tensor]] = {
    "batch": lambda x: standard(x, (0, *range(2, x.dim()))),
    "sync_batch": lambda x: standard(x, (0, *range(2, x.dim()))),
    "group": lambda x: standard(x.unflatten(1, (8, 2)), tuple(range(2, x.dim() + 1))).flatten(1, 2),
    "layer": lambda x: standard(x, tuple(range(1, x.dim()))),
    "layer_elementwise": lambda x: standard(x, tuple(range(1, x.dim()))),
    "instance": lambda x: standard(x, tuple(range(2, x.dim()))),
    "frozen_batch": lambda x: x.double() / (1 + 1e-5) ** 0.5,
    "none": lambda x: x.double(),
}


def create(name: str, dims: int, **options: Any) -> nn.Module:
    shape = {"shape": SHAPES[dims][2:]} if name == "layer_elementwise" else {}
    return create_norm(name, 16, dims, **shape, **options)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("name", sorted(REFERENCES))
def test_each_norm_is_what_its_name_says(name: str, dims: int) -> None:
    x = 3 * torch.randn(SHAPES[dims]) + 2
    torch.testing.assert_close(create(name, dims)(x).double(), REFERENCES[name](x), rtol=1e-5, atol=1e-5)


def test_every_norm_has_a_reference_or_a_test_of_its_own() -> None:
    assert set(NORMS) == {*REFERENCES, "online"}
    assert {1: OnlineNorm1d, 2: OnlineNorm2d, 3: OnlineNorm3d} == {d: type(create("online", d)) for d in (1, 2, 3)}


@pytest.mark.parametrize("name", sorted(set(NORMS) - {"instance", "layer_elementwise"}))
def test_norms_take_vectors(name: str) -> None:
    assert create_norm(name, 16, 1)(torch.randn(4, 16)).shape == (4, 16)
    assert create_norm("layer_elementwise", 16, 1, shape=())(torch.randn(4, 16)).shape == (4, 16)


@pytest.mark.parametrize("name", ["group", "layer", "instance", "online", "batch"])
def test_norms_take_any_image_size_and_a_single_image(name: str) -> None:
    norm = create_norm(name, 16)
    for size in (4, 7):
        assert norm(torch.randn(1, 16, size, size)).isfinite().all()


@pytest.mark.parametrize("name", sorted(set(NORMS) - {"none", "frozen_batch"}))
def test_weight_and_bias_are_one_a_channel_unless_elementwise(name: str) -> None:
    norm = create(name, 2)
    wanted = (16, 6, 5) if name == "layer_elementwise" else (16,)
    assert {key: tuple(p.shape) for key, p in norm.named_parameters()} == {"weight": wanted, "bias": wanted}
    assert not list(create(name, 2, affine=False).parameters())


def test_options_reach_the_norm() -> None:
    batch = create_norm("batch", 8, momentum=0.3, eps=1e-3, track_running_stats=False)
    assert (batch.momentum, batch.eps, batch.running_mean) == (0.3, 1e-3, None)
    assert create_norm("group", 32, num_groups=2).num_groups == 2
    assert create_norm("online", 8, alpha_fwd=0.9, ecm="ac").options.ecm == "ac"
    assert create_norm("layer", 8, dtype=torch.float64).weight.dtype == torch.float64
    assert create_norm("frozen_batch", 8, device="meta").weight.is_meta
    assert create_norm("instance", 8).running_mean is None


def test_every_norm_describes_itself_and_lists_its_options() -> None:
    for name in NORMS:
        assert len((NORMS[name].__doc__ or "").splitlines()[0]) > 10
    assert {"alpha_fwd", "alpha_bkw", "ecm", "clamp_val", "backend"} <= set(norm_options("online"))
    assert norm_options("none") == {}


def test_recipes_know_every_norm() -> None:
    assert sorted(NORMS) == [name for name in NORM_NAMES if name]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("gruop", {}, "unknown norm 'gruop': did you mean 'group'"),
        ("group", {"groups": 4}, "norm 'group' takes no option 'groups': did you mean 'num_groups'"),
        ("online", {"alpha_forward": 0.9}, "norm 'online' takes no option 'alpha_forward': did you mean 'alpha_fwd'"),
        ("batch", {"zzz": 1}, "takes no option 'zzz': choose one of: affine, eps, momentum, track_running_stats"),
        ("none", {"eps": 1e-5}, "norm 'none' takes no option 'eps': it takes none"),
        ("group", {"num_groups": 6}, "num_groups is 6, which does not divide the 16 channels .* num_groups=4"),
        ("group", {"num_groups": 0}, "num_groups is 0; expected a whole number of at least 1"),
        ("group", {"num_groups": "four"}, "num_groups is 'four'; expected a whole number"),
        ("batch", {"affine": "yes"}, "affine is 'yes'; expected true or false"),
        ("batch", {"momentum": 1.5}, "momentum is 1.5; expected from 0 to 1"),
        ("layer", {"eps": -1}, "eps is -1; expected at least 0"),
        ("layer", {"eps": float("nan")}, "eps is nan; expected a number"),
        ("online", {"alpha_fwd": 1.5}, "alpha_fwd is 1.5"),
        ("layer_elementwise", {}, "needs the shape behind the channels"),
        ("layer_elementwise", {"shape": (4,)}, r"shape is \(4,\); expected 2 sizes"),
        ("layer_elementwise", {"shape": (4, 0)}, "a size of shape is 0"),
    ],
)
def test_what_is_wrong_is_told(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        create_norm(name, 16, **options)


def test_channels_and_dimensions_are_checked() -> None:
    with pytest.raises(UserError, match="num_features is 0; expected a whole number"):
        create_norm("batch", 0)
    with pytest.raises(UserError, match=r"dims is 4; expected 1 for \(N, C, L\)"):
        create_norm("batch", 8, 4)
