"""Pictures within an HTML page, as data, until the page has as many bytes of them as it may have."""

import base64
import io

import numpy as np
from PIL import Image

LIMIT = 3_500_000
"""Bytes of the pictures of a page, as they stand in it: with bokeh's script it stays below 6 MB."""

_SHARP = 64  # pixels: of smaller pictures each is kept as it is


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
        data = base64.b64encode(content.getvalue()).decode()
        if len(data) > self.left:
            self.left = 0  # a smaller one behind it would look like a choice
            return ""
        self.left -= len(data)
        return f"data:image/{kind};base64,{data}"
