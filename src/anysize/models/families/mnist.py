"""The small convolutional network that Mix & Match's published code trains on MNIST: 131,978 parameters."""

from torch import Tensor, nn

from anysize.models.families import register
from anysize.preprocessing import Preprocessing


class MnistNet(nn.Module):
    """Four convolutions and a linear layer: images (N, in_channels, H, W) of 6 pixels or more to (N, num_classes).

    >>> import torch
    >>> MnistNet()(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 1, *, dropout: float = 0.5) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 32, 5, padding=1), nn.MaxPool2d(2), nn.ReLU(inplace=True), nn.BatchNorm2d(32),
            nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(inplace=True), nn.BatchNorm2d(64),
            nn.Conv2d(64, 64, 3, padding=1), nn.MaxPool2d(2), nn.ReLU(inplace=True), nn.BatchNorm2d(64),
            nn.Conv2d(64, 128, 3, padding=1), nn.ReLU(inplace=True), nn.BatchNorm2d(128),
        )  # fmt: skip
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(128, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.dropout(self.flatten(self.avgpool(self.features(x)))))  # type: ignore[no-any-return]


@register("mnist", preprocessing=Preprocessing(28, (0.5,), (0.5,), resize="stretch", crop_ratio=1.0))
def mnist(num_classes: int = 10, in_channels: int = 1, dropout: float = 0.5) -> MnistNet:
    """Four convolutions with batch norm, for 28-pixel grey images."""
    return MnistNet(num_classes, in_channels, dropout=dropout)
