"""The study: which trials are done, kept in an ordinary Optuna study, and the loop that fills it.

A trial enters the study when it is finished, in one transaction, with its slot, parameters, values and
outcome. There is never a trial that is "running" on disk: whatever kills the process, the study holds
exactly the finished trials, and what was in flight is proposed again, identically (see
`netwright.shaping.propose`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netwright.errors import ArtefactError, ModelError, NetwrightError, UsageError
from netwright.shaping.candidate import Candidate, Outcome, Space
from netwright.shaping.propose import Proposal, Record, propose, quiet
from netwright.shaping.workers import Pool

if TYPE_CHECKING:
    import optuna


class Study:
    """Finished trials in an Optuna study of two objectives, error and cost, both minimised.

    Args:
        storage: Optuna storage URL, or the path of an SQLite file.
        name: Name of the study in the storage.
        space: What the candidates come from.
        metrics: Names of the two objectives, for dashboards.

    Raises:
        ArtefactError: if the storage is corrupt or cannot be reached.
    """

    def __init__(
        self, storage: str | Path, name: str, space: Space, metrics: tuple[str, str] = ("error", "cost")
    ) -> None:
        self.space = space
        self.where = storage
        with self._readable(), quiet():
            self._study = _open(storage, name)
            if self._study.metric_names is None:
                self._study.set_metric_names(list(metrics))

    def finished(self) -> list[Record]:
        """The finished trials, in the order they finished."""
        with self._readable():
            trials = self._study.get_trials(deepcopy=False)
            return [_record(t) for t in trials if t.state.is_finished() and "slot" in t.user_attrs]

    def add(self, record: Record) -> None:
        """Enter a finished trial, in one transaction."""
        from optuna.trial import TrialState, create_trial

        names = self.space.params(record.candidate)
        distributions = {k: v for k, v in self.space.distributions().items() if k in names}
        outcome = record.outcome
        attributes: dict[str, Any] = {"slot": record.slot, "candidate": record.candidate.to_json()}
        if outcome is not None:
            attributes["outcome"] = outcome.to_json()
        if record.failure:
            attributes["failure"] = record.failure
        trial = create_trial(
            state=TrialState.COMPLETE if outcome else TrialState.FAIL,
            params=names,
            distributions=distributions,
            values=[outcome.error, outcome.cost] if outcome else None,
            user_attrs=attributes,
            system_attrs=record.notes,
        )
        with self._readable():
            self._study.add_trial(trial)

    def _readable(self) -> _Storage:
        return _Storage(self.where)


class _Storage:
    """Turns what a broken storage raises into one clear line."""

    def __init__(self, where: str | Path) -> None:
        self.where = where

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, NetwrightError | KeyboardInterrupt):
            return
        module = type(error).__module__.split(".")[0]
        inner: list[str] = []
        seen: BaseException | None = error
        while seen is not None:
            inner.append(str(seen))
            seen = seen.__cause__
        text = " ".join(" ".join(inner).lower().split())
        if "disk is full" in text or "disk full" in text:
            raise ArtefactError(
                f"no space left on the disk while writing {self.where}",
                "free some space and run the same command again",
            ) from error
        if isinstance(self.where, Path) and module in ("sqlalchemy", "sqlite3", "optuna", "alembic", "json"):
            raise ArtefactError(
                f"{self.where} is not a readable study",
                "move it away and run again: networks in the cache beside it are not trained again",
            ) from error
        if module in ("sqlalchemy", "optuna", "alembic"):
            first = " ".join(str(error).split())[:160]
            raise ArtefactError(f"the study storage {_hidden(str(self.where))} fails: {first}") from error


def _hidden(url: str) -> str:
    """A storage URL without its password."""
    head, at, tail = url.rpartition("@")
    return f"{head.split('://')[0]}://…@{tail}" if at else url


def _open(storage: str | Path, name: str) -> optuna.Study:
    import optuna

    url = f"sqlite:///{storage.resolve()}" if isinstance(storage, Path) else storage
    options: dict[str, Any] = {"pool_pre_ping": True}
    if url.startswith("sqlite"):
        options["connect_args"] = {"timeout": 60}
    if "://" not in url or url.startswith("redis"):
        raise UsageError(f"storage {url!r} is not supported", "give an SQL URL such as postgresql://...")
    backend = optuna.storages.RDBStorage(url, engine_kwargs=options)
    return optuna.create_study(
        study_name=name, storage=backend, directions=["minimize", "minimize"], load_if_exists=True
    )


def _record(trial: optuna.trial.FrozenTrial) -> Record:
    attributes = trial.user_attrs
    outcome = attributes.get("outcome")
    return Record(
        slot=int(attributes["slot"]),
        candidate=Candidate.from_json(attributes["candidate"]),
        outcome=Outcome.from_json(outcome) if outcome is not None else None,
        notes=dict(trial.system_attrs),
        failure=attributes.get("failure"),
    )


def run(
    study: Study,
    pool: Pool,
    trials: int,
    *,
    seed: int,
    sampler: str = "tpe",
    started: Callable[[int, Candidate], None] | None = None,
    ended: Callable[[Record, float], None] | None = None,
) -> list[Record]:
    """Fill a study up to a number of trials.

    Args:
        study: Where finished trials go; the ones it has are not repeated.
        pool: Evaluates candidates.
        trials: Number of trials the study shall have.
        seed: The study's seed.
        sampler: How candidates are chosen after the ladder.
        started: Called with slot and candidate when an evaluation begins.
        ended: Called with the record and its seconds when one is finished.

    Returns:
        All finished trials, in slot order.

    Raises:
        NetwrightError: if the dense network itself cannot be evaluated, or the disk is full.
    """
    finished = study.finished()
    done = {r.slot for r in finished}
    waiting: Iterator[int] = iter([slot for slot in range(trials) if slot not in done])
    running: dict[int, Proposal] = {}
    since: dict[int, float] = {}
    exhausted = False
    while running or not exhausted:
        while not exhausted and len(running) < pool.size:
            slot = next(waiting, None)
            if slot is None:
                exhausted = True
                break
            others = [p.candidate for p in running.values()]
            proposal = propose(study.space, finished, others, slot, seed=seed, sampler=sampler)
            running[slot], since[slot] = proposal, time.monotonic()
            if started:
                started(slot, proposal.candidate)
            pool.submit(slot, proposal.candidate)
        if not running:
            break
        slot, result = pool.wait()
        record = _finish(slot, running.pop(slot), result)
        study.add(record)
        finished.append(record)
        if ended:
            ended(record, time.monotonic() - since.pop(slot))
    return sorted(study.finished(), key=lambda r: r.slot)


def _finish(slot: int, proposal: Proposal, result: Outcome | NetwrightError) -> Record:
    if isinstance(result, Outcome):
        return Record(slot, proposal.candidate, result, proposal.notes)
    # A full disk or a dense network that does not run is not one candidate's fault.
    if isinstance(result, ArtefactError) or proposal.candidate.dense:
        raise result
    return Record(slot, proposal.candidate, None, proposal.notes, failure=str(result))


def best_first(records: Sequence[Record]) -> list[Record]:
    """The finished trials that have an outcome, cheapest first.

    Raises:
        ModelError: if none has.
    """
    good = [r for r in records if r.outcome is not None]
    if not good:
        why = next((r.failure for r in records if r.failure), "nothing was tried")
        raise ModelError(f"no candidate could be built: {why}")
    return sorted(good, key=lambda r: (r.outcome.cost, r.outcome.error, r.slot))  # type: ignore[union-attr]
