"""Models by name: ours, torchvision's and the user's own; what is wrong is told; sizes are checked before training."""

import copy
import dataclasses
import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from anysize.models import families
from anysize.models.families import MODELS
from anysize.models.measure.input_size import check_size, smallest_size
from anysize.models.names import list_models, summary
from anysize.models.spec import Change, ModelSpec, create_model
from anysize.models.surgery.elasticize import ElasticResidualBlock
from anysize.models.surgery.quantization.fake import fix_weights, quantization_of
from anysize.norms.factory import NORMS
from anysize.norms.online.norm import OnlineNorm2d
from anysize.registry import UserError
from anysize.training.checkpoint.files import load_model

OWN = """
import dataclasses
from torch import nn

@dataclasses.dataclass
class Shape:
    width: "int" = 4

def net(num_classes, in_channels, width=4):
    return nn.Sequential(nn.Conv2d(in_channels, Shape(width).width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(width, num_classes))

def anything(**options):
    return net(**options)

def no_channels(num_classes):
    return nn.Linear(3, num_classes)

def no_module(num_classes, in_channels):
    return "net"

def own_norm(num_classes, in_channels, norm="batch"):
    norms = {"batch": nn.BatchNorm2d(4), "group": nn.GroupNorm(2, 4)}
    return nn.Sequential(nn.Conv2d(in_channels, 4, 3), norms[norm], nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(4, num_classes))
"""


@pytest.fixture
def own(tmp_path: Path) -> str:
    (tmp_path / "own.py").write_text(OWN)
    return str(tmp_path / "own.py")


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_family_describes_itself(name: str) -> None:
    assert len(summary(name)) > 10


def test_every_file_of_families_is_found() -> None:
    files = {path.stem for path in Path(families.__path__[0]).glob("*.py")} - {"__init__"}
    assert {f"{families.__name__}.{file}" for file in files} <= sys.modules.keys()


@pytest.mark.parametrize(
    ("name", "in_channels"),
    [("resnet18", 3), ("mobilenet_v2", 1), ("vgg11", 1), ("densenet121", 1), ("convnext_tiny", 1)],
)
def test_torchvision_models_fit_classes_and_channels(name: str, in_channels: int) -> None:
    with torch.device("meta"):
        assert create_model(name, 7, in_channels)(torch.empty(2, in_channels, 64, 64)).shape == (2, 7)


def test_torchvision_model_runs() -> None:
    model = create_model("mobilenet_v2", num_classes=3, in_channels=1, width_mult=0.35)
    assert model(torch.randn(2, 1, 33, 33)).isfinite().all()


def test_new_first_convolution_is_the_old_one_but_for_its_channels() -> None:
    torch.manual_seed(0)
    old = create_model("resnet18").get_submodule("conv1")
    new = create_model("resnet18", in_channels=5).get_submodule("conv1")
    assert isinstance(old, nn.Conv2d)
    assert isinstance(new, nn.Conv2d)
    assert new.weight.shape == (64, 5, 7, 7)
    assert (new.stride, new.padding, new.bias) == (old.stride, old.padding, old.bias)
    assert new.weight.std().item() == pytest.approx(old.weight.std().item(), rel=0.05)


@pytest.mark.parametrize(("name", "size"), [("googlenet", 64), ("inception_v3", 96)])
def test_networks_with_auxiliary_heads_return_logits_alone_unless_asked_for_more(name: str, size: int) -> None:
    with torch.device("meta"):
        model = create_model(name, num_classes=4).train()
        assert model(torch.empty(2, 3, size, size)).shape == (2, 4)
        asked = create_model(name, num_classes=4, aux_logits=True).train()
        outputs = asked(torch.empty(2, 3, 299, 299))
        assert len(outputs) == (3 if name == "googlenet" else 2)
        assert all(logits.shape == (2, 4) for logits in outputs)
        assert asked.eval()(torch.empty(2, 3, size, size)).shape == (2, 4)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_transform_input_is_for_three_colours(name: str) -> None:
    with torch.device("meta"):
        assert create_model(name, 4, transform_input=True).eval()(torch.empty(2, 3, 96, 96)).shape == (2, 4)
        with pytest.raises(UserError, match=r"transform_input .* the images have 1 channel;"):
            create_model(name, 4, in_channels=1, transform_input=True)


def test_own_model_from_a_file(own: str) -> None:
    model = create_model(f"{own}:net", num_classes=6, in_channels=2, width=8)
    assert model(torch.zeros(1, 2, 5, 5)).shape == (1, 6)
    assert create_model(f"{own}:anything", width=5)(torch.zeros(1, 3, 5, 5)).shape == (1, 10)


def test_own_model_from_a_module(own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(own).parent))
    assert create_model("own:net")(torch.zeros(1, 3, 5, 5)).shape == (1, 10)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("OWN:nett", {}, "has no function 'nett': did you mean 'net'?"),
        ("OWN:net", {"widht": 3}, "takes no option 'widht'; its options: width$"),
        ("OWN:no_channels", {}, r"takes no argument 'in_channels'; expected a function of \(num_classes, in_channels"),
        ("OWN:no_module", {}, "returned str; expected a torch.nn.Module"),
        ("nowhere/net.py:net", {}, "there is no file 'nowhere/net.py'"),
        ("no_such_module:net", {}, "there is no module 'no_such_module'"),
        ("resnet-20", {}, "unknown model 'resnet-20': did you mean 'resnet20'?"),
        ("mobilnet_v2", {}, "unknown model 'mobilnet_v2': did you mean 'mobilenet_v2'?"),
        (
            "resnet20",
            {"dropuot": 0.3},
            "takes no option 'dropuot'; its options: bottleneck, classifier_std, dropout, expansion, ",
        ),
        ("resnet20", {"depth": 30}, "takes no option 'depth'"),
        ("timm:resnet18", {"checkpoint_path": "/dev/zero"}, "'checkpoint_path' is not taken; weights are given with"),
        ("timm:resnet18", {"pretrained_cfg_overlay": {"url": "http://a"}}, "'pretrained_cfg_overlay' is not taken"),
        ("resnet18", {"dropout": 0.3}, "takes no option 'dropout'; its options: groups, norm_layer, replace_stride"),
        ("mobilenet_v3_small", {"droppath": 0.3}, "takes no option 'droppath'"),
        ("resnext50_32x4d", {"groups": 3}, "cannot be built with the options {'groups': 3}"),
        ("resnet18", {"num_classes": 0}, "model 'resnet18': num_classes is 0; expected at least 1"),
        ("resnet20", {"num_classes": -1}, "model 'resnet20': num_classes is -1; expected at least 1"),
        ("resnet20", {"in_channels": 0}, "model 'resnet20': in_channels is 0; expected at least 1"),
        ("resnet50", {"num_classes": "10"}, "model 'resnet50': num_classes is '10'; expected .* a whole number"),
        ("dla60x", {"num_classes": 2.5}, "model 'dla60x': num_classes is 2.5; expected .* a whole number"),
    ],
)
def test_what_is_wrong_is_told(own: str, name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        create_model(name.replace("OWN", own), **options)


def test_error_inside_a_users_file_is_shown_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.py").write_text("import no_such_package")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in (f"{tmp_path}/broken.py:net", "broken:net"):
        with pytest.raises(ModuleNotFoundError, match="no_such_package"):
            create_model(name)


def test_list_holds_both_kinds_once() -> None:
    names = list_models()
    assert len(names) == len(set(names))
    assert {"resnet20", "resnet50", "mnist", "vit_b_16"} <= set(names)
    assert summary("vit_b_16") == "torchvision's vit_b_16"


@pytest.mark.parametrize(("name", "smallest"), [("resnet50", 1), ("mnist", 6), ("alexnet", 63), ("vit_b_16", 224)])
def test_smallest_size(name: str, smallest: int) -> None:
    with torch.device("meta"):
        model = create_model(name)
    assert smallest_size(model) == smallest
    check_size(model, smallest)


def test_size_that_a_model_cannot_take() -> None:
    model = create_model("mnist", in_channels=1)
    model.train()
    with pytest.raises(
        UserError,
        match=r"MnistNet cannot take images of 5 pixels: .*Output size is too small; the smallest it takes is 6",
    ):
        check_size(model, 5, in_channels=1)
    with pytest.raises(UserError, match="takes no images of 3 channels, whatever their size"):
        smallest_size(model, in_channels=3)
    assert model.training


def test_model_that_the_meta_device_cannot_compute_is_asked_for_real() -> None:
    class ReadsValues(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x).mean((2, 3)) * (1 if x.max().item() > 0 else 2)

    check_size(ReadsValues(), 5)
    with pytest.raises(UserError, match=r"cannot take images of 4 pixels: .*; the smallest it takes is 5"):
        check_size(ReadsValues(), 4)


def test_timm_models_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    model = create_model("timm:resnet18", num_classes=7, in_channels=1)
    assert model(torch.zeros(2, 1, 64, 64)).shape == (2, 7)
    with pytest.raises(UserError, match="unknown model 'timm:resnet81': did you mean"):
        create_model("timm:resnet81")
    with pytest.raises(UserError, match="does not take the options"):
        create_model("timm:resnet18", no_such_option=1)
    with pytest.raises(UserError, match=r"options \{'output_stride': 7\}: AssertionError"):
        create_model("timm:resnet18", output_stride=7)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"pip install 'anysize\[zoo\]'"):
        create_model("timm:resnet18")


@pytest.mark.parametrize("norm", sorted(NORMS))
@pytest.mark.parametrize("name", ["resnet8", "resnet18", "timm:resnet18"])
def test_every_norm_in_models_of_every_kind(name: str, norm: str) -> None:
    options = {"image_size": 64} if norm == "layer_elementwise" else {}
    with torch.device("meta"):
        model = create_model(name, 5, 2, norm=norm, norm_options=options)
    kept = {module for module in model.modules() if isinstance(module, nn.BatchNorm2d)}
    assert bool(kept) == (norm == "batch")
    assert model(torch.empty(2, 2, 64, 64, device="meta")).shape == (2, 5)


def test_weights_start_the_same_whatever_the_norm() -> None:
    models = []
    for norm in ("", "online", "layer"):
        torch.manual_seed(0)
        models.append(create_model("resnet8", norm=norm))
    assert isinstance(models[1].bn1, OnlineNorm2d)
    for name, weight in models[0].named_parameters():
        for model in models[1:]:
            assert torch.equal(model.get_parameter(name), weight)


def test_norm_options_and_skip() -> None:
    options = {"num_groups": 4, "skip": "layer1.*"}
    model = create_model("resnet8", norm="group", norm_options=options)
    assert model.get_submodule("bn1").num_groups == 4
    assert isinstance(model.get_submodule("layer1.0.bn1"), nn.BatchNorm2d)
    assert options == {"num_groups": 4, "skip": "layer1.*"}


# What checkpoints said of their models before there were specs.
OLD = {
    "bare": {"name": "resnet8", "options": {"stem": 8}, "num_classes": 3, "in_channels": 1},
    "norm": {
        "name": "cifar_resnet",
        "options": {"depth": 8, "widths": [8, 8, 16]},
        "num_classes": 10,
        "in_channels": 3,
        "task": "classification",
        "elasticize": "",
        "norm": "group",
        "norm_options": {"num_groups": 4, "skip": "layer1.*"},
        "image_size": 28,
    },
    "elasticize": {
        "name": "resnet14",
        "options": {},
        "num_classes": 5,
        "in_channels": 3,
        "task": "multilabel",
        "elasticize": "layer1",
        "norm": "online",
        "norm_options": {"alpha_fwd": 0.99},
        "image_size": 32,
    },
    "segmentation": {
        "name": "resnext50_elastic",
        "options": {"layers": [1, 1, 1, 1], "widths": [8, 8, 8, 8], "cardinality": 4, "stem": 8, "aspp_width": 8},
        "num_classes": 4,
        "in_channels": 3,
        "task": "segmentation",
        "elasticize": "",
        "norm": "",
        "norm_options": {},
        "image_size": 48,
    },
    "layer_elementwise": {
        "name": "resnet8",
        "options": {"stem": 8},
        "num_classes": 3,
        "in_channels": 1,
        "task": "classification",
        "norm": "layer_elementwise",
        "norm_options": {},
        "image_size": 20,
    },
    "layer_elementwise for another size": {
        "name": "resnet8",
        "options": {"stem": 8},
        "num_classes": 3,
        "in_channels": 1,
        "task": "classification",
        "elasticize": "",
        "norm": "layer_elementwise",
        "norm_options": {"image_size": 16},
        "image_size": 20,
    },
}


@pytest.mark.parametrize("case", OLD)
def test_the_description_in_an_old_checkpoint_is_a_spec(case: str) -> None:
    described = json.loads(json.dumps(OLD[case]))
    spec = ModelSpec.from_dict(described)
    assert described == OLD[case]
    said = {**dataclasses.asdict(spec), **spec.settings}
    assert {key: said[key] for key in described} == described
    assert ModelSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    torch.manual_seed(0)
    model = spec.build()
    torch.manual_seed(0)
    options = {key: described.get(key, empty) for key, empty in (("elasticize", ""), ("norm", ""), ("task", ""))}
    norm_options = dict(described.get("norm_options", {}))
    if case == "layer_elementwise":
        norm_options["image_size"] = 20
    made = create_model(
        described["name"],
        described["num_classes"],
        described["in_channels"],
        norm_options=norm_options,
        **options,
        **described["options"],
    )
    assert [*model.state_dict()] == [*made.state_dict()]
    for one, other in zip(model.state_dict().values(), made.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    found = {type(module) for module in model.modules()}
    assert (OnlineNorm2d in found) == (ElasticResidualBlock in found) == (case == "elasticize")
    assert (nn.GroupNorm in found) == (case == "norm")
    if case.startswith("layer_elementwise"):
        assert model.bn1.weight.shape == ((8, 20, 20) if case == "layer_elementwise" else (8, 16, 16))


def test_changes_are_made_in_their_order() -> None:
    spec = ModelSpec("resnet14", 5).elasticize("layer1").swap_norms("group", {"num_groups": 4})
    assert [change.name for change in spec.changes] == ["elasticize", "norms"]
    seen: list[nn.Module] = []
    model = spec.build(first_weights=lambda built: seen.append(copy.deepcopy(built)))
    assert seen[0].state_dict().keys() == ModelSpec("resnet14", 5).build().state_dict().keys()
    assert isinstance(model.get_submodule("layer1.0.bn1_d"), nn.GroupNorm)
    later = dataclasses.replace(spec, changes=(*spec.changes, Change("quantize", {})))
    with pytest.raises(UserError, match="unknown change of a model 'quantize'"):
        later.build()


def test_a_quantized_model_is_built_again_from_its_spec_and_its_tensors(tmp_path: Path) -> None:
    spec = ModelSpec("resnet8", 5, image_size=16).quantized(bits=7, keep=["fc"])
    assert ModelSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    torch.manual_seed(0)
    images, model = torch.randn(2, 3, 16, 16), spec.build()
    for quantizer in quantization_of(model).values.values():
        quantizer.set_range(torch.tensor(-3.0), torch.tensor(3.0))
    fix_weights(model, images)
    again = spec.build()
    load_model(again, {name: tensor.clone() for name, tensor in model.state_dict().items()}, tmp_path)
    assert torch.equal(again(images), model(images))
    quantization = quantization_of(again)
    assert quantization.placement.kept == {"fc": "asked for"}
    assert max(int(weights.integers.abs().max()) for weights in quantization.weights.values()) == 63


def test_a_size_that_a_norm_was_not_built_for() -> None:
    model = ModelSpec.from_dict(OLD["layer_elementwise for another size"]).build()
    with pytest.raises(UserError, match=r"cannot take images of 20 pixels: this layer norm .* \(N, 8, 16, 16\)"):
        check_size(model, 20, in_channels=1)


def test_a_models_own_option_norm(own: str) -> None:
    assert isinstance(create_model(f"{own}:own_norm")[1], nn.BatchNorm2d)
    with pytest.raises(UserError, match="has an option 'norm' of its own, so that norm= may mean either"):
        create_model(f"{own}:own_norm", norm="group")
    spec = ModelSpec(f"{own}:own_norm", 3, in_channels=1, options={"norm": "group"})
    assert spec.build()[1].num_groups == 2
    assert spec.swap_norms("layer").build()[1].num_groups == 1


@pytest.mark.parametrize(
    ("name", "norm", "norm_options", "message"),
    [
        ("resnet8", "gruop", {}, "model 'resnet8' with norm 'gruop': unknown norm 'gruop': did you mean 'group'"),
        ("resnet8", "group", {"groups": 2}, "norm 'group' takes no option 'groups': did you mean 'num_groups'"),
        ("resnet8", "group", {"in_channels": 2}, "norm 'group' takes no option 'in_channels'"),
        ("resnet8", "", {"num_groups": 2}, "are given without a norm"),
        ("resnet8", "layer_elementwise", {}, "the size of the images must be known: give image_size"),
        ("alexnet", "online", {}, "model 'alexnet' with norm 'online': AlexNet has no norm to swap"),
        ("vit_b_16", "online", {}, r"\(LayerNorm\), one of 25 such norms, cannot be swapped"),
    ],
)
def test_norms_that_do_not_go(name: str, norm: str, norm_options: dict[str, object], message: str) -> None:
    with torch.device("meta"), pytest.raises(UserError, match=message):
        create_model(name, norm=norm, norm_options=norm_options)
