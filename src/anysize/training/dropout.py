"""Dropout that follows the image size and the epoch of a step.

Progressive learning (EfficientNetV2, arXiv 2104.00298, section 4.2) regularises small images less than large ones, and
so dropout grows with the size. A network says itself where it drops values and how many;
`training.dropout_by_size` and `training.dropout_by_epoch` are multiples of these probabilities.
"""

from collections.abc import Mapping

from torch import nn
from torchvision.ops import StochasticDepth

from anysize.registry import UserError
from anysize.sizes.multiples import Multiples
from anysize.training.settings import TrainingSettings

_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


def dropout_layers(model: nn.Module) -> list[tuple[nn.Module, str, float]]:
    """The modules of a model that drop values, each with the name of its probability and that probability above 0.

    They are torch's dropout, the dropout of its attention, torchvision's `StochasticDepth`, and what has a `drop_prob`
    as timm's `DropPath` has.

    >>> dropout_layers(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.2), nn.Dropout(0.0)))
    [(Dropout(p=0.2, inplace=False), 'p', 0.2)]
    """
    found = []
    for module in model.modules():
        name = "p" if isinstance(module, (*_DROPOUTS, StochasticDepth)) else "drop_prob"
        name = "dropout" if isinstance(module, nn.MultiheadAttention) else name
        probability = getattr(module, name, None)
        if isinstance(probability, float) and probability > 0:
            found.append((module, name, probability))
    return found


class ScheduledDropout:
    """The dropout of a model, multiplied as tables by size and by epoch say.

    Args:
        model: its layers are changed in place.
        by_size: pixels = multiple of each layer's probability, with straight lines between the sizes.
        by_epoch: pass over the images, from 0, = a further multiple.

    Raises:
        UserError: malformed tables, a model that drops nothing, or a probability above 1.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.2))
    >>> dropout = ScheduledDropout(model, {"14": 0.0, "28": 1.0}, {})
    >>> dropout.apply(21, epoch=0)
    >>> model
    Sequential(
      (0): Linear(in_features=2, out_features=2, bias=True)
      (1): Dropout(p=0.1, inplace=False)
    )
    """

    def __init__(self, model: nn.Module, by_size: Mapping[str, float], by_epoch: Mapping[str, float]) -> None:
        self._multiples = Multiples("training.dropout", by_size, by_epoch)
        self._layers = dropout_layers(model)
        if not self._layers:
            raise UserError(
                f"{self._multiples.given}: multiplies the dropout of the model, which has none; give it some, such as "
                "--model.options.dropout 0.2, or leave the table out"
            )
        self._multiples.check_largest("dropout", max(probability for *_, probability in self._layers))

    def apply(self, size: int, epoch: int) -> None:
        """Let the layers drop what they drop in steps of `size` pixels in `epoch`: a pure function of both."""
        multiple = self._multiples.at(size, epoch)
        for module, name, probability in self._layers:
            setattr(module, name, probability * multiple)


def scheduled_dropout(model: nn.Module, training: TrainingSettings) -> ScheduledDropout | None:
    """What the settings of a training make of the dropout of its model; None: it stays as it is.

    Raises:
        UserError: as `ScheduledDropout`; dropout by epoch in a compiled model.
    """
    if training.compile and training.dropout_by_epoch:
        raise UserError(
            "training.dropout_by_epoch changes the model in each epoch, for which training.compile would compile it "
            "anew; leave one of them out, or give training.dropout_by_size"
        )
    if not training.dropout_by_size and not training.dropout_by_epoch:
        return None
    return ScheduledDropout(model, training.dropout_by_size, training.dropout_by_epoch)
