"""An elastic run: what it writes, and its policy from the command line and the library."""

import numpy as np
import pytest
from PIL import Image

import anysize
from anysize.cli import build_app
from anysize.registry import UserError
from anysize.reports.reading import Run

TINY = {
    "model.name": "resnet14",
    "training.epochs": 1,
    "data.limit": 60,
    "training.batch_size": 30,
    "evaluation.calibration_images": 30,
    "sizes.mix": "fixed",
    "training.equal_flops": False,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "elastic"
    return anysize.train("quickstart-fixed", {**TINY, "model.elasticize": "auto"}, run=folder)


def test_a_trained_elastic_run_holds_its_policy(run):
    policy = Run.read(run).scale_policy
    every = policy[policy["label"] == ""]
    assert every["block"].tolist() == ["layer1.0", "layer1.1", "layer2.1"]
    assert every["images"].tolist() == [60] * 3
    assert every["low_share"].between(0.01, 0.99).all()
    assert len(policy) == 3 * 11
    assert "Scale policy" in (run / "report.html").read_text()


def test_a_run_that_was_stopped_while_it_measured_does_so_when_it_is_called_again(run):
    before = (run / "scale_policy.csv").read_text()
    (run / "scale_policy.csv").unlink()
    anysize.train("quickstart-fixed", {**TINY, "model.elasticize": "auto"}, run=run)
    assert (run / "scale_policy.csv").read_text() == before


def test_measured_again_it_is_the_same_and_at_another_size_another(run):
    before = Run.read(run).scale_policy
    again = anysize.run_scale_policy(run)
    assert again["low_share"].to_numpy() == pytest.approx(before["low_share"].to_numpy(), abs=1e-5)
    larger = anysize.run_scale_policy(run, size=41, limit=20)
    assert set(larger["size"]) == {41}
    assert larger["images"].max() == 20
    assert not np.allclose(larger["low_share"], before["low_share"], atol=1e-3)


def test_for_image_files(run, tmp_path, capsys):
    rng = np.random.default_rng(0)
    paths = []
    for i, shape in enumerate([(40, 30, 3), (28, 28)]):
        paths.append(str(tmp_path / f"{i}.png"))
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(paths[-1])
    table = anysize.run_scale_policy(run, paths)
    assert table["image"].unique().tolist() == paths
    assert len(table) == 2 * 3
    build_app()(["policy", str(run), *paths, "--size", "32"], result_action="return_value")
    shown = capsys.readouterr().out
    assert "layer2.1" in shown
    assert "1.png" in shown


def test_files_of_one_name_are_told_apart(run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    paths = ["a/cat.png", "b/cat.png", "b/[red].png"]
    for path in paths:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (28, 28), dtype=np.uint8)).save(path)
    build_app()(["policy", str(run), *paths, "a/cat.png"], result_action="return_value")
    shown = capsys.readouterr().out
    assert all(shown.count(path) == 1 for path in paths)
    build_app()(["policy", str(run), *paths[1:]], result_action="return_value")
    shown = capsys.readouterr().out
    assert " cat.png" in shown
    assert " [red].png" in shown


def test_what_is_wrong_is_told(run, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(UserError, match=r"text\.png cannot be read as an image: it cannot be decoded \(it is in no"):
        anysize.run_scale_policy(run, [tmp_path / "text.png"])
    with pytest.raises(UserError, match=r"none\.png is not there; expected an image file"):
        anysize.run_scale_policy(run, [tmp_path / "none.png"])
    with pytest.raises(UserError, match="is a folder; expected an image file"):
        anysize.run_scale_policy(run, [tmp_path])
    with pytest.raises(UserError, match="names no size of at least 1 pixel"):
        anysize.run_scale_policy(run, size=0)
    with pytest.raises(UserError, match="limit is 0; expected at least 1"):
        anysize.run_scale_policy(run, limit=0)
    with pytest.raises(UserError, match="at this size no block has a branch at half resolution"):
        anysize.run_scale_policy(run, size=1)
    small = {"data.limit": 20, "training.batch_size": 10, "evaluation.calibration_images": 10, "evaluation.pictures": 0}
    plain = anysize.train("quickstart-fixed", {**TINY, **small}, run=tmp_path / "plain")
    assert not (plain / "scale_policy.csv").exists()
    with pytest.raises(UserError, match="has no block with a branch at half resolution"):
        anysize.run_scale_policy(plain)
