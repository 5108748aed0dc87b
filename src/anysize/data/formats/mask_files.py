"""Masks in image files: palette or grey PNGs whose values are class numbers, 255 where there is none."""

import contextlib
import os
from collections.abc import Sequence

import numpy as np
from PIL import Image

from anysize.data.pictures import BadImage, opened, read_picture
from anysize.data.settings import MAX_PIXELS
from anysize.data.source import VOID

MASK_EXTENSIONS = (".png", ".bmp", ".tif", ".tiff")  # endings of the files that are taken for masks: none is lossy
_LOOKED_AT = 50  # files that tell what masks hold
_NARROW_GREY = {2: 85, 4: 17}  # by how much PIL multiplies the values of a grey PNG or TIFF with so many bits


class MaskFiles:
    """A mask file an image, read when it is asked for.

    Args:
        paths: one file an image.
        num_classes: a file may hold so many values, and 255.
        numbers: what the number of each class becomes, uint8 (num_classes,); by default itself.
        values: the value that stands for each class in a file, (num_classes,), 255 may be one; empty: its number.
        max_pixels: a mask of more is not decoded.
    """

    def __init__(
        self,
        paths: Sequence[str],
        num_classes: int,
        numbers: np.ndarray | None = None,
        values: Sequence[int] = (),
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        assert num_classes <= VOID
        self._paths = np.array([os.fsencode(path) for path in paths])  # no Python objects: see `FileSource`
        self.num_classes, self.numbers, self.values = num_classes, numbers, tuple(values)
        self.max_pixels = max_pixels
        own = list(values or range(num_classes))
        self._known = np.isin(np.arange(256), [*own, VOID])
        self._table = np.arange(256, dtype=np.uint8)
        self._table[own] = np.arange(num_classes) if numbers is None else numbers

    def __len__(self) -> int:
        return len(self._paths)

    def files(self) -> list[str]:
        return [os.fsdecode(bytes(path)) for path in self._paths]

    def read(self, index: int, shape: tuple[int, ...]) -> np.ndarray:
        """Class numbers, uint8 `shape`. Raises `BadImage` as `read_mask`, and for another size or an unknown class."""
        path = os.fsdecode(bytes(self._paths[index]))
        mask = read_mask(path, self.max_pixels)
        check_shape(mask.shape, shape, path)
        known = self._known[mask]
        if not known.all():
            odd = mask[~known].max()
            if self.values:
                listed = ", ".join(map(str, self.values))
                raise BadImage(f"its mask {path} has the value {odd}; expected those of data.mask_values, {listed}")
            raise BadImage(
                f"its mask {path} has the class number {odd}; expected 0 to {self.num_classes - 1}, or {VOID} where "
                "there is no class (data.mask_values says which values stand for the classes)"
            )
        return mask if self.numbers is None and not self.values else self._table[mask]

    def cause(self) -> str:
        """What values some of the files hold, and what may be wrong with them where nothing can be learnt of them."""
        found: set[int] = set()
        for path in self._paths[:: -(-len(self._paths) // _LOOKED_AT)]:
            with contextlib.suppress(BadImage):
                found |= {*np.unique(read_mask(os.fsdecode(bytes(path)), self.max_pixels)).tolist()}
        values = "value" if len(found) == 1 else "values"
        says = f"the files hold the {values} {', '.join(map(str, sorted(found)))}"
        if VOID not in found or VOID in self.values:
            return says
        if len(found) == 1:  # nothing to tell it from: no setting makes two classes of one value
            return f"{says}, and {VOID} is void, which is neither learnt nor counted"
        names = "" if len(found) == self.num_classes else "name as many classes in classes.txt and "
        return (
            f"{says}, and {VOID} is void, which is neither learnt nor counted: if it stands for a class, {names}set "
            f"--data.mask_values {','.join(map(str, sorted(found)))}"
        )

    def __getitem__(self, indices: np.ndarray) -> "MaskFiles":
        """The masks of the images `indices` (int64), in that order."""
        paths = [os.fsdecode(bytes(path)) for path in self._paths[indices]]
        return MaskFiles(paths, self.num_classes, self.numbers, self.values, self.max_pixels)


def check_shape(found: tuple[int, ...], shape: tuple[int, ...], path: str) -> None:
    """Raise `BadImage` where a mask in `path` has not the height and width of its image."""
    if found != tuple(shape):
        raise BadImage(
            f"its mask {path} has {found[0]} x {found[1]} pixels and the image {shape[0]} x {shape[1]} "
            "(height x width); expected the same"
        )


def read_mask(path: str, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The values of a palette, grey or two-coloured image file as they are stored: uint8 (H, W).

    Of a palette image these are the indices, of a grey one with 1, 2, 4, 8 or 16 bits a pixel the numbers in the file.
    Raises `BadImage` for a file that is damaged, in colours, lossy, of more than `max_pixels`, or has values above 255.
    """
    called = f"its mask {path}"
    data = read_picture(path, max_pixels, called)
    with opened(data, max_pixels, called) as image:
        if image.format in ("JPEG", "WEBP"):
            raise BadImage(f"{called} is a {image.format} file, which does not keep class numbers; use PNG")
        tags = getattr(image, "tag_v2", {})
        if image.mode in ("1", "L") and tags.get(262) == 0:  # WhiteIsZero: PIL turns the numbers round
            raise BadImage(f"{called} is a TIFF whose 0 is white; save it as PNG, or with black as 0")
        bits = _bits_of_grey(image, data)
        mode, values = image.mode, np.array(image)
    if values.ndim != 2 or values.dtype.kind not in "bui":
        raise BadImage(f"{called} has pixels of mode {mode}; expected one class number a pixel: a palette or grey PNG")
    if values.size and (values.max() > VOID or values.min() < 0):
        raise BadImage(f"{called} has the class number {values.max()}; expected at most {VOID}")
    if bits in _NARROW_GREY:
        values = values // _NARROW_GREY[bits]
    return values.astype(np.uint8, copy=False)


def _bits_of_grey(image: Image.Image, data: bytes) -> int:
    """Bits a pixel of a grey PNG or TIFF, 0 for other files. PIL spreads 2 and 4 bits over 0 to 255."""
    if image.mode == "L" and image.format == "TIFF":
        return int(image.tag_v2.get(258, (8,))[0])  # type: ignore[attr-defined]
    return data[24] if image.format == "PNG" and image.mode == "L" else 0  # of the header that every PNG begins with
