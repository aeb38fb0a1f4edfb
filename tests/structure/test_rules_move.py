"""Operators that move data: the labels move with it."""

from __future__ import annotations

import pytest
import torch
from tests.structure.nets import Case, Net, conv, dense, holds, pair
from torch import nn
from torch.nn import functional as F

A = {"a": (1, 8)}
BOTH = {"a": (1, 8), "c": (1, 4)}


def two(function, into):
    """Convolutions a (3 -> 8) and c (3 -> 4) of one image, joined by a function of their outputs."""
    return Net(lambda m, x: m.b(function(m.a(x), m.c(x))), a=conv(3, 8), c=conv(3, 4), b=conv(into, 5))


CASES = [
    Case(
        "flatten", lambda: Net(lambda m, x: m.b(m.a(x).flatten(1)), a=conv(3, 8), b=nn.Linear(8 * 36, 5)), A
    ),
    Case("view keeps the channels", lambda: pair(lambda m, x: x.view(2, -1, 9, 4)), A),
    Case("reshape and back", lambda: pair(lambda m, x: x.flatten(2).reshape(x.shape)), A),
    Case(
        "split into groups", lambda: pair(lambda m, x: x.view(2, 2, -1, 6, 6).sum(1), into=4), {"a": (1, 4)}
    ),
    Case(
        "groups stay apart",
        lambda: pair(lambda m, x: x.view(2, 2, -1, 6, 6).flatten(1, 2)),
        {"a": (2, 4)},
    ),
    Case(
        "shuffled groups keep members of their own",
        lambda: pair(lambda m, x: x.view(2, 2, -1, 6, 6).transpose(1, 2).reshape(2, -1, 6, 6)),
        {"a": (1, 8)},
    ),
    Case("unsqueeze and squeeze", lambda: pair(lambda m, x: x.unsqueeze(1).squeeze(1)), A),
    Case(
        "permute",
        lambda: Net(lambda m, x: m.b(m.a(x).permute(0, 2, 3, 1)), a=conv(3, 8), b=nn.Linear(8, 5)),
        A,
    ),
    Case(
        "transpose",
        lambda: Net(lambda m, x: m.b(m.a(x).flatten(2).transpose(1, 2)), a=conv(3, 8), b=nn.Linear(8, 5)),
        A,
    ),
    Case("movedim", lambda: Net(lambda m, x: m.b(m.a(x).movedim(1, -1)), a=conv(3, 8), b=nn.Linear(8, 5)), A),
    Case("t", lambda: Net(lambda m, x: m.b(m.a(x).t().t()), a=nn.Linear(6, 8), b=nn.Linear(8, 5)), A, (2, 6)),
    Case("expand", lambda: pair(lambda m, x: x.mean((2, 3), keepdim=True).expand(-1, -1, 4, 4)), A),
    Case("expand_as", lambda: pair(lambda m, x: x.mean((2, 3), keepdim=True).expand_as(x)), A),
    Case("expand to channels", lambda: pair(lambda m, x: x * x.mean(1, keepdim=True).expand_as(x)), A),
    Case("repeat of positions", lambda: pair(lambda m, x: x.repeat(1, 1, 2, 1)), A),
    Case("repeat of channels", lambda: pair(lambda m, x: x.repeat(1, 2, 1, 1), into=16), A),
    Case("repeat_interleave", lambda: pair(lambda m, x: x.repeat_interleave(2, dim=1), into=16), A),
    Case("slice of positions", lambda: pair(lambda m, x: x[:, :, 1:4, ::2]), A),
    Case(
        "slice that drops channels",
        lambda: pair(lambda m, x: x[:, : x.shape[1] // 2] + x[:, x.shape[1] // 2 :], into=4),
        {"a": (1, 4)},
    ),
    Case("narrow of positions", lambda: pair(lambda m, x: x.narrow(2, 1, 3)), A),
    Case(
        "select of a position",
        lambda: Net(lambda m, x: m.b(m.a(x)[:, 0]), a=nn.Linear(6, 8), b=nn.Linear(8, 5)),
        A,
        (2, 4, 6),
    ),
    Case(
        "select of a channel",
        lambda: Net(lambda m, x: (lambda y: y[:, 3] + y.mean(1))(m.a(x)), a=conv(3, 8)),
        {"a": (1, 4)},
        frozen={"a#2": "selected by number"},
    ),
    Case(
        "select from the end",
        lambda: Net(lambda m, x: (lambda y: y[:, -2] + y.mean(1))(m.a(x)), a=conv(3, 8)),
        {"a": (1, 6)},
    ),
    Case("unbind of positions", lambda: dense(lambda m, x: x.unbind(1)[2]), A, (2, 4, 6)),
    Case("split of positions", lambda: pair(lambda m, x: x.split(3, 2)[1]), A),
    Case(
        "split into equal parts",
        lambda: pair(lambda m, x: sum(x.split(x.shape[1] // 2, 1)), into=4),
        {"a": (1, 4)},
    ),
    Case(
        "split into unequal parts",
        lambda: Net(
            lambda m, x: (lambda p, q: m.b(p) + m.c(q))(*m.a(x).split(m.sizes, 1)),
            a=conv(3, 8),
            b=conv(3, 5),
            c=conv(5, 5),
            sizes=[3, 5],
        ),
        {"a": (1, 3), "a#2": (1, 5)},
    ),
    Case("chunk", lambda: pair(lambda m, x: (lambda p, q: p * q)(*x.chunk(2, 1)), into=4), {"a": (1, 4)}),
    Case(
        "chunk, each its own consumer",
        lambda: Net(
            lambda m, x: (lambda p, q: m.b(p) + m.c(q))(*m.a(x).chunk(2, 1)),
            a=conv(3, 8),
            b=conv(4, 5),
            c=conv(4, 5),
        ),
        {"a": (2, 4)},
    ),
    Case("cat", lambda: two(lambda a, c: torch.cat([a, c], 1), 12), BOTH),
    Case(
        "cat with the input",
        lambda: Net(lambda m, x: m.b(torch.cat([m.a(x), x], 1)), a=conv(3, 8), b=conv(11, 5)),
        A,
    ),
    Case("cat of positions", lambda: pair(lambda m, x: torch.cat([x, m.c(x)], 2), c=conv(8, 8)), A),
    Case(
        "cat along positions with zeros", lambda: pair(lambda m, x: torch.cat([x, torch.zeros_like(x)], 3)), A
    ),
    Case(
        "cat along positions with noise", lambda: pair(lambda m, x: torch.cat([x, torch.rand_like(x)], 3)), {}
    ),
    Case("stack", lambda: pair(lambda m, x: torch.stack([x, x.relu()], 2).sum(2)), A),
    Case("stack of two", lambda: pair(lambda m, x: torch.stack([x, m.c(x)], 1).sum(1), c=conv(8, 8)), A),
    Case("flip of positions", lambda: pair(lambda m, x: x.flip(2)), A),
    Case("flip of channels", lambda: pair(lambda m, x: x.flip(1)), A),
    Case("flip of channels, added", lambda: pair(lambda m, x: x + x.flip(1)), {"a": (1, 4)}),
    Case("roll of positions", lambda: pair(lambda m, x: x.roll((1, 2), (2, 3))), A),
    Case("pad of positions", lambda: pair(lambda m, x: F.pad(x, (1, 2, 0, 1))), A),
    Case("pad of channels", lambda: pair(lambda m, x: F.pad(x, (0, 0, 0, 0, 2, 1)), into=11), A),
    Case("reflection pad", lambda: pair(lambda m, x: F.pad(x, (1, 1, 1, 1), mode="reflect")), A),
    Case("replication pad", lambda: pair(lambda m, x: F.pad(x, (1, 1, 1, 1), mode="replicate")), A),
    Case("circular pad", lambda: pair(lambda m, x: F.pad(x, (1, 1, 1, 1), mode="circular")), A),
    Case("pixel shuffle", lambda: pair(lambda m, x: F.pixel_shuffle(x, 2), into=2), {"a": (1, 2)}),
    Case("pixel unshuffle", lambda: pair(lambda m, x: F.pixel_unshuffle(x, 2), into=32), A),
    Case("channel shuffle", lambda: pair(lambda m, x: F.channel_shuffle(x, 2)), {"a": (1, 8)}),
    Case("unfold of positions", lambda: pair(lambda m, x: x.unfold(2, 2, 2).sum(-1)), A),
    Case(
        "im2col",
        lambda: Net(
            lambda m, x: m.b(F.unfold(m.a(x), 2, stride=2).transpose(1, 2)), a=conv(3, 8), b=nn.Linear(32, 5)
        ),
        A,
    ),
    Case("diagonal", lambda: pair(lambda m, x: x.diagonal(dim1=2, dim2=3).unsqueeze(-1)), A),
    Case("rot90", lambda: pair(lambda m, x: x.rot90(1, (2, 3))), A),
    Case("unflatten", lambda: pair(lambda m, x: x.unflatten(3, (3, 2)).flatten(3)), A),
    Case("swapaxes", lambda: pair(lambda m, x: x.swapaxes(2, 3)), A),
    Case(
        "broadcast_to",
        lambda: pair(lambda m, x: x.mean((2, 3), keepdim=True).broadcast_to(2, x.shape[1], 3, 3)),
        A,
    ),
    Case("contiguous", lambda: pair(lambda m, x: x.transpose(2, 3).contiguous()), A),
    Case("detach", lambda: pair(lambda m, x: x.detach()), A),
    Case("hstack", lambda: two(lambda a, c: torch.hstack([a, c]), 12), BOTH),
    Case("tile", lambda: pair(lambda m, x: x.tile(1, 1, 1, 2)), A),
    Case("tensor_split", lambda: pair(lambda m, x: torch.cat(x.tensor_split(3, 2), 2)), A),
    Case(
        "window partition",
        lambda: pair(lambda m, x: x.view(2, -1, 3, 2, 3, 2).permute(0, 2, 4, 1, 3, 5).reshape(18, -1, 2, 2)),
        A,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_moving_data_is_exact(case: Case) -> None:
    holds(case)
