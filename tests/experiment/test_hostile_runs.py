"""Run folders of others and every verb that takes one: no hang, no file outside is read or written, one sentence."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from in_the_place import KINDS, replaced

from anysize.experiment.run_folder import alone_in, forget_results, made, read_recipe
from anysize.experiment.train import train
from anysize.files import name_beside
from anysize.recipe import Recipe
from anysize.registry import UserError
from anysize.reports import run_files
from anysize.reports.run_log import RunLog


@pytest.fixture(scope="module")
def trained(tiny: Callable[..., Recipe], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, to be copied."""
    return train(
        tiny(training__epochs=1, data__limit=32, sizes__mix="fixed"), run=tmp_path_factory.mktemp("runs") / "a"
    )


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text("secret")
    return path


VERBS = (
    ("evaluate", "run", "--sizes", "28"),
    ("predict", "run", "image.png"),
    ("calibrate", "run", "--size", "28"),
    ("policy", "run"),
    ("export", "run"),
    ("quantize", "run", "--no-onnx"),
    ("train", "run"),
    ("train", "quickstart", "--model.weights", "run", "--out", "new"),
)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["recipe.toml", "state.json", "model.safetensors"])
@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_what_every_verb_needs(
    run: Path, anysize: Callable[..., CompletedProcess[str]], verb: tuple[str, ...], name: str
) -> None:
    for kind in KINDS:
        for path in run.rglob(name):
            if path.is_dir():
                shutil.rmtree(path)
            replaced(path, kind)
        if (name, kind) == ("recipe.toml", "empty") or (name == "recipe.toml" and "--model.weights" in verb):
            continue  # a recipe of defaults; weights need no recipe
        done = anysize(*verb)
        assert done.returncode == 2, (kind, done.stderr)
        assert name.partition(".")[0] in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
        assert len(done.stderr) < 700


def test_links_of_a_run_folder_lead_nowhere(run: Path, secret: Path, tiny: Callable[..., Recipe]) -> None:
    (run / ".lock").unlink()
    (run / ".lock").symlink_to(secret)
    with pytest.raises(UserError, match=r"cannot write the run folder .*run: \.lock: it is a link, and no file"):
        train(run)
    (run / ".lock").unlink()
    names = "log.txt", "metrics.csv", "steps.csv", "evaluation.csv", "report.html", "environment.json", "recipe.toml"
    for name in names:
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(secret)
    shutil.rmtree(run / "predictions")
    (run / "predictions").symlink_to(secret.parent)
    train(tiny(training__epochs=1, data__limit=32, sizes__mix="fixed"), run=run, resume_from="never")
    assert secret.read_text() == "secret"
    assert sorted(path.name for path in secret.parent.iterdir()) == ["run", "secret"]
    assert not (run / "metrics.csv").is_symlink()
    assert (run / "predictions/predictions.json").is_file()
    assert (run / "log.txt").is_symlink()


def test_checkpoints_are_written_into_the_folder_alone(run: Path, tmp_path: Path) -> None:
    os.rename(run / "checkpoints", tmp_path / "elsewhere")
    (run / "checkpoints").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"checkpoints is a link to .*elsewhere, and what belongs to a run"):
        train(run)
    (run / "checkpoints").unlink()
    os.rename(tmp_path / "elsewhere", run / "checkpoints")
    (tmp_path / "link").symlink_to(run)  # of the run itself, as to another disk
    assert train(tmp_path / "link") == tmp_path / "link"


@pytest.mark.parametrize("kind", ["a pipe", "a link to nothing", "a folder", "no UTF-8", "nested", "text"])
def test_the_record_of_an_owner_may_be_anything(tmp_path: Path, kind: str) -> None:
    path = replaced(tmp_path / ".owner", kind)
    os.utime(path, (0, 0), follow_symlinks=False)
    if kind == "a folder":
        with pytest.raises(UserError, match=r"cannot write the run folder .*: \.owner: "), alone_in(tmp_path):
            pass
        return
    with alone_in(tmp_path):
        assert path.is_file()


def test_a_record_of_another_owner_says_what_it_is(tmp_path: Path) -> None:
    odd = '{"host": "a\\u001b[2J", "pid": 7}', '{"host": "a", "pid": "7"}', '{"host": [], "pid": -1}', "[]"
    for record in odd:
        (tmp_path / ".owner").write_text(record)
        with (
            pytest.raises(UserError, match=r"is being trained by (another process|process 7 on a\\x1b)"),
            alone_in(tmp_path),
        ):
            pass


def test_what_a_killed_save_left_goes_where_the_run_is_done(run: Path) -> None:
    saves = run / "checkpoints"
    for name in (".last.old", ".best.new"):
        shutil.copytree(saves / "last", saves / name)
    shutil.move(saves / "best", saves / ".best.old")  # the only one: it was killed before the new one had its name
    train(read_recipe(run), run=run)
    assert sorted(path.name for path in saves.glob(".*")) == [".best.old"]


def test_what_a_killed_process_left_half_written_goes(tmp_path: Path) -> None:
    (tmp_path / "kept.tmp").touch()
    left = [name_beside(tmp_path / name) for name in ("metrics.csv", "predictions", "report.html")]
    left[1].mkdir()
    (left[1] / "00-image.jpg").touch()
    for path in (left[0], left[2]):
        path.touch()
    (tmp_path / ".clockabcdefgh").touch()
    for path in (*left, tmp_path / ".clockabcdefgh"):
        os.utime(path, (1, 1))
    with made(tmp_path), alone_in(tmp_path):
        own = name_beside(tmp_path / "log.txt")
        own.touch()
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([".lock", ".owner", "kept.tmp", own.name])


def test_side_files_that_are_none_stop_no_training(tmp_path: Path) -> None:
    for name, kind in (("metrics.csv", "a pipe"), ("evaluation.csv", "a folder"), ("log.txt", "a link to nothing")):
        replaced(tmp_path / name, kind)
    forget_results(tmp_path)
    with RunLog(tmp_path, 2) as log:
        log.table([{"epoch": 1, "train_loss": 0.5}])
        log.warning("\x1b[2J[bold]")
    assert [row["epoch"] for row in run_files.read_rows(tmp_path / "metrics.csv")] == ["1"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evaluation.csv", "log.txt", "metrics.csv"]
