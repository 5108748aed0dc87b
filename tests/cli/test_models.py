"""`anysize models`, `anysize models show` and `anysize bench`, as a user calls them."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from anysize.cli import build_app
from anysize.experiment.train import train
from anysize.registry import UserError


def run(capsys: pytest.CaptureFixture[str], *tokens: str) -> str:
    build_app()(list(tokens), result_action="return_value")
    return capsys.readouterr().out


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")


def test_a_pattern_lists_the_models_with_their_figures(capsys):
    lines = run(capsys, "models", "resnext*_elastic").splitlines()
    assert [line.split()[0] for line in lines if "elastic" in line] == ["resnext101_elastic", "resnext50_elastic"]
    (line,) = [line for line in run(capsys, "models", "resnet20").splitlines() if line.startswith(" resnet20 ")]
    assert line.split()[1:9] == ["0.27", "M", "81.6", "MFLOPs", "32", "px", "1", "px"]


def test_the_list_needs_no_torch():
    code = (
        "import sys; sys.argv = ['anysize', 'models', 'elastic']\n"
        "from anysize.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules and 'pandas' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "resnext50_elastic" in done.stdout


def test_a_name_that_no_model_has_is_answered():
    with pytest.raises(UserError, match="no model's name has 'resnext50_elastik' in it: did you mean"):
        build_app()(["models", "resnext50_elastik"], result_action="return_value")


def test_show_prints_the_stages_at_a_size(capsys):
    text = run(capsys, "models", "show", "resnet20", "--size", "64")
    assert "resnet20 at 64 px" in text
    (line,) = [line for line in text.splitlines() if "layer2" in line]
    assert line.split() == ["layer2", "Sequential", "32", "x", "32", "x", "32", "51,648", "105", "MFLOPs", "32.1%"]
    assert "expects 3 channels, 64 px (stretch, bilinear, crop ratio 1); the smallest it takes is 1 px" in text
    assert "272,474" in text


def test_show_takes_the_settings_of_a_model(capsys):
    options = ["--norm", "online", "--model.options.depth", "8", "--channels", "1"]
    text = run(capsys, "models", "show", "cifar_resnet", *options)
    assert "OnlineNorm2d" in text
    assert "expects 1 channel," in text
    with pytest.raises(UserError, match=r"--training.epochs says nothing here; expected settings of model.options"):
        run(capsys, "models", "show", "cifar_resnet", "--training.epochs", "3")
    with pytest.raises(UserError, match=r"cannot take images of 20 pixels: .*; the smallest it takes is 75"):
        run(capsys, "models", "show", "inception_v3", "--size", "20")


def test_show_takes_timm_a_file_and_a_run(capsys, tmp_path: Path, tiny):
    assert "SelectAdaptivePool" in run(capsys, "models", "show", "timm:resnet10t", "--size", "64")
    path = tmp_path / "mine.py"
    path.write_text(
        "from torch import nn\n"
        "def mine(num_classes=10, in_channels=3):\n"
        "    return nn.Sequential(nn.Conv2d(in_channels, num_classes, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())\n"
    )
    assert "10 x 222 x 222" in run(capsys, "models", "show", f"{path}:mine")
    folder = train(tiny(data__limit=64, training__epochs=1), run=tmp_path / "run")
    assert "at 28 px" in run(capsys, "models", "show", str(folder))
    with pytest.raises(UserError, match="is a run, whose model is what it was trained as"):
        run(capsys, "models", "show", str(folder), "--norm", "group")


def test_bench_prints_and_writes_a_row_for_each_case(capsys, tmp_path: Path):
    path = tmp_path / "bench.csv"
    text = run(
        capsys, "bench", "resnet8", "--sizes", "16,24", "--batch", "2", "--fold", "--repeats", "1", "--csv", str(path)
    )
    assert "resnet8, float32, channels last, inference with norms folded" in text
    assert "medians of 1 repetitions" in text
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [(row["mode"], row["size"], row["folded"]) for row in rows] == [
        ("inference", "16", "True"),
        ("inference", "24", "True"),
        ("training", "16", "False"),
        ("training", "24", "False"),
    ]


def test_bench_of_a_network_that_recomputes(capsys):
    text = run(
        capsys, "bench", "resnet8", "--sizes", "16", "--batch", "2", "--repeats", "1", "--no-channels-last",
        "--model.checkpoint-segments", "1",
    )  # fmt: skip
    assert "contiguous" in text
    assert "training" in text
    with pytest.raises(UserError, match="--sizes is 'small'; expected numbers such as 128,224"):
        run(capsys, "bench", "resnet8", "--sizes", "small")


@pytest.mark.parametrize("sizes", ["0", "-5"])
def test_a_size_below_one_pixel_is_refused(capsys, sizes: str):
    for tokens in (["models", "show", "resnet8", "--size", sizes], ["bench", "resnet8", "--sizes", sizes]):
        with pytest.raises(UserError, match=f"size is {sizes}; expected at least 1 pixel"):
            run(capsys, *tokens)


def test_a_run_folder_that_is_not_there_is_told(capsys):
    with pytest.raises(UserError, match=r"there is no folder runs/none; expected a run folder or the name of a model"):
        run(capsys, "models", "show", "runs/none")


@pytest.mark.parametrize("option", ["classes", "channels"])
def test_no_classes_and_no_channels_are_not_taken_for_the_default(capsys, option: str):
    with pytest.raises(UserError, match=f"_{option} is 0; expected at least 1"):
        run(capsys, "models", "show", "resnet8", f"--{option}", "0")


def test_bench_refuses_a_file_that_cannot_be_written_before_it_measures(capsys, tmp_path: Path):
    for path in (tmp_path / "none" / "bench.csv", tmp_path):
        with pytest.raises(UserError, match=f"cannot write {path}: "):
            run(capsys, "bench", "resnet8", "--sizes", "16", "--csv", str(path))
    assert "inference" not in capsys.readouterr().out


@pytest.mark.slow
def test_for_segmentation_a_model_is_shown_with_the_classes_of_voc(capsys: pytest.CaptureFixture[str]) -> None:
    build_app()(
        ["models", "show", "dla60x_elastic", "--task", "segmentation", "--size", "33"], result_action="return_value"
    )
    assert "21 x 33 x 33" in capsys.readouterr().out
