"""From the names of a checkpoint to those of a model: pure functions of names and shapes, each doing one thing.

`map_names` applies them in turn. A step changes something only where the model has names that the file lacks and the
file has what they are made of, so that a file that fits already comes out as it went in. Sources: the published
networks of ELASTIC (arXiv 1812.05262), torchvision's and timm's, and torchvision's before 0.3 (DenseNet).
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

Tensors = Mapping[str, Tensor]
Step = Callable[[dict[str, Tensor], Tensors], tuple[dict[str, Tensor], str]]

_BRANCH = re.compile(r"^(.*\.)?(conv[123]|bn[12])_d\.(\w+)$")
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")
_SQUEEZE_EXCITE = re.compile(r"\.se\.fc([12])\.")
_TREE = re.compile(r"^((?:base\.)?level\d+(?:\.tree[12])*)\.project\.")
_WRAPPERS = ("_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")
"""What torch.compile, DataParallel, FSDP, activation checkpointing and Fabric put before what they wrap."""
_AVERAGED = ("ema", "averag", "teacher", "target", "momentum", "swa")
"""Words in the names of a second network, of the same kind as the first."""
_BESIDE = re.compile(r"(\w+_)?(criterion|criteria|loss|losses|metric|metrics)(_\w+)?\.")
"""What a training module has beside its network."""
_NAMED = 6  # of what is left out
_AUXILIARY = re.compile(r"^(AuxLogits|aux\d*|aux_logits|auxiliary\w*|aux_head\w*|aux_classifier)\.")


@dataclasses.dataclass
class Mapped:
    """Tensors by the model's names, what was done in sentences, and names of the model that the file need not have.

    `optional` gives for each of these the reason, which is told where the model keeps its own first values.
    """

    tensors: dict[str, Tensor]
    notes: list[str]
    optional: dict[str, str]


def map_names(tensors: Tensors, own: Tensors) -> Mapped:
    """Rename, split and drop the tensors of a file, so that they are those of a model.

    `tensors` are the file's, by name; of `own`, the model's state dict, only names and shapes count.

    >>> own = {"features.norm_final.bias": torch.zeros(4), "classifier.bias": torch.zeros(2)}
    >>> file = {"model.features.norm5.bias": torch.ones(4), "model.classifier.bias": torch.ones(2)}
    >>> mapped = map_names(file, own)
    >>> sorted(mapped.tensors), mapped.notes[0]
    (['classifier.bias', 'features.norm_final.bias'], "the prefix 'model.' of every name is taken off")
    """
    left, notes = dict(tensors), []
    for step in STEPS:
        left, note = step(left, own)
        if note:
            notes.append(note)
    return Mapped(left, notes, _optional(left, own))


def strip_prefix(tensors: dict[str, Tensor], own: Tensors) -> tuple[dict[str, Tensor], str]:
    """Take a prefix off that every name has, where more names are then the model's."""
    first = next(iter(tensors), "")
    parts = first.split(".")
    candidates = [".".join(parts[:i]) + "." for i in range(1, len(parts))]
    candidates = [p for p in candidates if all(name.startswith(p) for name in tensors)]
    if not candidates:
        return tensors, ""

    def known(prefix: str) -> int:
        return sum(_known(name.removeprefix(prefix), own) for name in tensors)

    best = max(candidates, key=known)
    if known(best) <= known(""):
        return tensors, ""
    return {name.removeprefix(best): value for name, value in tensors.items()}, (
        f"the prefix {best!r} of every name is taken off"
    )


def strip_inner_wrappers(tensors: dict[str, Tensor], own: Tensors) -> tuple[dict[str, Tensor], str]:
    """Take out what a wrapped part of a network has in its names: `layer1._orig_mod.0.weight`, `net.module.fc.bias`."""
    there, here = ({part for name in names for part in name.split(".")} for names in (tensors, own))
    words = [word for word in _WRAPPERS if word in there - here]
    plain = {name: ".".join(part for part in name.split(".") if part not in words) for name in tensors}
    changed = sum(name != new for name, new in plain.items())
    if not words or len(set(plain.values())) < len(plain):
        return tensors, ""
    return {plain[name]: value for name, value in tensors.items()}, (
        f"{' and '.join(words)} in {changed:,} names: taken out"
    )


def take_network(tensors: dict[str, Tensor], own: Tensors) -> tuple[dict[str, Tensor], str]:
    """Take the network out of a training module, which holds it under a name beside a criterion, metrics or another.

    Of the names under which at least half of the model is found, that with the least that is missing, of another shape
    or not in the model; of two alike one that is no average or teacher. One that is under no name is all but them.
    """
    wanted = sum(not name.endswith("num_batches_tracked") for name in own)
    below: dict[str, list[str]] = {"": list(tensors)}
    for name in tensors:
        parts = name.split(".")
        for depth in range(1, len(parts)):
            below.setdefault(".".join(parts[:depth]) + ".", []).append(name)
    beside = [name for name in tensors if name not in own and _BESIDE.match(name)]
    if beside and all(_known(name, own) for name in tensors.keys() - set(beside)):
        modules = ", ".join(dict.fromkeys(name.partition(".")[0] for name in beside))
        return {
            name: tensors[name] for name in tensors if name not in beside
        }, f"left out beside the network: {modules}"
    found = {prefix: _misfit(prefix, names, tensors, own) for prefix, names in below.items()}
    least = min(found, key=lambda prefix: found[prefix])
    if found[least][0] >= found[""][0] or 2 * found[least][0] > wanted or put_under_backbone(tensors, own)[1]:
        return tensors, ""
    taken = {name.removeprefix(least): tensors[name] for name in below[least]}
    first = least.split(".")[0]
    others: dict[str, int] = {}
    for name in tensors.keys() - set(below[least]):
        other = ".".join(name.split(".")[: 2 if name.startswith(f"{first}.") else 1])
        others[other] = others.get(other, 0) + 1
    left = ", ".join(f"{other} ({count:,})" for other, count in sorted(others.items())[:_NAMED])
    more = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
    return taken, f"the network is what is below {least!r}; left out: {left}{more}"


def _misfit(prefix: str, names: list[str], tensors: Tensors, own: Tensors) -> tuple[int, int, int, bool]:
    """How many tensors of the model are missing below a prefix, of another shape, not the model's; whether averaged."""
    short = [name.removeprefix(prefix) for name in names if not name.endswith("num_batches_tracked")]
    known = sum(_known(name, own) for name in short)
    wanted = sum(not name.endswith("num_batches_tracked") for name in own)
    other = sum(name in own and tensors[prefix + name].shape != own[name].shape for name in short)
    return wanted - known, other, len(short) - known, any(word in prefix.lower() for word in _AVERAGED)


def rename_old_densenet(tensors: dict[str, Tensor], own: Tensors) -> tuple[dict[str, Tensor], str]:
    """`denselayer1.norm.1` of old DenseNet files is `denselayer1.norm1` today."""
    return _rename(tensors, own, lambda name: _OLD_DENSENET.sub(r"\1\2", name), "names of an old format of DenseNet")


def rename_last_norm(tensors: dict[str, Tensor], own: Tensors) -> tuple[dict[str, Tensor], str]:
    """DenseNet's last norm: `norm5` in torchvision, `norm_final` in ELASTIC's networks."""
    here, there = "features.norm_final.", "features.norm5."
    if not any(name.startswith(here) for name in own):
        here, there = there, here
    return _rename(tensors, own, lambda name: name.replace(there, here), f"{there[:-1]} is {here[:-1]} here")


def rename_squeeze_excite(tensors: dict[str, Tensor], own: Tensors) -> tuple[dict[str, Tensor], str]:
    """timm's `se.fc1` and `se.fc2` are `selayer.conv1` and `selayer.conv2` in ELASTIC's networks."""
    return _rename(
        tensors, own, lambda name: _SQUEEZE_EXCITE.sub(r".selayer.conv\1.", name), "se.fc1, se.fc2 are selayer here"
    )


def put_under_base(tensors: dict[str, Tensor], own: Tensors) -> tuple[dict[str, Tensor], str]:
    """The weights of a classifier are those below `base.` of a segmentation network (DLA).

    The classifier's own head is left out where it has another number of classes: nothing uses it there.
    """
    if any(name.startswith("base.") for name in tensors) or not any(name.startswith("base.") for name in own):
        return tensors, ""
    moved = {f"base.{name}": value for name, value in tensors.items()}
    if sum(name in own for name in moved) <= sum(name in own for name in tensors):
        return tensors, ""
    for name in [name for name in moved if name.startswith("base.fc.")]:
        if name in own and own[name].shape != moved[name].shape:
            del moved[name]
    return moved, "a classifier's weights, for the network below base."


def put_under_backbone(tensors: dict[str, Tensor], own: Tensors) -> tuple[dict[str, Tensor], str]:
    """The weights of a classifier are those below `backbone.` of a segmentation network (torchvision's).

    Below `backbone.` are the classifier's own names, or what it has below `features.`. All that the network has there
    must be in the file; what else the file has, its head and the layers behind the features, is left out.
    """
    wanted = {name for name in own if name.startswith("backbone.") and not name.endswith("num_batches_tracked")}
    if not wanted or any(name.startswith("backbone.") for name in tensors):
        return tensors, ""
    for prefix in ("", "features."):
        moved = {f"backbone.{name.removeprefix(prefix)}": v for name, v in tensors.items() if name.startswith(prefix)}
        if wanted <= moved.keys():
            taken = {name: value for name, value in moved.items() if name in own}
            return taken, "a classifier's weights, for the network below backbone.; its head is left out"
    return tensors, ""


def split_branches(tensors: dict[str, Tensor], own: Tensors) -> tuple[dict[str, Tensor], str]:
    """Split a block's grouped convolutions in two where the model has two branches (ELASTIC, section 3.2).

    Branch one takes the first half of the groups, branch two, whose names end in `_d`, the second half. A block of one
    branch equals one of two whose sum is normalised together.
    """
    left, count = dict(tensors), 0
    for name, second in own.items():
        found = _BRANCH.match(name)
        if not found or name in tensors:
            continue
        layer, kind = found.group(2), found.group(3)
        partner = f"{found.group(1) or ''}{layer}.{kind}"
        if partner not in tensors or partner not in own:
            continue
        joined, first = tensors[partner], own[partner]
        if kind == "num_batches_tracked":
            left[name] = joined
            continue
        dim = 1 if layer == "conv3" else 0
        if joined.ndim != first.ndim or joined.shape[dim] != first.shape[dim] + second.shape[dim]:
            continue
        left[partner], left[name] = torch.split(joined, [first.shape[dim], second.shape[dim]], dim)
        count += 1
    return left, f"{count} grouped convolutions and norms are split into two branches" if count else ""


def drop_unused(tensors: dict[str, Tensor], own: Tensors) -> tuple[dict[str, Tensor], str]:
    """Leave out what the file has and the model has no use for: counters, dead projections, heads of other tasks."""
    dropped: dict[str, set[str]] = {}
    names = set(tensors)
    for name in names - set(own):
        if name.endswith("num_batches_tracked"):
            dropped.setdefault("", set()).add(name)
        elif _is_dead_projection(name, names):
            dropped.setdefault("projections that feed nothing", set()).add(name)
        elif name.startswith("fc.") and _is_segmentation(own) and not _is_segmentation(tensors):
            dropped.setdefault("the classifier fc", set()).add(name)
        elif _AUXILIARY.match(name):
            dropped.setdefault("auxiliary classifiers", set()).add(name)
    gone = set().union(*dropped.values())
    note = ", ".join(sorted(reason for reason in dropped if reason))
    return {name: value for name, value in tensors.items() if name not in gone}, note and f"left out: {note}"


STEPS: tuple[Step, ...] = (
    strip_inner_wrappers, strip_prefix, take_network, rename_old_densenet, rename_last_norm, rename_squeeze_excite,
    put_under_base, put_under_backbone, split_branches, drop_unused,
)  # fmt: skip


def _optional(tensors: Tensors, own: Tensors) -> dict[str, str]:
    """Names of the model that the file lacks, and may lack, with the reason."""
    optional = {}
    transfer = _is_segmentation(own) and not _is_segmentation(tensors)
    onto_backbone = bool(tensors) and all(name.startswith("backbone.") for name in tensors)
    for name in own.keys() - tensors.keys():
        if name.endswith("num_batches_tracked"):
            optional[name] = ""
        elif _is_dead_projection(name, own):
            optional[name] = "projections that feed nothing"
        elif _AUXILIARY.match(name):
            optional[name] = "auxiliary classifiers"
        elif (transfer and name.startswith(("aspp.", "dla_up.", "fc.", "up."))) or (
            onto_backbone and name.startswith("classifier.")
        ):
            optional[name] = "the segmentation head, which a classifier's file has not"
        elif name.startswith("base.fc."):
            optional[name] = "the classifier base.fc, which nothing uses"
    return optional


def _is_segmentation(names: Iterable[str]) -> bool:
    return any(name.startswith(("aspp.", "dla_up.")) for name in names)


def _is_dead_projection(name: str, names: Iterable[str]) -> bool:
    """Whether `name` is of a projection in a tree of trees (DLA), which computes a shortcut that no block takes."""
    tree = _TREE.match(name)
    return bool(tree) and any(other.startswith(f"{tree.group(1)}.tree1.tree1.") for other in names)  # type: ignore[union-attr]


def _rename(
    tensors: dict[str, Tensor], own: Tensors, rule: Callable[[str], str], note: str
) -> tuple[dict[str, Tensor], str]:
    """Rename what the model knows by its new name and not by its old one."""
    renamed = {name: rule(name) for name in tensors if name not in own and _known(rule(name), own)}
    renamed = {name: new for name, new in renamed.items() if new != name}
    return {renamed.get(name, name): value for name, value in tensors.items()}, note if renamed else ""


def _known(name: str, own: Tensors) -> bool:
    """Whether the model has this name; a later step may put it below `base.` or `backbone.`."""
    return name in own or f"base.{name}" in own or f"backbone.{name}" in own
