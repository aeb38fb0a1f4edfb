"""Whether the choices of the plan are worth their trials: fronts of `netwright shape` with and without them.

Three arms get the same dense network, the same number of trials, the same recovery and the same freedom of
share, bits and distillation:

- without: every candidate loses the channels of least magnitude under one global threshold, at once, and the
  statistics of its batch norms are computed anew. What a plain pruner does.
- fixed: the same, but the layers are refitted (OBS repair). One good choice, and no other.
- with: whatever the plan does by itself: layers refitted, allocation and importance chosen by audition.

The setting is that of somebody with a trained network and little time: a small ResNet on 5,000 pictures of
Fashion-MNIST at 14x14, where accuracy is far from its ceiling, and one epoch of recovery for a candidate.

The measure is the area that a front dominates (hypervolume), by error on the test split and by predicted cost
relative to the dense network, of the rectangle up to `WORST_COST` and `WORST_ERROR`. "Covered" is the share
of one front's networks that some network of the other front matches or beats in both. Fronts are chosen on
validation data. The interval is Student's, of the paired differences over the seeds.

    python benchmarks/plan_choices.py [--model resnet8] [--data fashion-mnist] [--size 14] [--limit 5000]
        [--epochs 12] [--recovery 1] [--trials 20] [--seeds 3] [--first 0]
        [--arms without,fixed,with] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

import netwright as nw
from netwright._files import atomic
from netwright.shaping.dominance import front_of

ONCE = {"allocation": ["global"], "importance": ["magnitude"], "schedule": ["one-shot"]}
ARMS: dict[str, dict[str, list[str]] | None] = {
    "without": {**ONCE, "repair": ["bn"]},
    "fixed": {**ONCE, "repair": ["obs"]},
    "with": None,
}
#: What a network of no use costs and gets wrong: worse than this counts nothing.
WORST_COST, WORST_ERROR = 1.05, 0.5

Points = list[tuple[float, float]]


def hypervolume(points: Iterable[tuple[float, float]]) -> float:
    """The area that points (cost, error) dominate, as a share of the rectangle up to the worst of both."""
    area, best = 0.0, WORST_ERROR
    for cost, error in sorted(points):
        if cost < WORST_COST and error < best:
            area += (WORST_COST - cost) * (best - error)
            best = error
    return area / (WORST_COST * WORST_ERROR)


def covered(points: Points, by: Points) -> float:
    """The share of points that some other point matches or beats in cost and error."""
    return sum(any(c <= cost and e <= error for c, e in by) for cost, error in points) / len(points)


def interval(differences: Sequence[float]) -> tuple[float, float]:
    """Student's 95 % interval of the mean of paired differences; endless for a single one."""
    from scipy.stats import t

    count, mean = len(differences), statistics.mean(differences)
    if count < 2:
        return float("-inf"), float("inf")
    half = float(t.ppf(0.975, count - 1)) * statistics.stdev(differences) / count**0.5
    return mean - half, mean + half


def dense(args: Any, data: nw.data.Splits, seed: int) -> nn.Module:
    """The network to be shaped, trained for a few epochs."""
    shape = data.shape
    model = nw.models.load(
        args.model, num_classes=data.num_classes, in_channels=shape[0], image_size=shape[-1]
    ).model
    recipe = nw.train.Recipe(epochs=args.epochs, batch_size=128, lr=0.2, schedule="one-cycle", seed=seed)
    return nw.train.fit(model, data, recipe).model.eval()


def front(args: Any, model: nn.Module, data: nw.data.Splits, seed: int, arm: str, out: Path) -> Points:
    """Cost relative to the dense network and error on the test split of one study's front."""
    found = nw.shape(
        model, data, trials=args.trials, seed=seed, recovery=args.recovery, choices=ARMS[arm], out=out
    )
    whole, plain = found.dense.outcome.cost, {r.slot for r in front_of(found.records)}
    return [(n.outcome.cost / whole, 1 - n.quality) for n in found.networks if n.slot in plain]


def summary(fronts: dict[str, list[Points]]) -> Iterable[str]:
    """What the fronts of all arms and seeds say, one line each."""
    areas = {arm: [hypervolume(points) for points in found] for arm, found in fronts.items()}
    for arm, values in areas.items():
        yield f"{arm:8} {statistics.mean(values):.4f}  ({', '.join(f'{v:.4f}' for v in values)})"
    for base in (arm for arm in areas if arm != "with" and "with" in areas):
        gains = [b - a for a, b in zip(areas[base], areas["with"], strict=True)]
        low, high = interval(gains)
        pairs = list(zip(fronts[base], fronts["with"], strict=True))
        yield (
            f"with - {base:8} {statistics.mean(gains):+.4f}  95 % [{low:+.4f}, {high:+.4f}], "
            f"above 0 in {sum(g > 0 for g in gains)} of {len(gains)} seeds; of the front {base} "
            f"{statistics.mean(covered(a, b) for a, b in pairs):.0%} are covered, "
            f"{statistics.mean(covered(b, a) for a, b in pairs):.0%} the other way round"
        )


def arguments() -> Any:
    """What the user asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="resnet8")
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--size", type=int, default=14)
    parser.add_argument("--limit", type=int, default=5000)
    parser.add_argument("--epochs", type=int, default=12, help="of the dense network")
    parser.add_argument("--recovery", type=int, default=1, help="epochs of a candidate")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--json", type=Path, default=None)
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    args = arguments()
    arms = args.arms.split(",")
    fronts: dict[str, list[Points]] = {arm: [] for arm in arms}
    with tempfile.TemporaryDirectory(prefix="netwright-plan-") as place:
        for seed in range(args.first, args.first + args.seeds):
            data = nw.data.load(args.data, seed=seed, limit=args.limit, image_size=args.size)
            model = dense(args, data, seed)
            for arm in arms:
                fronts[arm].append(front(args, model, data, seed, arm, Path(place) / f"{arm}-{seed}"))
            print(
                f"seed {seed}: " + ", ".join(f"{a} {hypervolume(fronts[a][-1]):.4f}" for a in arms),
                file=sys.stderr,
                flush=True,
            )
    if args.json:
        with atomic(args.json) as temporary:
            temporary.write_text(json.dumps(fronts, indent=1))
    print("\n".join(summary(fronts)))


if __name__ == "__main__":
    main()
