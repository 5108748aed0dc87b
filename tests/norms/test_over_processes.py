"""Norms in three processes and in two: synchronised ones, pooled statistics, calibration that is shared."""

import contextlib
import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from gloo_group import in_group
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from anysize.models.surgery.recompute import checkpoint_segments
from anysize.norms.calibration import calibrate_batch_norm, calibrated
from anysize.norms.convert.model import convert_norms
from anysize.norms.factory import create_norm
from anysize.norms.online.norm import OnlineNorm2d
from anysize.norms.pooling import pooled, pooled_statistics
from anysize.norms.synchronised import SyncBatchNorm, each_alone, synchronise_anywhere
from anysize.registry import UserError
from anysize.world import World

SIZE = 3
Result = dict[str, Any]


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Case:
    """A norm, and what each process gives it in two steps."""

    def __init__(
        self, *shapes: tuple[int, ...], dtype: torch.dtype = torch.float32, far: float = 0.0, last: bool = False,
        **options: Any,
    ) -> None:  # fmt: skip
        self.shapes, self.dtype, self.far, self.last, self.options = shapes, dtype, far, last, options

    def norm(self, kind: type[Any]) -> Any:
        norm = kind(4, **self.options)
        with torch.no_grad():
            for i, parameter in enumerate(norm.parameters()):
                parameter.copy_(1 + normal(4, seed=i))
        return norm.double() if self.dtype == torch.float64 else norm

    def batch(self, rank: int, step: int, what: int = 0) -> Tensor:
        """Images of a process, or (`what` 1) the gradient of what comes of them."""
        x = normal(*self.shapes[rank], seed=100 * what + 10 * step + rank)
        if not what:
            x = self.far + (rank + 1) * x + rank
        return x.to(self.dtype, memory_format=torch.channels_last if self.last else torch.contiguous_format)


CASES = {
    "images": Case((5, 4, 6, 5), (3, 4, 6, 5), (2, 4, 6, 5)),
    "two": Case((5, 4, 6, 5), (3, 4, 2, 5)),  # in a group of the first two, each with a size of its own
    "vectors": Case((4, 4), (1, 4), (2, 4)),  # one has a single value a channel
    "sequences": Case((2, 4, 9), (2, 4, 9), (1, 4, 9)),
    "volumes": Case((2, 4, 2, 3, 4), (1, 4, 2, 3, 4), (1, 4, 2, 3, 4)),
    "channels last": Case((2, 4, 6, 5), (3, 4, 6, 5), (2, 4, 6, 5), last=True),
    "one has none": Case((5, 4, 3, 3), (0, 4, 3, 3), (2, 4, 3, 3)),
    "cumulative": Case((5, 4, 3), (3, 4, 3), (2, 4, 3), momentum=None),
    "not affine": Case((5, 4, 3), (3, 4, 3), (2, 4, 3), affine=False),
    "no bias": Case((5, 4, 3), (3, 4, 3), (2, 4, 3), bias=False),
    "not tracked": Case((5, 4, 3), (3, 4, 3), (2, 4, 3), track_running_stats=False),
    "far from zero": Case((5, 4, 6, 6), (3, 4, 6, 6), (2, 4, 6, 6), far=100.0),
    "bfloat16": Case((5, 4, 6, 6), (3, 4, 6, 6), (2, 4, 6, 6), dtype=torch.bfloat16),
    "float16": Case((5, 4, 6, 6), (3, 4, 6, 6), (2, 4, 6, 6), dtype=torch.float16),
    "float64": Case((5, 4, 6, 6), (3, 4, 6, 6), (2, 4, 6, 6), dtype=torch.float64, far=1e6),
}


def steps(norm: Any, batches: list[tuple[Tensor, Tensor]]) -> Result:
    """Two steps of one norm: the last output and gradient of the input, gradients of the parameters, statistics."""
    for x, grad in batches:
        x.requires_grad_()
        out = norm(x)
        out.backward(grad)
    return {
        "out": out.detach(), "grad": x.grad, **{f"grad of {name}": p.grad for name, p in norm.named_parameters()},
        **{name: buffer.clone() for name, buffer in norm.named_buffers()},
        "evaluated": norm.eval()(x).detach() if norm.track_running_stats else None,
    }  # fmt: skip


def network(norm: Callable[[int], nn.Module]) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 4, 3), norm(4), nn.ReLU()), nn.Conv2d(4, 5, 3), norm(5), nn.Flatten()
    )


def own(rank: int) -> Tensor:
    return (rank + 1) * normal(2 + rank, 3, 8, 8, seed=rank) + rank


def left_behind(model: nn.Module) -> Result:
    """Gradients and statistics after a step."""
    return {
        **{name: parameter.grad for name, parameter in model.named_parameters()},
        **{name: buffer.clone() for name, buffer in model.named_buffers()},
    }


def trained(model: nn.Module, x: Tensor) -> Result:
    """After a step whose loss is a sum, so that DDP's mean over processes is known."""
    model(x).square().sum().backward()
    return left_behind(model)


def everything(rank: int) -> Result:
    """All that a process does, in the order in which the others do it too."""
    found: Result = {}
    two = dist.new_group([0, 1])
    for name, case in CASES.items():
        if rank < len(case.shapes):
            norm = case.norm(SyncBatchNorm)
            norm.process_group = two if name == "two" else None
            found[name] = steps(norm, [(case.batch(rank, step), case.batch(rank, step, 1)) for step in range(2)])
    found |= networks(rank)
    found |= pooling(rank, World.here())
    found |= calibration(rank, World.here())
    return found


def networks(rank: int) -> Result:
    found = {}
    models = {name: network(SyncBatchNorm) for name in ("plain", "recomputed", "compiled", "chunks")}
    models["torch's"] = network(nn.SyncBatchNorm)
    synchronise_anywhere(models["torch's"])
    models["converted"] = network(nn.BatchNorm2d)
    convert_norms(models["converted"], "sync_batch")
    checkpoint_segments(models["recomputed"], 2)
    for name, model in models.items():
        parallel: Any = DistributedDataParallel(model, broadcast_buffers=False)
        forward = torch.compile(parallel, backend="eager") if name == "compiled" else parallel
        for part in own(rank).chunk(2 if name == "chunks" else 1):
            forward(part).square().sum().backward()
        found[name] = left_behind(model)
    single = SyncBatchNorm(3)
    with pytest.raises(UserError, match=r"received 1 value a channel in all processes together"):
        single(torch.ones(int(rank == 1), 3))
    if rank == 1:  # nobody waits for anybody
        with each_alone():
            found["each alone"] = single(own(1)).detach()
        single.eval()(torch.ones(1, 3))
    return found


class Shared(nn.Module):
    """Every norm that keeps statistics, one of them under two names."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3)
        self.batch = self.again = nn.BatchNorm2d(4, momentum=0.5)
        self.online = OnlineNorm2d(4, 0.9, 0.8)
        self.instance = nn.InstanceNorm2d(4, track_running_stats=True)
        self.sync = SyncBatchNorm(4)
        self.frozen = create_norm("frozen_batch", 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.frozen(self.sync(self.instance(self.online(self.again(self.batch(self.conv(x)))) + x.mean())))


def pooling(rank: int, world: World) -> Result:
    model = Shared()
    averaged = AveragedModel(model, use_buffers=True)
    for step in range(2):
        model(own(rank) + step).square().sum().backward()
        averaged.update_parameters(model)
    before = copy.deepcopy(model.state_dict())
    with contextlib.suppress(KeyError), pooled(model, world) as statistics:
        within = copy.deepcopy(model.state_dict())
        raise KeyError
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pooled(averaged, world) as of_averaged:
        assert all(torch.equal(averaged.state_dict()[name], value) for name, value in of_averaged.items())
    assert pooled_statistics(nn.Sequential(nn.GroupNorm(1, 3)), world) == {}
    return {"own": before, "pooled": within, "statistics": statistics, "own average": averaged.state_dict(),
            "average": of_averaged}  # fmt: skip


PARTS = {0: [7, 4], 1: [], 2: [9]}  # images of the batches of each process


def part(rank: int) -> list[Tensor]:
    return [(1 + rank) * normal(count, 3, 8, 8, seed=10 * rank + i) + rank + i for i, count in enumerate(PARTS[rank])]


def to_calibrate() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), OnlineNorm2d(4), nn.Conv2d(4, 4, 1), SyncBatchNorm(4),
        nn.InstanceNorm2d(4, track_running_stats=True),
    )  # fmt: skip


def calibration(rank: int, world: World) -> Result:
    model = to_calibrate()
    used = calibrate_batch_norm(model, part(rank), world=world)
    restored = to_calibrate()
    with calibrated(restored, part(rank), max_images=5, world=world) as fewer:
        seen = copy.deepcopy(restored.state_dict())
    assert all(torch.equal(value, restored.state_dict()[name]) for name, value in to_calibrate().state_dict().items())
    errors = []
    for batches in ([], [torch.ones(1, 3, 3, 3)] if rank == 1 else part(rank)):
        with pytest.raises(UserError) as error:
            calibrate_batch_norm(restored, batches, world=world)
        errors.append(str(error.value))
    assert all(torch.equal(value, restored.state_dict()[name]) for name, value in to_calibrate().state_dict().items())
    alone = to_calibrate()
    if rank == 2:  # without `world` no process waits for another
        calibrate_batch_norm(alone, part(rank))
    return {"used": used, "calibrated": model.state_dict(), "fewer": fewer, "seen": seen, "errors": errors,
            "alone": alone.state_dict()}  # fmt: skip


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[Result]:
    return in_group(SIZE, everything, tmp_path_factory.mktemp("group"))


def close(one: Tensor, other: Tensor, dtype: torch.dtype, what: str) -> None:
    tolerance = {torch.float32: 2e-5, torch.float64: 1e-9, torch.bfloat16: 2e-2, torch.float16: 2e-3}[dtype]
    torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance, msg=lambda text: f"{what}: {text}")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(CASES))
def test_synchronised_norm_is_batch_norm_of_all_batches(found: list[Result], name: str) -> None:
    case = CASES[name]
    ranks = range(len(case.shapes))
    seen = [found[rank][name] for rank in ranks]
    kind = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[len(case.shapes[0])]
    flat = name == "two"  # batches of several sizes: batch norm has no more than values a channel to do with

    def together(of: list[Tensor]) -> Tensor:
        return torch.cat([x.movedim(1, -1).reshape(-1, 4) for x in of]) if flat else torch.cat(of)

    def whole(step: int, what: int = 0) -> Tensor:
        batches = [case.batch(rank, step, what).detach() for rank in ranks]
        return together(batches).to(memory_format=torch.channels_last if case.last else torch.contiguous_format)

    expected = steps(case.norm(nn.BatchNorm1d if flat else kind), [(whole(step), whole(step, 1)) for step in range(2)])
    for key in ("out", "grad", "evaluated"):
        if expected[key] is not None:
            close(together([one[key] for one in seen]), expected[key], case.dtype, key)
    for key in set(expected) - {"out", "grad", "evaluated"}:
        if key.startswith("grad"):
            total = sum(one[key] for one in seen if one[key] is not None)
            scale = max(1.0, float(expected[key].abs().max()))
            close(total / scale, expected[key] / scale, case.dtype, key)
        else:
            assert all(torch.equal(one[key], seen[0][key]) for one in seen), key
            torch.testing.assert_close(seen[0][key], expected[key], rtol=1e-5, atol=1e-5)
    assert seen[0]["out"].dtype == case.dtype
    assert not case.last or seen[0]["grad"].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain", "recomputed", "compiled", "torch's", "converted"])
def test_network_in_three_processes_learns_what_one_learns_from_all_images(found: list[Result], name: str) -> None:
    """Recomputed activations move no statistics a second time; DDP takes the norms on CPUs."""
    expected = trained(network(nn.BatchNorm2d), torch.cat([own(rank) for rank in range(SIZE)]))
    for rank in range(SIZE):
        for key, value in found[rank][name].items():
            wanted = expected[key] / SIZE if value.is_floating_point() and "running" not in key else expected[key]
            scale = max(1.0, float(wanted.abs().max()))
            close(value / scale, wanted / scale, torch.float32, key)


@pytest.mark.slow
def test_each_chunk_is_synchronised_by_itself(found: list[Result]) -> None:
    expected = network(nn.BatchNorm2d)
    for i in range(2):
        whole = trained(expected, torch.cat([own(rank).chunk(2)[i] for rank in range(SIZE)]))
    for key in ("0.0.weight", "1.weight", "2.running_var", "2.num_batches_tracked"):
        wanted = whole[key] / SIZE if key.endswith(".weight") else whole[key]
        scale = max(1.0, float(wanted.abs().max()))
        close(found[1]["chunks"][key] / scale, wanted / scale, torch.float32, key)


@pytest.mark.slow
def test_each_can_normalise_alone(found: list[Result]) -> None:
    assert torch.equal(found[1]["each alone"], nn.BatchNorm2d(3)(own(1)))


@pytest.mark.slow
def test_pooled_statistics_are_those_of_all_processes(found: list[Result]) -> None:
    for own_key, key, prefix in (("own", "pooled", ""), ("own average", "average", "module.")):
        before, after = ([one[what] for one in found] for what in (own_key, key))
        for norm in ("batch", "again", "instance", "online.norm"):
            names = ("m", "var") if "online" in norm else ("running_mean", "running_var")
            means, variances = (
                torch.stack([one[f"{prefix}{norm}.{name}"].double() for one in before]) for name in names
            )
            assert not torch.equal(means[0], means[1]), "each process has statistics of its own"
            mean = means.mean(0)
            var = variances.mean(0)
            if norm != "instance":  # whose variance is that within an image
                var = (variances + means**2).mean(0) - mean**2
            for one in after:
                torch.testing.assert_close(one[f"{prefix}{norm}.{names[0]}"], mean.float(), rtol=1e-6, atol=1e-7)
                torch.testing.assert_close(one[f"{prefix}{norm}.{names[1]}"], var.float(), rtol=1e-6, atol=1e-7)
        for one in after[1:]:
            moved = [name for name in one if name.endswith(("running_mean", "running_var", "norm.m", "norm.var"))]
            assert all(torch.equal(one[name], after[0][name]) for name in moved)


@pytest.mark.slow
def test_pooling_leaves_all_else_alone(found: list[Result]) -> None:
    for one in found:
        changed = {name for name, value in one["pooled"].items() if not torch.equal(value, one["own"][name])}
        ends = ("running_mean", "running_var")
        pooled_ones = {f"{norm}.{end}" for norm in ("batch", "again", "instance") for end in ends}
        assert changed == {*pooled_ones, "online.norm.m", "online.norm.var"}
        assert set(one["statistics"]) == {*changed, "sync.running_mean", "sync.running_var"}
        assert all(torch.equal(one["pooled"][name], value) for name, value in one["statistics"].items())
    assert not torch.equal(found[0]["pooled"]["online.norm.v"], found[1]["pooled"]["online.norm.v"])


@pytest.mark.slow
def test_processes_calibrate_together_on_their_parts(found: list[Result]) -> None:
    model = to_calibrate()
    batches = [batch for rank in range(SIZE) for batch in part(rank)]
    assert [one["used"] for one in found] == [calibrate_batch_norm(model, batches)] * SIZE == [20] * SIZE
    for one in found:
        for name, value in model.state_dict().items():
            torch.testing.assert_close(one["calibrated"][name], value, rtol=1e-6, atol=1e-6, msg=name)
    assert all(torch.equal(found[0]["calibrated"][name], found[1]["calibrated"][name]) for name in model.state_dict())
    fewer = to_calibrate()
    assert calibrate_batch_norm(fewer, [part(0)[0][:5], part(2)[0][:5]]) == found[1]["fewer"] == 10
    torch.testing.assert_close(found[1]["seen"]["5.running_var"], fewer[5].running_var, rtol=1e-6, atol=1e-6)
    alone = to_calibrate()
    calibrate_batch_norm(alone, part(2))
    assert all(torch.equal(found[2]["alone"][name], value) for name, value in alone.state_dict().items())


@pytest.mark.slow
def test_an_error_of_one_in_calibration_is_that_of_all(found: list[Result]) -> None:
    for rank, one in enumerate(found):
        empty, single = one["errors"]
        assert empty == "calibration received no images; expected at least one batch"
        assert "the norm '1' sees a single value a channel" in single
        assert ("process 1: " in single) == (rank != 1)


@pytest.mark.parametrize("options", [{}, {"momentum": None}, {"affine": False}, {"track_running_stats": False}])
@pytest.mark.parametrize("grouped", [False, True])
def test_in_a_single_process_it_is_batch_norm_to_the_bit(tmp_path: Path, options: Result, grouped: bool) -> None:
    case = Case((5, 4, 6, 5), **options)
    batches = [(case.batch(0, step), case.batch(0, step, 1)) for step in range(2)]
    if grouped:
        dist.init_process_group("gloo", init_method=(tmp_path / "meeting").as_uri(), rank=0, world_size=1)
    try:
        ours = steps(case.norm(SyncBatchNorm), [(x.clone(), grad) for x, grad in batches])
    finally:
        if grouped:
            dist.destroy_process_group()
    plain = steps(case.norm(nn.BatchNorm2d), batches)
    assert all(value is None or torch.equal(value, plain[name]) for name, value in ours.items())


def test_copies_are_norms_of_their_own_and_pickle() -> None:
    norm = SyncBatchNorm(3, momentum=None)
    other = pickle.loads(pickle.dumps(copy.deepcopy(norm)))
    other(normal(4, 3, seed=0))
    assert (type(other), other.momentum, other.process_group) == (SyncBatchNorm, None, None)
    assert not torch.equal(other.running_mean, norm.running_mean)
    assert list(norm.state_dict()) == list(nn.SyncBatchNorm(3).state_dict())


def test_a_world_of_one_pools_nothing_and_copies_nothing() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3))
    with pooled(model, World()) as statistics:
        assert statistics["0.running_mean"] is model[0].running_mean
        model[0].running_mean.fill_(3.0)
    assert model[0].running_mean.eq(3).all()


def test_vectors_without_channels_are_refused() -> None:
    with pytest.raises(UserError, match=r"synchronised batch norm received an input of shape \(3,\)"):
        SyncBatchNorm(3)(torch.ones(3))
