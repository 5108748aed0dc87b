"""Settings of the data: where it is, how it is read, how it is augmented. Imports no torch."""

import dataclasses

from anysize.registry import setting
from anysize.sizes.mix import LARGEST_BASE

MAX_PIXELS = 250_000_000
"""The default of `data.max_pixels`: the largest cameras make 200 million."""


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """The `[data]` section of a recipe."""

    name: str = setting("fashion-mini", "data set; `anysize data` lists them")
    root: str = setting("", "folder that holds the data set; the embedded data set needs none")
    download: bool = setting(False, "download the data set into root when it is not there (torchvision's sets)")
    resize: str = setting(
        "",
        "how an image becomes square at evaluation; empty: as is usual for the data set",
        choices=("", "stretch", "center-crop", "crop-or-pad", "pad"),
    )
    mean: tuple[float, ...] = setting(
        (), "mean per channel of values in [0, 1]; empty: as is usual for the data set", low=-1000, high=1000
    )
    std: tuple[float, ...] = setting(
        (), "standard deviation per channel; empty: as is usual for the data set", low=1e-4, high=1000
    )
    interpolation: str = setting(
        "",
        "how images are resized; empty: as is usual for the data set, or for the weights that the model starts from",
        choices=("", "nearest", "bilinear", "bicubic"),
    )
    crop_ratio: float = setting(
        0.0,
        "side of the crop over the shorter side of the resized image, for resize = center-crop and for several crops "
        "(0.875 is 224 of 256 px); 0: as is usual for the data set, or for the weights that the model starts from",
        low=0.1,
        high=1,
        besides=0,
    )
    image_set: str = setting(
        "", "which of a data set's lists of training images: coco 2014 or 2017, voc train, train_aug or trainval"
    )
    val_split: float = setting(
        0.0,
        "share of the training images that is held out for validation where there are no validation images: of each "
        "class by a fixed rule, such as 0.1; 0: none, but of data without splits a tenth",
        low=1e-6,
        high=0.9,
        besides=0,
    )
    renamed_classes: dict[str, str] = setting(
        {}, "classes whose names have changed since the run or the weights were trained, {old = new}: outputs stay"
    )
    categories: tuple[str, ...] = setting((), "keep these classes of labels or masks alone, by name; empty: all")
    mask_values: tuple[int, ...] = setting(
        (),
        "values in mask files that stand for the classes, in their order, such as 0,255 (folder-masks, voc); 255 is "
        "void unless it is one of them; empty: the numbers of the classes",
        low=0,
        high=65535,
    )
    areas: tuple[float, ...] = setting(
        (),
        "areas in pixels below which an object is small and medium; empty: as is usual for the data set",
        low=0,
        high=1e9,
    )
    memory_limit: int = setting(
        2048,
        "hold images of one size, at most 128 px, in memory when they take at most this many MiB; 0: never",
        low=0,
        high=10**9,
    )
    workers: int = setting(
        -1, "processes that decode image files; -1: one a core (at most 8); 0: none", low=0, high=1024, besides=-1
    )
    on_bad_image: str = setting(
        "error", "an image that cannot be decoded stops the run or is left out", choices=("error", "skip")
    )
    max_pixels: int = setting(
        MAX_PIXELS,
        "an image or mask of more pixels is too large: it is not decoded, and treated as data.on_bad_image says",
        low=1,
        high=10**10,
    )
    outside: str = setting(
        "refuse",
        "images that lists and annotations name outside of root: refuse the data set, or allow them; links may lead "
        "there in any case",
        choices=("refuse", "allow"),
    )
    exclude: str = setting(
        "",
        "text file with names of files below root, one a line, that are left out, such as `anysize data check NAME "
        "--fix LIST` writes; empty: none",
    )
    decode: str = setting(
        "full",
        "how JPEG files are decoded for training: full, or scaled to 1/2, 1/4 or 1/8 of their sides where that leaves "
        "a crop pixels enough, which takes less time; evaluation decodes in full, always",
        choices=("full", "scaled"),
    )
    enlarge: float = setting(
        1.0,
        "pack: how many times a training crop may be enlarged; at 1 a level of the pack is read only where the crop "
        "has all pixels that are asked for, above it smaller ones are read sooner, which is faster and less sharp",
        low=1,
        high=64,
    )
    stream_limit: int = setting(
        120,
        "pack in object storage: seconds for which a request is tried again where the server fails, before the run "
        "stops",
        low=1,
        high=86_400,
    )
    stream_cache: int = setting(
        0,
        "pack in object storage: MiB of its shards that are kept on the local disk as they are read, those not used "
        "for longest removed first; 0: none",
        low=64,
        high=10**9,
        besides=0,
    )
    shuffle_chunks: int = setting(
        0,
        "pack: the order of an epoch: so many chunks (shards) of training images, taken by chance, are shuffled "
        "together, then the next ones, so that a few files at a time are read; 0: all images are shuffled together",
        low=0,
        high=10**6,
    )
    exif: bool = setting(False, "turn photographs as their EXIF data say, as viewers do; false: as they are stored")
    limit: int = setting(0, "use the first N images of each split only, spread over classes; 0: all", low=0, high=10**9)


@dataclasses.dataclass(frozen=True)
class AugmentSettings:
    """The `[augment]` section of a recipe: what happens to a training image, in this order."""

    crop: str = setting(
        "auto",
        "pad: random crop after padding, at the base size, then resize (CIFAR); random-resized: a random part of the "
        "image (ImageNet); rescale: random scale, then a random crop (images with masks); none: as at evaluation; "
        "auto: as is usual for the data set",
        choices=("auto", "pad", "random-resized", "rescale", "none"),
    )
    padding: int = setting(4, "pixels on each side for crop = pad", low=0, high=1024)
    padding_mode: str = setting(
        "black", "what they are: black, or the image mirrored at its border", choices=("black", "reflect")
    )
    scale: tuple[float, float] = setting(
        (0.08, 1.0), "share of the image's area for crop = random-resized", low=1e-6, high=1
    )
    ratio: tuple[float, float] = setting((3 / 4, 4 / 3), "aspect ratio for crop = random-resized", low=0.01, high=100)
    rescale: tuple[float, float] = setting(
        (0.5, 2.0), "smallest and largest factor of the scale for crop = rescale", low=0.01, high=100
    )
    rescale_interpolation: str = setting(
        "",
        "how crop = rescale resizes images: lanczos in the published training of the Elastic networks on VOC; "
        "empty: as data.interpolation. Masks always take the nearest pixel",
        choices=("", "nearest", "bilinear", "bicubic", "lanczos"),
    )
    flip: float = setting(
        -1.0, "probability of a horizontal flip; -1: as is usual for the data set", low=0, high=1, besides=-1
    )
    flip_alternates: bool = setting(
        False,
        "after the first epoch each image is mirrored in every other epoch alone, so that two epochs show both: flip "
        "then is the share that the first epoch mirrors",
    )
    autoaugment: str = setting(
        "",
        "random operations on pixels: AutoAugment's published sub-policies for cifar10, imagenet or svhn, or "
        "randaugment, trivialaugment (wide), augmix",
        choices=("", "cifar10", "imagenet", "svhn", "randaugment", "trivialaugment", "augmix"),
    )
    magnitude: int = setting(9, "strength of autoaugment = randaugment, of 30", low=0, high=30)
    severity: int = setting(3, "strength of autoaugment = augmix, of 10", low=1, high=10)
    color_jitter: float = setting(
        0.0, "strength of brightness, contrast and saturation jitter (0.4 is usual)", low=0, high=10
    )
    lighting: float = setting(0.0, "standard deviation of AlexNet's PCA lighting noise (0.1 is usual)", low=0, high=10)
    brightness: float = setting(
        0.0, "each image's normalised values are shifted by a random number of at most this", low=0, high=10
    )
    contrast: float = setting(
        0.0, "and multiplied by a random factor that differs from 1 by at most this", low=0, high=1
    )
    cutout: int = setting(
        0, "side in pixels, at the base size, of a square hole filled with the mean; 0: none", low=0, high=LARGEST_BASE
    )
    random_erasing: float = setting(
        0.0, "probability of random erasing: a rectangle of 2 to 33% of the area filled with the mean", low=0, high=1
    )
    mixup: float = setting(
        0.0,
        "alpha of the Beta distribution of mixup (classification, multilabel); 0: none",
        low=0.001,
        high=1000,
        besides=0,
    )
    cutmix: float = setting(
        0.0,
        "alpha of the Beta distribution of cutmix (classification, multilabel); 0: none",
        low=0.001,
        high=1000,
        besides=0,
    )
    by_size: dict[str, tuple[tuple[float, ...], ...]] = setting(
        {},
        "strength by image size: a setting of this section = [[size, value], ...], with straight lines between the "
        "points; [[size, smallest, largest], ...] for scale and rescale",
    )
    by_epoch: dict[str, tuple[tuple[float, ...], ...]] = setting(
        {},
        "strength by epoch (pass over the images, from 0): a setting of this section = [[epoch, multiple of it], ...], "
        "with straight lines between the points",
    )
    backend: str = setting(
        "tensor",
        "what resizes and changes pixels, in evaluation too: tensor, or pil, image by image with PIL's own filters, as "
        "torchvision's reference training does by default",
        choices=("tensor", "pil"),
    )
