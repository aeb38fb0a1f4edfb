"""Factors of products of one encoder's features with each other, and what is not homogeneous."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import netwright as nw
from netwright import structure
from netwright.errors import StructureError
from netwright.testing.surgery import randomise


class Matcher(nn.Module):
    """Two images through one encoder, and the correlation of their features, as in optical flow.

    The kinds are ways to write it, and things that are not homogeneous in the features.
    """

    def __init__(self, kind: str, dim: int = 16) -> None:
        super().__init__()
        self.kind = kind
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2), nn.InstanceNorm2d(8), nn.ReLU(), nn.Conv2d(8, dim, 1)
        )
        self.gain = nn.Linear(dim, dim)
        self.other = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, dim, 1))
        self.third = nn.Conv2d(3, dim, 3, stride=2)
        self.head = nn.Conv2d(9, 4, 3)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        one, two = self.encoder(torch.cat([a, b])).chunk(2)
        batch, dim, high, wide = one.shape
        left, right = (x.view(batch, dim, high * wide).transpose(1, 2) for x in (one, two))
        number = torch.sqrt(torch.tensor(dim)) if "tensor" in self.kind else math.sqrt(dim)
        if "thrice" in self.kind:
            right = right * (left * right).sum(-1, keepdim=True)
        if "gained" in self.kind:
            left = self.gain(left)
        scores = left @ right.transpose(1, 2)
        if "shifted" in self.kind:
            scores = scores + 0.5
        scores = scores / number
        if "uneven" in self.kind:
            scores = scores + (left / number).mean(-1, keepdim=True)
        if "seen" in self.kind:
            scores = scores + left.mean(-1, keepdim=True)
        if "beside" in self.kind:  # the same number, met by one scaled tensor
            near, far = (e(a).flatten(2).transpose(1, 2) for e in (self.other, self.third))
            scores = scores + (near @ far.transpose(1, 2)) / number
        if "written" in self.kind:
            kept = one * 1.0
            kept[:, :, :2] = 1.0
            scores = scores + (kept.flatten(2).transpose(1, 2) @ right.transpose(1, 2)) / number
        scores = scores.view(batch, -1, high, wide)
        return self.head(F.adaptive_avg_pool2d(scores, 8)[:, :9])


def halved(kind: str) -> tuple[nn.Module, Any, Tensor]:
    torch.manual_seed(0)
    model = randomise(Matcher(kind).eval())
    net = structure.trace(model, (torch.randn(2, 3, 9, 9), torch.randn(2, 3, 9, 9)))
    keep = net.everything
    for axis in net.prunable:
        for cell in axis.cells:
            keep[cell[torch.randperm(len(cell))[len(cell) // 2 :]]] = False
    return model, net, keep


@pytest.mark.parametrize("kind", ["plain", "tensor", "gained", "beside", "beside tensor"])
def test_a_correlation_takes_the_root_of_its_factor_twice(kind: str) -> None:
    model, net, keep = halved(kind)
    shrunk = structure.shrink(model, net, keep, how="in place")
    found = structure.check(model, net, keep, shrunk.model, scales=shrunk.scales, kept=shrunk.kept)
    assert found.error < 1e-10
    assert found.change > 1e-3
    if kind != "gained":
        taken = shrunk.scales["encoder.3.weight"][0]
        torch.testing.assert_close(taken, torch.full_like(taken, 2**-0.25))


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("uneven", "it multiplies products of 1 and 2"),
        ("thrice", "operator sum sees it without the number"),
        ("shifted", "a number is added to it"),
        ("seen", "operator mean sees it without the number"),
        ("written", "a part of a tensor is written before the number"),
    ],
)
def test_what_is_not_homogeneous_is_refused(kind: str, why: str) -> None:
    model, net, keep = halved(kind)
    with pytest.raises(StructureError, match=why):
        structure.shrink(model, net, keep, how="in place")


def test_what_is_refused_in_place_is_exact_as_a_graph() -> None:
    model, net, keep = halved("uneven")
    shrunk = structure.shrink(model, net, keep)
    assert shrunk.how == "graph"
    found = structure.check(model, net, keep, shrunk.model, scales=shrunk.scales, kept=shrunk.kept)
    assert found.error < 1e-10 < found.change


def test_the_verb_takes_it_in_place() -> None:
    torch.manual_seed(0)
    model = randomise(Matcher("tensor").eval())
    pruned = nw.prune(model, (torch.randn(2, 3, 9, 9), torch.randn(2, 3, 9, 9)), "keep=0.5", round_to=1)
    assert pruned.how == "in place"
    assert "encoder.3.bias" in pruned.scales


class Guided(nn.Module):
    """Attention whose unscaled query is seen by a branch that runs only in training."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(5, 16), nn.Linear(5, 16)
        self.value, self.guide = nn.Linear(5, 6), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Any:
        q, k = self.query(x), self.key(x)
        out = (q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])).softmax(-1) @ self.value(x)
        return (out, self.guide(q)) if self.training else out


def test_a_branch_that_runs_in_training_must_pass_the_number_too() -> None:
    model = randomise(Guided().eval())
    net = structure.trace(model, torch.randn(2, 7, 5))
    assert len(net.runs) == 2
    keep = net.everything
    axis = next(a for a in net.prunable if a.size == 16)
    keep[axis.cells[0, :8]] = False
    with pytest.raises(StructureError, match="something else is added to it before the number"):
        structure.shrink(model, net, keep, how="in place")
