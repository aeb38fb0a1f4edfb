"""When a dim matters: conditions on the values of other dims, as data that goes to JSON.

A condition on a dim that is not active itself does not hold.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from netwright.errors import UsageError
from netwright.nas.choice import plain


class Condition(ABC):
    """Something that holds or not for the values of other dims."""

    @property
    @abstractmethod
    def names(self) -> frozenset[str]:
        """The dims it reads."""

    @abstractmethod
    def holds(self, values: Mapping[str, Any], active: Collection[str]) -> bool:
        """Whether it holds.

        Args:
            values: Of the dims it reads, at least.
            active: Names of those that matter.
        """

    @abstractmethod
    def to_data(self) -> dict[str, Any]:
        """What JSON can hold of it."""

    def atoms(self) -> Iterator[Atom]:
        """The conditions on one dim that it is made of."""
        yield from ()

    def __and__(self, other: Condition) -> Condition:
        return AllOf((self, other))

    def __or__(self, other: Condition) -> Condition:
        return AnyOf((self, other))


class Atom(Condition):
    """A condition on the value of one dim."""

    dim: str

    @property
    def names(self) -> frozenset[str]:
        """The one dim."""
        return frozenset((self.dim,))

    def holds(self, values: Mapping[str, Any], active: Collection[str]) -> bool:
        """Whether the dim matters and its value is right."""
        return self.dim in active and self.admits(values[self.dim])

    @abstractmethod
    def admits(self, value: Any) -> bool:
        """Whether a value is right."""

    def atoms(self) -> Iterator[Atom]:
        """Itself."""
        yield self


@dataclass(frozen=True)
class Equals(Atom):
    """The dim has one of some values.

    Attributes:
        dim: Its name.
        values: Which.
    """

    dim: str
    values: tuple[Any, ...]

    def admits(self, value: Any) -> bool:
        """Whether a value is one of them."""
        return value in self.values

    def to_data(self) -> dict[str, Any]:
        """``{"equals": [dim, [values]]}``."""
        return {"equals": [self.dim, list(self.values)]}


@dataclass(frozen=True)
class AtLeast(Atom):
    """The value of the dim is not below a bound.

    Attributes:
        dim: Its name.
        bound: The least value.
    """

    dim: str
    bound: Any

    def admits(self, value: Any) -> bool:
        """Whether a value is large enough."""
        return bool(value >= self.bound)

    def to_data(self) -> dict[str, Any]:
        """``{"at_least": [dim, bound]}``."""
        return {"at_least": [self.dim, self.bound]}


@dataclass(frozen=True)
class _Several(Condition):
    parts: tuple[Condition, ...]

    @property
    def names(self) -> frozenset[str]:
        """The dims of all parts."""
        return frozenset().union(*(part.names for part in self.parts))

    def atoms(self) -> Iterator[Atom]:
        """Those of all parts."""
        for part in self.parts:
            yield from part.atoms()


@dataclass(frozen=True)
class AnyOf(_Several):
    """One of several conditions holds."""

    def holds(self, values: Mapping[str, Any], active: Collection[str]) -> bool:
        """Whether one of them holds."""
        return any(part.holds(values, active) for part in self.parts)

    def to_data(self) -> dict[str, Any]:
        """``{"any": [parts]}``."""
        return {"any": [part.to_data() for part in self.parts]}


@dataclass(frozen=True)
class AllOf(_Several):
    """Several conditions hold."""

    def holds(self, values: Mapping[str, Any], active: Collection[str]) -> bool:
        """Whether all of them hold."""
        return all(part.holds(values, active) for part in self.parts)

    def to_data(self) -> dict[str, Any]:
        """``{"all": [parts]}``."""
        return {"all": [part.to_data() for part in self.parts]}


@dataclass(frozen=True)
class Predicate(Condition):
    """A function of the values of all dims before this one; it stays in this process.

    Attributes:
        function: Mapping of names to values -> whether the dim matters. Dims that are not active have their
            default.
    """

    function: Callable[[Mapping[str, Any]], bool]

    @property
    def names(self) -> frozenset[str]:
        """None that could be known: the space hands it all dims before its own."""
        return frozenset()

    def holds(self, values: Mapping[str, Any], active: Collection[str]) -> bool:
        """What the function says."""
        return bool(self.function(values))

    def to_data(self) -> dict[str, Any]:
        """Nothing: refused."""
        name = getattr(self.function, "__name__", repr(self.function))
        raise UsageError(
            f"the condition {name} is a function, which JSON cannot hold",
            "say it with equals, at_least, any_of and all_of",
        )


def equals(dim: str, *values: Any) -> Condition:
    """Active where the dim has one of the values."""
    return Equals(dim, plain(values))


def at_least(dim: str, bound: Any) -> Condition:
    """Active where the value of the dim is not below the bound."""
    return AtLeast(dim, plain(bound))


def any_of(*conditions: Condition) -> Condition:
    """Active where one of the conditions holds."""
    return AnyOf(conditions)


def all_of(*conditions: Condition) -> Condition:
    """Active where all conditions hold."""
    return AllOf(conditions)


#: What ``active_if`` of a dim may be.
ActiveIf = Condition | tuple[str, Any] | Callable[[Mapping[str, Any]], bool] | None


def condition(active_if: ActiveIf) -> Condition | None:
    """The condition that is meant: itself, ``(dim, value or values)``, or a function.

    Raises:
        UsageError: if it is none of these.
    """
    if active_if is None or isinstance(active_if, Condition):
        return active_if
    if isinstance(active_if, tuple) and len(active_if) == 2 and isinstance(active_if[0], str):
        several = isinstance(active_if[1], Sequence | set | frozenset) and not isinstance(active_if[1], str)
        return equals(active_if[0], *(active_if[1] if several else (active_if[1],)))
    if callable(active_if):
        return Predicate(active_if)
    raise UsageError(f"active_if={active_if!r} is no condition", 'give for instance ("keep", True)')


def from_data(data: Mapping[str, Any] | None) -> Condition | None:
    """The condition of what ``to_data`` gave.

    Raises:
        UsageError: if it is none.
    """
    if data is None:
        return None
    try:
        ((kind, content),) = data.items()
        if kind == "equals":
            return equals(content[0], *content[1])
        if kind == "at_least":
            return at_least(*content)
        parts = tuple(part for part in map(from_data, content) if part is not None)
        return {"any": AnyOf, "all": AllOf}[kind](parts)
    except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
        raise UsageError(f"{data!r} is no condition", "they are equals, at_least, any and all") from error
