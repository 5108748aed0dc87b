"""Libraries that are installed with an extra of this package, and quiet about what they print beside their errors."""

import contextlib
import importlib
import io
import logging
import os
import warnings
from collections.abc import Iterator
from typing import Any

from anysize.registry import UserError

_SENDS_NOTHING = {"onnxruntime": "ORT_DISABLE_TELEMETRY"}
"""Variables, read when a library is loaded, that keep it from reporting its use to its makers over the network."""


def import_extra(module: str, extra: str) -> Any:
    """Import a module of an extra; it reports nothing to its makers, unless the user has set its variable otherwise.

    Raises:
        UserError: it is not installed; the extra is named.

    >>> import_extra("no_such_runtime", "quantize")
    Traceback (most recent call last):
    ...
    anysize.registry.UserError: no_such_runtime is not installed: pip install 'anysize[quantize]'
    """
    if variable := _SENDS_NOTHING.get(module):
        os.environ.setdefault(variable, "1")
    try:
        with quiet():
            return importlib.import_module(module)
    except ModuleNotFoundError:
        raise UserError(f"{module.partition('.')[0]} is not installed: pip install 'anysize[{extra}]'") from None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Leave out what is printed, logged and warned of within."""
    held = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        nowhere = io.StringIO()
        with warnings.catch_warnings(), contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(held)
