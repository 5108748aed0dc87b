"""Run folders, data sets and weight files that somebody prepared on purpose, to every verb that reads them.

`outcomes` has the rules. Beside them: nothing that a file names is run, what lies outside is neither changed nor, where
a name leads there, read; a page holds the scripts of its policy alone; a bomb is refused for what it is.
"""

import base64
import hashlib
import os
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import hostile_inputs as hostile
import outcomes
import pytest
import tiny_runs
from forks import Done, Forks
from hostile_inputs import Trap
from PIL import Image
from verbs import VERBS

TASK = "averaged"
SECRET = "a secret that is nobody's business"
RUNS = [
    pytest.param(make, verb, id=f"{make.__name__}-{verb}", marks=pytest.mark.exhaustive if later else pytest.mark.slow)
    for make, verbs in hostile.RUNS.items()
    for later, verb in enumerate(verbs.split(", "))
]
DATA = [
    pytest.param(make, verb, id=f"{make.__name__}-{verb}", marks=pytest.mark.exhaustive if later else pytest.mark.slow)
    for make, name in hostile.DATA.items()
    for later, verb in enumerate(("check", "train", "predict", "evaluate"))
    if verb != "evaluate" or name in ("folder", "mnist")  # the run has one class an image
]
_NO_MEMORY = re.compile(r"out of memory|too little memory|not enough memory|cannot allocate|memory ran out", re.I)


class Page(HTMLParser):
    """What of a page acts: its scripts, its policy, its handlers, and what it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.faults: list[str] = []
        self.scripts: list[str] = []
        self.policy = ""
        self._script: list[str] | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == hostile.TAG or tag in ("iframe", "object", "embed", "base", "form", "link"):
            self.faults.append(f"tag: <{tag}> in the page")
        for name, value in given.items():
            loads = name in ("src", "href") and not value.startswith(("data:", "#"))
            if name.startswith("on") or loads or "url(" in value or "javascript:" in value.lower():
                self.faults.append(f"tag: <{tag} {name}={value[:60]!r}>")
        if tag == "meta" and given.get("http-equiv", "").lower() == "content-security-policy":
            self.policy = given["content"]
        elif tag == "meta" and "http-equiv" in given:
            self.faults.append(f"tag: <meta {given}>")
        acts = given.get("type", "") in ("", "text/javascript", "module")
        self._script = [] if tag == "script" and acts else None

    def handle_data(self, data: str) -> None:
        if self._script is not None:
            self._script.append(data)

    def handle_endtag(self, tag: str) -> None:
        if tag == "script" and self._script is not None:
            self.scripts.append("".join(self._script))
        self._script = None


def faults_of_page(path: Path) -> list[str]:
    """What a page does that it must not."""
    page = Page(path.read_text(encoding="utf-8"))
    rules = dict(part.split(None, 1) for part in page.policy.split(";") if len(part.split(None, 1)) == 2)
    allowed = rules.get("script-src", rules.get("default-src", "'unsafe-inline'"))
    if "'unsafe-inline'" in allowed:
        return [*page.faults, "tag: the policy of the page allows any script"]
    for script in page.scripts:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        if f"'sha256-{digest}'" not in allowed:
            page.faults.append(f"tag: a script that the policy does not know: {script[:80]!r}")
    return page.faults


@pytest.fixture
def trap(place: Path) -> Trap:
    """A folder beside the case's with what is precious and what is secret."""
    outside = place / "outside"
    outside.mkdir()
    for name in ("secret.txt", "precious.txt"):
        (outside / name).write_text(f"{SECRET}\n")
    for name in ("private.png", "private.jpg"):
        Image.linear_gradient("L").resize((16, 16)).convert("RGB").save(outside / name)
    return Trap(outside, place / "marker")


def check(done: Done, place: Path, trap: Trap, before: dict[str, str], may: tuple[str, ...], case: str) -> None:
    """Fail for a fault, by the rules of `outcomes`, of a command in the folder `place`."""
    outcomes.blame("code: what a file names was run" if trap.marker.exists() else "", case, done.said)
    outcomes.blame(outcomes.manner(done), case, done.said)
    after = outcomes.digest(place, lambda path: path in [place / name for name in may])
    outcomes.blame(outcomes.changed(before, after), case, done.said)
    private = base64.b64encode((trap.outside / "private.png").read_bytes()).decode()
    secret = base64.b64encode(SECRET.encode()).decode()[:30]
    for path in place.rglob("*.html"):
        if path.is_file() and not path.is_symlink() and trap.outside not in path.parents:
            outcomes.blame("".join(faults_of_page(path)[:1]), case, done.said)
            text = path.read_text()
            shown = private in text or secret in text
            outcomes.blame("outside: the page shows a file from elsewhere" if shown else "", case, done.said)


@pytest.mark.parametrize(("make", "verb"), RUNS)
def test_a_hostile_run_folder_does_nothing_by_itself(
    forks: Forks, folders: Callable[[str, bool], Path], data: Path, place: Path, trap: Trap,
    make: hostile.Hostility, verb: str,
) -> None:  # fmt: skip
    called = VERBS[verb]
    run, out = place / "run", place / "out"
    shutil.copytree(folders(TASK, not called.stopped), run)
    (run / "report.html").unlink(missing_ok=True)
    for folder in (out, place / "tmp"):
        folder.mkdir()
    make(run, trap)
    before = outcomes.digest(place, lambda path: path in (run, out, place / "tmp"))
    words = called.arguments(TASK, run, out, data)
    done = forks(*words, folder=place, report=True, environment={"TMPDIR": str(place / "tmp")}, watched=trap.outside)
    case = f"[{make.__name__}-{verb}]"
    check(done, place, trap, before, ("run", "out", "tmp"), case)
    if "outside" in make.__name__ and done.opened:
        outcomes.blame(f"outside: {Path(done.opened[0]).name} was opened", case, done.said)


@pytest.mark.parametrize(("make", "verb"), DATA)
def test_a_hostile_data_set_is_read_no_further_than_its_folder(
    forks: Forks, folders: Callable[[str, bool], Path], data: Path, place: Path, trap: Trap,
    make: hostile.Hostility, verb: str,
) -> None:  # fmt: skip
    root, run = place / "data", place / "run"
    root.mkdir()
    make(root, trap)
    name = hostile.DATA[make]
    settings = ["--data.name", name, "--data.root", str(root), "--data.workers", "0"]
    before = outcomes.digest(place, lambda path: path in (run, place / "out", root))
    if verb == "train":
        case = {"coco": "multilabel", "folder-labels": "multilabel", "voc": "segmentation"}.get(name, "mixed")
        words = tiny_runs.command(case, run, data, training__epochs=1, data__limit=0)
        words = without(words, "--data.name", "--data.root", "--data.workers") + settings
    elif verb == "check":
        words = ["data", "check", name, *settings[2:]]
    else:
        shutil.copytree(folders(TASK, True), run)
        pictures = [str(path) for path in sorted(root.rglob("*.[jp]*g"))]
        words = ["evaluate", str(run), *settings] if verb == "evaluate" else ["predict", str(run), *pictures]
        words += ["--out", str(place / "out")] if verb == "predict" else ["--sizes", "16"]
    done = forks(*words, folder=place, watched=trap.outside)
    case = f"[{make.__name__}-{verb}]"
    check(done, place, trap, before, ("run", "out", "data"), case)
    if done.opened:
        outcomes.blame(f"outside: {Path(done.opened[0]).name} was opened", case, done.said)
    bomb = "bomb" in make.__name__ or "large" in make.__name__ or "for_ever" in make.__name__
    if bomb and _NO_MEMORY.search(done.said):
        outcomes.blame("memory: it was taken, and ran out", case, done.said)


def without(words: list[str], *names: str) -> list[str]:
    """A command line without these settings."""
    kept: list[str] = []
    for word in words:
        if kept and kept[-1] in names:
            kept.pop()
        else:
            kept.append(word)
    return kept


WEIGHTS = (
    "code", "float8", "complex", "sparse", "meta", "quantized", "not_finite", "text", "nested", "large", "none",
    "float8_safetensors", "lying_safetensors", "pipe", "device",
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "verb"),
    [
        pytest.param(name, verb, marks=pytest.mark.slow if verb == "import" and n < 3 else pytest.mark.exhaustive)
        for n, name in enumerate(WEIGHTS)
        for verb in ("import", "train")
    ],
)
def test_a_hostile_file_of_weights_is_loaded_whole_or_refused(
    forks: Forks, data: Path, place: Path, trap: Trap, name: str, verb: str
) -> None:
    file = hostile.weight_files(place, trap)[name]
    before = outcomes.digest(place, lambda path: path == place / "out")
    words = ["import", str(file), "--as", "resnet8", "--channels", "1", "--partial", "--out", str(place / "out")]
    if verb == "train":
        words = tiny_runs.command("mixed", place / "out", data, model__name="resnet8", model__options={})
        words += ["--model.weights", str(file)]
    done = forks(*words, folder=place, watched=trap.outside)
    check(done, place, trap, before, ("out",), f"[{name}-{verb}]")
    assert done.code == 2 or os.listdir(place / "out"), done.said
