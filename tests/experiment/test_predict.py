"""`anysize.predict`: rows, masks and overlays for image files of any kind."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import anysize
from anysize.data.augment.transform import normalize
from anysize.data.palette import overlay, voc_colors
from anysize.data.sets.fashion_mnist import CLASSES
from anysize.experiment.loaded import load_run
from anysize.experiment.predict import find_images, predict
from anysize.experiment.train import train
from anysize.recipe import Recipe
from anysize.registry import UserError

Trained = Callable[[str], Path]
SHAPES = {"wide.jpg": (50, 90), "high.PNG": (80, 30), "below/small.jpg": (20, 24), "square.png": (64, 64)}


def smooth_image(seed: int, height: int, width: int) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Colour images of several shapes (height, width), one in a folder below, and files that are no images."""
    root = tmp_path / "images"
    for seed, (name, shape) in enumerate(SHAPES.items()):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        smooth_image(seed, *shape).save(root / name)
    (root / "notes.txt").write_text("no image")
    (root / ".hidden.jpg").write_bytes(b"no image")
    return root


@pytest.fixture(scope="module")
def grey_run(tiny: Callable[..., Recipe], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of grey images of 28 pixels, hardly trained."""
    recipe = tiny(data__limit=40, training__epochs=1, sizes__mix="fixed")
    return train(recipe, run=tmp_path_factory.mktemp("grey") / "run")


def input_of(path: Path, run: Path) -> torch.Tensor:
    """The image at its own size as the run's network takes it, (1, 3, H, W)."""
    pixels = torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)
    return normalize(pixels[None], load_run(run, "last").preprocessing)


@pytest.mark.slow
def test_masks_have_their_images_sizes_and_vocs_palette(trained_scenes: Trained, images: Path, tmp_path: Path) -> None:
    table = anysize.predict(trained_scenes("segmentation"), images, tmp_path / "out")
    assert sorted(table["file"]) == sorted(str(images / name) for name in SHAPES)
    made = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*"))
    stems = [Path(name).with_suffix(".png").as_posix() for name in SHAPES]
    assert made == sorted(["predictions.csv", *(f"{kind}/{name}" for kind in ("masks", "overlays") for name in stems)])
    for name, shape in SHAPES.items():
        mask = Image.open((tmp_path / "out/masks" / name).with_suffix(".png"))
        assert (mask.mode, mask.format, mask.size) == ("P", "PNG", shape[::-1])
        assert np.array_equal(np.array(mask.getpalette()).reshape(-1, 3)[:21], voc_colors()[:21])
        numbers = np.asarray(mask)
        assert numbers.max() <= len(CLASSES)
        image = np.asarray(Image.open(images / name).convert("RGB"))
        over = np.asarray(Image.open((tmp_path / "out/overlays" / name).with_suffix(".png")))
        assert np.array_equal(over, overlay(image, numbers))
        row = table.set_index("file").loc[str(images / name)]
        shares = row.filter(like="share(").astype(float)
        assert list(shares.index) == [f"share({each})" for each in ("background", *CLASSES)]
        assert shares.to_numpy() == pytest.approx(np.bincount(numbers.ravel(), minlength=11) / numbers.size)
        assert row["classes"].split(";")[0] == shares.idxmax().removeprefix("share(").removesuffix(")")
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "out/predictions.csv"), table)


@pytest.mark.parametrize("name", ["wide.jpg", "square.png"])
def test_a_mask_is_what_the_network_says_of_the_whole_image(
    trained_scenes: Trained, images: Path, tmp_path: Path, name: str
) -> None:
    run = trained_scenes("segmentation")
    predict(run, images / name, tmp_path / "out")
    with torch.inference_mode():
        logits = load_run(run, "last").model(input_of(images / name, run))
    expected = F.interpolate(logits, SHAPES[name], mode="bilinear", align_corners=False)[0].argmax(0)
    mask = np.asarray(Image.open((tmp_path / "out/masks" / name).with_suffix(".png")))
    assert (mask == expected.numpy()).mean() > 0.999  # but for ties


def test_size_and_settings_change_the_mask_and_not_its_size(
    trained_scenes: Trained, images: Path, tmp_path: Path
) -> None:
    run, masks = trained_scenes("segmentation"), {}
    for name, options in (
        ("plain", {}),
        ("half", {"size": 24}),
        ("flipped", {"overrides": {"evaluation.flip": True}}),
        ("best", {"checkpoint": "best"}),
    ):
        predict(run, [images / "wide.jpg"], tmp_path / name, **options)
        masks[name] = np.asarray(Image.open(tmp_path / name / "masks/wide.png"))
        assert masks[name].shape == SHAPES["wide.jpg"]
    for name in ("half", "flipped", "best"):
        assert (masks[name] != masks["plain"]).any(), name


def test_an_image_is_predicted_alike_whatever_comes_with_it(trained_scenes: Trained, images: Path) -> None:
    run = trained_scenes("segmentation")
    together = predict(run, images)
    for row, path in enumerate(together["file"]):
        pd.testing.assert_series_equal(predict(run, path).iloc[0], together.iloc[row], check_names=False)
    batched = predict(run, images, overrides={"evaluation.batch_size": 4})  # loaded in one canvas
    pd.testing.assert_frame_equal(batched, together, atol=2e-3)  # but for ties


@pytest.mark.slow
def test_labels_come_with_the_probability_of_each(trained_scenes: Trained, images: Path, tmp_path: Path) -> None:
    run = trained_scenes("multilabel")
    table = predict(run, [images / "square.png", images / "wide.jpg"], tmp_path / "out", size=64)
    assert list(table.columns) == ["file", "labels", *(f"p({name})" for name in CLASSES)]
    assert list(table["file"]) == [str(images / "square.png"), str(images / "wide.jpg")]  # in the order given
    with torch.inference_mode():
        logits = load_run(run, "last").model(input_of(images / "square.png", run))[0]
    assert table.filter(like="p(").iloc[0].to_numpy(float) == pytest.approx(logits.sigmoid().numpy(), rel=1e-4)
    expected = [CLASSES[k] for k in logits.argsort(descending=True) if logits[k] > 0]
    assert table["labels"][0] == ";".join(expected)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["predictions.csv"]  # labels are no pictures


@pytest.mark.parametrize("task", ["multilabel", "segmentation"])
def test_a_grey_image_is_one_of_equal_colours(trained_scenes: Trained, tmp_path: Path, task: str) -> None:
    grey = smooth_image(3, 40, 60).convert("L")
    grey.save(tmp_path / "grey.png")
    grey.convert("RGB").save(tmp_path / "colour.png")
    one, other = predict(trained_scenes(task), [tmp_path / "grey.png", tmp_path / "colour.png"]).to_numpy()
    assert one[1:].tolist() == other[1:].tolist()


def test_a_network_for_grey_images_takes_both(grey_run: Path, tmp_path: Path) -> None:
    grey = smooth_image(3, 40, 60).convert("L")
    grey.save(tmp_path / "grey.png")
    grey.convert("RGB").save(tmp_path / "colour.png")
    smooth_image(4, 28, 28).save(tmp_path / "other.jpg")
    table = predict(grey_run, tmp_path, tmp_path / "out")
    assert table["file"].tolist() == [str(tmp_path / f"{name}") for name in ("colour.png", "grey.png", "other.jpg")]
    probabilities = table.filter(like="p(").to_numpy()
    assert probabilities.shape == (3, 10)
    assert probabilities.sum(axis=1) == pytest.approx(1)
    assert probabilities[0] == pytest.approx(probabilities[1], abs=0.01)  # a level may be rounded otherwise
    assert [CLASSES[k] for k in probabilities.argmax(axis=1)] == table["class"].tolist()
    assert table["probability"].to_numpy() == pytest.approx(probabilities.max(axis=1))


def test_nothing_is_written_unless_asked_for_and_each_image_is_told(trained_scenes: Trained, images: Path) -> None:
    before = sorted(images.parent.rglob("*"))
    done: list[tuple[int, int]] = []
    predict(trained_scenes("segmentation"), images, on_image=lambda *of: done.append(of))
    assert done == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert sorted(images.parent.rglob("*")) == before


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_image_is_named_or_left_out(trained_scenes: Trained, images: Path, workers: int) -> None:
    run = trained_scenes("segmentation")
    content = (images / "square.png").read_bytes()
    (images / "square.png").write_bytes(content[: len(content) // 2])
    options = {"data.workers": workers}
    with pytest.raises(UserError, match=rf"{images}/square\.png cannot be used: .*--data\.on_bad_image skip"):
        predict(run, images, overrides=options | {"data.on_bad_image": "error"})
    table = predict(run, images, overrides=options)
    assert len(table) == 3
    assert list(table.attrs["left_out"]) == [str(images / "square.png")]
    assert str(images / "square.png") not in set(table["file"])


def test_what_is_no_image_is_refused(trained_scenes: Trained, images: Path, tmp_path: Path) -> None:
    run = trained_scenes("multilabel")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty holds no image; expected files ending in \.jpg"):
        predict(run, [images, tmp_path / "empty"])
    with pytest.raises(UserError, match=r"nowhere\.jpg is not there; expected an image file or a folder of them"):
        predict(run, tmp_path / "nowhere.jpg")
    with pytest.raises(UserError, match="no image given"):
        predict(run, [])
    with pytest.raises(UserError, match="is not a run folder"):
        predict(images, images)
    table = predict(run, images / "notes.txt")  # named by the user, so it is tried
    assert "in no image format" in table.attrs["left_out"][str(images / "notes.txt")]
    with pytest.raises(UserError, match="names no size of at least 1 pixel"):
        predict(run, images, size=0)


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_computed(
    trained_scenes: Trained, images: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    seen: list[int] = []
    for out in (tmp_path / "file", tmp_path / "file/below"):
        with pytest.raises(UserError, match=r"cannot write .*file"):
            predict(trained_scenes("multilabel"), images, out, on_image=lambda done, _: seen.append(done))
    assert seen == []


def test_names_are_those_of_files_and_paths_below_the_folders_given(images: Path, tmp_path: Path) -> None:
    found = find_images([images, images / "wide.jpg"])
    assert set(found.values()) == {Path(name) for name in SHAPES}
    for twin in ("wide.png", "high.jpeg"):
        smooth_image(9, 20, 20).save(images / twin)
        with pytest.raises(
            UserError, match=rf"would both be written as {Path(twin).stem}; rename one .*{Path(twin).stem}-2"
        ):
            find_images([images])
        assert len(find_images([images], pictures=False)) == len(SHAPES) + 1
        (images / twin).unlink()
    (tmp_path / "more").mkdir()
    smooth_image(9, 20, 20).save(tmp_path / "more/wide.jpg")
    with pytest.raises(UserError, match="would both be written as wide"):
        find_images([images, tmp_path / "more"])


def test_an_imported_network_for_voc_names_vocs_classes(images: Path, tmp_path: Path) -> None:
    options = {"layers": [1, 1, 1, 1], "widths": [8, 8, 8, 8], "cardinality": 2}
    model = anysize.create_model("resnext50_elastic", 21, task="segmentation", **options)
    torch.save({f"module.{name}": value for name, value in model.state_dict().items()}, tmp_path / "deeplab.pth")
    run = anysize.import_checkpoint(
        tmp_path / "deeplab.pth",
        "resnext50_elastic",
        out=tmp_path / "run",
        overrides={f"model.options.{key}": value for key, value in options.items()},
    )
    table = predict(run, images / "high.PNG")
    assert {"share(background)", "share(aeroplane)", "share(tvmonitor)"} < set(table.columns)


def test_files_of_one_name_are_refused_only_where_their_pictures_would_collide(
    trained_scenes: Trained, tmp_path: Path
) -> None:
    (tmp_path / "images").mkdir()
    for name in ("a.jpg", "a.png"):
        smooth_image(0, 20, 24).save(tmp_path / "images" / name)
    table = predict(trained_scenes("multilabel"), tmp_path / "images", tmp_path / "out")
    assert table["file"].tolist() == [str(tmp_path / "images" / name) for name in ("a.jpg", "a.png")]
    assert len(predict(trained_scenes("segmentation"), tmp_path / "images")) == 2  # nothing is written
    with pytest.raises(UserError, match=r"a.jpg and .*a.png would both be written as a; .* a-1.jpg and a-2.png"):
        predict(trained_scenes("segmentation"), tmp_path / "images", tmp_path / "pictures")
    assert not (tmp_path / "pictures").exists()
    (tmp_path / "images/a.jpg").unlink()
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks/a.png").write_bytes(b"the true mask")
    with pytest.raises(UserError, match=r"masks/a.png is there already, and there is no predictions.csv"):
        predict(trained_scenes("segmentation"), tmp_path / "images", tmp_path)
    assert (tmp_path / "masks/a.png").read_bytes() == b"the true mask"
    again = [predict(trained_scenes("segmentation"), tmp_path / "images", tmp_path / "again") for _ in range(2)]
    assert [len(table) for table in again] == [1, 1]
    with pytest.raises(UserError, match=r"again/masks/a.png is there already, and it is given itself"):
        predict(trained_scenes("segmentation"), tmp_path / "again/masks", tmp_path / "again")


def test_a_page_has_pictures_with_the_classes_and_names_of_others_stay_text(grey_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for seed in range(3):
        smooth_image(seed, 30, 40).save(folder / f"<b>&{seed}.png")
    page = tmp_path / "page.html"
    table = predict(grey_run, folder, page=page)
    text = page.read_text(encoding="utf-8").partition("<main>")[2]
    assert text.count("<img ") == 3
    assert "<b>&" not in text
    assert "&lt;b&gt;&amp;0.png" in text
    first = table.iloc[0]
    assert f'alt="the image, predicted: {first["class"].replace("&", "&amp;")}"' in text
    assert f"{100 * first['probability']:.1f}%" in text
    assert "3 images. Figures: probability." in text


def test_a_page_of_many_images_shows_some_of_them(
    grey_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anysize.reports.predictions_page.SHOWN", 2)
    for seed in range(5):
        smooth_image(seed, 28, 28).save(tmp_path / f"{seed}.png")
    predict(grey_run, tmp_path, page=tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8").partition("<main>")[2]
    assert "2 of 5 images are shown, spread evenly" in text
    assert [name for name in "01234" if f"{name}.png</h3>" in text] == ["0", "2"]


@pytest.mark.slow
@pytest.mark.parametrize("task", ["segmentation", "multilabel"])
def test_a_page_of_masks_has_them_over_the_images_and_one_of_labels_all_of_them(
    trained_scenes: Trained, images: Path, tmp_path: Path, task: str
) -> None:
    page = tmp_path / "page.html"
    table = predict(trained_scenes(task), images, page=page)
    text = page.read_text(encoding="utf-8").partition("<main>")[2]
    assert text.count("<img ") == len(SHAPES) * (2 if task == "segmentation" else 1)
    column = table["classes" if task == "segmentation" else "labels"]
    for said in column:
        named = ", ".join(said.split(";")) if said else "no label"
        assert f"the image, predicted: {named}" in text
    assert ('class="legend"' in text) == (task == "segmentation" and column.str.contains("[A-Z]").any())


def test_a_page_that_cannot_be_written_is_said_before_anything_is_predicted(grey_run: Path, tmp_path: Path) -> None:
    smooth_image(0, 28, 28).save(tmp_path / "0.png")
    with pytest.raises(UserError, match=r"none/page\.html"):
        predict(grey_run, tmp_path, tmp_path / "out", page=tmp_path / "none/page.html")
    assert not (tmp_path / "out/predictions.csv").read_text()
