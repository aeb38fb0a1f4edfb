"""Full-size networks through the pruning systems, with random weights and images: time and memory.

Every case runs in a process of its own, so that its peak memory is its own. What is printed is the time of
each phase and the memory that the case added to its process at most.

    python benchmarks/full_scale.py [CASE ...] [--device cpu] [--batch 4] [--threads 1] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # its processes import it by name

from benchmarks import full_scale_large, full_scale_small  # noqa: F401 - they register their cases
from benchmarks.full_scale_frame import CASES, Setting

from netwright.metrics import peak_memory


def run_case(name: str, setting: Setting, target: str | None = None) -> dict[str, Any]:
    """Run a case; what it measured is returned and, where a file is named, written there."""
    torch.set_num_threads(setting.threads)
    found = CASES[name](setting)
    if target is not None:
        Path(target).write_text(json.dumps(found))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", metavar="CASE")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    unknown = set(args.cases) - set(CASES)
    if unknown:
        parser.error(f"no case {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")
    setting, table = Setting(args.device, args.batch, args.threads), {}
    for name in args.cases or CASES:
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "found.json"
            memory = peak_memory(run_case, name, setting, str(target), device=args.device)
            found = json.loads(target.read_text())
        table[name] = {
            **found,
            "added_mib": memory.bytes / 2**20,
            "process_mib": memory.process_bytes / 2**20,
        }
        print(name)
        for key, value in table[name].items():
            print(f"  {key:14} {value:,.3f}" if isinstance(value, float) else f"  {key:14} {value:,}")
    if args.json:
        told = {"setting": asdict(setting), "torch": torch.__version__, "cases": table}
        args.json.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    from benchmarks import full_scale

    full_scale.main()
