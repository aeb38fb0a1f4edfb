"""The recurrent networks in the thesis' own size, on the thesis' own strings."""

from __future__ import annotations

import csv
from pathlib import Path

import torch

from netwright.data import Part, Splits
from netwright.data.grammars import encode
from netwright.errors import DataError
from netwright.papers.rnn_sparsity import THESIS
from netwright.papers.rnn_sparsity_graphs import FULL_GRAPHS, QUICK_GRAPHS, train_graphs
from netwright.papers.rnn_sparsity_pruning import CELLS, FULL, LEVELS, QUICK, Size, measure_cell
from netwright.papers.rnn_sparsity_small import BOTH, claim_pruning
from netwright.papers.run import Cell, Run
from netwright.papers.sparse_parts import mean_deviation


def measure(run: Run, folder: Path) -> None:
    """Prune every cell at every level and train the random graphs, in the thesis' sizes."""
    run.scope = THESIS
    data, size = read_strings(folder), QUICK if run.quick else FULL
    size = Size(**{**vars(size), "last": "padded"})
    run.settings |= {"size": vars(size), "read": "the last step of the batch, as the thesis does"}
    rows: list[tuple[Cell, ...]] = []
    plan = [(BOTH, level, 1 if run.quick else size.retrain) for level in LEVELS]
    for cell in CELLS:
        seeds = [measure_cell(cell, data, size, seed, plan, run.device) for seed in run.seeds(3)]
        claim_pruning(run, cell, seeds, f"{THESIS}: ")
        rows += [
            (cell, f"{100 * p.level:.0f} %", p.base, p.pruned, p.one_epoch_later, p.epochs_to_regain)
            for points in seeds
            for p in points
        ]
    columns = ("cell", "share", "base", "at once", "one epoch later", "epochs to regain")
    run.table("Accuracy after pruning", columns, rows)
    graphs: list[tuple[Cell, ...]] = []
    for cell in CELLS:
        found = train_graphs(cell, data, QUICK_GRAPHS if run.quick else FULL_GRAPHS, run.seed, run.device)
        graphs += [(cell, kind, *mean_deviation([w.accuracy for w in ws])) for kind, ws in found.items()]
    run.table("Accuracy of random structures", ("cell", "graphs", "mean", "deviation"), graphs)


def read_strings(folder: Path) -> Splits:
    """The strings of ``train_data.csv`` and ``test_data.csv``, with columns string and valid.

    Raises:
        DataError: if a file is missing or has other columns.
    """
    parts: list[tuple[list[str], list[int]]] = []
    for name in ("train_data.csv", "test_data.csv"):
        try:
            with (folder / name).open(newline="", encoding="utf-8") as file:
                rows = [(row["string"], int(row["valid"])) for row in csv.DictReader(file)]
        except (OSError, KeyError, ValueError) as error:
            raise DataError(
                f"{folder / name} cannot be read: {error}", "it needs the columns string and valid"
            ) from error
        parts.append(([s for s, _ in rows], [v for _, v in rows]))
    longest = max(len(s) for strings, _ in parts for s in strings)
    train, test = (
        Part.from_tensors(encode(strings, longest), torch.tensor(valid)) for strings, valid in parts
    )
    # The accuracy after every epoch is that of the test split, by which nothing is chosen.
    return Splits("reber", train, test, test, ("invalid", "valid"), fingerprint=f"thesis-{len(train)}")
