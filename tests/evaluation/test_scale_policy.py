"""What a network's branches contribute: against a definition written here, in any batching, and what is refused."""

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from anysize.evaluation.scale_policy import scale_policy
from anysize.models.factory import create_model
from anysize.models.scales import ScaleSum
from anysize.registry import UserError


class Two(nn.Module):
    """One block that adds known branches."""

    def __init__(self, low: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(low))
        self.halve = nn.AvgPool2d(2)
        self.merge = ScaleSum()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.merge(x, self.weight * self.halve(x))
        return out


def definition(full: Tensor, low: Tensor) -> Tensor:
    """Root mean square of the deviation from the channels' means over all images, an image; the part of `low`."""
    deviations = []
    for values in (full.double(), low.double()):
        centred = values - values.mean(dim=(0, 2, 3), keepdim=True)
        deviations.append(centred.square().mean(dim=(1, 2, 3)).sqrt())
    return deviations[1] / (deviations[0] + deviations[1])


@pytest.mark.parametrize("low", [0.0, 0.3, 1.0, -2.0])
def test_against_the_definition(low: float) -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 3, 8, 12) + torch.tensor([0.0, 5.0, -3.0]).view(1, 3, 1, 1)
    model = Two(low)
    interpolated = nn.functional.interpolate(low * nn.functional.avg_pool2d(x, 2), scale_factor=2, mode="bilinear")
    expected = definition(x, interpolated)
    for batches in ([x], [x[:4], x[4:]], [(x, torch.arange(6))]):
        table = scale_policy(model, batches)
        assert table["image"].tolist() == list(range(6))
        assert table["low_share"].to_numpy() == pytest.approx(expected.numpy(), abs=1e-5)
    assert scale_policy(model, [(x, torch.arange(6))])["label"].tolist() == list(range(6))


def test_a_branch_that_is_off_contributes_nothing() -> None:
    torch.manual_seed(0)
    model = create_model("resnet14", elasticize="auto")
    x = torch.randn(4, 3, 33, 32)
    before = scale_policy(model, [x]).groupby("block")["low_share"].mean()
    nn.init.zeros_(model.get_parameter("layer1.1.conv2_d.weight"))
    nn.init.zeros_(model.get_parameter("layer2.1.conv2.weight"))
    after = scale_policy(model, [x]).groupby("block")["low_share"].mean()
    assert after["layer1.0"] == pytest.approx(before["layer1.0"])
    assert 0.1 < before["layer1.1"] < 0.9
    assert after["layer1.1"] == 0
    assert after["layer2.1"] == 1


def test_blocks_in_order_and_the_model_as_it_was() -> None:
    model = create_model("resnet14", elasticize="all")
    model.get_submodule("layer2").eval()
    modes = [module.training for module in model.modules()]
    table = scale_policy(model, [torch.randn(2, 3, 16, 16), torch.randn(1, 3, 20, 24)])
    assert table["block"].unique().tolist() == ["layer1.0", "layer1.1", "layer2.1", "layer3.1"]
    assert len(table) == 3 * 4
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_hooks for module in model.modules())


def test_what_has_no_scales_is_refused() -> None:
    with pytest.raises(UserError, match="CifarResNet has no block with a branch at half resolution"):
        scale_policy(create_model("resnet8"), [torch.zeros(1, 3, 8, 8)])
    with pytest.raises(UserError, match="hold no image"):
        scale_policy(create_model("resnet14", elasticize="auto"), [])
    assert isinstance(scale_policy(Two(0.0), [torch.zeros(1, 3, 4, 4)]), pd.DataFrame)
