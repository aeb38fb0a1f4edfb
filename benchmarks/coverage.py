"""The coverage battery: half of the channels of about 250 networks, without hints, and what came of it.

Every network is pruned to half of its channels by L1 norm (only what is an output stays) in a process of its
own with a limit on CPU time and memory. It passes when at least a quarter of its parameters went; the smaller
network runs with the same output shapes and finite values, equals the masked dense network, takes an
optimiser step in training mode, and comes back from a file. What is constant after construction (statistics,
zero-initialised layers, layer scales) is randomised first, so that no check is vacuous.

    python benchmarks/coverage.py [--set NAME ...] [--only GLOB] [--json FILE [--resume]] [--jobs 1]
"""

from __future__ import annotations

import argparse
import fnmatch
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from battery import SETS, Case, battery

Row = dict[str, Any]


def finished(path: Path | None) -> list[Row]:
    """Rows of an earlier run."""
    import json

    if path is None or not path.exists():
        return []
    return list(json.loads(path.read_text())["networks"])


def table(rows: list[Row]) -> str:
    """Passes, share in place, CPU seconds and worst error of every set."""
    lines = [
        f"{'set':<16}{'pass':>9}{'in place':>10}{'median s':>10}{'95% s':>8}{'max s':>8}"
        f"{'worst f64':>11}{'worst f32':>11}"
    ]
    for name in [*SETS, "all"]:
        mine = [r for r in rows if r["set"] == name or name == "all"]
        if not mine:
            continue
        good = [r for r in mine if r["ok"]]
        placed = sum(r.get("how") == "in place" for r in good)
        times = sorted(r["seconds"] for r in mine if r.get("seconds") is not None)
        lines.append(
            f"{name:<16}{len(good):>5}/{len(mine):<3}{f'{placed}/{len(good)}':>10}"
            + "".join(f"{_quantile(times, q):>{w}.2f}" for q, w in ((0.5, 10), (0.95, 8), (1.0, 8)))
            + f"{_worst(mine, 'float64'):>11}{_worst(mine, 'float32'):>11}"
        )
    return "\n".join(lines)


def _quantile(values: list[float], q: float) -> float:
    return values[min(len(values) - 1, int(q * len(values)))] if values else float("nan")


def _worst(rows: list[Row], precision: str) -> str:
    errors = [r["error"] for r in rows if r.get("precision") == precision and r.get("error") is not None]
    return f"{max(errors):.1e}" if errors else "-"


def line(row: Row) -> str:
    """One network, in a line."""
    kept = f"{row['kept']:.3f}" if row.get("kept") is not None else "-"
    seconds = f"{row['seconds']:.2f} s" if row.get("seconds") is not None else "-"
    error = f"{row['error']:.1e}" if row.get("error") is not None else "-"
    verdict = "pass" if row["ok"] else "FAIL"
    tail = "" if row["ok"] else f"  {row['why']}"
    return f"{verdict}  {row['id']:<48}{row.get('how', '-'):<10}kept {kept}  error {error}  {seconds}{tail}"


def main() -> None:
    """Run the battery and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--set", action="append", choices=SETS, help="a set; all when left out")
    parser.add_argument("--only", default="*", metavar="GLOB", help="networks whose name or set/name matches")
    parser.add_argument("--json", type=Path, help="write all results to this file")
    parser.add_argument("--resume", action="store_true", help="leave out what the file has already")
    parser.add_argument("--failed", action="store_true", help="with --resume: repeat what failed")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--heads", default="auto", choices=("auto", "whole", "width"))
    parser.add_argument("--cpu", type=float, default=60.0, help="CPU seconds for tracing and pruning")
    parser.add_argument("--memory", type=float, default=8.0, help="GiB of memory for a network")
    parser.add_argument("--list", action="store_true", help="only print the names")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    chosen = [
        case
        for case in battery(options.set or SETS)
        if fnmatch.fnmatchcase(case.name, options.only) or fnmatch.fnmatchcase(case.id, options.only)
    ]
    if options.list:
        print("\n".join(case.id for case in chosen))
        return
    rows = run(chosen, options)
    print("\n" + table(rows))
    sys.exit(0 if all(r["ok"] for r in rows) else 1)


def run(chosen: list[Case], options: argparse.Namespace) -> list[Row]:
    """Run some networks, writing the results as they come."""
    from battery.pool import each, warm

    from netwright import _files

    earlier = finished(options.json) if options.resume else []
    if options.failed:
        earlier = [r for r in earlier if r["ok"]]
    known = {r["id"]: r for r in earlier}
    todo = [case for case in chosen if case.id not in known]
    order = {case.id: i for i, case in enumerate(battery())} if options.json else {}
    warm()
    begun = time.monotonic()
    for number, row in enumerate(each(todo, options), 1):
        known[row["id"]] = row
        print(f"[{number}/{len(todo)} {time.monotonic() - begun:.0f} s] {line(row)}", flush=True)
        if options.json:
            rows = sorted(known.values(), key=lambda r: order.get(r["id"], len(order)))
            _files.write_json(options.json, {"versions": versions(), "networks": rows})
    return [known[case.id] for case in chosen if case.id in known]


def versions() -> dict[str, str]:
    """Versions of what the networks come from."""
    from importlib import metadata

    found = {}
    for name in ("torch", "torchvision", "timm", "transformers", "torch-geometric"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    main()
