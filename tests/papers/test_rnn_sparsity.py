"""Sparsity in recurrent networks: the parts of its recipe, its full size, and its quick run."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
import torch

from netwright import papers
from netwright.data.grammars import reber_strings
from netwright.errors import DataError
from netwright.graphs import STRUCTURE_FEATURES
from netwright.models import GraphRNN, TokenClassifier
from netwright.papers import Run, execute
from netwright.papers.claims import FURTHER
from netwright.papers.evidence import name_of
from netwright.papers.rnn_sparsity import THESIS
from netwright.papers.rnn_sparsity_full import read_strings
from netwright.papers.rnn_sparsity_graphs import BARABASI, WATTS, Wired, explain, random_graph
from netwright.papers.rnn_sparsity_phonemes import agreement
from netwright.papers.rnn_sparsity_pruning import (
    CELLS,
    FULL,
    LEVELS,
    QUICK,
    Point,
    build,
    masks_at,
    measure_cell,
    prune_and_retrain,
    strings,
)
from netwright.pruning import MaskState, Sparsity
from netwright.train import fit


def test_the_paper_is_in_the_list() -> None:
    found = papers.load("rnn-sparsity")
    assert found.package == "pruning" and {c.scope for c in found.claims} >= {"", FURTHER}


@pytest.mark.parametrize("level", [0.1, 0.5, 0.9, 1.0])
def test_levels_leave_an_exact_count_of_the_chosen_kind(level: float) -> None:
    model = build("LSTM", QUICK, 0)
    masks = masks_at(model, level, ("h2h",))
    total = sum(m.numel() for m in masks.values())
    assert all(".weight_hh" in n for n in masks)
    assert sum(int(m.sum()) for m in masks.values()) == round((1 - level) * total)


@pytest.mark.parametrize("level", [0.8, 1.0])
def test_masks_hold_while_retraining(level: float) -> None:
    model, data = build("GRU", QUICK, 0), strings(QUICK)
    masks = masks_at(model, level, ("i2h", "h2h"))
    MaskState(model, masks)
    callback = Sparsity(1.0, schedule="one-shot")
    trained = fit(model, data, QUICK.recipe(3, 0), device="cpu", callbacks=[callback]).model
    state = MaskState.of(trained)
    assert state is not None
    for name, mask in masks.items():
        assert torch.equal(state.masks[name], mask)
        assert bool((state.parameter(name)[~mask] == 0).all())
        assert not mask.any() or not torch.equal(state.parameter(name), model.get_parameter(name))


def test_retraining_longer_begins_with_the_same_epoch() -> None:
    model, data = build("tanh", QUICK, 0), strings(QUICK)
    settings = (model, data, QUICK, 0.5, "i2h and h2h")
    once, one = prune_and_retrain(*settings, 1, 3)
    again, three = prune_and_retrain(*settings, 3, 3)
    assert once == again and one[0] == three[0] and len(three) == 3


def test_epochs_to_regain_count_from_the_pruning() -> None:
    point = Point("GRU", "i2h", 0.8, 0.95, 0.90, (0.93, 0.945))
    assert point.epochs_to_regain == 2
    assert dataclasses.replace(point, pruned=0.941).epochs_to_regain == 0
    assert dataclasses.replace(point, retrained=(0.93,)).epochs_to_regain is None


@pytest.mark.parametrize("nodes", [10, 14, 25, 50])
@pytest.mark.parametrize("kind", [BARABASI, WATTS])
def test_random_graphs_are_connected_and_repeatable(kind: str, nodes: int) -> None:
    graph = random_graph(kind, nodes, 3)
    assert nx.is_connected(graph) and len(graph) == nodes
    assert nx.utils.graphs_equal(graph, random_graph(kind, nodes, 3))
    joined = nodes // 10
    edges = joined * (nodes - joined) if kind == BARABASI else nodes * (nodes // 5 // 2)
    assert graph.number_of_edges() == edges


def test_structure_tells_accuracy_where_it_does_and_not_where_it_does_not() -> None:
    rng = np.random.default_rng(0)
    rows = rng.random((60, len(STRUCTURE_FEATURES)))
    noise = rng.random(60)
    told, random = (
        explain(
            [
                Wired("x", float(y), dict(zip(STRUCTURE_FEATURES, row, strict=True)))
                for row, y in zip(rows, ys, strict=True)
            ]
        )
        for ys in (rows[:, 3] + 0.05 * noise, noise)
    )
    assert told.r2["random forest"] > 0.7 and told.r2["Bayesian ridge"] > 0.9
    assert random.r2["random forest"] < 0.2
    feature = STRUCTURE_FEATURES[3]
    assert told.correlations[feature] > 0.9
    assert max(told.importances, key=lambda n: told.importances[n]) == feature


def test_agreement_of_words_and_phonemes() -> None:
    words, likeness = agreement([["A", "B"], ["C"]], [["A", "B"], ["D"]])
    assert (words, likeness) == (0.5, 0.5)


def test_the_thesis_size_runs(tmp_path: Path) -> None:
    """25,000 strings, three layers of 50, batches of 32, and the largest random graphs, for one step."""
    data = strings(FULL)
    assert (len(data.train), len(data.test)) == (18_750, 6_250)
    recipe = dataclasses.replace(FULL.recipe(1, 0), limit=32)
    small = dataclasses.replace(data, val=data.test.head(16))
    for model in (
        build("GRU", FULL, 0),
        TokenClassifier(GraphRNN(random_graph(WATTS, 50, 0), "lstm", seed=0), last="padded"),
    ):
        assert np.isfinite(fit(model, small, recipe, device="cpu").history[0]["loss"])
    rows, valid = reber_strings(60, longest=20)
    for name in ("train_data.csv", "test_data.csv"):
        lines = [f"{k},{s},{v}" for k, (s, v) in enumerate(zip(rows, valid, strict=True))]
        (tmp_path / name).write_text("\n".join([",string,valid", *lines]))
    read = read_strings(tmp_path)
    assert len(read.train) == 60 and read.train.labels.tolist() == valid
    with pytest.raises(DataError, match="cannot be read"):
        read_strings(tmp_path / "none")


def test_a_cell_is_measured_along_a_plan() -> None:
    plan = [("i2h and h2h", 0.5, 0), ("h2h", 1.0, 2)]
    points = measure_cell("relu", strings(QUICK), QUICK, 0, plan)
    assert [(p.campaign, p.level) for p in points] == [("i2h and h2h", 0.5), ("h2h", 1.0)]
    assert points[0].retrained == () and points[0].base == points[1].base
    needed = points[1].epochs_to_regain
    assert len(points[1].retrained) == (2 if needed is None else needed), "no more than it takes"


@pytest.mark.recipe
def test_the_quick_run_measures_every_claim_of_its_scope() -> None:
    run = execute(Run(papers.load("rnn-sparsity"), quick=True))
    assert run.verdict is None and run.svg
    assert all(o.measured is not None for o in run.outcomes if o.counts)


@pytest.mark.recipe
@pytest.mark.data
def test_the_further_arms_measure_every_claim_of_theirs() -> None:
    run = execute(Run(papers.load("rnn-sparsity"), quick=True, scope=FURTHER))
    assert all(o.measured is not None for o in run.outcomes if o.counts)
    assert any("phoneme" in t.title for t in run.tables)


@pytest.mark.recipe
def test_strings_of_ones_own_take_the_whole_way(tmp_path: Path) -> None:
    """From the thesis' files (their first column numbers the rows) to its claims, tables and evidence."""
    rows, valid = reber_strings(90, longest=20)
    for name, part in (("train_data.csv", slice(0, 60)), ("test_data.csv", slice(60, 90))):
        lines = [f"{k},{s},{v}" for k, (s, v) in enumerate(zip(rows[part], valid[part], strict=True))]
        (tmp_path / name).write_text("\n".join([",string,valid", *lines]) + "\n")
    run = execute(Run(papers.load("rnn-sparsity"), quick=True, data=tmp_path))
    assert run.scope == THESIS and run.verdict is None
    assert all(o.measured is not None for o in run.outcomes if o.counts) and any(
        o.counts for o in run.outcomes
    )
    pruned, wired = run.tables
    assert len(pruned.rows) == len(CELLS) * len(LEVELS) and len(wired.rows) == 2 * len(CELLS)
    assert name_of(run) == "rnn-sparsity-the-thesis-strings.quick"
