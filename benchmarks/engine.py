"""Trace and prune against Torch-Pruning, side by side in one process: CPU seconds of one thread, alternating.

Both remove half of the channels by L1 norm and leave the classifier's outputs alone. Copying the model for
the peer, which prunes in place, is not counted; the copy that Netwright makes by itself is.

    python benchmarks/engine.py [--rounds 3] [--json FILE] [MODEL ...]
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import netwright as nw

MODELS = ("resnet50", "densenet201", "convnext_base", "vit_b_16")


def ours(model: nn.Module, example: Tensor) -> nn.Module:
    """Netwright."""
    return nw.prune(
        model,
        example,
        nw.Budget(keep=0.5),
        importance="magnitude-l1",
        allocation="uniform",
        repair="none",
        round_to=1,
    ).model


def theirs(model: nn.Module, example: Tensor) -> nn.Module:
    """Torch-Pruning, with the head counts that it needs to be told."""
    import torch_pruning as tp

    heads = [m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == 1000]
    attention = {m: m.num_heads for m in model.modules() if isinstance(m, nn.MultiheadAttention)}
    tp.pruner.BasePruner(
        model,
        example,
        importance=tp.importance.GroupMagnitudeImportance(p=1),
        pruning_ratio=0.5,
        ignored_layers=heads,
        num_heads=attention,
    ).step()
    return model


def seconds(
    job: Callable[[nn.Module, Tensor], nn.Module], model: nn.Module, example: Tensor
) -> tuple[float, nn.Module]:
    """CPU seconds of one call, and what it returned."""
    gc.collect()
    begun = time.process_time()
    result = job(model, example)
    return time.process_time() - begun, result


def compare(name: str, rounds: int) -> dict[str, Any]:
    """Both on one model, alternating; the first round warms up and is not counted."""
    import torchvision

    model = torchvision.models.get_model(name).eval()
    example = torch.randn(1, 3, 224, 224)
    dense = sum(p.numel() for p in model.parameters())
    row: dict[str, Any] = {"model": name, "parameters": dense}
    times: dict[str, list[float]] = {"netwright": [], "torch_pruning": []}
    for turn in range(rounds + 1):
        for key, job in (("netwright", ours), ("torch_pruning", theirs)):
            target = model if key == "netwright" else copy.deepcopy(model)
            took, small = seconds(job, target, example)
            if turn:
                times[key].append(took)
            row[f"{key}_kept"] = sum(p.numel() for p in small.parameters()) / dense
            with torch.no_grad():
                assert small.eval()(example).shape == (1, 1000)
    for key, values in times.items():
        row[key] = statistics.median(values)
    row["ratio"] = statistics.median(a / b for a, b in zip(*times.values(), strict=True))
    return row


def main() -> None:
    """Print a table of both and the ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", default=list(MODELS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rows = []
    print(f"{'model':<16}{'netwright s':>12}{'peer s':>10}{'ratio':>8}{'kept':>8}{'peer kept':>11}")
    for name in options.models:
        row = compare(name, options.rounds)
        rows.append(row)
        print(
            f"{name:<16}{row['netwright']:>12.2f}{row['torch_pruning']:>10.2f}{row['ratio']:>8.2f}"
            f"{row['netwright_kept']:>8.3f}{row['torch_pruning_kept']:>11.3f}",
            flush=True,
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
