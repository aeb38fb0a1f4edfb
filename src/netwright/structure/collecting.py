"""Python's garbage collector, paused while many small objects are made and kept.

A recording holds every tensor and operator call until it is read. The collector, which counts allocations,
would walk all of them and everything else that is alive again and again, and find nothing.
"""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def uncollected(function: Callable[P, T]) -> Callable[P, T]:
    """Run a function without garbage collection; it goes on afterwards if it was on.

    Args:
        function: Any function that makes no large garbage in cycles.
    """

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        if not gc.isenabled():
            return function(*args, **kwargs)
        gc.disable()
        try:
            return function(*args, **kwargs)
        finally:
            gc.enable()

    return wrapper
