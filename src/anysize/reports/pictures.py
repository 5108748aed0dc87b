"""Pictures within an HTML page: as data, until the page has as many bytes of them as it may have, and side by side."""

import base64
import io
from typing import NamedTuple

import numpy as np
from PIL import Image

from anysize.reports.page import Template, style

LIMIT = 3_500_000
"""Bytes of the pictures of a page, as they stand in it: with bokeh's script it stays below 6 MB."""

_SHARP = 64  # pixels: of smaller pictures each is kept as it is


def data_uri(content: bytes) -> str:
    """What the `src` of an `img` takes in place of the name of a PNG or JPEG file."""
    kind = "png" if content.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


class Captioned(NamedTuple):
    """The pictures of a view, each with what it shows, what is said of it, and what it is called."""

    drawn: list[tuple[str, str]]
    said: str
    caption: str


class Pictures:
    """Makes pictures into what the `src` of an `img` takes, and counts their bytes.

    Args:
        limit: bytes of all pictures.
        side: pixels that a picture has at most; a larger one is scaled down.

    >>> Pictures().add(np.zeros((2, 2, 3), np.uint8))[:22]
    'data:image/png;base64,'
    """

    def __init__(self, limit: int = LIMIT, side: int = 320) -> None:
        self.left = limit
        self.side = side

    def add(self, pixels: np.ndarray) -> str:
        """A picture, uint8 (H, W, 3); empty: the page is full."""
        image = Image.fromarray(np.ascontiguousarray(pixels))
        image.thumbnail((self.side, self.side), Image.Resampling.BICUBIC)
        content, kind = io.BytesIO(), "png" if max(image.size) <= _SHARP else "jpeg"
        image.save(content, kind.upper(), **({"optimize": True} if kind == "png" else {"quality": 85}))
        source = data_uri(content.getvalue())
        if len(source) > self.left:
            self.left = 0  # a smaller one behind it would look like a choice
            return ""
        self.left -= len(source)
        return source


STYLE = style("""
.seen { display: flex; flex-wrap: wrap; gap: 12px; }
.seen > div { display: flex; flex-wrap: wrap; gap: 4px; max-width: 100%; }
.seen > .several { padding: 8px; border: 1px solid var(--line); border-radius: 6px; }
.seen figure { margin: 0; width: 128px; }
.seen img { width: 100%; display: block; border-radius: 4px; image-rendering: pixelated; }
.seen img[src^="data:image/jpeg"] { image-rendering: auto; }
.large figure { width: clamp(128px, 14vw, 190px); }
.seen img + img { margin-top: 4px; }
.seen figcaption { font-size: 12px; line-height: 1.35; overflow-wrap: anywhere; }
.seen figcaption span { display: block; color: var(--soft); }
.stack { margin-top: 12px; }
@media print { .seen figure { width: 96px; } .seen figure, .seen > div { break-inside: avoid; } }
""")
STACK = Template('<div class="stack">{% for part in parts %}{{ part }}{% endfor %}</div>')
SEEN = Template("""<div class="seen{{ " large" if large }}">
{%- for views in groups %}<div{% if views | length > 1 %} class="several"{% endif %}>
{%- for pictures, said, caption in views %}<figure>
{%- for what, source in pictures %}<img alt="{{ what }}" src="{{ source }}">{% endfor -%}
<figcaption>{{ said }}<span>{{ caption }}</span></figcaption></figure>{% endfor -%}
</div>{% endfor -%}
</div>""")
LEGEND = Template("""<p class="note">{{ note }}</p>
{%- if legend %}<p class="legend">
{%- for name, color in legend.items() %}<span><i style="background:rgb({{ color | join(',') }})"></i>{{ name }}</span>
{%- endfor %}</p>{% endif %}""")
