"""The recipes of the package: each loads, says what it costs, and is the experiment that it claims to be."""

import dataclasses
import functools
import math
import re

import pytest
import torch
import torchvision
from PIL import Image

import anysize
from anysize.cli import build_app, parse_settings
from anysize.data.catalog import dataset_info
from anysize.experiment import build, sizing
from anysize.experiment.published import published_address
from anysize.models.weights.published import published_preprocessing
from anysize.preprocessing import Preprocessing
from anysize.recipe import differences, dump, load_recipe, override
from anysize.recipes import read_header, recipe_names
from anysize.reports.columns import show
from anysize.training.optimizer import regime_at
from anysize.training.regime import value_at

NAMES = recipe_names()
TWINS = {
    "any_size/cifar10": "any_size/cifar10-fixed",
    "any_size/fashion-mini": "any_size/fashion-mini-fixed",
    "mixsize/cifar10-resnet44": "mixsize/cifar10-resnet44-fixed",
    "mixsize/cifar10-resnet44-batch": "mixsize/cifar10-resnet44-fixed",
    "mixsize/cifar10-resnet20-short": "mixsize/cifar10-resnet20-short-fixed",
    "mixsize/imagenet-resnet50": "mixsize/imagenet-resnet50-fixed",
    "mixsize/imagenet-resnet50-fast": "mixsize/imagenet-resnet50-fixed",
}
INT8 = [name for name in NAMES if name.startswith("torchvision/quantized-")]
AFTER_TRAINING = [name for name in INT8 if not name.endswith("mobilenet_v2")]
METHOD = {
    "mixsize": {"sizes.mix", "sizes.weights", "sizes.budget", "optimizer.gradient_smoothing"},
    "any_size": {"sizes.mix", "sizes.points", "model.norm_by_size", "model.norm_by_size_affine"},
}

ONLINE_NORM = {
    "cifar10-resnet20": {"alpha_fwd": 1023 / 1024, "alpha_bkw": 127 / 128, "ecm": "ls"},
    "cifar100-resnet20": {"alpha_fwd": 511 / 512, "alpha_bkw": 15 / 16, "ecm": "ls"},
    "imagenet-resnet50": {"alpha_fwd": 0.999, "alpha_bkw": 0.99, "ecm": "ls"},
}
NORMS = ("online", "batch", "group", "layer", "instance", "none")

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
    assert words[:3] == ["anysize", "evaluate" if name in AFTER_TRAINING else "train", name]
    _, bound, _ = build_app().parse_args(words[1:], exit_on_error=False, print_error=False)
    override(load_recipe(name), parse_settings(bound.args[1:]))


QUICK = ("quick", "any_size/fashion", "mnist", "folder", "online_norm/cifar10-resnet20-on")
ONE_A_FAMILY = (
    "elastic/cifar10-resnet20-elastic",
    "elastic/coco-resnext50-elastic",
    "elastic/imagenet-resnext50-elastic",
    "elastic/voc-resnext50-elastic",
    "finetune",
    "mixsize/cifar10-resnet20-short",
    "mixsize/cifar10-resnet44",
    "mixsize/cifar10-wide-resnet28-10",
    "mixsize/imagenet-resnet50",
    "online_norm/cifar100-resnet20-online",
    "online_norm/imagenet-resnet50-online",
    "torchvision/inception_v3",
    "torchvision/resnet18",
    "torchvision/resnet50-600",
    "torchvision/vgg11_bn",
)


def by_cost(name):
    """Large networks on large data sets take seconds to be counted."""
    slow = pytest.mark.slow if name in ONE_A_FAMILY else pytest.mark.exhaustive
    return pytest.param(name, marks=() if name.startswith(QUICK) else slow)


@pytest.mark.parametrize("name", [by_cost(name) for name in NAMES])
def test_header_tells_the_cost_that_the_plan_works_out(name, cifar_folder):
    if name in AFTER_TRAINING:
        assert read_header(name).cost == "nothing is trained."
        return
    if load_recipe(name).data.name == "folder":
        cost = anysize.plan(name, {"data.root": str(cifar_folder)}, images=50_000)
    else:
        cost = planned(name)
    assert cost.steps > 0
    told = read_header(name).cost
    if "FLOPs" in told or name.startswith(("mixsize/", "online_norm/", "torchvision/")):
        assert show("flops", cost.flops) in told
    for pattern, value in ((r"([\d.]+) times", f"{cost.ratio:.3f}"), (r"([\d,]+) steps", f"{cost.steps:,}")):
        if found := re.search(pattern, told):
            assert found[1] == value


@pytest.mark.parametrize("mixed", TWINS)
def test_a_mixture_and_its_twin_at_one_size_differ_in_the_method_alone(mixed):
    fixed = load_recipe(TWINS[mixed])
    changed = differences(load_recipe(mixed), fixed)
    assert set(changed) <= METHOD[mixed.partition("/")[0]]
    assert fixed.sizes.mix == "fixed"
    assert fixed.optimizer.gradient_smoothing == 0


# Regimes of the published code of Mix & Match, and of Online Normalization: epoch of each change with the learning rate
# from then on.
CIFAR = {0: 0.1, 81: 0.01, 122: 0.001, 164: 0.0001}
WIDE = {0: 0.1, 60: 0.02, 120: 0.004, 160: 0.0008}
IMAGENET = {0: 0.1, 30: 0.01, 60: 0.001, 80: 0.0001}
ONLINE_CIFAR = {0: 0.1, 100: 0.01, 150: 0.001, 200: 0.0001}
ONLINE_IMAGENET = {**IMAGENET, 90: 0.00001}


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
    assert_regime(recipe, epochs, total_batch, regime)
    assert value_at(optimizer.weight_decay, 0) == 1e-4
    assert optimizer.decay_on == "weights"
    assert optimizer.gradient_smoothing == (0 if name.endswith("-fixed") else 0.9)


def assert_regime(recipe, epochs, total_batch, regime):
    """Sgd with a momentum of 0.9, and the learning rate of `regime`, at the start and at the end of each epoch."""
    optimizer = recipe.optimizer
    assert (recipe.training.epochs, recipe.training.batch_size) == (epochs, total_batch)
    expected = [regime[max(start for start in regime if start <= epoch)] for epoch in range(epochs)]
    assert [value_at(optimizer.lr, epoch) for epoch in range(epochs)] == pytest.approx(expected)
    assert [value_at(optimizer.lr, epoch + 0.999) for epoch in range(epochs)] == pytest.approx(expected)
    assert value_at(optimizer.name, 0) == "sgd"
    assert value_at(optimizer.momentum, 0) == 0.9
    assert not optimizer.nesterov
    assert optimizer.warmup_epochs == 0


@pytest.mark.parametrize(
    ("name", "pixels", "steps_an_epoch"),
    [
        # Share of the pixels of training at the base size, and steps an epoch, of the published regimes.
        ("mixsize/cifar10-resnet44", 1.286, 981),
        ("mixsize/cifar10-resnet44-batch", 0.968, 761),
        pytest.param("mixsize/cifar10-wide-resnet28-10", 1.286, 981, marks=pytest.mark.slow),
        # 5712 and 2317 with 4 devices, each of which rounds the batch of 320 px
        pytest.param("mixsize/imagenet-resnet50", 1.231, 5701, marks=pytest.mark.slow),
        pytest.param("mixsize/imagenet-resnet50-fast", 0.463, 2316, marks=pytest.mark.slow),
    ],
)
def test_published_mixtures_take_the_published_computation(name, pixels, steps_an_epoch):
    cost = planned(name)
    base = cost.cost.base
    assert cost.steps / cost.epochs == steps_an_epoch
    trained = sum(part.images * part.size**2 for part in cost.cost.sizes)
    assert trained / (base.images * base.size**2) == pytest.approx(pixels, abs=0.001)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    ("experiment", "epochs", "total_batch", "regime", "weight_decay", "decay_on"),
    [
        ("cifar10-resnet20", 250, 128, ONLINE_CIFAR, 2e-4, "all"),
        ("cifar100-resnet20", 250, 128, ONLINE_CIFAR, 2e-4, "all"),
        ("imagenet-resnet50", 100, 256, ONLINE_IMAGENET, 1e-4, "no-biases"),
    ],
)
def test_online_normalizations_experiments_differ_in_the_norm_alone(
    experiment, norm, epochs, total_batch, regime, weight_decay, decay_on
):
    recipe = load_recipe(f"online_norm/{experiment}-{norm}")
    assert set(differences(recipe, load_recipe(f"online_norm/{experiment}-online"))) <= {
        "model.norm",
        "model.norm_options",
    }
    assert recipe.model.norm == norm
    groups = {"num_groups": 32 if experiment == "imagenet-resnet50" else 8}
    assert recipe.model.norm_options == {"online": ONLINE_NORM[experiment], "group": groups}.get(norm, {})
    assert_regime(recipe, epochs, total_batch, regime)
    assert value_at(recipe.optimizer.weight_decay, 0) == weight_decay
    assert recipe.optimizer.decay_on == decay_on
    assert recipe.optimizer.gradient_smoothing == recipe.optimizer.clip_norm == 0
    assert recipe.sizes.mix == "fixed"
    assert recipe.training.drop_last


@pytest.mark.parametrize(
    ("name", "parameters", "without"),
    [
        ("cifar10-resnet20", 272_474, 270_906),
        ("cifar100-resnet20", 278_324, 276_756),
        pytest.param("imagenet-resnet50", 25_557_032, 25_503_912, marks=pytest.mark.slow),
    ],
)
def test_online_normalizations_networks_have_the_published_parameters(name, parameters, without):
    for norm in NORMS:
        recipe = load_recipe(f"online_norm/{name}-{norm}")
        info = dataset_info(recipe.data)
        classes = [str(i) for i in range(info.num_classes)]
        preprocessing = build.build_preprocessing(recipe.data, info, sizing.base_size(recipe), classes)
        with torch.device("meta"):
            model = build.build_model(recipe, preprocessing)
        assert sum(p.numel() for p in model.parameters()) == (without if norm == "none" else parameters)


ELASTIC = ("resnext50", "resnext101", "se-resnext50", "dla60x", "dla102x", "densenet201")


@pytest.mark.parametrize("network", ELASTIC)
def test_elastic_s_experiments_follow_the_published_regime(network):
    """120 epochs of 256 images, 32 to a norm; weight decay on everything; the twins differ in the network alone."""
    plain, elastic = (load_recipe(f"elastic/imagenet-{network}{suffix}") for suffix in ("", "-elastic"))
    assert differences(plain, elastic) == {"model.name": (plain.model.name, f"{plain.model.name}_elastic")}
    assert_regime(elastic, 120, 256, {0: 0.1, 30: 0.01, 60: 0.001, 90: 0.0001})
    assert elastic.training.batch_size // elastic.training.chunks == 32
    assert value_at(elastic.optimizer.weight_decay, 0) == 1e-4
    assert elastic.optimizer.decay_on == "all"
    assert elastic.optimizer.gradient_smoothing == elastic.task.label_smoothing == 0
    assert (elastic.sizes.mix, elastic.sizes.base, elastic.training.drop_last) == ("fixed", 224, True)


@pytest.mark.parametrize("network", ELASTIC)
def test_elastic_s_labels_of_coco_follow_the_published_regime(network):
    """36 epochs of 96 images, 24 to a norm, and the learning rate falls twice."""
    plain, elastic = (load_recipe(f"elastic/coco-{network}{suffix}") for suffix in ("", "-elastic"))
    assert differences(plain, elastic) == {"model.name": (plain.model.name, f"{plain.model.name}_elastic")}
    assert_regime(elastic, 36, 96, {0: 1e-3, 24: 1e-4, 30: 1e-5})
    assert elastic.training.batch_size // elastic.training.chunks == 24
    assert value_at(elastic.optimizer.weight_decay, 0) == 5e-4
    assert (elastic.optimizer.decay_on, elastic.optimizer.head_lr) == ("all", 1)
    assert (elastic.data.name, elastic.data.image_set, elastic.task.name) == ("coco", "2014", "multilabel")
    assert (elastic.sizes.mix, elastic.sizes.base, elastic.model.weights) == ("fixed", 224, "")
    assert "--model.weights" in read_header(f"elastic/coco-{network}").command


@pytest.mark.parametrize("network", ["resnext50", "resnext101", "dla60x"])
def test_elastic_s_segmentation_of_voc_follows_the_published_regime(network):
    """50 epochs of all 10,582 images, 16 a step: 662 steps, and DeepLab's poly learning rate."""
    plain, elastic = (load_recipe(f"elastic/voc-{network}{suffix}") for suffix in ("", "-elastic"))
    assert differences(plain, elastic) == {"model.name": (plain.model.name, f"{plain.model.name}_elastic")}
    optimizer = elastic.optimizer
    for step in (0, 1, 662, 33_099):
        assert value_at(optimizer.lr, step / 662) == pytest.approx(0.007 * (1 - step / 33_100) ** 0.9)
    assert (value_at(optimizer.name, 0), value_at(optimizer.momentum, 0), optimizer.nesterov) == ("sgd", 0.9, False)
    assert value_at(optimizer.weight_decay, 0) == (1e-4 if network.startswith("dla") else 5e-4)
    assert (optimizer.decay_on, optimizer.head_lr, optimizer.warmup_epochs) == ("all", 1, 0)
    assert (elastic.data.name, elastic.data.image_set, elastic.task.name) == ("voc", "train_aug", "segmentation")
    assert (elastic.augment.crop, elastic.augment.rescale, elastic.augment.flip) == ("rescale", (0.5, 2.0), 0.5)
    assert (elastic.sizes.mix, elastic.sizes.base, elastic.model.norm, elastic.model.options) == ("fixed", 513, "", {})
    assert (elastic.training.epochs, elastic.training.batch_size) == (50, 16)
    assert "33,100 steps" in read_header(f"elastic/voc-{network}").cost
    assert "--model.weights" in read_header(f"elastic/voc-{network}").command


def test_elastic_s_comparison_differs_in_the_branches_alone():
    plain, elastic = load_recipe("elastic/cifar10-resnet20"), load_recipe("elastic/cifar10-resnet20-elastic")
    assert differences(plain, elastic) == {"model.elasticize": ("", "auto")}


TORCHVISION = [name for name in NAMES if name.startswith("torchvision/") and name not in INT8]


@pytest.mark.parametrize("name", INT8)
def test_torchvision_s_int8_figures_are_those_of_its_weights(name):
    """So are address and input; torchvision's module for int8 is deprecated, and used in tests alone."""
    recipe, published, address = load_recipe(name), read_header(name).published, published_address(name)
    enum = f"{recipe.model.name}_quantizedweights".replace("_", "")
    quantization = torchvision.models.quantization
    (kind,) = (each for each in dir(quantization) if each.lower().replace("_", "") == enum)
    weights = getattr(quantization, kind)[address.weights]
    assert weights.url == address.url
    assert recipe.model.weights == weights.meta["unquantized"].name
    told = re.match(r"([\d.]+)% top-1 and ([\d.]+)% top-5 \(torchvision's int8 weights (\w+)", published).groups()
    figures = weights.meta["_metrics"]["ImageNet-1K"]
    assert (float(told[0]), float(told[1]), told[2]) == (figures["acc@1"], figures["acc@5"], weights.name)
    assert address.known == f"int8, {weights.name}: top-1 {figures['acc@1']}%, top-5 {figures['acc@5']}%"
    expected = published_preprocessing(recipe.model.name, file=address.file)
    size, side = weights.transforms().crop_size[0], weights.transforms().resize_size[0]
    assert (expected.image_size, expected.resize_side(size), sizing.base_size(recipe)) == (size, side, size)


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_s_figures_are_those_of_its_weights(name):
    """What the header quotes, and the input that the figure was measured with, are the installed torchvision's."""
    recipe, published = load_recipe(name), read_header(name).published
    top1, top5, which = re.match(
        r"([\d.]+)% top-1 and ([\d.]+)% top-5 \(torchvision's weights (\w+)", published
    ).groups()
    weights = torchvision.models.get_model_weights(recipe.model.name)[which]
    assert {"acc@1": float(top1), "acc@5": float(top5)} == weights.meta["_metrics"]["ImageNet-1K"]
    assert name.removeprefix("torchvision/").removesuffix("-600") == recipe.model.name
    transform = weights.transforms()
    info = dataset_info(recipe.data)
    preprocessing = build.build_preprocessing(recipe.data, info, sizing.base_size(recipe))
    ratio = recipe.data.crop_ratio or preprocessing.crop_ratio
    side = dataclasses.replace(preprocessing, crop_ratio=ratio).resize_side(sizing.base_size(recipe))
    assert ([sizing.base_size(recipe)], [side]) == (transform.crop_size, transform.resize_size)
    assert transform.interpolation.value == (recipe.data.interpolation or preprocessing.interpolation)


@pytest.mark.parametrize("name", [*TORCHVISION, "torchvision/quantized-mobilenet_v2"])
def test_torchvision_s_recipes_say_for_how_many_devices_they_are_written(name):
    recipe, told = load_recipe(name), read_header(name).written_for
    devices, images, total = re.fullmatch(r"(\d+) devices with (\d+) images each, ([\d,]+) in all\.", told).groups()
    assert recipe.training.batch_size == int(images)
    assert recipe.optimizer.batch_size == int(total.replace(",", "")) == int(devices) * int(images)
    assert recipe.optimizer.batch_rule == "linear"
    assert recipe.training.chunks == 1


def steps(lr, every, factor):
    return lambda epoch: lr * factor ** (epoch // every)


def cosine(lr, epochs, start, warmup=5):
    """The learning rate in each epoch of torch's LinearLR, then CosineAnnealingLR over the other epochs."""

    def at(epoch):
        if epoch < warmup:
            return lr * (start + (1 - start) * epoch / warmup)
        return lr / 2 * (1 + math.cos(math.pi * (epoch - warmup) / (epochs - warmup)))

    return at


@pytest.mark.parametrize(
    ("name", "epochs", "total", "weight_decay", "lr"),
    [
        ("vgg16", 90, 256, 1e-4, steps(0.01, 30, 0.1)),
        ("vgg16_bn", 90, 256, 1e-4, steps(0.1, 30, 0.1)),
        ("resnet50", 90, 256, 1e-4, steps(0.1, 30, 0.1)),
        ("resnext50_32x4d", 100, 256, 1e-4, steps(0.1, 30, 0.1)),
        ("resnext101_32x8d", 100, 1024, 1e-4, steps(0.4, 30, 0.1)),
        ("mobilenet_v2", 300, 256, 4e-5, steps(0.045, 1, 0.98)),
        ("mobilenet_v3_small", 600, 1024, 1e-5, steps(0.064, 2, 0.973)),
        ("regnet_x_400mf", 100, 1024, 5e-5, cosine(0.8, 100, 0.1)),
        ("regnet_y_400mf", 100, 1024, 5e-5, cosine(0.4, 100, 0.1)),
        ("regnet_x_16gf", 100, 512, 5e-5, cosine(0.4, 100, 0.1)),
        ("regnet_y_16gf", 100, 256, 5e-5, cosine(0.2, 100, 0.1)),
        ("shufflenet_v2_x2_0", 600, 1024, 2e-5, cosine(0.5, 600, 0.01)),
        ("efficientnet_v2_m", 600, 1024, 2e-5, cosine(0.5, 600, 0.01)),
        ("resnet50-600", 600, 1024, 2e-5, cosine(0.5, 600, 0.01)),
        ("inception_v3", 90, 256, 1e-4, steps(0.1, 30, 0.1)),
    ],
)
def test_torchvision_s_experiments_follow_the_published_regime(name, epochs, total, weight_decay, lr):
    """Values of the flags in references/classification/README.md; the learning rate is that of each whole epoch."""
    recipe = load_recipe(f"torchvision/{name}")
    optimizer = recipe.optimizer
    assert (recipe.training.epochs, optimizer.epochs, optimizer.batch_size) == (epochs, epochs, total)
    rates = [regime_at(optimizer, epoch, total)[1]["lr"] for epoch in range(epochs)]
    assert rates == pytest.approx([lr(epoch) for epoch in range(epochs)])
    assert value_at(optimizer.weight_decay, 0) == weight_decay
    assert (optimizer.decay_on, optimizer.update, value_at(optimizer.momentum, 0)) == ("all", "epoch", 0.9)
    assert (recipe.training.drop_last, recipe.evaluation.calibrate) == (False, False)
    long = weight_decay == 2e-5
    assert optimizer.norm_weight_decay == (0 if long else -1)
    assert (recipe.augment.mixup, recipe.augment.cutmix) == ((0.2, 1.0) if long else (0, 0))
    assert (recipe.task.label_smoothing, recipe.training.average_steps) == ((0.1, 32) if long else (0, 0))
    assert recipe.training.repeats == (4 if long else 1)
    expected = ("trivialaugment", 0.1) if long else ("imagenet", 0.2) if "v3_" in name else ("", 0)
    assert (recipe.augment.autoaugment, recipe.augment.random_erasing) == expected


@pytest.mark.parametrize(
    ("name", "trained_at", "used_at"),
    [
        ("resnet50", 224, 224),
        ("resnet50-600", 176, 224),
        ("resnet101-600", 224, 224),
        ("wide_resnet50_2-600", 176, 224),
        ("efficientnet_v2_s", 300, 384),
        ("efficientnet_v2_m", 384, 480),
        ("inception_v3", 299, 299),
    ],
)
def test_torchvision_s_experiments_train_at_one_size_and_use_another(name, trained_at, used_at):
    recipe = load_recipe(f"torchvision/{name}")
    plan = sizing.build_plan(recipe, 1000)
    assert plan.schedule.sizes(recipe.training.epochs) == {trained_at}
    assert sizing.base_size(recipe) == used_at


@pytest.mark.parametrize(("name", "auxiliary"), [("inception_v3", 1), ("googlenet", 2)])
def test_the_inceptions_train_with_their_auxiliary_outputs(name, auxiliary):
    recipe = load_recipe(f"torchvision/{name}")
    with torch.device("meta"):
        model = build.build_model(recipe, Preprocessing(299, classes=tuple(map(str, range(1000)))))
        outputs = model.train()(torch.zeros(2, 3, 299, 299))
    assert sum(output is not None for output in outputs) == 1 + auxiliary


def test_any_batch_of_the_batch_size_recipe_is_comparable():
    """The same images, and after as many images the same pull of what came before on learning rate and momentum."""
    costs, values = [], []
    for batch_size in (1, 2, 128):
        recipe = load_recipe("online_norm/fashion-mini-batch-size", {"training.batch_size": batch_size})
        cost = anysize.plan(recipe)
        costs.append(cost.images)
        at = regime_at(recipe.optimizer, 1.0, batch_size)[1]
        values.append((at["momentum"] ** (128 / batch_size), at["lr"] / (1 - at["momentum"]) / batch_size))
    assert costs == pytest.approx([50_000] * 3, rel=0.005)
    assert values[0] == pytest.approx(values[2])
    assert values[1] == pytest.approx(values[2])


def test_recipes_of_mix_and_match_take_all_of_a_calibration_as_the_paper_does() -> None:
    names = [name for name in recipe_names() if name.startswith("mixsize/")]
    assert len(names) > 5
    assert {load_recipe(name).evaluation.calibration_strength for name in names} == {"full"}
    assert load_recipe("quickstart").evaluation.calibration_strength == "chosen"
