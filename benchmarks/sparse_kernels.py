"""What zeros are worth: linear layers on sparse kernels against dense ones, measured in turn.

Every row is one layer at one density on one kernel; dense and sparse run alternately on the same machine, and
the ratio is the median over the rounds with its quartiles: below 1 the sparse kernel is faster. Kernels that
the device lacks are named with the reason.

    python benchmarks/sparse_kernels.py [--sizes 512x512,2048x512,1024x1024] [--batches 1,64]
        [--densities 0.5,0.2,0.1,0.05,0.02] [--device cpu] [--threads 1] [--seconds 0.2] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path
from typing import Any

import torch
from torch import nn

from netwright.errors import UsageError
from netwright.metrics import latencies
from netwright.pruning import accelerate_sparse, bake, sparsify

#: Kernel -> granularity of masks that suit it.
PATTERNS = {"csr": "weight", "bsr": "block:16x16", "2:4": "2:4"}


def device_name(device: str) -> str:
    """What the figures were measured on."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    names = info.read_text().splitlines() if info.exists() else []
    model = next((line.split(":")[1].strip() for line in names if line.startswith("model name")), "")
    return model or platform.processor() or platform.machine()


def rows(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure every layer, density and kernel."""
    half = args.device.startswith("cuda")
    found = []
    for size in args.sizes.split(","):
        out, inner = map(int, size.split("x"))
        torch.manual_seed(0)
        layer = nn.Sequential(nn.Linear(inner, out)).eval().to(args.device)
        layer = layer.half() if half else layer
        for kernel, granularity in PATTERNS.items():
            densities = [0.5] if kernel == "2:4" else [float(d) for d in args.densities.split(",")]
            for density in densities:
                keep = None if kernel == "2:4" else density
                masked = sparsify(layer, keep=keep, granularity=granularity).model
                try:
                    fast = accelerate_sparse(masked, kernel).model
                except UsageError as error:
                    print(f"{size:>10} {kernel:>4} not measured: {error.message}")
                    continue
                for batch in map(int, args.batches.split(",")):
                    x = torch.randn(batch, inner, device=args.device, dtype=next(layer.parameters()).dtype)
                    found.append(measure(args, bake(masked), fast, x, size, kernel, density))
                    print(line(found[-1]))
    return found


def measure(
    args: argparse.Namespace,
    dense: nn.Module,
    fast: nn.Module,
    x: torch.Tensor,
    size: str,
    kernel: str,
    density: float,
) -> dict[str, Any]:
    """One row."""
    with torch.inference_mode():
        difference = float((dense(x) - fast(x)).abs().max())
    times = latencies(
        {"dense": dense, "sparse": fast},
        x,
        baseline="dense",
        runtime="torch",
        threads=args.threads,
        min_seconds=args.seconds,
        device=args.device,
    )
    sparse = times["sparse"]
    return {
        "size": size,
        "kernel": kernel,
        "density": density,
        "batch": len(x),
        "dense_ms": times["dense"].median_ms,
        "sparse_ms": sparse.median_ms,
        "ratio": sparse.ratio,
        "ratio_q1": sparse.ratio_q1,
        "ratio_q3": sparse.ratio_q3,
        "difference": difference,
    }


def line(row: dict[str, Any]) -> str:
    """A row as text."""
    return (
        f"{row['size']:>10} {row['kernel']:>4} {row['density']:>8.0%} {row['batch']:>6} "
        f"{row['dense_ms']:>9.3f} {row['sparse_ms']:>9.3f} {row['ratio']:>6.2f} "
        f"({row['ratio_q1']:.2f} to {row['ratio_q3']:.2f}) {row['difference']:.1e}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="512x512,2048x512,1024x1024")
    parser.add_argument("--batches", default="1,64")
    parser.add_argument("--densities", default="0.5,0.2,0.1,0.05,0.02")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.2)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    name = device_name(args.device)
    print(f"{name}, {args.threads} thread, PyTorch {torch.__version__}; ratio below 1: sparse is faster")
    print(
        f"{'out x in':>10} {'':>4} {'density':>8} {'batch':>6} {'dense ms':>9} {'sparse ms':>9} {'ratio':>6}"
    )
    table = rows(args)
    if args.json:
        told = {"device": name, "threads": args.threads, "torch": torch.__version__, "rows": table}
        args.json.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
