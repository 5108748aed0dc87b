"""What an exported file takes and gives, as a look at it tells."""

import dataclasses
from pathlib import Path

from anysize.export.description import Description


@dataclasses.dataclass(frozen=True)
class Contents:
    """What a file takes and gives, and what it says of itself.

    Args:
        path: the file.
        input: name of the images.
        dtype: "float32" or "uint8".
        channels: of the images.
        sides: height and width; None: any.
        output: name of the logits.
        classes: None: the file does not tell.
        maps: whether there are logits for each pixel.
        largest_weight: the largest of its weights that are whole numbers of 8 bits, without its sign; 0: it has none.
        description: None: it was not written by this package.
    """

    path: Path
    input: str
    dtype: str
    channels: int | None
    sides: tuple[int | None, int | None]
    output: str
    classes: int | None
    maps: bool
    largest_weight: int
    description: Description | None
