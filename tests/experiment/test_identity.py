"""A run goes on with the data that it began with, wherever that lies, and with no other."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from image_files import smooth_image, write_folder

from anysize.data import decode
from anysize.data.settings import DataSettings
from anysize.experiment.calibrate import calibrate
from anysize.experiment.evaluate import evaluate
from anysize.experiment.identity import check_same_data, check_same_decoder, folder_for, how_classes_differ, identity_of
from anysize.experiment.loaded import load_run
from anysize.experiment.quantize import quantize_run
from anysize.experiment.targets import open_sources
from anysize.experiment.train import train
from anysize.recipe import Recipe, override
from anysize.registry import UserError
from anysize.reports.reading import Run
from anysize.training.checkpoint.files import read_checkpoint

SETTINGS = {
    "data.workers": 0, "model.name": "cifar_resnet", "model.options": {"depth": 8, "widths": [8, 8, 8]},
    "sizes.mix": "fixed", "training.epochs": 1, "training.equal_flops": False, "training.batch_size": 4,
    "evaluation.pictures": 0,
}  # fmt: skip


def pets(root: Path, names: tuple[str, ...] = ("cat", "dog"), first: int = 0) -> Path:
    for split in ("train", "valid", "test"):
        for number, name in enumerate(names):
            (root / split / name).mkdir(parents=True)
            for i in range(2):
                smooth_image(first + 2 * number + i, 12, 12).save(root / split / name / f"{i}.png")
    return root


def test_runs_and_other_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.chdir(tmp_path)
    given = {**SETTINGS, "data.root": str(pets(tmp_path / "a"))}
    for split in ("train", "valid"):
        (tmp_path / f"a/{split}/dog/{split}.heic").write_bytes(b"")
    first = train("folder", given)
    log = (first / "log.txt").read_text()
    assert [log.count(f"{split}.heic") for split in ("train", "valid")] == [1, 1]  # what was left out is named
    other = train("folder", {**given, "data.root": str(pets(tmp_path / "b", ("apple", "pear"), 9))})
    assert other != first
    assert other.name.startswith(first.name)
    assert load_run(other).preprocessing.classes == ("apple", "pear")
    shutil.move(tmp_path / "b", tmp_path / "moved")
    assert train("folder", {**given, "data.root": str(tmp_path / "moved")}) == other
    assert train("folder", given) == first

    longer = {**given, "training.epochs": 2}
    (tmp_path / "a/train/cat/1.png").rename(tmp_path / "a/train/cat/2.png")  # another file of the same size
    with pytest.raises(UserError, match="began with other train images: 4 in"):
        train("folder", {**given}, run=first)
    (tmp_path / "a/train/cat/2.png").rename(tmp_path / "a/train/cat/1.png")
    for split in ("train", "valid", "test"):
        (tmp_path / f"a/{split}/cat").rename(tmp_path / f"a/{split}/zebra")
    said = r"output 0 was trained as 'cat' and is 'dog' in the data .* --data.renamed_classes '{\"cat\": \"zebra\"}'"
    with pytest.raises(UserError, match=said):
        train("folder", longer, run=first, allow_changes=True)
    for other_classes in (lambda: evaluate(first, [12]), lambda: calibrate(first, 12), lambda: quantize_run(first)):
        with pytest.raises(UserError, match=said):
            other_classes()
    assert not (first / "checkpoints/calibrated-12").exists()
    renamed = {**longer, "data.renamed_classes": {"cat": "zebra"}}
    assert train("folder", renamed, run=first, allow_changes=True) == first
    assert load_run(first).preprocessing.classes == ("zebra", "dog")

    evaluate(first, [12], calibrate=False)
    evaluate(first, [16], calibrate=False)
    tested = evaluate(first, [12], calibrate=False, split="test")
    evaluate(first, [12], calibrate=False, overrides={"evaluation.copies": 2})
    assert (tested["split"].tolist(), tested["settings"].tolist()) == (["test"], [""])
    run = Run.read(first)
    assert (run.evaluation["size"].tolist(), run.evaluated_with) == ([12], "evaluation.copies=2")
    others = {what: rows["size"].tolist() for what, rows in run.other_evaluations.items()}
    assert others == {"last, validation images": [12, 16], "last, test images": [12]}
    assert "not those that the run was trained with" not in caplog.text
    smooth_image(7, 12, 12).save(tmp_path / "a/valid/dog/7.png")
    evaluate(first, [12], calibrate=False)
    assert "the validation images are not those that the run was trained with: 4 in" in caplog.text
    caplog.clear()
    evaluate(first, [12], calibrate=False, overrides={"data.limit": 2})  # which says itself that they are others
    assert "not those" not in caplog.text
    with pytest.raises(UserError, match="split is 'tets': did you mean 'test'"):
        evaluate(first, [12], split="tets")


def test_weights_of_other_classes_give_no_head(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = {**SETTINGS, "data.root": str(pets(tmp_path / "a"))}
    first = train("folder", given, run=tmp_path / "first")
    train("folder", {**given, "model.weights": str(first)}, run=tmp_path / "again")
    assert "head" not in capsys.readouterr().out
    fruit = pets(tmp_path / "b", ("apple", "pear"))
    train("folder", {**given, "data.root": str(fruit), "model.weights": str(first)}, run=tmp_path / "fruit")
    out = " ".join(capsys.readouterr().out.split())
    assert "the head fc is new, since the weights are for other classes" in out
    assert "splits of" in out
    again = {**given, "model.weights": str(first)}
    assert train("folder", again, run=tmp_path / "again") == tmp_path / "again"
    train("folder", given, run=first, resume_from="never")  # trained anew, it has other figures of time at least
    with pytest.raises(UserError, match=r"began from other weights than .*first holds now: give a new folder"):
        train("folder", again, run=tmp_path / "again")
    shutil.rmtree(first)
    train("folder", again, run=tmp_path / "again")  # it needs them no more


def identity(**changes: Any) -> dict[str, Any]:
    recipe = override(Recipe(), {f"data.{key}": value for key, value in changes.items()})
    if recipe.data.name != "folder":
        recipe = override(recipe, {"task.name": "multilabel"})
    return identity_of(open_sources(recipe), recipe.data)


def test_identity_is_of_names_sizes_and_labels(tmp_path: Path) -> None:
    root = pets(tmp_path / "a")
    known = identity(name="folder", root=str(root))
    assert known == identity(name="folder", root=f"{root}/")
    assert known["train"]["images"] == 4
    shutil.copytree(root, tmp_path / "copy")
    assert identity(name="folder", root=str(tmp_path / "copy")) == known
    with (root / "valid/dog/0.png").open("ab") as file:
        file.write(b"x")
    changed = identity(name="folder", root=str(root))
    assert changed["train"] == known["train"]
    assert changed["validation"] != known["validation"]

    for split in ("train", "valid"):
        (root / f"{split}.csv").write_text(f"image,labels\n{split}/cat/0.png,red\n{split}/cat/1.png,blue\n")
    labels = identity(name="folder-labels", root=str(root))
    (root / "train.csv").write_text("image,labels\ntrain/cat/0.png,blue\ntrain/cat/1.png,red\n")
    assert identity(name="folder-labels", root=str(root))["train"]["digest"] != labels["train"]["digest"]
    assert identity(name="scenes", limit=2) == {}


def test_what_a_checkpoint_of_an_earlier_version_does_not_tell_is_not_compared(tmp_path: Path) -> None:
    held = {"preprocessing": {"classes": ["cat", "dog"]}}
    check_same_data(held, ("cat", "dog"), {"train": {"digest": "x"}}, DataSettings(), allow_changes=False)
    with pytest.raises(UserError, match=r"output 0 was trained as 'cat' and is 'dog' .* train a new head"):
        check_same_data(held, ("dog", "cat"), {}, DataSettings(), allow_changes=True)
    assert "output 2 was trained as none and is 'eel'" in how_classes_differ(("cat", "dog"), ("cat", "dog", "eel"))
    many = [[f"{letter}{i}" for i in range(1000)] for letter in "ab"]
    assert how_classes_differ(*many).endswith(', "a3": "b3", ...}\'')
    run = tmp_path / "run"
    run.mkdir()
    (run / "environment.json").write_text('{"python": "3"}')
    assert folder_for(run, {"train": {"digest": "x"}}, allow_changes=False) == run


def test_a_run_keeps_what_decodes_its_images_to_scale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_folder(tmp_path / "images", 3, lambda i: (130 + 9 * i, 150))  # too large to be held in memory
    given = {
        **SETTINGS, "data.root": str(root), "data.decode": "scaled", "sizes.base": 16, "augment.scale": (0.5, 1.0),
    }  # fmt: skip
    runs = [train("folder", {**given, "data.workers": workers}, run=tmp_path / f"{workers}") for workers in (0, 2)]
    full = train("folder", {**given, "data.decode": "full"}, run=tmp_path / "full")
    saved = [read_checkpoint(run / "checkpoints/last") for run in (*runs, full)]
    weights = [each.model for each in saved]
    same = [all(torch.equal(weights[0][name], other[name]) for name in weights[0]) for other in weights[1:]]
    assert same == [True, False]
    told = [json.loads((run / "environment.json").read_text()).get("decoder") for run in (*runs, full)]
    assert [each.state.get("decoder") for each in saved] == told == [decode.decoder(), decode.decoder(), None]
    with pytest.raises(UserError, match=r"data\.decode was 'scaled' and is now 'full'"):
        train("folder", {**given, "data.decode": "full"}, run=runs[0])
    assert train("folder", given, run=runs[0]) == runs[0]

    monkeypatch.setattr(decode, "simplejpeg", None)
    with pytest.raises(UserError, match=r"by simplejpeg .* now by PIL .*; pip install simplejpeg==.* or go on with"):
        train("folder", given, run=runs[0])
    train("folder", given, run=runs[0], allow_changes=True)
    assert "now by PIL" in (runs[0] / "log.txt").read_text()


def test_a_new_version_of_the_decoder_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    held, scaled = {"decoder": "PIL 9.0.0"}, DataSettings(decode="scaled")
    monkeypatch.setattr(decode, "simplejpeg", None)
    assert "scale by PIL 9.0.0 so far and are now by PIL" in check_same_decoder(held, scaled, allow_changes=False)
    assert check_same_decoder(held, DataSettings(), allow_changes=False) == ""
    assert check_same_decoder({}, scaled, allow_changes=False) == ""
