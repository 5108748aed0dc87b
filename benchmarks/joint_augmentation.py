"""Joint augmentation of images and masks against torchvision's segmentation reference, version 1 on PIL images.

    python benchmarks/joint_augmentation.py [--repeats 5]

Claim: random scale, padding, crop to 512 px, flip and normalisation of an image and its mask make at least as many
images a second on one core as torchvision's reference training of segmentation does with the transforms of version 1.
The peer below does what that reference's preset does: resize of the shorter side, bilinear for the image and nearest
for the mask, flip, padding where too small, random crop, conversion of both from PIL, normalisation.

Both sides start from the same decoded images, 500 x 375 px with a mask, the peer as PIL images and we as tensors, and
make one float32 image and one mask at a time. In the first comparison both scale alike, log-uniformly by 0.5 to 2: the
claim is about this one. In the second the peer draws the sizes of its preset, 256 to 1,024 px evenly, and we factors
over the same range, log-uniformly, which are smaller on average: the ratio says less.

What profiling said (--profile; a core of a 2.3 GHz Xeon, under load): of 2.6 ms an image, torch's antialiased uint8
resize takes 0.5, the normalisation 0.7, the nearest resize of the mask 0.3, padding 0.1, the target's int64 0.1, and
Python's calls most of the rest. The peer's time goes into PIL's resize and the conversion to float, three passes of
their own. Stacking the views of a single copy cost 0.3 ms and is left out. Resizing only what the crop shows saves
nothing at 500 x 375 px, where the crop shows most; of images of 2048 x 1024 px, cropped to 769, a sample took 4.4 ms of
processor time instead of 10.9.
"""

import argparse
import cProfile
import math
import pstats
import random

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F1

from anysize.data.augment.joint import JointTrainTransform
from anysize.data.settings import AugmentSettings
from anysize.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from anysize.sizes.batch import Batch
from harness import compare, print_environment, report

COUNT, HEIGHT, WIDTH, SIDE, VOID = 32, 375, 500, 512, 255


class Reference:
    """The peer: torchvision's segmentation preset of version 1, one image and mask at a time.

    `shorter` draws the length of the shorter side after the resize.
    """

    def __init__(self, shorter: "Draw") -> None:
        self.shorter = shorter

    def __call__(self, image: Image.Image, mask: Image.Image) -> tuple[Tensor, Tensor]:
        side = self.shorter()
        image = F1.resize(image, side, InterpolationMode.BILINEAR, antialias=True)
        mask = F1.resize(mask, side, InterpolationMode.NEAREST)
        if random.random() < 0.5:
            image, mask = F1.hflip(image), F1.hflip(mask)
        below, beside = max(0, SIDE - image.height), max(0, SIDE - image.width)
        if below or beside:
            image = F1.pad(image, [0, 0, beside, below], fill=0)
            mask = F1.pad(mask, [0, 0, beside, below], fill=VOID)
        top, left = random.randint(0, image.height - SIDE), random.randint(0, image.width - SIDE)
        image, mask = F1.crop(image, top, left, SIDE, SIDE), F1.crop(mask, top, left, SIDE, SIDE)
        pixels = F1.convert_image_dtype(F1.pil_to_tensor(image), torch.float)
        target = torch.as_tensor(np.array(mask), dtype=torch.int64)
        return F1.normalize(pixels, mean=IMAGENET_MEAN, std=IMAGENET_STD), target


class Draw:
    """The shorter side in pixels: evenly, or as a log-uniform factor of the stored one."""

    def __init__(self, low: float, high: float, *, log: bool) -> None:
        self.low, self.high, self.log = low, high, log

    def __call__(self) -> int:
        if self.log:
            return round(HEIGHT * math.exp(random.uniform(math.log(self.low), math.log(self.high))))
        return random.randint(int(self.low), int(self.high))


def photo_like(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Smooth areas with fine noise, uint8 (H, W, 3), and a mask of large areas, uint8 (H, W)."""
    coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)).astype(np.int16)
    image = np.clip(smooth + rng.normal(0, 8, smooth.shape).astype(np.int16), 0, 255).astype(np.uint8)
    areas = Image.fromarray(rng.integers(0, 21, (6, 8), dtype=np.uint8))
    return image, np.asarray(areas.resize((WIDTH, HEIGHT), Image.Resampling.NEAREST))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--profile", action="store_true", help="show where our side's time goes, and end")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print_environment()
    random.seed(0)
    rng = np.random.default_rng(0)
    stored = [photo_like(rng) for _ in range(COUNT)]
    tensors = [(torch.from_numpy(image).permute(2, 0, 1), torch.from_numpy(mask.copy())) for image, mask in stored]
    pictures = [(Image.fromarray(image), Image.fromarray(mask)) for image, mask in stored]
    epoch = 0

    def ours(transform: JointTrainTransform) -> None:
        nonlocal epoch
        epoch += 1  # other scales and crops in each run
        for index, (image, mask) in enumerate(tensors):
            batch = Batch(epoch, SIDE, 1, np.array([index]))
            sample = transform.sample(image, mask, batch)
            transform.finish(sample.pixels, batch), sample.targets.long()

    def peer(reference: Reference) -> None:
        for image, mask in pictures:
            reference(image, mask)

    ratios = []
    comparisons = {
        "scales 0.5 to 2 on both sides": ((0.5, 2.0), Draw(0.5, 2.0, log=True)),
        "the preset's shorter sides 256 to 1,024": ((256 / HEIGHT, 1024 / HEIGHT), Draw(256, 1024, log=False)),
    }
    for name, (rescale, shorter) in comparisons.items():
        augment = AugmentSettings(crop="rescale", flip=0.5, rescale=rescale)
        transform = JointTrainTransform(Preprocessing(SIDE, resize="pad"), augment)
        if arguments.profile:
            profile = cProfile.Profile()
            profile.runcall(lambda transform=transform: [ours(transform) for _ in range(20)])
            pstats.Stats(profile).sort_stats("tottime").print_stats(14)
            return
        print(f"{name}, {COUNT} images:")
        medians = compare(
            {
                "anysize": lambda transform=transform: ours(transform),
                "torchvision v1 on PIL": lambda shorter=shorter: peer(Reference(shorter)),
            },
            arguments.repeats,
            at_least=0.3,
        )
        ratios.append(medians["torchvision v1 on PIL"] / medians["anysize"])
        print(f"  {COUNT / medians['anysize']:,.0f} images a second; ratio {ratios[-1]:.2f}")
    report("images a second over torchvision's reference at equal scales", ratios[0], 1.0)


if __name__ == "__main__":
    main()
