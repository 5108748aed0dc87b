"""A norm for each image size: which is used when, what lies between two of them, and what other tools make of it."""

import copy

import pytest
import torch
from torch import Tensor, nn

from anysize.models.measure.flops import count_flops
from anysize.models.spec import ModelSpec, create_model
from anysize.models.surgery.fold import fold_batch_norm
from anysize.models.surgery.recompute import checkpoint_segments
from anysize.norms.by_size.model import fix_norm_size, fixed_norm_size, norm_by_size, norm_sizes
from anysize.norms.calibration import calibrate_batch_norm, calibrated
from anysize.norms.convert.model import convert_norms
from anysize.registry import UserError
from anysize.training.averaging import AveragedWeights
from anysize.training.decay import weight_decays
from anysize.training.settings import OptimizerSettings


def network(norm: str = "") -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3),
    )  # fmt: skip
    if norm:
        convert_norms(model, norm, **({"num_groups": 2} if norm == "group" else {}))
    return model


def images(size: int, seed: int = 0, count: int = 6) -> Tensor:
    return torch.randn(count, 2, size, size, generator=torch.Generator().manual_seed(seed)) * (1 + size / 8) + size / 16


def trained(norm: str = "", sizes: tuple[int, ...] = (8, 16), affine: bool = False) -> nn.Module:
    model = norm_by_size(network(norm), sizes, affine).train()
    with torch.no_grad():
        for step in range(4):
            for size in sizes:
                model(images(size, step))
    return model


def statistics(model: nn.Module, place: str) -> Tensor:
    norm = model.get_submodule(f"1.{place}")
    return norm.norm.m if hasattr(norm, "norm") else norm.running_mean


@pytest.mark.parametrize("norm", ["", "sync_batch", "online"])
def test_each_size_moves_its_own_statistics(norm: str) -> None:
    model = trained(norm)
    small, large = statistics(model, "at_8").clone(), statistics(model, "at_16").clone()
    assert (small - large).abs().max() > 0.001
    assert model.norm_steps.tolist() == [4, 4]
    model(images(16, seed=9))
    assert torch.equal(statistics(model, "at_8"), small)
    assert not torch.equal(statistics(model, "at_16"), large)


@pytest.mark.parametrize("norm", ["", "online"])
def test_one_size_is_the_plain_network_to_the_bit(norm: str) -> None:
    plain, model = network(norm).train(), norm_by_size(network(norm), [12]).train()
    for step in range(3):
        outputs = [each(images(12, step)) for each in (plain, model)]
        assert torch.equal(*outputs)
        for each in outputs:
            each.square().sum().backward()
    for one, other in zip(plain.parameters(), model.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)
    if norm:  # of batch norm the first batches weigh more, as below
        assert torch.equal(plain.eval()(images(20)), model.eval()(images(20)))


@pytest.mark.parametrize("momentum", [0.1, 0.4, 0.01, None])
def test_the_first_batches_of_a_size_weigh_alike_until_the_momentum_is_more(momentum: float | None) -> None:
    plain, model = network().train(), network()
    norms = [each for each in (*plain, *model) if isinstance(each, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = momentum
    norm_by_size(model, (8, 16)).train()
    for step in range(1, 15):
        for norm in norms[:2]:
            norm.momentum = momentum and max(momentum, 1 / step)
        plain(images(16, step))
        model(images(16, step))
        model(images(8, step))
        for place in "14":
            given = model.get_submodule(f"{place}.at_16")
            torch.testing.assert_close(given.running_mean, plain.get_submodule(place).running_mean)
            torch.testing.assert_close(given.running_var, plain.get_submodule(place).running_var)


def test_the_weight_of_a_batch_is_told_by_the_state_of_the_model() -> None:
    whole = trained()
    resumed = norm_by_size(network(), (8, 16)).train()
    resumed.load_state_dict(whole.state_dict())
    for model in (whole, resumed):
        outputs = [model(images(size)) for size in (16, 8, 16)]
        torch.cat(outputs).square().sum().backward()
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name])
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)


def test_a_norm_that_is_called_twice_or_not_at_all_goes_no_further_than_its_batches() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.spare = nn.BatchNorm2d(2), nn.BatchNorm2d(2)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(x) + self.norm(x)

    model = norm_by_size(Twice(), (8,)).train()
    for k in (1, 2):
        model(images(8))
        var = images(8).var((0, 2, 3))
        torch.testing.assert_close(model.norm.at_8.running_var, var)
        assert model.norm.at_8.num_batches_tracked == 2 * k
    assert torch.equal(model.spare.at_8.running_var, torch.ones(2))


def test_evaluation_takes_its_own_size_the_mean_between_and_the_nearest_beyond() -> None:
    model = trained().eval()
    norms = {size: getattr(model[1], f"at_{size}") for size in (8, 16)}
    seen = {}
    model[2].register_forward_hook(lambda module, args, output: seen.update(normed=args[0].clone()))
    share = torch.log2(torch.tensor(11 / 8))  # of the logarithm's way from 8 to 16
    for size, (low, high, part) in {
        8: (8, 8, 0.0), 16: (16, 16, 0.0), 11: (8, 16, share), 4: (8, 8, 0.0), 40: (16, 16, 0.0),
    }.items():  # fmt: skip
        model(images(size))
        one, other = norms[low], norms[high]
        mean = one.running_mean + part * (other.running_mean - one.running_mean)
        var = one.running_var + part * (other.running_var - one.running_var)
        wanted = (model[0](images(size)) - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt()
        torch.testing.assert_close(seen["normed"], wanted * one.weight[:, None, None] + one.bias[:, None, None])


def test_the_area_counts_where_images_are_not_square() -> None:
    model = trained(sizes=(8, 12)).eval()
    model(torch.randn(1, 2, 8, 18))
    assert model[1].image.place == (12, 12, 0.0)


def test_a_size_that_comes_late_begins_with_the_nearest_and_is_passed_over_before() -> None:
    model = norm_by_size(network(), (8, 16, 32), affine=True).train()
    model(images(16))
    model.eval()(images(32))
    assert model[1].image.place == (16, 16, 0.0)
    nn.init.constant_(model[1].at_16.weight, 3.0)
    model.train()(images(32))
    assert (model[1].at_32.weight == 3.0).all()
    torch.testing.assert_close(model[1].at_32.running_mean, model[0](images(32)).mean((0, 2, 3)))  # of its own batch
    assert model[1].at_8.running_mean.any() == False  # noqa: E712


@pytest.mark.parametrize("affine", [False, True])
def test_a_size_that_is_new_may_come_between_a_pass_and_its_backward_pass(*, affine: bool) -> None:
    model = norm_by_size(network(), (8, 16), affine).train()
    (model(images(16)) - model(images(8))).square().sum().backward()
    assert model[1].at_16.weight.grad.abs().sum() > 0


def test_weights_by_size_get_no_gradient_of_other_sizes_and_are_not_moved() -> None:
    model = norm_by_size(network(), (8, 16), affine=True).train()
    assert weight_decays(model, OptimizerSettings())["1.at_8.bias"] == 0.0
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for size in (8, 16):
        optimizer.zero_grad()
        model(images(size)).square().sum().backward()
        optimizer.step()
    before = model[1].at_8.weight.clone()
    optimizer.zero_grad()
    model(images(16)).square().sum().backward()
    assert model[1].at_8.weight.grad is None
    optimizer.step()
    assert torch.equal(model[1].at_8.weight, before)
    assert not torch.equal(model[1].at_16.weight, before)


def test_group_norm_has_weights_by_size_alone() -> None:
    with pytest.raises(UserError, match=r"norms \(GroupNorm\) keep no running statistics; .*affine"):
        norm_by_size(network("group"), (8, 16))
    model = norm_by_size(network("group"), (8, 16), affine=True)
    with torch.no_grad():
        model[1].at_16.weight.fill_(2.0)
    plain = fix_norm_size(copy.deepcopy(model), 11.0)
    torch.testing.assert_close(plain(images(11)), model.eval()(images(11)))
    assert 1 < plain[1].weight[0] < 2


@pytest.mark.parametrize(("norm", "affine"), [("", False), ("", True), ("online", False)])
def test_fixed_at_a_size_it_is_a_plain_network_with_the_same_outputs(norm: str, affine: bool) -> None:
    model = trained(norm, affine=affine).eval()
    before = copy.deepcopy(model.state_dict())
    for size in (8, 11, 16, 30):
        wanted = model(images(size))
        with fixed_norm_size(model, size):
            assert model.state_dict().keys() == network(norm).state_dict().keys()
            torch.testing.assert_close(model(images(size)), wanted)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert torch.equal(model(images(size)), wanted)
    folded = fold_batch_norm(fix_norm_size(copy.deepcopy(model), 11))
    torch.testing.assert_close(folded(images(11)), model(images(11)))
    with pytest.raises(UserError, match="folding needs one set of statistics"):
        fold_batch_norm(model)


def test_calibration_holds_for_the_size_of_its_images_and_is_undone() -> None:
    model = trained().eval()
    before = copy.deepcopy(model.state_dict())
    plain = fix_norm_size(copy.deepcopy(model), 11)
    calibrate_batch_norm(plain, [images(11, 1)])
    with calibrated(model, iter([images(11, 1)])):
        torch.testing.assert_close(model(images(11)), plain(images(11)))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(UserError, match="no images"):
        calibrate_batch_norm(model, [])
    assert norm_sizes(model) == (8, 16)
    calibrate_batch_norm(model, [images(11, 1)])
    assert norm_sizes(model) == ()
    torch.testing.assert_close(model(images(11)), plain(images(11)))


def test_flops_are_those_of_plain_norms() -> None:
    plain, model = create_model("resnet8"), norm_by_size(create_model("resnet8"), (16, 24, 32))
    for size in (16, 20, 32, 40):
        assert count_flops(model, size) == count_flops(plain, size)


def test_averaged_weights_follow_a_size_from_its_first_step() -> None:
    model = norm_by_size(network(), (8, 16)).train()
    averaged = AveragedWeights(model, every=1, decay=0.9)
    for step, size in enumerate((8, 8, 16), start=1):
        model(images(size, step))
        averaged.update(model, step)
    assert torch.equal(averaged.model[1].at_16.running_mean, model[1].at_16.running_mean)
    assert not torch.equal(averaged.model[1].at_8.running_mean, model[1].at_8.running_mean)
    assert averaged.model.norm_steps.tolist() == [2, 1]
    averaged.model.eval()(images(16))
    assert averaged.model[1].image.place == (16, 16, 0.0)


def test_recomputed_activations_are_those_of_the_size_of_the_first_pass() -> None:
    gradients, kept = [], []
    for segments in (0, 1):
        torch.manual_seed(0)
        model = create_model("resnet8", in_channels=2).train()
        if segments:
            checkpoint_segments(model, segments)
        norm_by_size(model, (8, 16), affine=True)
        losses = [model(images(size)).square().sum() for size in (16, 8)]  # both before the backward pass
        sum(losses).backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
        kept.append(model.state_dict())
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)
    assert all(torch.equal(value, kept[1][name]) for name, value in kept[0].items())


@pytest.mark.slow
def test_a_compiled_model_gives_the_same() -> None:
    plain, model = (norm_by_size(network(), (8, 16)).train() for _ in range(2))
    compiled = torch.compile(model, dynamic=False)
    for size in (8, 16, 8, 16):
        torch.testing.assert_close(compiled(images(size)), plain(images(size)))
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value)


def test_a_spec_builds_it_and_reads_itself_back() -> None:
    spec = ModelSpec("resnet8", num_classes=10).swap_norms("online").norm_by_size([24, 32], affine=True)
    assert ModelSpec.from_dict(spec.to_dict()) == spec
    assert spec.settings["norm_by_size"]
    assert norm_sizes(spec.build()) == (24, 32)
    fixed = spec.fix_norm_size(28)
    assert fixed.settings == spec.settings
    assert norm_sizes(fixed.build()) == ()
    assert fixed.fix_norm_size(30) == fixed


def test_what_cannot_be_is_refused() -> None:
    for broken, message in (
        (lambda: norm_by_size(network(), []), "expected at least one"),
        (lambda: norm_by_size(nn.Sequential(nn.Conv2d(3, 4, 3)), [8]), "it has no norms"),
        (lambda: norm_by_size(norm_by_size(network(), [8]), [8]), "already"),
        (lambda: fix_norm_size(network(), 8), "plain norms"),
        (lambda: norm_by_size(nn.BatchNorm2d(3), [8]), "itself a norm"),
        (lambda: norm_by_size(network(), [8])[1](torch.zeros(1, 4, 2, 2)), "before its model"),
        (lambda: norm_by_size(network(), [8])(torch.zeros(1, 4)), "without any"),
    ):
        with pytest.raises(UserError, match=message):
            broken()
