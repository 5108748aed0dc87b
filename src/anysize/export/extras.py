"""Libraries that are installed with an extra of this package."""

import importlib
import warnings
from typing import Any

from anysize.registry import UserError


def import_extra(module: str, extra: str) -> Any:
    """Import a module of an extra.

    Raises:
        UserError: it is not installed; the extra is named.

    >>> import_extra("no_such_runtime", "quantize")
    Traceback (most recent call last):
    ...
    anysize.registry.UserError: no_such_runtime is not installed: pip install 'anysize[quantize]'
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(module)
    except ModuleNotFoundError:
        raise UserError(f"{module.partition('.')[0]} is not installed: pip install 'anysize[{extra}]'") from None
