"""What can be searched: an ordered list of dims, and what every strategy does with them."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from netwright.errors import UsageError
from netwright.nas import encoding, moves, optuna_params
from netwright.nas.choice import Choice
from netwright.nas.conditions import Condition, Predicate
from netwright.nas.counting import Counter, elimination_order
from netwright.nas.dim import Dim
from netwright.nas.dims import Tied, dim_from_data

if TYPE_CHECKING:
    import optuna

    from netwright.nas.constrained import ConstrainedSpace, Cost

#: Whether canonical choices are equally likely, or the values of every dim that matters.
Uniform = Literal["choices", "dims"]


class SearchSpace:
    """Dims in their order; a condition of a dim reads those before it.

    A width that matters where a block is there, searched under a budget::

        space = SearchSpace([
            Ordinal("keep", (False, True)),
            Ordinal("width", (8, 16, 32), active_if=("keep", True)),
        ])
        small = space.constrained({"width": {8: 1, 16: 4, 32: 16}}, hi=4)
        nw.search(small, [error], strategy="evolution", trials=50)

    Every choice it hands out is canonical: it has a value for every dim, the default where the dim does not
    matter. Two choices that build the same network are then equal, with the same key.

    Args:
        dims: `Categorical`, `Ordinal`, `Int`, `Float`, `Subset` and `Tied`, each name once.

    Attributes:
        dims: All of them.
        free: Those in which something is chosen: all but the tied ones.

    Raises:
        UsageError: if a name comes twice, or a dim depends on one that does not come before it.
    """

    def __init__(self, dims: Iterable[Dim]) -> None:
        self.dims = tuple(dims)
        self.free = tuple(d for d in self.dims if not isinstance(d, Tied))
        self._by_name = {d.name: d for d in self.dims}
        self._defaults: dict[str, Any] = {}
        if not self.free:
            raise UsageError("a space needs something to choose", "give at least one dim")
        #: Name -> names of the dims it depends on, all of which come before it.
        self.depends: dict[str, tuple[str, ...]] = {}
        #: Name -> what it is tied to, its condition, whether that is a function; looked up very often.
        self._rules: dict[str, tuple[str | None, Condition | None, bool]] = {}
        for dim in self.dims:
            if dim.name in self.depends:
                raise UsageError(f"two dims are named {dim.name!r}", "give them different names")
            self.depends[dim.name] = self._parents(dim)
            to = dim.to if isinstance(dim, Tied) else None
            self._rules[dim.name] = (to, dim.condition, isinstance(dim.condition, Predicate))
            self._defaults[dim.name] = dim.default if to is None else self._defaults[to]

    def _parents(self, dim: Dim) -> tuple[str, ...]:
        if isinstance(dim.condition, Predicate):
            return tuple(self.depends)
        names = set(dim.condition.names) if dim.condition else set()
        names |= {dim.to} if isinstance(dim, Tied) else set()
        for name in names - self.depends.keys():
            raise UsageError(f"{dim.name!r} depends on {name!r}, which is not before it", "move it up")
        return tuple(n for n in self.depends if n in names)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.dims))})"

    def __eq__(self, other: object) -> bool:
        return self.dims == other.dims if type(other) is type(self) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self.depends))

    def __add__(self, other: SearchSpace) -> SearchSpace:
        if type(other) is not SearchSpace:
            return NotImplemented
        return SearchSpace(self.dims + other.dims)

    def __contains__(self, choice: object) -> bool:
        """Whether it is a canonical choice of this space."""
        try:
            return isinstance(choice, Choice) and self.canonical(choice) == choice
        except UsageError:
            return False

    def dim(self, name: str) -> Dim:
        """The dim of a name.

        Raises:
            UsageError: if there is none.
        """
        if name not in self._by_name:
            raise UsageError(f"there is no dim {name!r}", f"the dims are {', '.join(self._by_name)}")
        return self._by_name[name]

    # From values to choices: all that makes choices goes through `build` or `walk`.

    def matters(self, dim: Dim, values: Mapping[str, Any], active: Collection[str]) -> bool:
        """Whether a dim is active.

        Args:
            dim: Which.
            values: Of the dims that it depends on, at least.
            active: Names of those of them that are active.
        """
        to, condition, function = self._rules[dim.name]
        if to is not None and to not in active:
            return False
        if function:
            values = {name: values[name] for name in self.depends[dim.name]}
        return condition is None or condition.holds(values, active)

    def build(self, pick: Callable[[Dim], Any]) -> Choice:
        """The canonical choice of a function that is asked for the value of every free dim that matters."""
        values: dict[str, Any] = {}
        active: set[str] = set()
        for dim in self.dims:
            if not self.matters(dim, values, active):
                values[dim.name] = self._defaults[dim.name]
                continue
            active.add(dim.name)
            to = self._rules[dim.name][0]
            values[dim.name] = dim.check(pick(dim)) if to is None else values[to]
        return Choice(values)

    def walk(self, options: Callable[[Dim], Iterable[Any]]) -> Iterator[Choice]:
        """All canonical choices of the values that a function gives for every free dim that matters.

        In lexicographic order over the dims, taken in the order in which they can be counted.
        """
        order = [self._by_name[name] for name in self._order]
        values: dict[str, Any] = {}
        active: set[str] = set()

        def level(dim: Dim) -> Iterator[Any]:
            active.discard(dim.name)
            if not self.matters(dim, values, active):
                return iter((self._defaults[dim.name],))
            active.add(dim.name)
            to = self._rules[dim.name][0]
            return iter(options(dim) if to is None else (values[to],))

        stack = [level(order[0])]
        while stack:
            dim = order[len(stack) - 1]
            for value in stack[-1]:
                values[dim.name] = value
                break
            else:
                active.discard(dim.name)
                stack.pop()
                continue
            if len(stack) < len(order):
                stack.append(level(order[len(stack)]))
            else:
                yield Choice({name: values[name] for name in self.depends})

    def active(self, choice: Mapping[str, Any]) -> tuple[str, ...]:
        """Names of the dims that matter in a choice."""
        active: dict[str, None] = {}
        for dim in self.dims:
            if self.matters(dim, choice, active):
                active[dim.name] = None
        return tuple(active)

    def canonical(self, choice: Mapping[str, Any]) -> Choice:
        """The canonical choice of any values; dims that do not matter may be missing.

        Raises:
            UsageError: if a value that matters is missing or none of its dim.
        """
        for name in choice:
            self.dim(name)

        def pick(dim: Dim) -> Any:
            if dim.name not in choice:
                raise UsageError(f"the choice has no {dim.name!r}", "it matters here: give a value")
            return choice[dim.name]

        return self.build(pick)

    def key(self, choice: Mapping[str, Any]) -> str:
        """A stable hash, equal for choices that build the same network."""
        return self.canonical(choice).key

    # How many there are.

    @cached_property
    def _order(self) -> tuple[str, ...]:
        return elimination_order(self.depends, ())

    @cached_property
    def _counter(self) -> Counter:
        return Counter(self, ())

    def size(self) -> int:
        """How many canonical choices there are, exactly.

        Raises:
            UsageError: if a dim is a `Float`, or functions as conditions entangle too many dims.
        """
        return self._counter.count()

    def at(self, number: int) -> Choice:
        """The choice of a number from 0 to ``size() - 1``, in the order of `enumerate`."""
        return self._counter.at(number)

    def enumerate(self) -> Iterator[Choice]:
        """All canonical choices, each once.

        Raises:
            UsageError: if a dim is a `Float`.
        """
        for dim in self.free:
            if dim.count is None:
                raise UsageError(f"the values of {dim.name!r} cannot be listed", "use Ordinal or Int")
        return self.walk(lambda dim: dim.each())

    def min(self) -> Choice:
        """The choice of the least values; of dims without an order the first."""
        return self.build(lambda dim: dim.default)

    def max(self) -> Choice:
        """The choice of the greatest values; of dims without an order the first."""
        return self.build(lambda dim: dim.most)

    # Drawing and changing.

    def sample(self, rng: np.random.Generator, uniform: Uniform | None = None) -> Choice:
        """Draw a choice.

        Args:
            rng: Of the draw.
            uniform: ``"dims"``, the default: every value of a dim that matters is as likely; ``"choices"``:
                every canonical choice is.

        Raises:
            UsageError: if choices cannot be counted, see `size`.
        """
        if known(uniform or "dims") == "choices":
            return self._counter.sample(rng)
        return self.build(lambda dim: dim.draw(rng))

    def mutate(self, choice: Choice, rng: np.random.Generator, p: float = 0.1) -> Choice:
        """Draw every dim that matters anew with a probability; one that has two values flips.

        Args:
            choice: What is mutated; the answer may equal it.
            rng: Of the draw.
            p: Probability of every dim.
        """
        return moves.mutate(self, choice, rng, p)

    def crossover(self, a: Choice, b: Choice, rng: np.random.Generator, p: float = 0.5) -> Choice:
        """Take every dim from one of two choices; from the one where it matters, where it does in one alone.

        Args:
            a: A parent.
            b: The other.
            rng: Of the draw.
            p: Probability of ``b``.
        """
        return moves.crossover(self, a, b, rng, p)

    def neighbours(self, choice: Choice) -> Iterator[Choice]:
        """The choices that differ by one step of one dim.

        Dims that begin to matter by the step take all their values (a `Float` its least): b is then a
        neighbour of a where a is one of b.
        """
        return moves.neighbours(self, choice)

    # As numbers, as text, for Optuna.

    def encode(self, choice: Choice, kind: encoding.Kind = "onehot") -> np.ndarray:
        """A choice as a vector of float64, see `columns`.

        Args:
            choice: Of this space.
            kind: ``"onehot"``: an entry for every value; ``"masked-onehot"``: the same with zeros where a dim
                does not matter; ``"ordinal"``: the number of the value, a `Float` itself; ``"unit"``: the
                same from 0 to 1. A `Subset` always has an entry for every member.
        """
        return encoding.encode(self, choice, kind)

    def decode(self, vector: np.ndarray, kind: encoding.Kind = "onehot") -> Choice:
        """The choice nearest to a vector of `encode`; a `Float` comes back up to rounding."""
        return encoding.decode(self, vector, kind)

    def columns(self, kind: encoding.Kind = "onehot") -> list[str]:
        """What the entries of `encode` mean."""
        return encoding.columns(self, kind)

    def to_json(self) -> str:
        """As JSON text.

        Raises:
            UsageError: if a condition is a function, or an option has no form in JSON.
        """
        try:
            return json.dumps({"dims": [dim.to_data() for dim in self.dims]})
        except TypeError as error:
            raise UsageError(f"an option has no form in JSON: {error}", "name it by a string") from error

    @classmethod
    def from_json(cls, text: str) -> SearchSpace:
        """The space of a text of `to_json`, constrained where that was.

        Raises:
            UsageError: if the text is none.
        """
        from netwright.nas.constrained import from_data

        try:
            data = json.loads(text)
            space = SearchSpace(map(dim_from_data, data["dims"]))
            return from_data(space, data["constrained"]) if "constrained" in data else space
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise UsageError(f"this is no space in JSON: {error}") from error

    def choice(self, text: str) -> Choice:
        """The canonical choice of a JSON text of ``Choice.to_json``."""
        return self.canonical(Choice.from_json(text))

    def distributions(self) -> dict[str, optuna.distributions.BaseDistribution]:
        """Optuna's distribution of every free dim.

        Options that JSON cannot hold as scalars are numbered, levels that are not evenly spaced too.
        """
        return optuna_params.distributions(self)

    def suggest(self, trial: Any) -> Choice:
        """The choice that an Optuna trial suggests; only dims that matter are asked for."""
        return optuna_params.suggest(self, trial)

    def to_params(self, choice: Choice, inactive: bool = False) -> dict[str, Any]:
        """A choice as the parameters of an Optuna trial, for ``enqueue_trial`` and ``FixedTrial``.

        Args:
            choice: Of this space.
            inactive: Whether dims that do not matter are there, too.
        """
        return optuna_params.to_params(self, choice, inactive)

    def from_params(self, params: Mapping[str, Any]) -> Choice:
        """The choice of the parameters of an Optuna trial.

        Raises:
            UsageError: if one that matters is missing or out of range.
        """
        return optuna_params.from_params(self, params)

    def constrained(
        self,
        cost: Cost,
        lo: float | None = None,
        hi: float | None = None,
        *,
        order: Iterable[Iterable[str]] = (),
        tries: int = 100,
    ) -> ConstrainedSpace:
        """The choices whose cost is inside a window, as a space with the same methods.

        Args:
            cost: A function of a choice; or an `Additive`, or its mapping of names to costs: choices are then
                counted and drawn exactly.
            lo: The least cost; none where None.
            hi: The greatest cost; none where None.
            order: Patterns of names, in groups: what a repair changes first; other dims come after
                ``tries`` steps. Any dim at once where there is none.
            tries: Draws before a repair begins.

        Raises:
            UsageError: if the window is empty.
        """
        from netwright.nas.constrained import ConstrainedSpace

        return ConstrainedSpace(self, cost, lo, hi, order=order, tries=tries)


def known(uniform: str) -> str:
    """Refuse what is no `Uniform`."""
    if uniform not in ("choices", "dims"):
        raise UsageError(f"uniform={uniform!r} is not understood", 'it is "choices" or "dims"')
    return uniform
