"""The recipes of the package: each loads, says what it costs, and is the experiment that it claims to be."""

import functools
import re

import pytest
from PIL import Image

import anysize
from anysize.cli import build_app, parse_settings
from anysize.recipe import differences, dump, load_recipe, override, read_header, recipe_names
from anysize.training.regime import value_at

NAMES = recipe_names()
TWINS = {
    "mixsize/cifar10-resnet44": "mixsize/cifar10-resnet44-fixed",
    "mixsize/cifar10-resnet44-batch": "mixsize/cifar10-resnet44-fixed",
    "mixsize/cifar10-resnet20-short": "mixsize/cifar10-resnet20-short-fixed",
    "mixsize/imagenet-resnet50": "mixsize/imagenet-resnet50-fixed",
    "mixsize/imagenet-resnet50-fast": "mixsize/imagenet-resnet50-fixed",
}
METHOD = {"sizes.mix", "sizes.weights", "sizes.budget", "optimizer.gradient_smoothing"}

planned = functools.cache(anysize.plan)


@pytest.fixture(scope="module")
def cifar_folder(tmp_path_factory):
    """As little as makes CIFAR-10 as an image folder: an image of 32 px in each of ten classes."""
    root = tmp_path_factory.mktemp("cifar")
    for split in ("train", "test"):
        for label in range(10):
            (root / split / f"class{label}").mkdir(parents=True)
            Image.new("RGB", (32, 32)).save(root / split / f"class{label}" / "0.png")
    return root


@pytest.mark.parametrize("name", NAMES)
def test_recipe_survives_being_saved(name, tmp_path):
    recipe = load_recipe(name)
    (tmp_path / "again.toml").write_text(dump(recipe))
    assert load_recipe(str(tmp_path / "again.toml")) == recipe


@pytest.mark.parametrize("name", NAMES)
def test_header_is_whole_and_its_command_trains_this_recipe(name):
    header = read_header(name)
    assert header.title.endswith(".")
    assert len(header.title) <= 100
    assert header.published
    assert header.measured
    assert header.cost
    words = header.command.split()
    assert words[:3] == ["anysize", "train", name]
    _, bound, _ = build_app().parse_args(words[1:], exit_on_error=False, print_error=False)
    override(load_recipe(name), parse_settings(bound.args[1:]))


@pytest.mark.parametrize("name", NAMES)
def test_header_tells_the_cost_that_the_plan_works_out(name, cifar_folder):
    if load_recipe(name).data.name == "folder":
        cost = anysize.plan(name, {"data.root": str(cifar_folder)}, images=50_000)
    else:
        cost = planned(name)
    assert cost.steps > 0
    told = read_header(name).cost
    if "PFLOPs" in told or name.startswith("mixsize/"):
        digits = re.search(r"([\d.,]+) PFLOPs", told)[1].replace(",", "")
        assert f"{cost.flops / 1e15:.{len(digits.partition('.')[2])}f}" == digits
    for pattern, value in ((r"([\d.]+) times", f"{cost.ratio:.3f}"), (r"([\d,]+) steps", f"{cost.steps:,}")):
        if found := re.search(pattern, told):
            assert found[1] == value


@pytest.mark.parametrize("mixed", TWINS)
def test_a_mixture_and_its_twin_at_one_size_differ_in_the_method_alone(mixed):
    fixed = load_recipe(TWINS[mixed])
    changed = differences(load_recipe(mixed), fixed)
    assert set(changed) <= METHOD
    assert fixed.sizes.mix == "fixed"
    assert fixed.optimizer.gradient_smoothing == 0


# Regimes of the published code of Mix & Match: epoch of each change with the learning rate from then on.
CIFAR = {0: 0.1, 81: 0.01, 122: 0.001, 164: 0.0001}
WIDE = {0: 0.1, 60: 0.02, 120: 0.004, 160: 0.0008}
IMAGENET = {0: 0.1, 30: 0.01, 60: 0.001, 80: 0.0001}


@pytest.mark.parametrize(
    ("name", "epochs", "total_batch", "regime"),
    [
        ("mixsize/cifar10-resnet44", 200, 64, CIFAR),
        ("mixsize/cifar10-resnet44-batch", 200, 64, CIFAR),
        ("mixsize/cifar10-resnet44-fixed", 200, 64, CIFAR),
        ("mixsize/cifar100-resnet44", 200, 64, CIFAR),
        ("mixsize/cifar10-wide-resnet28-10", 200, 64, WIDE),
        ("mixsize/imagenet-resnet50", 90, 256, IMAGENET),
        ("mixsize/imagenet-resnet50-fast", 90, 256, IMAGENET),
        ("mixsize/imagenet-resnet50-fixed", 90, 256, IMAGENET),
    ],
)
def test_published_experiments_follow_the_published_regime(name, epochs, total_batch, regime):
    recipe = load_recipe(name)
    optimizer = recipe.optimizer
    assert (recipe.training.epochs, recipe.training.batch_size) == (epochs, total_batch)
    expected = [regime[max(start for start in regime if start <= epoch)] for epoch in range(epochs)]
    assert [value_at(optimizer.lr, epoch) for epoch in range(epochs)] == pytest.approx(expected)
    assert [value_at(optimizer.lr, epoch + 0.999) for epoch in range(epochs)] == pytest.approx(expected)
    assert value_at(optimizer.name, 0) == "sgd"
    assert value_at(optimizer.momentum, 0) == 0.9
    assert value_at(optimizer.weight_decay, 0) == 1e-4
    assert optimizer.decay_on == "weights"
    assert optimizer.warmup_epochs == 0
    assert optimizer.gradient_smoothing == (0 if name.endswith("-fixed") else 0.9)


@pytest.mark.parametrize(
    ("name", "pixels", "steps_an_epoch"),
    [
        # Share of the pixels of training at the base size, and steps an epoch, of the published regimes.
        ("mixsize/cifar10-resnet44", 1.286, 981),
        ("mixsize/cifar10-resnet44-batch", 0.968, 761),
        ("mixsize/cifar10-wide-resnet28-10", 1.286, 981),
        ("mixsize/imagenet-resnet50", 1.231, 5701),  # 5712 with 4 devices, each of which rounds the batch of 320 px
        ("mixsize/imagenet-resnet50-fast", 0.463, 2316),  # 2317 with 4 devices
    ],
)
def test_published_mixtures_take_the_published_computation(name, pixels, steps_an_epoch):
    cost = planned(name)
    base = cost.cost.base
    assert cost.steps / cost.epochs == steps_an_epoch
    trained = sum(part.images * part.size**2 for part in cost.cost.sizes)
    assert trained / (base.images * base.size**2) == pytest.approx(pixels, abs=0.001)
