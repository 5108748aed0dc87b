"""Several views of an image in evaluation: mirrored, and moved by a pixel; their outputs are averaged.

Every figure of a task and each of its predictions is made of a forward pass that `with_views` widens, so that a view
costs one forward pass more, and nothing in training.
"""

from torch import Tensor
from torch.nn import functional as F

from anysize.registry import UserError
from anysize.tasks.base import Forward, main_logits


def with_views(forward: Forward, *, flip: bool = False, translate: int = 0) -> Forward:
    """A forward pass whose outputs are the mean over views of each image: images (N, C, H, W) to (N, K) in float32.

    Args:
        forward: a model in evaluation.
        flip: the image and its mirror image.
        translate: t pixels. Half of the weight is on the image as it is, a quarter each on the image moved by t up and
            to the left and by t down and to the right, with the border mirrored; with `flip` each of them in both
            ways: the six views of the records on CIFAR-10. 0: the image as it is alone.

    Raises:
        UserError: in the pass, images that are no larger than `translate`.

    >>> import torch
    >>> corner = lambda images: images[:, 0, 0, :1]
    >>> image = torch.arange(9.0).reshape(1, 1, 3, 3)
    >>> with_views(corner, flip=True)(image).item(), with_views(corner, translate=1)(image).item()
    (1.0, 2.0)
    """
    if not flip and not translate:
        return forward

    def mirrored(images: Tensor) -> Tensor:
        outputs = main_logits(forward(images)).float()
        return (outputs + main_logits(forward(images.flip(-1))).float()) / 2 if flip else outputs

    def moved(images: Tensor) -> Tensor:
        outputs = mirrored(images)
        if not translate:
            return outputs
        height, width = images.shape[-2:]
        if min(height, width) <= translate:
            raise UserError(
                f"evaluation.translate is {translate}, and the images have {height} x {width} pixels; expected fewer "
                "pixels to move them by"
            )
        padded = F.pad(images, [translate] * 4, mode="reflect")
        corners = (2 * translate, 0)  # moved up and to the left, then down and to the right
        for start in corners:
            outputs = outputs + mirrored(padded[..., start : start + height, start : start + width]) / 2
        return outputs / 2

    return moved
