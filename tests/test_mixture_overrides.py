"""Another mixture of sizes drops what describes the one before it, and keeps what both take."""

from pathlib import Path

from anysize.recipe import load_recipe, origins, override
from anysize.sizes.settings import SizeSettings

MOVING = """
[sizes]
mix = "window"
base = 28
sizes = [14, 21, 28]
even = 0.3
"""


def test_on_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "moving.toml"
    path.write_text(MOVING)
    assert load_recipe(str(path), {"sizes.mix": "B+"}).sizes == SizeSettings(mix="B+", base=28)
    uniform = load_recipe(str(path), {"sizes.mix": "uniform"}).sizes
    assert uniform == SizeSettings(mix="uniform", base=28, sizes=(14, 21, 28))
    same = load_recipe(str(path), {"sizes.base": 32}).sizes
    assert same == SizeSettings(mix="window", base=32, sizes=(14, 21, 28), even=0.3)


def test_what_was_dropped_is_told_as_a_default(tmp_path: Path) -> None:
    path = tmp_path / "moving.toml"
    path.write_text(MOVING)
    assert origins(str(path))["sizes.sizes"] == origins(str(path))["sizes.even"] == str(path)
    told = origins(str(path), {"sizes.mix": "uniform"})
    assert (told["sizes.mix"], told["sizes.sizes"], told["sizes.even"]) == ("override", str(path), "default")


def test_what_is_given_with_it_stays_and_is_refused_later(tmp_path: Path) -> None:
    path = tmp_path / "moving.toml"
    path.write_text(MOVING)
    given = load_recipe(str(path), {"sizes.even": 0.2, "sizes.mix": "B+"}).sizes
    assert (given.even, given.sizes) == (0.2, ())  # the schedule says that even is not used
    assert override(load_recipe(str(path)), {"sizes.even": 0.2}).sizes.sizes == (14, 21, 28)


def test_in_a_file_that_extends_another(tmp_path: Path) -> None:
    (tmp_path / "moving.toml").write_text(MOVING)
    own = tmp_path / "own.toml"
    own.write_text('extends = "moving.toml"\n[sizes]\nmix = "custom"\nweights = { 14 = 1.0, 28 = 1.0 }\n')
    assert load_recipe(str(own)).sizes == SizeSettings(mix="custom", base=28, weights={"14": 1.0, "28": 1.0})
    own.write_text('extends = "moving.toml"\n[sizes]\nmix = "B+"\n[[sizes.phases]]\nepoch = 3\nmix = "window"\n')
    assert load_recipe(str(own)).sizes.sizes == (14, 21, 28)  # which the phase takes
