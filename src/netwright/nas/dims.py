"""What may vary: the kinds of dims."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from netwright.errors import UsageError
from netwright.nas.choice import plain
from netwright.nas.conditions import from_data
from netwright.nas.dim import Dim, Finite
from netwright.nas.subsets import rank, unrank

#: A neighbour of a number of a `Float` is this share of the range away.
FLOAT_STEP = 0.05


class _Listed(Finite):
    _all: tuple[Any, ...]

    def _keep(self, field: str) -> None:
        Dim.__post_init__(self)
        values = getattr(self, field)
        if isinstance(values, str) or not values:
            raise UsageError(f"{self.name!r} has no {field}: {values!r}", "give a list with at least one")
        values = plain(tuple(values))
        if len(set(values)) < len(values):
            raise UsageError(f"{field} of {self.name!r} are equal: {values}", "give every one once")
        object.__setattr__(self, field, values)
        object.__setattr__(self, "_all", values)

    @property
    def count(self) -> int:  # type: ignore[override]
        return len(self._all)

    def at(self, index: int) -> Any:
        return self._all[index]

    @cached_property
    def _numbers(self) -> dict[Any, int]:
        return {value: index for index, value in enumerate(self._all)}

    def index(self, value: Any) -> int:
        try:
            return self._numbers[plain(value)]
        except KeyError:
            raise self.refused(value, ", ".join(map(repr, self._all))) from None


@dataclass(frozen=True)
class Categorical(_Listed):
    """One of some options, which have no order: all others are neighbours.

    Attributes:
        options: Numbers, strings, None, or tuples of them; the first is the default.
    """

    options: Sequence[Any]

    def __post_init__(self) -> None:
        self._keep("options")

    @property
    def most(self) -> Any:
        """The first option: nothing is greater."""
        return self.at(0)

    def near(self, value: Any) -> Iterator[Any]:
        """All other options."""
        value = self.check(value)
        return (option for option in self._all if option != value)


@dataclass(frozen=True)
class Ordinal(_Listed):
    """One of some values in their order: widths, depths, kernels; ``(False, True)`` for what may be left out.

    Attributes:
        values: Rising, where they are numbers.
    """

    values: Sequence[Any]

    def __post_init__(self) -> None:
        self._keep("values")
        numbers = all(isinstance(v, int | float) for v in self._all)
        if numbers and any(a > b for a, b in zip(self._all, self._all[1:], strict=False)):
            raise UsageError(f"the values of {self.name!r} do not rise: {self._all}", "sort them")


@dataclass(frozen=True)
class Int(Finite):
    """A whole number from ``lo`` to ``hi`` in steps.

    Attributes:
        lo: The least.
        hi: The greatest; lowered to a whole number of steps.
        step: At least 1.
    """

    lo: int
    hi: int
    step: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(int(v) != v for v in (self.lo, self.hi, self.step)) or self.step < 1 or self.hi < self.lo:
            raise UsageError(f"{self.name!r} from {self.lo} to {self.hi} by {self.step} has no whole numbers")
        lo, step = int(self.lo), int(self.step)
        object.__setattr__(self, "lo", lo)
        object.__setattr__(self, "step", step)
        object.__setattr__(self, "hi", lo + (int(self.hi) - lo) // step * step)

    @property
    def count(self) -> int:  # type: ignore[override]
        """How many numbers."""
        return (self.hi - self.lo) // self.step + 1

    def at(self, index: int) -> int:
        """The number after ``index`` steps."""
        return self.lo + index * self.step

    def index(self, value: Any) -> int:
        """After how many steps a number comes."""
        inside = isinstance(value, int | float | np.number) and self.lo <= value <= self.hi
        if not inside or (value - self.lo) % self.step:
            raise self.refused(value, f"{self.lo} to {self.hi} by {self.step}")
        return (int(value) - self.lo) // self.step


@dataclass(frozen=True)
class Float(Dim):
    """A number from ``lo`` to ``hi``.

    Attributes:
        lo: The least, and the default.
        hi: The greatest.
        log: Whether factors count, not differences.
    """

    lo: float
    hi: float
    log: bool = False
    count: ClassVar[None] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (math.isfinite(self.lo) and math.isfinite(self.hi) and self.lo < self.hi):
            raise UsageError(f"{self.name!r} from {self.lo} to {self.hi} has no numbers", "give lo < hi")
        if self.log and self.lo <= 0:
            raise UsageError(f"{self.name!r} from {self.lo} has no logarithm", "give lo > 0, or log=False")
        object.__setattr__(self, "lo", float(self.lo))
        object.__setattr__(self, "hi", float(self.hi))

    @property
    def default(self) -> float:
        """The least."""
        return self.lo

    @property
    def most(self) -> float:
        """The greatest."""
        return self.hi

    def unit(self, value: float) -> float:
        """Where in the range a number lies, from 0 to 1."""
        if self.log:
            return math.log(value / self.lo) / math.log(self.hi / self.lo)
        return (value - self.lo) / (self.hi - self.lo)

    def at_unit(self, share: float) -> float:
        """The number at a share of the range; exact at 0 and 1."""
        if share <= 0 or share >= 1:
            return self.lo if share <= 0 else self.hi
        value = self.lo * (self.hi / self.lo) ** share if self.log else self.lo + share * (self.hi - self.lo)
        return min(max(value, self.lo), self.hi)

    def check(self, value: Any) -> float:
        """The number itself."""
        if not isinstance(value, int | float | np.number) or not self.lo <= value <= self.hi:
            raise self.refused(value, f"{self.lo} to {self.hi}")
        return float(value)

    def draw(self, rng: np.random.Generator) -> float:
        """A number, all as likely in the range or its logarithm."""
        return self.at_unit(float(rng.random()))

    def near(self, value: Any) -> Iterator[float]:
        """The numbers a twentieth of the range away, up to rounding."""
        share = self.unit(self.check(value))
        return (self.at_unit(u) for u in (share - FLOAT_STEP, share + FLOAT_STEP) if 0 <= u <= 1)

    def each(self) -> Iterator[float]:
        """The default alone."""
        return iter((self.default,))


@dataclass(frozen=True)
class Subset(Finite):
    """``k`` of the numbers 0 to ``n - 1``, as a rising tuple; a neighbour exchanges one of them.

    Attributes:
        n: How many there are.
        k: How many are chosen.
    """

    n: int
    k: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if int(self.n) != self.n or int(self.k) != self.k or not 0 <= self.k <= self.n or self.n < 1:
            raise UsageError(f"{self.name!r}: {self.k} of {self.n} cannot be chosen", "give 0 <= k <= n")

    @cached_property
    def count(self) -> int:  # type: ignore[override]
        """How many subsets."""
        return math.comb(self.n, self.k)

    def at(self, index: int) -> tuple[int, ...]:
        """The subset of a number, in lexicographic order."""
        return unrank(index, self.n, self.k)

    def index(self, value: Any) -> int:
        """The number of a subset, whose members may come in any order."""
        return rank(self.check(value), self.n)

    def check(self, value: Any) -> tuple[int, ...]:
        """The members, rising."""
        if isinstance(value, Sequence | set | frozenset | np.ndarray) and not isinstance(value, str):
            members = set(value)
            if len(members) == len(value) == self.k and members <= set(range(self.n)):
                return tuple(sorted(int(v) for v in members))
        raise self.refused(value, f"{self.k} of 0 to {self.n - 1}, each once")

    @property
    def most(self) -> tuple[int, ...]:
        """The first subset: nothing is greater."""
        return self.at(0)

    def draw(self, rng: np.random.Generator) -> tuple[int, ...]:
        """A subset, all as likely."""
        return tuple(sorted(rng.choice(self.n, self.k, replace=False).tolist()))

    def near(self, value: Any) -> Iterator[tuple[int, ...]]:
        """The subsets with one member exchanged."""
        members = self.check(value)
        outside = [v for v in range(self.n) if v not in members]
        return (tuple(sorted((*(m for m in members if m != out), new))) for out in members for new in outside)


@dataclass(frozen=True)
class Tied(Dim):
    """Always the value of another dim, and active only where that one is; nothing is chosen.

    Attributes:
        to: The name of the other, which comes before.
    """

    to: str
    count: ClassVar[int] = 1  # type: ignore[misc]

    @property
    def default(self) -> Any:
        """That of the other: the space fills it in."""
        raise UsageError(f"{self.name!r} has no values of its own", f"ask {self.to!r}")

    most = default

    def check(self, value: Any) -> Any:
        """Refused: the other dim knows."""
        return self.default

    def draw(self, rng: np.random.Generator) -> Any:
        """Refused: the other dim is drawn."""
        return self.default

    def near(self, value: Any) -> Iterator[Any]:
        """None."""
        return iter(())

    def each(self) -> Iterator[Any]:
        """None."""
        return iter(())


def dim_from_data(data: Mapping[str, Any]) -> Dim:
    """The dim of what ``to_data`` gave.

    Raises:
        UsageError: if it is none.
    """
    kinds = {kind.__name__: kind for kind in (Categorical, Ordinal, Int, Float, Subset, Tied)}
    try:
        kind = kinds[data["kind"]]
        fields = {key: value for key, value in data.items() if key not in ("kind", "active_if")}
        return kind(**fields, active_if=from_data(data.get("active_if")))
    except (KeyError, TypeError) as error:
        raise UsageError(f"{data!r} is no dim: {error}", f"the kinds are {', '.join(kinds)}") from error
