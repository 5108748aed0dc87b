"""Make the embedded data set: the first images of each class of Fashion-MNIST, in their original order.

    python tools/make_fashion_mini.py FOLDER [OUTPUT]

FOLDER holds Fashion-MNIST's four IDX files (`*-ubyte.gz`). OUTPUT (src/anysize/data/fashion_mini) receives for each
split a PNG mosaic, which is smaller than a compressed array and can be looked at, and the labels, a byte an image.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from anysize.data.formats.idx import read_idx_pair

COLUMNS = 100
TAKE = {"train": 1000, "validation": 200}  # images of each class


def main() -> None:
    if len(sys.argv) not in (2, 3):
        raise SystemExit(__doc__)
    output = Path(sys.argv[2] if len(sys.argv) == 3 else "src/anysize/data/fashion_mini")
    output.mkdir(parents=True, exist_ok=True)
    for split, count in TAKE.items():
        pair = read_idx_pair(Path(sys.argv[1]), split)
        if pair is None:
            raise SystemExit(f"{sys.argv[1]} does not hold the IDX files of the {split} split")
        images, labels = pair
        keep = np.sort(np.concatenate([np.flatnonzero(labels == label)[:count] for label in range(10)]))
        tiles = images[keep].reshape(-1, COLUMNS, 28, 28)  # (rows, columns, H, W)
        mosaic = tiles.transpose(0, 2, 1, 3).reshape(-1, COLUMNS * 28)
        Image.fromarray(mosaic).save(output / f"{split}.png", optimize=True)
        (output / f"{split}-labels.bin").write_bytes(labels[keep].tobytes())
        print(f"{split}: {len(keep)} images, {(output / f'{split}.png').stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
