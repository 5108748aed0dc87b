"""Published weights by name: which are taken, what they are fed with, and what is said without a network."""

import logging
import urllib.error
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from tiers import tiers

from anysize.models.expected import expected_preprocessing
from anysize.models.families import MODELS, PUBLISHED
from anysize.models.spec import create_model
from anysize.models.weights import fit_state_dict
from anysize.models.weights import published as module
from anysize.models.weights.published import pretrained_weights, published_preprocessing
from anysize.registry import UserError


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty download folder of torch's, and no network."""

    def unreachable(*arguments: Any, **named: Any) -> None:
        raise urllib.error.URLError("[Errno -2] Name or service not known")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    monkeypatch.setattr(torch.hub, "urlopen", unreachable)
    return tmp_path / "checkpoints"


def put(hub: Path, url: str, name: str) -> dict[str, torch.Tensor]:
    """Put weights where a download would have put them."""
    hub.mkdir(exist_ok=True)
    torch.manual_seed(1)
    tensors = torchvision.models.get_model(name).state_dict()
    torch.save(tensors, hub / url.rpartition("/")[2])
    return tensors


def test_without_a_network_the_file_and_its_place_are_named(hub: Path) -> None:
    with pytest.raises(UserError) as error:
        pretrained_weights("resnet50")
    said = str(error.value)
    assert "torchvision's resnet50 (IMAGENET1K_V2) could not be downloaded ([Errno -2] Name or service" in said
    assert f"put the file resnet50-11ad3fa6.pth into {hub}" in said
    assert "\n" not in said
    assert not list(hub.glob("*"))


def test_timms_weights_without_a_network(hub: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(UserError, match=r"timm:dla60x \(timm/dla60x\.in1k .*could not be had.*Name or service"):
        pretrained_weights("dla60x")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]  # no retries of a minute


def test_an_error_of_timms_downloader_is_told_in_one_sentence(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any, **named: Any) -> None:
        raise RuntimeError("cannot load") from OSError("disk quota exceeded\nat https://x.y/z")

    monkeypatch.setattr(module, "_probe_hub", lambda repository: None)
    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(UserError, match=r"could not be had \(disk quota exceeded\): get their file"):
        pretrained_weights("timm:resnet18")


def test_create_model_takes_what_is_downloaded_and_adapts_it(hub: Path) -> None:
    tensors = put(hub, "https://x/resnet18-f37072fd.pth", "resnet18")
    whole = create_model("resnet18", pretrained=True)
    assert torch.equal(whole.fc.weight, tensors["fc.weight"])
    torch.manual_seed(0)
    fresh = create_model("resnet18", 7, in_channels=1)
    torch.manual_seed(0)
    model = create_model("resnet18", 7, in_channels=1, pretrained="IMAGENET1K_V1")
    assert torch.equal(model.fc.weight, fresh.fc.weight)  # as the seed has it
    assert torch.equal(model.layer1[0].conv1.weight, tensors["layer1.0.conv1.weight"])
    torch.testing.assert_close(model.conv1.weight, tensors["conv1.weight"].sum(1, keepdim=True))


def test_norms_are_swapped_after_the_weights_are_loaded(hub: Path) -> None:
    tensors = put(hub, "https://x/resnet18-f37072fd.pth", "resnet18")
    tensors["bn1.weight"].fill_(0.75)
    torch.save(tensors, hub / "resnet18-f37072fd.pth")
    model = create_model("resnet18", pretrained=True, norm="group", norm_options={"num_groups": 8})
    assert model.bn1.weight.unique().tolist() == [0.75]


def test_a_network_of_ours_takes_its_counterparts_weights(hub: Path) -> None:
    url = torchvision.models.get_model_weights("resnext50_32x4d").DEFAULT.url
    tensors = put(hub, url, "resnext50_32x4d")
    model = create_model("resnext50", pretrained=True)
    halves = [model.layer1[0].conv2.weight, model.layer1[0].conv2_d.weight]
    assert torch.equal(torch.cat(halves), tensors["layer1.0.conv2.weight"])


def test_a_network_that_nobody_else_hosts_takes_its_authors_file(hub: Path) -> None:
    with pytest.raises(
        UserError, match=r"the authors' weights of resnext50_elastic could not .* resnext50_elastic\.pth"
    ) as e:
        pretrained_weights("resnext50_elastic")
    folder = Path(str(e.value).split(" into ")[1].split(",")[0])
    with torch.device("meta"):
        names = create_model("resnext50_elastic").state_dict()
    tensors = {f"module.{name}": torch.full(value.shape, 0.5) for name, value in names.items()}
    assert folder.is_dir()
    torch.save({"state_dict": tensors}, folder / "resnext50_elastic.pth.tar")
    found = pretrained_weights("resnext50_elastic")
    assert found.tensors.keys() == names.keys()
    assert found.source.startswith(
        "the authors' resnext50_elastic, http://ai2-vision.s3.amazonaws.com/elastic/imagenet"
    )
    assert found.preprocessing == expected_preprocessing("resnext50_elastic")


COUNTERPARTS = [name for name in MODELS if PUBLISHED[name].weights and not PUBLISHED[name].backbone]


@pytest.mark.parametrize("ours", tiers(COUNTERPARTS, ["mobilenet_v1"], ["dla60x", "densenet201", "se_resnext50"]))
def test_counterparts_are_the_same_networks(ours: str) -> None:
    name = PUBLISHED[ours].weights
    with torch.device("meta"):
        theirs = create_model(name) if ours != name else torchvision.models.densenet201()
        model = create_model(ours)
    report = fit_state_dict(model, theirs.state_dict())
    assert report.fits
    assert not any(name.startswith(("fc.", "classifier.")) for name in report.new)


@pytest.mark.parametrize("name", ["dla102x_elastic", "mnist", "resnet20"])
def test_networks_without_hosted_weights_say_what_to_do(name: str) -> None:
    with pytest.raises(UserError, match=f"no published weights of {name} .*`anysize import FILE --as {name}`"):
        create_model(name, pretrained=True)


@pytest.mark.parametrize(
    ("name", "which", "said"),
    [
        ("resnet50", "IMAGENET1K_V3", "resnet50 has no weights 'IMAGENET1K_V3': did you mean 'IMAGENET1K_V2'"),
        ("timm:resnet18", "IMAGENET1K_V1", r"expected 'pretrained' for timm:resnet18.*timm:resnet50\.a1_in1k"),
        ("timm:resnet5O", "pretrained", "unknown model 'timm:resnet5O': did you mean 'resnet50'"),
        ("timm:resnet38", "pretrained", "unknown model|timm has no weights"),
    ],
)
def test_unknown_weights_are_answered_with_the_nearest(name: str, which: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        pretrained_weights(name, which)


def test_each_of_torchvisions_weights_has_its_own_crop(hub: Path) -> None:
    for which, side in (("IMAGENET1K_V1", 256), ("IMAGENET1K_V2", 232)):
        put(hub, torchvision.models.get_model_weights("resnet50")[which].url, "resnet50")
        expected = pretrained_weights("resnet50", which).preprocessing
        assert expected is not None
        assert expected.resize_side(224) == side


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_input_from_minus_one_to_one_is_what_transform_input_would_make(name: str) -> None:
    """Our networks are built without transform_input, so that the input itself has to be what it would make of it."""
    published, ours = expected_preprocessing(name), published_preprocessing(name)
    assert ours is not None
    network = torchvision.models.get_model(name, transform_input=True, init_weights=False)
    pixels = torch.rand(2, 3, 4, 4)

    def feed(preprocessing: Any) -> torch.Tensor:
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (preprocessing.mean, preprocessing.std))
        return (pixels - mean) / std

    torch.testing.assert_close(feed(ours), network._transform_input(feed(published)))
    assert published_preprocessing(name, {"transform_input": True}) == published


def test_a_damaged_download_is_told(hub: Path) -> None:
    put(hub, "https://x/resnet18-f37072fd.pth", "resnet18")
    path = hub / "resnet18-f37072fd.pth"
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(UserError, match=r"resnet18-f37072fd\.pth is cut short or damaged"):
        create_model("resnet18", pretrained=True)
