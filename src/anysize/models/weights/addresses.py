"""Where the sources' checkpoints are published, and what is known of each.

    for address in published_addresses("resnext50_elastic"):
        print(address.task, address.url, address.known)

ELASTIC's three lists, Mix & Match's folder and torchvision's int8 weights stand here; torchvision's others are read
from its own record. The authors' files of ELASTIC are what `model.weights = "pretrained"` takes for networks that no
one else hosts. `anysize import` takes any address.
"""

import dataclasses
import re

import torchvision

_ELASTIC = "http://ai2-vision.s3.amazonaws.com/elastic"
_PLAIN = ("resnext50", "resnext101", "dla60x")
_PAIRS = tuple(name for plain in _PLAIN for name in (plain, f"{plain}_elastic"))
_OCTAVE = "top-1 {}%, as Drop an Octave (arXiv 1904.05049), Table 6, quotes it"
_KNOWN = {
    "resnext50_elastic": _OCTAVE.format(78.4),
    "resnext101_elastic": _OCTAVE.format(79.2),
    "densenet201_elastic": "top-1 77.9%, top-5 94.0%, as the README of CrossStagePartialNetworks quotes it",
}

BY_HAND = re.compile(r"https?://([\w.]+\.)?(drive\.google\.com|docs\.google\.com|dropbox\.com/sh/|1drv\.ms|mega\.nz)")
"""Addresses of pages that offer files to a person, not to a program."""


@dataclasses.dataclass(frozen=True)
class Address:
    """A published checkpoint: of which model and task, where it is, and its accuracy as published, in words.

    `weights` is torchvision's name of it; `image_size` and `resize` are its input, in pixels, where they are known.
    """

    model: str
    task: str
    url: str
    known: str = ""
    weights: str = ""
    image_size: int = 0
    resize: int = 0

    @property
    def file(self) -> str:
        """Its name."""
        return self.url.rpartition("/")[2]


def _elastic() -> tuple[Address, ...]:
    imagenet = (*_PAIRS, "dla102x", "se_resnext50_elastic", "densenet201", "densenet201_elastic")
    coco = (*_PAIRS, "densenet201", "densenet201_elastic")
    return (
        *(Address(n, "classification", f"{_ELASTIC}/imagenet_models/{n}.pth.tar", _KNOWN.get(n, "")) for n in imagenet),
        *(Address(n, "multilabel", f"{_ELASTIC}/coco_models/coco_{n}.pth.tar") for n in coco),
        *(
            Address(n, "segmentation", f"{_ELASTIC}/pascal_models/deeplab_{n}_pascal_v3_original_epoch50.pth")
            for n in _PAIRS
        ),
    )


_INT8 = (
    ("mobilenet_v2", "IMAGENET1K_QNNPACK_V1", "mobilenet_v2_qnnpack_37f702c5", 71.658, 90.150, 224, 256),
    ("mobilenet_v3_large", "IMAGENET1K_QNNPACK_V1", "mobilenet_v3_large_qnnpack-5bcacf28", 73.004, 90.858, 224, 256),
    ("shufflenet_v2_x0_5", "IMAGENET1K_FBGEMM_V1", "shufflenetv2_x0.5_fbgemm-00845098", 57.972, 79.780, 224, 256),
    ("shufflenet_v2_x1_0", "IMAGENET1K_FBGEMM_V1", "shufflenetv2_x1_fbgemm-1e62bb32", 68.360, 87.582, 224, 256),
    ("shufflenet_v2_x1_5", "IMAGENET1K_FBGEMM_V1", "shufflenetv2_x1_5_fbgemm-d7401f05", 72.052, 90.700, 224, 232),
    ("shufflenet_v2_x2_0", "IMAGENET1K_FBGEMM_V1", "shufflenetv2_x2_0_fbgemm-5cac526c", 75.354, 92.488, 224, 232),
    ("resnet18", "IMAGENET1K_FBGEMM_V1", "resnet18_fbgemm_16fa66dd", 69.494, 88.882, 224, 256),
    ("resnet50", "IMAGENET1K_FBGEMM_V1", "resnet50_fbgemm_bf931d71", 75.920, 92.814, 224, 256),
    ("resnet50", "IMAGENET1K_FBGEMM_V2", "resnet50_fbgemm-23753f79", 80.282, 94.976, 224, 232),
    ("resnext101_32x8d", "IMAGENET1K_FBGEMM_V1", "resnext101_32x8_fbgemm_09835ccf", 78.986, 94.480, 224, 256),
    ("resnext101_32x8d", "IMAGENET1K_FBGEMM_V2", "resnext101_32x8_fbgemm-ee16d00c", 82.574, 96.132, 224, 232),
    ("resnext101_64x4d", "IMAGENET1K_FBGEMM_V1", "resnext101_64x4d_fbgemm-605a1cb3", 82.898, 96.326, 224, 232),
    ("inception_v3", "IMAGENET1K_FBGEMM_V1", "inception_v3_google_fbgemm-a2837893", 77.176, 93.354, 299, 342),
    ("googlenet", "IMAGENET1K_FBGEMM_V1", "googlenet_fbgemm-c81f6644", 69.826, 89.404, 224, 256),
)
"""torchvision's int8 weights: model, name, file, top-1, top-5 (%), image size, side to resize to (pixels)."""


def _int8() -> tuple[Address, ...]:
    return tuple(
        Address(
            model, "classification", f"https://download.pytorch.org/models/quantized/{file}.pth",
            f"int8, {weights}: top-1 {top1}%, top-5 {top5}%", weights, size, side,
        )
        for model, weights, file, top1, top5, size, side in _INT8
    )  # fmt: skip


ADDRESSES: tuple[Address, ...] = (
    *_elastic(),
    *_int8(),
    Address(
        "resnet50", "classification",
        "https://www.dropbox.com/sh/058gqn562vfspa3/AACBukNaWV0_ElwmqBHdsolGa?dl=0",
        "Mix & Match's folder: top-1 76.43% at 160 px and 79.27% at 288 px, abstract of arXiv 1908.08986",
    ),
)  # fmt: skip
"""ELASTIC's three lists (README of allenai/elastic), the int8 weights that torchvision.models.quantization names, and
Mix & Match's folder (README of paper-submissions/mixsize)."""


def published_addresses(model: str) -> tuple[Address, ...]:
    """The published checkpoints of a model by its name here: ELASTIC's, Mix & Match's, and torchvision's.

    >>> [(address.task, address.url.rpartition("/")[2]) for address in published_addresses("dla60x_elastic")][:2]
    [('classification', 'dla60x_elastic.pth.tar'), ('multilabel', 'coco_dla60x_elastic.pth.tar')]
    >>> published_addresses("vgg11")[0].known
    'IMAGENET1K_V1: top-1 69.02%, top-5 88.628%'
    """
    return (*(address for address in ADDRESSES if address.model == model), *_torchvision(model))


def _torchvision(model: str) -> tuple[Address, ...]:
    if model not in torchvision.models.list_models(module=torchvision.models):
        return ()
    found = []
    for weights in torchvision.models.get_model_weights(model):
        figures = weights.meta["_metrics"].get("ImageNet-1K", {})
        told = ", ".join(f"top-{key[-1]} {value}%" for key, value in figures.items())
        found.append(Address(model, "classification", weights.url, f"{weights.name}: {told}", weights.name))
    return tuple(found)


def address_at(url: str) -> Address | None:
    """The published checkpoint with this address, of those that are written down here."""
    return next((address for address in ADDRESSES if address.url == url), None)


def address_of(file: str) -> Address | None:
    """The published checkpoint in a file of this name, of those that are written down here and are so called alone.

    >>> address_of("resnet18_fbgemm_16fa66dd.pth").known
    'int8, IMAGENET1K_FBGEMM_V1: top-1 69.494%, top-5 88.882%'
    """
    found = [address for address in ADDRESSES if address.file == file]
    return found[0] if len(found) == 1 else None
