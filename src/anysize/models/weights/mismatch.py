"""A table of the tensors that do not fit, by stage of the network."""

import io
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

_EXAMPLES = 2
_ROWS = 12
_CONTAINERS = ("features", "base", "model", "module", "stages", "blocks", "layers")

Shapes = Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]


def mismatch_table(missing: Sequence[str], unexpected: Sequence[str], shapes: Shapes) -> str:
    """Counts and the first few names of what is missing, not in the model, and of another shape; a row a stage.

    >>> print(mismatch_table(["layer1.0.conv1_d.weight", "layer1.0.bn1_d.bias"], [], {"fc.bias": ((5,), (2,))}))
    stage   missing  unexpected  shape  such as
    layer1        2           0      0  missing 0.conv1_d.weight, 0.bn1_d.bias
    fc            0           0      1  bias: file 5, model 2
    """
    stages: dict[str, tuple[list[str], list[str], list[str]]] = {}
    for column, names in enumerate((missing, unexpected, list(shapes))):
        for name in names:
            stages.setdefault(_stage(name), ([], [], []))[column].append(name)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("stage", "missing", "unexpected", "shape", "such as"):
        table.add_column(title, justify="left" if title in ("stage", "such as") else "right", overflow="fold")
    for stage, columns in list(stages.items())[:_ROWS]:
        table.add_row(stage, *(str(len(names)) for names in columns), _examples(stage, *columns, shapes))
    if len(stages) > _ROWS:
        table.add_row(f"and {len(stages) - _ROWS} more")
    text = io.StringIO()
    Console(file=text, width=118, color_system=None, highlight=False, markup=False).print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines() if line.strip())


def _stage(name: str) -> str:
    parts = name.split(".")
    depth = 2 if parts[0] in _CONTAINERS and len(parts) > 2 else 1
    return ".".join(parts[:depth]) if len(parts) > depth else ".".join(parts[:-1]) or name


def _examples(
    stage: str, missing: Sequence[str], unexpected: Sequence[str], other: Sequence[str], shapes: Shapes
) -> str:
    """The first few of each kind, without the stage's own name."""
    parts = []
    for word, names in (("missing", missing), ("unexpected", unexpected)):
        if names:
            shown = ", ".join(name.removeprefix(f"{stage}.") for name in names[:_EXAMPLES])
            parts.append(f"{word} {shown}{', ...' if len(names) > _EXAMPLES else ''}")
    for name in other[:_EXAMPLES]:
        file, model = shapes[name]
        parts.append(f"{name.removeprefix(f'{stage}.')}: file {_shape(file)}, model {_shape(model)}")
    return "; ".join(parts) + ("; ..." if len(other) > _EXAMPLES else "")


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "one value"
