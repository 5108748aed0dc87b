"""`anysize predict`: what is shown, where it goes, and how settings are given."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from anysize.cli import build_app
from anysize.registry import UserError

Trained = Callable[[str], Path]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    root = tmp_path / "pictures"
    root.mkdir()
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 256, (40 + i, 52, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"[red]{i}.png")
    return root


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs `anysize predict` on a console of 60 columns and returns what it prints."""
    monkeypatch.setenv("COLUMNS", "60")

    def run(*arguments: str | Path) -> str:
        build_app()(["predict", *map(str, arguments)], result_action="return_value")
        return capsys.readouterr().out

    return run


def column_of(shown: str, number: int) -> str:
    """A column of the table on screen, its lines joined; columns are three characters apart."""
    lines = shown.splitlines()
    rule = next(i for i, line in enumerate(lines) if set(line.strip()) == {"─"})
    starts = [match.start() for match in re.finditer(r"(?<=   )\S|(?<=^ )\S", lines[rule - 1])]
    start, end = [*starts, None][number : number + 2]
    return "".join(line[start:end].strip() for line in lines[rule + 1 : lines.index(" " * len(lines[rule]), rule)])


@pytest.mark.slow
def test_masks_go_beside_the_run_unless_a_folder_is_given(
    trained_scenes: Trained, images: Path, tmp_path: Path, command: Callable[..., str]
) -> None:
    run = tmp_path / "run"
    run.symlink_to(trained_scenes("segmentation"))
    shown = command(f"{run}/", images)
    assert f"{run}-predicted holds predictions.csv" in shown
    assert sorted(path.name for path in (tmp_path / "run-predicted").iterdir()) == [
        "masks",
        "overlays",
        "predictions.csv",
    ]
    assert sorted(path.name for path in (tmp_path / "run-predicted/masks").iterdir()) == [
        f"[red]{i}.png" for i in range(3)
    ]
    assert "share(" not in shown  # a column a class stays in the file
    assert f"{images}/[red]0.png" in column_of(shown, 0)  # a name is no markup, and none is cut
    shown = command(run, images / "[red]0.png", images / "[red]1.png", "--out", tmp_path / "elsewhere", "--size", "32")
    assert f"{tmp_path}/elsewhere holds" in shown
    assert len(pd.read_csv(tmp_path / "elsewhere/predictions.csv")) == 2


@pytest.mark.slow
def test_settings_come_after_the_images(
    trained_scenes: Trained, images: Path, tmp_path: Path, command: Callable[..., str]
) -> None:
    run = trained_scenes("segmentation")
    command(run, images, "--out", tmp_path / "plain")
    command(run, images, "--out", tmp_path / "flipped", "--evaluation.flip", "true", "--evaluation.scales", "0.5,1")
    plain, flipped = (pd.read_csv(tmp_path / name / "predictions.csv") for name in ("plain", "flipped"))
    assert list(plain["file"]) == list(flipped["file"])
    assert not plain.equals(flipped)
    with pytest.raises(UserError, match=r"evaluation\.flipp"):
        command(run, images, "--out", tmp_path / "wrong", "--evaluation.flipp", "true")
    with pytest.raises(UserError, match=r"evaluation\.scales is set, but the task 'multilabel' does not use it"):
        command(trained_scenes("multilabel"), images, "--out", tmp_path / "wrong", "--evaluation.scales", "0.5,1")


@pytest.mark.slow
def test_labels_are_shown_for_the_first_images_and_written_for_all(
    trained_scenes: Trained, tmp_path: Path, command: Callable[..., str]
) -> None:
    root = tmp_path / "many"
    root.mkdir()
    for i in range(23):
        Image.fromarray(np.full((16, 16, 3), 10 * i, np.uint8)).save(root / f"{i:02}.png")
    shown = command(trained_scenes("multilabel"), root, "--out", tmp_path / "out", "--size", "32")
    assert "... and 3 more" in shown
    assert f"{root}/19.png" in column_of(shown, 0)
    assert f"{root}/20.png" not in column_of(shown, 0)
    assert "labels" in shown
    assert "p(Bag)" not in shown
    table = pd.read_csv(tmp_path / "out/predictions.csv")
    assert [Path(name).name for name in table["file"]] == [f"{i:02}.png" for i in range(23)]
    assert "p(Bag)" in table


def test_what_is_missing_is_said(trained_scenes: Trained, tmp_path: Path, command: Callable[..., str]) -> None:
    run = trained_scenes("multilabel")
    with pytest.raises(UserError, match="no image given"):
        command(run, "--out", tmp_path / "out")
    with pytest.raises(UserError, match="is not there; expected an image file or a folder"):
        command(run, tmp_path / "nowhere", "--out", tmp_path / "out")
    with pytest.raises(UserError, match="has no checkpoint 'lst'"):
        command(run, tmp_path, "--out", tmp_path / "out", "--checkpoint", "lst")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("verb", ["predict", "policy"])
def test_the_help_says_that_images_are_given(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    build_app()([verb, "--help"], result_action="return_value")
    shown = " ".join(capsys.readouterr().out.split())
    assert "IMAGES image files" in shown


def test_a_file_that_is_left_out_is_named_once(
    trained_scenes: Trained,
    images: Path,
    tmp_path: Path,
    command: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    (images / "bad.png").write_text("no image")
    with pytest.raises(SystemExit):
        command(trained_scenes("segmentation"), images, "--out", tmp_path / "out", "--data.max_pixels", "2100")
    shown = capsys.readouterr().out
    assert "3 of 4 images left out" in shown  # two are larger
    assert "bad.png" not in shown
    assert caplog.text.count("bad.png") == 1
    assert caplog.text.count("and data.max_pixels is 2,100") == 2


@pytest.mark.slow
def test_grad_cam_shows_a_class_at_several_sizes(
    trained_scenes: Trained, images: Path, tmp_path: Path, command: Callable[..., str]
) -> None:
    shown = command(
        trained_scenes("multilabel"), images, "--grad-cam", "--sizes", "32,48", "--html", tmp_path / "c.html"
    )
    assert "32 px" in shown
    assert "c.html is written" in shown.replace("\n", "")
    assert (tmp_path / "c.html").read_text(encoding="utf-8").count('alt="what speaks for') == 6


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--grad-cam", "--out", "there"], "--out says nothing to --grad-cam; leave it out, and name the page"),
        (["--grad-cam", "--size", "28"], "--size says nothing to --grad-cam; leave it out, and give --sizes"),
        (["--grad-cam", "--runtime", "torch"], "--runtime says nothing to --grad-cam"),
        (["--grad-cam", "--threads", "2"], "--threads says nothing to --grad-cam"),
        (["--sizes", "14,28"], "--sizes is for --grad-cam alone; add that, or leave it out"),
        (["--target", "Bag"], "--target is for --grad-cam alone"),
    ],
)
def test_options_that_do_not_go_together_are_refused(images: Path, options: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        build_app()(["predict", str(images), str(images), *options], result_action="return_value")
