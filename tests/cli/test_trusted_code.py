"""Code that a file names is run by no verb unless the user consents; code that the user names is."""

import json
import os
import py_compile
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hostile_runs import rename_model, write_builder

from anysize.experiment.importing import import_checkpoint
from anysize.experiment.loaded import load_run
from anysize.experiment.planning import plan
from anysize.experiment.published import load_model
from anysize.models import trust
from anysize.models.spec import ModelSpec, create_model
from anysize.recipe import Recipe, load_recipe, override

Anysize = Callable[..., subprocess.CompletedProcess[str]]

VERBS = (
    "train RUN", "train RUN/recipe.toml --out new", "plan RUN/recipe.toml", "evaluate RUN --sizes 28",
    "predict RUN a.png", "calibrate RUN --size 28", "policy RUN", "bench RUN", "quantize RUN", "export RUN",
    "models show RUN",
    "train mine.toml", "plan mine.toml", "recipes show mine.toml",
)  # fmt: skip
STATE = "RUN/checkpoints/last/state.json"
CALLABLES = {
    "torch.hub:load": {"repo_or_dir": ".", "model": "build", "source": "local", "trust_repo": True},
    "os:system": {"command": "touch marker"},
    "builtins:exec": {"source": "open('marker', 'w')"},
    "subprocess:run": {"args": "touch marker", "shell": True},
    "package.inner:build": {},
    "package.nowhere:build": {},
    "torchvision.models:resnet18": {"weights": "IMAGENET1K_V1"},
}


@pytest.fixture(autouse=True)
def nothing_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who has named and consented to nothing before."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "configuration"))
    monkeypatch.setattr(trust, "_consented", set())
    monkeypatch.setattr(trust, "_found", {})
    trust._say_once.cache_clear()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    torch.save(create_model("resnet8", 10, 1).state_dict(), folder / "model.pth")
    settings = {"data.name": "fashion-mini", "data.limit": 20, "sizes.base": 28, "evaluation.pictures": 0}
    settings |= {"training.epochs": 1, "training.equal_flops": False, "training.batch_size": 10}
    return import_checkpoint(folder / "model.pth", "resnet8", out=folder / "run", overrides=settings)


def assert_refused(done: subprocess.CompletedProcess[str], file: str, name: str) -> None:
    said = f"anysize: {file} names code to build the model with, {name!r}"
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert said in done.stderr.replace("checkpoints/best", "checkpoints/last")
    assert "nothing of it was run: look at it, and give --trust-code if you trust it" in done.stderr


def test_no_verb_runs_the_code_that_a_run_or_a_recipe_names(anysize: Anysize, run: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    name = write_builder(tmp_path / "evil.py", marker)
    for given in (name, "evil.py:build"):
        hostile = rename_model(run, tmp_path / "RUN", given)
        (tmp_path / "mine.toml").write_text(f"[model]\nname = {given!r}\n")
        for verb in VERBS:
            file = "RUN/recipe.toml" if "RUN/" in verb else "mine.toml" if "mine" in verb else STATE
            assert_refused(anysize(*verb.split()), file, given)
            assert not marker.exists(), verb
        shutil.rmtree(hostile)
        (tmp_path / "variants.toml").write_text(f"[plain]\n[other]\nmodel.name = {given!r}\n")
        search = ("search", "quickstart", "variants.toml", "--budget", "2", "--sizes", "28")
        assert_refused(anysize(*search), "variants.toml", given)
        assert not marker.exists()
    for where in ("state", "recipe"):
        rename_model(run, tmp_path / "RUN", name, where=where)
        done = anysize("evaluate", "RUN", "--sizes", "28")
        assert "is a checkpoint of another model" in done.stderr
        assert not marker.exists()
        shutil.rmtree(tmp_path / "RUN")


def test_with_consent_it_runs_and_the_same_content_goes_on_to(anysize: Anysize, run: Path, tmp_path: Path) -> None:
    marker, file = tmp_path / "marker", tmp_path / "theirs" / "net.py"
    name = write_builder(file, marker)
    rename_model(run, tmp_path / "RUN", name)
    show = ("models", "show", "RUN")
    assert anysize("recipes", "show", "RUN/recipe.toml").returncode == 0  # it holds every value: nothing is to be run
    assert not marker.exists()
    assert anysize("bench", "RUN", "--repeats", "1", "--no-train", "--trust-code").returncode == 0
    assert marker.exists()
    for verb in (show, ("plan", "RUN/recipe.toml")):
        marker.unlink()
        done = anysize(*verb)
        assert (done.returncode, marker.exists()) == (0, True), done.stderr
    held = tmp_path / "configuration" / "anysize" / "trusted.json"
    assert os.name == "nt" or held.stat().st_mode & 0o777 == 0o600
    marker.unlink()
    elsewhere = f"{shutil.copytree(file.parent, tmp_path / 'copy')}/net.py:build"  # it may read what lies beside it
    rename_model(run, tmp_path / "OTHER", elsewhere)
    assert_refused(anysize("models", "show", "OTHER"), "OTHER/checkpoints/last/state.json", elsewhere)
    file.write_text(file.read_text() + "# edited\n")
    done = anysize(*show)
    assert_refused(done, STATE, name)
    assert "has changed since you trusted it" in done.stderr
    assert not marker.exists()
    assert [anysize("--trust-code", *show).returncode, anysize(*show).returncode] == [0, 0]
    if os.name != "nt":
        held.chmod(0o666)  # somebody else may have written it
        assert_refused(anysize(*show), STATE, name)


@pytest.mark.parametrize("name", CALLABLES)
def test_no_callable_of_any_module_is_called(
    anysize: Anysize, run: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = tmp_path / "marker"
    write_builder(tmp_path / "package" / "__init__.py", marker)
    write_builder(tmp_path / "package" / "inner.py", marker)
    write_builder(tmp_path / "hubconf.py", marker)
    monkeypatch.syspath_prepend(str(tmp_path))
    rename_model(run, tmp_path / "RUN", name, CALLABLES[name])
    for verb in ("evaluate RUN --sizes 28", "plan RUN/recipe.toml", "models show RUN"):
        done = anysize(*verb.split())
        if name == "package.nowhere:build":
            assert "there is no module 'package.nowhere'" in done.stderr
        else:
            assert_refused(done, "RUN/recipe.toml" if "plan" in verb else STATE, name)
    assert not marker.exists()
    assert "package" not in sys.modules


def test_consent_to_a_function_of_a_module_holds_for_the_same_options(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = tmp_path / "marker"
    write_builder(tmp_path / "theirs" / "__init__.py", marker)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "theirs", raising=False)
    same = rename_model(run, tmp_path / "same", "theirs:build", {"repo": "mine"})
    other = rename_model(run, tmp_path / "other", "theirs:build", {"repo": "evil"})
    with trust.trusting_code():
        load_run(same)
    load_run(same)
    with pytest.raises(trust.NotTrusted, match="names code to build the model with, 'theirs:build'; nothing"):
        load_run(other)
    (tmp_path / "theirs" / "__init__.py").write_text("# a later version\n")
    with pytest.raises(trust.NotTrusted, match="'theirs:build', which has changed since"):
        load_run(same)


def test_what_the_user_names_runs_and_the_run_of_it_is_trusted_later(anysize: Anysize, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    write_builder(tmp_path / "mine.py", marker)
    for verb in ("models show mine.py:build", "bench mine.py:build --no-train --repeats 1 --sizes 28"):
        done = anysize(*verb.split())
        assert (done.returncode, marker.exists()) == (0, True), done.stderr
        marker.unlink()
    settings = "--data.limit 20 --training.batch_size 10 --training.epochs 1 --training.equal_flops false --run RUN"
    quick = "--sizes.mix fixed --evaluation.pictures 0"
    done = anysize("train", "quickstart", "--model.name", "mine.py:build", *settings.split(), *quick.split())
    assert done.returncode == 0, done.stderr
    for memory in (trust._consented, trust._found):
        memory.clear()  # as in another process
    for verb in ("models show RUN", "train RUN"):
        done = anysize(*verb.split())
        assert done.returncode == 0, done.stderr
    (tmp_path / "mine.py").write_text((tmp_path / "mine.py").read_text() + "\n")
    assert_refused(anysize("models", "show", "RUN"), STATE, "mine.py:build")
    assert anysize("calibrate", "RUN", "--size", "20", "--model.name", "resnet8").returncode == 2
    done = anysize("train", "RUN", "--model.name", "mine.py:build")
    assert done.returncode == 0, done.stderr


def test_a_compiled_copy_beside_a_file_is_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    name = write_builder(tmp_path / "net.py", tmp_path / "sound")
    source = write_builder(tmp_path / "other.py", marker)
    compiled = Path(
        py_compile.compile(
            source.removesuffix(":build"), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
        )
    )
    shutil.copy(compiled, compiled.with_name(compiled.name.replace("other", "net")))
    create_model(name)
    assert (tmp_path / "sound").exists()
    assert not marker.exists()


def test_in_python_what_the_caller_names_runs_and_what_files_name_does_not(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    marker = tmp_path / "marker"
    write_builder(tmp_path / "mine.py", marker)
    write_builder(tmp_path / "evil.py", marker)
    hostile = rename_model(run, tmp_path / "RUN", "evil.py:build")
    foreign = load_recipe(str(hostile / "recipe.toml"))
    (tmp_path / "below").mkdir()
    for folder in (tmp_path, tmp_path / "below"):  # a relative path means another file there
        monkeypatch.chdir(folder)
        for use in (
            lambda: load_run(hostile), lambda: load_model(hostile / "checkpoints" / "last"), lambda: plan(foreign),
            lambda: plan(override(foreign, {"model.norm": "group"})),
            lambda: ModelSpec.from_dict({"name": "evil.py:build", "num_classes": 2}).build(),
        ):  # fmt: skip
            with pytest.raises(trust.NotTrusted if folder == tmp_path else ValueError):
                use()
    monkeypatch.chdir(tmp_path)
    assert not marker.exists()
    own = Recipe(model=override(Recipe(), {"model.name": "resnet8"}).model.__class__(name="mine.py:build"))
    plan(override(own, {"data.name": "fashion-mini"}))
    ModelSpec("mine.py:build", 2).build()
    assert marker.exists()
    with trust.command_line(trust=False), pytest.raises(trust.NotTrusted, match="a file names code"):
        ModelSpec("mine.py:build", 2).build()  # in a command only what the user gave is the user's
    create_model("evil.py:build")
    load_run(hostile)  # the caller has named the same file


def test_a_folder_that_keeps_nothing_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    name = write_builder(tmp_path / "net.py", tmp_path / "marker")
    (tmp_path / "taken").write_text("")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "taken"))
    for _ in range(2):
        trust.remember(name)
    (said,) = caplog.messages
    assert said.startswith(f"that you trust {trust.shown(name)} cannot be remembered (")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "kept"))
    held = tmp_path / "kept" / "anysize" / "trusted.json"
    held.parent.mkdir(parents=True)
    for damaged in ("", "{", "[]", '{"a": 1}', json.dumps({trust.place_of(name): {"content": 1, "options": [2]}})):
        held.write_text(damaged)
        trust.found({"name": name}, "recipe.toml")
        with pytest.raises(trust.NotTrusted):
            trust.check(name)
    trust.remember(name)
    trust.check(name)
