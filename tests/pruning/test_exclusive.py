"""Supermasks and exclusive training: the straight-through gradient, exact counts, nothing forgotten."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from netwright import papers
from netwright.data import Part, Splits
from netwright.errors import DataError, UsageError
from netwright.papers import Run, execute, save
from netwright.pruning.systems.exclusive import ExSSNet, knn_accuracy
from netwright.pruning.systems.supermask import kept_count, masks_of, scores_in, signed_constant_, with_scores
from netwright.train import Recipe, fit
from netwright.train.continual import average_accuracy, forgetting, permuted, split_by_class

FAST = Recipe(
    epochs=1, batch_size=16, lr=0.01, optimizer="adam", weight_decay=1e-2, precision="fp32", augment=False
)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def net():
    return signed_constant_(
        nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8, affine=False),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Linear(128, 2, bias=False),
        )
    )


def tasks(count=3, examples=48):
    found = []
    for k in range(count):
        y = torch.arange(examples) % 2
        x = torch.randn(examples, 1, 8, 8) + (y * 2.0 - 1)[:, None, None, None] * torch.randn(1, 1, 8, 8)
        part = Part.from_tensors(x, y)
        found.append(Splits(f"task {k}", part, part, part, ("a", "b")))
    return found


def test_counts_are_those_of_the_definition():
    for size in (7, 10, 128, 1000):
        for keep in (0.02, 0.1, 0.5, 1.0):
            assert kept_count(size, keep) == size - math.floor((1 - keep) * size + 1e-9)
    masked = with_scores(net(), 0.1)
    sizes = {n: m.numel() for n, m in masks_of(masked).items()}
    assert {n: int(m.sum()) for n, m in masks_of(masked).items()} == {
        n: kept_count(s, 0.1) for n, s in sizes.items()
    }


def test_the_gradient_of_a_score_is_that_of_the_masked_weight_times_the_weight():
    layer = nn.Linear(6, 4, bias=False)
    masked = with_scores(nn.Sequential(layer), 0.5)
    x, target = torch.randn(5, 6), torch.randn(5, 4)
    F.mse_loss(masked(x), target).backward()
    scores = next(p for n, p in masked.named_parameters() if n.endswith("scores"))
    effective = (layer.weight.detach() * masks_of(masked)["0.weight"]).requires_grad_()
    (upstream,) = torch.autograd.grad(F.mse_loss(x @ effective.T, target), effective)
    torch.testing.assert_close(scores.grad, upstream * layer.weight.detach() * scores.detach().sign())


def test_old_answers_are_bit_identical_and_free_sets_disjoint():
    sequence, model = tasks(), ExSSNet(net(), 0.3, device="cpu")
    x, answers, free = torch.randn(9, 1, 8, 8), [], []
    for k, data in enumerate(sequence):
        before = {n: p.detach().clone() for n, p in model.base.named_parameters()}
        used = {n: m.clone() for n, m in model.used.items()}
        task = model.fit_task(k, data, FAST, FAST)
        moved = {n: p.detach() != before[n] for n, p in model.base.named_parameters()}
        now = {n: m & ~used[n] for n, m in model.masks(k).items()}
        assert all(not bool((moved[n] & ~now[n]).any()) for n in now)
        assert any(bool((moved[n] & now[n]).any()) for n in now)
        assert task.free == sum(int(m.sum()) for m in now.values())
        free.append(now)
        with torch.no_grad():
            answers.append(model.activate(k)(x))
            assert all(torch.equal(model.activate(j)(x), answers[j]) for j in range(k + 1))
    union = sum(int(m.sum()) for m in model.used.values())
    assert sum(t.free for t in model.tasks.values()) == union
    assert not any(bool((free[0][n] & free[1][n]).any()) for n in free[0])
    assert model.tasks[0].bytes == sum(
        math.ceil(p.numel() / 8) for p in (model.base[0].weight, model.base[5].weight)
    )
    assert model.overlap(0, 0) == 1.0 and 0 <= model.overlap(0, 1) <= 1


def test_training_whole_masks_forgets_and_masks_alone_move_nothing():
    sequence, x = tasks(2), torch.randn(9, 1, 8, 8)
    everything = ExSSNet(net(), 0.6, train="all", device="cpu")
    everything.fit_task(0, sequence[0], FAST)
    first = everything.activate(0)(x)
    everything.fit_task(1, sequence[1], FAST)
    assert not torch.equal(everything.activate(0)(x), first)
    still = ExSSNet(net(), 0.3, train="masks", device="cpu")
    before = copy.deepcopy(still.base.state_dict())
    still.fit_task(0, sequence[0], FAST)
    assert all(torch.equal(v, before[n]) for n, v in still.base.state_dict().items())
    assert still.tasks[0].free == 0


def test_one_task_with_everything_kept_is_ordinary_training():
    data, model = tasks(1)[0], ExSSNet(net(), 1.0, device="cpu")
    plain = copy.deepcopy(model.base)
    task_recipe = Recipe(**{**FAST.__dict__, "epochs": 2})
    model.fit_task(0, data, Recipe(**{**FAST.__dict__, "epochs": 0}), task_recipe)
    fitted = fit(plain, data, task_recipe, device="cpu").model.eval()
    x = torch.randn(5, 1, 8, 8)
    torch.testing.assert_close(model.activate(0)(x), fitted(x))


def test_transfer_leaves_the_scores_of_its_source_alone():
    sequence = tasks(1, 300)
    model = ExSSNet(net(), 0.3, transfer="knn", device="cpu")
    model.fit_task(0, sequence[0], FAST)
    before = {n: s.clone() for n, s in model.tasks[0].scores.items()}
    swapped = Part.from_tensors(
        torch.cat([x for x, _ in sequence[0].train.batches(300)]), 1 - sequence[0].train.labels
    )
    again = Splits("swapped", swapped, swapped, swapped, ("b", "a"))
    first = model._transferred(again)
    assert first is not None and all(torch.equal(first[n], before[n]) for n in before)
    model.fit_task(1, again, FAST)
    assert all(torch.equal(model.tasks[0].scores[n], before[n]) for n in before)


def test_the_neighbours_are_scikit_learns():
    data, network = tasks(1, 60)[0], net().eval()
    accuracy = knn_accuracy(network, data, "5", neighbours=3, share=1.0)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    x = torch.cat([x for x, _ in data.train.subset(order).batches(60)])
    features, labels = network[:5](x).detach(), data.train.labels[order]
    near = torch.cdist(features[40:], features[:40]).topk(3, largest=False).indices
    votes = (labels[:40][near].float().mean(dim=1) > 0.5).long()
    assert accuracy == pytest.approx(float((votes == labels[40:]).double().mean()))


def test_tasks_and_what_is_remembered():
    y = torch.arange(60) % 6
    part = Part.from_tensors(torch.randn(60, 1, 4, 4), y)
    whole = Splits("six", part, part, part, tuple("abcdef"))
    found = split_by_class(whole, 2)
    assert [s.classes for s in found] == [("a", "b"), ("c", "d"), ("e", "f")]
    assert all(set(s.train.labels.tolist()) == {0, 1} and len(s.train) == 20 for s in found)
    with pytest.raises(DataError, match="make 3 tasks"):
        split_by_class(whole, 2, 4)
    one, other = permuted(whole, 1), permuted(whole, 1)
    assert torch.equal(one.train[3][0], other.train[3][0])
    assert torch.equal(one.train[3][0].reshape(-1).sort().values, whole.train[3][0].reshape(-1).sort().values)
    rows = [[0.9], [0.8, 0.7], [0.85, 0.6, 0.5]]
    assert average_accuracy(rows) == pytest.approx(0.65)
    assert forgetting(rows) == pytest.approx((0.05 + 0.1) / 2)
    assert forgetting([[0.3]]) == 0.0


def test_what_is_refused():
    with pytest.raises(UsageError, match="belongs to no mask"):
        ExSSNet(nn.Sequential(nn.Linear(4, 2)), 0.5)
    with pytest.raises(UsageError, match="no task"):
        ExSSNet(net(), 0.5).activate("x")
    with pytest.raises(UsageError, match="cannot stay"):
        with_scores(net(), 0.0)
    assert set(scores_in(with_scores(net(), 0.5))) == {"0.weight", "5.weight"}


@pytest.mark.recipe
@pytest.mark.data
def test_the_recipe_runs_in_its_quick_size(tmp_path):
    run = execute(Run(papers.load("exssnet"), quick=True, out=tmp_path))
    assert {c.name for c in run.paper.claims if c.scope == ""} == set(run.measured)
    save(run, tmp_path, "netwright reproduce exssnet --quick")


def test_parts_without_examples_stay_empty():
    part = Part.from_tensors(torch.randn(8, 1, 4, 4), torch.arange(8) % 4)
    whole = Splits("four", part, part.head(0), part, tuple("abcd"))
    tasks_found = split_by_class(whole, 2)
    assert [len(s.val) for s in tasks_found] == [0, 0] and len(permuted(tasks_found[1], 3).val) == 0
