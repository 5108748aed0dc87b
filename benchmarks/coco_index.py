"""What reading an annotation file of COCO train2017's size takes, the first time and from then on.

    python benchmarks/coco_index.py [--annotations 860001]

Claim: the 860,001 annotations of a file as large as instances_train2017.json are indexed in under 30 s with a peak of
under 1.5 GB. Beside it: reading the index that is kept beside the file, and the peer, `json.load` of the same file,
which is how pycocotools reads it before it makes its own lists.

The file is made in a temporary folder: 118,287 images, 80 categories, polygons with about as many corners as COCO's and
two decimals, one annotation in a hundred a crowd in run lengths; 490 MB. Each side runs in a fresh process, whose start
and imports are not timed; its memory before (most of it torch's, which the index does not need) is printed too.

Seen on two cores of a 2.3 GHz Xeon that others used as well: indexing 12.5 s and 0.10 GB above what was there before,
reading the kept index 0.03 s, `json.load` 26.6 s and 3.0 GB.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from harness import in_fresh_process, print_environment, report

IMAGES, CATEGORIES, ANNOTATIONS = 118_287, 80, 860_001
WIDTH, HEIGHT = 640, 480
SHAPES = 20_000  # different objects; the file repeats them, which no parser notices
SECONDS, GIGABYTES = 30, 1.5


def write_file(path: Path, annotations: int) -> None:
    """An annotation file as COCO's, with the keys and their order of its 2017 release."""
    random = np.random.default_rng(0)
    ids = np.sort(random.choice(600_000, IMAGES, replace=False)).tolist()
    shapes = [_shape(random, crowd=i % 100 == 0) for i in range(SHAPES)]
    images = random.integers(IMAGES, size=annotations).tolist()
    categories = random.integers(CATEGORIES, size=annotations).tolist()
    with open(path, "w") as file:
        info = {"description": "a generated file", "version": "1.0", "year": 2017, "date_created": "2017/09/01"}
        licences = [{"url": f"http://example.org/{i}", "id": i, "name": f"Licence {i}"} for i in range(1, 9)]
        file.write(f'{{"info": {json.dumps(info)}, "licenses": {json.dumps(licences)}, "images": [')
        file.write(", ".join(_image(i) for i in ids))
        file.write('], "annotations": [')
        for start in range(0, annotations, 10_000):
            file.write(", " if start else "")
            file.write(
                ", ".join(
                    f'{{{shapes[n % SHAPES]}, "image_id": {ids[images[n]]}, "category_id": {1 + categories[n]}, '
                    f'"id": {1000 + n}}}'
                    for n in range(start, min(start + 10_000, annotations))
                )
            )
        names = [{"supercategory": "thing", "id": 1 + i, "name": f"thing {i}"} for i in range(CATEGORIES)]
        file.write(f'], "categories": {json.dumps(names)}}}')


def _image(number: int) -> str:
    name = f"{number:012}.jpg"
    return json.dumps(
        {
            "license": 4,
            "file_name": name,
            "coco_url": f"http://images.cocodataset.org/train2017/{name}",
            "height": HEIGHT,
            "width": WIDTH,
            "date_captured": "2013-11-14 17:02:52",
            "flickr_url": f"http://farm7.staticflickr.com/6116/6255196340_{number:08x}_z.jpg",
            "id": number,
        }
    )


def _shape(random: np.random.Generator, crowd: bool) -> str:
    """The keys of an annotation that speak of its shape."""
    corners = max(3, round(random.lognormal(np.log(19), 0.65)))
    radius = min(random.lognormal(np.log(35), 0.9), 200)
    angles = np.sort(random.random(corners)) * 2 * np.pi
    distance = radius * random.uniform(0.7, 1.3, corners)
    x = np.clip(random.uniform(0, WIDTH) + distance * np.cos(angles), 0, WIDTH).round(2)
    y = np.clip(random.uniform(0, HEIGHT) + distance * np.sin(angles), 0, HEIGHT).round(2)
    area = abs(float(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))) / 2
    box = [float(x.min()), float(y.min()), round(float(np.ptp(x)), 2), round(float(np.ptp(y)), 2)]
    segmentation: object = [np.stack([x, y], 1).ravel().tolist()]
    if crowd:
        cuts = np.sort(random.choice(WIDTH * HEIGHT, 400, replace=False))
        segmentation = {"counts": np.diff(cuts, prepend=0, append=WIDTH * HEIGHT).tolist(), "size": [HEIGHT, WIDTH]}
    values = {"segmentation": segmentation, "area": area, "iscrowd": int(crowd)}
    return f'{json.dumps(values)[1:-1]}, "bbox": {json.dumps(box)}'


def by_index(path: Path) -> int:
    from anysize.data.formats.coco.cache import read_coco_index

    return len(read_coco_index(path).area)


def by_json(path: Path) -> int:
    with open(path) as file:
        return len(json.load(file)["annotations"])


def measure(read: Callable[[Path], int], path: Path, small: Path) -> tuple[int, float, int, int]:
    """Annotations read, seconds, and resident bytes before and at most; the small file is read before, for imports."""
    read(small)
    Path("/proc/self/clear_refs").write_text("5")  # sets VmHWM back to what is resident now
    before, start = _resident("VmRSS"), time.perf_counter()
    count = read(path)
    return count, time.perf_counter() - start, before, _resident("VmHWM")


def _resident(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--annotations", type=int, default=ANNOTATIONS)
    annotations = parser.parse_args().annotations
    print_environment()
    with tempfile.TemporaryDirectory() as name:
        path, small = Path(name) / "instances_train2017.json", Path(name) / "small.json"
        in_fresh_process(write_file, {}, path, annotations)
        in_fresh_process(write_file, {}, small, 10)
        print(f"{annotations:,} annotations of {IMAGES:,} images, {path.stat().st_size / 1e6:.0f} MB")
        path.read_bytes()  # into the system's file cache, for every side alike
        sides = {"index, first time": by_index, "index, kept": by_index, "json.load (peer)": by_json}
        results = {}
        for side, read in sides.items():
            count, seconds, before, peak = results[side] = in_fresh_process(measure, {}, read, path, small)
            assert count == annotations
            print(
                f"  {side:18} {seconds:7.2f} s, peak {peak / 1e9:5.2f} GB, {before / 1e9:.2f} GB of it before the start"
            )
        _, seconds, _, peak = results["index, first time"]
        report("seconds to index the file", seconds, SECONDS, at_least=False)
        report("peak in GB", peak / 1e9, GIGABYTES, at_least=False)


if __name__ == "__main__":
    main()
