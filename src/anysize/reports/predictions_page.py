"""A page of predictions for images of which nothing is known: pictures, classes with probabilities, masks laid over."""

from pathlib import Path

import numpy as np
from markupsafe import Markup

from anysize.registry import counted
from anysize.reports.page import Template, cards, page, section, style
from anysize.reports.pictures import LEGEND, Pictures
from anysize.reports.run_files import write_atomically
from anysize.tasks.records import Color, Shown

SHOWN = 120
"""Images that a page has at most; they are spread evenly over all."""


_STYLE = style("""
.prediction ul.said { display: block; margin-top: 2px; font-size: 13px; }
.said li { display: flex; justify-content: space-between; gap: 10px; padding: 1px 6px; border-radius: 3px; }
.said li { background: linear-gradient(90deg, var(--line) var(--part), transparent var(--part)); }
.said .predicted { font-weight: 600; }
.said .other { color: var(--soft); }
.said span { overflow-wrap: anywhere; min-width: 0; }
.said span:last-child { white-space: nowrap; flex: none; }
.prediction img[src^="data:image/jpeg"] { image-rendering: auto; }
""")
_ENTRY = Template("""<section class="card prediction"><div class="pictures">
{%- for what, source in pictures %}<figure><img alt="{{ what }}" src="{{ source }}"></figure>{% endfor -%}
</div><h3 class="as-is" title="{{ file }}">{{ name }}</h3><ul class="said">
{%- for label, number, kind in lines %}<li class="{{ kind }}" style="--part: {{ number }}%">
{#- -#}<span>{{ label }}</span><span>{{ number }}%</span></li>{% endfor -%}
</ul></section>""")


class PredictionsPage:
    """Takes predictions one after the other, makes their pictures small at once, and writes them as one page."""

    def __init__(self) -> None:
        self._pictures, self._entries = Pictures(), list[Markup]()
        self._legend, self._numbers, self._panels = dict[str, Color](), set[str](), False

    def add(self, file: str, image: np.ndarray, shown: Shown) -> None:
        """An image, uint8 (H, W, 3), its file, and what the network says of it; nothing where the page is full."""
        said = ", ".join(label for label, _, kind in shown.lines if kind == "predicted") or "no label"
        drawn = [(f"the image, predicted: {said}", self._pictures.add(image))]
        drawn += [
            (f"{title} over the image: {said}", self._pictures.add(panel)) for title, panel in shown.panels.items()
        ]
        if all(source for _, source in drawn):
            lines = [(label, f"{100 * (number or 0):.1f}", kind) for label, number, kind in shown.lines]
            self._entries.append(_ENTRY(pictures=drawn, file=file, name=Path(file).name, lines=lines))
            self._legend |= shown.legend
            self._numbers.add(shown.number)
            self._panels |= bool(shown.panels)

    def write(self, path: Path, title: str, subtitle: str, images: int) -> None:
        """Write the page of what was added, of so many images in all."""
        note = f"{counted(len(self._entries), 'image')}."
        if len(self._entries) < images:
            note = f"{len(self._entries):,} of {counted(images, 'image')} are shown, spread evenly."
        note += "".join(f" Figures: {number}." for number in sorted(self._numbers) if number)
        about = LEGEND(note=note, legend=dict(sorted(self._legend.items())))
        shown = cards(*self._entries, narrow=not self._panels)
        write_atomically(path, page(title, subtitle, [section("Predictions", _STYLE, about, shown)]))
