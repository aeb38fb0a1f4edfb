"""The choices of a space whose cost is inside a window."""

from __future__ import annotations

import fnmatch
import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np

from netwright.errors import BudgetError, UsageError
from netwright.nas import moves
from netwright.nas.choice import Choice
from netwright.nas.costs import Additive, Table
from netwright.nas.dim import Finite
from netwright.nas.dims import Ordinal
from netwright.nas.space import SearchSpace, Uniform, known
from netwright.nas.windows import Window

#: What a choice costs.
Cost = Callable[[Choice], float] | Additive | Mapping[str | tuple[str, ...], Table]
#: A space with more choices is not listed where its cost is a function.
_MOST_LISTED = 1_000_000
#: Draws that a repair begins from, and steps of each per dim.
_STARTS, _STEPS = 20, 50


class ConstrainedSpace(SearchSpace):
    """Choices inside a window of costs; made by `SearchSpace.constrained`.

    All that draws, changes or lists gives choices inside the window. ``canonical``, ``decode``, ``suggest``
    and ``from_params`` translate what they are given: `fits` tells whether it is inside.

    Attributes:
        base: The space without the window.
        lo: The least cost.
        hi: The greatest cost.
    """

    def __init__(
        self,
        base: SearchSpace,
        cost: Cost,
        lo: float | None = None,
        hi: float | None = None,
        *,
        order: Iterable[Iterable[str]] = (),
        tries: int = 100,
    ) -> None:
        if isinstance(base, ConstrainedSpace):
            raise UsageError("this space has a window already", "constrain its base by both costs at once")
        super().__init__(base.dims)
        self.base = base
        self.lo = -math.inf if lo is None else lo
        self.hi = math.inf if hi is None else hi
        if not self.lo <= self.hi:
            raise UsageError(f"no cost is from {self.lo} to {self.hi}", "give lo <= hi")
        if tries < 1:
            raise UsageError(f"tries={tries} is no number of tries", "give 1 or more")
        self._additive = Additive(cost) if isinstance(cost, Mapping) else cost
        self._tries, self._groups = tries, self._grouped(order)

    def _grouped(self, order: Iterable[Iterable[str]]) -> list[set[str]]:
        """Names that a repair may change: at first, and later."""
        groups = []
        for patterns in order:
            group = {d.name for d in self.free if any(fnmatch.fnmatchcase(d.name, p) for p in patterns)}
            if not group:
                raise UsageError(
                    f"no dim is named like {list(patterns)}", f"there are {', '.join(self.depends)}"
                )
            groups.append(group)
        return [set().union(*groups[: i + 1]) for i in range(len(groups))] + [{d.name for d in self.free}]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ConstrainedSpace):
            return NotImplemented
        mine, its = ((s.dims, s._additive, s.lo, s.hi) for s in (self, other))
        return mine == its

    __hash__ = SearchSpace.__hash__

    def __add__(self, other: SearchSpace) -> ConstrainedSpace:
        """Both spaces; the cost goes on to price the dims it knows."""
        if type(other) is not SearchSpace:
            return NotImplemented
        return self._like(self.base + other)

    def __radd__(self, other: SearchSpace) -> ConstrainedSpace:
        return self._like(other + self.base)

    def _like(self, base: SearchSpace) -> ConstrainedSpace:
        new = ConstrainedSpace(base, self._additive, self.lo, self.hi, tries=self._tries)
        new._groups = self._groups[:-1] + new._groups[-1:]
        return new

    def __contains__(self, choice: object) -> bool:
        return super().__contains__(choice) and isinstance(choice, Choice) and self.fits(choice)

    def cost(self, choice: Choice) -> float:
        """What a choice costs."""
        if isinstance(self._additive, Additive):
            return self._additive.of(choice, self.active(choice))
        return self._additive(choice)

    def fits(self, choice: Choice) -> bool:
        """Whether the cost of a choice is inside the window."""
        return self.lo <= self.cost(choice) <= self.hi

    def excess(self, choice: Choice) -> float:
        """By how much the cost of a choice is outside the window; 0 inside."""
        return self._excess(self.cost(choice))

    # Counting: exact where the cost is a sum.

    @cached_property
    def _window(self) -> Window | None:
        """What counts exactly; None where the cost is a function."""
        if not isinstance(self._additive, Additive):
            return None
        return Window(self.base, self._additive, self.lo, self.hi)

    @cached_property
    def _listed(self) -> list[Choice]:
        if (size := self.base.size()) > _MOST_LISTED:
            raise UsageError(
                f"{size} choices are too many to look at each one's cost", "give the cost as an Additive"
            )
        listed = [choice for choice in self.base.enumerate() if self.fits(choice)]
        if not listed:
            raise self._none(min(map(self.cost, self.base.enumerate()), key=self._excess))
        return listed

    def size(self) -> int:
        """How many canonical choices are inside the window.

        Raises:
            UsageError: if they cannot be counted: the cost is a function and the space large.
            BudgetError: if there are none.
        """
        return self._window.count() if self._window else len(self._listed)

    def at(self, number: int) -> Choice:
        """The choice of a number from 0 to ``size() - 1``."""
        if self._window:
            return self._window.at(number)
        if not 0 <= number < len(self._listed):
            raise UsageError(f"there is no choice {number}", f"there are {len(self._listed)}")
        return self._listed[number]

    def enumerate(self) -> Iterator[Choice]:
        """All canonical choices inside the window, each once."""
        return map(self.at, range(self.size()))

    def min(self) -> Choice:
        """A choice of the least cost inside the window; where the cost is a function, a small choice."""
        return self._window.end(greatest=False) if self._window else self._outward(self.base.min())

    def max(self) -> Choice:
        """A choice of the greatest cost inside the window; where the cost is a function, a large choice."""
        return self._window.end(greatest=True) if self._window else self._outward(self.base.max())

    def _outward(self, choice: Choice) -> Choice:
        return choice if self.fits(choice) else self._repair_any(choice, np.random.default_rng(0))

    # Drawing and changing.

    def sample(self, rng: np.random.Generator, uniform: Uniform | None = None) -> Choice:
        """Draw a choice inside the window.

        Args:
            rng: Of the draw.
            uniform: ``"choices"``: all are as likely, the default where the cost is an `Additive`;
                ``"dims"``: a draw of the whole space that fits, after ``tries`` draws a repaired one.

        Raises:
            BudgetError: if no choice inside the window is found.
        """
        if known(uniform or ("choices" if self._window else "dims")) == "dims":
            return self._fitting(lambda: self.base.sample(rng), rng)
        if self._window:
            return self._window.sample(rng)
        return self._listed[int(rng.integers(len(self._listed)))]

    def shrunk(self, rng: np.random.Generator) -> Choice:
        """Draw a choice that is too large, and shrink it until it fits.

        Dims of the first group of ``order`` begin at their greatest value, the others are drawn until the
        cost is not too low; then `repair` steps down (Y.-L. Liao, S. Karaman and V. Sze, 2021, whose groups
        are heads and hidden widths first, then embeddings and depth).

        Args:
            rng: Of the draw.

        Raises:
            BudgetError: if no choice inside the window is found.
        """
        first = self._groups[0] if len(self._groups) > 1 else set()
        for _ in range(_STARTS):
            for _ in range(self._tries):
                start = self.base.build(lambda dim: dim.most if dim.name in first else dim.draw(rng))
                if self.cost(start) >= self.lo:
                    break
            if self.fits(found := self.repair(start, rng)):
                return found
        return self.sample(rng)

    def mutate(self, choice: Choice, rng: np.random.Generator, p: float = 0.1) -> Choice:
        """A mutation that fits; after ``tries`` of them a repaired one."""
        return self._fitting(lambda: self.base.mutate(choice, rng, p), rng)

    def crossover(self, a: Choice, b: Choice, rng: np.random.Generator, p: float = 0.5) -> Choice:
        """A crossover that fits; after ``tries`` of them a repaired one."""
        return self._fitting(lambda: self.base.crossover(a, b, rng, p), rng)

    def neighbours(self, choice: Choice) -> Iterator[Choice]:
        """The neighbours inside the window."""
        return filter(self.fits, self.base.neighbours(choice))

    def _fitting(self, draw: Callable[[], Choice], rng: np.random.Generator) -> Choice:
        for _ in range(self._tries):
            if self.fits(choice := draw()):
                return choice
        return self._repair_any(choice, rng)

    # Repair.

    def _excess(self, cost: float) -> float:
        """How far outside the window a cost is."""
        return max(cost - self.hi, self.lo - cost, 0)

    def _none(self, nearest: float) -> BudgetError:
        return BudgetError(
            f"no choice found that costs from {self.lo:g} to {self.hi:g}", f"the nearest costs {nearest:g}"
        )

    def _repair_any(self, choice: Choice, rng: np.random.Generator) -> Choice:
        """Repair a choice or, where that comes to nothing, draws; else an exact draw, where there is one."""
        nearest = math.inf
        for start in itertools.chain((choice,), (self.base.sample(rng) for _ in range(_STARTS))):
            found = self.repair(start, rng)
            cost = self.cost(found)
            if not self._excess(cost):
                return found
            nearest = min(nearest, cost, key=self._excess)
        if self._window:
            return self._window.sample(rng)
        raise self._none(nearest)

    def repair(self, choice: Choice, rng: np.random.Generator) -> Choice:
        """Step by random dims towards the window: down where the cost is too high, up where it is too low.

        Dims of the first group of ``order`` are changed first, those of the next after ``tries`` steps more.
        A step that leads further away is not made.

        Returns:
            A choice inside the window, or the nearest that was reached.
        """
        cost = self.cost(choice)
        limit = self._tries * (len(self._groups) - 1) + _STEPS * len(self.free)
        for count in range(limit):
            if not self._excess(cost):
                break
            group = self._groups[min(count // self._tries, len(self._groups) - 1)]
            names = [name for name in self.active(choice) if name in group]
            if not names:
                continue
            name = names[int(rng.integers(len(names)))]
            value = self._toward(name, choice[name], cost > self.hi, rng)
            new = moves.step(self.base, choice, name, value, rng)
            new_cost = self.cost(new)
            if self._excess(new_cost) < self._excess(cost):
                choice, cost = new, new_cost
        return choice

    def _toward(self, name: str, value: Any, down: bool, rng: np.random.Generator) -> Any:
        """A lower or a higher value of a dim; of one without an order any."""
        dim = self.dim(name)
        if isinstance(dim, Finite) and (isinstance(dim, Ordinal) or dim.most != dim.default):
            return dim.at(min(max(dim.index(value) + (-1 if down else 1), 0), dim.count - 1))
        return dim.draw(rng)

    def to_json(self) -> str:
        """As JSON text.

        Raises:
            UsageError: if the cost is a function.
        """
        if not isinstance(self._additive, Additive):
            raise UsageError("the cost is a function, which JSON cannot hold", "give an Additive of tables")
        window = [None if math.isinf(bound) else bound for bound in (self.lo, self.hi)]
        order = [sorted(group) for group in self._groups[:-1]]
        data = {"cost": self._additive.to_data(), "window": window, "order": order, "tries": self._tries}
        return json.dumps({**json.loads(self.base.to_json()), "constrained": data})


def from_data(base: SearchSpace, data: Mapping[str, Any]) -> ConstrainedSpace:
    """The constrained space of what its JSON holds beside the dims."""
    cost = Additive.from_data(data["cost"])
    return ConstrainedSpace(base, cost, *data["window"], order=data["order"], tries=data["tries"])
