"""Run folders and data sets that somebody prepared on purpose: each function here makes one of what a good one was.

It takes the run folder or the data set, and a `Trap`: what must not be touched, read or run by it.
"""

import dataclasses
import functools
import gzip
import io
import json
import os
import pickle
import shutil
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import damages
import numpy as np
import torch
from PIL import Image

TAG = "chaos-tag"
STEERS = "\x1b[2J\x1b]0;taken\x07\x9b31m"
PAYLOAD = (
    f"</script></pre></style>\"'><{TAG} onclick=chaos()><script>chaos()</script><img src=x onerror=chaos()>{STEERS}"
)
"""A text that becomes a part of a page where it is not escaped, and steers a terminal."""


@dataclasses.dataclass(frozen=True)
class Trap:
    """A folder that a run must not change or read by a name, and a file that is made where foreign code runs."""

    outside: Path
    marker: Path

    def code(self, folder: Path) -> Path:
        """A file of Python that leaves the marker, and whose `build` makes the network that the tiny runs have."""
        path = folder / "evil.py"
        path.write_text(
            f"open({str(self.marker)!r}, 'w').close()\n"
            "import anysize\n\n"
            "def build(num_classes=10, in_channels=1, **options):\n"
            f"    open({str(self.marker)!r}, 'w').close()\n"
            "    return anysize.create_model('cifar_resnet', num_classes=num_classes, in_channels=in_channels,\n"
            "                                depth=8, widths=[8, 8, 8])\n"
        )
        return path

    def pickled(self) -> bytes:
        """A pickle that leaves the marker where it is read without care."""
        return pickle.dumps(_Runs(str(self.marker)))


class _Runs:
    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


Hostility = Callable[[Path, Trap], None]


# Code that a folder names.


def code_in_a_file(run: Path, trap: Trap) -> None:
    _rename_model(run, f"{trap.code(run)}:build", None)


def code_beside(run: Path, trap: Trap) -> None:
    trap.code(run.parent)
    _rename_model(run, "evil.py:build", None)


def code_of_a_module(run: Path, trap: Trap) -> None:
    hub = run / "hub"
    hub.mkdir()
    trap.code(hub).rename(hub / "hubconf.py")
    _rename_model(run, "torch.hub:load", {"repo_or_dir": str(hub), "source": "local", "model": "build"})


def pickles_for_weights(run: Path, trap: Trap) -> None:
    for path in run.glob("checkpoints/*/*.safetensors"):
        path.write_bytes(trap.pickled())
        damages.sign(path)


def weights_that_are_a_pickle(run: Path, trap: Trap) -> None:
    (run / "evil.pth").write_bytes(trap.pickled())
    shutil.rmtree(run / "checkpoints")
    _set_in_recipe(run, "model", "weights", str(run / "evil.pth"))


# Names that lead out of a folder.


def pictures_from_outside(run: Path, trap: Trap) -> None:
    names = (
        "../../outside/secret.txt",
        str(trap.outside / "secret.txt"),
        "../../outside/private.png",
        "a/../../../outside/private.png",
    )
    _with_pictures(run, names)


def a_pipe_for_a_picture(run: Path, trap: Trap) -> None:
    os.mkfifo(run / "predictions/pipe.png")
    _with_pictures(run, ("pipe.png", "/dev/zero", "/dev/stdin"))


def tensors_from_outside(run: Path, trap: Trap) -> None:
    for folder in _checkpoints(run):
        shutil.copy(folder / "model.safetensors", trap.outside / "model.safetensors")
        _rename_file(folder, "../../../outside/model.safetensors")


def tensors_of_a_device(run: Path, trap: Trap) -> None:
    for folder in _checkpoints(run):
        _rename_file(folder, "/dev/zero")


def tensors_of_a_pipe(run: Path, trap: Trap) -> None:
    for folder in _checkpoints(run):
        _rename_file(folder, "../pipe.safetensors")
    os.mkfifo(run / "checkpoints/pipe.safetensors")


# Links and special files.


def links_for_what_is_written(run: Path, trap: Trap) -> None:
    names = ".lock", "log.txt", "metrics.csv", "evaluation.csv", "evaluation_tables.csv", "environment.json"
    names += "steps.csv", "predictions.csv", "confusion.csv"
    for name in (*names, "report.html", "scale_policy.csv", "recipe.toml", "predictions/predictions.json"):
        _lead(run / name, trap.outside / name.replace("/", "-"))


def links_for_what_is_new(run: Path, trap: Trap) -> None:
    names = "report.html", "metrics.csv", "evaluation.csv", "environment.json", "recipe.toml"
    latest = int(Path("/proc/loadavg").read_text().split()[-1])
    for process in range(latest, latest + 30):  # as names are made that can be foretold
        for name in names:
            (run / f".{name}.{process}.tmp").symlink_to(trap.outside / "precious.txt")
    for folder in ("last", "best", "calibrated-16", "calibrated-12", "smaller"):
        for name in (f".{folder}.new", f".{folder}.old", f".{folder}.replaced"):
            (run / "checkpoints" / name).symlink_to(trap.outside)
    (run / "export").is_dir() or (run / "export").symlink_to(trap.outside)


def links_for_folders(run: Path, trap: Trap) -> None:
    for name in ("predictions", "checkpoints/last", "checkpoints/previous", "checkpoints/best", "export"):
        if (run / name).is_dir():
            target = trap.outside / name.replace("/", "-")
            shutil.move(run / name, target)
            (run / name).symlink_to(target)


def pipes_everywhere(run: Path, trap: Trap) -> None:
    for path in _files(run):
        path.unlink()
        os.mkfifo(path)


def zeros_without_end_everywhere(run: Path, trap: Trap) -> None:
    for path in _files(run):
        path.unlink()
        path.symlink_to("/dev/zero")


def zeros_without_end_beside_the_recipe(run: Path, trap: Trap) -> None:
    for path in _files(run):
        if path.name != "recipe.toml" and path.suffix != ".safetensors":
            path.unlink()
            path.symlink_to("/dev/zero")


# Texts that want to be more.


def markup_in_every_text(run: Path, trap: Trap) -> None:
    for path in _files(run):
        if path.suffix == ".json" and path.name != "state.json":
            path.write_text(json.dumps(_with_payload(json.loads(path.read_text()))))
        elif path.name == "state.json":
            state = json.loads(path.read_text())["state"]
            state["preprocessing"]["classes"] = [f"{name}{PAYLOAD}" for name in state["preprocessing"]["classes"]]
            damages.write_state(path, state)
        elif path.suffix == ".csv":
            _mark_table(path)
        elif path.name == "log.txt":
            path.write_text(path.read_text() + PAYLOAD + "\n")
    recipe = run / "recipe.toml"
    comment = PAYLOAD.encode("unicode_escape").decode()
    recipe.write_text(f"# {comment}\n{recipe.read_text()}")


def markup_in_the_recipe(run: Path, trap: Trap) -> None:
    for section, key in (("data", "name"), ("model", "name"), ("sizes", "mix"), ("optimizer", "name")):
        _set_in_recipe(run, section, key, PAYLOAD)


def markup_in_the_legend(run: Path, trap: Trap) -> None:
    path = run / "predictions/predictions.json"
    found = json.loads(path.read_text())
    for entry in found["images"]:
        entry["legend"] = {
            "a": [f"0)\"><{TAG}>", 0, 0], "b": ["0);background:url(http://example.org/x", 1, 2], PAYLOAD: [1, 2, 3],
        }  # fmt: skip
        entry["lines"] = [[PAYLOAD, 0.5, PAYLOAD], [PAYLOAD, None, "right"]]
        entry["pictures"] = {f"{title}{PAYLOAD}": name for title, name in entry["pictures"].items()}
    path.write_text(json.dumps(found))


def markup_in_the_columns(run: Path, trap: Trap) -> None:
    for name in ("metrics.csv", "steps.csv", "evaluation.csv", "predictions.csv"):
        path = run / name
        if path.is_file():
            header, *rest = path.read_text().splitlines()
            quoted = PAYLOAD.replace('"', '""')
            more = [f'{header},"validation_{quoted}","train_{quoted}"', *(f"{line},0.5,0.5" for line in rest)]
            path.write_text("\n".join(more) + "\n")


def markup_in_the_exported_file(run: Path, trap: Trap) -> None:
    import onnx

    model = onnx.load(str(run / "export/model.onnx"))
    for entry in model.metadata_props:
        try:
            entry.value = json.dumps(_with_payload(json.loads(entry.value)))
        except ValueError:
            entry.value += PAYLOAD
    onnx.save(model, str(run / "export/model.onnx"))


def weights_of_the_exported_file_outside(run: Path, trap: Trap) -> None:
    import onnx

    model = onnx.load(str(run / "export/model.onnx"))
    tensor = max(model.graph.initializer, key=lambda each: len(each.raw_data))
    (trap.outside / "weights.bin").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../outside/weights.bin"
    onnx.save(model, str(run / "export/model.onnx"))


# Little that becomes much.


def bombs_for_pictures(run: Path, trap: Trap) -> None:
    for path in (run / "predictions").glob("*.[jp]*g"):
        path.write_bytes(png_bomb() if path.suffix == ".png" else damages.jpeg_bomb())


def files_without_end(run: Path, trap: Trap) -> None:
    """Eight gigabytes each that take no place on the disk."""
    for path in _files(run):
        if path.suffix != ".safetensors":
            os.truncate(path, 8 << 30)


def nested_without_end(run: Path, trap: Trap) -> None:
    for path in _files(run):
        if path.suffix == ".json":
            path.write_text('{"a":' * 100_000 + "1" + "}" * 100_000)


def a_recipe_nested_without_end(run: Path, trap: Trap) -> None:
    path = run / "recipe.toml"
    path.write_text(path.read_text() + "\n[deep]\na = " + "[" * 3000 + "]" * 3000 + "\n")


def sizes_without_end(run: Path, trap: Trap) -> None:
    for path in run.glob("checkpoints/*/state.json"):
        state = json.loads(path.read_text())["state"]
        state["preprocessing"]["image_size"] = 10**9
        state["model"]["options"]["widths"] = [10**7] * 3
        state["model"]["num_classes"] = 10**9
        damages.write_state(path, state)


RUNS: dict[Hostility, str] = {
    code_in_a_file: "evaluate, predict, calibrate, policy, bench, models show, plan, export, quantize, train itself",
    code_beside: "evaluate, predict, calibrate, policy, bench, models show, plan, export, quantize, train itself",
    code_of_a_module: "evaluate, predict, calibrate, policy, bench, models show, plan, export, train itself",
    pickles_for_weights: "predict, evaluate, train, train itself, quantize, evaluate int8",
    weights_that_are_a_pickle: "train itself",
    pictures_from_outside: "report, evaluate, compare",
    a_pipe_for_a_picture: "report, evaluate",
    tensors_from_outside: "evaluate, predict, train, export",
    tensors_of_a_device: "evaluate, predict, train, calibrate",
    tensors_of_a_pipe: "evaluate, predict, train, models show",
    links_for_what_is_written: "train, evaluate, report, policy, train itself",
    links_for_what_is_new: "train, evaluate, report, calibrate, quantize, export",
    links_for_folders: "train, evaluate, report, export, train previous",
    pipes_everywhere: "train, evaluate, report, compare, predict, calibrate, policy, plan, models show, train itself, "
    "watch",
    zeros_without_end_everywhere: "report, evaluate, train, compare, predict, plan, models show, evaluate file, watch",
    zeros_without_end_beside_the_recipe: "train, evaluate, report, compare, policy",
    markup_in_every_text: "report, compare, evaluate, train, predict, policy, quantize, watch",
    markup_in_the_recipe: "report, compare, evaluate, train, plan, models show, bench",
    markup_in_the_legend: "report, evaluate",
    markup_in_the_columns: "compare, report, train",
    markup_in_the_exported_file: "predict file, evaluate file",
    weights_of_the_exported_file_outside: "predict file, evaluate file",
    bombs_for_pictures: "report, evaluate, compare",
    files_without_end: "report, train, evaluate, compare, predict, plan, train itself, watch",
    nested_without_end: "evaluate, report, train, predict, compare, models show, watch",
    a_recipe_nested_without_end: "evaluate, report, plan, compare, train",
    sizes_without_end: "predict, evaluate, models show, bench, train, export",
}
"""Hostile run folders, and the verbs that meet them; the first is the short form's."""


# Data sets, each a folder of its own.


def _picture(path: Path, seed: int = 0, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (16, 16, 3) if mode == "RGB" else (16, 16)
    values = np.random.default_rng(seed).integers(0, 256 if mode == "RGB" else 2, shape, dtype=np.uint8)
    Image.fromarray(values).save(path)


def _folder(root: Path) -> None:
    for split in ("train", "val"):
        for label in ("cat", "dog"):
            for i in range(6):
                _picture(root / split / label / f"{i}.png", i)


def _csv(root: Path, *names: str, label: str = "cat") -> None:
    for i in range(12):
        _picture(root / f"{i}.png", i)
    lines = [f"{i}.png,{('cat', 'dog')[i % 2]}" for i in range(12)] + [f'"{name}","{label}"' for name in names]
    (root / "labels.csv").write_text("image,labels\n" + "\n".join(lines) + "\n")


def _coco(root: Path, images: list[dict[str, Any]], segmentation: Any = None, area: float = 25.0) -> None:
    (root / "annotations").mkdir(parents=True)
    good = [{"file_name": f"{i}.png", "height": 16, "width": 16, "id": i} for i in range(6)]
    shapes = [segmentation or [[2, 2, 8, 2, 8, 8, 2, 8]], [[1, 1, 9, 1, 9, 9, 1, 9]]]
    for split in ("train2017", "val2017"):
        for i in range(6):
            _picture(root / split / f"{i}.png", i)
        listed = [*good, *images]
        annotations = [
            {"id": n, "image_id": each["id"], "category_id": 1 + n % 2, "iscrowd": 0, "area": area,
             "bbox": [2, 2, 6, 6], "segmentation": shapes[n % 2]}
            for n, each in enumerate(listed)
        ]  # fmt: skip
        categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
        content = {"images": listed, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


def _voc(root: Path, *lines: str) -> Path:
    year = root / "VOCdevkit/VOC2012"
    for i in range(6):
        _picture(year / "JPEGImages" / f"{i}.jpg", i)
        _picture(year / "SegmentationClass" / f"{i}.png", i, "L")
    lists = year / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    for split in ("train", "val"):
        (lists / f"{split}.txt").write_text("\n".join([*map(str, range(6)), *lines]) + "\n")
    return year


def csv_outside(root: Path, trap: Trap) -> None:
    _csv(root, "../outside/private.png", str(trap.outside / "private.png"), "a/../../outside/private.png")


def csv_of_texts(root: Path, trap: Trap) -> None:
    _csv(root, "/etc/passwd", f"nothing{STEERS}.png", label=f"<{TAG}>{STEERS}")


def csv_of_devices(root: Path, trap: Trap) -> None:
    _csv(root, "zero.png", "pipe.png", "/dev/zero")
    (root / "zero.png").symlink_to("/dev/zero")
    os.mkfifo(root / "pipe.png")


def csv_of_bombs(root: Path, trap: Trap) -> None:
    _csv(root, "bomb.jpg", "bomb.png")
    (root / "bomb.jpg").write_bytes(damages.jpeg_bomb())
    (root / "bomb.png").write_bytes(png_bomb())


def csv_that_is_a_pipe(root: Path, trap: Trap) -> None:
    _csv(root)
    (root / "labels.csv").unlink()
    os.mkfifo(root / "labels.csv")


def csv_that_is_a_device(root: Path, trap: Trap) -> None:
    _csv(root)
    (root / "labels.csv").unlink()
    (root / "labels.csv").symlink_to("/dev/zero")


def folder_of_bombs(root: Path, trap: Trap) -> None:
    _folder(root)
    for split in ("train", "val"):
        (root / split / "cat/bomb.jpg").write_bytes(damages.jpeg_bomb())
        (root / split / "dog/bomb.png").write_bytes(png_bomb())


def folder_of_devices(root: Path, trap: Trap) -> None:
    _folder(root)
    for split in ("train", "val"):
        os.mkfifo(root / split / "cat/pipe.png")
        (root / split / "dog/zero.png").symlink_to("/dev/zero")
        (root / split / "dog/round").symlink_to(root / split)


def folder_of_steering_names(root: Path, trap: Trap) -> None:
    _folder(root)
    for split in ("train", "val"):
        for name in (f"<{TAG} onclick=chaos()>{STEERS}".replace("/", ""),):
            _picture(root / split / name / f"{name}.png")
            (root / split / name / f"damaged{name}.png").write_bytes(b"no picture")


def coco_outside(root: Path, trap: Trap) -> None:
    names = "../../outside/private.png", str(trap.outside / "private.png")
    _coco(root, [{"file_name": name, "height": 16, "width": 16, "id": 50 + i} for i, name in enumerate(names)])


def coco_of_large_sizes(root: Path, trap: Trap) -> None:
    _coco(root, [{"file_name": "0.png", "height": 10**9, "width": 10**9, "id": 77}])
    for split in ("train2017", "val2017"):
        _picture(root / split / "large.png")


def coco_of_large_masks(root: Path, trap: Trap) -> None:
    _coco(root, [], {"size": [10**6, 10**6], "counts": [0, 10**12]})


def coco_of_odd_shapes(root: Path, trap: Trap) -> None:
    _coco(root, [], [[1e308, -1e308, 1e300, 1e18, 5, 5, float("inf"), 1]], area=-1e308)


def voc_outside(root: Path, trap: Trap) -> None:
    _voc(root, "../../../../outside/private", str(trap.outside / "private"))


def voc_of_large_masks(root: Path, trap: Trap) -> None:
    year = _voc(root)
    (year / "SegmentationClass/0.png").write_bytes(png_bomb())
    (year / "JPEGImages/1.jpg").write_bytes(damages.jpeg_bomb())


def voc_of_pipes(root: Path, trap: Trap) -> None:
    year = _voc(root)
    for path in (year / "SegmentationClass/0.png", year / "JPEGImages/1.jpg", year / "ImageSets/Segmentation/val.txt"):
        path.unlink()
        os.mkfifo(path)


def idx_that_unpacks_for_ever(root: Path, trap: Trap) -> None:
    folder = root / "MNIST/raw"
    folder.mkdir(parents=True)
    zeros = gzip.compress(bytes(16 << 20), 9)
    for part in ("train", "t10k"):
        for what, dims in (("images-idx3", (6_000_000, 28, 28)), ("labels-idx1", (6_000_000,))):
            header = struct.pack(f">BBBB{len(dims)}I", 0, 0, 8, len(dims), *dims)
            (folder / f"{part}-{what}-ubyte.gz").write_bytes(gzip.compress(header) + zeros * 280)


DATA: dict[Hostility, str] = {
    csv_outside: "folder-labels", csv_of_texts: "folder-labels", csv_of_devices: "folder-labels",
    csv_of_bombs: "folder-labels", csv_that_is_a_pipe: "folder-labels", csv_that_is_a_device: "folder-labels",
    folder_of_bombs: "folder", folder_of_devices: "folder", folder_of_steering_names: "folder",
    coco_outside: "coco", coco_of_large_sizes: "coco", coco_of_large_masks: "coco", coco_of_odd_shapes: "coco",
    voc_outside: "voc", voc_of_large_masks: "voc", voc_of_pipes: "voc", idx_that_unpacks_for_ever: "mnist",
}  # fmt: skip
"""Hostile data sets, by their format."""


# Files of weights.


def weight_files(folder: Path, trap: Trap) -> dict[str, Path]:
    """Files that other programs may have written, and one that wants to run code."""
    import safetensors.torch

    from anysize import create_model

    state = create_model("resnet8", num_classes=10, in_channels=1).state_dict()
    one = state["conv1.weight"]

    def others(value: Any) -> dict[str, Any]:
        return {**state, "conv1.weight": value}

    with warnings.catch_warnings():  # PyTorch is about to make no more of them
        warnings.simplefilter("ignore")
        quantized = torch.quantize_per_tensor(one, 0.1, 0, torch.qint8)
    made: dict[str, Any] = {
        "float8": others(one.to(torch.float8_e4m3fn)),
        "complex": others(one.to(torch.complex64)),
        "sparse": others(one.to_sparse()),
        "meta": others(one.to("meta")),
        "quantized": others(quantized),
        "not_finite": others(one * float("nan")),
        "text": others("no tensor"),
        "nested": {"state_dict": {"state_dict": {"state_dict": state}}},
        "large": others(torch.zeros(1).expand(1 << 36)),
        "none": {},
    }
    files = {}
    for name, content in made.items():
        files[name] = folder / f"{name}.pth"
        torch.save(content, files[name])
    files["code"] = folder / "code.pth"
    files["code"].write_bytes(trap.pickled())
    files["float8_safetensors"] = folder / "float8.safetensors"
    safetensors.torch.save_file(made["float8"], files["float8_safetensors"])
    files["lying_safetensors"] = folder / "lying.safetensors"
    files["lying_safetensors"].write_bytes(struct.pack("<Q", 1 << 62) + b"{}")
    files["pipe"] = folder / "pipe.pth"
    os.mkfifo(files["pipe"])
    files["device"] = folder / "device.safetensors"
    files["device"].symlink_to("/dev/zero")
    return files


@functools.cache
def png_bomb(side: int = 40_000) -> bytes:
    """A grey PNG of `side` x `side` pixels that are all black, in a few hundred kilobytes."""
    row = bytes(1 + side // 8)
    packed = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packed.compress(row * 1000) + packed.flush(zlib.Z_FULL_FLUSH)  # so that it may stand again and again
    check = struct.pack(">HH", len(row) * side % 65521, 1)  # Adler-32 of zeros
    data = b"\x78\x01" + block * (side // 1000) + b"\x03\x00" + check
    written = b"\x89PNG\r\n\x1a\n"
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    for kind, content in ((b"IHDR", header), (b"IDAT", data), (b"IEND", b"")):
        written += struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    return written


def _files(run: Path) -> list[Path]:
    return [path for path in sorted(run.rglob("*")) if path.is_file() and not path.is_symlink()]


def _checkpoints(run: Path) -> list[Path]:
    return [path for path in sorted((run / "checkpoints").glob("[!.]*")) if path.is_dir()]


def _lead(path: Path, target: Path) -> None:
    """Move a file outside, and leave a link to it."""
    path.parent.mkdir(exist_ok=True)
    if path.is_file():
        shutil.move(path, target)
    else:
        target.write_text("precious\n")
    path.symlink_to(target)


def _rename_model(run: Path, name: str, options: dict[str, Any] | None) -> None:
    _set_in_recipe(run, "model", "name", name)
    if options is not None:
        _set_in_recipe(run, "model", "options", options)
    for path in run.glob("checkpoints/*/state.json"):
        state = json.loads(path.read_text())["state"]
        state["model"]["name"] = name
        if options is not None:
            state["model"]["options"] = options
        damages.write_state(path, state)


def _rename_file(checkpoint: Path, name: str) -> None:
    path = checkpoint / "state.json"
    state = json.loads(path.read_text())["state"]
    state["files"] = {name: state["files"]["model.safetensors"]}
    damages.write_state(path, state)


def _set_in_recipe(run: Path, section: str, key: str, value: Any) -> None:
    import tomllib

    import tomli_w

    path = run / "recipe.toml"
    recipe = tomllib.loads(path.read_text())
    recipe.setdefault(section, {})[key] = value
    path.write_text(tomli_w.dumps(recipe))


def _with_pictures(run: Path, names: tuple[str, ...]) -> None:
    path = run / "predictions/predictions.json"
    found = json.loads(path.read_text())
    for entry in found["images"]:
        entry["pictures"] |= {f"picture {i}": name for i, name in enumerate(names)}
    path.write_text(json.dumps(found))


def _with_payload(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: value[key] if key == "pictures" else _with_payload(value[key]) for key in value}
    if isinstance(value, list):
        return [_with_payload(each) for each in value]
    return f"{value}{PAYLOAD}" if isinstance(value, str) else value


def _mark_table(path: Path) -> None:
    import csv

    table = list(csv.reader(io.StringIO(path.read_text())))
    words = ("text", "row", "column", "label", "block", "settings", "split", "checkpoint", "layer", "table")
    for row in table[1:]:
        for i, name in enumerate(table[0]):
            if name in words:
                row[i] += PAYLOAD
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(table)
