"""What a network's branches contribute: against a definition written here, in any batching, and what is refused."""

import pytest
import torch
from torch import Tensor, nn

from anysize.evaluation.scale_policy import scale_policy
from anysize.models.blocks.scales import ScaleSum
from anysize.models.spec import create_model
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
    with pytest.raises(UserError, match="ResidualNet has no block with a branch at half resolution"):
        scale_policy(create_model("resnet8"), [torch.zeros(1, 3, 8, 8)])
    with pytest.raises(UserError, match="hold no image"):
        scale_policy(create_model("resnet14", elasticize="auto"), [])
    with pytest.raises(UserError, match="at this size no block has a branch at half resolution"):
        scale_policy(create_model("resnet14", elasticize="auto"), [torch.zeros(1, 3, 1, 1)])
    diverged = create_model("resnet14", elasticize="auto")
    nn.init.constant_(diverged.get_parameter("conv1.weight"), torch.nan)
    with pytest.raises(UserError, match=r"layer1\.0 hold NaN or infinite values"):
        scale_policy(diverged, [torch.zeros(1, 3, 8, 8)])


def test_a_block_that_lets_nothing_through_counts_as_even() -> None:
    assert scale_policy(Two(0.0), [torch.zeros(1, 3, 4, 4)])["low_share"].tolist() == [0.5]


def test_images_of_sizes_at_which_a_block_has_one_resolution_are_left_out() -> None:
    """Of an elastic DenseNet, layers with maps 7 high: those of the third block at 112 pixels."""
    model = create_model("densenet201_elastic", 5, block_config=(1, 1, 1, 1), growth_rate=4, num_init_features=8)
    batches = [
        (torch.randn(1, 3, 64, 64), [3]),
        (torch.randn(2, 3, 112, 112), [4, 5]),
        (torch.randn(1, 3, 64, 64), [6]),
    ]
    table = scale_policy(model, batches).set_index("block")
    assert table.loc["features.denseblock3.denselayer1", "image"].tolist() == [0, 3]
    assert table.loc["features.denseblock3.denselayer1", "label"].tolist() == [3, 6]
    assert table.loc["features.denseblock2.denselayer1", "image"].tolist() == [0, 1, 2, 3]


def test_a_block_that_is_called_twice_counts_both() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = Two(0.3)

        def forward(self, x: Tensor) -> None:
            for half in x.chunk(2, dim=3):
                self.block(half)

    x = torch.randn(3, 2, 8, 8)
    low = torch.cat(
        [nn.functional.interpolate(0.3 * nn.functional.avg_pool2d(half, 2), scale_factor=2, mode="bilinear")
         for half in x.chunk(2, dim=3)], dim=3,
    )  # fmt: skip
    table = scale_policy(Twice(), [x[:1], x[1:]])
    assert table["low_share"].to_numpy() == pytest.approx(definition(x, low).numpy(), abs=1e-5)
    with pytest.raises(UserError, match="3 saw 4 maps for 2 images"):
        scale_policy(
            nn.Sequential(nn.PixelShuffle(2), nn.Flatten(0, 1), nn.Unflatten(0, (-1, 2)), Two(0.3)),
            [torch.randn(2, 16, 4, 4)],
        )
