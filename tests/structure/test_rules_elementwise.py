"""Element-wise operators tie what meets."""

from __future__ import annotations

import pytest
import torch
from tests.structure.nets import Case, Net, conv, dense, exact, holds, pair
from torch import nn
from torch.nn import functional as F

from netwright.structure import trace
from netwright.testing.surgery import randomise

A = {"a": (1, 8)}

UNARY = {
    name: getattr(torch, name)
    for name in (
        "relu sigmoid tanh selu celu exp expm1 sin cos tan atan sinh cosh asinh erf erfc abs neg sign square"
        " floor ceil round trunc frac clone digamma lgamma positive nan_to_num sgn"
    ).split()
}
POSITIVE = {
    name: getattr(torch, name) for name in "log log1p log2 log10 sqrt rsqrt reciprocal".split()
}  # of values that are kept above zero
INSIDE = {
    name: getattr(torch, name) for name in "asin acos atanh erfinv logit".split()
}  # of values in (0, 1)
FUNCTIONAL = {
    name: getattr(F, name)
    for name in (
        "relu6 gelu silu hardswish hardsigmoid hardtanh elu mish softplus leaky_relu logsigmoid hardshrink"
        " softshrink tanhshrink softsign dropout alpha_dropout feature_alpha_dropout dropout2d rrelu"
    ).split()
}


@pytest.mark.parametrize("name", [*UNARY, *FUNCTIONAL])
def test_a_function_of_one_value_keeps_the_units(name: str) -> None:
    function = UNARY.get(name) or FUNCTIONAL[name]
    options = {"training": False} if "dropout" in name else {}
    holds(Case(name, lambda: pair(lambda m, x: x + function(3 * x, **options)), A))


@pytest.mark.parametrize("name", [*POSITIVE, *INSIDE])
def test_a_function_of_a_positive_value_keeps_the_units(name: str) -> None:
    function = POSITIVE.get(name) or INSIDE[name]
    holds(Case(name, lambda: pair(lambda m, x: function(x.sigmoid() * 0.8 + 0.1)), A))


SCALARS = {
    "add": lambda x: x + 2,
    "sub": lambda x: x - 2,
    "rsub": lambda x: 2 - x,
    "mul": lambda x: 2 * x,
    "div": lambda x: x / 3,
    "rdiv": lambda x: 3 / (x * x + 1),
    "pow": lambda x: x**2,
    "rpow": lambda x: 2**x,
    "floor_divide": lambda x: x // 0.3,
    "remainder": lambda x: x % 0.3,
    "clamp": lambda x: x.clamp(-0.2, 0.3),
    "clamp_min": lambda x: x.clamp_min(0.1),
    "clamp_max": lambda x: x.clamp_max(0.1),
    "masked_fill": lambda x: x.masked_fill(x > 0.2, 0.7),
    "where": lambda x: torch.where(x > 0, x, 0.1 * x),
    "where with zeros": lambda x: torch.where(x > 0, x, torch.zeros_like(x)),
    "full": lambda x: x + torch.full(x.shape, 0.5, dtype=x.dtype, device=x.device),
    "ones_like": lambda x: x + torch.ones_like(x),
    "comparison": lambda x: x * (x >= -0.1),
    "logical": lambda x: x * ((x > 0.1) & ~(x > 0.5) | (x < -0.2)),
    "heaviside": lambda x: x * x.gt(0).to(x.dtype),
    "to": lambda x: x.to(torch.float64).to(x.dtype),
    "threshold": lambda x: F.threshold(x, 0.1, 0.3),
    "in place": lambda x: (x + 0).relu_().add_(1).mul_(2).clamp_(max=2.5),
    "fill of zeros": lambda x: x + torch.zeros_like(x).fill_(0.3),
    "into zeros": lambda x: torch.zeros_like(x).add_(x),
    "float_power": lambda x: x.float_power(2).to(x.dtype),
}


@pytest.mark.parametrize("name", list(SCALARS))
def test_a_scalar_ties_nothing(name: str) -> None:
    holds(Case(name, lambda: pair(lambda m, x: SCALARS[name](x)), A))


BINARY = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": lambda a, b: a / (b * b + 1),
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "max": torch.max,
    "min": torch.min,
    "fmax": torch.fmax,
    "fmin": torch.fmin,
    "atan2": torch.atan2,
    "hypot": torch.hypot,
    "copysign": torch.copysign,
    "logaddexp": torch.logaddexp,
    "xlogy": lambda a, b: torch.xlogy(a, b * b + 1),
    "fmod": lambda a, b: torch.fmod(a, b * b + 1),
    "pow": lambda a, b: (a * a + 1) ** b,
    "lerp": lambda a, b: torch.lerp(a, b, 0.3),
    "addcmul": lambda a, b: torch.addcmul(a, a, b, value=0.5),
    "addcdiv": lambda a, b: torch.addcdiv(a, a, b * b + 1),
    "where": lambda a, b: torch.where(a > b, a, b),
    "eq": lambda a, b: a * (a != b),
    "in place": lambda a, b: (a + 0).add_(b),
    "copy": lambda a, b: a + torch.empty_like(b).copy_(b),
    "gate": lambda a, b: a * b.sigmoid(),
    "channel gate": lambda a, b: a * b.mean((2, 3), keepdim=True).sigmoid(),
    "sum of a list": lambda a, b: sum([a, b, a]),
    "broadcast over positions": lambda a, b: a + b[:, :, :1, :1],
}


@pytest.mark.parametrize("name", list(BINARY))
def test_two_values_that_meet_are_tied(name: str) -> None:
    build = lambda: Net(  # noqa: E731
        lambda m, x: m.b(BINARY[name](m.a(x), m.c(x))), a=conv(3, 8), c=conv(3, 8), b=conv(8, 5)
    )
    holds(Case(name, build, A))


OTHERS = [
    Case("a parameter per channel", lambda: pair(lambda m, x: x * m.s, s=torch.ones(8, 1, 1)), A),
    Case("a parameter per position", lambda: pair(lambda m, x: x + m.s, s=torch.ones(6, 6)), A),
    Case("a parameter of everything", lambda: pair(lambda m, x: x + m.s, s=torch.ones(1, 8, 6, 6)), A),
    Case("a position embedding", lambda: dense(lambda m, x: x + m.p, p=torch.zeros(1, 4, 8)), A, (2, 4, 6)),
    Case(
        "a class token",
        lambda: dense(lambda m, x: torch.cat([m.t.expand(x.shape[0], -1, -1), x], 1), t=torch.zeros(1, 1, 8)),
        A,
        (2, 4, 6),
    ),
    Case("prelu of one slope", lambda: pair(lambda m, x: m.p(x), p=nn.PReLU()), A),
    Case("prelu of a slope a channel", lambda: pair(lambda m, x: m.p(x), p=nn.PReLU(8)), A),
    Case("glu", lambda: pair(lambda m, x: F.glu(x, 1), into=4), {"a": (1, 4)}),
    Case("glu of features", lambda: dense(lambda m, x: F.glu(x), into=4), {"a": (1, 4)}, (2, 4, 6)),
    Case(
        "geglu by chunk",
        lambda: dense(lambda m, x: (lambda p, q: p * F.gelu(q))(*x.chunk(2, -1)), into=4),
        {"a": (1, 4)},
        (2, 4, 6),
    ),
    Case("a mean over channels", lambda: pair(lambda m, x: x - x.mean(1, keepdim=True)), A),
    Case("maxout", lambda: pair(lambda m, x: torch.stack(x.chunk(2, 1)).amax(0), into=4), {"a": (1, 4)}),
    Case("crelu", lambda: pair(lambda m, x: torch.cat([x, -x], 1).relu(), into=16), A),
    Case(
        "noise of the same size",
        lambda: pair(lambda m, x: x + 0 * torch.rand_like(x)),
        frozen={"a": "no units there"},
    ),
    Case(
        "the input of the same size",
        lambda: Net(lambda m, x: m.b(m.a(x) + x), a=conv(3, 3), b=conv(3, 5)),
        frozen={"a": "no units there"},
    ),
    Case(
        "a constant of the same size",
        lambda: pair(lambda m, x: x * torch.arange(x.shape[1], device=x.device).view(1, -1, 1, 1)),
        frozen={"a": "no units there"},
    ),
    Case("into a part of zeros", lambda: pair(lambda m, x: _into(x, 1)), A),
    Case(
        "a mask that is written in part",
        lambda: pair(lambda m, x: x * _half(x)),
        frozen={"a": "no units there"},
    ),
    Case("row by row", lambda: pair(lambda m, x: _rows(x)), A),
    Case("an accumulator", lambda: pair(lambda m, x: _accumulate(x) + m.c(x), c=conv(8, 8)), A),
    Case(
        "an accumulator of noise",
        lambda: pair(lambda m, x: torch.zeros_like(x).add_(0 * torch.rand_like(x)) + x),
        frozen={"a": "no units there"},
    ),
]


def _into(x, edge):
    y = x.new_zeros(x.shape[0], x.shape[1], x.shape[2] + 2 * edge, x.shape[3])
    y[:, :, edge:-edge] = x
    return y


def _half(x):
    y = torch.zeros(x.shape[1], device=x.device, dtype=x.dtype)
    y[: x.shape[1] // 2] = 1
    return y.view(1, -1, 1, 1)


def _rows(x):
    y = torch.empty_like(x)
    for i in range(x.shape[2]):
        y[:, :, i] = 2 * x[:, :, i]
    return y


def _accumulate(x):
    total = torch.zeros_like(x)
    for k in range(3):
        total += k * x
    return total


@pytest.mark.parametrize("case", OTHERS, ids=lambda c: c.name)
def test_meeting_is_exact(case: Case) -> None:
    holds(case)


def test_a_product_of_channels_and_positions_keeps_both_apart() -> None:
    torch.manual_seed(0)
    model = randomise(
        Net(lambda m, x: m.b(m.a(x).transpose(1, 2)).transpose(1, 2), a=nn.Linear(6, 8), b=nn.Linear(4, 7))
    )
    net = trace(model, torch.rand(2, 4, 6))
    assert not net.prunable  # both ends are outputs
    model = randomise(
        Net(
            lambda m, x: m.c(m.b(m.a(x).transpose(1, 2)).relu().transpose(1, 2)).sum(1),
            a=nn.Linear(6, 8),
            b=nn.Linear(4, 7),
            c=nn.Linear(8, 3),
        )
    )
    net = trace(model, torch.rand(2, 4, 6))
    assert {a.name: tuple(a.cells.shape) for a in net.prunable} == {"a": (1, 8), "b": (1, 7)}
    exact(model, net)
