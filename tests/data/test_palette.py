"""Masks as pictures: VOC's colours, palette PNGs, overlays."""

import io

import numpy as np
from PIL import Image

from anysize.data.palette import colorize, distinct_colors, legend, overlay, palette_image, voc_colors

# as PASCAL VOC 2012's development kit shows them, background to tvmonitor
VOC = [
    *[(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128), (0, 128, 128)],
    *[(128, 128, 128), (64, 0, 0), (192, 0, 0), (64, 128, 0), (192, 128, 0), (64, 0, 128), (192, 0, 128)],
    *[(64, 128, 128), (192, 128, 128), (0, 64, 0), (128, 64, 0), (0, 192, 0), (128, 192, 0), (0, 64, 128)],
]


def test_colours_are_voc_s() -> None:
    assert [tuple(color) for color in voc_colors()[:21].tolist()] == VOC
    assert voc_colors()[255].tolist() == [224, 224, 192]
    assert len({tuple(color) for color in voc_colors().tolist()}) == 256


def test_a_saved_mask_reads_back_as_class_numbers() -> None:
    mask = np.array([[0, 1, 2], [20, 255, 14]], dtype=np.uint8)
    file = io.BytesIO()
    palette_image(mask).save(file, "PNG")
    with Image.open(file) as picture:
        assert picture.mode == "P"
        np.testing.assert_array_equal(np.array(picture), mask)
        np.testing.assert_array_equal(np.array(picture.convert("RGB")), colorize(mask))


def test_a_mask_cut_out_of_another_is_a_picture_too() -> None:
    mask = np.arange(12, dtype=np.uint8).reshape(3, 4)
    np.testing.assert_array_equal(np.array(palette_image(mask[:, ::2])), mask[:, ::2])


def test_an_overlay_paints_objects_alone() -> None:
    image = np.random.default_rng(0).integers(0, 256, (2, 3, 3), dtype=np.uint8)
    mask = np.array([[0, 255, 1], [2, 0, 1]], dtype=np.uint8)
    painted = overlay(image, mask, opacity=0.25)
    np.testing.assert_array_equal(painted[mask == 0], image[mask == 0])
    np.testing.assert_array_equal(painted[0, 1], image[0, 1])
    expected = 0.75 * image[0, 2].astype(float) + 0.25 * np.array(VOC[1])
    np.testing.assert_allclose(painted[0, 2], expected, atol=0.5)
    np.testing.assert_array_equal(overlay(image, mask, opacity=1)[1, 0], VOC[2])


def test_the_legend_names_what_is_there() -> None:
    assert legend(["background", "cat", "dog"], [2, 255]) == {"dog": (0, 128, 0), "void": (224, 224, 192)}


def cie_lab(colors: np.ndarray) -> np.ndarray:
    """sRGB (N, 3) from 0 to 255 in CIELAB, by its definition: not how the colours are chosen."""
    scaled = colors / 255
    linear = np.where(scaled <= 0.04045, scaled / 12.92, ((scaled + 0.055) / 1.055) ** 2.4)
    xyz = linear @ np.array([[0.4124, 0.2126, 0.0193], [0.3576, 0.7152, 0.1192], [0.1805, 0.0722, 0.9505]])
    ratio = xyz / [0.9505, 1.0, 1.089]
    x, y, z = np.where(ratio > 216 / 24389, np.cbrt(ratio), (24389 / 27 * ratio + 16) / 116).T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


def test_classes_of_a_figure_are_told_apart_where_voc_s_colours_are_not() -> None:
    nearest = []
    for colors in (distinct_colors(), voc_colors()):
        seen = cie_lab(colors[[*range(21), 255]].astype(float))
        distances = np.linalg.norm(seen[:, None] - seen, axis=-1)
        nearest.append(distances[~np.eye(22, dtype=bool)].min())
    assert nearest[0] > 2 * nearest[1]
    assert len({tuple(color) for color in distinct_colors().tolist()}) == 256
    named = legend(["background", "cat"], [1, 255], distinct_colors())
    assert named == {"cat": tuple(distinct_colors()[1].tolist()), "void": (224, 224, 192)}
