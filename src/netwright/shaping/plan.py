"""The plan: what can shrink and how far, which cost the search minimises, and which budgets cannot be met."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from netwright import metrics, pruning, quantization, structure
from netwright.errors import BudgetError, NetwrightError, UsageError
from netwright.shaping import cost
from netwright.shaping.audition import Way
from netwright.shaping.candidate import AUTO, Space
from netwright.shaping.pipeline import operators
from netwright.structure.budget import Budget, Limit

if TYPE_CHECKING:
    from netwright.data import Splits

#: The shares tried first, in this order. Costs are felt in ratios, so each is half of the one before.
_RUNGS = (0.5, 0.25, 0.12, 0.06, 0.03, 0.75)
#: The same under a limit on the searched cost, as shares of the limit.
_RUNGS_WITHIN = (1.0, 0.7, 0.5, 0.35, 0.2, 0.85)
#: When channels go.
SCHEDULES = ("one-shot", "iterative")
#: No study looks at networks smaller than this share.
_LEAST = 0.02


@dataclass(frozen=True)
class Plan:
    """What a study will do.

    Args:
        space: What candidates come from.
        metric: The predicted cost that is minimised.
        dense: The dense network's operators.
        smallest: Macs and params of the smallest network that pruning can make.
        prunable: Axes that can shrink.
        axes: Axes in all.
        text: One line for people.
        ways: Pairs of allocation and importance that every candidate tries before it recovers; empty where
            the candidates say which.
        model: The smallest network itself, unrepaired.
    """

    space: Space
    metric: str
    dense: list[cost.Row]
    smallest: dict[str, float]
    prunable: int
    axes: int
    text: str
    ways: tuple[Way, ...]
    model: nn.Module

    def total(self, name: str) -> float:
        """The dense network's macs or params."""
        return float(sum(getattr(r, name) for r in self.dense))

    def estimate(self, epoch: float | None, trials: int) -> float | None:
        """Seconds a trial is expected to take, given those of an epoch of the dense network, or None."""
        recovery = self.space.recovery[0]
        if recovery and epoch is None:
            return None
        # A step of the small network, and the dense one's answers; the ladder trains once for two precisions.
        train = recovery * (epoch or 0.0) * (0.45 + 0.33)
        ladder = len(self.space.ladder())
        trained = (min(trials, ladder) / len(self.space.bits) - 1) + max(trials - ladder, 0)
        return train * max(trained, 0) / max(trials, 1) + 3.0


def make_plan(
    model: nn.Module,
    example: Tensor,
    budget: Budget,
    *,
    labelled: bool,
    examples: int,
    recovery: int,
    choices: Mapping[str, Sequence[str]] | None = None,
) -> Plan:
    """Trace a network and decide what to search.

    Args:
        model: The dense network.
        example: (B, C, H, W), at least 2 examples.
        budget: What was asked for.
        labelled: Whether there are labels.
        examples: Number of training examples.
        recovery: Epochs of recovery of a candidate.
        choices: Allocations, importances, repairs or schedules to choose from instead of the plan's own.

    Raises:
        StructureError: if the network cannot be traced.
        UsageError: if a choice is unknown.
    """
    traced = structure.trace(model, example)
    rows = operators(model, example)
    prunable = [axis for axis in traced.axes if axis.prunable]
    small = _smallest(model, example) if prunable else model
    dense = {name: float(sum(getattr(r, name) for r in rows)) for name in ("macs", "params")}
    small_rows = operators(small, example)
    smallest = {name: float(sum(getattr(r, name) for r in small_rows)) for name in dense}
    metric = "latency" if budget.latency or not budget else _metric(budget)
    space = _space(budget, dense, smallest, labelled=labelled, recovery=recovery)
    space = replace(space, **_chosen(choices or {}))  # type: ignore[arg-type]
    if not prunable:
        space = replace(space, rungs=())
    ways: tuple[Way, ...] = tuple(itertools.product(space.allocation, space.importance))
    if recovery and len(ways) > 1:
        space = replace(space, allocation=(AUTO,), importance=(AUTO,))
    else:
        ways = ()
    how = f"each recovers for {recovery} epochs" if recovery else "they are repaired, not trained"
    how = f"the best of {len(ways)} ways to prune, then {recovery} epochs of recovery" if ways else how
    text = (
        f"{len(prunable)} of {len(traced.axes)} axes can shrink: from {dense['macs'] / 1e6:.2f} M macs "
        f"down to {smallest['macs'] / 1e6:.2f} M; candidates: {how}"
    )
    return Plan(space, metric, rows, smallest, len(prunable), len(traced.axes), text, ways, small)


def _chosen(choices: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """What the user limits the plan to.

    Raises:
        UsageError: if a name is unknown; says which there are.
    """
    known = {
        "allocation": pruning.list_allocations(),
        "importance": pruning.list_importances(),
        "repair": pruning.list_repairs(),
        "schedule": list(SCHEDULES),
    }
    for kind, names in choices.items():
        if kind not in known:
            raise UsageError(f"{kind!r} is nothing to choose", f"choose {', '.join(known)}")
        wrong = [n for n in names if n not in known[kind]]
        if wrong or not names:
            hint = f"choose from {', '.join(known[kind])}"
            raise UsageError(f"there is no {kind} {', '.join(wrong)}", hint)
    return {kind: tuple(dict.fromkeys(names)) for kind, names in choices.items()}


def _metric(budget: Budget) -> str:
    for name, metric in (("macs", "macs"), ("keep", "latency"), ("params", "size"), ("size", "size")):
        if getattr(budget, name) is not None:
            return metric
    return "latency"


def _smallest(model: nn.Module, example: Tensor) -> nn.Module:
    """The smallest network that pruning can make."""
    for keep in (0.01, 0.05, 0.1, 0.25, 0.5):
        try:
            return pruning.prune(model, example, Budget(keep=keep), repair="none").model
        except BudgetError:
            continue
    return model


def _space(
    budget: Budget, dense: dict[str, float], smallest: dict[str, float], *, labelled: bool, recovery: int
) -> Space:
    name = next((n for n in ("macs", "params", "keep") if getattr(budget, n) is not None), "macs")
    limit: Limit | None = getattr(budget, name)
    floor = _LEAST if name == "keep" else max(_LEAST, smallest[name] / max(dense[name], 1.0))
    high = 0.9
    rungs: tuple[float, ...] = _RUNGS
    if limit is not None:
        high = min(0.95, limit.value if limit.relative else limit.value / max(dense[name], 1.0))
        rungs = tuple(round(high * r, 4) for r in _RUNGS_WITHIN)
    low = min(floor + 0.01, high)
    return Space(
        metric=name,
        share=(round(low, 2), round(high, 2)),
        rungs=rungs,
        # Batch norm scales were the worst guide (docs/explanation/front.md).
        allocation=("uniform", "global"),
        importance=("obs", "taylor", "magnitude") if labelled else ("obs", "magnitude"),
        repair=("auto",) if recovery else ("obs", "bn"),
        # Two stages gained nothing measurable (benchmarks/plan_choices.py): on request only.
        schedule=SCHEDULES[:1],
        recovery=(recovery,),
        distill=(0.0,) if recovery == 0 else (0.7, 0.4) if labelled else (1.0,),
    )


def check_budget(plan: Plan, budget: Budget) -> None:
    """Refuse a budget that no candidate can meet.

    Raises:
        BudgetError: naming the smallest that can.
    """
    for name in ("macs", "params"):
        limit: Limit | None = getattr(budget, name)
        dense, least = plan.total(name), plan.smallest[name]
        if limit is not None and limit.against(dense) < least:
            raise BudgetError(
                f"{name} of at most {limit.against(dense):,.0f} cannot be met: "
                f"the smallest network has {least:,.0f}",
                f"ask for {name}={_ceil(least / dense)} or more",
            )
    weights = plan.smallest["params"]  # a byte for each, in int8
    dense_bytes = plan.total("params") * 4
    if budget.size is not None and budget.size.against(dense_bytes) < weights:
        raise BudgetError(
            f"a size of at most {budget.size.against(dense_bytes):,.0f} bytes cannot be met: "
            f"the weights of the smallest network take {weights:,.0f}",
            f"ask for size={_ceil(weights / dense_bytes)} or more",
        )


def check_latency(
    plan: Plan, budget: Budget, dense: nn.Module, splits: Splits, place: Path, threads: int
) -> None:
    """Refuse a latency that even the smallest network does not reach, in either precision.

    Args:
        plan: The plan.
        budget: What was asked for.
        dense: The dense network; its weights do not matter here.
        splits: The data.
        place: A folder for temporary files.
        threads: Threads of ONNX Runtime.

    Raises:
        BudgetError: naming the shortest latency that was measured.
    """
    limit = budget.latency
    if limit is None:
        return
    example = splits.example(2)
    files = {"dense": place / "dense.onnx", "small": place / "small.onnx", "int8": place / "int8.onnx"}
    quantization.export_onnx(dense, example, files["dense"], verify=False)
    quantization.export_onnx(plan.model, example, files["small"], verify=False)
    try:
        quantization.quantize_onnx(files["small"], files["int8"], [splits.example(32)])
    except NetwrightError:
        del files["int8"]
    measured = metrics.latencies(files, splits.example(1), baseline="dense", threads=threads, min_seconds=0.3)
    small = [m for name, m in measured.items() if name != "dense"]
    # A quarter is left for the noise of a short measurement.
    if limit.relative:
        least = min(m.ratio for m in small if m.ratio is not None)
        if limit.value < 0.75 * least:
            raise BudgetError(
                f"a latency of {limit.value:g} of the dense network's cannot be met: "
                f"the smallest network takes {least:.2f} of it",
                f"ask for latency={_ceil(least)} or more",
            )
    else:
        least = min(m.median_ms for m in small)
        if limit.value < 0.75 * least:
            raise BudgetError(
                f"a latency of {limit.value:g} ms cannot be met: the smallest network takes {least:.3f} ms",
                f"ask for latency={least * 1.1:.2g}ms or more",
            )


def _ceil(share: float) -> float:
    import math

    return math.ceil(share * 100) / 100
