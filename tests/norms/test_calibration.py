"""Calibration gives the exact pooled statistics, changes nothing else, and undoes itself to the bit."""

import contextlib
import copy
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from anysize.norms.calibration import calibrate_batch_norm, calibrated, has_running_statistics
from anysize.norms.online.norm import OnlineNorm2d
from anysize.norms.synchronised import SyncBatchNorm
from anysize.registry import UserError


def network() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Conv2d(8, 4, 3, stride=2),
        nn.BatchNorm2d(4, momentum=None),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.BatchNorm1d(4),
        nn.Linear(4, 10),
    )
    model(torch.randn(16, 3, 12, 12))  # some training statistics, and counts that are not 0
    return model


def images(count: int = 23) -> Tensor:
    """Images whose brightness and contrast drift, so that batches differ in mean and in variance."""
    drift = torch.linspace(0, 1, count).reshape(-1, 1, 1, 1)
    return torch.randn(count, 3, 10, 10, generator=torch.Generator().manual_seed(1)) * (0.5 + 3 * drift) + 4 * drift


def reference(values: Tensor) -> tuple[Tensor, Tensor]:
    values = values.double().transpose(0, 1).flatten(1)
    return values.mean(1), values.var(1, correction=1)


@pytest.mark.parametrize("cuts", [[23], [8, 8, 7], [1, 20, 2], [1] * 23])
def test_first_norm_gets_statistics_of_all_values_however_batches_are_cut(cuts: list[int]) -> None:
    model = network()[:2]
    assert calibrate_batch_norm(model, images().split(cuts)) == 23
    with torch.no_grad():
        mean, var = reference(model[0].double()(images().double()))
    torch.testing.assert_close(model[1].running_mean.double(), mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(model[1].running_var.double(), var, rtol=1e-5, atol=0)


def test_deeper_norms_see_values_normalised_by_batch_without_dropout() -> None:
    model = network()
    calibrate_batch_norm(model, images().split(9))
    mean, outputs = None, []
    with torch.no_grad():
        twin = copy.deepcopy(model).double()
        for batch in images().double().split(9):
            values = twin[0](batch)
            mean, var = values.mean((0, 2, 3), keepdim=True), values.var((0, 2, 3), correction=0, keepdim=True)
            weight, bias = (parameter.reshape(1, -1, 1, 1) for parameter in (twin[1].weight, twin[1].bias))
            outputs.append(twin[4](((values - mean) / (var + twin[1].eps).sqrt() * weight + bias).relu()))
    mean, var = reference(torch.cat(outputs))
    torch.testing.assert_close(model[5].running_mean.double(), mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model[5].running_var.double(), var, rtol=1e-5, atol=0)


def test_one_batch_leaves_what_a_training_step_with_momentum_one_leaves() -> None:
    model = network()
    model[3] = nn.Identity()
    trained = copy.deepcopy(model)
    for module in trained.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.momentum = 1.0
    trained.train()(images())
    calibrate_batch_norm(model, [images()])
    for layer in (1, 5, 8):
        torch.testing.assert_close(model[layer].running_mean, trained[layer].running_mean, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(model[layer].running_var, trained[layer].running_var, rtol=1e-6, atol=0)


def test_nothing_but_the_statistics_changes() -> None:
    model = network()
    model[4].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    calibrate_batch_norm(model, images().split(10))
    after = model.state_dict()
    assert list(after) == list(before)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {f"{layer}.running_{what}" for layer in (1, 5, 8) for what in ("mean", "var")}
    assert [module.training for module in model.modules()] == modes
    assert [model[layer].momentum for layer in (1, 5, 8)] == [0.1, None, 0.1]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_calibrated_puts_training_statistics_back_also_after_an_exception() -> None:
    model = network().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    unseen = model(images())
    with contextlib.suppress(KeyError), calibrated(model, images().split(10), max_images=17) as used:
        assert used == 17
        assert not torch.equal(model[1].running_mean, before["1.running_mean"])
        raise KeyError
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(model(images()), unseen)


def test_statistics_are_kept_when_the_images_fail_midway() -> None:
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(UserError, match=r"the norm '8' sees a single value a channel \(its input is \(1, 4\)\)"):
        calibrate_batch_norm(model, images().split(11))  # 23 = 11 + 11 + 1
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert model[5].momentum is None


def test_max_images_cuts_the_last_batch() -> None:
    model, same = network(), network()
    assert calibrate_batch_norm(model, images().split(10), max_images=13) == 13
    calibrate_batch_norm(same, images()[:13].split(10))
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), same.buffers(), strict=True))


def test_batches_may_be_tuples_or_objects() -> None:
    models = network(), network(), network()
    calibrate_batch_norm(models[0], [images()])
    calibrate_batch_norm(models[1], [(images(), torch.zeros(23))])
    calibrate_batch_norm(models[2], [SimpleNamespace(images=images())])
    for model in models[1:]:
        assert torch.equal(model[1].running_var, models[0][1].running_var)


def test_a_norm_that_is_called_twice_pools_both_calls() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(2 * x + 7) + self.norm(x)

    model = Twice()
    calibrate_batch_norm(model, images().split(10))
    mean, var = reference(torch.cat([images(), 2 * images() + 7]))
    torch.testing.assert_close(model.norm.running_mean.double(), mean, rtol=1e-6, atol=0)
    torch.testing.assert_close(model.norm.running_var.double(), var, rtol=1e-5, atol=0)


def test_instance_norm_gets_the_mean_over_images() -> None:
    model = nn.InstanceNorm2d(3, track_running_stats=True)
    calibrate_batch_norm(model, images().split([3, 20]))
    values = images().double().flatten(2)
    torch.testing.assert_close(model.running_mean.double(), values.mean((0, 2)), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(model.running_var.double(), values.var(2).mean(0), rtol=1e-6, atol=0)


def test_timm_fused_norm_is_calibrated_with_its_dropout_off() -> None:
    timm_norms = pytest.importorskip("timm.layers")
    model = nn.Sequential(timm_norms.BatchNormAct2d(3, drop_layer=nn.Dropout), nn.BatchNorm2d(3)).train()
    calibrate_batch_norm(model, [images()])
    mean, var = reference(images())
    torch.testing.assert_close(model[0].running_mean.double(), mean, rtol=1e-6, atol=0)
    torch.testing.assert_close(model[0].running_var.double(), var, rtol=1e-6, atol=0)
    values = ((images().double() - mean.reshape(-1, 1, 1)) / var.reshape(-1, 1, 1).sqrt()).relu()
    torch.testing.assert_close(model[1].running_mean.double(), reference(values)[0], rtol=1e-3, atol=0)


@pytest.mark.parametrize("ecm", ["none", "ls", "ac"])
def test_online_norm_gets_the_statistics_of_what_it_will_see_in_evaluation(ecm: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        OnlineNorm2d(3, ecm=ecm), nn.Conv2d(3, 4, 3), nn.ReLU(), OnlineNorm2d(4, ecm=ecm, affine=False)
    )
    model(torch.randn(4, 3, 10, 10)).square().sum().backward()  # some state
    control = [model[layer].norm.get_buffer(name).clone() for layer in (0, 3) for name in "uv"]
    assert has_running_statistics(model)
    assert calibrate_batch_norm(model, [images()]) == 23
    values = images().double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(model[0].norm.m.double(), values.mean(1), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(model[0].norm.var.double(), values.var(1, correction=0), rtol=1e-5, atol=0)
    with torch.no_grad():
        seen = model[:3].eval()(images()).double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(model[3].norm.m.double(), seen.mean(1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model[3].norm.var.double(), seen.var(1, correction=0), rtol=1e-4, atol=0)
    after = [model[layer].norm.get_buffer(name) for layer in (0, 3) for name in "uv"]
    assert all(torch.equal(one, other) for one, other in zip(control, after, strict=True))
    assert "forward" not in model[0].__dict__


def test_calibrated_puts_the_state_of_online_norms_back() -> None:
    model = nn.Sequential(OnlineNorm2d(3))
    model(images())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with calibrated(model, images().split(10)):
        assert not torch.equal(model[0].norm.m, before["0.norm.m"])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_forward_that_a_module_was_given_is_there_afterwards() -> None:
    model = nn.Sequential(OnlineNorm2d(3))
    wrapped = model[0].forward = lambda x: OnlineNorm2d.forward(model[0], x) + 1
    calibrate_batch_norm(model, [images()])
    assert model[0].forward is wrapped


@pytest.mark.parametrize("sync", [nn.SyncBatchNorm, SyncBatchNorm])
def test_synchronised_batch_norm_is_calibrated_like_batch_norm(sync: type[nn.Module]) -> None:
    model, same = nn.Sequential(sync(3)), nn.Sequential(nn.BatchNorm2d(3))
    for one in (model, same):
        calibrate_batch_norm(one, images().split(10))
    assert torch.equal(model[0].running_var, same[0].running_var)
    assert model[0].num_batches_tracked == 0
    assert "forward" not in vars(model[0])


def test_synchronised_norm_with_an_activation_keeps_it_in_calibration() -> None:
    layers = pytest.importorskip("timm.layers")
    model = nn.Sequential(layers.BatchNormAct2d(3, drop_layer=nn.Dropout), nn.BatchNorm2d(3)).train()
    sync = layers.convert_sync_batchnorm(copy.deepcopy(model))
    for one in (model, sync):
        calibrate_batch_norm(one, images().split(10))
    assert all(torch.equal(value, sync.state_dict()[name]) for name, value in model.state_dict().items())


def test_damaged_statistics_do_not_survive() -> None:
    model = network()
    model[1].running_var.fill_(float("nan"))
    calibrate_batch_norm(model, images().split(10))
    assert all(buffer.isfinite().all() for buffer in model.buffers())


def test_compiled_model_is_calibrated_like_the_plain_one() -> None:
    plain, model = network().eval(), network().eval()
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        compiled(images())
    calibrate_batch_norm(plain, images().split(10))
    calibrate_batch_norm(compiled, images().split(10))
    assert torch.equal(model[5].running_var, plain[5].running_var)


def test_norm_that_no_image_reaches_keeps_its_statistics() -> None:
    class Some(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.spare = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
            self.spare.running_mean.fill_(3.0)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    some = Some()
    calibrate_batch_norm(some, [images()])
    assert some.spare.running_mean.tolist() == [3.0] * 3
    assert some.used.running_mean.abs().min() > 0


def test_calibration_rescues_a_network_at_a_size_it_was_not_trained_at() -> None:
    """Two classes differ in contrast alone: features are off at four times the trained size, until calibrated."""

    def batch(size: int, count: int = 64) -> tuple[Tensor, Tensor]:
        targets = torch.arange(count) % 2
        noise = torch.randn(count, 1, 8, 8) * (1 + targets.reshape(-1, 1, 1, 1))
        return nn.functional.interpolate(noise, size=size, mode="bilinear"), targets

    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2),
    )  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(60):
        inputs, targets = batch(8)
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()

    def accuracy(size: int) -> float:
        inputs, targets = batch(size, 400)
        return (model(inputs).argmax(1) == targets).float().mean().item()

    assert accuracy(8) > 0.9
    as_trained = accuracy(32)
    with calibrated(model, [batch(32)[0] for _ in range(4)]):
        assert accuracy(32) > as_trained + 0.1
    assert accuracy(32) == pytest.approx(as_trained, abs=0.1)


def test_user_errors() -> None:
    with pytest.raises(UserError, match="received no images"):
        calibrate_batch_norm(network(), [])
    with pytest.raises(UserError, match="batch of type int; expected an image tensor"):
        calibrate_batch_norm(network(), [3])
    with pytest.raises(UserError, match="max_images is 0"):
        calibrate_batch_norm(network(), [images()], max_images=0)


def test_networks_without_running_statistics_need_no_calibration() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.BatchNorm2d(4, track_running_stats=False))
    assert not has_running_statistics(model)
    assert calibrate_batch_norm(model, iter([])) == 0
    assert has_running_statistics(network())
