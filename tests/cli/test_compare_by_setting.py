"""`anysize compare` against a setting: what a terminal shows."""

from pathlib import Path

import pytest

from anysize.cli.compare import command


def test_a_metric_by_a_setting(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders: list[Path] = []
    for top1, recipe in ((0.5, "batch_size = 2"), (0.75, "batch_size = 2\nseed = 1"), (0.25, "seed = 2")):
        folders.append(tmp_path / f"run{len(folders)}")
        folders[-1].mkdir()
        (folders[-1] / "recipe.toml").write_text(f"[training]\nepochs = 1\n{recipe}\n")
        (folders[-1] / "metrics.csv").write_text(f"epoch,validation_top1\n1,{top1}\n")
    page = tmp_path / "c.html"
    command(*map(str, folders), out=str(page), x="training.batch_size", line="optimizer.nesterov")
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["optimizer.nesterov", "2", "64"] in rows  # 64 is the default, for the recipe that has no batch size
    assert ["false", "62.5%", "25.0%"] in rows
    assert ["(50.0-75.0)"] in rows
    assert page.exists()
