"""Networks that are exported: one of each family, then every registered one."""

import dataclasses
from pathlib import Path

import pytest
from tiers import ONE_A_FAMILY, tiers

import anysize
from anysize.export.description import Description
from anysize.export.write import export_onnx, folded
from anysize.models.expected import expected_preprocessing
from anysize.models.measure.table import read_table
from anysize.models.names import list_models

ONE_SIZE = ("vit_b_16", "vit_b_32", "vit_h_14", "vit_l_16", "vit_l_32")
"""Take the size alone that they were built for, as do their files."""
REFUSED: dict[str, str] = {}
"""By name, why no file can be written; docs/guides/export.md lists them, too."""


@pytest.mark.parametrize("name", tiers(list_models(), fast=(), slow=ONE_A_FAMILY))
def test_a_model_is_exported_and_checked(name: str, tmp_path: Path) -> None:
    expected = expected_preprocessing(name)
    smallest = {row.name: row.smallest for row in read_table()}[name]
    size = expected.image_size if name in ONE_SIZE else min(expected.image_size, max(64, 3 * smallest // 2))
    expected = dataclasses.replace(expected, image_size=size)
    model = anysize.create_model(name, in_channels=expected.channels)
    if name in REFUSED:
        with pytest.raises(anysize.UserError, match=REFUSED[name]):
            export_onnx(folded(model), tmp_path / "model.onnx", Description("classification", expected))
        return
    exported = export_onnx(folded(model), tmp_path / "model.onnx", Description("classification", expected))
    assert exported.any_size == (name not in ONE_SIZE)
