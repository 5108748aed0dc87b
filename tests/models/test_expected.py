"""The input that each model was published for."""

import math

import pytest
import timm
import torchvision

from anysize import Preprocessing, UserError, expected_preprocessing
from anysize.models.families import MODELS
from anysize.models.names import list_models


@pytest.mark.parametrize("name", [name for name in list_models() if name not in MODELS])
def test_torchvision_models_are_fed_as_their_weights_were(name):
    expected = expected_preprocessing(name)
    weights = torchvision.models.get_model_weights(name)
    # Built as it is, this network takes 224 pixels; its default weights are for 518.
    published = (weights.IMAGENET1K_SWAG_LINEAR_V1 if name == "vit_h_14" else weights.DEFAULT).transforms()
    size = published.crop_size[0]
    assert expected.image_size == size
    assert expected.resize_side(size) == published.resize_size[0]
    assert (expected.mean, expected.std) == (tuple(published.mean), tuple(published.std))
    assert expected.interpolation == published.interpolation.value


@pytest.mark.parametrize("name", ["resnet50", "inception_v4", "efficientnet_b3", "vit_base_patch16_224.augreg_in21k"])
def test_timm_models_are_fed_as_timm_feeds_them(name):
    expected = expected_preprocessing(f"timm:{name}")
    theirs = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    assert (3, expected.image_size, expected.image_size) == theirs["input_size"]
    assert (expected.mean, expected.std) == (theirs["mean"], theirs["std"])
    assert expected.interpolation == theirs["interpolation"]
    size = expected.image_size
    assert expected.resize_side(size) == math.floor(size / theirs["crop_pct"])  # as timm's own transform


def test_a_whole_image_that_is_squashed_is_stretched():
    name = next(
        name
        for name in timm.list_models(pretrained=True)
        if (config := timm.get_pretrained_cfg(name)).crop_mode == "squash" and config.crop_pct == 1.0
    )
    assert expected_preprocessing(f"timm:{name}").resize == "stretch"


def test_timm_models_for_oblong_images_are_refused():
    name = next(n for n in timm.list_models(pretrained=True) if len(set(timm.get_pretrained_cfg(n).input_size[1:])) > 1)
    with pytest.raises(UserError, match=r"was published for images of \d+ x \d+ pixels"):
        expected_preprocessing(f"timm:{name}")


def test_a_builder_of_ones_own_may_say_it(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from torch import nn\n"
        "from anysize import Preprocessing\n"
        "def small(num_classes=10, in_channels=3): return nn.Conv2d(in_channels, num_classes, 1)\n"
        "def plain(num_classes=10, in_channels=3): return nn.Conv2d(in_channels, num_classes, 1)\n"
        "def wrong(num_classes=10, in_channels=3): return nn.Conv2d(in_channels, num_classes, 1)\n"
        "small.preprocessing = Preprocessing(image_size=40, mean=(0.5,), std=(0.2,))\n"
        "wrong.preprocessing = 40\n"
    )
    assert expected_preprocessing(f"{path}:small") == Preprocessing(image_size=40, mean=(0.5,), std=(0.2,))
    assert expected_preprocessing(f"{path}:plain") == Preprocessing(image_size=224)
    with pytest.raises(UserError, match="its attribute preprocessing is int; expected an anysize"):
        expected_preprocessing(f"{path}:wrong")


@pytest.mark.parametrize("name", ["resnet5O", "timm:resnet5O"])
def test_unknown_names_are_answered_with_the_nearest(name):
    with pytest.raises(UserError, match="did you mean 'resnet50'"):
        expected_preprocessing(name)
