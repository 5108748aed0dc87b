"""`anysize data export`: what COCO's own library and the palette PNGs say is what the scenes hold."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anysize.cli import build_app
from anysize.data.catalog import load_dataset
from anysize.data.export import export_dataset
from anysize.data.export.coco_writer import outline, run_lengths
from anysize.data.scenes.compose import compose
from anysize.data.sets.fashion_mnist import CLASSES
from anysize.data.settings import DataSettings
from anysize.registry import UserError

IMAGES = 12
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' decode


@pytest.mark.parametrize("polygons", [False, True])
def test_coco_is_read_back_by_pycocotools(tmp_path: Path, polygons: bool):
    coco_api = pytest.importorskip("pycocotools.coco")
    calls: list[tuple[int, int]] = []
    root = export_dataset(
        "scenes", "coco", tmp_path / "x", images=IMAGES, polygons=polygons, on_image=lambda *of: calls.append(of)
    )
    assert root == tmp_path / "x"
    assert calls == [(done, 2 * IMAGES) for done in range(1, 2 * IMAGES + 1)]
    kinds = set()
    for split, name in (("train", "train2017"), ("validation", "val2017")):
        api = coco_api.COCO(root / f"annotations/instances_{name}.json")
        assert [(each["id"], each["name"]) for each in api.loadCats(api.getCatIds())] == list(enumerate(CLASSES, 1))
        assert len(list((root / name).iterdir())) == len(api.imgs) == IMAGES
        for index, image_id in enumerate(sorted(api.imgs)):
            scene, image = compose(split, index), api.imgs[image_id]
            assert (image["height"], image["width"]) == (128, 128)
            pixels = np.asarray(Image.open(root / name / image["file_name"]))
            assert np.array_equal(pixels, scene.image)
            annotations = api.loadAnns(api.getAnnIds(image_id))
            assert len(annotations) == len(scene.objects)
            for annotation, each in zip(annotations, scene.objects, strict=True):
                assert np.array_equal(api.annToMask(annotation), each.mask)
                assert annotation["category_id"] == each.label + 1
                assert (annotation["area"], annotation["iscrowd"]) == (each.area, 0)
                assert annotation["bbox"] == list(each.bbox)
                kinds.add(type(annotation["segmentation"]))
    assert kinds == ({list, dict} if polygons else {dict})


@pytest.mark.parametrize("targets", ["labels", "masks"])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_coco_is_read_back_by_the_data_set_coco(tmp_path: Path, split, targets):
    pytest.importorskip("pycocotools")
    root = export_dataset("scenes", "coco", tmp_path / "x", images=6)
    settings = DataSettings(name="coco", root=str(root), areas=(256, 2304))
    back = load_dataset(settings, split, targets)
    source = load_dataset(DataSettings(name="scenes", limit=6), split, targets)
    assert back.classes == source.classes
    for index in range(6):
        for ours, theirs in zip(back.read(index)[:2], source.read(index)[:2], strict=True):
            assert np.array_equal(ours, theirs)


def test_outlines_cover_exactly_the_pixels_of_any_mask():
    api = pytest.importorskip("pycocotools.mask")
    random = np.random.default_rng(0)
    covered = 0
    for density in np.linspace(0.05, 0.95, 200):
        mask = random.random((7, 9)) < density
        encoded = run_lengths(mask)
        assert sum(encoded["counts"]) == mask.size
        assert np.array_equal(api.decode(api.frPyObjects(encoded, 7, 9)), mask)
        polygons = outline(mask)
        hole = _has_hole(mask)
        assert (polygons is None) == hole
        if polygons:
            covered += 1
            assert np.array_equal(api.decode(api.merge(api.frPyObjects(polygons, 7, 9))), mask)
            assert sum(_enclosed(polygon) for polygon in polygons) == mask.sum()
    assert covered > 50


def _has_hole(mask: np.ndarray) -> bool:
    """Whether some pixel outside cannot be reached from the border, diagonal steps allowed."""
    outside = np.pad(~mask, 1, constant_values=True)
    seen, rest = np.zeros_like(outside), [(0, 0)]
    while rest:
        y, x = rest.pop()
        if 0 <= y < outside.shape[0] and 0 <= x < outside.shape[1] and outside[y, x] and not seen[y, x]:
            seen[y, x] = True
            rest += [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    return bool((outside & ~seen).any())


def _enclosed(polygon: list[int]) -> float:
    x, y = np.array(polygon).reshape(-1, 2).T
    return float(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1)) / 2)


def test_voc_has_the_masks_in_vocs_palette(tmp_path: Path):
    root = export_dataset("scenes", "voc", tmp_path / "x", images=IMAGES) / "VOCdevkit/VOC2012"
    assert (root / "classes.txt").read_text().splitlines() == ["background", *CLASSES]
    lists = {path.stem: path.read_text().split() for path in (root / "ImageSets/Segmentation").iterdir()}
    assert lists["trainval"] == lists["train"] + lists["val"]
    for split, name in (("train", "train"), ("validation", "val")):
        assert len(lists[name]) == IMAGES
        for index, stem in enumerate(lists[name]):
            scene = compose(split, index)
            pixels = np.asarray(Image.open(root / f"JPEGImages/{stem}.jpg")).astype(int)
            assert np.abs(pixels - scene.image).mean() < 4  # JPEG of quality 95
            of_class, of_object = (Image.open(root / f"Segmentation{kind}/{stem}.png") for kind in ("Class", "Object"))
            expected = np.zeros((2, 128, 128), np.uint8)
            for number, each in enumerate(scene.objects, start=1):
                expected[:, each.mask] = [[1 + each.label], [number]]
            assert of_class.mode == of_object.mode == "P"
            assert np.array_equal(of_class, expected[0])
            assert np.array_equal(of_object, expected[1])
    colours = np.array(of_class.getpalette()).reshape(-1, 3)
    # From the development kit: aeroplane, bicycle, tv/monitor and void.
    assert colours[[0, 1, 2, 20, 255]].tolist() == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [0, 64, 128], [224, 224, 192]]


def test_voc_is_read_back_by_the_data_set_voc(tmp_path: Path):
    root = export_dataset("scenes", "voc", tmp_path / "x", images=3)
    for split in ("train", "validation"):
        back = load_dataset(DataSettings(name="voc", root=str(root)), split, "masks")
        source = load_dataset(DataSettings(name="scenes", limit=3), split, "masks")
        assert len(back) == 3
        for index in range(3):
            assert np.array_equal(back.read(index)[1], source.read(index)[1])
            assert (back.image(index).int() - source.image(index).int()).abs().double().mean() < 4


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path):
    def stop(done: int, total: int) -> None:
        assert not (tmp_path / "deep/x").exists()
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_dataset("scenes", "coco", tmp_path / "deep/x", images=2, on_image=stop)
    assert list((tmp_path / "deep").iterdir()) == []
    export_dataset("scenes", "coco", tmp_path / "deep/x", images=2)
    before = (tmp_path / "deep/x/annotations/instances_val2017.json").read_bytes()
    assert json.loads(before)["licenses"][0]["name"] == "MIT"
    with pytest.raises(UserError, match=f"{tmp_path}/deep/x is there already"):
        export_dataset("scenes", "coco", tmp_path / "deep/x", images=1)
    assert (tmp_path / "deep/x/annotations/instances_val2017.json").read_bytes() == before
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=f"{tmp_path}/file/x cannot be written"):
        export_dataset("scenes", "coco", tmp_path / "file/x", images=1)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("scnes", {}, "unknown data set 'scnes': did you mean 'scenes'"),
        ("cifar10", {}, "data set 'cifar10' cannot be exported; `scenes` is the one that can"),
        ("scenes", {"images": -1}, "--images is -1; expected how many"),
        ("scenes", {"polygons": True}, "--polygons is for the format coco"),
        ("scenes", {"format": "yolo"}, "the format is 'yolo'; expected coco or voc"),
    ],
)
def test_what_cannot_be_exported_is_said_in_a_sentence(tmp_path: Path, name: str, options, message: str):
    with pytest.raises(UserError, match=message):
        export_dataset(name, folder=tmp_path / "x", **{"format": "voc", **options})
    assert not (tmp_path / "x").exists()


def test_the_command_exports_and_says_how_to_use_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    app = build_app()
    arguments = ["data", "export", "scenes", "--format", "coco", str(tmp_path / "x"), "--images", "2", "--polygons"]
    app(arguments, result_action="return_value")
    assert capsys.readouterr().out == (
        f"{tmp_path}/x is written; use it with --data.name coco --data.root {tmp_path}/x\n"
    )
    annotations = json.loads((tmp_path / "x/annotations/instances_train2017.json").read_text())["annotations"]
    assert any(isinstance(each["segmentation"], list) for each in annotations)
    for wrong, message in (
        ([], "no data set is named"),
        (["scenes", str(tmp_path / "y")], "no format is named"),
        (["scenes", "--format", "voc"], "received no folder; expected one new folder"),
        (["scenes", "--format", "voc", "a", "b"], "received a b; expected one new folder"),
        (["scenes", "--format", "voc", "--data.limit", "3"], "received --data.limit 3; expected one new folder"),
    ):
        with pytest.raises(UserError, match=message):
            app(["data", "export", *wrong], result_action="return_value")
    with pytest.raises(UserError, match="--images: unknown setting"):
        app(["data", "check", "scenes", "--images", "3"], result_action="return_value")
