"""`netwright shape` with and without `--elastic`: the area under the front, and what either arm computed.

    python benchmarks/elastic_shape.py [--model resnet8] [--data digits] [--seeds 3] [--recovery 4]

Both arms of a seed begin with the same dense network, have the same trials, and about the same compute: the
supernet trains in three times the epochs that one candidate recovers (shaping/elastic_mode.py). Figures are
of the test split. The area counts test accuracy above half of the dense network's against the binary
logarithm of how many times fewer multiply-accumulates (times bits / 32) are left, up to 64 times; 1 is the
dense network's accuracy everywhere. CPU seconds are those of the process, the dense training included.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from netwright import shaping

#: Binary logarithm of the most that a front can save.
DOUBLINGS = 6.0


def area(points: Iterable[tuple[float, float]], dense: float) -> float:
    """Share of the area that a front covers.

    Args:
        points: (cost as a share of the dense network's, test accuracy).
        dense: Test accuracy of the dense network.
    """
    floor = dense / 2
    # What is cheaper and as good serves every larger budget.
    steps = sorted((min(max(math.log2(1 / max(c, 1e-9)), 0.0), DOUBLINGS), a) for c, a in points)
    total, done = 0.0, 0.0
    for saved, _ in steps:
        best = max(a for s, a in steps if s >= saved)
        total += max(saved - done, 0.0) * max(best - floor, 0.0)
        done = max(done, saved)
    return total / (DOUBLINGS * (dense - floor))


def arm(elastic: bool, folder: Path, given: argparse.Namespace, seed: int) -> dict[str, Any]:
    """One study; the dense network is taken from the other arm's folder where it is there."""
    begun = time.process_time()
    front = shaping.shape(
        given.model,
        given.data,
        trials=given.trials,
        recovery=given.recovery,
        epochs=given.epochs,
        limit=given.limit,
        image_size=given.image_size,
        seed=seed,
        elastic=elastic,
        out=folder,
        device="cpu",
    )
    spent = time.process_time() - begun
    full = front.dense.outcome.macs
    points = [(n.outcome.macs / full * n.candidate.bits / 32, n.quality) for n in front.networks]
    return {
        "arm": "elastic" if elastic else "recovery",
        "seed": seed,
        "area": round(area(points, front.dense.quality), 4),
        "cpu_seconds": round(spent, 1),
        "dense_accuracy": round(front.dense.quality, 4),
        "front": sorted((round(c, 4), round(a, 4)) for c, a in points),
    }


def main() -> None:
    """Print one line a study, then the differences."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="resnet8")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--recovery", type=int, default=4)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--out", type=Path, help="keep the studies here")
    given = parser.parse_args()
    place = given.out or Path(tempfile.mkdtemp())
    differences = []
    for seed in range(given.first, given.first + given.seeds):
        found = {}
        for elastic in (False, True):
            found[elastic] = arm(
                elastic, place / f"{seed}-{'elastic' if elastic else 'recovery'}", given, seed
            )
            print(json.dumps(found[elastic]), flush=True)
        differences.append(found[True]["area"] - found[False]["area"])
    print(json.dumps({"elastic - recovery, area": [round(d, 4) for d in differences]}))
    if given.out is None:
        shutil.rmtree(place)


if __name__ == "__main__":
    main()
