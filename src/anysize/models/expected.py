"""The input that a model was published for: image size, crop, mean, deviation, interpolation."""

from collections.abc import Mapping
from typing import Any

import torchvision

from anysize.models.builders import import_timm, timm_name
from anysize.models.families import IMAGENET, PUBLISHED
from anysize.models.names import find_builder
from anysize.preprocessing import Preprocessing
from anysize.registry import UserError

# torchvision's vision transformers take one size, with which they are built; some of their weights are for another.
_VIT_SIZE = 224


def expected_preprocessing(name: str, task: str = "") -> Preprocessing:
    """How images become input for the published weights of the model `name`; `classes` is left empty.

    Ours say it where they are registered, torchvision's and timm's in their own records of the weights (torchvision:
    the default ones, or for vision transformers those for 224 pixels). A builder of your own may have an attribute
    `preprocessing`; without one it is ImageNet's. With `task` it is the input for which a network was published with
    that task: the Elastic networks for "multilabel" (MS-COCO) and "segmentation" (PASCAL VOC).

    Raises:
        UserError: an unknown model, an attribute that is no `Preprocessing`, or a way to prepare images that
            `Preprocessing` cannot say, such as input that is not square (a few of timm's).

    >>> expected = expected_preprocessing("inception_v3")
    >>> expected.image_size, expected.resize_side(299), expected.interpolation
    (299, 342, 'bilinear')
    """
    if name in PUBLISHED:
        return PUBLISHED[name].others.get(task, PUBLISHED[name].preprocessing)
    if name.startswith("timm:"):
        return _timm(name)
    if ":" in name:
        expected = getattr(find_builder(name), "preprocessing", IMAGENET)
        if not isinstance(expected, Preprocessing):
            raise UserError(
                f"model {name!r}: its attribute preprocessing is {type(expected).__name__}; expected an "
                "anysize.Preprocessing"
            )
        return expected
    find_builder(name)  # or it says which name may be meant
    weights = torchvision.models.get_model_weights(name)
    prepare = weights.DEFAULT.transforms()
    if name.startswith("vit_") and prepare.crop_size[0] != _VIT_SIZE:
        prepare = next(other for one in weights if (other := one.transforms()).crop_size[0] == _VIT_SIZE)
    return preprocessing_of(prepare)


def preprocessing_of(prepare: Any) -> Preprocessing:
    """The record of the transforms of torchvision's weights; its segmentation networks see whole images."""
    whole = not hasattr(prepare, "crop_size")
    size = (prepare.resize_size if whole else prepare.crop_size)[0]
    return Preprocessing(
        image_size=size,
        mean=tuple(prepare.mean),
        std=tuple(prepare.std),
        interpolation=prepare.interpolation.value,
        resize="pad" if whole else "center-crop",
        crop_ratio=size / prepare.resize_size[0],
    )


def _timm(name: str) -> Preprocessing:
    own, timm = timm_name(name), import_timm(name)
    published = timm.get_pretrained_cfg(own)
    config: Mapping[str, Any] = timm.data.resolve_data_config(pretrained_cfg=published.to_dict() if published else {})
    _channels, height, width = config["input_size"]
    mode, ratio = config["crop_mode"], config["crop_pct"]
    whole = mode == "squash" and ratio == 1
    if height != width or not (whole or mode == "center"):
        raise UserError(
            f"model {name!r} was published for images of {height} x {width} pixels, crop mode {mode!r} of {ratio:g}, "
            "which no anysize.Preprocessing says; make the nearest one yourself"
        )
    return Preprocessing(
        image_size=height,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation=config["interpolation"],
        resize="stretch" if whole else "center-crop",
        crop_ratio=1.0 if whole else ratio,
    )
