"""Random search of sub-networks: equal arms, the same data order, intervals, and the quick runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from netwright import papers
from netwright.data import Part, Splits
from netwright.papers import Run, execute
from netwright.papers.claims import FURTHER
from netwright.papers.random_search_sparse import RESOLVED
from netwright.papers.random_search_sparse_parts import (
    Arms,
    Trained,
    compare,
    dead_nodes,
    interval,
    sign_test,
)
from netwright.papers.sparse_parts import mlp
from netwright.train import Recipe

RECIPE = Recipe(epochs=2, batch_size=16, lr=0.05, weight_decay=0.0, schedule="constant", precision="fp32")


def tiny() -> Splits:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 12, generator=generator)
    part = Part.from_tensors(x, (x[:, 0] > 0).long())
    return Splits("tiny", part, part, part, ("no", "yes"))


def trained(accuracy: float, *curve: float, loss: float = 1.0) -> Trained:
    return Trained(loss, accuracy, curve, curve)


def test_epochs_count_until_the_accuracy_is_reached() -> None:
    assert trained(0.95, 0.5, 0.9, 0.95).epochs == 2
    assert trained(0.8, 0.5, 0.8).epochs == 3, "one more than there were"


def test_differences_are_taken_seed_by_seed() -> None:
    arms = Arms(
        0.5, [trained(0.9), trained(0.5)], [[trained(0.8), trained(0.6)], [trained(0.5)] * 2], [2.0, 4.0]
    )
    assert arms.differences(lambda t: t.accuracy) == pytest.approx([0.2, 0.0])
    assert arms.loss_ratios == pytest.approx([0.5, 0.25])


def test_intervals_widen_with_the_level_and_tell_a_difference_from_noise() -> None:
    noise, shift = [0.01, -0.02, 0.0, 0.015, -0.01, 0.005], [0.03, 0.02, 0.04, 0.03, 0.02, 0.05]
    assert interval(noise).low < 0 < interval(noise).high
    assert interval(shift).low > 0
    assert interval(shift, 0.99).low < interval(shift, 0.9).low
    assert interval([0.3]).half_width == 0
    assert sign_test(shift) < 0.05 < sign_test(noise) and sign_test([0.0, 0.0]) == 1.0


def test_found_and_random_are_of_one_size_and_the_search_lowers_the_initial_loss() -> None:
    data, arms = tiny(), Arms(0.5)
    for seed in (0, 1):
        compare(arms, mlp((12, 16, 16, 2), seed), data, RECIPE, trials=20, drawn=2, seed=seed)
    assert len(arms.found) == 2 and [len(d) for d in arms.drawn] == [2, 2]
    assert all(ratio < 1 for ratio in arms.loss_ratios)
    assert all(len(t.curve) == RECIPE.epochs for t in arms.found)
    again = Arms(0.5)
    compare(again, mlp((12, 16, 16, 2), 0), data, RECIPE, trials=20, drawn=2, seed=0)
    assert again.found[0] == arms.found[0] and again.drawn[0] == arms.drawn[0]


def test_dead_nodes_are_those_that_never_fire() -> None:
    model = mlp((12, 4, 4, 2), 0)
    assert isinstance(model, torch.nn.Sequential)
    with torch.no_grad():
        model[1].bias[:2] = -100.0  # type: ignore[index]
        model[3].bias.fill_(100.0)
    assert dead_nodes(model, tiny()) == 0.25


def test_the_best_of_one_trial_is_a_random_configuration() -> None:
    data, one = tiny(), Arms(0.5)
    compare(one, mlp((12, 16, 16, 2), 0), data, RECIPE, trials=1, drawn=1, seed=0)
    assert one.loss_ratios == [pytest.approx(1.0)]


@pytest.mark.recipe
@pytest.mark.parametrize("scope", ["", FURTHER])
def test_the_quick_runs_measure_every_claim_of_their_scope(scope: str) -> None:
    run = execute(Run(papers.load("random-search-sparse"), quick=True, scope=scope))
    assert run.verdict is None
    assert all(o.measured is not None for o in run.outcomes if o.counts)


@pytest.mark.recipe
def test_examples_of_ones_own_are_compared_without_a_verdict(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (120, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "own.npz", x=x, y=(x[:, 0, 0] > 127).astype(int))
    run = execute(Run(papers.load("random-search-sparse"), quick=True, data=tmp_path / "own.npz"))
    assert run.verdict is None and not any(o.counts for o in run.outcomes)
    (table,) = run.tables
    assert [row[0] for row in table.rows] == [f"own, {100 * s:.0f} %" for s in RESOLVED]
    assert all(0 < row[1] and 0 <= row[2] <= 100 for row in table.rows)
