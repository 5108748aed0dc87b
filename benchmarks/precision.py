"""A step of training in bfloat16 against one in float32, which training.precision auto chooses between.

    python benchmarks/precision.py [--models airbench94 resnet50] [--size 32] [--images 64] [--repeats 5]

Claim: none that holds on every processor, which is why auto measures. bfloat16 is expected to win with
AMX, where this was not run; float32 wins on an Intel Xeon that has AVX-512's bfloat16 instructions and no AMX.

What profiling said (that Xeon, airbench94, 400 images of 32 px): convolutions are 88% of a step in bfloat16, 60% of it
their backward pass; oneDNN computes them with dot products of pairs at 70 to 104 GFLOP/s a thread, and those in float32
at 97 to 172.
"""

import argparse

from anysize.models.spec import create_model
from anysize.training.precision import WORTH
from harness import compare, print_environment, training_step


def main() -> None:
    """Time a forward and a backward pass of each network in both, print medians and ratios."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", nargs="+", default=["airbench94", "resnet20", "resnet50"])
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print_environment()
    for name in options.models:
        model, shape = create_model(name, 10), (options.images, 3, options.size, options.size)
        print(f"{name}, {options.images} images of {options.size} px")
        sides = {precision: training_step(model, shape, precision=precision) for precision in ("float32", "bfloat16")}
        seconds = compare(sides, options.repeats)
        ratio = seconds["float32"] / seconds["bfloat16"]
        chosen = "bfloat16" if ratio >= WORTH else "float32"
        print(f"bfloat16 is {ratio:.2f} times as fast; auto takes {chosen} here (bfloat16 from {WORTH:g} on)")


if __name__ == "__main__":
    main()
