"""Searching a space by an ordinary Optuna study."""

from __future__ import annotations

import contextlib
import itertools
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from netwright.errors import ArtefactError, UsageError

if TYPE_CHECKING:
    import optuna

#: Names of the strategies; a sampler of Optuna is one, too.
STRATEGIES = ("random", "tpe", "nsga2")
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
    """

    number: int
    candidate: Any
    values: tuple[float, ...]


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
        """The trials that no other beats in every objective; of equal ones the first."""
        chosen: list[Trial] = []
        for trial in sorted(self.trials, key=lambda t: (t.values, t.number)):
            if not any(all(a <= b for a, b in zip(c.values, trial.values, strict=True)) for c in chosen):
                chosen.append(trial)
        return chosen

    @property
    def best(self) -> Trial:
        """The trial with the least value of the first objective; of equal ones the first."""
        return min(self.trials, key=lambda t: (t.values[0], t.number))

    @property
    def best_so_far(self) -> list[float]:
        """The least value of the first objective after each trial."""
        return list(itertools.accumulate((t.values[0] for t in self.trials), min))


def search(
    space: Space,
    objectives: Sequence[Objective],
    *,
    strategy: str | optuna.samplers.BaseSampler = "random",
    trials: int = 100,
    seed: int = 0,
    storage: str | Path | None = None,
    name: str = "search",
) -> Found:
    """Propose and judge candidates of a space.

    Under ``"random"`` the candidate of trial n depends on the seed and n alone: a longer search begins with
    the trials of a shorter one.

    Args:
        space: What is searched.
        objectives: What is minimised.
        strategy: A name of `STRATEGIES`, or a sampler of Optuna.
        trials: How many in all, those included that the storage has already.
        seed: Of the proposals.
        storage: Optuna storage URL or an SQLite file in which the study is kept and gone on with; in memory
            where None.
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

    with _quiet():
        try:
            study = optuna.create_study(
                storage=f"sqlite:///{storage}" if isinstance(storage, Path) else storage,
                study_name=name,
                directions=["minimize"] * len(objectives),
                sampler=_sampler(strategy, seed),
                load_if_exists=True,
            )
            for done in range(len(_finished(study)), trials):
                if strategy == "random":
                    study.sampler = _sampler("random", _mixed(seed, done))
                trial = study.ask()
                candidate = space.suggest(trial)
                study.tell(trial, [_judge(f, candidate) for f in objectives])
        except SQLAlchemyError as error:
            raise ArtefactError(f"the study in {storage} cannot be used: {error}") from error
        judged = [
            Trial(t.number, space.suggest(optuna.trial.FixedTrial(t.params)), tuple(t.values))
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


def _sampler(strategy: str | optuna.samplers.BaseSampler, seed: int) -> optuna.samplers.BaseSampler:
    import optuna

    if strategy == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    if strategy == "tpe":
        return optuna.samplers.TPESampler(seed=seed, multivariate=True)
    if strategy == "nsga2":
        return optuna.samplers.NSGAIISampler(seed=seed)
    if isinstance(strategy, str):
        raise UsageError(f"there is no strategy {strategy!r}", f"choose from {', '.join(STRATEGIES)}")
    return strategy


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
