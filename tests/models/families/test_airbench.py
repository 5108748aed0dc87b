"""The network of the 94% records: what whitens, how it starts, what it costs, at any size."""

import pytest
import torch

import anysize
from anysize.models.families.airbench import Airbench, whiten, whitening_filters
from anysize.models.measure.flops import count_flops
from anysize.registry import UserError


def correlated(count: int, side: int = 12) -> torch.Tensor:
    """Images whose neighbouring pixels and channels are alike, as those of photographs are."""
    noise = torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.avg_pool2d(noise, 3, stride=1, padding=1) + 0.3 * noise.mean(1, keepdim=True)


def test_what_comes_out_of_the_first_layer_is_white() -> None:
    """The first half of the outputs has the identity for a covariance, and the second is its negative."""
    model, images = Airbench(), 3 * correlated(200)
    model.start_from_images(images)
    outputs = model.whiten(images).detach().double()
    assert torch.equal(outputs[:, 12:], -outputs[:, :12])
    flat = outputs[:, :12].transpose(0, 1).flatten(1)
    covariance = flat @ flat.T / flat.shape[1]
    assert (covariance - torch.eye(12)).abs().max() < 0.02
    raw = images.transpose(0, 1).flatten(1)
    assert torch.corrcoef(raw).fill_diagonal_(0).abs().max() > 0.1  # the images are not


def test_small_directions_are_not_blown_up() -> None:
    images = correlated(50)[:, :1].expand(-1, 3, -1, -1)  # of twelve directions eight are empty
    filters = whitening_filters(images)
    assert filters.shape == (24, 3, 2, 2)
    assert filters.isfinite().all()
    assert filters.flatten(1).norm(dim=1).max() <= (1 / 5e-4) ** 0.5 * 1.001


def test_convolutions_start_as_the_identity_and_the_head_at_deviation_1() -> None:
    model = Airbench()
    image = torch.randn(2, 24, 8, 8)
    assert torch.equal(model.groups[0].conv1(image)[:, :24], image)
    features = torch.randn(2, 256, 4, 4)
    assert torch.equal(model.groups[2].conv2(features), features)
    assert model.head.weight.std().item() == pytest.approx(1)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert "whiten.bias" in trained
    assert not {"whiten.weight", "groups.0.norm1.weight"} & trained


@pytest.mark.parametrize("size", [9, 20, 32, 45])
def test_it_takes_any_size_from_9_pixels_on(size: int) -> None:
    model = anysize.create_model("airbench94", num_classes=4)
    assert model(torch.randn(2, 3, size, size)).shape == (2, 4)


def test_its_flops_are_those_of_its_layers() -> None:
    positions = {"first": 31**2, "1": 15**2, "2": 7**2, "3": 3**2}
    convolutions = 2 * 9 * (
        24 * 64 * positions["first"] + 64 * 64 * positions["1"] + 64 * 256 * positions["1"]
        + 256 * 256 * (2 * positions["2"] + positions["3"])
    )  # fmt: skip
    whitening, head = 2 * 12 * 24 * positions["first"], 2 * 2560
    first = 2 * 9 * 24 * 64 * positions["first"]
    for bias in (True, False):
        flops = count_flops(anysize.create_model("airbench94", whitening_bias=bias), 32)
        assert flops.forward == convolutions + whitening + head
        assert flops.backward == 2 * (convolutions + head) - (0 if bias else first)


def test_whiten_says_what_it_does_not_take() -> None:
    with pytest.raises(UserError, match="expected a network of the family airbench"):
        whiten(torch.nn.Linear(1, 1), torch.zeros(1, 3, 4, 4))
    with pytest.raises(UserError, match=r"expected \(N, 3, H, W\)"):
        whiten(Airbench(), torch.zeros(1, 1, 4, 4))
    with pytest.raises(UserError, match="unknown activation 'gleu': did you mean 'gelu'"):
        anysize.create_model("airbench94", activation="gleu")
