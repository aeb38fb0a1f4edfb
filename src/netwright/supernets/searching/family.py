"""Search a trained supernet: sub-networks judged with its weights, as an ordinary study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from netwright import nas
from netwright.errors import UsageError
from netwright.nas.choice import Choice
from netwright.structure import Budget
from netwright.supernets.network.elastic import Elastic
from netwright.supernets.searching.measures import Macs, Measure, Params

#: Most sub-networks that are listed one by one.
_LISTED = 50_000
#: Drawn from larger spaces in search of the largest that fits.
_DRAWN = 2_000


@dataclass(frozen=True)
class Member:
    """One sub-network that was found.

    Attributes:
        choice: What it is.
        values: Name of a measure -> its value.
        sup: The supernet that it belongs to.
    """

    choice: Choice
    values: dict[str, float]
    sup: Elastic

    @property
    def model(self) -> nn.Module:
        """A plain network of its own; see `Elastic.extract`."""
        return self.sup.extract(self.choice)


@dataclass(frozen=True)
class Family:
    """The sub-networks that a search found.

    Attributes:
        sup: The supernet.
        found: The search.
        measures: What was measured, in the order of the objectives.
    """

    sup: Elastic
    found: nas.Found
    measures: tuple[Measure, ...]

    def _member(self, trial: nas.Trial) -> Member:
        values = {
            m.name: -v if m.more_is_better else v for m, v in zip(self.measures, trial.values, strict=True)
        }
        return Member(trial.candidate, values, self.sup)

    @property
    def members(self) -> list[Member]:
        """All that were judged, in order."""
        return [self._member(trial) for trial in self.found.trials]

    @property
    def front(self) -> list[Member]:
        """Those that no other beats in every measure."""
        return [self._member(trial) for trial in self.found.front]

    def best(self, budget: Budget | str | None = None, **limits: Any) -> Member:
        """The best by the first measure among those that keep to limits.

        Args:
            budget: Limits on what was measured.
            limits: As fields of a `Budget`: ``latency="8 ms"``, ``macs=0.5``.

        Raises:
            UsageError: if a limit was not measured, or none keeps to all.
        """
        given = Budget.parse(budget) if budget is not None else Budget(**limits)
        dense = _dense(self.sup, given, self.measures)
        fitting = self.front
        for name in given.limits:
            if name not in {m.name for m in self.measures} and name not in ("macs", "params"):
                raise UsageError(f"{name} was not measured", f"add nw.{name.title()} to the objectives")
            fitting = [
                m for m in fitting if not given.misses(name, _value(m, name), dense.get(name, float("nan")))
            ]
        if not fitting:
            raise UsageError(f"no sub-network on the front keeps to {given}", "search longer, or allow more")
        first = self.measures[0]
        return max(fitting, key=lambda m: m.values[first.name] * (1 if first.more_is_better else -1))


def _value(member: Member, name: str) -> float:
    if name in member.values:
        return member.values[name]
    measure: Measure = Macs() if name == "macs" else Params()
    return measure(member.sup, member.choice)


def _dense(sup: Elastic, budget: Budget, measures: Sequence[Measure]) -> dict[str, float]:
    """Numbers of the largest sub-network that relative limits refer to."""
    full = sup.blueprint.full
    known: dict[str, Measure] = {"macs": Macs(), "params": Params(), **{m.name: m for m in measures}}
    return {n: known[n](sup, full) for n, limit in budget.limits.items() if limit.relative and n in known}


def search(
    target: Any,
    objectives: Sequence[Any],
    *,
    strategy: Any = "random",
    budget: Budget | str | None = None,
    window: float = 0.0,
    trials: int = 100,
    seed: int = 0,
    storage: str | Path | None = None,
    name: str = "search",
    **arguments: Any,
) -> Any:
    """Search a space, or the sub-networks of a trained supernet.

    Args:
        target: A space (see `nas.search`, which then does everything), or a supernet.
        objectives: Functions of a candidate that are minimised, or for a supernet measures: `Accuracy`,
            `Latency`, `Macs`, `Params`.
        strategy: See `nas.search`: "random", "evolution", "coarse-to-fine", "exhaustive", "tpe", "nsga2" ...
        budget: Of a supernet: limits on macs and params keep proposals inside, others mark them.
        window: Least share of the macs (or params) limit that proposals use, 0 to 1.
        trials: How many candidates are judged.
        seed: Of the proposals.
        storage: Optuna storage URL or an SQLite file; the same study goes on.
        name: Of the study in the storage.
        arguments: Further ones of `nas.search`.

    Returns:
        `nas.Found` for a space, a `Family` for a supernet.

    Raises:
        UsageError: if an argument is not understood or no sub-network keeps to the budget.
    """
    if not isinstance(target, Elastic):
        return nas.search(
            target,
            objectives,
            strategy=strategy,
            trials=trials,
            seed=seed,
            storage=storage,
            name=name,
            **arguments,
        )
    sup, given = target, Budget.parse(budget) if budget is not None else Budget()
    measures: tuple[Measure, ...] = tuple(objectives)
    dense = _dense(sup, given, measures)
    space, constraints = _limited(sup, given, dense, measures, window)
    known: dict[tuple[str, Choice], float] = {}

    def judged(measure: Measure, choice: Choice) -> float:
        if (measure.name, choice) not in known:
            known[measure.name, choice] = measure(sup, choice)
        value = known[measure.name, choice]
        return -value if measure.more_is_better else value

    found = nas.search(
        space,
        [lambda c, m=m: judged(m, c) for m in measures],  # type: ignore[misc]
        strategy=strategy,
        constraint=constraints or None,
        trials=trials,
        seed=seed,
        storage=storage,
        name=name,
        **arguments,
    )
    return Family(sup, found, measures)


def _limited(
    sup: Elastic, budget: Budget, dense: dict[str, float], measures: Sequence[Measure], window: float
) -> tuple[Any, dict[str, Any]]:
    """The space inside the budget, and what cannot be kept to beforehand."""
    space: Any = sup.space
    constraints: dict[str, Any] = {}
    by_name = {m.name: m for m in measures}
    for name, limit in budget.limits.items():
        if name in ("macs", "params"):
            most = limit.against(dense.get(name, 0.0))
            measure: Measure = Macs() if name == "macs" else Params()
            if space is sup.space:
                space = sup.space.constrained(lambda c, m=measure: m(sup, c), window * most, most)
            else:
                constraints[name] = lambda c, m=measure, most=most: m(sup, c) - most
        elif name in by_name:
            least = name == "accuracy"
            bound = (
                dense.get(name, 0.0) + limit.value
                if least and limit.relative
                else limit.against(dense.get(name, 0.0))
            )
            sign = -1.0 if least else 1.0
            constraints[name] = lambda c, m=by_name[name], b=bound, s=sign: s * (m(sup, c) - b)
        else:
            raise UsageError(
                f"a limit on {name} needs its measure", f"add nw.{name.title()} to the objectives"
            )
    return space, constraints


def for_budget(sup: Elastic, budget: Budget | str) -> Choice:
    """The largest sub-network that keeps to limits on macs and params, without judging any.

    What a supernet trained on sorted sub-networks needs at run time: the more units, the better. Exact where
    the space can be listed; of larger ones the largest of some thousands drawn near the limit.

    Args:
        sup: The supernet.
        budget: Limits on macs and params.

    Raises:
        UsageError: if another limit is given or nothing is small enough.
    """
    given = Budget.parse(budget)
    if set(given.limits) - {"macs", "params"} or not given.limits:
        raise UsageError(f"{given} is more than counting can tell", "give macs= or params=")
    dense = _dense(sup, given, ())
    if sup.space.size() <= _LISTED:
        choices = list(sup.space.enumerate())
    else:
        name, limit = next(iter(given.limits.items()))
        measure: Measure = Macs() if name == "macs" else Params()
        most = limit.against(dense.get(name, 0.0))
        inside = sup.space.constrained(lambda c: measure(sup, c), 0.9 * most, most)
        rng = np.random.default_rng(0)
        choices = [inside.sample(rng) for _ in range(_DRAWN)]
    table = sup.costs(choices)
    fits = np.ones(len(choices), bool)
    for name, limit in given.limits.items():
        fits &= table[:, 0 if name == "macs" else 1] <= limit.against(dense.get(name, 0.0))
    if not fits.any():
        raise UsageError(
            f"no sub-network keeps to {given}", f"the smallest has {int(table[:, 0].min()):,} macs"
        )
    return choices[int(np.where(fits, table[:, 0], -1).argmax())]
