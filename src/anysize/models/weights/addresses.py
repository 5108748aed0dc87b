"""Where the sources' checkpoints are published, and what is known of each.

    for address in published_addresses("resnext50_elastic"):
        print(address.task, address.url, address.known)

ELASTIC's three lists and Mix & Match's folder stand here; torchvision's are read from its own record. The authors'
files of ELASTIC are what `model.weights = "pretrained"` takes for networks that no one else hosts. `anysize import`
takes any address.
"""

import dataclasses
import re

import torchvision

_ELASTIC = "http://ai2-vision.s3.amazonaws.com/elastic"
_PLAIN = ("resnext50", "resnext101", "dla60x")
_PAIRS = tuple(name for plain in _PLAIN for name in (plain, f"{plain}_elastic"))
_OCTAVE = "top-1 {} %, as Drop an Octave (arXiv 1904.05049), Table 6, quotes it"
_KNOWN = {
    "resnext50_elastic": _OCTAVE.format(78.4),
    "resnext101_elastic": _OCTAVE.format(79.2),
    "densenet201_elastic": "top-1 77.9 %, top-5 94.0 %, as the README of CrossStagePartialNetworks quotes it",
}

BY_HAND = re.compile(r"https?://([\w.]+\.)?(drive\.google\.com|docs\.google\.com|dropbox\.com/sh/|1drv\.ms|mega\.nz)")
"""Addresses of pages that offer files to a person, not to a program."""


@dataclasses.dataclass(frozen=True)
class Address:
    """A published checkpoint: of which model and task, where it is, and its accuracy as published, in words."""

    model: str
    task: str
    url: str
    known: str = ""


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


ADDRESSES: tuple[Address, ...] = (
    *_elastic(),
    Address(
        "resnet50", "classification",
        "https://www.dropbox.com/sh/058gqn562vfspa3/AACBukNaWV0_ElwmqBHdsolGa?dl=0",
        "Mix & Match's folder: top-1 76.43 % at 160 px and 79.27 % at 288 px, abstract of arXiv 1908.08986",
    ),
)  # fmt: skip
"""ELASTIC's three lists (README of allenai/elastic) and Mix & Match's folder (README of paper-submissions/mixsize)."""


def published_addresses(model: str) -> tuple[Address, ...]:
    """The published checkpoints of a model by its name here: ELASTIC's, Mix & Match's, and torchvision's.

    >>> [(address.task, address.url.rpartition("/")[2]) for address in published_addresses("dla60x_elastic")][:2]
    [('classification', 'dla60x_elastic.pth.tar'), ('multilabel', 'coco_dla60x_elastic.pth.tar')]
    >>> published_addresses("vgg11")[0].known
    'IMAGENET1K_V1: top-1 69.02 %, top-5 88.628 %'
    """
    return (*(address for address in ADDRESSES if address.model == model), *_torchvision(model))


def _torchvision(model: str) -> tuple[Address, ...]:
    if model not in torchvision.models.list_models(module=torchvision.models):
        return ()
    found = []
    for weights in torchvision.models.get_model_weights(model):
        figures = weights.meta["_metrics"].get("ImageNet-1K", {})
        told = ", ".join(f"top-{key[-1]} {value} %" for key, value in figures.items())
        found.append(Address(model, "classification", weights.url, f"{weights.name}: {told}"))
    return tuple(found)


def address_at(url: str) -> Address | None:
    """The published checkpoint with this address, of those that are written down here."""
    return next((address for address in ADDRESSES if address.url == url), None)
