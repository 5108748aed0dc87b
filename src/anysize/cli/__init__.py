"""The command line: `anysize VERB`. One file a verb: parse, call the library, show; no logic of its own.

A verb's file imports the library inside its function, so that `anysize --help` answers at once and without torch.
"""

import contextlib
import importlib
import io
import itertools
import logging
import os
import pkgutil
import signal
import sys
import threading
from collections.abc import Sequence
from typing import Annotated

import cyclopts

import anysize.cli
from anysize import __version__
from anysize.files import EXPORTED
from anysize.machine import plainly
from anysize.models.trust import command_line
from anysize.ranks import EndedElsewhere, speaks_of
from anysize.registry import UserError, did_you_mean, printable
from anysize.signals import PATIENCE, OnceInterrupted, leave_no_child, watched_signals

Settings = Annotated[str, cyclopts.Parameter(allow_leading_hyphen=True, show=False)]
"""The rest of a command line: `--section.field VALUE` for any field of the recipe."""

Images = Annotated[str, cyclopts.Parameter(allow_leading_hyphen=True)]
"""Image files, then the rest as `Settings`."""


def parse_settings(tokens: tuple[str, ...]) -> dict[str, str]:
    """Pair `--section.field VALUE` or `--section.field=VALUE` up; a `UserError` for what is no option, or has no value.

    >>> parse_settings(("--data.root", "~/data", "--training.batch-size=32"))
    {'data.root': '~/data', 'training.batch_size': '32'}
    """
    settings: dict[str, str] = {}
    rest = list(tokens)
    while rest:
        token = rest.pop(0)
        if not token.startswith("--") or token == "--":
            raise UserError(f"received {token!r}; expected settings as --section.field VALUE (`anysize settings`)")
        key, equals, value = token[2:].partition("=")
        if not equals:
            if not rest or (rest[0].startswith("--") and len(rest[0]) > 2):
                if "." not in key:
                    raise UserError(f"--{key} is no option of this command; --help lists them")
                raise UserError(f"--{key} has no value; expected --{key} VALUE")
            value = rest.pop(0)
        settings[key.replace("-", "_")] = value
    return settings


def with_short(settings: dict[str, str], option: str, value: str, name: str) -> dict[str, str]:
    """The settings with the one that `option` is short for; a `UserError` where both are given and differ.

    >>> with_short({"data.root": "~/data"}, "--device cpu", "cpu", "training.device")
    {'data.root': '~/data', 'training.device': 'cpu'}
    """
    if value and settings.setdefault(name, value) != value:
        raise UserError(f"{option} and --{name} {settings[name]} are both given; leave one of them out")
    return settings


def with_device(settings: dict[str, str], device: str) -> dict[str, str]:
    """The settings with `--device`, short for `--training.device`."""
    return with_short(settings, f"--device {device}", device, "training.device")


def split_images(tokens: tuple[str, ...]) -> tuple[list[str], dict[str, str]]:
    """The image files of a command line, and the settings that follow them.

    >>> split_images(("a.png", "b.png", "--evaluation.flip", "true"))
    (['a.png', 'b.png'], {'evaluation.flip': 'true'})
    """
    images = list(itertools.takewhile(lambda token: not token.startswith("--"), tokens))
    return images, parse_settings(tokens[len(images) :])


def check_recipe(recipe: str, settings: dict[str, str]) -> None:
    """Raise a `UserError` for a recipe or settings that are none, before torch is loaded, which takes seconds.

    Where several processes were launched, they say it together later.
    """
    from pathlib import Path

    from anysize.ranks import launched_together
    from anysize.recipe import Recipe, load_recipe, override

    if launched_together():
        return
    if Path(recipe).is_dir():
        override(Recipe(), settings)
    else:
        load_recipe(recipe, settings)


def check_run(run: str, settings: dict[str, str]) -> None:
    """Raise a `UserError` for a run that is no folder, file or recipe, or settings that are none; as `check_recipe`."""
    from pathlib import Path

    from anysize.ranks import launched_together
    from anysize.recipe import Recipe, override
    from anysize.recipes import recipe_names

    if launched_together():
        return
    file = Path(run).suffix in EXPORTED  # a verb that takes files says itself which is not there
    if not Path(run).exists() and run not in recipe_names() and not file:
        hint = did_you_mean(run, recipe_names())
        hint = hint if hint.startswith("did") else "give a folder that anysize train wrote"
        raise UserError(f"{run} is not a run folder: it has no recipe.toml; {hint}")
    override(Recipe(), settings)


def tell(text: object) -> None:
    """Print a line of results, in which a name from elsewhere does not steer the terminal."""
    print(printable(str(text)))


class _Printable(logging.Formatter):
    """A warning of the log as the console shows it where nothing else does."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def say_written(paths: Sequence[str]) -> None:
    """Print which files are written, if any is; a warning has said of the others why they are not."""
    if paths:
        tell(f"{' and '.join(paths)} {'are' if len(paths) > 1 else 'is'} written")


def build_app() -> cyclopts.App:
    """Collect the verbs: each module beside this one has a function `command`.

    A module is named as its verb, with an underscore behind what Python keeps for itself, such as `import_`.
    """
    app = cyclopts.App(
        name="anysize",
        help="Convolutional networks that train, adapt and run at any size.",
        help_format="plaintext",
        version=__version__,
    )
    for module in pkgutil.iter_modules(anysize.cli.__path__):
        command = importlib.import_module(f"anysize.cli.{module.name}").command
        app.command(command, name=module.name.removesuffix("_").replace("_", "-"))
    return app


def build_command_line() -> cyclopts.App:
    """The verbs, each with the options that all of them have."""
    app = build_app()

    @app.meta.default
    def command(
        *words: Annotated[str, cyclopts.Parameter(show=False, allow_leading_hyphen=True)],
        trust_code: Annotated[bool, cyclopts.Parameter(negative="")] = False,
    ) -> None:
        """Do what a command line says.

        Args:
            words: the verb and what belongs to it
            trust_code: run the code of somebody's own, FILE.py:FUNCTION or MODULE:FUNCTION, that a recipe, run folder
                or checkpoint names as its model, and remember it as trusted
        """
        with command_line(trust_code):
            app(words)

    return app.meta


def main() -> None:
    """Run the command line; what a user can put right ends in one sentence and exit status 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # what the console cannot show ends no work
    if logging.lastResort:
        logging.lastResort.setFormatter(_Printable())
    once, before = OnceInterrupted(), signal.getsignal(signal.SIGINT)
    alone = threading.current_thread() is threading.main_thread() and before is signal.default_int_handler
    if alone:
        signal.signal(signal.SIGINT, once)
    try:
        with watched_signals(lambda: PATIENCE, lambda: False):  # of Ctrl-C; SIGTERM ends what does not train at once
            _main(sys.argv[1:])
    finally:
        _flush()
        if not leave_no_child() and isinstance(end := sys.exc_info()[1], SystemExit):
            os._exit(end.code if isinstance(end.code, int) else 1)  # Python would wait for them
        if alone:
            # What is torn down from here on tells of a further Ctrl-C in tracebacks.
            signal.signal(signal.SIGINT, signal.SIG_DFL if once.came else before)


def _main(arguments: list[str]) -> None:
    try:
        with plainly(f"running anysize {' '.join(arguments[:1])}".rstrip()):
            # Behind a verb that takes settings it would be taken for one of them.
            build_command_line()(sorted(arguments, key=lambda word: word != "--trust-code"))
    except UserError as error:
        if speaks_of(error):
            _say(printable(f"anysize: {error}"))
        sys.exit(2)
    except BrokenPipeError:  # whoever reads the output, such as `head`, has seen enough
        sys.exit(1)
    except EndedElsewhere:  # the process that noticed has said why
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # there is nowhere left to say it
        print(text, file=sys.stderr)


def _flush() -> None:
    """Write what stands in the buffer of the standard output; where that cannot be, say so in place of Python."""
    try:
        if sys.stdout:  # None where it is closed
            sys.stdout.flush()
    except OSError as error:
        with open(os.devnull, "w") as nothing:  # or the end of the program fails in the same way
            os.dup2(nothing.fileno(), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            _say(f"anysize: the standard output cannot be written: {error.strerror}")
