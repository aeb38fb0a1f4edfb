"""Trace and prune against Torch-Pruning, side by side in one process: CPU seconds of one thread, alternating.

Both remove half of the channels by L1 norm and leave the classifier's outputs alone. Copying the model for
the peer, which prunes in place, is not counted; the copy that Netwright makes by itself is. Networks on which
the peer does not end, or fails, are listed with Netwright's time alone.

Two more parts: how time grows with the parameters of densely connected networks, and the peak of memory
above what the process held before, in a process of its own.

    python benchmarks/engine.py [--rounds 3] [--json FILE] [--parts peers,growth,memory] [MODEL ...]
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import math
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import netwright as nw

MODELS = (
    "resnet50", "densenet201", "convnext_base", "vit_b_16", "mobilenet_v2", "mobilenet_v3_large",
    "regnet_y_1_6gf", "efficientnet_b0", "vgg16_bn", "mnasnet1_0", "resnext50_32x4d", "squeezenet1_1",
    "swin_t",
)  # fmt: skip
#: On these the peer does not end.
ALONE = ("swin_t",)
LAYERS = (100, 200, 400)
MEMORY = ("resnet50", "vit_b_16", "densenet201", "convnext_base", "swin_t")
#: Bounds that the figures are shown against.
MOST_COPIES = 4


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

    heads = [m for m in model.modules() if getattr(m, "out_features", getattr(m, "out_channels", 0)) == 1000]
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


def build(name: str) -> tuple[nn.Module, Tensor]:
    """A torchvision classifier and an example."""
    import torchvision

    torch.manual_seed(0)
    return torchvision.models.get_model(name).eval(), torch.randn(1, 3, 224, 224)


def compare(name: str, rounds: int) -> dict[str, Any]:
    """Both on one model, alternating; the first round warms up and is not counted."""
    model, example = build(name)
    dense = sum(p.numel() for p in model.parameters())
    row: dict[str, Any] = {"model": name, "parameters": dense}
    jobs = {"netwright": ours} if name in ALONE else {"netwright": ours, "torch_pruning": theirs}
    times: dict[str, list[float]] = {key: [] for key in jobs}
    for turn in range(rounds + 1):
        for key, job in list(jobs.items()):
            target = model if key == "netwright" else copy.deepcopy(model)
            try:
                took, small = seconds(job, target, example)
                with torch.no_grad():
                    assert small.eval()(example).shape == (1, 1000)
            except Exception as error:  # the peer's: it fails on many networks
                if key == "netwright":
                    raise
                row["torch_pruning_error"] = f"{type(error).__name__}: {error}".splitlines()[0][:90]
                del jobs[key], times[key]
                continue
            if turn:
                times[key].append(took)
            row[f"{key}_kept"] = sum(p.numel() for p in small.parameters()) / dense
    for key, values in times.items():
        row[key] = statistics.median(values)
    if "torch_pruning" in times:
        row["ratio"] = statistics.median(a / b for a, b in zip(*times.values(), strict=True))
    return row


class Dense(nn.Module):
    """A chain in which every layer reads everything before it."""

    def __init__(self, layers: int, growth: int = 12) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 2 * growth, 3, padding=1)
        widths = [2 * growth + i * growth for i in range(layers + 1)]
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(w), nn.ReLU(), nn.Conv2d(w, growth, 3, padding=1))
            for w in widths[:-1]
        )
        self.head = nn.Linear(widths[-1], 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, 10) of images (B, 3, H, W)."""
        x = self.stem(x)
        for layer in self.layers:
            x = torch.cat([x, layer(x)], dim=1)
        return self.head(x.mean(dim=(2, 3)))


def growth(layers: int, rounds: int) -> dict[str, Any]:
    """CPU seconds and parameters of a densely connected network."""
    torch.manual_seed(0)
    model, example = Dense(layers).eval(), torch.randn(1, 3, 8, 8)
    ours(model, example)
    took = [seconds(ours, model, example)[0] for _ in range(rounds)]
    parameters = sum(p.numel() for p in model.parameters())
    return {"layers": layers, "parameters": parameters, "seconds": statistics.median(took)}


def peak(name: str) -> dict[str, Any]:
    """Peak memory of one pruning over what the process held before it had the model; run alone."""
    ours(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)), torch.randn(1, 3, 9, 9))  # imports
    gc.collect()
    base = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    model, example = build(name)
    held = sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))
    result = nw.prune(
        model,
        example,
        nw.Budget(keep=0.5),
        importance="magnitude-l1",
        allocation="uniform",
        repair="none",
        round_to=1,
    )
    peak_bytes = _resident("VmHWM") - base
    activations = result.net.activation_bytes
    bound = MOST_COPIES * held + activations
    return {"model": name, "peak": peak_bytes, "parameters": held, "activations": activations, "bound": bound}


def _resident(field: str) -> int:
    """Bytes of a line of this process's status; where there is none, of the peak that the system keeps."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(field)).split()[1]) * 1024
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def peers_part(models: list[str], rounds: int) -> list[dict[str, Any]]:
    """Print the table of both and the median ratio."""
    rows = []
    print(f"{'model':<20}{'netwright s':>12}{'peer s':>10}{'ratio':>8}{'kept':>8}{'peer kept':>11}")
    for name in models:
        row = compare(name, rounds)
        rows.append(row)
        text = f"{name:<20}{row['netwright']:>12.2f}"
        if "ratio" in row:
            text += f"{row['torch_pruning']:>10.2f}{row['ratio']:>8.2f}{row['netwright_kept']:>8.3f}"
            text += f"{row['torch_pruning_kept']:>11.3f}"
        else:
            why = row.get("torch_pruning_error", "does not end")
            text += f"{'-':>10}{'-':>8}{row['netwright_kept']:>8.3f}  peer: {why}"
        print(text, flush=True)
    ratios = [row["ratio"] for row in rows if "ratio" in row]
    if ratios:
        print(f"ratio: median {statistics.median(ratios):.2f}, largest {max(ratios):.2f} of {len(ratios)}")
    return rows


def growth_part(rounds: int) -> list[dict[str, Any]]:
    """Print time against parameters, and the exponent from one size to the next."""
    rows: list[dict[str, Any]] = []
    print(f"\n{'layers':<20}{'parameters':>12}{'seconds':>10}{'exponent':>10}")
    for layers in LAYERS:
        row = growth(layers, rounds)
        text = f"{layers:<20}{row['parameters']:>12,}{row['seconds']:>10.2f}"
        if rows:
            grown = row["parameters"] / rows[-1]["parameters"]
            row["exponent"] = math.log(row["seconds"] / rows[-1]["seconds"]) / math.log(grown)
            text += f"{row['exponent']:>10.2f}"
        rows.append(row)
        print(text, flush=True)
    return rows


def memory_part() -> list[dict[str, Any]]:
    """Print the peaks against their bounds."""
    rows = []
    print(f"\n{'model':<20}{'peak MB':>10}{'bound MB':>10}{'share':>8}{'times the parameters':>22}")
    for name in MEMORY:
        command = [sys.executable, __file__, "--peak", name]
        row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        rows.append(row)
        copies = row["peak"] / row["parameters"]
        print(
            f"{name:<20}{row['peak'] / 1e6:>10.0f}{row['bound'] / 1e6:>10.0f}"
            f"{row['peak'] / row['bound']:>8.2f}{copies:>22.2f}",
            flush=True,
        )
    return rows


def main() -> None:
    """Print the parts that are asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", default=list(MODELS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--parts", default="peers,growth,memory")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if options.peak:
        print(json.dumps(peak(options.peak)))
        return
    parts = options.parts.split(",")
    document: dict[str, Any] = {}
    if "peers" in parts:
        document["peers"] = peers_part(options.models, options.rounds)
    if "growth" in parts:
        document["growth"] = growth_part(options.rounds)
    if "memory" in parts:
        document["memory"] = memory_part()
    if options.json:
        options.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
