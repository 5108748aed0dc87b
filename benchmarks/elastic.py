"""Elastic networks: what folding and memory order bring in inference, and what the second scale costs in training.

    python benchmarks/elastic.py [--quick] [--threads 1]

Claims: `resnext50_elastic` on 8 images of 224 px, folded and channels last, is at least 1.25 times as fast as the plain
composition of its layers; multiply-adds of all twelve networks are within 0.5% of those measured on the published
code; a training step of `resnext50_elastic` over one of its plain twin, over the ratio of their FLOPs, is at most 1.15
(8 images, channels last on both sides, with the allocator as `anysize train` sets it).

What profiling said (torch.profiler, one thread of a 2.3 GHz Xeon with AVX-512, other work on the machine; idle the
times are in docs/performance.md). Inference,
1.47 s contiguous and unfolded: 1x1 convolutions 30%, copies inside the interpolation, which takes contiguous images to
channels last and back, 30%, grouped convolutions 10%, sums 9%, pooling to half resolution 8%, norms 7%. Folded and
channels last, 0.72 s: 1x1 convolutions 61% (a bias is first copied into the output), grouped convolutions 14%, sums
14%, interpolation 4%, activations 4%, pooling 2%. The memory order brings more than the folding, and the folding
little without it. Training at 160 px: convolutions take about as long as in the plain twin, as their FLOPs say. What
comes on top has no FLOPs in that count: 22 blocks have more norms, sums and activations than 16. Of some 190 ms more in
a step of 1,200, norms are 60, interpolation and its backward pass 36, sums 30, gradients set to zero 20, activations
20, pooling and its backward pass 17.
"""

import argparse
import copy

import torch

from anysize.models.measure.flops import count_flops
from anysize.models.spec import create_model
from anysize.models.surgery.fold import fold_batch_norm
from anysize.training.allocator import keep_freed_memory
from harness import compare, print_environment, report, training_step

GIGA_MACS = {
    "resnext50": 4.2305, "resnext50_elastic": 4.1769, "resnext101": 7.9700, "resnext101_elastic": 7.8889,
    "se_resnext50": 4.2330, "se_resnext50_elastic": 4.1794, "dla60x": 3.5936, "dla60x_elastic": 3.1101,
    "dla102x": 5.9764, "dla102x_elastic": 5.9465, "densenet201": 4.2914, "densenet201_elastic": 4.2661,
}  # fmt: skip
"""Multiply-adds of convolutions and linear layers of the authors' code for one image of 224 px, in 10^9."""

ELASTIC, PLAIN = "resnext50_elastic", "resnext50"
IMAGES, SIZE = 8, 224


def multiply_adds() -> bool:
    """All twelve networks against the published code."""
    with torch.device("meta"):
        found = {name: count_flops(create_model(name), SIZE, backward=False).forward / 2e9 for name in GIGA_MACS}
    for name, macs in found.items():
        print(f"  {name:21} {macs:.4f} GMACs, published code {GIGA_MACS[name]:.4f}")
    worst = max(abs(macs / GIGA_MACS[name] - 1) for name, macs in found.items())
    return report("multiply-adds, largest relative difference from the published code", worst, 0.005, at_least=False,
                  digits=5)  # fmt: skip


def inference(images: int, size: int, repeats: int) -> bool:
    """Each of folding and memory order alone, and both."""
    torch.manual_seed(0)
    plain = create_model(ELASTIC).eval()
    folded = fold_batch_norm(plain)
    contiguous = torch.randn(images, 3, size, size)
    last = contiguous.to(memory_format=torch.channels_last)

    def ordered(model: torch.nn.Module) -> torch.nn.Module:
        return copy.deepcopy(model).to(memory_format=torch.channels_last)

    plain_last, folded_last = ordered(plain), ordered(folded)
    sides = {
        "plain": lambda: plain(contiguous),
        "folded": lambda: folded(contiguous),
        "channels last": lambda: plain_last(last),
        "folded, channels last": lambda: folded_last(last),
    }
    with torch.inference_mode():
        medians = compare(sides, repeats, 2)
    for name, seconds in medians.items():
        print(f"  {name}: {images / seconds:.1f} images/s, {medians['plain'] / seconds:.2f} times plain")
    ratio = medians["plain"] / medians["folded, channels last"]
    return report(f"{ELASTIC}, {images} x {size} px, folded and channels last / plain", ratio, 1.25)


def training(images: int, size: int, repeats: int) -> bool:
    """A step of the elastic network and of its plain twin in turn."""
    print(f"  freed memory is kept: {keep_freed_memory()}")
    models = {
        name: create_model(name, num_classes=10).to(memory_format=torch.channels_last) for name in (ELASTIC, PLAIN)
    }
    flops = {name: count_flops(model, size).total for name, model in models.items()}
    steps = {name: training_step(model, (images, 3, size, size)) for name, model in models.items()}
    medians = compare(steps, repeats, 2)
    work, took = flops[ELASTIC] / flops[PLAIN], medians[ELASTIC] / medians[PLAIN]
    print(f"  time {took:.3f}, FLOPs {work:.3f} of the plain twin's")
    return report(f"training step, {ELASTIC} / {PLAIN}, {images} x {size} px, time over FLOPs", took / work, 1.15,
                  at_least=False)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="small images, few runs: whether it works")
    parser.add_argument("--threads", type=int, default=0, help="0: as many as torch chooses")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    print_environment()
    images, size, repeats = (2, 64, 2) if arguments.quick else (IMAGES, SIZE, 7)
    multiply_adds()
    inference(images, size, repeats)
    training(images, size, repeats)


if __name__ == "__main__":
    main()
