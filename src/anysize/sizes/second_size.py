"""What a step computes of its images beside its own pass: at a second size, and by a teacher. Imports no torch.

>>> second = SecondSize(size=32, trains=False, teacher="larger")
>>> second.loaded(16), second.loaded(32), second.loaded(48)
(32, 32, 48)
"""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

from anysize.sizes.shapes import SQUARE, Aspect

if TYPE_CHECKING:  # settings import this file, and need no numpy
    from anysize.sizes.cost import Flops

TEACHERS = ("", "larger", "averaged", "averaged-larger")


@dataclasses.dataclass(frozen=True)
class SecondSize:
    """The passes of a step beside its own: a pure function of its size.

    The samples of a step below `size` pixels are computed at `size`, too, where something asks for it: with their
    gradient if `trains`, without it for the teacher "larger". The teachers "averaged" and "averaged-larger" are other
    weights, which see the samples of every step: at its own size, or at the larger one of it and `size`. Where images
    are not square, a step below `size` may have the same height and width as one of `size`: then it is none below.

    >>> from anysize.sizes.cost import Flops
    >>> flops = lambda size: Flops(forward=size**2, backward=2 * size**2)
    >>> [SecondSize(32, False, teacher).flops(16, flops) for teacher in TEACHERS]
    [0, 1024, 256, 1024]
    >>> SecondSize(32, True, "averaged-larger").flops(16, flops)
    4096
    """

    size: int
    trains: bool = False
    teacher: str = ""

    def __bool__(self) -> bool:
        return self.trains or bool(self.teacher)

    def loaded(self, size: int) -> int:
        """The size, in pixels, at which the images of a step of this size are loaded."""
        return max(size, self.size) if self.trains or self.teacher in ("larger", "averaged-larger") else size

    def below(self, size: int, aspect: Aspect = SQUARE) -> bool:
        """Whether images of this size are smaller than at the second one.

        >>> SecondSize(32).below(24), SecondSize(32).below(28, Aspect(4 / 3, 8)), SecondSize(32).below(48)
        (True, False, False)
        """
        return size < self.size and aspect.sides(size) != aspect.sides(self.size)

    def at_both(self, size: int, aspect: Aspect = SQUARE) -> bool:
        """Whether the samples of a step of this size are trained at the second one, too."""
        return self.trains and self.below(size, aspect)

    def flops(self, size: int, flops: "Callable[[int], Flops]", aspect: Aspect = SQUARE) -> int:
        """FLOPs of the passes beside its own for an image of a step of this size; `flops` are those of one pass."""
        beside = flops(self.size).total if self.at_both(size, aspect) else 0
        if self.teacher == "larger":  # the pass that trains teaches
            return beside or (flops(self.size).forward if self.below(size, aspect) else 0)
        if self.teacher:
            beside += flops(max(size, self.size) if self.teacher == "averaged-larger" else size).forward
        return beside
