"""A pretrained network pruned without training: EfficientNet-Lite0 on natural photographs.

Removes 10 % and 20 % of the multiply-accumulates with plain L1 selection and with the OBS repair, which looks
at a few dozen unlabelled crops, and reports on other crops how well the dense network's answers are kept.

    netwright data fetch photos && netwright data fetch efficientnet-lite0
    python benchmarks/pretrained.py [--examples 64] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import netwright as nw
from netwright import metrics

ARMS: dict[str, dict[str, Any]] = {
    "L1, nothing else": {"importance": "magnitude-l1", "repair": "none"},
    "L1, BN statistics": {"importance": "magnitude-l1", "repair": "bn"},
    "L1, OBS repair": {"importance": "magnitude-l1", "repair": "obs"},
    "OBS selection and repair": {"importance": "obs", "repair": "obs"},
}


def answers(model: nn.Module, images: Tensor) -> Tensor:
    """Logits (N, 1000) in eval mode."""
    with torch.no_grad():
        return torch.cat([model.eval()(part) for part in images.split(32)])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--examples", type=int, default=64, help="unlabelled crops that the repair looks at")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    loaded = nw.models.load("efficientnet-lite0", pretrained=True)
    splits = nw.data.load("photos", image_size=224, statistics=loaded.statistics)
    some = torch.cat([x for x, _ in splits.train.batches(32, limit=options.examples)])
    held_out = torch.cat([x for part in (splits.val, splits.test) for x, _ in part.batches(32)])
    dense = answers(loaded.model, held_out)
    print(f"{len(some)} crops for the repair, {len(held_out)} others to judge by")
    print(
        f"{'MACs kept':<11}{'how':<26}{'MACs':>8}{'top-1 kept':>12}{'KL':>8}{'logits off':>12}{'seconds':>9}"
    )
    rows = []
    for share in (0.9, 0.8):
        for arm, how in ARMS.items():
            begun = time.perf_counter()
            small = nw.prune(loaded.model, some[:2], nw.Budget(macs=share), data=some, **how)
            took = time.perf_counter() - begun
            kept = metrics.agreement(dense, answers(small.model, held_out))
            got = small.after.macs / small.before.macs
            rows.append({"budget": share, "arm": arm, "macs": got, "seconds": took, **kept.to_dict()})
            print(
                f"{share:<11.0%}{arm:<26}{got:>8.1%}{kept.top1:>12.1%}{kept.kl:>8.3f}"
                f"{kept.relative_error:>12.1%}{took:>9.1f}",
                flush=True,
            )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
