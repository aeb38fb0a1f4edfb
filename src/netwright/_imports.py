"""Optional dependencies: imported where they are used, named with their extra where they are missing."""

from __future__ import annotations

import importlib
from types import ModuleType

from netwright.errors import MissingExtraError


def require(module: str, *, extra: str) -> ModuleType:
    """Import an optional dependency.

    Args:
        module: Dotted module name.
        extra: The extra of this package that installs it.

    Raises:
        MissingExtraError: if the module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"{module.split('.')[0]} is not installed ({error})", f"pip install 'netwright[{extra}]'"
        ) from error


def available(module: str) -> bool:
    """Whether an optional dependency can be imported."""
    try:
        importlib.import_module(module)
    except ImportError:
        return False
    return True
