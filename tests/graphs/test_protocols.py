"""The node-classification and link-prediction protocols against scikit-learn and brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from netwright.errors import DataError, UsageError
from netwright.metrics.bootstrap import bootstrap_ci
from netwright.metrics.link_prediction import cosine, evaluate_links, split_links
from netwright.metrics.node_classification import (
    evaluate_nodes,
    f1_scores,
    one_vs_rest,
    standardise,
    top_labels,
)


def blobs(n=300, classes=4, dim=6, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((classes, dim)) * 2
    codes = rng.integers(0, classes, n)
    x = (centres[codes] + rng.standard_normal((n, dim))).astype(np.float32)
    return x, np.eye(classes, dtype=bool)[codes]


@pytest.mark.parametrize("penalise", [True, False])
@pytest.mark.parametrize("C", [0.1, 1.0])
def test_one_vs_rest_is_scikit_learns_minimum(penalise, C):
    x, y = blobs()
    ours = one_vs_rest(x, y, C, penalise_intercept=penalise, tol=1e-7, max_iter=2000)
    for k in range(y.shape[1]):
        if penalise:  # liblinear penalises the intercept as a weight
            fitted = LogisticRegression(C=C, solver="liblinear", tol=1e-8, max_iter=5000).fit(x, y[:, k])
        else:
            fitted = LogisticRegression(C=C, tol=1e-8, max_iter=5000).fit(x, y[:, k])
        theirs = np.append(fitted.coef_[0], fitted.intercept_)
        assert np.abs(ours[:, k] - theirs).max() < 5e-3 * max(1, np.abs(theirs).max())


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 6))
def test_top_labels_and_f1_are_scikit_learns(seed, classes):
    rng = np.random.default_rng(seed)
    truth = rng.random((30, classes)) < 0.4
    scores = rng.standard_normal((30, classes)).astype(np.float32)
    guess = top_labels(scores, truth.sum(axis=1))
    assert (guess.sum(axis=1) == truth.sum(axis=1)).all()
    for row, wanted in zip(range(30), guess, strict=True):
        assert scores[row][wanted].min(initial=9) >= scores[row][~wanted].max(initial=-9)
    micro, macro = f1_scores(truth, guess)
    there = np.flatnonzero(truth.any(axis=0) | guess.any(axis=0))
    assert micro == pytest.approx(f1_score(truth, guess, average="micro", zero_division=0))
    expected = f1_score(truth, guess, average="macro", labels=there, zero_division=0) if len(there) else 0
    assert macro == pytest.approx(expected)


def test_protocol_learns_leaves_unlabelled_out_and_repeats():
    x, y = blobs()
    y[::7] = False
    score = evaluate_nodes(x, csr_array(y), fraction=0.3, C=(0.01, 1.0), seed=2)
    again = evaluate_nodes(x, y, fraction=0.3, C=score.C, seed=2)
    assert score.micro_f1 > 0.8 and np.array_equal(score.micro, again.micro) and len(score.micro) == 5
    shuffled = evaluate_nodes(np.random.default_rng(0).permutation(x), y, fraction=0.3, C=1.0)
    assert shuffled.micro_f1 < 0.5


def test_protocol_refuses_what_it_cannot_do():
    x, y = blobs(40)
    with pytest.raises(DataError, match="vectors"):
        evaluate_nodes(x[:10], y)
    with pytest.raises(DataError, match="cannot be trained"):
        evaluate_nodes(x, y, fraction=0.01)
    with pytest.raises(UsageError):
        evaluate_nodes(x, y, fraction=0.5, C=(0.0, 1.0))


def test_standardised_columns():
    x = np.random.default_rng(0).standard_normal((50, 4)).astype(np.float32) * 3 + 5
    x[:, 2] = 7
    z = standardise(x)
    assert np.allclose(z.mean(axis=0), 0, atol=1e-5) and np.allclose(z.std(axis=0), [1, 1, 0, 1], atol=1e-4)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 500))
def test_link_split_keeps_edges_apart_from_pairs_that_are_none(seed):
    rng = np.random.default_rng(seed)
    pairs = np.unique(np.sort(rng.integers(0, 30, (120, 2)), axis=1), axis=0)
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    split = split_links(pairs[:, 0], pairs[:, 1], 30, seed=seed)
    known, train, positive, negative = (
        {tuple(row) for row in rows.tolist()} for rows in (pairs, split.train, split.positive, split.negative)
    )
    assert train | positive == known and not train & positive and not negative & known
    assert len(negative) == len(positive) == round(len(known) * 0.1) and all(u < v for u, v in negative)


def test_link_scores_against_brute_force():
    good, bad = np.array([0.9, 0.4, 0.4]), np.array([0.5, 0.4, 0.1])
    wins = [(g > b) + 0.5 * (g == b) for g in good for b in bad]
    assert evaluate_links(good, bad).auc == pytest.approx(np.mean(wins))
    assert evaluate_links(good + 1, bad).ap == 1
    score = cosine(np.array([[2.0, 0], [1, 0], [0, 3], [0, 0]], dtype=np.float32))
    assert score(np.array([[0, 1], [0, 2], [0, 3]])).tolist() == [1, 0, 0]
    with pytest.raises(DataError):
        split_links([0, 0, 1], [1, 2, 2], 3, fraction=0.5)


def test_bootstrap_interval_covers_and_respects_units():
    rng = np.random.default_rng(0)
    values = rng.standard_normal(400) + 2
    found = bootstrap_ci(values, rounds=400)
    assert found.low < 2 < found.high and found.value == pytest.approx(values.mean())
    assert found.half_width == pytest.approx(1.96 / 20, rel=0.25)
    copies = bootstrap_ci(np.repeat(values, 5), unit=np.repeat(np.arange(400), 5), rounds=400)
    assert copies.half_width == pytest.approx(found.half_width, rel=0.25)
    with pytest.raises(UsageError):
        bootstrap_ci([])
