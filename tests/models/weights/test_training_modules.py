"""Networks inside training modules, and with wrapped parts, are found; what is left out is named."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from anysize.models.spec import create_model
from anysize.models.weights import fit_state_dict
from anysize.models.weights.contents import main_weights

OWN = create_model("resnet8", num_classes=3).state_dict()
SHARDED = "_fsdp_wrapped_module._checkpoint_wrapped_module"
OTHER = create_model("resnet20", num_classes=3).state_dict()


def put(prefix: str, tensors: dict[str, Tensor] = OWN) -> dict[str, Tensor]:
    return {f"{prefix}{name}": value for name, value in tensors.items()}


CASES: dict[str, tuple[Callable[[], dict[str, Tensor]], str]] = {
    "compiled part": (lambda: {n.replace("layer1.", "layer1._orig_mod."): v for n, v in OWN.items()}, "_orig_mod in"),
    "wrapped parts": (lambda: {n.replace("layer2.", "layer2.module."): v for n, v in OWN.items()}, "module in"),
    "sharded parts": (
        lambda: {n.replace("layer1.", f"layer1.{SHARDED}."): v for n, v in OWN.items()},
        "_fsdp_wrapped_module and _checkpoint_wrapped_module in",
    ),
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


@pytest.mark.parametrize(
    ("held", "said"),
    [
        ({"student": put("backbone."), "teacher": put("backbone."), "optimizer": {"state": {}}}, "out: teacher (56)"),
        ({"state": {"model": put("model."), "timestamp": {"epoch": 3}}, "rng": [1]}, "'model.' of every name is taken"),
    ],
    ids=["two networks", "deep in the file"],
)
def test_the_weights_are_found_in_a_file(held: dict[str, object], said: str) -> None:
    found = main_weights(held)
    assert found is not None
    model = create_model("resnet8", num_classes=3)
    assert said in " ".join(fit_state_dict(model, dict(found)).lines())
    assert all(torch.equal(value, OWN[name]) for name, value in model.state_dict().items())


def test_nothing_is_taken_for_weights_that_is_none() -> None:
    assert main_weights({"optimizer": {"state": {0: {"momentum": torch.ones(1)}}}, "epoch": 3}) is None
