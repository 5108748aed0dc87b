"""What goes along with an exported network: how its images are prepared, its classes, and where it comes from."""

import dataclasses
import json
from typing import Any

from anysize import __version__
from anysize.models import trust
from anysize.preprocessing import Preprocessing
from anysize.registry import UserError

FORMAT = 1
KEY = "anysize"
"""The name of the entry in the metadata of an ONNX file that holds the description as JSON."""
MEMBER = "anysize.json"
"""The name of the extra file in a pt2 file that holds it."""


@dataclasses.dataclass(frozen=True)
class Description:
    """The description of an exported network, which travels in the file as JSON.

    Args:
        task: classification, multilabel or segmentation.
        preprocessing: how images become input; `classes` names the outputs.
        model: the `ModelSpec` as a dict, from which FLOPs are counted; empty: not known.
        recipe: the run's recipe as a dict of its sections, which names the data set; empty: there was no run.
        uint8_input: the file takes pixels uint8 (N, C, H, W), resized and cropped, and normalises them itself.
            Otherwise it takes them normalised, float32.
        quantization: how it was quantized; None: it is in float.
        unit: the step of the quantized output; None: the output is not quantized.

    >>> described = Description("classification", Preprocessing(224, classes=("cat", "dog")))
    >>> Description.from_json(described.to_json(), "model.onnx") == described
    True
    """

    task: str
    preprocessing: Preprocessing
    model: dict[str, Any] = dataclasses.field(default_factory=dict)
    recipe: dict[str, Any] = dataclasses.field(default_factory=dict)
    uint8_input: bool = False
    quantization: dict[str, Any] | None = None
    unit: float | None = None
    anysize: str = __version__
    format: int = FORMAT

    def to_json(self) -> str:
        """The description as JSON text."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str, path: object) -> "Description":
        """Read the text of `to_json`.

        Raises:
            UserError: it is damaged, or of a later version of the package; `path` names the file that it is from.
        """
        try:
            values = json.loads(text)
            found = values["format"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise UserError(f"{path}: its description is damaged; export the file anew") from None
        if found != FORMAT:
            raise UserError(
                f"{path} has a description of format {found!r}, and this version of anysize reads {FORMAT}; install "
                "the version that wrote it, or export the file anew"
            )
        try:
            preprocessing = Preprocessing.from_dict(values["preprocessing"])
            described = cls(**{**values, "preprocessing": preprocessing})
            assert isinstance(described.task, str)
            assert isinstance(described.model, dict)
            assert isinstance(described.recipe, dict)
        except (KeyError, TypeError, AttributeError, AssertionError, UserError):
            raise UserError(f"{path}: its description is damaged; export the file anew") from None
        for model in (described.model, described.recipe.get("model")):
            trust.found(model, path)
        return described
