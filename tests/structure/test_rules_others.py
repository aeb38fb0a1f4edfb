"""Normalisations, reductions, softmax, indexing, embeddings and tensors made in the forward pass."""

from __future__ import annotations

import pytest
import torch
from tests.structure.nets import Case, Net, conv, dense, holds, pair
from torch import nn
from torch.nn import functional as F

A = {"a": (1, 8)}
TOKENS = (2, 4, 6)
ROWS = (4, 6)


def norm(module):
    return lambda: pair(lambda m, x: m.n(x), n=module)


NORMS = [
    Case("batch norm", norm(nn.BatchNorm2d(8)), A),
    Case("batch norm without parameters", norm(nn.BatchNorm2d(8, affine=False)), A),
    Case("batch norm without statistics", norm(nn.BatchNorm2d(8, track_running_stats=False)), A),
    Case("batch norm of rows", lambda: dense(lambda m, x: m.n(x), n=nn.BatchNorm1d(8)), A, ROWS),
    Case("instance norm", norm(nn.InstanceNorm2d(8)), A),
    Case(
        "instance norm with statistics", norm(nn.InstanceNorm2d(8, affine=True, track_running_stats=True)), A
    ),
    Case("group norm", norm(nn.GroupNorm(2, 8)), {"a": (2, 4)}),
    Case("group norm of one group", norm(nn.GroupNorm(1, 8)), A),
    Case("group norm without parameters", norm(nn.GroupNorm(2, 8, affine=False)), {"a": (2, 4)}),
    Case("group norm, a group a channel", norm(nn.GroupNorm(8, 8)), A),
    Case(
        "group norm without parameters, a group a channel",
        norm(nn.GroupNorm(8, 8, affine=False)),
        {},
        frozen={"a": "every channel is a group"},
    ),
    Case("layer norm", lambda: dense(lambda m, x: m.n(x), n=nn.LayerNorm(8)), A, TOKENS),
    Case(
        "layer norm without parameters", lambda: dense(lambda m, x: F.layer_norm(x, x.shape[-1:])), A, TOKENS
    ),
    Case(
        "layer norm without bias",
        lambda: dense(lambda m, x: m.n(x), n=nn.LayerNorm(8, bias=False)),
        A,
        TOKENS,
    ),
    Case(
        "layer norm of channels",
        lambda: pair(lambda m, x: m.n(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), n=nn.LayerNorm(8)),
        A,
    ),
    Case("layer norm of everything", lambda: pair(lambda m, x: m.n(x), n=nn.LayerNorm((8, 6, 6))), A),
    Case("rms norm", lambda: dense(lambda m, x: m.n(x), n=nn.RMSNorm(8)), A, TOKENS),
    Case("rms norm with epsilon", lambda: dense(lambda m, x: m.n(x), n=nn.RMSNorm(8, eps=1e-3)), A, TOKENS),
    Case(
        "rms norm by hand",
        lambda: dense(lambda m, x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-3)),
        A,
        TOKENS,
    ),
    Case("normalised to length one", lambda: dense(lambda m, x: F.normalize(x, dim=-1)), A, TOKENS),
    Case(
        "response norm by hand",
        lambda: pair(lambda m, x: x / (1 + x.square().sum(1, keepdim=True)).sqrt()),
        A,
    ),
    Case(
        "global response norm",
        lambda: pair(
            lambda m, x: (lambda g: x * g / (g.mean(1, keepdim=True) + 1e-6))(
                x.norm(dim=(2, 3), keepdim=True)
            )
        ),
        A,
    ),
    Case(
        "standardised by hand",
        lambda: dense(lambda m, x: (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + 0.1).sqrt()),
        A,
        TOKENS,
    ),
    Case(
        "a norm of every head",
        lambda: dense(lambda m, x: m.n(x.unflatten(-1, (2, -1))).flatten(-2), n=nn.LayerNorm(4)),
        {"a": (1, 4)},
        TOKENS,
    ),
]


@pytest.mark.parametrize("case", NORMS, ids=lambda c: c.name)
def test_normalisations_are_exact(case: Case) -> None:
    holds(case)


REDUCED = {"a": (1, 8)}
REDUCTIONS = [
    *[
        Case(
            f"{name} of positions",
            lambda f=f: Net(lambda m, x: m.b(f(m.a(x))), a=conv(3, 8), b=nn.Linear(8, 5)),
            A,
        )
        for name, f in {
            "mean": lambda x: x.mean((2, 3)),
            "sum": lambda x: x.sum((-1, -2)),
            "amax": lambda x: x.amax((2, 3)),
            "amin": lambda x: x.amin((2, 3)),
            "max": lambda x: x.max(3).values.max(2).values,
            "min": lambda x: x.min(3)[0].min(2)[0],
            "std": lambda x: x.std((2, 3)),
            "var": lambda x: x.var((2, 3), unbiased=False),
            "var_mean": lambda x: torch.var_mean(x, (2, 3))[0],
            "logsumexp": lambda x: x.logsumexp((2, 3)),
            "prod": lambda x: x.prod(3).prod(2),
            "norm": lambda x: torch.linalg.vector_norm(x, dim=(2, 3)),
            "norm of one": lambda x: x.norm(1, dim=(2, 3)),
            "median": lambda x: x.flatten(2).median(2).values,
            "generalised mean": lambda x: x.clamp(min=1e-3).pow(3).mean((2, 3)).pow(1 / 3),
            "nansum": lambda x: x.nansum((2, 3)),
            "std_mean": lambda x: sum(torch.std_mean(x, (2, 3))),
            "aminmax": lambda x: sum(x.flatten(2).aminmax(dim=2)),
            "arg min": lambda x: x.flatten(2).argmin(2).to(x.dtype) + x.sum((2, 3)),
            "any": lambda x: x.sum((2, 3)) * (x > -0.1).flatten(2).any(2),
            "all": lambda x: x.sum((2, 3)) * (x > -9).flatten(2).all(2),
            "norm of order three": lambda x: torch.linalg.vector_norm(x, 3, dim=(2, 3)),
            "cumulative product": lambda x: x.cumprod(2).mean((2, 3)),
            "cumulative maximum": lambda x: x.cummax(2).values.mean((2, 3)),
            "cumulative minimum": lambda x: x.cummin(2)[0].mean((2, 3)),
            "cumulative logsumexp": lambda x: x.logcumsumexp(2).mean((2, 3)),
            "kth value": lambda x: x.flatten(2).kthvalue(3, 2).values,
            "mode": lambda x: x.flatten(2).mode(2).values,
            "argsort": lambda x: x.flatten(2).argsort(-1)[..., 0] + x.sum((2, 3)),
            "bmm with positions": lambda x: (
                x.flatten(2) @ torch.ones(36, 1, dtype=x.dtype, device=x.device)
            ).squeeze(-1),
            "cumsum": lambda x: x.cumsum(2).mean((2, 3)),
            "sort": lambda x: x.flatten(2).sort(-1).values[..., -1],
            "topk": lambda x: x.flatten(2).topk(3, -1).values.mean(-1),
            "attention pool": lambda x: (x.flatten(2) * x.mean(1).flatten(1).softmax(-1).unsqueeze(1)).sum(
                -1
            ),
        }.items()
    ],
    Case("mean of channels", lambda: Net(lambda m, x: m.a(x).mean(1), a=conv(3, 8)), A),
    Case("sum of channels", lambda: Net(lambda m, x: m.a(x).sum(1), a=conv(3, 8)), A),
    Case("variance of channels", lambda: Net(lambda m, x: m.a(x).var(1), a=conv(3, 8)), A),
    Case(
        "mean and variance of channels",
        lambda: Net(lambda m, x: sum(torch.var_mean(m.a(x), 1)), a=conv(3, 8)),
        A,
    ),
    Case("length of the channels", lambda: Net(lambda m, x: m.a(x).norm(dim=1), a=conv(3, 8)), A),
    Case("mean of everything", lambda: Net(lambda m, x: m.a(x).mean(), a=conv(3, 8)), A),
    Case(
        "split attention",
        lambda: pair(
            lambda m, x: (lambda s: (s * s.mean((3, 4), keepdim=True).softmax(1)).sum(1))(
                x.unflatten(1, (2, -1))
            ),
            into=4,
        ),
        {"a": (1, 4)},
    ),
    Case(
        "softmax of positions", lambda: pair(lambda m, x: x.flatten(2).softmax(-1).unflatten(-1, (6, 6))), A
    ),
    Case("log softmax of positions", lambda: pair(lambda m, x: x.log_softmax(3)), A),
    Case(
        "softmax of channels", lambda: pair(lambda m, x: x.softmax(1)), {}, frozen={"a": "normalises over it"}
    ),
    Case(
        "maximum of channels",
        lambda: Net(lambda m, x: m.a(x).amax(1), a=conv(3, 8)),
        {},
        frozen={"a": "taken over it"},
    ),
    Case(
        "product of channels",
        lambda: Net(lambda m, x: m.a(x).prod(1), a=conv(3, 8)),
        {},
        frozen={"a": "taken over it"},
    ),
    Case(
        "smallest magnitude of channels",
        lambda: Net(lambda m, x: torch.linalg.vector_norm(m.a(x), -float("inf"), dim=1), a=conv(3, 8)),
        frozen={"a": "taken over it"},
    ),
    Case(
        "arg max of channels",
        lambda: Net(lambda m, x: m.a(x).argmax(1).to(x.dtype), a=conv(3, 8)),
        {},
        frozen={"a": "taken over it"},
    ),
    Case(
        "running sum of channels", lambda: pair(lambda m, x: x.cumsum(1)), {}, frozen={"a": "runs along it"}
    ),
    Case("sorted channels", lambda: pair(lambda m, x: x.sort(1).values), {}, frozen={"a": "runs along it"}),
    Case(
        "best channels",
        lambda: pair(lambda m, x: x.topk(4, 1).values, into=4),
        {},
        frozen={"a": "runs along it"},
    ),
    Case(
        "spatial attention",
        lambda: pair(lambda m, x: x * m.c(x.mean(1, keepdim=True)).sigmoid(), c=conv(1, 1, 3, padding=1)),
        A,
    ),
]


@pytest.mark.parametrize("case", REDUCTIONS, ids=lambda c: c.name)
def test_reductions_are_exact(case: Case) -> None:
    holds(case)


INDEXED = [
    Case("positions by number", lambda: pair(lambda m, x: x[:, :, [0, 2, 5]]), A),
    Case("positions by two lists", lambda: pair(lambda m, x: x[:, :, [0, 1], [2, 3]].unsqueeze(-1)), A),
    Case(
        "channels by number",
        lambda: pair(lambda m, x: x[:, [0, 2, 5]], into=3),
        {},
        frozen={"a": "by number"},
    ),
    Case("channels by mask", lambda: Net(lambda m, x: m.a(x)[m.a(x) > 0.2].sum(), a=conv(3, 8)), {}),
    Case(
        "index_select of positions",
        lambda: pair(lambda m, x: x.index_select(2, torch.tensor([1, 3], device=x.device))),
        A,
    ),
    Case(
        "gather",
        lambda: pair(lambda m, x: x.gather(1, torch.zeros_like(x, dtype=torch.int64))),
        {},
        frozen={"a": "by number"},
    ),
    Case(
        "a bias by relative position",
        lambda: dense(
            lambda m, x: x + m.t[m.i].unsqueeze(0), t=torch.randn(7, 8), i=torch.tensor([0, 3, 3, 6])
        ),
        A,
        TOKENS,
    ),
    Case("scattered", lambda: pair(lambda m, x: _scattered(x, "scatter_add_")), frozen={"a": "by number"}),
    Case(
        "added by number", lambda: pair(lambda m, x: _by_number(x, "index_add_")), frozen={"a": "by number"}
    ),
    Case(
        "copied by number", lambda: pair(lambda m, x: _by_number(x, "index_copy_")), frozen={"a": "by number"}
    ),
    Case("put by number", lambda: pair(lambda m, x: _put(x)), A),
    Case(
        "put by number into what has no units",
        lambda: pair(lambda m, x: _put(x, x.new_zeros(x.shape))),
        frozen={"a": "by number"},
    ),
    Case(
        "noise put into zeros",
        lambda: pair(lambda m, x: x + _put(0 * torch.rand_like(x))),
        frozen={"a": "no units"},
    ),
    Case("ones that are cut", lambda: pair(lambda m, x: x * _cut(x)), frozen={"a": "no units there"}),
    Case(
        "zeros of the size of something else",
        lambda: dense(lambda m, x: x + m.c(torch.zeros_like(m.q)), c=nn.Linear(6, 8), q=torch.randn(4, 6)),
        {"a": (1, 8), "q": (1, 6)},
        (2, 4, 6),
    ),
    Case(
        "full_like and new_full",
        lambda: pair(lambda m, x: x * torch.full_like(x, 2) + x.new_full(x.shape, 3)),
        A,
    ),
    Case(
        "ones and new_ones",
        lambda: pair(lambda m, x: x * torch.ones(x.shape, device=x.device) + x.new_ones(x.shape)),
        A,
    ),
    Case("triangle", lambda: pair(lambda m, x: x.tril(), into=8), {}, frozen={"a": "cuts by position"}),
    Case(
        "positions by arange",
        lambda: dense(lambda m, x: x * torch.arange(x.shape[1], device=x.device)[None, :, None]),
        A,
        TOKENS,
    ),
    Case(
        "linspace over positions", lambda: pair(lambda m, x: x + torch.linspace(-1, 1, 6, device=x.device)), A
    ),
    Case("eye over positions", lambda: pair(lambda m, x: x + torch.eye(6, device=x.device)), A),
    Case(
        "a state of zeros",
        lambda: dense(lambda m, x: torch.cat([x, x.new_zeros(x.shape[0], 1, x.shape[2])], 1)),
        A,
        TOKENS,
    ),
    Case(
        "an initial state",
        lambda: Net(
            lambda m, x: m.b((m.a(x) + m.c(x.new_zeros(x.shape[0], m.n))).tanh()),
            a=nn.Linear(6, 8),
            b=nn.Linear(8, 5),
            c=nn.Linear(8, 8),
            n=8,
        ),
        {"a": (1, 8), "c": (1, 8)},
        ROWS,
    ),
]


def _by_number(x, method):
    index = torch.arange(x.shape[1], device=x.device)
    return getattr(torch.zeros_like(x), method)(1, index, x)


def _scattered(x, method):
    return getattr(torch.zeros_like(x), method)(2, torch.zeros_like(x, dtype=torch.int64), x)


def _put(x, y=None):
    y = torch.zeros_like(x) if y is None else y
    y[torch.arange(x.shape[0], device=x.device)] = x
    return y


def _cut(x):
    return torch.ones(x.shape[1], x.shape[1], device=x.device, dtype=x.dtype).tril_()[0].view(1, -1, 1, 1)


@pytest.mark.parametrize("case", INDEXED, ids=lambda c: c.name)
def test_indexing_and_making_are_exact(case: Case) -> None:
    holds(case)


class Words(nn.Module):
    """An embedding bag: tokens to the mean of their vectors."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 8, padding_idx=0)
        self.mix = nn.Linear(8, 8)
        self.head = nn.Linear(8, 11, bias=False)
        if tied:
            self.head.weight = self.table.weight

    def forward(self, x):
        return self.head(self.mix(self.table(x)).relu() + self.table(x))


@pytest.mark.parametrize("tied", [False, True])
def test_an_embedding_loses_width_not_words(tied: bool) -> None:
    from tests.structure.nets import exact

    from netwright.structure import shrink, trace
    from netwright.testing.surgery import draw_keep, randomise

    torch.manual_seed(0)
    model = randomise(Words(tied)).eval()
    net = trace(model, torch.randint(0, 11, (2, 5)))
    assert [tuple(a.cells.shape) for a in net.prunable] == [(1, 8)]
    exact(model, net)
    small = shrink(model, net, draw_keep(net)).model
    assert small.table.weight.shape[0] == 11 and small.table.embedding_dim == small.table.weight.shape[1] < 8
    assert (small.head.weight is small.table.weight) == tied
