"""Candidates, the space they come from, and what evaluating one gives: plain values, kept as JSON."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import optuna


#: In place of an allocation and an importance: an audition chooses (see `netwright.shaping.audition`).
AUTO = "auto"


@dataclass(frozen=True)
class Candidate:
    """One compression pipeline: how much to remove and by which rule, how to recover, in how many bits to
    export.

    Args:
        share: Share of the dense network's cost that stays; 1 leaves the network as it is.
        metric: The cost that `share` counts: ``"macs"``, ``"params"`` or ``"keep"`` (channels of every axis).
        allocation: How the axes share the reduction (``"global"``, ``"uniform"`` ...), or `AUTO`.
        importance: Which channels stay, or `AUTO`.
        repair: How the remaining weights make up for the missing ones before any training.
        recovery: Epochs of training after the pruning.
        distill: Weight of the dense network's answers in the recovery's loss, 0 to 1.
        schedule: ``"one-shot"`` prunes before the recovery, ``"iterative"`` half before it and half in its
            middle.
        bits: 32 for floating point, 8 for integers with static calibration.
        choice: Instead of pruning: which sub-network of the study's supernet this is, as JSON.
    """

    share: float = 1.0
    metric: str = "macs"
    allocation: str = "global"
    importance: str = "magnitude"
    repair: str = "auto"
    recovery: int = 0
    distill: float = 0.0
    schedule: str = "one-shot"
    bits: int = 32
    choice: str = ""

    @property
    def dense(self) -> bool:
        """Whether this is the dense network itself."""
        return self.share >= 1.0

    @property
    def network(self) -> Candidate:
        """What decides the weights: candidates with equal networks share one pruning and one training."""
        return Candidate(bits=32) if self.dense else replace(self, bits=32)

    @property
    def key(self) -> str:
        """A short name for the network, the same in every run."""
        values = {k: v for k, v in asdict(self.network).items() if k != "choice" or v}
        text = json.dumps(values, sort_keys=True)
        return "dense" if self.dense else hashlib.sha256(text.encode()).hexdigest()[:16]

    def describe(self) -> str:
        """One short line for people."""
        bits = "int8" if self.bits == 8 else "fp32"
        if self.dense:
            return f"dense · {bits}"
        parts = [p for p in (self.allocation, self.importance) if p != AUTO]
        parts += [] if self.schedule == "one-shot" else [self.schedule]
        return " · ".join([f"{self.share:.0%} of {self.metric}", *parts, bits])

    def to_json(self) -> dict[str, Any]:
        """The fields as plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Candidate:
        """The inverse of `to_json`; unknown names are ignored."""
        names = {f.name for f in fields(cls)}
        return cls(**{k: v for k, v in value.items() if k in names})


@dataclass(frozen=True)
class Outcome:
    """What evaluating a candidate gave. Everything here is a pure function of the candidate and the study's
    seed.

    Args:
        error: 1 - quality on the validation examples, of the exported file.
        cost: The predicted cost the search minimises (see `netwright.shaping.cost`).
        agreement: Share of validation examples on which the file answers like the dense network.
        accuracy: Share of right answers on the validation examples; None without labels.
        macs: Multiply-accumulates of one example.
        params: Number of parameters.
        size: Bytes of the exported file.
        file: The exported file, relative to the study's folder.
        seconds: How long the evaluation took (0 when it came from the cache; not part of the decisions).
        layers: Rows (name, kind, macs, params) of the network, for the report.
        allocation: What an audition chose; empty where the candidate says it.
        importance: The same.
    """

    error: float
    cost: float
    agreement: float = 1.0
    accuracy: float | None = None
    macs: int = 0
    params: int = 0
    size: int = 0
    file: str = ""
    seconds: float = 0.0
    layers: list[list[Any]] = field(default_factory=list)
    allocation: str = ""
    importance: str = ""

    def carried_out(self, candidate: Candidate) -> Candidate:
        """The candidate with what the audition chose."""
        return replace(
            candidate,
            allocation=self.allocation or candidate.allocation,
            importance=self.importance or candidate.importance,
        )

    def to_json(self) -> dict[str, Any]:
        """The fields as plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Outcome:
        """The inverse of `to_json`; unknown names are ignored."""
        names = {f.name for f in fields(cls)}
        return cls(**{k: v for k, v in value.items() if k in names})


class Evaluator(Protocol):
    """Evaluates one candidate; may be called in any process."""

    def __call__(self, candidate: Candidate) -> Outcome:
        """Evaluate; raises a `NetwrightError` if the candidate cannot be built."""
        ...


@dataclass(frozen=True)
class Space:
    """The pipelines a study chooses from. Tuples list the choices; `share` is a range, drawn evenly in its
    logarithm.
    """

    metric: str = "macs"
    share: tuple[float, float] = (0.05, 0.9)
    rungs: tuple[float, ...] = (0.5, 0.25, 0.12, 0.06, 0.03, 0.75)
    allocation: tuple[str, ...] = ("global", "uniform")
    importance: tuple[str, ...] = ("magnitude",)
    repair: tuple[str, ...] = ("auto",)
    recovery: tuple[int, ...] = (0,)
    distill: tuple[float, ...] = (0.0,)
    schedule: tuple[str, ...] = ("one-shot",)
    bits: tuple[int, ...] = (32, 8)

    def ladder(self) -> list[Candidate]:
        """What every study begins with: the dense network, then known-good points, in every precision."""
        first = Candidate(
            metric=self.metric,
            allocation=self.allocation[0],
            importance=self.importance[0],
            repair=self.repair[0],
            recovery=self.recovery[0],
            distill=self.distill[0],
            schedule=self.schedule[0],
        )
        low, high = self.share
        shares = dict.fromkeys(round(min(max(r, low), high), 4) for r in self.rungs)
        networks = [Candidate(), *(replace(first, share=s) for s in shares)]
        return [replace(network, bits=b) for network in networks for b in self.bits]

    def distributions(self) -> dict[str, optuna.distributions.BaseDistribution]:
        """The same space in Optuna's terms; one-element choices are left in, so that the study shows them."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution

        low, high = (round(v, 2) for v in self.share)
        return {
            "share": FloatDistribution(low, max(low, high), log=True),
            "allocation": CategoricalDistribution(self.allocation),
            "importance": CategoricalDistribution(self.importance),
            "repair": CategoricalDistribution(self.repair),
            "recovery": CategoricalDistribution(self.recovery),
            "distill": CategoricalDistribution(self.distill),
            "schedule": CategoricalDistribution(self.schedule),
            "bits": CategoricalDistribution(self.bits),
        }

    def candidate(self, params: Mapping[str, Any]) -> Candidate:
        """The candidate that Optuna's parameters describe."""
        return Candidate(**{**params, "share": round(float(params["share"]), 4)}, metric=self.metric)

    def params(self, candidate: Candidate) -> dict[str, Any]:
        """Optuna's parameters for a candidate; for the dense network, outside the space, only the bits."""
        values = candidate.to_json()
        names = ["bits"] if candidate.dense else list(self.distributions())
        return {name: values[name] for name in names}
