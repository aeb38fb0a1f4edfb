"""One network of the battery: how to build it and what to call it with."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Case:
    """A network.

    Attributes:
        name: Unique in its set.
        build: Makes the model and an example (a tensor, a tuple of arguments, a dict of keyword arguments or
            a `netwright.Inputs`).
        group: The set it belongs to.
    """

    name: str
    build: Callable[[], tuple[nn.Module, Any]] = field(repr=False)
    group: str = ""

    @property
    def id(self) -> str:
        """Set and name."""
        return f"{self.group}/{self.name}"


def cases(group: str, made: Iterable[tuple[str, Callable[[], tuple[nn.Module, Any]]]]) -> list[Case]:
    """The cases of one set.

    Raises:
        ValueError: if a name appears twice.
    """
    found = [Case(name, build, group) for name, build in made]
    if len({case.name for case in found}) != len(found):
        raise ValueError(f"a name appears twice in {group}")
    return found
