"""What a dim of a space is.

A dim that has finitely many values numbers them from 0; the first is its default and, where the values have
an order, its least.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from netwright.errors import UsageError
from netwright.nas.conditions import ActiveIf, Condition, condition


@dataclass(frozen=True)
class Dim(ABC):
    """Something that may vary.

    Attributes:
        name: Its name in a choice.
        active_if: When it matters; always where None. As data (`equals`, `at_least`, `any_of`, `all_of`, or
            ``(dim, values)``), or a function of the dims before it, which JSON cannot hold.
    """

    name: str
    active_if: ActiveIf = dataclasses.field(default=None, kw_only=True)
    #: How many values it has; None where they cannot be counted.
    count: ClassVar[int | None]

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise UsageError(f"{self.name!r} is no name of a dim", "give a string")
        object.__setattr__(self, "active_if", condition(self.active_if))

    @property
    def condition(self) -> Condition | None:
        """``active_if`` as a condition."""
        assert self.active_if is None or isinstance(self.active_if, Condition)
        return self.active_if

    @property
    @abstractmethod
    def default(self) -> Any:
        """The value where the dim does not matter."""

    @property
    @abstractmethod
    def most(self) -> Any:
        """The greatest value where they have an order, else the default."""

    @abstractmethod
    def check(self, value: Any) -> Any:
        """The dim's own form of a value.

        Raises:
            UsageError: if it is none of this dim.
        """

    @abstractmethod
    def draw(self, rng: np.random.Generator) -> Any:
        """A value, all as likely."""

    def redraw(self, value: Any, rng: np.random.Generator) -> Any:
        """What a mutation makes of a value: one of two flips, of more is drawn anew."""
        return self.draw(rng)

    @abstractmethod
    def near(self, value: Any) -> Iterator[Any]:
        """The values one step away; a value is one step away from those."""

    @abstractmethod
    def each(self) -> Iterator[Any]:
        """All values in order; of a `Float` the default."""

    def to_data(self) -> dict[str, Any]:
        """What JSON can hold of it.

        Raises:
            UsageError: if ``active_if`` is a function.
        """
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        fields["active_if"] = self.condition.to_data() if self.condition else None
        return {"kind": type(self).__name__, **fields}

    def refused(self, value: Any, those: str) -> UsageError:
        """What to raise for a value that is none; ``those`` names the values."""
        return UsageError(f"{value!r} is no value of {self.name!r}", f"the values are {those}")


class Finite(Dim):
    """A dim whose values are numbered."""

    count: int  # type: ignore[misc]

    @abstractmethod
    def at(self, index: int) -> Any:
        """The value of a number from 0 to ``count - 1``."""

    @abstractmethod
    def index(self, value: Any) -> int:
        """The number of a value.

        Raises:
            UsageError: if it is none of this dim.
        """

    @property
    def default(self) -> Any:
        """The first value."""
        return self.at(0)

    @property
    def most(self) -> Any:
        """The last value."""
        return self.at(self.count - 1)

    def check(self, value: Any) -> Any:
        """The dim's own form of a value."""
        return self.at(self.index(value))

    def draw(self, rng: np.random.Generator) -> Any:
        """A value, all as likely."""
        return self.at(int(rng.integers(self.count)))

    def redraw(self, value: Any, rng: np.random.Generator) -> Any:
        """The other one of two, else one of all."""
        return self.at(1 - self.index(value)) if self.count == 2 else self.draw(rng)

    def near(self, value: Any) -> Iterator[Any]:
        """The value before and the value after."""
        index = self.index(value)
        yield from (self.at(i) for i in (index - 1, index + 1) if 0 <= i < self.count)

    def each(self) -> Iterator[Any]:
        """All values in order."""
        return map(self.at, range(self.count))
