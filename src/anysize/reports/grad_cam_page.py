"""A page of what a network looks at: image files at several sizes, with what speaks for a class as heat over them."""

from pathlib import Path

import numpy as np
from bokeh.palettes import Inferno256
from markupsafe import Markup

from anysize.registry import counted
from anysize.reports.page import Template, card, page, section
from anysize.reports.pictures import LEGEND, LIMIT, SEEN, STACK, STYLE, Captioned, Pictures
from anysize.reports.run_files import write_atomically

_COLORS = np.array([[int(color[i : i + 2], 16) for i in (1, 3, 5)] for color in Inferno256], dtype=np.uint8)
_OPACITY = 0.65  # where the heat is greatest
_HOW = (
    "Grad-CAM (Selvaraju et al., 2017, equations 1 and 2): the maps of the last layer before the pooling, each weighed "
    "by the mean gradient of the class's logit. Above stands the image as the network gets it, below what speaks for "
    "the class: bright more, dark nothing, each picture by its own largest value. The pictures are drawn alike large."
)


def heated(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """An image, uint8 (H, W, 3), under heat (H, W) from 0 to 1, in colours from black over red to yellow.

    >>> heated(np.full((1, 2, 3), 100, np.uint8), np.array([[0.0, 1.0]])).tolist()
    [[[64, 64, 65], [199, 200, 142]]]
    """
    colors = _COLORS[np.rint(255 * heat).astype(np.uint8)]
    opacity = _OPACITY * (0.55 + 0.45 * heat[..., None])  # what does not count is dimmed, and can still be seen
    return np.asarray(np.rint(opacity * colors + (1 - opacity) * image), dtype=np.uint8)


class GradCamPage:
    """Takes images at their sizes, one after the other, and writes them as one page, a card a file."""

    def __init__(self) -> None:
        self._pictures = Pictures(limit=10**10)  # which of them there is room for is known when all are there
        self._files: dict[str, tuple[str, list[Captioned]]] = {}

    def add(
        self, image: np.ndarray, heat: np.ndarray, file: str, size: int, target: str, probability: float, predicted: str
    ) -> None:
        """An image as the network gets it at a size, uint8 (S, S, C), and the heat of the class `target` over it."""
        colors = np.broadcast_to(image, (*image.shape[:2], 3))
        drawn = [
            (f"the image at {size} px", self._pictures.add(colors)),
            (f"what speaks for {target} at {size} px", self._pictures.add(heated(colors, heat))),
        ]
        nothing = "" if heat.any() else "; nothing speaks for it"
        said = f"{size} px: {100 * probability:.1f}%{nothing}"
        figure = Captioned(drawn, said, "" if predicted == target else f"predicted: {predicted or 'no label'}")
        self._files.setdefault(file, (target, []))[1].append(figure)

    def write(self, path: Path, title: str, subtitle: str) -> None:
        """Write the page, with as many files as there is room for."""
        cards: list[Markup] = []
        left = LIMIT
        for file, (target, figures) in self._files.items():
            left -= sum(len(source) for figure in figures for _, source in figure.drawn)
            if left >= 0:
                heading = _HEADING(file=file, name=Path(file).name, target=target)  # names stay as they are
                cards.append(card("", heading + SEEN(groups=[[figure] for figure in figures], large=True)))
        note = _HOW
        if len(cards) < len(self._files):
            note += f" {len(cards):,} of {counted(len(self._files), 'image')} are shown: the page is full."
        part = section("By image size", STYLE, LEGEND(note=note, legend={}), STACK(parts=cards))
        write_atomically(path, page(title, subtitle, [part]))


_HEADING = Template('<h3 class="as-is" title="{{ file }}">{{ name }}: {{ target }}</h3>')
