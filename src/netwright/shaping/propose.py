"""What to try next: a pure function of the seed, the slot and the finished trials.

A study must come out the same whether or not it was killed on the way. Therefore no sampler lives across
trials and none draws from a stream whose position depends on the process. For every slot (the place in the
order of trials) a new in-memory study is filled with the finished trials, in their order, and a new
sampler, seeded by the study's seed and the slot, is asked once. The finished trials come from disk, so a
resumed process asks exactly the question that the killed one would have asked. For the same reason the
values in that study are deterministic ones only (validation error of the exported file, predicted cost);
measured time belongs to the final stage.
"""

from __future__ import annotations

import contextlib
import hashlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from netwright.errors import UsageError
from netwright.shaping.candidate import Candidate, Outcome, Space

if TYPE_CHECKING:
    import optuna

SAMPLERS = ("tpe", "nsga2", "random")
_TRIES = 12


@dataclass(frozen=True)
class Proposal:
    """A candidate and what the sampler wants remembered about it."""

    candidate: Candidate
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """A finished trial.

    Args:
        slot: Its place in the order of trials.
        candidate: What was tried.
        outcome: What came out; None if it failed.
        notes: What the sampler wanted remembered.
        failure: Why it failed.
    """

    slot: int
    candidate: Candidate
    outcome: Outcome | None
    notes: dict[str, Any] = field(default_factory=dict)
    failure: str | None = None


def propose(
    space: Space,
    finished: Sequence[Record],
    running: Sequence[Candidate],
    slot: int,
    *,
    seed: int,
    sampler: str = "tpe",
) -> Proposal:
    """Choose the candidate of one slot.

    Args:
        space: What can be chosen from; its ladder fills the first slots.
        finished: Finished trials, in the order they finished.
        running: Candidates being evaluated at the moment by other workers.
        slot: The slot to fill.
        seed: The study's seed.
        sampler: One of `SAMPLERS`.
    """
    ladder = space.ladder()
    if slot < len(ladder):
        return Proposal(ladder[slot])
    known = {r.candidate for r in finished} | set(running)
    proposal = Proposal(ladder[0])
    for attempt in range(_TRIES):
        proposal = _ask(space, finished, running, _seed(seed, slot, attempt), sampler)
        if proposal.candidate not in known:
            break
    return proposal


def _seed(*parts: int) -> int:
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:4], "big")


def _ask(
    space: Space, finished: Sequence[Record], running: Sequence[Candidate], seed: int, sampler: str
) -> Proposal:
    import optuna
    from optuna.trial import TrialState, create_trial

    distributions = space.distributions()
    with quiet():
        study = optuna.create_study(directions=["minimize", "minimize"], sampler=_sampler(sampler, seed))
        for record in finished:
            if record.outcome is None or record.candidate.dense:
                continue
            study.add_trial(
                create_trial(
                    state=TrialState.COMPLETE,
                    params=space.params(record.candidate),
                    distributions=distributions,
                    values=[record.outcome.error, record.outcome.cost],
                    system_attrs=record.notes,
                )
            )
        for candidate in running:
            if not candidate.dense:
                study.add_trial(
                    create_trial(
                        state=TrialState.RUNNING,
                        params=space.params(candidate),
                        distributions=distributions,
                    )
                )
        trial = study.ask(distributions)
        notes = dict(study.get_trials(deepcopy=False)[-1].system_attrs)
    return Proposal(space.candidate(trial.params), notes)


def _sampler(name: str, seed: int) -> optuna.samplers.BaseSampler:
    import optuna

    if name == "tpe":
        return optuna.samplers.TPESampler(
            seed=seed, multivariate=True, n_startup_trials=4, constant_liar=True
        )
    if name == "nsga2":
        return optuna.samplers.NSGAIISampler(seed=seed, population_size=10)
    if name == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    raise UsageError(f"there is no sampler {name!r}", f"choose from {', '.join(SAMPLERS)}")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
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
