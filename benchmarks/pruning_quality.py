"""How well pruned networks classify: Netwright's default, its other importances, and Torch-Pruning.

One trained network, the same share of multiply-accumulates gone (counted by Netwright for everyone), the same
fine-tuning. Every arm is scored at once, right after pruning, and tuned, with several seeds of training,
sampling and fine-tuning. Arms of Netwright repair by default, which looks at 1,024 training images without
labels; the arms that do not, Torch-Pruning's among them, are also scored with the statistics of their batch
norms recomputed on the same images. Torch-Pruning prunes by one ratio for all layers, as it does by default,
or by one global threshold; its ratio is bisected until the budget is met.

    python benchmarks/pruning_quality.py [--network resnet20|mobilenetv2] [--seeds 3] [--macs 0.7,0.5,0.3]
        [--arms 'default;torch-pruning*'] [--size 14] [--out FOLDER]

The folder keeps the trained networks and one line for each pruned network, so that a run which was stopped
goes on where it was; name another one to begin anew.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import hashlib
import inspect
import json
import statistics
import sys
import time
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import netwright as nw
from netwright._files import write_safetensors
from netwright.data import Splits
from netwright.models import read_weights
from netwright.pruning import Examples, Importance, list_importances, movement, normalise
from netwright.structure import Structure
from netwright.train import Recipe, evaluate, fit, recalibrated

NETWORKS = ("resnet20", "mobilenetv2")
DEFAULT = "default"
#: Importance that `nw.prune` takes where none is named.
OWN = str(inspect.signature(nw.prune).parameters["importance"].default)
#: Magnitude under another name; scores that a training of their own has to learn.
LEFT_OUT = ("magnitude-l2", "learned")
#: Importances that are also measured without any repair: those that the peer has as well.
PLAIN = ("magnitude", "taylor")
#: Strides of the seven stages of torchvision's MobileNetV2, 1 2 2 2 1 2 1, with one less, as is its stem's.
STAGES = [
    [1, 16, 1, 1],
    [6, 24, 2, 2],
    [6, 32, 3, 1],
    [6, 64, 4, 2],
    [6, 96, 3, 1],
    [6, 160, 3, 2],
    [6, 320, 1, 1],
]
#: What decides a result; everything else in the arguments does not.
SETTINGS = ("data", "size", "epochs", "limit", "tune", "tune_limit", "test_limit")
SPEED: dict[str, Any] = {"precision": "fp32", "channels_last": True}


@dataclasses.dataclass(frozen=True)
class Case:
    """What every arm is given.

    Attributes:
        dense: The trained network, in eval mode.
        start: Its weights before the training.
        data: What it was trained on.
        seed: Of everything.
    """

    dense: nn.Module
    start: dict[str, Tensor]
    data: Splits
    seed: int


#: (case, share of the multiply-accumulates that may stay) -> the smaller network.
Arm = Callable[[Case, float], nn.Module]


def build(network: str, data: Splits, seed: int) -> nn.Module:
    """A fresh network.

    Args:
        network: "resnet20" (He et al. 2016, section 4.2) or "mobilenetv2", torchvision's at half width and
            with a stride of 8 instead of 32, as small images need it.
        data: What it is for.
        seed: Of its weights.
    """
    torch.manual_seed(seed)
    if network == "resnet20":
        return nw.models.load(network, num_classes=data.num_classes, in_channels=data.shape[0]).model
    from torchvision.models import MobileNetV2

    model = MobileNetV2(num_classes=data.num_classes, width_mult=0.5, inverted_residual_setting=STAGES)
    stem = model.features[0][0]
    model.features[0][0] = nn.Conv2d(data.shape[0], stem.out_channels, 3, 1, 1, bias=False)
    return model.eval()


def ours(importance: str | None, repair: str = "auto") -> Arm:
    """Netwright with an importance (None: the default)."""

    def prune(case: Case, macs: float) -> nn.Module:
        chosen: dict[str, Any] = {} if importance is None else {"importance": importance}
        if importance == "movement":
            chosen = {"importance": moved(case.start)}
        budget, images = nw.Budget(macs=macs), case.data.train
        return nw.prune(
            case.dense,
            case.data.example(),
            budget,
            data=images,
            seed=case.seed,
            repair=repair,
            **chosen,
        ).model

    return prune


def moved(start: dict[str, Tensor]) -> Importance:
    """How far the training moved the weights, comparable over axes as named importances are."""
    distance = movement(since=start)

    def score(net: Structure, model: nn.Module, examples: Examples) -> Tensor:
        return normalise(net, distance(net, model, examples))

    return score


def theirs(kind: str, everywhere: bool) -> Arm:
    """Torch-Pruning with a group importance, by one ratio or by one threshold (everywhere)."""

    def prune(case: Case, macs: float) -> nn.Module:
        example = case.data.example()
        bound = macs * nw.trace(case.dense, example).macs
        gradients = _gradients(case) if kind == "taylor" else {}
        low, high, best = 0.0, 0.99, None
        for _ in range(9):
            ratio = (low + high) / 2
            small = _peer(case, gradients, kind, everywhere, ratio)
            if nw.trace(small, example).macs <= bound:
                high, best = ratio, small
            else:
                low = ratio
        if best is None:
            raise RuntimeError(f"Torch-Pruning does not reach {macs:.0%} of the multiply-accumulates")
        return best

    return prune


def _gradients(case: Case) -> dict[str, Tensor]:
    """Gradients of the loss over 512 training images, as Torch-Pruning's examples take them."""
    model = copy.deepcopy(case.dense).eval()
    generator = torch.Generator().manual_seed(case.seed)
    for x, y in case.data.train.batches(64, shuffle=True, generator=generator, limit=512):
        nn.functional.cross_entropy(model(x), y).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def _peer(case: Case, gradients: dict[str, Tensor], kind: str, everywhere: bool, ratio: float) -> nn.Module:
    import torch_pruning as tp

    kinds = {
        "magnitude": tp.importance.GroupMagnitudeImportance,
        "taylor": tp.importance.GroupTaylorImportance,
    }
    model, classes = copy.deepcopy(case.dense).eval(), case.data.num_classes
    for name, parameter in model.named_parameters():
        parameter.grad = gradients[name].clone() if name in gradients else None
    pruner = tp.pruner.BasePruner(
        model,
        case.data.example(),
        importance=kinds[kind](),
        pruning_ratio=ratio,
        global_pruning=everywhere,
        ignored_layers=[m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == classes],
        # Shared by all pruners of a process where they are not given.
        in_channel_groups={},
        out_channel_groups={},
        num_heads={},
    )
    pruner.step()
    model.zero_grad(set_to_none=True)
    return model


def arms() -> dict[str, Arm]:
    """Every arm by name: the default, Torch-Pruning's, what does without repair, the other importances."""
    found = {DEFAULT: ours(None)}
    for kind in ("magnitude", "taylor"):
        found[f"torch-pruning group-{kind}"] = theirs(kind, False)
        found[f"torch-pruning group-{kind}, global"] = theirs(kind, True)
    found |= {f"{name}, no repair": ours(name, "none") for name in PLAIN}
    others = [n for n in list_importances("channel") if n not in (*LEFT_OUT, OWN)]
    return found | {name: ours(name) for name in others}


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """What decides a result besides network, seed, budget and arm."""
    return {name: getattr(args, name) for name in SETTINGS}


def case_of(args: argparse.Namespace, network: str, data: Splits, seed: int) -> Case:
    """The trained network, from the folder where it is there."""
    model = build(network, data, seed)
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    recipe = Recipe(epochs=args.epochs, lr=0.1, seed=seed, limit=args.limit, **SPEED)
    key = f"{network} {args.data} {data.shape} {data.fingerprint} {recipe.to_json()} {STAGES}"
    file = args.out / f"{network}-{seed}-{hashlib.sha256(key.encode()).hexdigest()[:12]}.safetensors"
    if file.exists():
        model.load_state_dict(read_weights(file))
    else:
        model = fit(model, data, recipe, device=args.device).model.cpu()
        write_safetensors(file, {n: t.contiguous() for n, t in model.state_dict().items()})
    return Case(model.eval(), start, data, seed)


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Every network, seed, budget and arm that has no row yet; returns the rows of these settings."""
    data = nw.data.load(args.data, image_size=args.size)
    data = dataclasses.replace(data, val=data.val.head(100))  # nothing is chosen by it
    args.out.mkdir(parents=True, exist_ok=True)
    chosen = {n: a for n, a in arms().items() if any(fnmatchcase(n, p) for p in args.arms.split(";"))}
    found = rows(args)
    done = {(r["network"], r["seed"], r["macs"], r["arm"]) for r in found}
    for seed in range(args.seeds):
        for network in args.network:
            wanted = [(network, seed, macs, name) for macs in (1.0, *args.macs) for name in chosen]
            wanted = [key for key in wanted if key not in done and (key[2] < 1 or key[3] == DEFAULT)]
            if not wanted:
                continue
            case = case_of(args, network, data, seed)
            for key in wanted:
                row = dict(zip(("network", "seed", "macs", "arm"), key, strict=True)) | settings(args)
                row |= one(chosen[key[3]], case, key[2], args, not _repairs(key[3]))
                with (args.out / "rows.jsonl").open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
                print(json.dumps(row), file=sys.stderr, flush=True)
    return rows(args)


def rows(args: argparse.Namespace) -> list[dict[str, Any]]:
    """What was measured earlier with the same settings."""
    file, wanted = args.out / "rows.jsonl", settings(args)
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    found = [json.loads(line) for line in lines]
    return [r for r in found if all(r[n] == v for n, v in wanted.items())]


def one(arm: Arm, case: Case, share: float, args: argparse.Namespace, recompute: bool) -> dict[str, Any]:
    """One pruned network (the dense one where all may stay): accuracies, costs, seconds of the pruning."""

    def accuracy(model: nn.Module) -> float:
        return evaluate(model, case.data.test, device=args.device, limit=args.test_limit).accuracy

    if share == 1.0:
        return {"at once": accuracy(case.dense), "dense": nw.trace(case.dense, case.data.example()).macs}
    begun = time.process_time()
    try:
        small = arm(case, share)
    except Exception as error:  # a peer or an importance that cannot: the table says so
        return {"failed": f"{type(error).__name__}: {error}".splitlines()[0][:150]}
    row: dict[str, Any] = {"seconds": round(time.process_time() - begun, 2)}
    dense, after = (nw.trace(m, case.data.example()).macs for m in (case.dense, small))
    row |= {"left": round(after / dense, 4), "at once": accuracy(small)}
    if recompute:
        looked = (x for x, _ in case.data.train.batches(64, limit=1024))
        row["recomputed"] = accuracy(recalibrated(small, looked))
    recipe = Recipe(epochs=args.tune, lr=0.02, seed=case.seed, limit=args.tune_limit, **SPEED)
    row["tuned"] = accuracy(fit(small, case.data, recipe, device=args.device).model)
    return row


def _repairs(arm: str) -> bool:
    return not arm.startswith("torch-pruning") and not arm.endswith("no repair")


WHEN = ("at once", "recomputed", "tuned")


def _mean(values: list[float]) -> str:
    """Mean and deviation in percent."""
    if not values:
        return "-"
    spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.1f}{spread}"


def table(found: list[dict[str, Any]]) -> str:
    """One network's table: arms by budgets, accuracy in percent, with batch norms recomputed in brackets."""
    shares = sorted({r["macs"] for r in found if r["macs"] < 1}, reverse=True)
    heads = [f"{1 - s:.0%} fewer, {when}" for s in shares for when in ("at once", "tuned")]
    lines = [f"| arm | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for name in dict.fromkeys(r["arm"] for r in found):
        cells = []
        for share in shares:
            own = [r for r in found if (r["arm"], r["macs"]) == (name, share) and "failed" not in r]
            at_once, recomputed, tuned = (_mean([r[when] for r in own if when in r]) for when in WHEN)
            cells += [at_once if _repairs(name) else f"{at_once} ({recomputed})", tuned]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def ahead(found: list[dict[str, Any]]) -> list[str]:
    """Where the default is behind: by how much, as the mean and deviation of the differences over seeds."""
    by = {(r["arm"], r["macs"], r["seed"]): r for r in found if r["macs"] < 1 and "failed" not in r}
    lines = []
    for share in sorted({k[1] for k in by}, reverse=True):
        for when in ("at once", "tuned"):
            better = []
            for name in dict.fromkeys(k[0] for k in by):
                seeds = [s for a, m, s in by if (a, m) == (name, share) and (DEFAULT, share, s) in by]
                differences = [by[name, share, s][when] - by[DEFAULT, share, s][when] for s in seeds]
                if differences and statistics.mean(differences) > 0:
                    better.append((statistics.mean(differences), f"{name} {_mean(differences)}"))
            ordered = ", ".join(text for _, text in sorted(better, reverse=True))
            lines.append(f"{1 - share:.0%} fewer, {when}: {ordered or 'none'}")
    return lines


def report(args: argparse.Namespace, found: list[dict[str, Any]]) -> str:
    """Tables in Markdown, and who is ahead of the default."""
    parts = []
    for network in args.network:
        own = [r for r in found if r["network"] == network]
        dense = _mean([r["at once"] for r in own if r["macs"] == 1])
        failed = dict.fromkeys(f"{r['arm']}: {r['failed']}" for r in own if "failed" in r)
        parts += [
            f"## {network}, dense {dense}\n",
            table(own),
            "\nAhead of the default:",
            *ahead(own),
            *failed,
            "",
        ]
    return "\n".join(parts)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=NETWORKS, action="append", help="both where none is named")
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--size", type=int, default=14, help="height and width of the images")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--macs", type=lambda t: [float(x) for x in t.split(",")], default=[0.7, 0.5, 0.3])
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--limit", type=int, default=10000, help="training images of one epoch")
    parser.add_argument("--tune", type=int, default=1, help="epochs of fine-tuning")
    parser.add_argument("--tune-limit", type=int, default=5000, help="training images of one such epoch")
    parser.add_argument("--test-limit", type=int, default=5000, help="test images that accuracy is taken on")
    parser.add_argument("--arms", default="*", help="patterns of arms, separated by ;")
    parser.add_argument("--device", default="auto")
    folder = Path.home() / ".cache" / "netwright" / "pruning-quality"
    parser.add_argument("--out", type=Path, default=folder, help="trained networks and finished rows")
    args = parser.parse_args()
    args.network = args.network or list(NETWORKS)
    print(report(args, measure(args)))


if __name__ == "__main__":
    main()
