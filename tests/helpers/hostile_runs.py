"""Run folders as somebody else may hand them over: sound in all, but for the model's name."""

import hashlib
import json
import shutil
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

BUILDER = """
from pathlib import Path
Path({marker!r}).write_text("ran")

def build(num_classes, in_channels, **options):
    from anysize import create_model
    return create_model("resnet8", num_classes, in_channels)
"""


def write_builder(path: Path, marker: Path) -> str:
    """Write a builder that leaves a file behind when it is imported; returns the name `FILE.py:build`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(BUILDER.format(marker=str(marker)))
    return f"{path}:build"


def rename_model(
    run: Path, out: Path, name: str, options: Mapping[str, Any] | None = None, where: str = "both"
) -> Path:
    """A copy of a run whose `recipe.toml`, `state.json` or both name another model, checksums and all."""
    shutil.copytree(run, out)
    if where != "state":
        file = out / "recipe.toml"
        recipe = tomllib.loads(file.read_text())
        recipe["model"].update(name=name, options=dict(options or {}))
        file.write_text(tomli_w.dumps(recipe))
    for file in out.glob("checkpoints/*/state.json") if where != "recipe" else ():
        state = json.loads(file.read_text())["state"]
        state["model"].update(name=name, options=dict(options or {}))
        checksum = hashlib.blake2b(json.dumps(state).encode(), digest_size=16).hexdigest()
        file.unlink()
        file.write_text(json.dumps({"blake2b": checksum, "state": state}))
    return out
