"""Published weights by name: torchvision's and timm's, for networks of ours their counterparts' there or the authors'.

    pretrained_weights("resnet50", "IMAGENET1K_V1")    # of torchvision's, by their name; without it the default ones
    pretrained_weights("timm:convnext_atto.d2_in1k")
    pretrained_weights("dla60x")                       # timm's, whose network is the same
    pretrained_weights("dla60x_elastic")               # the authors' file, since nobody else hosts this network's
    pretrained_weights("fcn_resnet50", "IMAGENET1K_V2")  # of its backbone alone; without: COCO with the labels of VOC

A network of ours says with `register` whose weights these are. What was downloaded once is used again. Nothing in a
file is run (see `reading`).
"""

import contextlib
import dataclasses
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

import torchvision
from torch import Tensor

from anysize.models.builders import check_timm_options, import_timm, timm_name
from anysize.models.expected import expected_preprocessing, preprocessing_of
from anysize.models.families import PUBLISHED
from anysize.models.names import find_builder
from anysize.models.weights.addresses import ADDRESSES, address_of
from anysize.models.weights.download import download, reason
from anysize.models.weights.foreign_files import read_foreign
from anysize.preprocessing import Preprocessing
from anysize.registry import UserError, did_you_mean

DEFAULT = "pretrained"

# They scale ImageNet's normalisation to this one inside the network, where they were built with transform_input.
_TRANSFORMED = ("googlenet", "inception_v3")
_HALF = (0.5, 0.5, 0.5)


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """Published weights: `tensors` by their network's names, the input they want, and whose they are, in words.

    `preprocessing` is None where a `Preprocessing` cannot say it.
    """

    tensors: dict[str, Tensor]
    preprocessing: Preprocessing | None
    source: str


def pretrained_weights(name: str, which: str = DEFAULT, options: Mapping[str, Any] | None = None) -> Pretrained:
    """Get published weights of the model `name`, from the network unless they were downloaded before.

    Args:
        name: as `create_model` takes it.
        which: "pretrained" for the default weights, or the name of some of torchvision's, such as "IMAGENET1K_V1"; of a
            segmentation network those of its backbone, too.
        options: of the model's builder.

    Raises:
        UserError: no published weights are known, an unknown name of weights, or they cannot be downloaded; the
            message says which file is wanted and where it may be put. Or a network that `options` make another one
            than that of the weights.
    """
    counterpart = PUBLISHED[name].weights if name in PUBLISHED else name
    wanted = PUBLISHED[name].weights_options if name in PUBLISHED else {}
    if any((options or {}).get(key) != value for key, value in wanted.items()):
        given = " ".join(f"--model.options.{key} {value}" for key, value in wanted.items())
        raise UserError(
            f"the published weights of {name} are {counterpart}'s, which was trained with {given}; set that, or take "
            f"the model {counterpart}"
        )
    if counterpart.startswith("timm:"):
        if which != DEFAULT:
            raise UserError(
                f"weights are {which!r}; expected {DEFAULT!r} for {counterpart}: other weights of timm's are part of "
                "the model's name, as in timm:resnet50.a1_in1k"
            )
        return _timm(counterpart, options or {} if name == counterpart else {})
    if not counterpart and which == DEFAULT:
        for address in ADDRESSES:
            if (address.model, address.task) == (name, "classification"):
                foreign = read_foreign(download(address.url, f"the authors' weights of {name}"))
                expected = published_preprocessing(name, options)
                return Pretrained(foreign.tensors, expected, f"the authors' {name}, {address.url}")
    if not counterpart or ":" in counterpart:
        raise UserError(
            f"no published weights of {name} are known to be hosted; where you have a file, give it as model.weights, "
            f"or write a run folder of it with `anysize import FILE --as {name}`"
        )
    return _torchvision(counterpart, which, options or {})


def published_preprocessing(
    name: str, options: Mapping[str, Any] | None = None, task: str = "", file: str = ""
) -> Preprocessing | None:
    """The input that published weights of `name` want from a model that is built with `options`; None: nobody says.

    Of torchvision's several weights for a network it is that of those in a file of this name, else of the default ones.

    As `expected_preprocessing`, but for torchvision's GoogLeNet and Inception v3: their weights were made for input
    from -1 to 1, into which torchvision's networks turn ImageNet's only with `transform_input`.

    >>> published_preprocessing("efficientnet_b1", file="efficientnet_b1_rwightman-bac287d4.pth").interpolation
    'bicubic'
    >>> published_preprocessing("googlenet").mean, published_preprocessing("googlenet", {"transform_input": True}).mean
    ((0.5, 0.5, 0.5), (0.485, 0.456, 0.406))
    """
    try:
        expected = _of_file(name, file) or expected_preprocessing(name, task)
    except UserError:  # an input that is not square, as a few of timm's have
        return None
    return _as_built(name, expected, options or {})


def _of_file(name: str, file: str) -> Preprocessing | None:
    """The input of torchvision's weights of `name` in a file of this name, where it is known."""
    if not file or ":" in name or name in PUBLISHED:
        return None
    if (known := address_of(file)) and known.model == name and known.resize:
        expected = expected_preprocessing(name)
        return dataclasses.replace(expected, image_size=known.image_size, crop_ratio=known.image_size / known.resize)
    find_builder(name)  # or it says which name may be meant
    records = torchvision.models.get_model_weights(name)
    return next((preprocessing_of(each.transforms()) for each in records if each.url.endswith(f"/{file}")), None)


def _as_built(name: str, expected: Preprocessing, options: Mapping[str, Any]) -> Preprocessing:
    if name in _TRANSFORMED and not options.get("transform_input"):
        return dataclasses.replace(expected, mean=_HALF, std=_HALF)
    return expected


def _torchvision(name: str, which: str, options: Mapping[str, Any]) -> Pretrained:
    known = torchvision.models.get_model_weights(name)
    if which != DEFAULT and which not in known.__members__:
        backbone = PUBLISHED[name].backbone if name in PUBLISHED else ""
        inner = torchvision.models.get_model_weights(backbone) if backbone else ()
        if which not in (names := [weights.name for weights in inner]):
            names = [*known.__members__, *names, DEFAULT]
            raise UserError(f"{name} has no weights {which!r}: {did_you_mean(which, names)}")
        return _torchvision(backbone, which, {})
    weights = known.DEFAULT if which == DEFAULT else known[which]
    foreign = read_foreign(download(weights.url, f"the weights of torchvision's {name} ({weights.name})"))
    expected = preprocessing_of(weights.transforms())
    return Pretrained(foreign.tensors, _as_built(name, expected, options), f"torchvision's {name}, {weights.name}")


def _timm(name: str, options: Mapping[str, Any]) -> Pretrained:
    check_timm_options(name, options)
    own, timm = timm_name(name), import_timm(name)
    config = timm.get_pretrained_cfg(own)
    if config is None:
        raise UserError(f"timm has no record of weights of {name}; give a file as model.weights")
    if not config.has_weights:
        raise UserError(f"timm has no weights of {name}; those it has with others of its kind: timm.list_pretrained()")
    try:
        if config.hf_hub_id:
            _probe_hub(config.hf_hub_id)
        model = timm.create_model(own, pretrained=True, **options)
    except Exception as error:  # of half a dozen kinds, by the library that timm downloads with
        where = f"{config.hf_hub_id} of the model hub" if config.hf_hub_id else str(config.url).rpartition("/")[2]
        raise UserError(
            f"the weights of {name} ({where}) could not be had ({reason(error)}): get their file where there is a "
            "network, and give its path as model.weights"
        ) from None
    return Pretrained(dict(model.state_dict()), published_preprocessing(name, options), f"timm's {own}")


def _probe_hub(repository: str) -> None:
    """Raise `URLError` at once where there is no network; the hub's own client tries for most of a minute."""
    import huggingface_hub

    for file in ("model.safetensors", "pytorch_model.bin"):
        if isinstance(huggingface_hub.try_to_load_from_cache(repository, file), str):
            return
    request = urllib.request.Request(huggingface_hub.constants.ENDPOINT, method="HEAD")
    with contextlib.suppress(urllib.error.HTTPError):  # an answer all the same
        urllib.request.urlopen(request, timeout=10).close()
