"""Networks inside training modules, and with wrapped parts, are found; what is left out is named."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from anysize.models.spec import create_model
from anysize.models.weights import fit_state_dict

OWN = create_model("resnet8", num_classes=3).state_dict()
OTHER = create_model("resnet20", num_classes=3).state_dict()


def put(prefix: str, tensors: dict[str, Tensor] = OWN) -> dict[str, Tensor]:
    return {f"{prefix}{name}": value for name, value in tensors.items()}


CASES: dict[str, tuple[Callable[[], dict[str, Tensor]], str]] = {
    "compiled part": (lambda: {n.replace("layer1.", "layer1._orig_mod."): v for n, v in OWN.items()}, "_orig_mod in"),
    "wrapped parts": (lambda: {n.replace("layer2.", "layer2.module."): v for n, v in OWN.items()}, "module in"),
    "criterion": (lambda: put("net.") | {"criterion.weight": torch.ones(3)}, "'net.'; left out: criterion (1)"),
    "criterion beside the root": (
        lambda: OWN | {"criterion.weight": torch.ones(3), "train_loss.value": torch.ones(1)},
        "left out beside the network: criterion, train_loss",
    ),
    "teacher first": (lambda: put("teacher.") | put("student."), "'student.'; left out: teacher (56)"),
    "larger network": (lambda: put("a.", OTHER) | put("b."), "'b.'; left out: a (128)"),
    "deep": (lambda: put("model._orig_mod.net.") | {"model.loss.w": torch.ones(1)}, "left out: model.loss (1)"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_network_is_found(case: str) -> None:
    make, said = CASES[case]
    model = create_model("resnet8", num_classes=3)
    report = fit_state_dict(model, make())
    assert said in " ".join(report.lines())
    assert all(torch.equal(value, OWN[name]) for name, value in model.state_dict().items())
