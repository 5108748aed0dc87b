"""Checkpoints that other programs wrote: read without running code, renamed where ours have other names, fitted.

    foreign = read_foreign("resnext50_elastic.pth.tar")
    report = fit_state_dict(model, foreign.tensors, source=str(foreign.path))

Three steps, each usable alone: `read_foreign` finds the weights in a file and what stands beside them, `map_names` is
a pure function from their names to a model's, and `fit_state_dict` puts them into a model or says why they do not fit.
"""

from anysize.models.weights.contents import ForeignCheckpoint
from anysize.models.weights.fitting import FitReport, fit_state_dict, fit_tensors
from anysize.models.weights.foreign_files import read_foreign
from anysize.models.weights.heads import file_classes, find_head
from anysize.models.weights.renaming import Mapped, map_names

__all__ = [
    "FitReport", "ForeignCheckpoint", "Mapped",
    "file_classes", "find_head", "fit_state_dict", "fit_tensors", "map_names", "read_foreign",
]  # fmt: skip
