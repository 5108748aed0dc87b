"""The preparation of images that a model needs: stored with every checkpoint, used by every verb that feeds it.

It stands below `models` and `data`, which know nothing of each other, because both speak of it.
"""

import dataclasses
from typing import Any

from anysize.forms import Form, Unfit, each, fields, number, one_of, text
from anysize.registry import UserError

BACKENDS = ("tensor", "pil")
RESIZES = ("stretch", "center-crop", "crop-or-pad", "pad")

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


FORM: Form = fields(
    {
        "mean": each(number(-1e6, 1e6), most=10_000),
        "std": each(number(1e-12, 1e6), most=10_000),
        "interpolation": text(50),
        "resize": one_of(*RESIZES),
        "crop_ratio": number(1e-3, 1e3),
        "classes": each(text(), most=10**7),
        "trained_size": number(0, 10**6, whole=True),
        "backend": one_of(*BACKENDS),
    },
    image_size=number(1, 10**6, whole=True),
)
"""What `to_dict` gives, as JSON holds it."""


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How images become input for a model in evaluation.

    `image_size` is the side (pixels) that the model was trained around or calibrated for, `mean` and `std` are per
    channel for values in [0, 1]; their length is the number of channels. `resize` says how an image of any shape
    becomes square with side S (Mix & Match, section on evaluation; ImageNet and CIFAR protocols of its code):

    - `stretch`: resize the whole image to S x S (small square images such as CIFAR's);
    - `center-crop`: resize the shorter side to `int(S / crop_ratio)`, then crop the centre S x S (ImageNet);
    - `crop-or-pad`: resize to `own_size` unless S equals it, then crop or zero-pad the centre to S x S. This is
      what the authors' code did for CIFAR at other sizes; it shows less of the image, or adds a black frame;
    - `pad`: scale the image by S / `own_size`, so that it keeps its own size at that size, then pad it with the mean
      to S x S at least (segmentation). Images of other shapes than squares keep theirs.

    `backend` says whether torchvision resizes tensors or PIL images, by PIL's own filters: levels differ by 1 or so.

    A copy that was calibrated for another image size keeps in `trained_size` the one that the model was trained around
    (0: they are the same), so that it sees images as the model does at that size.

    >>> Preprocessing(image_size=224).resize_side(288)
    329
    """

    image_size: int
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: str = "bilinear"
    resize: str = "center-crop"
    crop_ratio: float = 0.875
    classes: tuple[str, ...] = ()
    trained_size: int = 0
    backend: str = "tensor"

    def __post_init__(self) -> None:
        if self.resize not in RESIZES:
            raise UserError(f"resize is {self.resize!r}; expected one of: {', '.join(RESIZES)}")
        if self.backend not in BACKENDS:
            raise UserError(f"backend is {self.backend!r}; expected one of: {', '.join(BACKENDS)}")
        if len(self.mean) != len(self.std):
            raise UserError(f"mean has {len(self.mean)} channels and std {len(self.std)}; expected the same number")

    @property
    def channels(self) -> int:
        """Number of input channels."""
        return len(self.mean)

    @property
    def own_size(self) -> int:
        """Side (pixels) at which `crop-or-pad` and `pad` take an image as it is: that of the training.

        >>> Preprocessing(image_size=96, trained_size=128).own_size
        128
        """
        return self.trained_size or self.image_size

    def resize_side(self, size: int) -> int:
        """Shorter side (pixels) that an image is resized to before the centre crop to `size`.

        A ratio of two sides gives them back, whatever its last bit is.

        >>> Preprocessing(image_size=40, crop_ratio=40 / 53).resize_side(40)
        53
        """
        return int(size / self.crop_ratio + 1e-9)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict; `from_dict` reads it back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Preprocessing":
        """Read what `to_dict` wrote. Raises a `UserError` for what it did not write."""
        try:
            FORM(values, "")
        except Unfit as error:
            raise UserError(f"the preparation of images is told wrongly: {error}; make the file anew") from None
        tuples: dict[str, Any] = {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
        return cls(**{**values, **tuples})
