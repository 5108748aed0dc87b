"""A run folder that is damaged, or from somebody else: what does not fit is left out and said, and nothing acts."""

import base64
import hashlib
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from in_the_place import KINDS, replaced
from PIL import Image

from anysize.reports import run_files
from anysize.reports.by_setting import by_setting
from anysize.reports.compare import read_runs
from anysize.reports.html import write_report
from anysize.reports.image_predictions import (
    read_confusion,
    read_image_predictions,
    write_confusion,
    write_image_predictions,
)
from anysize.reports.policy_report import write_scale_policy
from anysize.reports.predictions import Predictions, read_predictions, write_predictions
from anysize.reports.quantization import quantization_section, read_quantization, write_quantization
from anysize.reports.reading import Run
from anysize.tasks.records import Judged, Shown

MakeRun = Callable[..., Path]

HOSTILE = "</script><script>alert(1)</script>'\"<img src=x onerror=alert(2)>&lt;\x1b[2J"
"""A name of a class, a metric, a file."""

MADE = {"checkpoint": "last", "split": "validation", "settings": ""}

PIECES: dict[str, Callable[[Path], Any]] = {
    run_files.METRICS: lambda folder: len(Run.read(folder).metrics),
    run_files.EVALUATION: lambda folder: len(Run.read(folder).evaluation),
    run_files.EVALUATION_TABLES: lambda folder: len(Run.read(folder).evaluation_tables),
    run_files.STEPS: lambda folder: len(Run.read(folder).steps),
    run_files.IMAGE_PREDICTIONS: lambda folder: len(read_image_predictions(folder)),
    run_files.CONFUSION: lambda folder: len(read_confusion(folder)),
    run_files.SCALE_POLICY: lambda folder: len(Run.read(folder).scale_policy),
    run_files.ENVIRONMENT: lambda folder: len(Run.read(folder).environment),
    run_files.RECIPE: lambda folder: len(Run.read(folder).settings),
    run_files.INT8: lambda folder: len(read_quantization(folder)[0]),
    run_files.INT8_LAYERS: lambda folder: len(read_quantization(folder)[1]),
    f"{run_files.PREDICTIONS}/predictions.json": lambda folder: len(read_predictions(folder).get("images", ())),
}
"""How much of each file is read."""


def fill(folder: Path, name: str = "cat") -> Path:
    """Write what evaluations leave behind, with a class or block of this name."""
    made = {**MADE, "size": 32, "calibrated": False}
    run_files.add_rows(
        folder / run_files.EVALUATION_TABLES,
        [{**made, "table": "by class", "row": name, "column": "accuracy", "value": 0.5}],
    )
    run_files.write_rows(folder / run_files.STEPS, [{"step": 10, "sizes": {"32": 1.0}, "loss": 0.5}])
    write_image_predictions(folder, made, {name: Judged(name, f"{name} 2", 0.5, 0.5)})
    write_confusion(folder, made, {name: {f"{name} 2": 3}})
    policy = pd.DataFrame({"block": [name], "low_share": 0.5, "low_share_sd": 0.1, "images": 4, "size": 32})
    write_scale_policy(folder, pd.concat([policy.assign(label=""), policy.assign(label=name)]))
    sizes = {"checkpoint": name, "size": 32, "metric": "top1", "float": 90.0, "int8": 89.0, "lost": 1.0, "spread": 0.1}
    sizes |= {"agree": 98.0, "images": 100, "changed": 2, "float_bytes": 4e6, "int8_bytes": 1e6}
    layers = {"checkpoint": name, "layer": name, "computed": "int8", "reason": name, "signal_to_noise": 30.0}
    write_quantization(
        folder, pd.DataFrame([sizes | {"float_ms_1": 2.0, "int8_ms_1": 1.0}]), pd.DataFrame([layers | {"time": 0.5}])
    )
    shown = Shown(0.5, [(name, 0.5, "wrong")], {}, {name: (1, 2, 3)}, number="probability")
    write_predictions(folder, Predictions(32, False, 4, [(name, np.zeros((8, 8, 3), np.uint8), shown)]))
    return folder


def test_all_is_read_of_a_sound_folder(
    make_run: MakeRun, evaluation: Callable[..., pd.DataFrame], caplog: pytest.LogCaptureFixture
) -> None:
    run = fill(make_run(evaluation=evaluation().assign(**MADE)))
    assert all(read(run) > 0 for read in PIECES.values())
    assert caplog.messages == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_piece_that_is_none_is_left_out_and_said_once(
    make_run: MakeRun, evaluation: Callable[..., pd.DataFrame], caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    run = fill(make_run(evaluation=evaluation().assign(**MADE)))
    whole = {name: read(run) for name, read in PIECES.items()}
    for name, read in PIECES.items():
        content = (run / name).read_bytes()
        replaced(run / name, kind)
        caplog.clear()
        assert read(run) == 0
        read(run)
        if (name, kind) != (run_files.RECIPE, "empty"):  # which is a recipe without settings
            (said,) = caplog.messages
            assert str(run / name) in said
            assert "is left out: " in said
            assert len(said) < len(str(run)) + 200
            assert "\n" not in said
        if kind == "text":
            others = {other: read(run) for other, read in PIECES.items() if other != name}
            assert others == {other: whole[other] for other in others}
        if kind == "a folder":
            (run / name / "own").unlink()
            (run / name).rmdir()
        else:
            (run / name).unlink()
        (run / name).write_bytes(content)


def test_a_column_or_a_row_that_does_not_fit(make_run: MakeRun, caplog: pytest.LogCaptureFixture) -> None:
    run = make_run()
    path, whole = run / run_files.METRICS, (run / run_files.METRICS).read_text()
    path.write_text(whole.replace("6400,", "many,"))
    read = Run.read(run)
    assert "images" not in read.metrics
    assert read.last("validation_top1") > 0.5
    assert "the column images of " in caplog.text
    for changed in (
        whole[: len(whole) * 2 // 3],
        whole.replace("\n2,", "\n-2,"),
        whole.replace("\n2,", "\n1e400,"),
        whole.replace("\n2,", f"\n{10**400},"),
        whole.replace("\n2,", "\n9,"),
        whole.replace("\n2,", "\n2,3,"),
        whole.replace('""16"": 0.25', '""16"": ""a""'),
        whole.replace('""16"": 0.25', '""-16"": 0.25'),
        whole.replace("epoch,step", "epoch,epoch"),
        whole.replace("epoch,", "date,"),
        whole.replace(",True,", ",maybe,"),
    ):
        assert changed != whole
        path.write_text(changed)
        caplog.clear()
        again = Run.read(run)
        assert caplog.text
        assert not len(again.metrics) or "validation_calibrated" not in again.metrics
        assert again.settings == read.settings


def test_numbers_without_end_and_predictions_that_are_no_folder(
    make_run: MakeRun, evaluation: Callable[..., pd.DataFrame], caplog: pytest.LogCaptureFixture
) -> None:
    run = fill(make_run(evaluation=evaluation().assign(**MADE)))
    table = run / run_files.EVALUATION
    values = pd.read_csv(table)
    pd.DataFrame({**values, "top1": [float("inf"), *values["top1"][1:]]}).to_csv(table, index=False)
    assert "top1" not in Run.read(run).evaluation
    assert f"the column top1 of {table} is left out: top1 in line 2 is inf" in caplog.text
    (run / run_files.PREDICTIONS).rename(run / "other")
    for put in (lambda path: path.write_bytes(b"x"), lambda path: path.symlink_to("/dev/zero")):
        put(run / run_files.PREDICTIONS)
        assert read_predictions(run) == {}
        (run / run_files.PREDICTIONS).unlink()
    assert f"{run / run_files.PREDICTIONS} is left out: it is no folder" in caplog.text


def test_settings_that_do_not_fit_are_not_calculated_with(make_run: MakeRun) -> None:
    odd = 'name = "x"\nwhen = 1979-05-27\nhuge = 1{}\n[sizes]\nbase = "<b>"\n'
    odd += "[training]\nepochs = [[1]]\nequal_flops = 3\n"
    run = Run.read(make_run(recipe=odd.replace("{}", "0" * 400)))
    assert run.settings.keys() == {"name", "when"}
    assert run.base_size == 32
    (found,) = by_setting(read_runs([run.folder]), "name").points.to_dict("records")
    assert found["x"] == "x"
    deep = Run.read(make_run("deep", recipe="a = " + "[" * 3000 + "]" * 3000))
    assert deep.settings == {}


def change(run: Path, **values: Any) -> None:
    """Change values of the first image in `predictions.json`, or of all of it (`of_all`)."""
    path = run / run_files.PREDICTIONS / "predictions.json"
    held = json.loads(path.read_text())
    held |= values.pop("of_all", {})
    if values:
        held["images"][0] |= values
    path.write_text(json.dumps(held))


@pytest.mark.parametrize(
    "values",
    [
        {"of_all": {"size": "<b>"}},
        {"of_all": {"size": -1}},
        {"of_all": {"seen": 1.5}},
        {"of_all": {"calibrated": "yes"}},
        {"of_all": {"images": {}}},
        {"of_all": {"images": ["x"]}},
        {"name": 7},
        {"name": "x" * 10_000},
        {"legend": HOSTILE},
        {"legend": {"a": [HOSTILE, 0, 0]}},
        {"legend": {"a": [0, 0, 256]}},
        {"legend": {"a": [0, 0]}},
        {"lines": [["a", 0.5, HOSTILE]]},
        {"lines": [["a", float("nan"), "wrong"]]},
        {"lines": [["a", 0.5]]},
        {"lines": {"a": 1}},
        {"pictures": ["03-image.jpg"]},
        {"pictures": {"image": None}},
        {"number": []},
    ],
    ids=str,
)
def test_predictions_that_do_not_fit_are_left_out(
    make_run: MakeRun, caplog: pytest.LogCaptureFixture, values: dict[str, Any]
) -> None:
    run = fill(make_run())
    change(run, **values)
    assert read_predictions(run) == {}
    assert len(caplog.messages) == 1


def test_pictures_are_pictures_in_their_folder(make_run: MakeRun, caplog: pytest.LogCaptureFixture) -> None:
    run = fill(make_run())
    folder = run / run_files.PREDICTIONS
    picture = Image.new("RGB", (4, 4))
    picture.save(run.parent / "secret.png")
    picture.save(run / "own.png")
    picture.save(folder / "bitmap.bmp")
    Image.new("1", (5000, 5000)).save(folder / "large.png")
    whole = (folder / "00-image.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "text.jpg").write_text("secret")
    (folder / "link.png").symlink_to(run.parent / "secret.png")
    (folder / "zero.png").symlink_to("/dev/zero")
    header = io.BytesIO()
    Image.new("L", (8, 8)).save(header, "JPEG")
    bomb = header.getvalue().replace(b"\xff\xc0\x00\x0b\x08\x00\x08\x00\x08", b"\xff\xc0\x00\x0b\x08\xff\xff\xff\xff")
    (folder / "bomb.jpg").write_bytes(bomb)
    change(run, pictures={"image": "00-image.jpg"})
    assert len(read_predictions(run)["images"]) == 1
    names = ("cut.jpg", "text.jpg", "link.png", "zero.png", "bitmap.bmp", "large.png", "bomb.jpg", "gone.png", "..", "")
    outside = ("../own.png", "../../secret.png", str(run / "own.png"), "..\\own.png", "a\0b.png")
    for name in (*names, *outside):
        change(run, pictures={"image": "00-image.jpg", "mask": name})
        caplog.clear()
        assert read_predictions(run)["images"] == [], name
        assert "the image cat of" in caplog.text


def scripts_of(page: str) -> list[str]:
    return re.findall(r"<script[^>]*>(.*?)</script>", page, re.DOTALL)


@pytest.mark.report
def test_a_page_runs_its_own_scripts_alone_and_quotes_all_else(
    make_run: MakeRun, evaluation: Callable[..., pd.DataFrame], metrics_row: Callable[..., dict[str, Any]]
) -> None:
    recipe = f"[model]\nname = {json.dumps(HOSTILE)}\n[data]\nname = '''{HOSTILE[:-4]}'''\n"
    rows = [metrics_row(epoch, **{f"validation_{HOSTILE}": 0.5}) for epoch in (1, 2)]
    table = evaluation().assign(checkpoint=HOSTILE, split="test", settings=HOSTILE, **{HOSTILE: 0.5})
    run = fill(make_run("run", recipe=recipe, rows=rows, evaluation=table), HOSTILE)
    (run / run_files.ENVIRONMENT).write_text(json.dumps({HOSTILE: HOSTILE}))
    page = write_report(run).read_text()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)[1]  # type: ignore[index]
    allowed = re.search(r"script-src ([^;]*);", policy)[1].split()  # type: ignore[index]
    scripts = scripts_of(page)
    digests = [f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in scripts]
    assert sorted(allowed) == sorted(set(digests))
    assert len(scripts) > 4
    assert "default-src 'none'" in policy
    body = page.partition("<main>")[2]
    for part in re.split(r"<script>.*?</script>", body, flags=re.DOTALL):
        assert "<script" not in part
        assert "<img src=x" not in part
    assert not any("alert(1)</script>" in script or "<img" in script for script in scripts[2:])  # of the figures
    assert "&lt;/script&gt;&lt;script&gt;alert(1)" in body
    assert "data:image/jpeg;base64," in body


def test_int8_tables_that_do_not_fit(make_run: MakeRun, caplog: pytest.LogCaptureFixture) -> None:
    run = fill(make_run())
    path, whole = run / run_files.INT8, (run / run_files.INT8).read_text()
    assert "times as fast" in quantization_section(run)
    for old, new in (("float_ms_1", "float_ms_x"), (",2.0,1.0", ",2.0,0"), ("float_bytes", "x")):
        assert old in whole
        path.write_text(whole.replace(old, new))
        caplog.clear()
        assert "times as fast" not in quantization_section(run)
        assert caplog.messages
