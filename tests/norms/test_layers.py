"""The norms that torch does not have: fixed batch norm, layer norm with a weight a value, norm with an activation."""

import copy
import pickle

import pytest
import torch
from torch import nn

from anysize.norms.layers import ElementwiseLayerNorm, FrozenBatchNorm, InstanceNorm1d, NormAct
from anysize.registry import UserError

BATCH = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
SHAPES = {1: (5, 6, 7), 2: (5, 6, 4, 3), 3: (2, 6, 3, 4, 2)}


def trained_batch_norm(dims: int) -> nn.Module:
    torch.manual_seed(0)
    norm = BATCH[dims](6, momentum=None)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2)
        norm.bias.normal_()
    norm(3 * torch.randn(SHAPES[dims]) + 1)
    return norm.eval()


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_frozen_batch_norm_is_batch_norm_in_evaluation_whatever_its_mode(dims: int) -> None:
    batch, frozen = trained_batch_norm(dims), FrozenBatchNorm(6)
    frozen.load_state_dict(batch.state_dict())  # its count of batches is left out
    x = torch.randn(SHAPES[dims], requires_grad=True)
    grad = torch.randn(SHAPES[dims])
    before = copy.deepcopy(frozen.state_dict())
    for mode in (True, False):
        torch.testing.assert_close(frozen.train(mode)(x), batch(x))
    (wanted,) = torch.autograd.grad(batch(x), x, grad)
    torch.testing.assert_close(torch.autograd.grad(frozen(x), x, grad)[0], wanted)
    assert all(torch.equal(value, before[key]) for key, value in frozen.state_dict().items())
    assert list(before) == ["weight", "bias", "running_mean", "running_var"]
    assert not list(frozen.parameters())


def test_frozen_batch_norm_keeps_no_activation_for_the_backward_pass() -> None:
    saved = []
    norm, x = FrozenBatchNorm(6), torch.randn(4, 6, 9, 9, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        norm(x)
    assert max(saved) == 6


def test_frozen_batch_norm_of_half_inputs_rounds_once() -> None:
    norm = FrozenBatchNorm(1, eps=0.0)
    norm.running_mean.fill_(1000.0)
    x = torch.tensor([[1001.0, 1004.0]], dtype=torch.bfloat16).reshape(2, 1)
    assert norm(x).dtype == torch.bfloat16
    assert torch.equal(norm(x).float(), x.float() - 1000)


def test_elementwise_layer_norm_normalises_each_sample_with_a_weight_a_value() -> None:
    torch.manual_seed(0)
    norm = ElementwiseLayerNorm(3, (4, 5))
    with torch.no_grad():
        norm.weight.normal_()
        norm.bias.normal_()
    x = 2 * torch.randn(6, 3, 4, 5) + 7
    for image, out in zip(x.double(), norm(x), strict=True):
        wanted = (image - image.mean()) / (image.var(correction=0) + 1e-5).sqrt() * norm.weight + norm.bias
        torch.testing.assert_close(out.double(), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("norm", "shape", "message"),
    [
        (ElementwiseLayerNorm(3, (8, 8)), (2, 3, 4, 4), r"of \(N, 3, 8, 8\) and received \(2, 3, 4, 4\); .*'layer'"),
        (FrozenBatchNorm(3), (2, 4, 4, 4), r"received an input of shape \(2, 4, 4, 4\); expected \(N, 3, ...\)"),
        (FrozenBatchNorm(3), (3,), r"received an input of shape \(3,\)"),
        (InstanceNorm1d(2), (2, 2), r"instance norm received \(2, 2\): one value a channel"),
    ],
)
def test_inputs_that_do_not_fit(norm: nn.Module, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        norm(torch.zeros(shape))


def test_norm_act_is_norm_then_dropout_then_activation() -> None:
    norm = nn.GroupNorm(2, 4)
    module = NormAct(norm, nn.Dropout(0.5), nn.ReLU(inplace=True))
    x = torch.randn(3, 4, 5, 5)
    torch.testing.assert_close(module.eval()(x), norm(x).relu())
    torch.manual_seed(1)
    wanted = nn.functional.dropout(norm(x), 0.5).relu()
    torch.manual_seed(1)
    torch.testing.assert_close(module.train()(x), wanted)
    assert module.weight is norm.weight
    assert module.bias is norm.bias
    assert module.num_features == 4
    assert NormAct(nn.Identity(), nn.Identity(), nn.ReLU()).weight is None
    torch.testing.assert_close(pickle.loads(pickle.dumps(module.eval()))(x), module(x))
