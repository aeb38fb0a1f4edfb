"""Matrix products and convolutions: two sides meet along what is summed over."""

from __future__ import annotations

import pytest
import torch
from tests.structure.nets import Case, Net, conv, dense, holds, pair
from torch import nn
from torch.nn import functional as F

A = {"a": (1, 8)}
TOKENS = (2, 4, 6)


def heads(x, n):
    """Tokens (B, N, n * d) to heads (B, n, N, d)."""
    return x.unflatten(-1, (n, -1)).transpose(1, 2)


def attend(m, x):
    q, k, v = (heads(f(x), m.n) for f in (m.q, m.k, m.v))
    return m.o(F.scaled_dot_product_attention(q, k, v, scale=0.5).transpose(1, 2).flatten(2))


def packed(m, x):
    q, k, v = m.qkv(x).unflatten(-1, (3, m.n, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    return m.o(((q @ k.mT) * 0.5).softmax(-1).matmul(v).transpose(1, 2).flatten(2))


def grouped_query(m, x):
    q, k, v = heads(m.q(x), m.n), heads(m.k(x), m.g), heads(m.v(x), m.g)
    k, v = (t.repeat_interleave(m.n // m.g, dim=1) for t in (k, v))
    return m.o(F.scaled_dot_product_attention(q, k, v, scale=0.5).transpose(1, 2).flatten(2))


def linears(**sizes):
    return {name: nn.Linear(6, size) for name, size in sizes.items()}


PRODUCTS = [
    Case("linear on rows", lambda: dense(lambda m, x: x.relu()), A, (4, 6)),
    Case("linear on tokens", lambda: dense(lambda m, x: x.relu()), A, TOKENS),
    Case("linear on transposed tokens", lambda: dense(lambda m, x: x.transpose(0, 1).relu()), A, TOKENS),
    Case(
        "linear without bias",
        lambda: dense(lambda m, x: m.c(x), c=nn.Linear(8, 8, bias=False)),
        {"a": (1, 8), "c": (1, 8)},
        TOKENS,
    ),
    Case(
        "matmul with a parameter",
        lambda: dense(lambda m, x: x @ m.w, into=7, w=torch.randn(8, 7)),
        {"a": (1, 8), "w": (1, 7)},
        TOKENS,
    ),
    Case(
        "einsum",
        lambda: dense(lambda m, x: torch.einsum("bnd,ed->bne", x, m.w), into=7, w=torch.randn(7, 8)),
        {"a": (1, 8), "w": (1, 7)},
        TOKENS,
    ),
    Case(
        "addmm",
        lambda: dense(lambda m, x: torch.addmm(m.c, x, m.w), into=7, w=torch.randn(8, 7), c=torch.zeros(7)),
        {"a": (1, 8), "w": (1, 7)},
        (4, 6),
    ),
    Case("baddbmm", lambda: dense(lambda m, x: torch.baddbmm(x, x @ x.mT, x)), A, TOKENS),
    Case("bilinear form", lambda: Net(lambda m, x: m.a(x) @ m.c(x).mT, **linears(a=8, c=8)), A, TOKENS),
    Case("linear attention", lambda: dense(lambda m, x: x @ (x.mT @ x)), A, TOKENS),
    Case(
        "outer product of channels",
        lambda: Net(
            lambda m, x: m.b((m.a(x).mT @ m.c(x)).flatten(1)), **linears(a=8, c=7), b=nn.Linear(56, 5)
        ),
        {},
        TOKENS,
        {"a": "contracted with something"},
    ),
    Case(
        "tied weights",
        lambda: Net(lambda m, x: F.linear(m.a(x).relu(), m.a.weight.t()), a=nn.Linear(6, 8)),
        A,
        TOKENS,
    ),
    Case(
        "token mixing",
        lambda: Net(lambda m, x: m.b(m.a(x.mT).relu()).mT, a=nn.Linear(4, 9), b=nn.Linear(9, 4)),
        {"a": (1, 9)},
        TOKENS,
    ),
    Case(
        "a product with the input", lambda: Net(lambda m, x: m.a(x) @ x.mT @ x, a=nn.Linear(6, 6)), {}, TOKENS
    ),
    Case(
        "matrix times vector",
        lambda: Net(lambda m, x: m.a(x) @ m.w, a=nn.Linear(6, 8), w=torch.randn(8)),
        {"a": (1, 8)},
        (4, 6),
    ),
    Case(
        "three heads",
        lambda: Net(attend, **linears(q=12, k=12, v=9), o=nn.Linear(9, 6), n=3),
        {"q": (1, 3)},
        TOKENS,
    ),
    Case(
        "packed heads",
        lambda: Net(packed, qkv=nn.Linear(6, 36), o=nn.Linear(12, 6), n=3),
        {"qkv": (1, 3)},
        TOKENS,
    ),
    Case(
        "grouped queries",
        lambda: Net(grouped_query, **linears(q=16, k=8, v=8), o=nn.Linear(16, 6), n=4, g=2),
        {"q": (1, 2)},
        (3, 5, 6),
    ),
    Case(
        "one learned query",
        lambda: Net(
            lambda m, x: m.o((m.s @ m.a(x).mT).softmax(-1) @ m.c(x)),
            **linears(a=8, c=7),
            s=torch.randn(1, 8),
            o=nn.Linear(7, 6),
        ),
        {"a": (1, 8), "c": (1, 7)},
        TOKENS,
    ),
]


@pytest.mark.parametrize("case", PRODUCTS, ids=lambda c: c.name)
def test_products_are_exact(case: Case) -> None:
    holds(case)


CONVOLUTIONS = [
    Case("plain", lambda: pair(lambda m, x: m.c(x), into=7, c=conv(8, 7, 3)), {"a": (1, 8), "c": (1, 7)}),
    Case(
        "strided and padded",
        lambda: pair(lambda m, x: m.c(x), into=7, c=conv(8, 7, 3, stride=2, padding=1)),
        {"a": (1, 8), "c": (1, 7)},
    ),
    Case(
        "padded to the same size",
        lambda: pair(lambda m, x: m.c(x), into=7, c=conv(8, 7, 3, padding="same")),
        {"a": (1, 8), "c": (1, 7)},
    ),
    Case(
        "padded by reflection",
        lambda: pair(lambda m, x: m.c(x), into=7, c=conv(8, 7, 3, padding=1, padding_mode="reflect")),
        {"a": (1, 8), "c": (1, 7)},
    ),
    Case(
        "padded in a circle",
        lambda: pair(lambda m, x: m.c(x), into=7, c=conv(8, 7, 3, padding=1, padding_mode="circular")),
        {"a": (1, 8), "c": (1, 7)},
    ),
    Case(
        "dilated",
        lambda: pair(lambda m, x: m.c(x), into=7, c=conv(8, 7, 2, dilation=2)),
        {"a": (1, 8), "c": (1, 7)},
    ),
    Case(
        "without bias",
        lambda: pair(lambda m, x: m.c(x), into=7, c=conv(8, 7, 3, bias=False)),
        {"a": (1, 8), "c": (1, 7)},
    ),
    Case("depthwise", lambda: pair(lambda m, x: m.c(x), c=conv(8, 8, 3, groups=8)), A),
    Case(
        "depthwise with a multiplier",
        lambda: pair(lambda m, x: m.c(x), into=16, c=conv(8, 16, 3, groups=8)),
        A,
    ),
    Case(
        "grouped",
        lambda: pair(lambda m, x: m.c(x), into=6, c=conv(8, 6, 3, groups=2)),
        {"a": (2, 4), "c": (2, 3)},
    ),
    Case(
        "grouped, one output a group",
        lambda: pair(lambda m, x: m.c(x), into=2, c=conv(8, 2, 3, groups=2)),
        {"a": (2, 4)},
    ),
    Case(
        "grouped twice",
        lambda: pair(lambda m, x: m.d(m.c(x)), into=4, c=conv(8, 12, 3, groups=2), d=conv(12, 4, groups=4)),
        {"a": (2, 4), "c": (4, 3)},
    ),
    Case(
        "grouped with a residual",
        lambda: pair(lambda m, x: x + m.c(x), c=conv(8, 8, 3, groups=2, padding=1)),
        {"a": (2, 4)},
    ),
    Case(
        "transposed",
        lambda: pair(lambda m, x: m.c(x), into=7, c=nn.ConvTranspose2d(8, 7, 2, stride=2)),
        {"a": (1, 8), "c": (1, 7)},
    ),
    Case(
        "transposed depthwise", lambda: pair(lambda m, x: m.c(x), c=nn.ConvTranspose2d(8, 8, 2, groups=8)), A
    ),
    Case(
        "transposed grouped",
        lambda: pair(lambda m, x: m.c(x), into=6, c=nn.ConvTranspose2d(8, 6, 2, groups=2)),
        {"a": (2, 4), "c": (2, 3)},
    ),
    Case(
        "transposed grouped, shuffled",
        lambda: pair(
            lambda m, x: F.channel_shuffle(m.c(x), 2), into=6, c=nn.ConvTranspose2d(8, 6, 2, groups=2)
        ),
        {"a": (2, 4), "c": (1, 6)},
    ),
    Case(
        "grouped, shuffled, grouped",
        lambda: pair(
            lambda m, x: m.d(F.channel_shuffle(m.c(x), 2)),
            into=6,
            c=conv(8, 8, groups=2),
            d=conv(8, 6, groups=2),
        ),
        {"a": (2, 4), "c": (1, 8), "d": (2, 3)},
    ),
    Case(
        "one channel",
        lambda: pair(lambda m, x: m.d(m.c(x)), c=conv(8, 1), d=conv(1, 8)),
        {"a": (1, 8), "d": (1, 8)},
    ),
    Case(
        "weight normalised",
        lambda: pair(lambda m, x: m.c(x), into=7, c=nn.utils.parametrizations.weight_norm(conv(8, 7, 3))),
        {"a": (1, 8), "c.parametrizations.weight.original1": (1, 7)},
    ),
    Case(
        "a weight that is scaled",
        lambda: pair(
            lambda m, x: F.conv2d(x, m.w * m.g), into=7, w=torch.randn(7, 8, 1, 1), g=torch.ones(7, 1, 1, 1)
        ),
        {"a": (1, 8), "w": (1, 7)},
    ),
    Case(
        "a standardised weight",
        lambda: pair(
            lambda m, x: F.conv2d(x, _standardise(m.w), m.c),
            into=7,
            w=torch.randn(7, 8, 3, 3),
            c=torch.zeros(7),
        ),
        {"a": (1, 8), "w": (1, 7)},
    ),
    Case(
        "a generated weight",
        lambda: pair(lambda m, x: F.conv2d(x, m.w.softmax(0)), into=7, w=torch.randn(7, 8, 1, 1)),
        A,
    ),
]


def _standardise(w):
    flat = F.batch_norm(w.reshape(1, w.shape[0], -1), None, None, training=True, momentum=0.0)
    return flat.reshape(w.shape)


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=lambda c: c.name)
def test_convolutions_are_exact(case: Case) -> None:
    holds(case)


@pytest.mark.parametrize("rank", [1, 3])
def test_convolutions_of_other_ranks_are_exact(rank: int) -> None:
    kind = {1: nn.Conv1d, 3: nn.Conv3d}[rank]
    back = {1: nn.ConvTranspose1d, 3: nn.ConvTranspose3d}[rank]
    norm = {1: nn.BatchNorm1d, 3: nn.BatchNorm3d}[rank]
    build = lambda: nn.Sequential(  # noqa: E731
        kind(3, 8, 3),
        norm(8),
        nn.ReLU(),
        kind(8, 8, 3, groups=8, padding=1),
        kind(8, 6, 2),
        back(6, 4, 2),
        kind(4, 2, 1),
    )
    holds(Case("", build, {"0": (1, 8), "4": (1, 6), "5": (1, 4)}, (2, 3, *[6] * rank)))


def test_a_pointwise_convolution_over_tokens_passes_its_positions() -> None:
    build = lambda: Net(  # noqa: E731 - (B, N, D): the convolution's channels are the tokens
        lambda m, x: m.b(m.c(m.a(x)).relu()), a=nn.Linear(6, 8), c=nn.Conv1d(4, 9, 1), b=nn.Linear(8, 5)
    )
    holds(Case("", build, A, (2, 4, 6), frozen={"c": "output"}))


POOLS = {
    "max": lambda x: F.max_pool2d(x, 2),
    "average": lambda x: F.avg_pool2d(x, 3, stride=1, padding=1),
    "adaptive average": lambda x: F.adaptive_avg_pool2d(x, 4),
    "adaptive average to one": lambda x: F.adaptive_avg_pool2d(x, 1),
    "adaptive max": lambda x: F.adaptive_max_pool2d(x, 4),
    "lp": lambda x: F.lp_pool2d(x, 2, 2),
    "nearest": lambda x: F.interpolate(x, scale_factor=2),
    "nearest exact": lambda x: F.interpolate(x, scale_factor=2, mode="nearest-exact"),
    "bilinear": lambda x: F.interpolate(x, size=(9, 7), mode="bilinear"),
    "bicubic": lambda x: F.interpolate(x, scale_factor=2, mode="bicubic"),
    "antialiased": lambda x: F.interpolate(x, size=(4, 4), mode="bilinear", antialias=True),
    "area": lambda x: F.interpolate(x, size=(4, 4), mode="area"),
    "grid": lambda x: F.grid_sample(
        x,
        F.affine_grid(
            torch.eye(2, 3, dtype=x.dtype, device=x.device)[None].expand(2, -1, -1), [2, 1, 4, 4], False
        ),
        align_corners=False,
    ),
    "1d": lambda x: F.max_pool1d(x.flatten(2), 2).unsqueeze(-1),
    "1d average": lambda x: F.avg_pool1d(x.flatten(2), 2).unsqueeze(-1),
    "1d linear": lambda x: F.interpolate(x.flatten(2), size=9, mode="linear").unsqueeze(-1),
    "3d": lambda x: F.max_pool3d(x.unsqueeze(2), (1, 2, 2)).squeeze(2),
    "3d average": lambda x: F.avg_pool3d(x.unsqueeze(2), (1, 2, 2)).squeeze(2),
    "3d trilinear": lambda x: F.interpolate(x.unsqueeze(2), size=(1, 3, 3), mode="trilinear").squeeze(2),
}


@pytest.mark.parametrize("name", list(POOLS))
def test_pooling_lets_the_channels_pass(name: str) -> None:
    holds(Case(name, lambda: pair(lambda m, x: POOLS[name](x)), A))
