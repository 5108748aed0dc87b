"""Weights into a model: all of them or none, but for what a new class count or new input channels change."""

import collections
import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from anysize.models.checks import first_not_finite
from anysize.models.weights.heads import adapt_channels, find_first_convolution, find_head, join
from anysize.models.weights.mismatch import mismatch_table
from anysize.models.weights.renaming import map_names
from anysize.models.weights.types import unlike
from anysize.registry import NotFinite, UserError


@dataclasses.dataclass
class FitReport:
    """The result of fitting the tensors of a file to a model.

    `tensors` are those to load, by the model's names; `new` maps names that keep the model's first values to the
    reason; `missing`, `unexpected` and `shapes` (name to the file's shape and the model's) do not fit; `notes` say in
    sentences what was done.
    """

    tensors: dict[str, Tensor]
    new: dict[str, str]
    missing: list[str]
    unexpected: list[str]
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    notes: list[str]

    @property
    def fits(self) -> bool:
        """Whether the weights are the model's."""
        return not (self.missing or self.unexpected or self.shapes)

    def lines(self) -> list[str]:
        """Sentences on what was done and on what is new."""
        reasons = collections.Counter(self.new.values())
        kept = [f"new, as the model starts: {reason} ({_tensors(n)})" for reason, n in reasons.items() if reason]
        return [*self.notes, *kept]


def fit_state_dict(
    model: nn.Module, tensors: Mapping[str, Tensor], *,
    partial: bool = False, num_classes: int | None = None, source: str = "the file",
) -> FitReport:  # fmt: skip
    """Load weights into `model`, in place, and say what was done.

    Names are mapped by `map_names`. Where the class count differs the head keeps the model's own first values; where
    the input channels differ the first convolution is adapted. Everything else has to fit.

    Args:
        model: with any first values; a model on the meta device gets the tensors themselves.
        tensors: of the file, by name.
        partial: load what fits, and say what does not, instead of refusing.
        num_classes: of the model, by which its head is found; None: the last layer that may be one.
        source: what the message calls the file.

    Raises:
        UserError: the weights do not fit; the message ends in a table. The model is as it was.

    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4, 2))
    >>> file = {"0.weight": torch.ones(4, 3, 3, 3), "0.bias": torch.zeros(4),
    ...         "2.weight": torch.ones(5, 4), "2.bias": torch.ones(5)}
    >>> for line in fit_state_dict(model, file).lines():
    ...     print(line)
    the first convolution 0 is adapted from 3 to 1 input channels
    the head 2 is new: the file has 5 classes, the model 2
    >>> model[0].weight[0, 0, 0, 0].item()
    3.0
    """
    own = model.state_dict()
    report = fit_tensors(own, tensors, find_head(model, num_classes), find_first_convolution(model))
    check_fit(report, own, source, type(model).__name__, partial)
    if any(value.is_meta for value in own.values()):
        model.load_state_dict(report.tensors, strict=False, assign=True)
        return report
    with torch.no_grad():
        for name, value in report.tensors.items():
            own[name].copy_(value)
    return report


def fit_tensors(
    own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], head: str | None, first: str | None
) -> FitReport:
    """Compare the weights of a file with a model's state dict, of which names and shapes alone count.

    `head` and `first` are the names of the layer of logits and of the first convolution.
    """
    mapped = map_names(tensors, own)
    left, notes, new = dict(mapped.tensors), list(mapped.notes), {}
    for name, value in left.items():
        if name in own and (how := unlike(value, own[name])):
            raise UserError(
                f"the file's {name} {how}; expected floating-point numbers of 16 bits or more: save the weights anew "
                "where they were made"
            )
    if first is not None and (name := join(first, "weight")) in own and name in left:
        adapted = _adapt(left[name], own[name])
        if adapted is not None:
            before, now = left[name].shape[1], own[name].shape[1]
            notes.append(f"the first convolution {first} is adapted from {before} to {now} input channels")
            left[name] = adapted
    if head is not None:
        fresh = _class_dependent(own, left, join(head, "weight"))
        if fresh:
            classes = len(left[join(head, "weight")]), len(own[join(head, "weight")])
            others = sorted({name.rpartition(".")[0] for name in fresh} - {head})
            notes.append(
                f"the head {head} is new: the file has {classes[0]} classes, the model {classes[1]}"
                + (f"; so are {', '.join(others)}" if others else "")
            )
            new.update(dict.fromkeys(fresh, ""))
            left = {name: value for name, value in left.items() if name not in fresh}
    missing = [name for name in own if name not in left and name not in new]
    unexpected = [name for name in left if name not in own]
    if head is not None and not unexpected and missing and all(name.rpartition(".")[0] == head for name in missing):
        new.update(dict.fromkeys(missing, f"the head {head}, which the file has not"))
    new.update({name: mapped.optional[name] for name in missing if name in mapped.optional})
    other = [name for name, value in left.items() if name in own and value.shape != own[name].shape]
    return FitReport(
        tensors={name: value for name, value in left.items() if name in own and name not in other},
        new=new,
        missing=[name for name in missing if name not in new],
        unexpected=unexpected,
        shapes={name: (tuple(left[name].shape), tuple(own[name].shape)) for name in other},
        notes=notes,
    )


def check_fit(report: FitReport, own: Mapping[str, Tensor], source: str, model: str, partial: bool) -> None:
    """Raise a `UserError` with a table where the weights do not fit; with `partial` only where none does.

    With `partial`, what does not fit becomes a note. A `NotFinite` names what is NaN or infinite of the rest.
    """
    if damaged := first_not_finite(report.tensors):
        raise NotFinite(
            f"{source} holds values that are NaN or infinite, first in {damaged}: its training had diverged, or the "
            "file is damaged; take another file, or the averaged weights where it has such (import: --averaged)"
        )
    if report.fits:
        return
    wrong = (
        f"{_tensors(len(report.missing))} of the model missing, {len(report.unexpected)} not in the model, "
        f"{len(report.shapes)} of another shape"
    )
    weights = [name for name in report.tensors if not name.endswith("num_batches_tracked")]
    if partial and weights:
        report.notes.append(f"only part of {source} fits: {wrong}; {len(report.tensors):,} of {len(own):,} are loaded")
        return
    remedy = (
        "it is of another model: give that one, or take what fits with partial (import: --partial, train: "
        "--model.partial-weights)"
    )
    if any(name.endswith(".norm.m") for name in report.unexpected):
        remedy = "it has online norms: give --model.norm online"
    elif not weights:
        such = f", such as {report.unexpected[0]}" if report.unexpected else ""
        remedy = f"no weight fits: it holds another network, or this one under names that are not known{such}"
    table = mismatch_table(report.missing, report.unexpected, report.shapes)
    raise UserError(f"{source} does not fit {model}: {wrong}; {remedy}", table)


def _adapt(weight: Tensor, own: Tensor) -> Tensor | None:
    """The first convolution for the model's input channels, where these alone differ."""
    if weight.ndim != 4 or own.ndim != 4 or weight.shape[1] == own.shape[1]:
        return None
    if weight.shape[0] != own.shape[0] or weight.shape[2:] != own.shape[2:]:
        return None
    return adapt_channels(weight, own.shape[1])


def _class_dependent(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], head: str) -> set[str]:
    """Names of the tensors that differ in the number of classes, and in nothing else, as the head does."""
    if head not in own or head not in tensors or own[head].shape[1:] != tensors[head].shape[1:]:
        return set()
    before, now = len(tensors[head]), len(own[head])
    if before == now:
        return set()
    return {
        name
        for name, value in tensors.items()
        if name in own
        and value.ndim == own[name].ndim
        and value.shape[1:] == own[name].shape[1:]
        and value.shape[:1] == (before,)
        and own[name].shape[:1] == (now,)
    }


def _tensors(count: int) -> str:
    return f"{count:,} tensor{'s' * (count != 1)}"
