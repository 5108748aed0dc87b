"""Grad-CAM: by hand, on networks of all makers, and what it refuses."""

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn

import anysize
from anysize.evaluation.grad_cam import feature_layer, grad_cam, over_images
from anysize.registry import UserError


class Tiny(nn.Module):
    """Two maps of a grey image, x and 1 - x; their means, squared, are weighed for two classes."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.Conv2d(1, 2, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(2, 2, bias=False)
        self.maps.weight.data = torch.tensor([1.0, -1.0])[:, None, None, None]
        self.maps.bias.data = torch.tensor([0.0, 1.0])
        self.head.weight.data = torch.tensor([[1.0, 0.0], [1.0, -2.0]])

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.pool(self.maps(images)).flatten(1) ** 2)


def test_maps_are_those_of_the_equations_by_hand() -> None:
    """x = [[1, 3], [0, 4]] has the mean 2 and 1 - x the mean -1.

    Class 0: y = 2^2, of which each place of map 0 has the gradient 2 * 2 / 4 = 1 and map 1 none: alpha = (1, 0), and
    the map is x itself. Class 1: y = 2^2 - 2 * (-1)^2 has alpha = (1, -2 * 2 * -1 / 4) = (1, 1): x + (1 - x) = 1.
    """
    image = torch.tensor([[[[1.0, 3.0], [0.0, 4.0]]]])
    network = Tiny()
    found = grad_cam(network, torch.cat([image, image]), torch.tensor([0, 1]))
    assert found.maps.tolist() == [[[1, 3], [0, 4]], [[1, 1], [1, 1]]]
    assert found.logits.tolist() == [[4, 2], [4, 2]]
    assert grad_cam(network, image).targets.tolist() == [0]  # the larger logit
    # The mean -2: alpha = -1, so that what is below 0 speaks for the class.
    assert grad_cam(network, image - 4, 0).maps.tolist() == [[[3, 1], [4, 0]]]
    # x = [[2, -2], [4, -4]] with the means 0 and 1: alpha = (0, -1), and ReLU(x - 1).
    assert grad_cam(network, 4 - 2 * image, 1).maps.tolist() == [[[1, 0], [3, 0]]]


def test_with_pooling_and_one_linear_layer_it_is_the_class_activation_map() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
    )
    images = torch.randn(4, 3, 17, 23)
    found = grad_cam(network, images, 3)
    features = network[:2](images).detach().double()
    expected = torch.einsum("nchw,c->nhw", features, network[4].weight[3].detach().double()).clamp(min=0)
    assert torch.allclose(found.maps.double(), expected / features[0, 0].numel(), atol=1e-6)


def test_the_model_is_left_as_it_was_and_frozen_weights_do_no_harm() -> None:
    model = anysize.create_model("resnet8", num_classes=3).train().requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images = torch.randn(2, 3, 32, 32)
    one = grad_cam(model, images, 1)
    assert model.training
    assert not model.conv1._forward_hooks
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.allclose(grad_cam(model, images[1:], 1).maps[0], one.maps[1], atol=1e-5)  # images do not meet


@pytest.mark.parametrize(
    ("name", "layer", "side"),
    [
        ("resnet8", "layer3", 8),
        ("resnet18", "layer4", 2),
        pytest.param("resnext50_elastic", "layer4", 2, marks=pytest.mark.slow),
        pytest.param("densenet201_elastic", "relu", 2, marks=pytest.mark.slow),
        pytest.param("dla60x_elastic", "", 2, marks=pytest.mark.slow),
    ],
)
def test_our_networks_show_their_last_maps(name: str, layer: str, side: int) -> None:
    images = torch.rand(1, 3, 32 if name == "resnet8" else 64, 32 if name == "resnet8" else 64)
    model = anysize.create_model(name, num_classes=3)
    assert feature_layer(model, images).startswith(layer)
    assert grad_cam(model, images, 2).maps.shape == (1, side, side)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("resnet18", "layer4"),
        ("squeezenet1_1", "classifier.2"),  # whose head is a convolution before the pooling
        ("mobilenet_v3_small", "features"),  # with gates of pooled maps in its blocks
        pytest.param("densenet121", "features", marks=pytest.mark.slow),  # whose relu writes into the maps
        pytest.param("vgg11", "features", marks=pytest.mark.slow),  # pooled to 7 x 7
        pytest.param("convnext_tiny", "features", marks=pytest.mark.slow),
        pytest.param("swin_t", "permute", marks=pytest.mark.slow),
    ],
)
def test_the_layer_of_torchvisions_networks_is_found(name: str, layer: str) -> None:
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None, num_classes=4)
    images = torch.rand(2, 3, 96, 64)
    assert feature_layer(model, images) == layer
    found = grad_cam(model, images)
    assert found.maps.shape[1] > found.maps.shape[2] > 1
    assert found.maps.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_050"])
def test_the_layer_of_timms_networks_is_found(name: str) -> None:
    timm = pytest.importorskip("timm")
    layer = {"resnet18": "layer4", "mobilenetv3_small_050": "blocks"}[name]
    assert feature_layer(timm.create_model(name, num_classes=4), torch.rand(1, 3, 64, 64)) == layer


def test_transformers_masks_and_unknown_layers_are_refused() -> None:
    vit = torchvision.models.VisionTransformer(32, 8, 1, 2, 16, 16, num_classes=3)
    with pytest.raises(UserError, match="VisionTransformer has no layer whose maps"):
        grad_cam(vit, torch.rand(1, 3, 32, 32))
    masks = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1))
    images = torch.rand(1, 3, 8, 8)
    with pytest.raises(UserError, match="masks say by themselves where a class is"):
        grad_cam(masks, images)
    network = Tiny()
    grey = images[:, :1]
    with pytest.raises(UserError, match="no layer 'mapz': did you mean 'maps'"):
        grad_cam(network, grey, layer="mapz")
    with pytest.raises(UserError, match="'head' gives no feature maps"):
        grad_cam(network, grey, layer="head")
    with pytest.raises(UserError, match="expected numbers from 0 to 1"):
        grad_cam(network, grey, 2)
    with pytest.raises(UserError, match=r"received 'resnet8'; expected a torch.nn.Module"):
        grad_cam("resnet8", grey)  # type: ignore[arg-type]


def test_heat_has_one_as_its_largest_value_at_the_size_of_the_image() -> None:
    maps = torch.tensor([[[0.0, 2.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    heat = over_images(maps, (4, 6))
    assert heat.shape == (2, 4, 6)
    assert heat[0].max() == heat[0, 0, 5] == 1
    assert np.count_nonzero(heat[1]) == 0
