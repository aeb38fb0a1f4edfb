"""Whether the choices of the plan are worth their trials: fronts of `netwright shape` with and without them.

Without, every candidate is pruned by magnitude, uniformly, at once and unrepaired; only its share and bits
are searched. With, allocation, importance, repair and schedule are chosen too. Both get the same number of
trials, the same dense network and the same recovery. The measure is the area that a front dominates, by
quality on the test split and predicted cost relative to the dense network.

    python benchmarks/plan_choices.py [--model resnet8] [--data digits] [--trials 20] [--seeds 3]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import netwright as nw

WITHOUT = {
    "allocation": ["uniform"],
    "importance": ["magnitude"],
    "repair": ["none"],
    "schedule": ["one-shot"],
}
#: All that the plan chooses from, and both schedules.
WITH = {"schedule": ["one-shot", "iterative"]}
#: What a network of no use costs and gets wrong: worse than this counts nothing.
WORST_COST, WORST_ERROR = 1.05, 0.5


def hypervolume(points: Iterable[tuple[float, float]]) -> float:
    """The area that points (cost, error) dominate, of the rectangle up to the worst of both."""
    area, best = 0.0, WORST_ERROR
    for cost, error in sorted(points):
        if cost < WORST_COST and error < best:
            area += (WORST_COST - cost) * (best - error)
            best = error
    return area / (WORST_COST * WORST_ERROR)


def front(args: argparse.Namespace, seed: int, choices: dict[str, list[str]] | None, out: Path) -> float:
    """The area of one study's front, by the test split."""
    found = nw.shape(
        args.model,
        args.data,
        trials=args.trials,
        seed=seed,
        epochs=args.epochs,
        recovery=args.recovery,
        image_size=args.size,
        limit=args.limit,
        choices=choices,
        out=out,
    )
    dense = found.dense.outcome.cost
    return hypervolume((n.outcome.cost / dense, 1 - n.quality) for n in found.networks)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="resnet8")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=None)
    parser.add_argument("--recovery", type=int, default=4)
    parser.add_argument("--size", type=int, default=None)
    parser.add_argument("--limit", type=int, default=None)
    args: Any = parser.parse_args()
    areas: dict[str, list[float]] = {"without": [], "with": []}
    with tempfile.TemporaryDirectory(prefix="netwright-plan-") as place:
        for seed in range(args.seeds):
            for name, choices in (("without", WITHOUT), ("with", WITH)):
                areas[name].append(front(args, seed, choices, Path(place) / f"{name}-{seed}"))
            print(f"seed {seed}: " + ", ".join(f"{n} {a[-1]:.4f}" for n, a in areas.items()), file=sys.stderr)
    gains = [b - a for a, b in zip(areas["without"], areas["with"], strict=True)]
    for name, values in areas.items():
        print(f"{name:8} {statistics.mean(values):.4f}  ({', '.join(f'{v:.4f}' for v in values)})")
    print(f"gain     {statistics.mean(gains):+.4f}  in {sum(g > 0 for g in gains)} of {len(gains)} seeds")


if __name__ == "__main__":
    main()
