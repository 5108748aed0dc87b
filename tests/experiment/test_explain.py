"""`anysize.explain`: where a run's network sees a class, at several sizes, on a page."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from image_files import smooth_image

import anysize
from anysize.evaluation.grad_cam import grad_cam, over_images
from anysize.experiment.explain import IMAGES, explain
from anysize.experiment.loaded import load_run
from anysize.experiment.predict import predict
from anysize.experiment.train import train
from anysize.recipe import Recipe
from anysize.registry import UserError
from anysize.reports.grad_cam_page import GradCamPage, heated

Trained = Callable[[str], Path]


@pytest.fixture(scope="module")
def grey_run(tiny: Callable[..., Recipe], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of grey images of 28 pixels, hardly trained."""
    recipe = tiny(data__limit=40, training__epochs=1, sizes__mix="fixed")
    return train(recipe, run=tmp_path_factory.mktemp("grey") / "run")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for seed in range(3):
        smooth_image(seed, 40 + seed, 52).save(folder / f"<i>{seed}.png")
    return folder


def test_each_image_has_a_row_a_size_and_the_class_of_the_base_size(grey_run: Path, images: Path) -> None:
    base = predict(grey_run, images).set_index("file")
    table = anysize.explain(grey_run, images, sizes=[14, 28])
    assert table["size"].tolist() == [14, 28] * 3
    for row in table.itertuples():
        assert row.target == base.loc[row.file, "class"]
        if row.size == 28:
            assert row.probability == pytest.approx(base.loc[row.file, "probability"], abs=1e-5)
            assert row.predicted == row.target
    with_two = predict(grey_run, images, size=14).set_index("file")
    small = table[table["size"] == 14].set_index("file")
    pd.testing.assert_series_equal(small["predicted"], with_two["class"], check_names=False)


def test_the_page_has_each_size_twice_and_names_stay_text(grey_run: Path, images: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    table = explain(grey_run, images, page, sizes="8:28:10", target="Bag")
    assert set(table["target"]) == {"Bag"}
    text = page.read_text(encoding="utf-8").partition("<main>")[2]
    assert text.count("<img ") == 3 * 3 * 2
    assert "<i>0" not in text
    assert "&lt;i&gt;0.png: Bag" in text
    assert text.count("what speaks for Bag at 18 px") == 3
    assert "maps of the layer layer3" in text
    assert page.stat().st_size < 6_000_000


@pytest.mark.slow
def test_labels_are_explained_too_and_masks_are_not(trained_scenes: Trained, images: Path) -> None:
    table = explain(trained_scenes("multilabel"), images, sizes=[32])
    assert len(table) == 3
    assert table["probability"].between(0, 1).all()
    with pytest.raises(UserError, match="masks say by themselves where a class is"):
        explain(trained_scenes("segmentation"), images)


def test_the_maps_are_those_of_the_plain_function(
    grey_run: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[np.ndarray, np.ndarray]] = []
    monkeypatch.setattr(GradCamPage, "add", lambda self, image, heat, **row: drawn.append((image, heat)))
    monkeypatch.setattr(GradCamPage, "write", lambda *arguments: None)
    explain(grey_run, images, images / "page.html", target="Coat", sizes=[28])
    loaded = load_run(grey_run, "last")
    mean, std = loaded.preprocessing.mean[0], loaded.preprocessing.std[0]
    for image, heat in drawn:
        values = (torch.from_numpy(image).float() / 255 - mean) / std
        found = grad_cam(loaded.model, values.permute(2, 0, 1)[None], loaded.preprocessing.classes.index("Coat"))
        assert found.maps.shape == (1, 7, 7)
        assert np.allclose(heat, over_images(found.maps, (28, 28))[0].numpy(), atol=1e-3)


def test_heat_dims_what_does_not_count() -> None:
    image = np.full((1, 2, 3), 200, np.uint8)
    cold, hot = heated(image, np.array([[0.0, 1.0]]))[0].astype(int)
    assert cold.max() < 150
    assert hot[0] > hot[2]


def test_what_cannot_be_explained_is_said(grey_run: Path, images: Path, tmp_path: Path) -> None:
    for given, said in (
        ({"target": "Bags"}, "the run has no class 'Bags': did you mean 'Bag'"),
        ({"layer": "layer9"}, "the network has no layer 'layer9'"),
        ({"overrides": {"evaluation.flip": True}}, "evaluation.flip says nothing to Grad-CAM"),
        ({"sizes": [0]}, "names no size of at least 1 pixel"),
        ({"page": tmp_path / "none/page.html"}, "none/page.html"),
    ):
        with pytest.raises(UserError, match=said):
            explain(grey_run, images, **given)  # type: ignore[arg-type]
    many = tmp_path / "many"
    many.mkdir()
    for number in range(IMAGES + 1):
        (many / f"{number}.png").write_bytes(b"")
    with pytest.raises(UserError, match="received 61 images to explain; expected at most 60"):
        explain(grey_run, many)
    file = tmp_path / "model.onnx"
    file.write_bytes(b"")
    with pytest.raises(UserError, match="an exported file, whose layers cannot be looked into"):
        explain(file, images)


def test_a_damaged_picture_is_left_out(grey_run: Path, images: Path) -> None:
    (images / "damaged.png").write_bytes(b"no picture")
    table = explain(grey_run, images, sizes=[14, 28])
    assert len(table) == 6
    assert [Path(path).name for path in table.attrs["left_out"]] == ["damaged.png"]
