"""A command that several processes run together: one recipe, one program, one message where something is wrong."""

import contextlib
import functools
import hashlib
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

import anysize
from anysize.data.decode import decoder
from anysize.data.source import Source
from anysize.launch import joined
from anysize.machine import plainly
from anysize.models import trust
from anysize.recipe import Recipe, load_recipe, override, to_dict
from anysize.recipes import recipe_names
from anysize.registry import UserError
from anysize.reports import run_files
from anysize.training.settings import TrainingSettings
from anysize.world import World


def of_run_folder(
    recipe: str | Path | Recipe, run: str | Path | None
) -> tuple[str | Path | Recipe, str | Path | None, bool]:
    """The recipe and the run folder that are meant where a run folder is given as the recipe; and whether it is.

    With another folder as `run`, a new run is trained there by the recipe of the first.

    Raises:
        UserError: a folder that is no run.
    """
    if isinstance(recipe, Recipe) or not (folder := Path(recipe).expanduser()).is_dir():
        return recipe, run, False
    if str(recipe) in recipe_names():  # a folder of the same name is in the way
        return recipe, run, False
    file = folder / run_files.RECIPE
    if not file.exists():
        raise UserError(
            f"{recipe} is no run folder: it has no {run_files.RECIPE}; to train on the images in it: "
            f"anysize train folder --data.root {recipe}"
        )
    return str(file), run or folder, True


def resolve(recipe: str | Path | Recipe, overrides: Mapping[str, Any] | None) -> Recipe:
    """The recipe, or that of a run folder, with its overrides.

    Raises:
        UserError: a bad recipe, or a folder that is no run.
    """
    recipe, _, _ = of_run_folder(recipe, None)
    if not isinstance(recipe, Recipe):
        return load_recipe(str(recipe), overrides)
    trust.consent_unless_found(recipe.model.name)
    return override(recipe, overrides or {})


@contextlib.contextmanager
def joined_for(resolved: Callable[[], Recipe], doing: str = "") -> Iterator[tuple[Recipe, World]]:
    """The recipe and the world of the processes that were launched together, for the length of a block.

    What is wrong with the recipe is said once, by all; what the machine lacks, with what was being done (`doing`).
    """
    error: Exception | None = None
    try:
        recipe = resolved()
        training = recipe.training
    except UserError as own:
        error, training = own, TrainingSettings()
    with joined(training.device, training.timeout_minutes) as world:
        with world.together():
            if error is not None:
                raise error
        with plainly(doing):
            yield recipe, world


def check_alike(world: World, recipe: Recipe, images: Source) -> None:
    """Raise a `UserError` on all processes if one has another recipe, another program or other data than the first."""
    if world.size == 1:
        return
    settings = {f"{section}.{key}": value for section, part in to_dict(recipe).items() for key, value in part.items()}
    settings.pop("data.root")  # machines may keep the images in different places
    own = {
        **settings,
        "the version of anysize": f"{anysize.__version__} ({code_digest()})",
        "the version of torch": torch.__version__,
        "the number of training images": len(images),
        "the chunks that images are shuffled by": _digest(images.chunks() if recipe.data.shuffle_chunks else ()),
        "the classes": ", ".join(images.classes[:10]),
        **({"the decoder of JPEGs": decoder()} if recipe.data.decode == "scaled" else {}),
    }
    (_, first), *others = world.gather((socket.gethostname(), own))
    for rank, (host, other) in enumerate(others, start=1):
        for what, value in other.items():
            if value != first[what]:
                error = UserError(
                    f"process {rank} on {host} differs from process 0: {what} is {value!r} there and {first[what]!r} "
                    "in process 0; start all processes with the same command, program and data"
                )
                with world.together():
                    raise error


def _digest(numbers: tuple[int, ...]) -> str:
    return hashlib.blake2b(repr(numbers).encode(), digest_size=4).hexdigest() if numbers else "none"


@functools.cache
def code_digest() -> str:
    """A short digest of the package's source files."""
    digest = hashlib.blake2b(digest_size=4)
    root = Path(anysize.__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
