"""Reading and writing by number: what is not indexed passes; products of other ranks; computed kernels."""

from __future__ import annotations

import pytest
import torch
from tests.structure.nets import Case, Net, conv, dense, holds, pair
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from netwright.structure import check, shrink, trace

TOKENS = (2, 4, 6)
WHOLE = {"a": (1, 8)}


def _rows(x, *numbers: int):
    """Token numbers, the same for every feature (an expanded index)."""
    index = torch.tensor([numbers], device=x.device)[:, :, None]
    return index.expand(x.shape[0], len(numbers), x.shape[-1])


def _put(x, values, *numbers: int):
    x = x.clone()
    x[:, torch.tensor(numbers, device=x.device)] = values
    return x


def _masked(m, x):
    return x[m.mask]


def _packed(x):
    packed = pack_padded_sequence(x, torch.tensor([4, 2]), batch_first=True)
    return pad_packed_sequence(packed, batch_first=True)[0]


def _spread(m, x):
    """Attention with parameters (features, heads, width), by einsum."""
    q, k, v = (torch.einsum("bnf,fhd->bnhd", x, w) for w in (m.q, m.k, m.v))
    scores = (torch.einsum("bnhd,bmhd->bhnm", q, k) * 0.5).softmax(-1)
    return torch.einsum("bnhd,fhd->bnf", torch.einsum("bhnm,bmhd->bnhd", scores, v), m.o)


def _routed(m, x):
    """A mixture of experts that sorts tokens by expert and multiplies them group by group."""
    flat = m.a(x).flatten(0, 1)
    weight, expert = m.gate(flat).softmax(-1).max(-1)
    order = expert.argsort()
    ends = torch.bincount(expert, minlength=m.up.shape[0]).cumsum(0).to(torch.int32)
    hidden = torch._grouped_mm(flat[order], m.up, offs=ends).relu()
    mixed = torch._grouped_mm(hidden, m.down, offs=ends) * weight[order, None]
    return m.b(flat + torch.zeros_like(flat).index_add_(0, order, mixed)).unflatten(0, x.shape[:2])


def _interleaved(m, x):
    """Attention with query, key and value of a head side by side, and a table over half of its width."""
    heads = m.qkv(x).unflatten(-1, (m.n, -1)).transpose(1, 2)  # (B, heads, N, 3 * width)
    q, k, v = heads.chunk(3, dim=-1)
    q = torch.cat([q[..., :2] * m.table, q[..., 2:]], dim=-1)
    scores = (q @ k.transpose(-1, -2)).softmax(-1)
    return m.o((scores @ v).transpose(1, 2).flatten(2))


MASK = torch.tensor([[True, False, True, True], [False, True, False, False]])
INDEXED = [
    Case("gathered tokens", lambda: dense(lambda m, x: x.gather(1, _rows(x, 2, 0))), WHOLE, TOKENS),
    Case(
        "gathered features",
        lambda: dense(lambda m, x: x.gather(2, torch.zeros_like(x, dtype=torch.int64))),
        {},
        TOKENS,
        {"a": "by number"},
    ),
    Case(
        "tokens gathered differently for every feature",
        lambda: dense(lambda m, x: x.gather(1, torch.zeros_like(x, dtype=torch.int64))),
        {},
        TOKENS,
        {"a": "by number"},
    ),
    Case(
        "scattered tokens",
        lambda: dense(lambda m, x: torch.zeros_like(x).scatter_add_(1, _rows(x, 1, 1, 3, 0), x)),
        WHOLE,
        TOKENS,
    ),
    Case(
        "the largest of scattered tokens",
        lambda: dense(lambda m, x: torch.zeros_like(x).scatter_reduce(1, _rows(x, 1, 1, 3, 0), x, "amax")),
        WHOLE,
        TOKENS,
    ),
    Case(
        "tokens added by number",
        lambda: dense(lambda m, x: x.new_zeros(x.shape).index_add_(1, m.i, x), i=torch.tensor([1, 1, 3, 0])),
        WHOLE,
        TOKENS,
    ),
    Case(
        "tokens copied by number",
        lambda: dense(lambda m, x: x.index_copy(1, m.i, x[:, :2]), i=torch.tensor([3, 0])),
        WHOLE,
        TOKENS,
    ),
    Case(
        "tokens filled by number",
        lambda: dense(lambda m, x: x.index_fill(1, m.i, 0.5), i=torch.tensor([3, 0])),
        WHOLE,
        TOKENS,
    ),
    Case(
        "tokens replaced by a parameter",
        lambda: dense(lambda m, x: _put(x, m.v, 0, 2), v=torch.randn(8)),
        WHOLE,
        TOKENS,
    ),
    Case(
        "tokens replaced by what has no units",
        lambda: dense(lambda m, x: _put(x, torch.arange(8.0, device=x.device), 0, 2)),
        {},
        TOKENS,
        {"a": "meets, in index_put, a tensor of the same size"},
    ),
    Case(
        "gathered tokens, with an index that is repeated",
        lambda: dense(lambda m, x: x.gather(1, _rows(x, 2, 0)[..., :1].repeat(1, 1, x.shape[-1]))),
        WHOLE,
        TOKENS,
    ),
    Case("tokens picked by a mask", lambda: dense(_masked, mask=MASK), WHOLE, TOKENS),
    Case("packed by length", lambda: dense(lambda m, x: _packed(x)), WHOLE, TOKENS),
]


@pytest.mark.parametrize("case", INDEXED, ids=lambda c: c.name)
def test_indexing_lets_pass_what_it_does_not_index(case: Case) -> None:
    holds(case)


COMPUTED = [
    Case(
        "a bilinear layer",
        lambda: dense(lambda m, x: m.c(x, m.d(x)), into=7, c=nn.Bilinear(8, 9, 7), d=nn.Linear(8, 9)),
        {"a": (1, 8), "c": (1, 7), "d": (1, 9)},
        TOKENS,
    ),
    Case(
        "a spectrally normalised convolution",
        lambda: pair(lambda m, x: m.c(x), into=6, c=parametrizations.spectral_norm(conv(8, 6, 3))),
        {"a": (1, 8), "c.parametrizations.weight.original": (1, 6)},
    ),
    Case(
        "a kernel scaled by its own size",
        lambda: pair(
            lambda m, x: F.conv2d(x, m.w / (1 + m.w.abs().sum())), into=6, w=torch.randn(6, 8, 3, 3)
        ),
        {"a": (1, 8), "w": (1, 6)},
    ),
    Case(
        "a grouped convolution of which the weight is normalised",
        lambda: pair(lambda m, x: m.c(x), into=12, c=parametrizations.weight_norm(conv(8, 12, 3, groups=2))),
        {"a": (1, 4), "c.parametrizations.weight.original1": (2, 6)},
    ),
    Case(
        "a grouped convolution, normalised over its kernel, on a residual path",
        lambda: pair(
            lambda m, x: x + m.c(x), c=parametrizations.weight_norm(conv(8, 8, 3, groups=2, padding=1), dim=3)
        ),
        {"a": (1, 4)},
    ),
    Case(
        "a factor of its own for every width of every head",
        lambda: dense(
            lambda m, x: (m.c(x).unflatten(-1, (m.n, -1)) * m.v).sum(-1),
            out=8,
            into=3,
            c=nn.Linear(8, 12),
            v=torch.randn(3, 4),
            n=3,
        ),
        {"a": (1, 8), "c": (1, 3)},
        TOKENS,
        {"v": "one factor of a product"},
    ),
    Case(
        "heads of parameters of three dimensions",
        lambda: Net(
            lambda m, x: m.b(_spread(m, m.a(x))),
            a=nn.Linear(6, 8),
            b=nn.Linear(7, 5),
            **{name: torch.randn(8, 3, 4) / 3 for name in "qkv"},
            o=torch.randn(7, 3, 4),
        ),
        {"a": (1, 8), "q": (1, 3), "o": (1, 7)},
        TOKENS,
    ),
    Case(
        "heads of which query, key and value lie together",
        lambda: Net(_interleaved, qkv=nn.Linear(6, 36), o=nn.Linear(12, 5), table=torch.randn(4, 2), n=3),
        {"qkv": (1, 3)},
        TOKENS,
        {"table#2": "heads go whole"},
    ),
    Case(
        "an inner product of two parameters",
        lambda: Net(
            lambda m, x: m.a(x) * torch.dot(m.v, m.u), a=nn.Linear(6, 5), v=torch.randn(8), u=torch.randn(8)
        ),
        {"v": (1, 8)},
        (4, 6),
    ),
]


@pytest.mark.parametrize("case", COMPUTED, ids=lambda c: c.name)
def test_products_of_other_ranks_are_exact(case: Case) -> None:
    holds(case)


def test_experts_whose_tokens_are_sorted() -> None:
    torch.manual_seed(0)
    model = Net(
        _routed,
        a=nn.Linear(6, 8),
        b=nn.Linear(8, 5),
        gate=nn.Linear(8, 4),
        up=torch.randn(4, 8, 16),
        down=torch.randn(4, 16, 8),
    )
    net = trace(model, torch.randn(TOKENS))
    assert {axis.name: axis.size for axis in net.prunable} == {"a": 8, "up": 16}
    keep = net.everything.clone()
    for axis in net.prunable:  # the operator wants multiples of four
        keep[axis.cells[0, ::2]] = False
    result = check(model, net, keep, shrink(model, net, keep).model)
    assert result.error < 1e-12 and result.change > 1e-6
