"""Calibration against naive loops, closed forms and scikit-learn."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import log_loss

from netwright.errors import UsageError
from netwright.metrics import calibration_error, negative_log_likelihood


def naive(logits, labels, bins):
    confidence, answer = logits.double().softmax(1).max(1)
    total = 0.0
    for k in range(bins):
        inside = [i for i in range(len(labels)) if k / bins < float(confidence[i]) <= (k + 1) / bins]
        if inside:
            right = sum(int(answer[i] == labels[i]) for i in inside) / len(inside)
            trust = sum(float(confidence[i]) for i in inside) / len(inside)
            total += len(inside) / len(labels) * abs(right - trust)
    return total


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_the_error_is_that_of_a_naive_loop(bins):
    torch.manual_seed(bins)
    logits, labels = 3 * torch.randn(400, 7), torch.randint(7, (400,))
    assert calibration_error(logits, labels, bins) == pytest.approx(naive(logits, labels, bins), abs=1e-12)


def test_a_classifier_that_is_right_as_often_as_it_says_has_no_error():
    # Confidence 0.8 for the first of two classes, and eight of ten are of the first.
    logits = torch.tensor([[math.log(0.8), math.log(0.2)]]).repeat(10, 1)
    assert calibration_error(logits, torch.tensor([0] * 8 + [1] * 2)) == pytest.approx(0, abs=1e-7)
    assert calibration_error(logits, torch.zeros(10, dtype=torch.long)) == pytest.approx(0.2, abs=1e-7)
    assert calibration_error(logits, torch.ones(10, dtype=torch.long)) == pytest.approx(0.8, abs=1e-7)


def test_certainty_falls_into_the_last_bin():
    logits = torch.tensor([[1e4, 0.0], [1e4, 0.0]])
    assert calibration_error(logits, torch.tensor([0, 1])) == pytest.approx(0.5)


def test_the_likelihood_is_that_of_scikit_learn():
    torch.manual_seed(0)
    logits, labels = torch.randn(300, 5), torch.randint(5, (300,))
    expected = log_loss(labels.numpy(), logits.double().softmax(1).numpy(), labels=list(range(5)))
    assert negative_log_likelihood(logits, labels) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("measure", [calibration_error, negative_log_likelihood])
def test_shapes_that_do_not_fit_are_refused(measure):
    with pytest.raises(UsageError, match="do not fit"):
        measure(torch.zeros(3, 2), torch.zeros(4, dtype=torch.long))
    with pytest.raises(UsageError, match="do not fit"):
        measure(torch.zeros(0, 2), torch.zeros(0, dtype=torch.long))
