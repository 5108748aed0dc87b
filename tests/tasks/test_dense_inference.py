"""Dense inference: windows, scales and mirroring give what the network says of each pixel; images at their own size."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from anysize.data.loader import LoadedBatch
from anysize.registry import UserError
from anysize.tasks.dense_inference import match_size, predictions, segment, window_starts

WEIGHTS = torch.tensor([[1.0, 0.5, -0.3], [-0.7, 0.1, 0.9]])


def pointwise(images: Tensor) -> Tensor:
    """Two logits for each pixel from its own three values."""
    return torch.einsum("kc,nchw->nkhw", WEIGHTS, images)


def ordered(images: Tensor) -> Tensor:
    """Logits that depend on the left neighbour, so that a mirrored image has others."""
    return pointwise(images + 2 * F.pad(images, (1, 0, 0, 0))[..., :-1])


def random_images(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 3), st.integers(1, 13), st.integers(1, 13), st.integers(0, 15), st.sampled_from([0, 0.2, 1 / 3, 0.8])
)
def test_windows_of_a_pointwise_network_give_the_whole_image(
    count: int, height: int, width: int, window: int, overlap: float
) -> None:
    images = random_images(count, 3, height, width)
    torch.testing.assert_close(segment(pointwise, images, window=window, overlap=overlap), pointwise(images))


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 200), st.integers(1, 60), st.floats(0, 0.95))
def test_windows_cover_a_side_and_overlap_by_what_is_asked_for(length: int, window: int, overlap: float) -> None:
    starts = window_starts(length, window, overlap)
    assert starts[0] == 0
    assert starts[-1] == max(0, length - window)
    steps = np.diff(starts)
    assert (steps >= 1).all()
    assert (steps <= max(1, window * (1 - overlap)) + 1).all()  # starts are whole pixels
    assert (steps <= window).all()


def test_logits_are_averaged_where_windows_overlap() -> None:
    calls = iter([1.0, 4.0])

    def network(images: Tensor) -> Tensor:
        # windows of one image, six pixels wide, at 0 and 4: two calls, since one would see more pixels than the image
        return torch.full((len(images), 1, *images.shape[-2:]), next(calls))

    logits = segment(network, random_images(1, 3, 6, 10), window=6, overlap=1 / 3)
    assert logits[0, 0, 0].tolist() == [1.0] * 4 + [2.5] * 2 + [4.0] * 4


@pytest.mark.parametrize("how", [{"window": 5}, {"scales": (2.0,)}, {"scales": (0.5, 1.0, 3.0), "window": 4}])
def test_no_call_sees_more_pixels_than_the_batch_has(how: dict[str, object]) -> None:
    images = random_images(9, 3, 8, 8)
    seen = []

    def network(part: Tensor) -> Tensor:
        seen.append(part[:, 0].numel())
        return pointwise(part)

    segment(network, images, **how)  # type: ignore[arg-type]
    assert len(seen) > 1
    assert max(seen) <= images[:, 0].numel()


def test_passes_are_averaged_as_probabilities() -> None:
    images = random_images(2, 3, 9, 7)
    logits = segment(ordered, images, scales=(1.0, 2.0), flip=True)
    total = torch.zeros(2, 2, 9, 7, dtype=torch.float64)
    for scale in (1, 2):
        scaled = F.interpolate(images, (9 * scale, 7 * scale), mode="bilinear", align_corners=False)
        for mirrored in (False, True):
            out = ordered(scaled.flip(-1)).flip(-1) if mirrored else ordered(scaled)
            out = F.interpolate(out, (9, 7), mode="bilinear", align_corners=False) if scale != 1 else out
            total += out.double().softmax(1)
    torch.testing.assert_close(logits.double().softmax(1), total / 4, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(logits.softmax(1), ordered(images).softmax(1), atol=0.01)


def test_one_pass_gives_the_networks_own_logits() -> None:
    images = random_images(2, 3, 6, 5)
    assert torch.equal(segment(ordered, images), ordered(images))
    mirrored_input = random_images(1, 3, 6, 5)
    both = segment(ordered, mirrored_input, flip=True)
    torch.testing.assert_close(both.flip(-1), segment(ordered, mirrored_input.flip(-1), flip=True))


def test_impossible_classes_stay_finite() -> None:
    def sure(images: Tensor) -> Tensor:
        return torch.stack([images[:, 0] * 0, images[:, 0] * 0 - 1e4], dim=1)

    assert segment(sure, random_images(1, 3, 4, 4), flip=True).isfinite().all()


def test_a_map_smaller_than_its_input_is_brought_to_it() -> None:
    images = random_images(1, 3, 8, 6)
    cropped = segment(lambda x: (pointwise(x)[..., :-1, :-1], None), images)  # type: ignore[arg-type, return-value]
    assert cropped.shape == (1, 2, 8, 6)
    torch.testing.assert_close(cropped, match_size(pointwise(images)[..., :-1, :-1], (8, 6)))


def test_predictions_are_at_each_images_own_size() -> None:
    """Canvases of 8 x 8 hold images of other shapes; the stored images are larger."""
    smooth = torch.linspace(-1, 1, 12)
    stored = [torch.stack([smooth[:h, None] + smooth[None, :w]] * 3)[None] for h, w in ((12, 8), (6, 10))]
    boxes = np.array([[1, 2, 6, 4], [2, 0, 5, 8]])
    images = torch.full((2, 3, 8, 8), 9.0)
    for image, (top, left, height, width), row in zip(stored, boxes.tolist(), images, strict=True):
        row[:, top : top + height, left : left + width] = match_size(image, (height, width))[0]
    shapes = np.array([image.shape[-2:] for image in stored])
    targets = torch.zeros(2, 12, 10, dtype=torch.uint8)
    batch = LoadedBatch(images, targets, 8, 1, np.arange(2), 0, 0, boxes, shapes)
    outputs = list(predictions(pointwise, batch))
    assert [tuple(output.shape) for output in outputs] == [(2, 12, 8), (2, 6, 10)]
    for output, image in zip(outputs, stored, strict=True):
        torch.testing.assert_close(output[:, 2:-2, 2:-2], pointwise(image)[0, :, 2:-2, 2:-2], rtol=0, atol=0.1)


def test_a_network_sees_no_padding_of_a_batch() -> None:
    """Canvases 8 x 8, 8 x 12, 10 x 8 and 8 x 12 again, in images of 10 x 12, through a network that averages."""
    seen = []

    def averaging(images: Tensor) -> Tensor:
        seen.append(tuple(images.shape))
        return pointwise(images - images.mean((2, 3), keepdim=True))

    canvases = ((8, 8), (8, 12), (10, 8), (8, 12))
    boxes = np.array([[1, 0, 6, 8], [0, 0, 8, 12], [0, 2, 10, 4], [2, 0, 4, 12]])
    images = random_images(4, 3, 10, 12)
    batch = LoadedBatch(images, torch.zeros(4), 8, 1, np.arange(4), 0, 0, boxes, boxes[:, 2:])
    outputs = list(predictions(averaging, batch))
    assert sorted(seen) == [(1, 3, 8, 8), (1, 3, 10, 8), (2, 3, 8, 12)]
    for output, image, canvas, box in zip(outputs, images, canvases, boxes.tolist(), strict=True):
        alone = averaging(image[None, :, : canvas[0], : canvas[1]])[0]
        top, left, height, width = box
        torch.testing.assert_close(output, alone[:, top : top + height, left : left + width])


def test_windows_grow_with_the_image() -> None:
    seen = []

    def network(part: Tensor) -> Tensor:
        seen.append(tuple(part.shape[-2:]))
        return pointwise(part)

    for size, side in ((8, 4), (16, 8)):
        batch = LoadedBatch(random_images(1, 3, size, size), torch.zeros(1), size, 1, np.arange(1), 0, 0)
        (output,) = predictions(network, batch, window=4, base=8)
        assert output.shape == (2, size, size)
        assert set(seen) == {(side, side)}
        seen.clear()


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"scales": ()}, "evaluation.scales"),
        ({"scales": (1.0, 0.0)}, "evaluation.scales"),
        ({"window": -1}, "evaluation.window"),
        ({"overlap": 1.0}, "evaluation.overlap"),
    ],
)
def test_what_cannot_be_is_refused(how: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=says):
        segment(pointwise, random_images(1, 3, 4, 4), **how)  # type: ignore[arg-type]
