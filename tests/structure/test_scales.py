"""Numbers that the code computes from a size are undone in the weights, or the surgery is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import netwright as nw
from netwright import structure
from netwright.errors import StructureError
from netwright.testing.surgery import draw_keep, randomise


class Attention(nn.Module):
    """Attention whose temperature follows the width of its heads; the variants are how people write it."""

    def __init__(self, kind: str, dim: int = 24, heads: int = 3) -> None:
        super().__init__()
        self.kind, self.num_heads = kind, heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.norm = nn.LayerNorm(dim // heads) if "norm" in kind else nn.Identity()
        self.proj = nn.Linear(dim, dim)
        if "parts" in kind:
            self.bias = nn.ParameterList([nn.Parameter(torch.randn(dim)) for _ in range(2)])
            self.register_buffer("none", torch.zeros(dim), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, dim = x.shape
        if "parts" in self.kind:
            packed = F.linear(x, self.qkv.weight, torch.cat([self.bias[0], self.none, self.bias[1]]))
        elif "strided" in self.kind:
            packed = self.qkv(x.transpose(0, 1)).transpose(0, 1)
        else:
            packed = self.qkv(x)
        split = packed.reshape(batch, tokens, 3, self.num_heads, dim // self.num_heads)
        q, k, v = split.permute(2, 0, 3, 1, 4).unbind(0)
        scale = (dim // self.num_heads) ** -0.5
        q = self.norm(q)
        if "fused" in self.kind:
            out = F.scaled_dot_product_attention(q, k, v)
        elif "after" in self.kind:
            out = (q @ k.transpose(-2, -1) * scale).softmax(-1) @ v
        elif "divided" in self.kind:
            out = (q @ k.transpose(-2, -1) / (dim // self.num_heads) ** 0.5).softmax(-1) @ v
        elif "rotary" in self.kind:
            turned = q * torch.cos(x[:, None, :, :1]) + q.flip(-2) * 0.5
            out = (turned * scale @ k.transpose(-2, -1)).softmax(-1) @ v
        elif "twice" in self.kind:
            scores = (q * scale) @ k.transpose(-2, -1)
            out = (scores + q.sum(-1, keepdim=True)).softmax(-1) @ v
        else:
            out = ((q * scale) @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.proj(out.transpose(1, 2).reshape(batch, tokens, dim))


class Net(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.embed = nn.Linear(5, 24)
        self.attn = Attention(kind)
        self.head = nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return self.head(x + self.attn(x))


def halved(kind: str) -> tuple[nn.Module, Any, Tensor]:
    torch.manual_seed(0)
    model = randomise(Net(kind).eval())
    net = structure.trace(model, torch.randn(2, 6, 5), heads="width")
    keep = net.everything
    for axis in net.prunable:  # the same share of each: dim // heads is then the width of a head
        for cell in axis.cells:
            keep[cell[torch.randperm(len(cell))[len(cell) // 2 :]]] = False
    return model, net, keep


KINDS = [
    "plain",
    "fused",
    "after",
    "divided",
    "rotary",
    "plain parts",
    "fused parts",
    "plain strided",
    "norm",
    "norm fused",
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_temperature_that_follows_the_width_is_undone(kind: str) -> None:
    model, net, keep = halved(kind)
    shrunk = structure.shrink(model, net, keep, how="in place")
    assert shrunk.scales
    found = structure.check(model, net, keep, shrunk.model, scales=shrunk.scales, kept=shrunk.kept)
    assert found.error < 1e-12
    assert found.change > 1e-3


def test_the_scaled_weights_are_stored_in_their_own_precision() -> None:
    model, net, keep = halved("plain")
    shrunk = structure.shrink(model, net, keep, how="in place")
    assert structure.check(model, net, keep, shrunk.model).error < 1e-5
    assert shrunk.model.attn.qkv.weight.dtype == torch.float32


def test_a_scaled_buffer_that_no_state_dict_holds_comes_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = randomise(Net("fused parts").eval())
    x = torch.randn(2, 6, 5)
    pruned = nw.prune(model, x, 0.5, allocation="uniform", round_to=1, heads="width")
    assert "attn.none" in pruned.scales
    again = nw.load(nw.save(pruned, tmp_path), model)
    with torch.no_grad():
        assert torch.equal(again(x), pruned.model(x))


def test_a_query_that_is_also_seen_without_the_factor_is_refused() -> None:
    model, net, keep = halved("twice")
    with pytest.raises(StructureError, match=r"factor is .* and operator \w+ sees it without the number"):
        structure.shrink(model, net, keep, how="in place")


def test_a_check_refuses_weights_that_are_not_what_was_scaled() -> None:
    model, net, keep = halved("plain")
    shrunk = structure.shrink(model, net, keep, how="in place")
    with torch.no_grad():
        shrunk.model.attn.qkv.weight.mul_(1.5)
    with pytest.raises(StructureError, match=r"attn\.qkv\.weight is not what the surgery scaled it to"):
        structure.check(model, net, keep, shrunk.model, scales=shrunk.scales, kept=shrunk.kept)


class Ambiguous(nn.Module):
    """Twelve is a width and a number of tokens: only a trial tells which attribute holds which."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 12
        self.tokens = 12
        self.parts = (12, 24)
        self.first = nn.Linear(3, 36)
        self.second = nn.Linear(12, 5)
        self.third = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        one, two = self.first(x).relu().split(self.parts, -1)
        one = one.reshape(-1, self.tokens, self.width)
        return self.second(one) + self.third(two).reshape(-1, self.tokens, 5)


def test_attributes_of_one_value_and_two_meanings_are_told_apart() -> None:
    model = randomise(Ambiguous().eval())
    net = structure.trace(model, torch.randn(2, 12, 3))
    keep = draw_keep(net, seed=1)
    shrunk = structure.shrink(model, net, keep, how="in place")
    assert structure.check(model, net, keep, shrunk.model).error < 1e-12
    small: Any = shrunk.model
    assert small.tokens == 12
    assert small.width == small.second.in_features < 12
    assert small.parts == (small.second.in_features, small.third.in_features)


class Pooled(nn.Module):
    """All heads share a convolution of their queries, beside a class token; positions sum two tables."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(5, 24)
        self.token = nn.Parameter(torch.randn(24))
        self.rows = nn.Parameter(torch.randn(4, 24))
        self.columns = nn.Parameter(torch.randn(2, 24))
        self.qkv = nn.Linear(24, 72)
        self.pool = nn.Conv1d(8, 8, 3, padding=1, groups=8)
        self.norm = nn.LayerNorm(8)
        self.proj = nn.Linear(24, 24)
        self.head = nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        where = self.rows.repeat(2, 1) + self.columns.repeat_interleave(4, 0)
        x = torch.cat([self.token.expand(x.shape[0], 1, -1), self.embed(x) + where], 1)
        batch, tokens, dim = x.shape
        split = self.qkv(x).reshape(batch, tokens, 3, 3, dim // 3)
        q, k, v = split.permute(2, 0, 3, 1, 4).unbind(0)
        q = self.norm(torch.cat([q[:, :, :1], self.pooled(q[:, :, 1:])], 2))
        out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, dim)
        return self.head((x + self.proj(out))[:, 0])

    def pooled(self, q: Tensor) -> Tensor:
        batch, heads, tokens, width = q.shape
        flat = self.pool(q.reshape(batch * heads, tokens, width).transpose(1, 2))
        return flat.transpose(1, 2).reshape(batch, heads, tokens, width)


@pytest.mark.parametrize("batch", [1, 2])
def test_heads_that_share_a_convolution_are_narrowed_together(batch: int) -> None:
    torch.manual_seed(0)
    model = randomise(Pooled().eval())
    net = structure.trace(model, torch.randn(batch, 8, 5), heads="width")
    axis = next(a for a in net.prunable if a.name.startswith("qkv") or a.name == "pool")
    assert axis.size == 8
    keep = net.everything
    for axis in net.prunable:
        for cell in axis.cells:
            keep[cell[len(cell) // 2 :]] = False
    shrunk = structure.shrink(model, net, keep, how="in place")
    found = structure.check(model, net, keep, shrunk.model, scales=shrunk.scales, kept=shrunk.kept)
    assert found.error < 1e-12 < found.change
