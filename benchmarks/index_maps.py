"""Reordered and widened networks of the battery: is it the same function, and which axes refuse, and why.

Each network is traced, a random permutation of every axis that can change is carried out, every member of
every axis that allows it is repeated twice, and (on the axes that take any number) half of the members are
repeated once more with unequal shares. Where widening all axes at once fails, the axes that fail are found by
halving. Then random subsets of the axes are permuted, widened, or both, in every second draw others lose half
of their members, and the rest is left, all in one map. Outputs are compared with the given network's in
float64. What is constant after construction is randomised first, so that no comparison is vacuous.

A network of more than `--largest` million parameters is not doubled on all axes: one member is added to each
of its axes that take any number, and the subsets add one member too.

    python benchmarks/index_maps.py [--set NAME ...] [--only GLOB ...] [--json FILE [--resume]]
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
from netwright.structure.remapping import permute, remap, widen, wider
from netwright.structure.repeating import Repeatable, repeatable
from netwright.structure.sources import where
from netwright.testing.surgery import randomise

Row = dict[str, Any]
MILLION = 1_000_000


def networks(sets: list[str]) -> list[Case]:
    """What is measured."""
    return battery(sets)


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
    started = time.process_time()
    net = trace(model, example)
    row["trace_s"] = round(time.process_time() - started, 3)
    row |= {"axes": len(net.prunable)}
    started = time.process_time()
    try:
        made = permute(model, net, draw_permutation(net))
        row |= {"permute_error": made.error, "permuted": len(made.map.tables), "permute_how": made.how}
        del made
    except NetwrightError as error:
        row["permute_failed"] = error.message
    row["permute_s"] = round(time.process_time() - started, 3)
    verdicts = repeatable(net)
    row["once"] = {v.axis: _reason(v) for v in verdicts if v.kind == "once"}
    sizes = {axis.name: width(axis) for axis in net.prunable}
    free = [[v.axis] for v in verdicts if v.kind == "any"]
    generator = torch.Generator().manual_seed(0)
    small = row["params"] <= options.largest * MILLION
    if small:
        grown = {name: 2 * n for name, n in sizes.items()}
        _widen(row, "twice", model, net, families(verdicts), grown, None, options)
        grown = {name: n + (n + 1) // 2 for name, n in sizes.items()}
    else:
        row["skipped"] = "too large to double, one more of each"
        grown = {name: n + 1 for name, n in sizes.items()}
    _widen(row, "unequal", model, net, free, grown, generator, options)
    refused = {*row.get("twice_failed", ()), *row.get("unequal_failed", ())}
    groups = [g for g in (families(verdicts) if small else free) if not refused & set(g)]
    _subsets(row, model, net, groups, {v.axis for v in verdicts if v.kind == "any"}, options)
    return row


def _reason(verdict: Repeatable) -> str:
    return f"{verdict.reason} ({where(verdict.node)})" if verdict.node is not None else verdict.reason


def _subsets(
    row: Row,
    model: nn.Module,
    net: Structure,
    groups: list[list[str]],
    free: set[str],
    options: argparse.Namespace,
) -> None:
    """Permute, widen and cut random subsets of the axes at once; the other axes stay as they are."""
    held = {a.name for a in net.prunable if a.coupling is not None}  # cut or reordered, not both at once
    started = time.process_time()
    for seed in range(options.subsets if "permute_failed" not in row else 0):
        generator = torch.Generator().manual_seed(seed)
        share = float(torch.rand(1, generator=generator))
        chosen = [a.name for a in net.prunable if float(torch.rand(1, generator=generator)) < share]
        orders = draw_permutation(net, seed)
        change = IndexMap({name: orders.tables[name] for name in chosen if name in orders.tables})
        cut = _halves(net, [n for n in chosen if n not in held][::2], generator) if seed % 2 else IndexMap()
        change = IndexMap({**change.tables, **cut.tables})
        to = {}
        for group in groups:
            if not cut.tables.keys() & set(group) and float(torch.rand(1, generator=generator)) < share:
                for name in group:
                    size = next(width(a) for a in net.prunable if a.name == name)
                    to[name] = size + 1 if name in free else 2 * size
        both = wider(net, to, generator).after(change)
        try:
            made = remap(model, net, both)
        except NetwrightError as error:
            row.setdefault("subset_failed", {})[str(seed)] = error.message
            continue
        row["subset_error"] = max(row.get("subset_error", 0.0), made.error)
        row["subset_axes"] = [*row.get("subset_axes", []), len(both.tables)]
    row["subset_s"] = round(time.process_time() - started, 3)


def _halves(net: Structure, names: list[str], generator: torch.Generator) -> IndexMap:
    """Half of the members of every cell, drawn at random, in their order."""
    tables = {}
    for axis in net.prunable:
        if axis.name in names:
            count = (width(axis) + 1) // 2
            rows = [
                torch.randperm(width(axis), generator=generator)[:count].sort().values for _ in axis.cells
            ]
            tables[axis.name] = torch.stack(rows)
    return IndexMap(tables)


def _widen(
    row: Row,
    key: str,
    model: nn.Module,
    net: Structure,
    groups: list[list[str]],
    size: dict[str, int],
    generator: torch.Generator | None,
    options: argparse.Namespace,
) -> None:
    if not groups:
        return
    started = time.process_time()
    hows: set[str] = set()

    def attempt(names: list[str]) -> None:
        change: IndexMap = wider(net, {name: size[name] for name in names}, generator)
        made = widen(model, net, change, generator=generator)
        hows.add(made.how)
        row[f"{key}_error"] = max(row.get(f"{key}_error", 0.0), made.error)

    works, fails = largest(groups, attempt, started + options.search)
    row |= {f"{key}_axes": len(works), f"{key}_failed": fails}
    if fails and works:  # together, too
        try:
            attempt(works)
        except NetwrightError as error:
            row[f"{key}_together"] = error.message
    row[f"{key}_how"] = sorted(hows)
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
    for key in ("twice", "unequal", "subset"):
        if f"{key}_axes" in row:
            error = row.get(f"{key}_error")
            text += f"  {key} {row[f'{key}_axes']}" + (f" {error:.0e}" if error is not None else " -")
    text += f"  once {len(row['once'])}  seconds: {row['trace_s']} {row['permute_s']} {row.get('twice_s', 0)}"
    text += f"  {row['skipped']}" if "skipped" in row else ""
    if "permute_failed" in row:
        text += f"\n      permute: {row['permute_failed']}"
    for key in ("twice", "unequal", "subset"):
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
    drawn = sum(len(r.get("subset_axes", [])) for r in able)
    lost = sum(len(r.get("subset_failed", {})) for r in able)
    lines.append(f"random subsets: {drawn} of {drawn + lost}, worst error {_worst(able, 'subset')}")
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
    found = [r[f"{key}_error"] for r in rows if f"{key}_error" in r]
    return f"{max(found):.1e} ({len(found)})" if found else "-"


def main() -> int:
    """Run it; the exit code is 1 when a network crashed or computes something else."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--set", action="append", choices=SETS, help="all sets when not given")
    parser.add_argument("--only", action="append", help="patterns of names")
    parser.add_argument("--json", type=Path, help="write the rows here after every network")
    parser.add_argument("--resume", action="store_true", help="run only what --json has no result of")
    parser.add_argument("--subsets", type=int, default=3, help="random subsets of axes a network")
    parser.add_argument("--largest", type=float, default=90, help="million parameters up to which is doubled")
    parser.add_argument("--search", type=float, default=60, help="CPU seconds to search for refusing axes")
    parser.add_argument("--cpu", type=int, default=400, help="CPU seconds a network")
    parser.add_argument("--memory", type=float, default=6.0, help="GiB a network")
    options = parser.parse_args()
    torch.set_num_threads(1)
    context = multiprocessing.get_context("fork")
    if options.resume and not options.json:
        parser.error("--resume needs --json")
    rows = []
    if options.resume and options.json.exists():
        rows = [row for row in json.loads(options.json.read_text()) if "crashed" not in row]
    done = {row["id"] for row in rows}
    for case in networks(options.set or list(SETS)):
        if options.only and not any(fnmatch.fnmatchcase(case.name, p) for p in options.only):
            continue
        if case.id in done:
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
    bad = {"crashed", "permute_failed", "twice_together", "unequal_together", "subset_failed"}
    wrong = any("computes something else" in json.dumps(r) for r in rows)
    return 1 if wrong or any(bad & set(r) for r in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
