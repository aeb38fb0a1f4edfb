"""Searching a space by an ordinary Optuna study."""

from __future__ import annotations

import contextlib
import copy
import itertools
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from netwright.errors import ArtefactError, UsageError
from netwright.nas.constrained import ConstrainedSpace
from netwright.nas.constraints import Constraint, named, record, stored, violation
from netwright.nas.space import SearchSpace
from netwright.nas.strategies import BY_NAME, Strategy

if TYPE_CHECKING:
    import optuna

#: Names of the strategies; a `Strategy` is one, too, and a sampler of Optuna.
STRATEGIES = ("random", "tpe", "nsga2", *(name for name in BY_NAME if name != "random"))
#: A candidate of the space -> a number; smaller is better.
Objective = Callable[[Any], float]


class Space(Protocol):
    """What can be searched."""

    def suggest(self, trial: Any) -> Any:
        """A candidate from the values that an Optuna trial suggests; the same for the same values."""
        ...


@dataclass(frozen=True)
class Trial:
    """A judged candidate.

    Attributes:
        number: In the order in which they were proposed, from 0.
        candidate: What the space made of the trial.
        values: Of the objectives, in their order.
        violation: By how much constraints are broken in all; 0 where none is.
    """

    number: int
    candidate: Any
    values: tuple[float, ...]
    violation: float = 0.0


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        trials: All of them, in order.
        study: The Optuna study, for its plots and its dashboard.
    """

    trials: list[Trial]
    study: optuna.Study

    @property
    def front(self) -> list[Trial]:
        """The trials that no other beats in every objective; of equal ones the first.

        Those that break a constraint are not in it.
        """
        chosen: list[Trial] = []
        allowed = [t for t in self.trials if not t.violation]
        for trial in sorted(allowed, key=lambda t: (t.values, t.number)):
            if not any(all(a <= b for a, b in zip(c.values, trial.values, strict=True)) for c in chosen):
                chosen.append(trial)
        return chosen

    @property
    def best(self) -> Trial:
        """The trial with the least value of the first objective; of equal ones the first.

        One that breaks constraints only where all do: then one that breaks them least.
        """
        return min(self.trials, key=lambda t: (t.violation, t.values[0], t.number))

    @property
    def best_so_far(self) -> list[float]:
        """The least value of the first objective after each trial; infinite until constraints hold."""
        values = (math.inf if t.violation else t.values[0] for t in self.trials)
        return list(itertools.accumulate(values, min))


def search(
    space: Space,
    objectives: Sequence[Objective],
    *,
    strategy: str | Strategy | optuna.samplers.BaseSampler = "random",
    constraint: Constraint | Mapping[str, Constraint] | None = None,
    trials: int = 100,
    seed: int = 0,
    storage: str | Path | optuna.storages.BaseStorage | None = None,
    name: str = "search",
) -> Found:
    """Propose and judge candidates of a space.

    Under ``"random"`` and the other strategies of Netwright a longer search begins with the trials of a
    shorter one, and one that was killed goes on with the same proposal.

    Args:
        space: What is searched; a `SearchSpace` for strategies of Netwright other than ``"random"``. What
            can be priced without training is better kept to by ``space.constrained``; samplers of Optuna may
            leave its window, which counts as a broken constraint.
        objectives: What is minimised.
        strategy: A name of `STRATEGIES`, a `Strategy`, or a sampler of Optuna.
        constraint: A function of a candidate, or several by name, that must not be above 0.
        trials: How many in all, those included that the storage has already; fewer where the strategy has
            nothing left to propose.
        seed: Of the proposals.
        storage: Optuna storage, its URL, or an SQLite file in which the study is kept and gone on with; in
            memory where None.
        name: Of the study in the storage.

    Raises:
        UsageError: if an argument is not understood, or an objective gives no number.
        ArtefactError: if the storage cannot be read or written.
    """
    if not objectives:
        raise UsageError("a search needs something to minimise", "give objectives=[...]")
    if trials < 1:
        raise UsageError(f"trials={trials} is no number of trials", "give 1 or more")
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    constraints = named(constraint)
    if isinstance(space, ConstrainedSpace):  # samplers of Optuna propose choices outside of it
        constraints["window"] = space.excess
    if isinstance(strategy, str) and isinstance(space, SearchSpace):
        strategy = BY_NAME[strategy]() if strategy in BY_NAME else strategy
    trials = _limited(trials, strategy, space)
    with _quiet():
        try:
            study = optuna.create_study(
                storage=f"sqlite:///{storage}" if isinstance(storage, Path) else storage,
                study_name=name,
                directions=["minimize"] * len(objectives),
                sampler=_sampler(strategy, space, seed),
                load_if_exists=True,
            )
            for done in range(len(_finished(study)), trials):
                if strategy == "random":
                    study.sampler = _sampler("random", space, _mixed(seed, done))
                trial = study.ask()
                candidate = space.suggest(trial)
                record(trial, constraints, candidate)
                study.tell(trial, [_judge(f, candidate) for f in objectives])
        except SQLAlchemyError as error:
            raise ArtefactError(f"the study in {storage} cannot be used: {error}") from error
        judged = [
            Trial(
                t.number,
                space.suggest(optuna.trial.FixedTrial(t.params)),
                tuple(t.values),
                violation(stored(t)),
            )
            for t in _finished(study)[:trials]
        ]
    return Found(judged, study)


def _finished(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    from optuna.trial import TrialState

    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def _judge(objective: Objective, candidate: Any) -> float:
    value = float(objective(candidate))
    if math.isnan(value):
        raise UsageError(
            f"the objective {getattr(objective, '__name__', objective)} gave {value} for {candidate}"
        )
    return value


def _mixed(seed: int, number: int) -> int:
    """A seed of its own for every trial."""
    return int(np.random.SeedSequence((seed, number)).generate_state(1)[0])


def _limited(trials: int, strategy: object, space: Space) -> int:
    """No more trials than a strategy can propose."""
    if not isinstance(strategy, Strategy) or not isinstance(space, SearchSpace):
        return trials
    strategy = copy.deepcopy(strategy)
    strategy.begin(space)
    total = strategy.total()
    return trials if total is None else min(trials, total)


def _sampler(
    strategy: str | Strategy | optuna.samplers.BaseSampler, space: Space, seed: int
) -> optuna.samplers.BaseSampler:
    import optuna

    if isinstance(strategy, Strategy) or (strategy in BY_NAME and strategy != "random"):
        if not isinstance(space, SearchSpace) or isinstance(strategy, str):
            raise UsageError(
                f"the strategy {_named(strategy)} needs a SearchSpace", 'or use "random", "tpe", "nsga2"'
            )
        from netwright.nas.sampler import StrategySampler

        return StrategySampler(strategy, space, seed)
    if strategy == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    if strategy == "tpe":
        return optuna.samplers.TPESampler(seed=seed, multivariate=True, **_older())
    if strategy == "nsga2":
        return optuna.samplers.NSGAIISampler(seed=seed, **_older())
    if isinstance(strategy, str):
        raise UsageError(f"there is no strategy {strategy!r}", f"choose from {', '.join(STRATEGIES)}")
    return strategy


def _named(strategy: str | Strategy) -> str:
    return repr(strategy) if isinstance(strategy, str) else type(strategy).__name__


def _older() -> dict[str, Any]:
    """How samplers learn of constraints before Optuna 5, whose trials tell them."""
    import optuna

    return {} if hasattr(optuna.trial.Trial, "set_constraint") else {"constraints_func": stored}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Optuna's notes about studies it creates off the user's terminal."""
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", category=optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)
