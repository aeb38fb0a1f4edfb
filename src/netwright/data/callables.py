"""``file.py:callable``: a function of the user's own file, for data and for models."""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from netwright.errors import DataError, NetwrightError


def is_callable_spec(spec: str) -> bool:
    """Whether a text has the form ``file.py:callable`` (or names a .py file, the callable forgotten)."""
    return spec.endswith(".py") or ".py:" in spec


def import_callable(spec: str, *, error: type[NetwrightError] = DataError) -> Callable[..., Any]:
    """Import a callable of a Python file; running the user's own file is what is asked for.

    The file's folder can be imported from, as if the file had been run.

    Args:
        spec: ``path/to/file.py:name``; the name may have dots.
        error: What is raised.

    Raises:
        NetwrightError: of the kind `error`: the file is missing or fails, or has no such callable.
    """
    file, _, name = spec.rpartition(":")
    if not file.endswith(".py") or not name:
        raise error(
            f"{spec} does not name a callable", f"write {spec.rstrip(':')}:NAME, a function in that file"
        )
    path = Path(file).expanduser()
    if not path.is_file():
        raise error(f"there is no file {path}", "check the path before the colon")
    module = _run(path, error)
    found: Any = module
    for step in name.split("."):
        found = getattr(found, step, None)
    if found is None or not callable(found):
        own = [
            n
            for n, v in vars(module).items()
            if isinstance(v, types.FunctionType) and v.__module__ == module.__name__
        ]
        close = difflib.get_close_matches(name, own, n=1) or own[:3]
        what = "has no callable" if found is None else "cannot be called:"
        raise error(
            f"{path} {what} {name!r}", f"it has {', '.join(close)}" if close else "define it in that file"
        )
    return found  # type: ignore[no-any-return]


def _run(path: Path, error: type[NetwrightError]) -> types.ModuleType:
    absolute = path.resolve()
    # A name of its own: the user's file may be called like an installed package.
    name = f"netwright_user_{absolute.stem}_{hashlib.sha256(str(absolute).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, absolute)
    if spec is None or spec.loader is None:
        raise error(f"{path} cannot be imported", "give a Python file")
    module = importlib.util.module_from_spec(spec)
    # Data classes and pickles of the user's classes look the module up by its name.
    sys.modules[name] = module
    sys.path.insert(0, str(absolute.parent))
    try:
        spec.loader.exec_module(module)
    except NetwrightError:
        raise
    except (Exception, SystemExit) as problem:
        sys.modules.pop(name, None)
        raise error(f"{path} failed with {one_line(problem)}", "mend the file") from problem
    finally:
        sys.path.remove(str(absolute.parent))
    return module


def one_line(problem: BaseException) -> str:
    """Return kind and text of an exception in one line."""
    text = " ".join(str(problem).split())[:200]
    return f"{type(problem).__name__}: {text}" if text else type(problem).__name__
