"""The shape that images are evaluated in: square, one that is given, or each image's own."""

import dataclasses

from anysize.data.image_shapes import image_shapes
from anysize.data.loader import own_shape_batches, sequential_batches
from anysize.data.source import Source
from anysize.sizes.batch import Batch
from anysize.sizes.shapes import SQUARE, Aspect, Extent, Shapes


@dataclasses.dataclass(frozen=True)
class EvaluatedShape:
    """The shape of evaluated images.

    Args:
        own: each image as a whole, at its own aspect ratio, with about as many pixels as the square of a size has.
        aspect: else, that of all images.
        multiple: sides of images at their own shape are multiples of so many pixels.
    """

    own: bool = False
    aspect: Aspect = SQUARE
    multiple: int = 8

    @property
    def of_all(self) -> Shapes | None:
        """The one shape of all images, as a plan takes it; None: a square, or their own."""
        return Shapes((self.aspect.ratio,), self.aspect.multiple) if self.aspect != SQUARE else None

    def batches(self, source: Source, size: int, batch_size: int) -> list[Batch]:
        """All images of a source, each once: in order, or at their own shapes those of one after those of another."""
        if self.own:
            return own_shape_batches(image_shapes(source), size, batch_size, self.multiple)
        return sequential_batches(len(source), size, batch_size, self.aspect)

    def within(self, source: Source, batch: Batch) -> list[Batch]:
        """The samples of a batch of a source in their shapes: one batch, or at their own shapes one for each."""
        found = self.batches(source.subset(batch.indices), batch.size, len(batch.indices))
        return [dataclasses.replace(batch, indices=batch.indices[each.indices], aspect=each.aspect) for each in found]

    def extents(self, source: Source, size: int) -> dict[Extent, int]:
        """The shapes of the images of a source at `size`, and how many images have each."""
        counts: dict[Extent, int] = {}
        for batch in self.batches(source, size, len(source)):
            extent = batch.aspect.extent(batch.size)
            counts[extent] = counts.get(extent, 0) + len(batch.indices)
        return counts
