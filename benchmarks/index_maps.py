"""Reordered and widened networks of the battery: is it the same function, and which axes refuse, and why.

Each network is traced, a random permutation of every axis that can change is carried out, every member of
every axis that allows it is repeated twice, and (on the axes that take any number) half of the members are
repeated once more with unequal shares. Outputs are compared with the given network's in float64; networks of
more than `--exact` million parameters in float32. Where widening all axes at once fails, the axes that fail
are found by halving. What is constant after construction is randomised first, so that no comparison is
vacuous.

    python benchmarks/index_maps.py [--set NAME ...] [--only GLOB ...] [--json FILE]
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import multiprocessing
import resource
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from battery import SETS, Case, battery
from torch import nn

from netwright.errors import NetwrightError
from netwright.structure import Structure, trace
from netwright.structure.maps import IndexMap, draw_permutation, width
from netwright.structure.remapping import Remapped, permute, widen, wider
from netwright.structure.repeating import Repeatable, repeatable
from netwright.testing.surgery import randomise

Row = dict[str, Any]
MILLION = 1_000_000


def networks(sets: list[str]) -> list[Case]:
    """What is measured."""
    return battery(sets)


def compared(model: nn.Module, made: Remapped, net: Structure) -> float:
    """The float64 error that was stored, or the largest relative difference in float32."""
    if made.error == made.error:
        return made.error
    worst = 0.0
    with torch.no_grad():
        for a, b in zip(_outputs(model, net), _outputs(made.model, net), strict=True):
            worst = max(worst, float((a - b).abs().max() / a.abs().max().clamp(min=1e-30)))
    return worst


def _outputs(model: nn.Module, net: Structure) -> list[torch.Tensor]:
    out = net.inputs.map(torch.clone).call(model.eval())
    return [x for x in torch.utils._pytree.tree_leaves(out) if isinstance(x, torch.Tensor)]


def families(verdicts: list[Repeatable]) -> list[list[str]]:
    """Axes that can be repeated, those that must be repeated alike together."""
    left = {v.axis: v for v in verdicts if v.kind != "once"}
    out = []
    while left:
        name = next(iter(left))
        family = {name, *left[name].together} & set(left)
        out.append([left.pop(n).axis for n in list(family)])
    return out


def largest(
    groups: list[list[str]], attempt: Callable[[list[str]], Any], until: float
) -> tuple[list[str], Row]:
    """The groups of axes for which an attempt succeeds, found by halving, and why the others fail."""
    if time.process_time() > until:
        return [], {groups[0][0]: f"{len(groups)} groups of axes were not tried: out of time"}
    try:
        attempt([name for group in groups for name in group])
    except NetwrightError as error:
        if len(groups) == 1:
            return [], {groups[0][0]: error.message}
        half = len(groups) // 2
        left, right = largest(groups[:half], attempt, until), largest(groups[half:], attempt, until)
        return left[0] + right[0], {**left[1], **right[1]}
    return [name for group in groups for name in group], {}


def measure(case: Case, options: argparse.Namespace) -> Row:
    """Everything about one network."""
    torch.manual_seed(0)
    model, example = case.build()
    randomise(model).eval()
    row: Row = {"id": case.id, "set": case.group, "params": sum(p.numel() for p in model.parameters())}
    verify = row["params"] <= options.exact * MILLION
    started = time.process_time()
    net = trace(model, example)
    row["trace_s"] = round(time.process_time() - started, 3)
    row |= {"axes": len(net.prunable), "precision": "float64" if verify else "float32"}
    started = time.process_time()
    try:
        made = permute(model, net, draw_permutation(net), verify=verify)
        row |= {"permute_error": compared(model, made, net), "permuted": len(made.map.tables)}
        row["permute_how"] = made.how
        del made
    except NetwrightError as error:
        row["permute_failed"] = error.message
    row["permute_s"] = round(time.process_time() - started, 3)
    if row["params"] > options.largest * MILLION:
        return row | {"once": {}, "skipped": "too large to widen here"}
    verdicts = repeatable(net)
    row["once"] = {
        v.axis: f"{v.reason} ({v.node.module if v.node else ''})" for v in verdicts if v.kind == "once"
    }
    sizes = {axis.name: width(axis) for axis in net.prunable}
    _widen(row, "twice", model, net, families(verdicts), lambda n: 2 * sizes[n], None, verify)
    free = [[v.axis] for v in verdicts if v.kind == "any"]
    generator = torch.Generator().manual_seed(0)
    _widen(row, "unequal", model, net, free, lambda n: sizes[n] + (sizes[n] + 1) // 2, generator, verify)
    return row


def _widen(
    row: Row,
    key: str,
    model: nn.Module,
    net: Structure,
    groups: list[list[str]],
    size: Callable[[str], int],
    generator: torch.Generator | None,
    verify: bool,
) -> None:
    if not groups:
        return
    started = time.process_time()
    best: list[Remapped] = []

    def attempt(names: list[str]) -> None:
        change: IndexMap = wider(net, {name: size(name) for name in names}, generator)
        made = widen(model, net, change, generator=generator, verify=verify)
        best[:] = [made]
        row[f"{key}_error"] = max(row.get(f"{key}_error", 0.0), compared(model, made, net))

    works, fails = largest(groups, attempt, started + 60)
    row |= {f"{key}_axes": len(works), f"{key}_failed": fails}
    if fails and works:  # together, too
        try:
            attempt(works)
        except NetwrightError as error:
            row[f"{key}_together"] = error.message
    if best:
        row[f"{key}_how"] = best[0].how
    row[f"{key}_s"] = round(time.process_time() - started, 3)


def _child(connection: Any, case: Case, options: argparse.Namespace) -> None:
    sys.setrecursionlimit(10_000)
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_CPU, (options.cpu, options.cpu + 5))
    resource.setrlimit(resource.RLIMIT_DATA, (int(options.memory * 2**30),) * 2)
    try:
        row = measure(case, options)
    except Exception as error:
        row = {"id": case.id, "set": case.group, "crashed": f"{type(error).__name__}: {str(error)[:300]}"}
    connection.send(row)


def line(row: Row) -> str:
    """One network on one line, its failures below."""
    if "crashed" in row:
        return f"{row['id']:<55} CRASHED {row['crashed']}"
    text = f"{row['id']:<55}{row['axes']:>4} axes  permute "
    text += f"{row['permute_error']:.0e}" if "permute_error" in row else "FAILED"
    for key in ("twice", "unequal"):
        if f"{key}_axes" in row:
            error = row.get(f"{key}_error")
            text += f"  {key} {row[f'{key}_axes']}" + (f" {error:.0e}" if error is not None else " -")
    text += f"  once {len(row['once'])}  {row['precision']}  seconds: "
    text += f"{row['trace_s']} {row['permute_s']} {row.get('twice_s', 0)}"
    text += f"  {row['skipped']}" if "skipped" in row else ""
    if "permute_failed" in row:
        text += f"\n      permute: {row['permute_failed']}"
    for key in ("twice", "unequal"):
        for name, why in list(row.get(f"{key}_failed", {}).items())[:3]:
            text += f"\n      {key} {name}: {why}"
        if f"{key}_together" in row:
            text += f"\n      {key} together: {row[f'{key}_together']}"
    for why in list(dict.fromkeys(w.partition(" (")[0] for w in row["once"].values()))[:3]:
        text += f"\n      once: {why}"
    return text


def summary(rows: list[Row]) -> str:
    """Counts over a set."""
    ran = [r for r in rows if "crashed" not in r]
    able = [r for r in ran if r["axes"]]
    permuted = [r for r in able if "permute_error" in r]
    axes = sum(r["axes"] for r in able)
    lines = [f"{len(ran)} of {len(rows)} networks ran, {len(able)} have axes ({axes} in all)"]
    lines.append(f"permuted {len(permuted)}/{len(able)}, worst error {_worst(able, 'permute')}")
    for key in ("twice", "unequal"):
        whole = [r for r in able if not r.get(f"{key}_failed") and f"{key}_together" not in r]
        some = sum(r.get(f"{key}_axes", 0) for r in able)
        lines.append(
            f"{key}: {some} axes, {len(whole)}/{len(able)} networks without a refusal by their Python, "
            f"worst error {_worst(able, key)}"
        )
    lines.append(f"axes whose members can be there once only: {sum(len(r['once']) for r in able)}")
    return "\n".join(lines)


def _worst(rows: list[Row], key: str) -> str:
    found = {p: [r[f"{key}_error"] for r in rows if f"{key}_error" in r and r["precision"] == p] for p in
             ("float64", "float32")}  # fmt: skip
    return ", ".join(f"{max(v):.1e} in {p} ({len(v)})" for p, v in found.items() if v)


def main() -> int:
    """Run it; the exit code is 1 when a network crashed or computes something else."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--set", action="append", choices=SETS, help="all sets when not given")
    parser.add_argument("--only", action="append", help="patterns of names")
    parser.add_argument("--json", type=Path, help="write the rows here after every network")
    parser.add_argument(
        "--exact", type=float, default=30, help="million parameters up to which float64 is used"
    )
    parser.add_argument("--largest", type=float, default=90, help="million parameters up to which is widened")
    parser.add_argument("--cpu", type=int, default=400, help="CPU seconds a network")
    parser.add_argument("--memory", type=float, default=6.0, help="GiB a network")
    options = parser.parse_args()
    torch.set_num_threads(1)
    context = multiprocessing.get_context("fork")
    rows = []
    for case in networks(options.set or list(SETS)):
        if options.only and not any(fnmatch.fnmatchcase(case.name, p) for p in options.only):
            continue
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_child, args=(theirs, case, options), daemon=True)
        process.start()
        theirs.close()
        try:
            row = ours.recv()
        except EOFError:
            row = {"id": case.id, "set": case.group, "crashed": "out of CPU time or memory"}
        process.join()
        rows.append(row)
        print(line(row), flush=True)
        if options.json:
            options.json.write_text(json.dumps(rows, indent=1))
    print(summary(rows))
    return 1 if any("crashed" in r or "permute_failed" in r for r in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
