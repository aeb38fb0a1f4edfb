"""How well pruned networks classify: Netwright's default, its other importances, and Torch-Pruning.

One trained network, the same share of multiply-accumulates gone (counted by Netwright for everyone), the same
fine-tuning. Every arm is scored right after pruning and after fine-tuning, with several seeds of training,
sampling and fine-tuning. Torch-Pruning prunes by one ratio for all layers, as it does by default, and by one
global threshold; its ratio is bisected until the budget is met. Arms that repair look at 1,024 training
images without labels; the plain arms do not.

    python benchmarks/pruning_quality.py [--model resnet20] [--data fashion-mnist] [--size 14] [--seeds 3]
        [--macs 0.7,0.5,0.3] [--epochs 10] [--tune 1] [--limit 20000]
        [--arms 'netwright*;torch*'] [--json FILE]
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import nn

import netwright as nw
from netwright._files import atomic
from netwright.data import Splits
from netwright.pruning import list_importances
from netwright.train import Recipe, evaluate, fit

DEFAULT = "netwright default"
#: One compares with another point of training, the other is magnitude under another name.
LEFT_OUT = ("movement", "learned", "magnitude-l2")
Arm = Callable[[nn.Module, Splits, float, int], nn.Module]


def ours(importance: str | None, repair: str) -> Arm:
    """Netwright with an importance (None: the defaults of `nw.prune` given data) and a repair."""

    def prune(model: nn.Module, data: Splits, macs: float, seed: int) -> nn.Module:
        settings: dict[str, Any] = {} if importance is None else {"importance": importance, "repair": repair}
        budget = nw.Budget(macs=macs)
        return nw.prune(model, data.example(), budget, data=data.train, seed=seed, **settings).model

    return prune


def theirs(kind: str, everywhere: bool) -> Arm:
    """Torch-Pruning with a group importance."""

    def prune(model: nn.Module, data: Splits, macs: float, seed: int) -> nn.Module:
        example, bound = data.example(), macs * nw.trace(model, data.example()).macs
        low, high, best = 0.0, 0.99, None
        for _ in range(9):
            ratio = (low + high) / 2
            small = _peer(copy.deepcopy(model), data, kind, everywhere, ratio)
            if nw.trace(small, example).macs <= bound:
                high, best = ratio, small
            else:
                low = ratio
        if best is None:
            raise RuntimeError(f"Torch-Pruning does not reach {macs:.0%} of the multiply-accumulates")
        return best

    return prune


def _peer(model: nn.Module, data: Splits, kind: str, everywhere: bool, ratio: float) -> nn.Module:
    import torch_pruning as tp

    groups = {
        "magnitude": tp.importance.GroupMagnitudeImportance,
        "taylor": tp.importance.GroupTaylorImportance,
    }
    heads = [m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == data.num_classes]
    if kind == "taylor":
        model.eval()
        generator = torch.Generator().manual_seed(0)
        for x, y in data.train.batches(64, shuffle=True, generator=generator, limit=512):
            nn.functional.cross_entropy(model(x), y).backward()
    pruner = tp.pruner.BasePruner(
        model,
        data.example(),
        importance=groups[kind](),
        pruning_ratio=ratio,
        global_pruning=everywhere,
        ignored_layers=heads,
    )
    pruner.step()
    model.zero_grad(set_to_none=True)
    return model


def arms(quick: bool) -> dict[str, Arm]:
    """Every arm by name."""
    found = {DEFAULT: ours(None, "auto")}
    for kind in ("magnitude", "taylor"):
        found[f"torch-pruning group-{kind}"] = theirs(kind, False)
        found[f"torch-pruning group-{kind}, global"] = theirs(kind, True)
    named = [n for n in list_importances("channel") if n not in LEFT_OUT]
    for name in named[:2] if quick else named:
        found[f"{name}, no repair"] = ours(name, "none")
        found[f"{name}, obs repair"] = ours(name, "obs")
    return found


def trained(args: argparse.Namespace, data: Splits, seed: int) -> nn.Module:
    """The dense network."""
    torch.manual_seed(seed)
    model = nw.models.load(args.model, num_classes=data.num_classes, in_channels=data.shape[0]).model
    recipe = Recipe(epochs=args.epochs, lr=0.1, seed=seed, limit=args.limit)
    return fit(model, data, recipe, device=args.device).model


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Every seed, budget and arm; cells that the file of results has already are not measured again."""
    data = nw.data.load(args.data, image_size=args.size)
    found: dict[str, Any] = {"settings": _settings(args), "dense": {}, "cells": {}, "failed": {}}
    if args.json and args.json.exists():
        earlier = json.loads(args.json.read_text(encoding="utf-8"))
        if earlier["settings"] != found["settings"]:
            sys.exit(f"{args.json} was measured with other settings: name another file")
        found = earlier
    patterns = args.arms.split(";")
    chosen = {n: a for n, a in arms(args.quick).items() if any(fnmatchcase(n, p) for p in patterns)}
    for seed in range(args.seeds):
        keys = {f"{n}|{s}|{seed}": (n, s) for s in args.macs for n in chosen}
        missing = {k: v for k, v in keys.items() if k not in found["cells"] and k not in found["failed"]}
        if not missing:
            continue
        model = trained(args, data, seed)
        found["dense"][str(seed)] = evaluate(model, data.test, device=args.device).accuracy
        print(f"seed {seed}: dense {found['dense'][str(seed)]:.4f}", file=sys.stderr)
        for key, (name, share) in missing.items():
            try:
                found["cells"][key] = cell = one(chosen[name], model, data, share, seed, args)
                print(f"  {key}: {cell}", file=sys.stderr)
            except Exception as error:  # a peer or an importance that cannot: the table says so
                found["failed"][key] = f"{type(error).__name__}: {error}".splitlines()[0][:100]
            if args.json:
                with atomic(args.json) as temporary:
                    temporary.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return found


def one(
    arm: Arm, model: nn.Module, data: Splits, share: float, seed: int, args: argparse.Namespace
) -> dict[str, float]:
    """One pruned network: accuracy on the test split at once and after fine-tuning, costs, CPU seconds."""
    begun = time.process_time()
    small = arm(model, data, share, seed)
    cell = {"seconds": round(time.process_time() - begun, 2)}
    dense, after = (nw.trace(m, data.example()).macs for m in (model, small))
    cell["macs"] = round(after / dense, 4)
    cell["plain"] = evaluate(small, data.test, device=args.device).accuracy
    if args.tune:
        recipe = Recipe(epochs=args.tune, lr=0.02, seed=seed, limit=args.tune_limit or args.limit)
        tuned = fit(small, data, recipe, device=args.device).model
        cell["tuned"] = evaluate(tuned, data.test, device=args.device).accuracy
    return cell


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    return {k: v for k, v in vars(args).items() if k not in ("json", "seeds", "arms", "device")}


def _spread(values: list[float]) -> str:
    if not values:
        return "-"
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{100 * statistics.mean(values):.2f} ± {100 * spread:.2f}"


def report(found: dict[str, Any]) -> str:
    """A Markdown table: arms by budgets, accuracy right after pruning and after fine-tuning, in percent."""
    by: dict[tuple[str, str], dict[str, list[float]]] = {}
    for key, cell in found["cells"].items():
        name, share, _ = key.split("|")
        for what, value in cell.items():
            by.setdefault((name, share), {}).setdefault(what, []).append(value)
    shares = sorted({share for _, share in by}, key=float, reverse=True)
    names = list(dict.fromkeys(name for name, _ in by))
    heads = [f"{1 - float(s):.0%} fewer, {when}" for s in shares for when in ("at once", "tuned")]
    lines = ["| arm | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for name in names:
        cells = [_spread(by.get((name, s), {}).get(key, [])) for s in shares for key in ("plain", "tuned")]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines.append(f"\ndense: {_spread(list(found['dense'].values()))}")
    lines += [f"{name}: {reason}" for name, reason in found["failed"].items()]
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--size", type=int, default=None, help="image size")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--macs", type=lambda t: [float(x) for x in t.split(",")], default=[0.7, 0.5, 0.3])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--tune", type=int, default=1, help="epochs of fine-tuning; 0 leaves it out")
    parser.add_argument("--limit", type=int, default=None, help="training images of one epoch")
    parser.add_argument("--tune-limit", type=int, default=None, help="training images of one such epoch")
    parser.add_argument("--arms", default="*", help="patterns of arms, separated by ;")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--quick", action="store_true", help="few arms")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    print(report(measure(args)))


if __name__ == "__main__":
    main()
