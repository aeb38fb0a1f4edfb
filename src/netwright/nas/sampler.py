"""A strategy as a sampler of Optuna, so that a search is an ordinary study."""

from __future__ import annotations

import copy
import datetime
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from netwright.errors import UsageError
from netwright.nas.choice import Choice
from netwright.nas.constraints import stored, violation
from netwright.nas.history import History, Judged
from netwright.nas.space import SearchSpace
from netwright.nas.strategies.base import Strategy

_FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


class StrategySampler(optuna.samplers.BaseSampler):
    """Proposes what a strategy proposes; the objective reads it by ``space.suggest(trial)``.

    A proposal depends on the seed, the finished trials and those this sampler has proposed: a study that was
    killed and resumed with the same seed goes on with the proposal that was lost. Enqueued trials are
    learnt from, and cost no proposal.

    Args:
        strategy: A copy of it is used.
        space: What is searched.
        seed: Of the proposals.
        shared: Whether other processes propose for the same study: their running trials then count, so that
            they propose other things; so does one that was killed.
    """

    def __init__(self, strategy: Strategy, space: SearchSpace, seed: int = 0, shared: bool = False) -> None:
        self.space, self.seed, self.shared = space, seed, shared
        self._fresh = copy.deepcopy(strategy)
        self._distributions = space.distributions()
        self._other = optuna.samplers.RandomSampler(seed=seed)
        self._lock = threading.RLock()
        self._study: str | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.RLock())

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All dims, always."""
        return self._distributions

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The next proposal, dims that do not matter included."""
        with self._lock:
            self._catch_up(study)
            queued = "fixed_params" in trial.system_attrs
            if queued and (given := self._read(trial.system_attrs["fixed_params"])):
                self._pending[trial.number] = (given, True)
                return {}
            number = self._done + sum(not free for _, free in self._pending.values())
            if self.shared:
                number += sum(
                    t.number not in self._pending and t.number != trial.number
                    for t in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
                )
            rng = np.random.default_rng(np.random.SeedSequence((self.seed, number)))
            seen = self._seen | {choice for choice, _ in self._pending.values()}
            choice = self._strategy.propose(History(self.space, self._judged, number, seen, rng))
            self._pending[trial.number] = (choice, queued)
        return self.space.to_params(choice, inactive=True)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A random value of a parameter that is no dim of the space."""
        return self._other.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """End ``study.optimize`` after the last proposal there is."""
        with self._lock:
            self._catch_up(study)
            total = self._strategy.total()
            if total is not None and self._done + 1 >= total:
                try:
                    study.stop()
                except RuntimeError:  # of a loop of one's own
                    pass

    def _read(self, params: Mapping[str, Any]) -> Choice | None:
        """The choice of parameters; None where some are missing."""
        try:
            return self.space.from_params(params)
        except UsageError:
            return None

    def _begin(self, study: Study) -> None:
        self._study = study.study_name
        self._strategy = copy.deepcopy(self._fresh)
        self._strategy.begin(self.space)
        self._judged: list[Judged] = []
        self._seen: set[Choice] = set()
        self._known: set[int] = set()
        self._done = 0
        #: Number of a trial -> its choice, and whether it was enqueued.
        self._pending: dict[int, tuple[Choice, bool]] = {}

    def _catch_up(self, study: Study) -> None:
        """Learn of the trials that were finished since, in the order of their ends."""
        if self._study != study.study_name:
            self._begin(study)
        trials = study.get_trials(deepcopy=False, states=_FINISHED)
        new = [t for t in trials if t.number not in self._known]
        for trial in sorted(new, key=lambda t: (t.datetime_complete or datetime.datetime.max, t.number)):
            self._known.add(trial.number)
            self._pending.pop(trial.number, None)
            self._done += "fixed_params" not in trial.system_attrs
            if trial.state == TrialState.PRUNED and (bad := self._read(trial.params)):
                self._seen.add(bad)
            if trial.state != TrialState.COMPLETE:
                continue
            signs = [-1 if d == StudyDirection.MAXIMIZE else 1 for d in study.directions]
            values = tuple(sign * value for sign, value in zip(signs, trial.values, strict=True))
            choice = self.space.from_params(trial.params)
            self._judged.append(Judged(choice, values, violation(stored(trial))))
            self._seen.add(choice)
            self._strategy.observe(self._judged[-1])
