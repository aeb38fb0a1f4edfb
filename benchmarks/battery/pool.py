"""One process a network: forked from one that has imported everything, limited in CPU time and memory."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import multiprocessing
import resource
import sys
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from typing import Any

from .case import Case
from .judge import judge

#: CPU seconds for everything else (building, checks, training step), beside those for pruning.
_CHECKS = 600.0


def warm() -> None:
    """Import what the networks and the tool need once, and run a tiny network through everything."""
    import torch
    from torch import nn

    for name in ("torchvision", "timm", "transformers", "torch_geometric.nn", "torch.export"):
        with contextlib.suppress(ImportError):  # a set of networks may be left out
            importlib.import_module(name)
    torch.set_num_threads(1)  # also: threads do not survive a fork
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3))
    judge(Case("warm", lambda: (model, torch.randn(2, 3, 8, 8)), "warm"), "whole", 60.0)


def each(cases: list[Case], options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Judge networks, `options.jobs` at a time, in order of completion."""
    context = multiprocessing.get_context("fork")
    waiting, running = list(cases), {}
    while waiting or running:
        while waiting and len(running) < options.jobs:
            case = waiting.pop(0)
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_work, args=(theirs, case, options), daemon=True)
            process.start()
            theirs.close()
            running[ours] = (case, process, time.monotonic())
        for ours in wait(list(running), timeout=5):
            case, process, _ = running.pop(ours)
            try:
                row = ours.recv()
            except EOFError:
                row = None
            process.join()
            yield row or _died(case, process.exitcode)


def _died(case: Case, code: int | None) -> dict[str, Any]:
    why = {-9: "killed (CPU time or memory)", -24: "out of CPU time", -11: "segmentation fault"}
    reason = why.get(code or 0, f"the process ended with {code}")
    return {"id": case.id, "set": case.group, "name": case.name, "ok": False, "kind": "died", "why": reason}


def _work(connection: Connection, case: Case, options: argparse.Namespace) -> None:
    sys.setrecursionlimit(10_000)
    seconds = int(options.cpu + _CHECKS)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
    bytes_ = int(options.memory * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (bytes_, bytes_))
    row = judge(case, options.heads, options.cpu, options.memory)
    row["peak_gib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)
    connection.send(row)
    connection.close()
