"""Random search of sparse sub-networks on the user's own labelled examples."""

from __future__ import annotations

import math
from pathlib import Path

from netwright.papers.random_search_sparse import RESOLVED
from netwright.papers.random_search_sparse_parts import Arms
from netwright.papers.random_search_sparse_small import HIDDEN, SUMMARY, compare_on, judged, summary
from netwright.papers.run import Cell, Run, one_thread
from netwright.papers.sparse_full import read
from netwright.papers.sparse_parts import mlp

_EPOCHS, _TRIALS, _SEEDS = 40, 200, 10


def measure(run: Run, path: Path) -> None:
    """Compare found and random sub-networks of a perceptron; the paper names no data to judge it by."""
    found, _ = read(run, path)
    run.no_verdict("nothing was published about these examples")
    data, hidden = judged(found), 16 if run.quick else HIDDEN
    widths = (math.prod(data.shape), hidden, hidden, data.num_classes)
    trials = 3 if run.quick else _TRIALS
    run.settings |= {"parent": "-".join(map(str, widths)), "epochs": _EPOCHS, "configurations": trials}
    rows: list[tuple[Cell, ...]] = []
    with one_thread():
        for sparsity in RESOLVED:
            arm = Arms(sparsity)
            for seed in run.seeds(_SEEDS):
                compare_on(run, arm, mlp(widths, seed), data, _EPOCHS, trials, seed)
            rows.append(summary(f"{data.name}, {100 * sparsity:.0f} %", arm))
    run.table("Found and random", SUMMARY, rows, "Initial loss of 1,000 examples.")
