"""A recipe for a folder of one's own: what its images say of sizes, model, batch and length.

    proposal = propose("~/pictures")
    print(proposal.text("pictures.toml"))      # a recipe that `anysize train pictures.toml` runs as it stands

The values are the usual ones, and not measured on the images; each stands in the file with its reason.
"""

import dataclasses
import os
import shlex
from pathlib import Path
from typing import Any

import numpy as np

from anysize.data.kinds.base import create_kind
from anysize.data.recognise import Found, Look, look_at, recognise
from anysize.experiment.planning import RunCost, plan
from anysize.machine import plainly
from anysize.recipe import Recipe, override
from anysize.recipes.values import to_toml
from anysize.registry import UserError, counted, in_a_line, printable
from anysize.reports.columns import show
from anysize.reports.run_files import check_writable, write_atomically
from anysize.sizes.mix import SizeMix
from anysize.tasks.base import list_tasks, task_class, task_for

_COLUMN = 44  # where the reason of a value stands, if the value leaves room
_PHOTOGRAPHS = 224  # pixels: the base of what ImageNet's weights were trained for
_SCENES = 512  # pixels: the largest base of images with masks
_PICTURES = 96  # pixels: below it networks for small images serve, for which no weights of photographs are made
_MANY = 50_000  # training images from which on a larger network pays
_STEPS_AN_EPOCH = 20  # a batch is chosen so small that an epoch has as many


@dataclasses.dataclass(frozen=True)
class Proposal:
    """A recipe for a folder: `settings` has each value that is proposed, in the order of the file, with its reason;
    `cost` is that of the run."""

    found: Found
    look: Look
    recipe: Recipe
    settings: dict[str, tuple[Any, str]]
    cost: RunCost

    @property
    def pretrained(self) -> bool:
        """Whether the first training downloads published weights, unless they are there."""
        return bool(self.recipe.model.weights)

    def counts(self) -> str:
        """How many images of which kind there are, in words."""
        train, validation = len(self.found.sources["train"]), len(self.found.sources["validation"])
        classes = counted(len(self.found.sources["train"].classes), "class")
        return f"{train:,} training and {counted(validation, 'validation image')} of {classes} ({self.found.name})"

    def sides(self) -> str:
        """How large the images are, in words."""
        low, middle, high = (int(self.look.shorter[i]) for i in (0, self.look.images // 2, -1))
        told = f"shorter side {low:,} to {high:,} px, median {middle:,}" if low != high else f"shorter side {low:,} px"
        notes = [told]
        if self.look.grey:
            notes.append("all grey" if self.look.grey == self.look.images else f"{self.look.grey} of them grey")
        if self.look.damaged:
            notes.append(f"{self.look.damaged} more cannot be read")
        return f"{counted(self.look.images, 'image')} looked at: {', '.join(notes)}"

    def spent(self) -> str:
        """What the run costs, in words."""
        memory = self.cost.memory / 2**20
        room = f"{memory / 1024:.1f} GiB" if memory >= 1024 else f"{memory:,.0f} MiB"
        return f"{counted(self.cost.steps, 'step')}, {show('flops', self.cost.flops)}, about {room} of memory"

    def text(self, file: str) -> str:
        """The recipe as a commented TOML file that is called `file`."""
        folder, splits = Path(self.recipe.data.root).name, self.found.splits
        lines = [
            f"# {printable(in_a_line(folder, 60))}: {self.counts()}.",
            f"#   anysize train {printable(in_a_line(shlex.quote(file)))}",
            "# Published: -",
            "# Measured: -",
            f"# Cost: {self.spent()}.",
            "",
            f"# {self.sides()}.",
            *([f"# {printable(in_a_line(splits[0].upper() + splits[1:], 400))}."] if splits else []),
            "# The values are usual ones for such images, and not measured on them: `anysize lr-find` looks for a",
            "# learning rate, and `anysize settings` lists all that can be set.",
        ]
        for section in dict.fromkeys(key.partition(".")[0] for key in self.settings):
            lines += ["", f"[{section}]"]
            for key, (value, why) in self.settings.items():
                of, _, name = key.partition(".")
                if of == section:
                    points = isinstance(value, list)
                    text = f"[{', '.join(map(to_toml, value))}]" if points else to_toml(value)
                    lines += [f"# {why[0].upper() + why[1:]}."] if points and why else []
                    lines.append(
                        f"{f'{name} = {text}':{_COLUMN}}  # {why}" if why and not points else f"{name} = {text}"
                    )
        return "\n".join(lines) + "\n"


@plainly("looking at the folder")
def propose(folder: str | os.PathLike[str], *, task: str = "", pretrained: bool = True) -> Proposal:
    """Look at a folder of images, and propose a recipe for it.

    All images are listed, and the headers of at most 200 read. Nothing is downloaded.

    Args:
        folder: in any of the forms of docs/guides/your-own-images.md, or a tar archive of class folders.
        task: classification, multilabel or segmentation; by default what the folder's targets are for.
        pretrained: start from published weights where the images are large enough for them to help.

    Raises:
        UserError: the folder has no known form, its images cannot be read, or all have one class.

    Example::

        proposal = propose("~/pictures")
        proposal.recipe.sizes.base, proposal.cost.flops
    """
    if task and task not in list_tasks():
        task_class(task)  # says which may be meant
    found = recognise(folder, task_class(task).targets if task else "")
    train = found.sources["train"]
    create_kind(found.targets).first_doubts(train).check()
    look = look_at(found)
    settings = _settings(found, look, pretrained=pretrained)
    recipe = override(Recipe(), {key: value for key, (value, _) in settings.items()})
    cost = plan(recipe, images=len(train), classes=len(train.classes))
    return Proposal(found, look, recipe, settings, cost)


def write_proposal(proposal: Proposal, path: Path, *, overwrite: bool = False) -> None:
    """Write the recipe to a TOML file.

    Raises:
        UserError: it is there already, and not to be overwritten, or cannot be written.
    """
    if path.suffix != ".toml":
        raise UserError(f"{path} is no name of a recipe file; expected one that ends in .toml")
    if not overwrite and os.path.lexists(path):
        raise UserError(f"{path} is there already; give another name with --out, or replace it with --force")
    check_writable(path)
    # A path that is no UTF-8 stands there with its own bytes, so that it is found again.
    write_atomically(path, proposal.text(str(path)).encode(errors="surrogateescape"))


def _settings(found: Found, look: Look, *, pretrained: bool) -> dict[str, tuple[Any, str]]:
    """Each setting that is proposed, in the order of the file, with its value and the reason."""
    task = task_for(found.targets)
    images = len(found.sources["train"])
    segments = found.targets == "masks"
    base, why_base = _base(found, look)
    small = base < _PICTURES
    pretrained = pretrained and not small
    batch = _batch(images, 16 if segments else 64)
    epochs, steps = _epochs(images, batch, pretrained=pretrained)
    mix, why_mix = _mix(base, images, batch)

    proposed: dict[str, tuple[Any, str]] = {
        "data.name": (found.name, "the form of the folder"),
        "data.root": (found.settings.root, ""),
    }
    if found.held_out:
        share = found.settings.val_split
        proposed["data.val_split"] = (share, "there are no validation images: a fixed part is held out")
    if found.targets == "class" and not small and look.grey < look.images:
        proposed["augment.color_jitter"] = (0.4, "photographs differ in brightness and colour")
    if small and found.targets == "class":
        proposed["augment.crop"] = (
            ("pad", "as is usual for images of one small size") if look.square == look.images else
            ("random-resized", "the images have several shapes")
        )  # fmt: skip
    if task != Recipe().task.name:
        proposed["task.name"] = (task, "what the targets are for")
    model, why_model = _model(found.targets, images, small=small)
    proposed["model.name"] = (model, why_model)
    if pretrained:
        proposed["model.weights"] = ("pretrained", "published weights, downloaded once")
    proposed["sizes.mix"] = (mix, why_mix)
    proposed["sizes.base"] = (base, why_base)
    proposed["training.epochs"] = (epochs, f"about {steps:,} steps")
    proposed["training.batch_size"] = (batch, f"{counted(max(1, images // batch), 'step')} an epoch at the base size")
    return {**proposed, **_optimizer(epochs, batch, found.targets, pretrained=pretrained)}


def _base(found: Found, look: Look) -> tuple[int, str]:
    """The base size: that of the images in multiples of 32 px, at most that of published weights."""
    padded = found.targets == "masks"
    sides, which, most = (look.longer, "longer", _SCENES) if padded else (look.shorter, "shorter", _PHOTOGRAPHS)
    middle = int(sides[len(sides) // 2])
    if look.shorter[0] == look.longer[-1] <= _PICTURES:
        return middle, "the size of the images"
    base = max(16, min(most, round(middle / 32) * 32))
    usual = "usual for photographs; " if base == most else ""
    return base, f"{usual}half of the images have a {which} side of {middle:,} px or more"


def _batch(images: int, most: int) -> int:
    """The largest power of two, from 8 to `most`, that leaves an epoch some steps."""
    batch = most
    while batch > 8 and images // batch < _STEPS_AN_EPOCH:
        batch //= 2
    return batch


def _epochs(images: int, batch: int, *, pretrained: bool) -> tuple[int, int]:
    """Epochs that give enough steps, and the steps: what starts from weights needs fewer."""
    wanted, fewest, most = (1_500, 10, 60) if pretrained else (6_000, 30, 120)
    an_epoch = max(1, images // batch)
    epochs = int(np.clip(-(-wanted // an_epoch), fewest, most))
    return epochs, epochs * an_epoch


def _mix(base: int, images: int, batch: int) -> tuple[str, str]:
    """The mixture whose budget leaves each size a whole batch."""
    for name, why in (
        ("B+", "many sizes, small ones in larger batches: the network serves all of them"),
        ("D+", "many sizes, small ones in more copies: larger batches would not fill"),
    ):
        if all(part.share * images >= part.batch_size for part in SizeMix.named(name, base).batches(batch)):
            return name, why
    return "fixed", "so few images fill no batch of each of several sizes"


def _model(targets: str, images: int, *, small: bool) -> tuple[str, str]:
    if targets == "masks":
        return "lraspp_mobilenet_v3_large", "small and fast; deeplabv3_resnet50 is more accurate and costs much more"
    if small:
        return "resnet20", "made for small images; resnet44 is larger"
    if images >= _MANY:
        return "resnet50", "so many images teach a larger network"
    return "resnet18", "small and fast; resnet50 is more accurate and costs twice as much"


def _optimizer(epochs: int, batch: int, targets: str, *, pretrained: bool) -> dict[str, tuple[Any, str]]:
    """The settings of the optimizer, with the learning rate for batches of 64 (16 of masks), scaled to this one."""
    written = 16 if targets == "masks" else 64
    sgd = pretrained or targets == "class"
    lr = (0.005 if pretrained else 0.05) if sgd else 0.003
    why = "low: large steps would undo what the weights have learnt" if pretrained else ""
    points = [{"epoch": 0, "value": lr, "ramp": "cosine"}, {"epoch": epochs, "value": 0.0}]
    return {
        "optimizer.name": ("sgd" if sgd else "adamw", ""),
        "optimizer.epochs": (epochs, "that the points below are written for: they stretch to training.epochs"),
        "optimizer.lr": (points, why),
        "optimizer.batch_size": (written, f"that lr is written for: with a batch of {batch} it is scaled"),
        "optimizer.batch_rule": ("linear" if sgd else "sqrt", ""),
        "optimizer.momentum": (0.9 if sgd else 0.0, ""),
        "optimizer.weight_decay": (1e-4 if sgd else 0.02, ""),
        "optimizer.warmup_epochs": (1.0 if epochs > 1 else 0.0, ""),
        **({"optimizer.head_lr": (10.0, "the head is new")} if pretrained else {}),
        **({"optimizer.layer_decay": (0.8, "the first stages change the least")} if pretrained else {}),
        **({"optimizer.gradient_smoothing": (0.9, "for mixed sizes (Mix & Match)")} if not pretrained and sgd else {}),
    }
