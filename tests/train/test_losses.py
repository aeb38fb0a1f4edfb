from __future__ import annotations

import pytest
import torch

from netwright.train import Distillation, Labels, Objective, Step, cross_entropy, distillation


def test_distillation_is_zero_for_equal_logits() -> None:
    logits = torch.randn(4, 10, generator=torch.Generator().manual_seed(0))
    assert distillation(logits, logits, 4.0).item() == pytest.approx(0, abs=1e-6)


def test_distillation_by_its_definition() -> None:
    g = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(3, 5, generator=g).double(), torch.randn(3, 5, generator=g).double()
    p, q = (teacher / 2).softmax(1), (student / 2).softmax(1)
    expected = (p * (p / q).log()).sum(1).mean() * 4
    assert distillation(student, teacher, 2.0).item() == pytest.approx(expected.item())


def test_gradient_of_distillation_hardly_depends_on_temperature() -> None:
    student = torch.randn(8, 10, generator=torch.Generator().manual_seed(1)) * 0.1
    teacher = torch.randn(8, 10, generator=torch.Generator().manual_seed(2)) * 0.1
    norms = []
    for temperature in (4.0, 16.0):
        leaf = student.clone().requires_grad_()
        distillation(leaf, teacher, temperature).backward()
        assert leaf.grad is not None
        norms.append(leaf.grad.norm().item())
    assert norms[0] == pytest.approx(norms[1], rel=0.05)


def test_labels_as_numbers_and_as_probabilities_agree() -> None:
    logits, labels = (
        torch.randn(6, 4, generator=torch.Generator().manual_seed(0)),
        torch.tensor([0, 1, 2, 3, 0, 1]),
    )
    soft = torch.nn.functional.one_hot(labels, 4).float()
    for smoothing in (0.0, 0.1):
        hard = cross_entropy(logits, labels, smoothing=smoothing)
        assert hard.item() == pytest.approx(cross_entropy(logits, soft, smoothing=smoothing).item(), rel=1e-6)


def test_unlabelled_examples_do_not_count() -> None:
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    some = cross_entropy(logits, torch.tensor([1, -1, 2, -1]))
    assert some.item() == pytest.approx(cross_entropy(logits[[0, 2]], torch.tensor([1, 2])).item())


def test_mixed_labels_are_weighted_and_terms_add_up() -> None:
    g = torch.Generator().manual_seed(0)
    logits, teacher = torch.randn(4, 3, generator=g), torch.randn(4, 3, generator=g)
    y, other = torch.tensor([0, 1, 2, 0]), torch.tensor([1, 1, 0, 2])
    step = Step(torch.zeros(4, 1), logits, y, other, 0.7, teacher)
    labels = 0.7 * cross_entropy(logits, y) + 0.3 * cross_entropy(logits, other)
    assert Labels()(step).item() == pytest.approx(labels.item())
    whole = Objective(((0.4, Labels()), (0.6, Distillation(3.0))))(step)
    assert whole.item() == pytest.approx((0.4 * labels + 0.6 * distillation(logits, teacher, 3.0)).item())
