"""The modules of Online Normalization as users meet them: evaluation, checkpoints, copies, precision, mistakes."""

import copy
import io
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import anysize
from anysize.norms.online.function import layer_scaling, online_norm
from anysize.norms.online.norm import OnlineNorm1d, OnlineNorm2d, OnlineNorm3d, online_norms, scale_gradient_state
from anysize.norms.online.options import Options
from anysize.registry import UserError

STATE = ("m", "var", "u", "v")


def data(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def trained(shape: tuple[int, ...] = (6, 4, 3, 3), **options: Any) -> OnlineNorm2d:
    """A norm that has seen a batch."""
    norm = OnlineNorm2d(shape[1], 0.9, 0.8, **options)
    train(norm, shape)
    return norm


def train(module: nn.Module, shape: tuple[int, ...] = (6, 4, 3, 3), seed: int = 0) -> Tensor:
    """A training step without an optimizer; the gradient of the input."""
    x = (0.5 + data(*shape, seed=seed)).requires_grad_()
    module(x).square().sum().backward()
    assert x.grad is not None
    return x.grad


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), OnlineNorm2d(4, 0.9, 0.8), nn.ReLU(inplace=True), nn.Conv2d(4, 2, 1))


def states(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.named_buffers()}


def check_equal(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=0, atol=0, msg=name)


# ------------------------------------------------------------------------------------------------- evaluation


@pytest.mark.parametrize("ecm", ["none", "ls", "ac"])
@pytest.mark.parametrize("affine", [True, False])
def test_evaluation_is_the_formula_and_changes_nothing(ecm: str, affine: bool) -> None:
    norm = trained(ecm=ecm, affine=affine, clamp_val=1.5, group_size=2, dtype=torch.float64).eval()
    if affine:
        norm.load_state_dict({"weight": data(4, seed=1), "bias": data(4, seed=2)}, strict=False)
    before = states(norm)
    x = data(5, 4, 3, 3, seed=3, dtype=torch.float64).requires_grad_()
    out = norm(x)
    out.sum().backward()
    check_equal(states(norm), before)
    m, var = (before[f"norm.{name}"][:, None, None] for name in ("m", "var"))
    z = (x - m) / (var + 1e-5).sqrt()
    if affine:
        z = z * norm.weight[:, None, None] + norm.bias[:, None, None]
    if ecm == "ac":
        z = z.clamp(-1.5, 1.5)
    if ecm == "ls":
        pairs = z.reshape(5, 2, 2, 3, 3)
        z = (pairs / (pairs.square().mean((2, 3, 4), keepdim=True) + 1e-5).sqrt()).reshape(z.shape)
    torch.testing.assert_close(out, z)


def test_evaluation_does_not_depend_on_the_other_images_of_the_batch() -> None:
    norm = trained().eval()
    x = data(5, 4, 3, 3, seed=1)
    torch.testing.assert_close(norm(x)[2:3], norm(x[2:3]))
    assert norm(x[:0]).shape == (0, 4, 3, 3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_evaluation_in_half_precision(dtype: torch.dtype) -> None:
    x = data(5, 4, 3, 3, seed=1).to(dtype)
    for ecm in ("none", "ls", "ac"):
        norm = trained(ecm=ecm).eval()
        out = norm(x)
        assert out.dtype == dtype
        torch.testing.assert_close(out.float(), norm(x.float()), rtol=torch.finfo(dtype).eps, atol=1e-3)


def test_layer_scaling_takes_any_memory_order_and_groups() -> None:
    x = data(2, 6, 4, 4).to(memory_format=torch.channels_last)
    out = layer_scaling(x, groups=3, eps=0.0)
    assert out.stride() == x.stride()
    squares = out.unflatten(1, (3, 2)).square().mean((2, 3, 4))  # type: ignore[no-untyped-call]
    torch.testing.assert_close(squares, torch.ones(2, 3))
    torch.testing.assert_close(layer_scaling(x[:, ::2, :, 1:], 3), layer_scaling(x[:, ::2, :, 1:].contiguous(), 3))


# ------------------------------------------------------------------------------------------------- checkpoints


def test_names_and_starting_values_are_those_of_the_authors_checkpoints() -> None:
    for norm in (OnlineNorm1d(3), OnlineNorm2d(3), OnlineNorm3d(3)):
        expected = {"weight": 1.0, "bias": 0.0, "norm.m": 0.0, "norm.var": 1.0, "norm.u": 0.0, "norm.v": 0.0}
        check_equal(dict(norm.state_dict()), {name: torch.full((3,), value) for name, value in expected.items()})
    assert list(OnlineNorm2d(3, affine=False).state_dict()) == [f"norm.{name}" for name in STATE]


def test_a_checkpoint_of_the_authors_layout_loads() -> None:
    names = ("weight", "bias", *(f"norm.{name}" for name in STATE))
    theirs = {f"1.{name}": data(4, seed=index).abs() for index, name in enumerate(names)}
    model = network()
    result = model.load_state_dict(theirs, strict=False)
    assert not result.unexpected_keys
    assert all(not key.startswith("1.") for key in result.missing_keys)
    x = data(2, 4, 3, 3, seed=9)
    m, var = (theirs[f"1.norm.{name}"][:, None, None] for name in ("m", "var"))
    z = (x - m) / (var + 1e-5).sqrt() * theirs["1.weight"][:, None, None] + theirs["1.bias"][:, None, None]
    z = z / (z.square().mean((1, 2, 3), keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(model[1].eval()(x), z)


def test_resuming_from_a_state_dict_goes_on_as_if_nothing_had_happened() -> None:
    model = network()
    train(model, (5, 3, 6, 6))
    resumed = network()
    resumed.load_state_dict(copy.deepcopy(model.state_dict()))
    model.zero_grad()
    torch.testing.assert_close(train(model, (5, 3, 6, 6), 1), train(resumed, (5, 3, 6, 6), 1), rtol=0, atol=0)
    check_equal(states(model), states(resumed))


# ------------------------------------------------------------------------------------------------- copies


def test_training_a_copy_moves_the_copys_state_alone() -> None:
    model = network()
    train(model, (5, 3, 6, 6))
    copied, before = copy.deepcopy(model), states(model)
    train(copied, (5, 3, 6, 6), seed=1)
    check_equal(states(model), before)
    assert all(not torch.equal(value, before[name]) for name, value in states(copied).items())
    train(model, (5, 3, 6, 6), seed=1)
    check_equal(states(model), states(copied))


def test_a_model_can_be_pickled() -> None:
    model = network()
    train(model, (5, 3, 6, 6))
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    check_equal(dict(loaded.state_dict()), dict(model.state_dict()))
    train(loaded, (5, 3, 6, 6), seed=1)
    train(model, (5, 3, 6, 6), seed=1)
    check_equal(states(loaded), states(model))


@pytest.mark.parametrize("use_buffers", [False, True])
def test_averaged_models_keep_a_state_of_their_own(use_buffers: bool) -> None:
    model = network()
    average = AveragedModel(model, use_buffers=use_buffers)
    seen = []
    for seed in range(2):
        train(model, (5, 3, 6, 6), seed)
        average.update_parameters(model)
        seen.append(states(model))
    train(model, (5, 3, 6, 6), seed=2)
    for name, value in states(average.module).items():
        expected = (seen[0][name] + seen[1][name]) / 2 if use_buffers else seen[1][name]
        torch.testing.assert_close(value, expected)


# ------------------------------------------------------------------------------------------------- precision


@pytest.mark.parametrize("convert", [nn.Module.half, nn.Module.bfloat16], ids=["half", "bfloat16"])
def test_half_precision_is_not_for_statistics(convert: Any) -> None:
    model = network()
    train(model, (5, 3, 6, 6))
    before = states(model)
    convert(model)
    check_equal(states(model), before)
    assert model[1].weight.dtype in (torch.float16, torch.bfloat16)
    x = data(5, 3, 6, 6).to(model[1].weight.dtype)
    out = model(x)
    out.sum().backward()
    assert out.dtype == model[1].weight.dtype == model[1].weight.grad.dtype
    assert {value.dtype for value in states(model).values()} == {torch.float32}
    assert all(not torch.equal(value, before[name]) for name, value in states(model).items())
    check_equal(states(model.to(torch.float16)), states(model))


def test_double_precision_takes_the_state_along() -> None:
    norm = trained().double()
    assert {value.dtype for value in states(norm).values()} == {torch.float64}
    x = data(5, 4, 3, 3, dtype=torch.float64)
    m = norm.norm.m.clone()
    norm(x)
    for sample in x:
        m = 0.9 * m + 0.1 * sample.mean((1, 2))
    torch.testing.assert_close(norm.norm.m, m)
    assert trained(dtype=torch.bfloat16).norm.m.dtype == torch.float32
    assert {value.dtype for value in states(norm.float()).values()} == {torch.float32}


def test_autocast() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), OnlineNorm2d(4, 0.9, 0.8))
    alone = copy.deepcopy(model[1])
    x = data(5, 3, 6, 6)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(x)
    assert out.dtype == torch.bfloat16
    out.sum().backward()
    assert model[1].weight.grad.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        middle = model[0](x)
    assert middle.dtype == torch.bfloat16
    alone(middle.detach().requires_grad_()).sum().backward()
    check_equal(states(model[1]), states(alone))
    assert {value.dtype for value in states(model).values()} == {torch.float32}
    with torch.autocast("cpu", torch.bfloat16):
        assert model.eval()(x).dtype == torch.bfloat16


# ------------------------------------------------------------------------------------------------- in a network


@pytest.mark.parametrize("ecm", ["none", "ls", "ac"])
@pytest.mark.parametrize("backend", ["torch", "auto"])
@pytest.mark.parametrize("training", [True, False])
def test_an_in_place_relu_right_behind_it(ecm: str, backend: str, training: bool) -> None:
    results = []
    for inplace in (False, True):
        norm = OnlineNorm2d(4, 0.9, 0.8, ecm=ecm, backend=backend, clamp_val=0.5).train(training)
        gradient = train(nn.Sequential(norm, nn.ReLU(inplace)))
        results.append({"x": gradient, "weight": norm.weight.grad, "bias": norm.bias.grad} | states(norm))
    check_equal(*results)  # type: ignore[arg-type]


def test_frozen_parameters_and_inputs_that_need_no_gradient() -> None:
    full = OnlineNorm2d(4, 0.9, 0.8)
    train(full)
    frozen = OnlineNorm2d(4, 0.9, 0.8).requires_grad_(False)
    torch.testing.assert_close(train(frozen), train(OnlineNorm2d(4, 0.9, 0.8)))
    assert frozen.weight.grad is None
    half_frozen = OnlineNorm2d(4, 0.9, 0.8)
    half_frozen.weight.requires_grad_(False)
    train(half_frozen)
    assert half_frozen.weight.grad is None
    torch.testing.assert_close(half_frozen.bias.grad, full.bias.grad)
    first = OnlineNorm2d(4, 0.9, 0.8)  # behind the data, with no gradient to pass on
    first(0.5 + data(6, 4, 3, 3)).square().sum().backward()
    torch.testing.assert_close(first.weight.grad, full.weight.grad)
    for norm in (frozen, half_frozen, first):
        check_equal(states(norm), states(full))


def test_a_forward_pass_alone_moves_the_running_statistics_alone() -> None:
    norm = trained()
    before = states(norm)
    with torch.no_grad():
        norm(data(6, 4, 3, 3, seed=1))
    moved = {name for name, value in states(norm).items() if not torch.equal(value, before[name])}
    assert moved == {"norm.m", "norm.var"}


def test_gradient_accumulation_is_one_long_batch() -> None:
    x = data(8, 4, 3, 3, dtype=torch.float64)
    whole, parts = (OnlineNorm2d(4, 0.9, 0.8, dtype=torch.float64) for _ in range(2))
    whole(x).square().sum().backward()
    for part in x.split([3, 1, 4]):  # type: ignore[no-untyped-call]
        parts(part).square().sum().backward()
    torch.testing.assert_close(whole.weight.grad, parts.weight.grad)
    for name, value in states(whole).items():
        torch.testing.assert_close(value, states(parts)[name])


def test_a_scaled_loss_with_scaled_state_scales_the_gradients() -> None:
    models = [network().double(), network().double()]
    for model in models:
        for seed in range(2):
            model(data(5, 3, 6, 6, seed=seed, dtype=torch.float64)).square().sum().backward()
        model.zero_grad()
    scale_gradient_state(models[1], 8)
    for seed in range(2, 5):
        x = data(5, 3, 6, 6, seed=seed, dtype=torch.float64)
        for model, factor in zip(models, (1, 8), strict=True):
            (factor * model(x).square().sum()).backward()
    for plain, scaled in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert plain.grad is not None
        assert torch.equal(8 * plain.grad, scaled.grad)  # type: ignore[arg-type]
    for name, value in states(models[0]).items():
        factor = 8 if name.endswith((".u", ".v")) else 1
        assert torch.equal(factor * value, states(models[1])[name])


@pytest.mark.parametrize("factor", [0, -2.0, math.inf, math.nan])
def test_a_factor_that_is_no_scale_is_refused(factor: float) -> None:
    with pytest.raises(UserError, match="expected a number above 0"):
        scale_gradient_state(network(), factor)


def test_the_norms_of_a_model_by_name() -> None:
    model = nn.Sequential(network(), OnlineNorm1d(2), nn.Sequential(OnlineNorm3d(1)))
    assert [name for name, _ in online_norms(model)] == ["0.1", "1", "2.0"]


def test_resetting() -> None:
    norm = trained()
    norm.load_state_dict({"weight": data(4)}, strict=False)
    norm.reset_running_stats()
    fresh = OnlineNorm2d(4)
    check_equal(states(norm), states(fresh))
    assert torch.equal(norm.weight, data(4))
    norm.reset_parameters()
    check_equal(dict(norm.state_dict()), dict(fresh.state_dict()))


def test_printing_names_the_options() -> None:
    text = repr(OnlineNorm2d(4, 1023 / 1024, 0.99, ecm="ac", clamp_val=3.0))
    assert "ecm='ac', clamp_val=3.0" in text
    assert text.startswith("OnlineNorm2d(\n  4, alpha_fwd=0.999023, alpha_bkw=0.99, eps=1e-05, affine=True, ecm='ac'")


def test_it_is_public() -> None:
    assert anysize.OnlineNorm1d is OnlineNorm1d
    assert anysize.OnlineNorm2d is OnlineNorm2d
    assert anysize.OnlineNorm3d is OnlineNorm3d


# ------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha_fwd": 0.0}, "alpha_fwd is 0.0; expected a decay factor above 0 and at most 1"),
        ({"alpha_fwd": 1.001}, "alpha_fwd is 1.001"),
        ({"alpha_bkw": -0.5}, "alpha_bkw is -0.5"),
        ({"alpha_bkw": math.nan}, "alpha_bkw is nan"),
        ({"alpha_fwd": "0.9"}, "alpha_fwd is '0.9'"),
        ({"eps": -1e-5}, "eps is -1e-05; expected a small number of at least 0"),
        ({"ls_eps": math.inf}, "ls_eps is inf"),
        ({"ecm": "lss"}, "unknown error compensation ecm='lss': did you mean 'ls'"),
        ({"clamp_val": 0}, "clamp_val is 0; expected a number above 0"),
        ({"group_size": 3}, "group_size is 3, which does not divide 4 channels"),
        ({"group_size": 0}, "group_size is 0; expected a number of channels"),
        ({"alpha_min": 1.0}, "alpha_min is 1.0; expected None or a number from 0 to below 1"),
        ({"backend": "c++"}, r"unknown backend 'c\+\+' of online norm"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        OnlineNorm2d(4, **options)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.ones(2, 3, 4, 4), r"shape \(2, 3, 4, 4\); expected \(N, 4, ...\): 4 channels"),
        (torch.ones(2, 4), r"OnlineNorm2d received an input of shape \(2, 4\); expected \(N, C, H, W\) with C = 4"),
        (torch.ones(2, 4, 3), r"expected \(N, C, H, W\)"),
        (torch.ones(2, 4, 3, 3, dtype=torch.int64), "received torch.int64 values; expected floating point"),
    ],
    ids=["channels", "2d", "3d", "integers"],
)
def test_inputs_of_another_kind(x: Tensor, message: str, training: bool) -> None:
    norm = OnlineNorm2d(4).train(training)
    with pytest.raises(UserError, match=message):
        norm(x)


@pytest.mark.parametrize(
    ("norm", "shape", "expected"),
    [
        (OnlineNorm1d(4), (2, 4, 3, 3), r"\(N, C\) or \(N, C, L\)"),
        (OnlineNorm3d(4), (2, 4, 3, 3), r"\(N, C, D, H, W\)"),
    ],
    ids=["1d", "3d"],
)
def test_inputs_of_other_dimensions(norm: nn.Module, shape: tuple[int, ...], expected: str) -> None:
    with pytest.raises(UserError, match=f"expected {expected} with C = 4"):
        norm(torch.ones(shape))


@pytest.mark.parametrize("shape", [(0, 4, 3, 3), (2, 4, 0, 3)])
def test_an_empty_batch_in_training(shape: tuple[int, ...]) -> None:
    norm = OnlineNorm2d(4)
    with pytest.raises(UserError, match="received an empty batch"):
        norm(torch.ones(shape))
    check_equal(states(norm), states(OnlineNorm2d(4)))


def test_one_of_weight_and_bias() -> None:
    m, var = torch.zeros(2), torch.ones(2)
    for weight, bias in ((torch.ones(2), None), (None, torch.ones(2))):
        with pytest.raises(UserError, match="one of weight and bias; expected both or neither"):
            online_norm(torch.ones(1, 2), m, var, m, m, weight, bias, Options())


@pytest.mark.parametrize("backend", ["torch", "auto"])
def test_a_nan_shows_in_the_state(backend: str) -> None:
    # so that the guard of the training loop can name the layer
    x = data(6, 4, 3, 3)
    x[2, 1, 0, 0] = math.nan
    norm = OnlineNorm2d(4, 0.9, 0.8, backend=backend)
    x.requires_grad_()
    norm(x).sum().backward()
    assert norm.norm.m.isnan().tolist() == norm.norm.var.isnan().tolist() == [False, True, False, False]
    assert norm.norm.u.isnan().any()
    assert norm.norm.v.isnan().any()


def test_vectors_that_do_not_belong_to_the_input_are_refused() -> None:
    x, state = torch.randn(2, 4, 3, 3), (torch.zeros(4), torch.ones(4), torch.zeros(4), torch.zeros(4))
    with pytest.raises(UserError, match=r"m of shape \(4,\) on meta for an input .* on cpu; expected \(4,\) on"):
        OnlineNorm2d(4, device="meta")(x)
    with pytest.raises(UserError, match=r"weight of shape \(3,\)"):
        online_norm(x, *state, torch.ones(3), torch.zeros(4))
    with pytest.raises(UserError, match=r"var of shape \(5,\)"):
        online_norm(x, state[0], torch.ones(5), *state[2:])
    with pytest.raises(UserError, match=r"a state with u that is not contiguous; expected \.contiguous\(\)"):
        online_norm(x, *state[:2], torch.zeros(1).expand(4), state[3])
    with pytest.raises(UserError, match=r"a state with var in torch\.float64 and m in torch\.float32"):
        online_norm(x, state[0], torch.ones(4, dtype=torch.float64), *state[2:])
    norm = OnlineNorm2d(4)
    halved = {name: value.half() for name, value in norm.state_dict().items()}
    norm.load_state_dict(halved, assign=True)
    with pytest.raises(UserError, match=r"a state with m in torch\.float16"):
        norm(x)
    with pytest.raises(UserError, match="num_features is 0; expected a number of channels of at least 1"):
        OnlineNorm2d(0)


@pytest.mark.parametrize("backend", ["torch", "auto"])
def test_expanded_weights_are_what_they_say(backend: str) -> None:
    x, results = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0)), []
    for weight in (torch.tensor([3.0]).expand(4), torch.full((4,), 3.0)):
        m, var, u, v = torch.zeros(4), torch.ones(4), torch.zeros(4), torch.zeros(4)
        results.append(online_norm(x, m, var, u, v, weight, torch.zeros(4), backend=backend))
    assert torch.equal(*results)
