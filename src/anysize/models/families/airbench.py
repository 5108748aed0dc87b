"""The network of the records for 94% on CIFAR-10 in the fewest FLOPs, at any image size.

It is airbench94 (Keller Jordan, github.com/KellerJordan/airbench, arXiv 2404.00498): its settings, and code of our own.

Its first layer whitens: 2x2 convolutions without padding whose filters are the eigenvectors of the 2x2 patches of
training images, scaled to unit variance, and their negatives. They are not trained, and so cost no backward pass; a
bias behind them may be. The other convolutions start as the identity in their first channels. Norms have a bias and no
trained weight, and statistics that move by 0.4 a step, since a training has 200 steps.

The first filters come from images, which no model has when it is built: `start_from_images` is what a training calls
before its first step (`anysize.experiment.first_images`); in a loop of your own call `whiten`.
"""

import torch
from torch import Tensor, nn

from anysize.models.checks import whole_numbers
from anysize.models.families import CIFAR, register
from anysize.registry import UserError, did_you_mean

KERNEL = 2
EPS = 5e-4
"""Added to the variance of a direction before it is scaled to 1: images hardly have the smallest ones."""

ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "silu": nn.SiLU, "relu": nn.ReLU}


def whitening_filters(images: Tensor, kernel: int = KERNEL, eps: float = EPS) -> Tensor:
    """The filters that make the patches of images white: (2 F, C, kernel, kernel), F = C * kernel^2, as the images.

    With S = E[p p^T] over all patches p (F values; of normalised images, whose mean is 0) and its eigenvectors e_i with
    eigenvalues l_i, filter i is e_i / sqrt(l_i + eps), from the largest eigenvalue to the smallest, and F + i its
    negative. E[y y^T] of the first F outputs y is the identity, where eps is small. Computed in float64.

    Args:
        images: (N, C, H, W), normalised as in training.
        kernel: side of a patch.
        eps: added to each eigenvalue.

    >>> whitening_filters(torch.randn(4, 3, 8, 8)).shape
    torch.Size([24, 3, 2, 2])
    """
    channels, size = images.shape[1], images.shape[1] * kernel * kernel
    total, count = images.new_zeros(size, size, dtype=torch.float64), 0
    for part in torch.split(images, 256):
        patches = part.double().unfold(2, kernel, 1).unfold(3, kernel, 1)  # (N, C, H', W', kernel, kernel)
        flat = patches.permute(0, 2, 3, 1, 4, 5).reshape(-1, size)
        total += flat.T @ flat
        count += len(flat)
    values, vectors = torch.linalg.eigh(total / count)
    # An eigenvector's sign is the library's choice: the largest part is made positive, so that all machines agree.
    vectors = vectors * vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).sign()
    filters = (vectors / (values.clamp(min=0) + eps).sqrt()).T.flip(0).reshape(size, channels, kernel, kernel)
    return torch.cat([filters, -filters]).to(images.dtype)


class Group(nn.Module):
    """3x3 convolution, 2x2 max pooling, norm, activation, 3x3 convolution, norm, activation: (N, C, H, W) to half."""

    def __init__(self, inputs: int, outputs: int, activation: type[nn.Module]) -> None:
        super().__init__()
        self.conv1 = _identity_convolution(inputs, outputs)
        self.pool = nn.MaxPool2d(2)
        self.norm1 = _norm(outputs)
        self.act1 = activation()
        self.conv2 = _identity_convolution(outputs, outputs)
        self.norm2 = _norm(outputs)
        self.act2 = activation()

    def forward(self, x: Tensor) -> Tensor:
        x = self.act1(self.norm1(self.pool(self.conv1(x))))
        return self.act2(self.norm2(self.conv2(x)))  # type: ignore[no-any-return]


class Airbench(nn.Module):
    """Whitening, three groups, the maximum over what is left of the image, a linear layer.

    Args:
        num_classes, in_channels: of the logits and the images.
        widths: channels of the three groups.
        activation: "gelu", "silu" or "relu".
        whitening_bias: train a bias behind the whitening. Without one the backward pass ends at the first group, which
            saves 4% of a training's FLOPs.

    Images (N, in_channels, H, W) of at least 9 pixels to logits (N, num_classes), which are divided by the number of
    features.

    >>> Airbench()(torch.zeros(2, 3, 24, 24)).shape
    torch.Size([2, 10])
    """

    head_modules = ("head",)

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 3,
        *,
        widths: tuple[int, ...] = (64, 256, 256),
        activation: str = "gelu",
        whitening_bias: bool = True,
    ) -> None:
        super().__init__()
        widths = whole_numbers("widths", widths, (64, 256, 256))
        if activation not in ACTIVATIONS:
            raise UserError(f"unknown activation {activation!r}: {did_you_mean(activation, ACTIVATIONS)}")
        act, filters = ACTIVATIONS[activation], 2 * in_channels * KERNEL**2
        self.whiten = nn.Conv2d(in_channels, filters, KERNEL, bias=whitening_bias)
        self.whiten.weight.requires_grad = False
        if self.whiten.bias is not None:
            nn.init.zeros_(self.whiten.bias)
        self.act = act()
        inputs = (filters, *widths[:-1])
        self.groups = nn.Sequential(*(Group(*pair, act) for pair in zip(inputs, widths, strict=True)))
        self.pool = nn.AdaptiveMaxPool2d(1)  # of the 3x3 that 32 pixels leave, as of what other sizes do
        self.flatten = nn.Flatten()
        self.head = nn.Linear(widths[-1], num_classes, bias=False)
        self.head.weight.data.div_(self.head.weight.data.std())

    def forward(self, x: Tensor) -> Tensor:
        x = self.flatten(self.pool(self.groups(self.act(self.whiten(x)))))
        return self.head(x) / self.head.in_features  # type: ignore[no-any-return]

    @torch.no_grad()
    def start_from_images(self, images: Tensor) -> None:
        """Let the first layer whiten images like these (N, in_channels, H, W), normalised; in place."""
        self.whiten.weight.copy_(whitening_filters(images))


def whiten(model: nn.Module, images: Tensor) -> None:
    """Let the first layer of a network of this family whiten images like these, in place; see `whitening_filters`.

    Args:
        model: of this family.
        images: (N, C, H, W), some thousand training images, normalised as in training.

    Raises:
        UserError: a model of another family, or images that are not as its first layer takes them.

    >>> model, images = airbench94(), torch.randn(64, 3, 16, 16)
    >>> whiten(model, images)
    >>> outputs = model.whiten(images)[:, :12].permute(1, 0, 2, 3).flatten(1)
    >>> bool(((outputs @ outputs.T / outputs.shape[1] - torch.eye(12)).abs() < 0.01).all())
    True
    """
    if not isinstance(model, Airbench):
        raise UserError(f"whiten received a {type(model).__name__}; expected a network of the family airbench")
    if images.ndim != 4 or images.shape[1] != model.whiten.in_channels:
        raise UserError(
            f"whiten received images of shape {tuple(images.shape)}; expected (N, {model.whiten.in_channels}, H, W)"
        )
    model.start_from_images(images)


def _identity_convolution(inputs: int, outputs: int) -> nn.Conv2d:
    conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    nn.init.dirac_(conv.weight.data[: min(inputs, outputs)])
    return conv


def _norm(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels, eps=1e-12, momentum=0.4)
    norm.weight.requires_grad = False
    return norm


@register("airbench94", preprocessing=CIFAR)
def airbench94(
    num_classes: int = 10,
    in_channels: int = 3,
    widths: tuple[int, ...] = (64, 256, 256),
    activation: str = "gelu",
    whitening_bias: bool = True,
) -> Airbench:
    """Whitening and six convolutions: the network of the 94% records on CIFAR-10, 2.0 million parameters."""
    return Airbench(num_classes, in_channels, widths=widths, activation=activation, whitening_bias=whitening_bias)
