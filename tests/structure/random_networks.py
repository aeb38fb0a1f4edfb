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


def _windows(rng: random.Random, c: int) -> tuple[nn.Module, int]:
    """Padded, rotated, cut into windows of four and put together again."""

    def forward(m: Net, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        y = F.pad(x, (0, w % 2, 0, h % 2))
        rows, columns = y.shape[2] // 2, y.shape[3] // 2
        y = torch.roll(y, (1, -1), (2, 3)).view(b, -1, rows, 2, columns, 2)
        y = m.a(m.n(y.permute(0, 2, 4, 3, 5, 1).flatten(3, 4))).unflatten(3, (2, 2))
        y = y.permute(0, 5, 1, 3, 2, 4).reshape(b, -1, 2 * rows, 2 * columns)
        return x + y[:, :, :h, :w]

    return Net(forward, n=nn.LayerNorm(c), a=nn.Linear(c, c)), c


def _fused(rng: random.Random, c: int) -> tuple[nn.Module, int]:
    """Queries, keys and values of one product, a temperature and a bias for every head."""
    heads = 3
    inner = heads * rng.choice([2, 4])

    def forward(m: Net, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        q, k, v = m.qkv(tokens).unflatten(-1, (3, m.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        scores = (q * m.t) @ k.transpose(-2, -1) + m.bias
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        return x + m.o(mixed).transpose(1, 2).unflatten(-1, x.shape[2:])

    tables = {"t": torch.rand(heads, 1, 1), "bias": torch.rand(heads, 1, 1)}
    return Net(forward, qkv=nn.Linear(c, 3 * inner), o=nn.Linear(inner, c), heads=heads, **tables), c


def _linear_attention(rng: random.Random, c: int) -> tuple[nn.Module, int]:
    heads = 3

    def forward(m: Net, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        q, k, v = (f(tokens).unflatten(-1, (m.heads, -1)).transpose(1, 2) for f in (m.q, m.k, m.v))
        mixed = q.relu() @ (k.relu().transpose(-2, -1) @ v)
        return x + m.o(mixed.transpose(1, 2).flatten(2)).transpose(1, 2).unflatten(-1, x.shape[2:])

    linears = {name: nn.Linear(c, heads * 2) for name in "qkv"}
    return Net(forward, o=nn.Linear(heads * 2, c), heads=heads, **linears), c


def _root_mean_square(rng: random.Random, c: int) -> tuple[nn.Module, int]:
    def forward(m: Net, x: Tensor) -> Tensor:
        return x * (x.pow(2).mean(1, keepdim=True) + 1e-3).rsqrt() * m.s

    return Net(forward, s=torch.rand(c, 1, 1) + 0.5), c


def _unit(rng: random.Random, c: int) -> tuple[nn.Module, int]:
    return Net(lambda m, x: F.normalize(x, dim=1) * m.s, s=torch.rand(c, 1, 1) + 0.5), c


def _selective(rng: random.Random, c: int) -> tuple[nn.Module, int]:
    """Two kernels, weighed against each other by a softmax (Li et al., selective kernels, 2019)."""

    def forward(m: Net, x: Tensor) -> Tensor:
        parts = torch.stack([m.a(x), m.b(x)], 1)
        z = m.z(parts.sum(1).mean((2, 3), keepdim=True)).relu()
        return (parts * torch.stack([m.p(z), m.q(z)], 1).softmax(1)).sum(1)

    o, h = rng.choice([8, 12]), rng.choice([5, 7])
    ends = {"p": nn.Conv2d(h, o, 1), "q": nn.Conv2d(h, o, 1), "z": nn.Conv2d(o, h, 1)}
    return Net(forward, a=nn.Conv2d(c, o, 1), b=nn.Conv2d(c, o, 3, padding=1), **ends), o


def _alternating(rng: random.Random, c: int) -> tuple[nn.Module, int]:
    o = rng.choice([8, 12])
    return Net(lambda m, x: (y := m.a(x))[:, ::2] * y[:, 1::2].sigmoid(), a=nn.Conv2d(c, 2 * o, 1)), o


def _padded(rng: random.Random, c: int) -> tuple[nn.Module, int]:
    def forward(m: Net, x: Tensor) -> Tensor:
        return m.a(x) + F.pad(x, (0, 0, 0, 0, 0, 4))

    return Net(forward, a=nn.Conv2d(c, c + 4, 1)), c + 4


def _columns(rng: random.Random, c: int) -> tuple[nn.Module, int]:
    def forward(m: Net, x: Tensor) -> Tensor:
        return m.a(F.unfold(x, 3, padding=1).transpose(1, 2)).transpose(1, 2).unflatten(2, x.shape[2:])

    return Net(forward, a=nn.Linear(9 * c, 8)), 8


def _space_to_depth(rng: random.Random, c: int) -> tuple[nn.Module, int]:
    def forward(m: Net, x: Tensor) -> Tensor:
        return m.a(F.pixel_unshuffle(F.adaptive_avg_pool2d(x, 4), 2))

    return Net(forward, a=nn.Conv2d(4 * c, 12, 1)), 12


def _recurrence(rng: random.Random, c: int) -> tuple[nn.Module, int]:
    kind = rng.choice([nn.GRU, nn.LSTM, nn.RNN])
    h = rng.choice([5, 7])

    def forward(m: Net, x: Tensor) -> Tensor:
        steps = x.mean(2).transpose(1, 2)
        steps = torch.cat([steps, steps], 1) if steps.shape[1] == 1 else steps  # one step meets no state
        return x + m.o(m.r(steps)[0])[:, : x.shape[3]].transpose(1, 2).unsqueeze(2)

    return Net(forward, r=kind(c, h, batch_first=True), o=nn.Linear(h, c)), c


def _standardised(rng: random.Random, c: int) -> tuple[nn.Module, int]:
    def forward(m: Net, x: Tensor) -> Tensor:
        w = m.a.weight
        w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.var((1, 2, 3), keepdim=True) + 1e-3).sqrt()
        return F.conv2d(x, w, m.a.bias).relu()

    return Net(forward, a=nn.Conv2d(c, 8, 1)), 8


def _looks_around(rng: random.Random, c: int) -> tuple[nn.Module, int]:
    return Net(lambda m, x: x * m.a(x.mean(1, keepdim=True)).sigmoid(), a=nn.Conv2d(1, 1, 3, padding=1)), c


def _mixer(rng: random.Random, c: int) -> tuple[nn.Module, int]:
    """Two layers over the tokens."""

    def forward(m: Net, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(x, 4)
        return x + m.b(m.a(x.flatten(2)).relu()).unflatten(2, x.shape[2:])

    return Net(forward, a=nn.Linear(16, 11), b=nn.Linear(11, 16)), c


def _inception(rng: random.Random, c: int) -> tuple[nn.Module, int]:
    def forward(m: Net, x: Tensor) -> Tensor:
        return torch.cat([m.a(x), m.b(x).tanh(), m.p(F.max_pool2d(x, 3, 1, 1))], 1)

    parts = {"a": nn.Conv2d(c, 6, 1), "b": nn.Conv2d(c, 4, 3, padding=1), "p": nn.Conv2d(c, 2, 1)}
    return Net(forward, **parts), 12


def _instance_norm(rng: random.Random, c: int) -> tuple[nn.Module, int]:
    return nn.InstanceNorm2d(c, affine=True), c


def _rectifiers(rng: random.Random, c: int) -> tuple[nn.Module, int]:
    def forward(m: Net, x: Tensor) -> Tensor:
        return torch.where(x > 0, m.p(x), torch.addcmul(x, x, m.s)).clamp(-3, 3)

    return Net(forward, p=nn.PReLU(c), s=torch.rand(c, 1, 1)), c


def _mirrored(rng: random.Random, c: int) -> tuple[nn.Module, int]:
    def forward(m: Net, x: Tensor) -> Tensor:
        return m.a(F.pad(x, (1, 1, 1, 1), "reflect")) + m.b(x).flip(3)

    return Net(forward, a=nn.Conv2d(c, 8, 3), b=nn.Conv2d(c, 8, 1)), 8


def _token(rng: random.Random, c: int) -> tuple[nn.Module, int]:
    """A class token that goes with the pixels through a layer."""

    def forward(m: Net, x: Tensor) -> Tensor:
        tokens = torch.cat([m.token.expand(len(x), -1, -1), x.flatten(2).transpose(1, 2)], 1)
        tokens = m.a(m.n(tokens)).relu()
        first, rest = tokens[:, :1], tokens[:, 1:]
        return (rest + first).transpose(1, 2).unflatten(2, x.shape[2:])

    return Net(forward, token=torch.rand(1, 1, c), n=nn.LayerNorm(c), a=nn.Linear(c, 12)), 12


def _grouped_up(rng: random.Random, c: int) -> tuple[nn.Module, int]:
    return Net(lambda m, x: F.avg_pool2d(m.a(x), 2), a=nn.ConvTranspose2d(c, 8, 2, 2, groups=2)), 8


def _enlarged(rng: random.Random, c: int) -> tuple[nn.Module, int]:
    def forward(m: Net, x: Tensor) -> Tensor:
        small = F.avg_pool2d(m.a(x), 2, ceil_mode=True)
        return x + F.interpolate(small, x.shape[2:], mode="bilinear")

    return Net(forward, a=nn.Conv2d(c, c, 1)), c


def _highway(rng: random.Random, c: int) -> tuple[nn.Module, int]:
    def forward(m: Net, x: Tensor) -> Tensor:
        t = m.t(x).sigmoid()
        return t * m.a(x).tanh() + (1 - t) * x

    return Net(forward, t=nn.Conv2d(c, c, 1), a=nn.Conv2d(c, c, 1)), c


def _low_rank(rng: random.Random, c: int) -> tuple[nn.Module, int]:
    """A weight that is the sum of a full one and a product of two."""

    def forward(m: Net, x: Tensor) -> Tensor:
        return F.linear(x.movedim(1, -1), m.w + m.u @ m.d).movedim(-1, 1)

    return Net(forward, w=torch.randn(8, c) / 3, u=torch.randn(8, 3) / 3, d=torch.randn(3, c) / 3), 8


PARTS: list[Part] = [
    _conv, _residual, _dense, _halves, _shuffle, _grouped, _depthwise, _gate, _attention, _mlp,
    _group_norm, _twice,
    _glu, _down, _up, _depth_to_space, _branches,
    _windows, _fused, _linear_attention, _root_mean_square, _unit, _selective, _alternating, _padded,
    _columns, _space_to_depth, _recurrence, _standardised, _looks_around, _mixer, _inception,
    _instance_norm, _rectifiers, _mirrored, _token, _grouped_up, _enlarged, _highway, _low_rank,
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
