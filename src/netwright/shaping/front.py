"""The front: which networks are worth having, which of them fits the budget, and how to pick one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netwright.errors import BudgetError, UsageError
from netwright.metrics.bootstrap import Interval
from netwright.shaping.candidate import Candidate, Outcome
from netwright.shaping.propose import Record
from netwright.structure.budget import Budget

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Shaped:
    """One exported and measured network.

    Args:
        name: Name of its files.
        slot: The trial it comes from.
        candidate: The pipeline that made it.
        outcome: What the search knew: validation quality, costs.
        latency: Measured time of the exported file (see `netwright.metrics.Latency`), as plain values.
        test: ``accuracy`` (None without labels), ``agreement`` and ``count`` on the test examples, and
            ``change``: the accuracy's ``difference`` from the dense network's with the ends ``low`` and
            ``high`` of its paired interval (None without labels).
        folder: The study's folder.
        on_front: Whether it is on the front (the dense networks are measured even if they are not).
        reasons: Why it is on the front although another network there is as cheap and as accurate on the
            validation examples (see `netwright.shaping.dominance`); empty for most.
        like: Name of the cheapest network on the front that is cheaper and, as far as the validation examples
            can tell, as accurate; None if there is none.
        misses: What of the budget it misses, and by how much; empty if it meets the budget.
        recommended: Whether it is the one to take.
    """

    name: str
    slot: int
    candidate: Candidate
    outcome: Outcome
    latency: dict[str, Any]
    test: dict[str, Any]
    folder: Path
    on_front: bool = True
    reasons: tuple[str, ...] = ()
    like: str | None = None
    misses: dict[str, float] = field(default_factory=dict)
    recommended: bool = False

    @property
    def onnx(self) -> Path:
        """The exported file."""
        return self.folder / "models" / f"{self.name}.onnx"

    @property
    def weights(self) -> Path:
        """The weights of the PyTorch network."""
        return self.folder / "models" / f"{self.name}.safetensors"

    @property
    def quality(self) -> float:
        """Test accuracy; agreement with the dense network where there are no labels."""
        accuracy = self.test.get("accuracy")
        return float(self.test["agreement"] if accuracy is None else accuracy)

    @property
    def change(self) -> Interval | None:
        """Test accuracy minus the dense network's, with its paired 95 % interval; None if unknown."""
        known = self.test.get("change")
        return None if known is None else Interval(known["difference"], known["low"], known["high"])

    @property
    def latency_ms(self) -> float:
        """Median time of one example, in milliseconds."""
        return float(self.latency["median_ms"])

    @property
    def ratio(self) -> float:
        """Time as a share of the dense fp32 file's, measured alternating."""
        value = self.latency.get("ratio")
        return 1.0 if value is None else float(value)

    def to_json(self) -> dict[str, Any]:
        """Everything as plain values, one level deep where it can be."""
        outcome = self.outcome
        return {
            "name": self.name,
            "trial": self.slot,
            "bits": self.candidate.bits,
            "macs": outcome.macs,
            "params": outcome.params,
            "bytes": outcome.size,
            "validation_accuracy": outcome.accuracy,
            "validation_agreement": outcome.agreement,
            "test_accuracy": self.test.get("accuracy"),
            "test_agreement": self.test.get("agreement"),
            "test_examples": self.test.get("count"),
            "test_change": self.test.get("change"),
            "predicted_cost": outcome.cost,
            "latency": self.latency,
            "on_front": self.on_front,
            "reasons": list(self.reasons),
            "like": self.like,
            "recommended": self.recommended,
            "misses": self.misses,
            "pipeline": self.candidate.to_json(),
            "allocation": outcome.allocation or self.candidate.allocation,
            "importance": outcome.importance or self.candidate.importance,
            "onnx": f"models/{self.name}.onnx",
            "weights": f"models/{self.name}.safetensors",
        }


@dataclass(frozen=True)
class Front:
    """What a study found.

    Args:
        networks: Measured networks, cheapest first: the front, and the dense ones for comparison. The front
            knows the noise of the validation examples (see `netwright.shaping.dominance`).
        budget: What was asked for.
        records: Every finished trial.
        info: Model, data, environment: what the report says about the run.
        folder: Where everything lies.
        loader: Rebuilds the PyTorch network of one entry.
    """

    networks: list[Shaped]
    budget: Budget
    records: list[Record]
    info: dict[str, Any]
    folder: Path
    loader: Callable[[Shaped], nn.Module] | None = None

    def __iter__(self) -> Iterator[Shaped]:
        return (n for n in self.networks if n.on_front)

    def __len__(self) -> int:
        return sum(n.on_front for n in self.networks)

    @property
    def dense(self) -> Shaped:
        """The dense network in floating point."""
        return next(n for n in self.networks if n.candidate.dense and n.candidate.bits == 32)

    @property
    def recommended(self) -> Shaped | None:
        """The network to take: meets the budget; None if none does."""
        return next((n for n in self.networks if n.recommended), None)

    @property
    def met(self) -> bool:
        """Whether a network meets the budget."""
        return self.recommended is not None

    @property
    def nearest(self) -> Shaped:
        """The network that misses the budget by least."""
        return min(self, key=lambda n: (sum(n.misses.values()), n.outcome.error))

    def best(self, **limits: float | str) -> Shaped:
        """The most accurate network on the front within limits.

        Args:
            **limits: Fields of `Budget`, for instance ``latency="8 ms"`` or ``macs=0.5``; the study's own
                budget where there are none.

        Raises:
            BudgetError: if no network is within them; names the nearest.
        """
        budget = Budget(**limits) if limits else self.budget  # type: ignore[arg-type]
        chosen = choose(list(self), budget, self.dense)
        if chosen is None:
            near = min(self, key=lambda n: sum(missed(n, budget, self.dense).values()))
            raise BudgetError(f"no network on the front is within {budget}", f"the nearest is {near.name}")
        return chosen

    def __getitem__(self, name: str) -> Shaped:
        """A measured network by its name.

        Raises:
            UsageError: if there is none.
        """
        found = next((n for n in self.networks if n.name == name), None)
        if found is None:
            known = ", ".join(n.name for n in self.networks)
            raise UsageError(f"the front has no network {name!r}", f"choose from {known}")
        return found

    def model(self, network: Shaped | str) -> nn.Module:
        """Rebuild the PyTorch network of one entry.

        Args:
            network: The entry, or its name.

        Raises:
            UsageError: if there is no such entry, or the front came without a way to build its models.
        """
        if self.loader is None:
            raise UsageError("this front came without its models", "read it with nw.read_front(folder)")
        return self.loader(self[network] if isinstance(network, str) else network)

    def to_json(self) -> dict[str, Any]:
        """The document that front.json holds."""
        chosen = self.recommended
        return {
            **self.info,
            "budget": str(self.budget),
            "met": self.met,
            "recommended": chosen.name if chosen else None,
            "trials": len(self.records),
            "failed": sum(r.outcome is None for r in self.records),
            "front": [n.to_json() for n in self],
            "compared": [n.to_json() for n in self.networks if not n.on_front],
        }


def missed(network: Shaped, budget: Budget, dense: Shaped) -> dict[str, float]:
    """What of a budget a network misses, and by how much (see `Budget.misses`).

    Accuracy is judged on the validation examples, which the search may look at; latency is the measured
    one, and a relative limit meets the ratio that was measured alternating with the dense network.
    """
    mine, its = network.outcome, dense.outcome
    latency, dense_latency = network.latency_ms, dense.latency_ms
    if budget.latency is not None and budget.latency.relative:
        latency, dense_latency = network.ratio, 1.0
    pairs = {
        "macs": (mine.macs, its.macs),
        "params": (mine.params, its.params),
        "size": (mine.size, its.size),
        "latency": (latency, dense_latency),
        "keep": (network.candidate.share if network.candidate.metric == "keep" else 1.0, 1.0),
        "accuracy": (1 - mine.error, 1 - its.error),
    }
    overshoot = {name: budget.misses(name, *pair) for name, pair in pairs.items()}
    return {name: value for name, value in overshoot.items() if value > 0}


def choose(networks: Sequence[Shaped], budget: Budget, dense: Shaped) -> Shaped | None:
    """The network to take: among those that meet the budget the most accurate, the faster of equals.

    Where nothing limits the cost, the fastest that is accurate enough: within the accuracy that the budget
    asks for, or within one point of the dense network.
    """
    within = [n for n in networks if not missed(n, budget, dense)]
    if not within:
        return None
    if set(budget.limits) - {"accuracy"}:
        return min(within, key=lambda n: (n.outcome.error, n.latency_ms))
    if not budget:
        close = [n for n in within if n.outcome.error <= dense.outcome.error + 0.01 + 1e-9]
        if not close:
            return min(within, key=lambda n: (n.outcome.error, n.latency_ms))
        within = close
    return min(within, key=lambda n: (n.latency_ms, n.outcome.error))
