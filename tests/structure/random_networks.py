"""A seeded generator of small random networks: the parts that real ones are made of, in any order."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from tests.structure.nets import Net
from torch import Tensor, nn
from torch.nn import functional as F

Part = Callable[[random.Random, int], tuple[nn.Module, int]]


def _conv(rng: random.Random, c: int) -> tuple[nn.Module, int]:
    o, k = rng.choice([8, 12, 16]), rng.choice([1, 3])
    return nn.Sequential(
        nn.Conv2d(c, o, k, padding=k // 2, bias=rng.random() < 0.5), nn.BatchNorm2d(o), nn.ReLU()
    ), o


def _residual(rng: random.Random, c: int) -> tuple[nn.Module, int]:
    h = rng.choice([6, 8, 12])
    a, b = nn.Conv2d(c, h, 3, padding=1), nn.Conv2d(h, c, 3, padding=1)
    return Net(lambda m, x: (x + m.b(m.n(m.a(x)).relu())).relu(), a=a, n=nn.BatchNorm2d(h), b=b), c


def _dense(rng: random.Random, c: int) -> tuple[nn.Module, int]:
    grow = rng.choice([4, 8])
    return Net(lambda m, x: torch.cat([x, m.a(x).relu()], 1), a=nn.Conv2d(c, grow, 3, padding=1)), c + grow


def _halves(rng: random.Random, c: int) -> tuple[nn.Module, int]:
    def forward(m: Net, x: Tensor) -> Tensor:
        first, second = x.chunk(2, 1)
        return torch.cat([first, m.a(second)], 1)

    return Net(forward, a=nn.Conv2d(c // 2, c // 2, 1)), c


def _shuffle(rng: random.Random, c: int) -> tuple[nn.Module, int]:
    def forward(m: Net, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        return x.view(b, 2, -1, h, w).transpose(1, 2).reshape(b, -1, h, w)

    return Net(forward), c


def _grouped(rng: random.Random, c: int) -> tuple[nn.Module, int]:
    o = rng.choice([8, 16])
    return nn.Sequential(nn.Conv2d(c, o, 3, padding=1, groups=2), nn.GELU()), o


def _depthwise(rng: random.Random, c: int) -> tuple[nn.Module, int]:
    times = rng.choice([1, 1, 2])
    return nn.Sequential(
        nn.Conv2d(c, c * times, 3, padding=1, groups=c), nn.BatchNorm2d(c * times)
    ), c * times


def _gate(rng: random.Random, c: int) -> tuple[nn.Module, int]:
    h = rng.choice([3, 5])
    parts = {"a": nn.Conv2d(c, h, 1), "b": nn.Conv2d(h, c, 1)}
    return Net(lambda m, x: x * m.b(m.a(x.mean((2, 3), keepdim=True)).relu()).sigmoid(), **parts), c


def _attention(rng: random.Random, c: int) -> tuple[nn.Module, int]:
    heads = 3  # no other size is 3: an attribute of an ambiguous size cannot be rewritten
    inner = heads * rng.choice([2, 4])

    def forward(m: Net, x: Tensor) -> Tensor:
        tokens = m.n(x.flatten(2).transpose(1, 2))
        q, k, v = (f(tokens).unflatten(-1, (m.heads, -1)).transpose(1, 2) for f in (m.q, m.k, m.v))
        mixed = F.scaled_dot_product_attention(q, k, v, scale=0.7).transpose(1, 2).flatten(2)
        return x + m.o(mixed).transpose(1, 2).unflatten(-1, x.shape[2:])

    linears = {name: nn.Linear(c, inner) for name in "qkv"}
    return Net(forward, n=nn.LayerNorm(c), o=nn.Linear(inner, c), heads=heads, **linears), c


def _mlp(rng: random.Random, c: int) -> tuple[nn.Module, int]:
    h = rng.choice([10, 14])

    def forward(m: Net, x: Tensor) -> Tensor:
        return x + m.b(F.gelu(m.a(m.n(x.permute(0, 2, 3, 1))))).permute(0, 3, 1, 2) * m.s

    return Net(
        forward, n=nn.LayerNorm(c), a=nn.Linear(c, h), b=nn.Linear(h, c), s=torch.full((c, 1, 1), 1e-6)
    ), c


def _group_norm(rng: random.Random, c: int) -> tuple[nn.Module, int]:
    return nn.GroupNorm(rng.choice([1, 2]), c), c


def _twice(rng: random.Random, c: int) -> tuple[nn.Module, int]:
    return Net(lambda m, x: m.a(m.a(x).relu()), a=nn.Conv2d(c, c, 1)), c


def _glu(rng: random.Random, c: int) -> tuple[nn.Module, int]:
    o = rng.choice([8, 12])
    return nn.Sequential(nn.Conv2d(c, 2 * o, 1), nn.GLU(1)), o


def _down(rng: random.Random, c: int) -> tuple[nn.Module, int]:
    return rng.choice([nn.MaxPool2d(2, ceil_mode=True), nn.AvgPool2d(3, 1, 1)]), c


def _up(rng: random.Random, c: int) -> tuple[nn.Module, int]:
    o = rng.choice([4, 8])
    return Net(lambda m, x: F.avg_pool2d(m.a(x), 2), a=nn.ConvTranspose2d(c, o, 2, 2)), o


def _depth_to_space(rng: random.Random, c: int) -> tuple[nn.Module, int]:
    if c % 4:
        return nn.Identity(), c
    return Net(lambda m, x: m.a(F.pixel_shuffle(x, 2)), a=nn.Conv2d(c // 4, 8, 2, stride=2)), 8


def _branches(rng: random.Random, c: int) -> tuple[nn.Module, int]:
    parts = {"a": nn.Conv2d(c, 8, 1), "b": nn.Conv2d(c, 8, 3, padding=1), "p": nn.Parameter(torch.ones(2))}
    return Net(lambda m, x: m.p[0] * m.a(x) + m.p[1] * m.b(x).tanh(), **parts), 8


PARTS: list[Part] = [
    _conv, _residual, _dense, _halves, _shuffle, _grouped, _depthwise, _gate, _attention, _mlp,
    _group_norm, _twice,
    _glu, _down, _up, _depth_to_space, _branches,
]  # fmt: skip


class RandomNetwork(nn.Module):
    """A stem, some parts and a head of either kind.

    Args:
        seed: Which network.
        depth: Number of parts.
    """

    def __init__(self, seed: int, depth: int = 5) -> None:
        super().__init__()
        rng = random.Random(seed)
        torch.manual_seed(seed)
        c = 8
        self.stem = nn.Conv2d(3, c, 3, padding=1)
        self.parts = nn.ModuleList()
        self.made = []
        for _ in range(rng.randint(2, depth)):
            part = rng.choice(PARTS)
            module, c = part(rng, c)
            self.parts.append(module)
            self.made.append(part.__name__)
            if c > 24:
                module, c = _conv(rng, c)
                self.parts.append(module)
        self.flat = rng.random() < 0.3
        self.head = nn.Linear(c * 4 if self.flat else c, 5)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, 3, H, W) to (B, 5)."""
        x = self.stem(x)
        for part in self.parts:
            x = part(x)
        x = F.adaptive_avg_pool2d(x, 2).flatten(1) if self.flat else x.mean((2, 3))
        return self.head(x)
