"""Networks whose Python code hard-wires sizes, one kind of operator each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from tests.structure.nets import Net, conv
from torch import Tensor, nn
from torch.nn import functional as F

Made = tuple[nn.Module, Any]


def images(batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, 6, 6)


def tokens(batch: int = 2) -> Tensor:
    return torch.randn(batch, 5, 6)


def attention() -> Made:
    def forward(m, x):
        b, n = x.shape[:2]
        q, k, v = m.qkv(x).reshape(b, n, 3, 4, 8).permute(2, 0, 3, 1, 4).unbind(0)
        out = F.scaled_dot_product_attention(q, k, v, dropout_p=0.1 if m.training else 0.0)
        return m.out(out.transpose(1, 2).reshape(b, n, 32))

    return Net(forward, qkv=nn.Linear(6, 96), out=nn.Linear(32, 5)), tokens()


def batched_heads() -> Made:
    """Heads that are merged with the batch."""

    def forward(m, x):
        b, n = x.shape[:2]
        q, k, v = (f(x).view(b, n, 4, 8).transpose(1, 2).reshape(b * 4, n, 8) for f in (m.q, m.k, m.v))
        scores = torch.bmm(q, k.transpose(1, 2)) * 8**-0.5
        out = torch.bmm(scores.softmax(-1), v).view(b, 4, n, 8)
        return m.out(out.transpose(1, 2).flatten(2))

    parts = {name: nn.Linear(6, 32) for name in "qkv"}
    return Net(forward, **parts, out=nn.Linear(32, 5)), tokens()


def slices() -> Made:
    def forward(m, x):
        y = m.a(x)
        return m.b(y[:, :5]) + m.c(y[:, 5:12]) + m.d(y.narrow(1, 12, 4))

    return Net(forward, a=conv(3, 16), b=conv(5, 5), c=conv(7, 5), d=conv(4, 5)), images()


def strided() -> Made:
    """What stays of every other channel is no range: refused."""
    return Net(lambda m, x: m.b(m.a(x)[:, 1::2].reshape(-1, 8, 6, 6)), a=conv(3, 16), b=conv(8, 5)), images()


def splits() -> Made:
    def forward(m, x):
        first, second = m.a(x).split([5, 11], 1)
        gate, value = m.b(second.relu()).chunk(2, dim=1)
        return m.c(first) + m.d(gate.sigmoid() * value)

    return Net(forward, a=conv(3, 16), b=conv(11, 12), c=conv(5, 5), d=conv(6, 5)), images()


def selected() -> Made:
    def forward(m, x):
        y = m.a(x)  # (B, 16, H, W)
        return m.b(y) * y[:, 7:8].sigmoid() + y.select(1, 3)[:, None]

    return Net(forward, a=conv(3, 16), b=conv(16, 5)), images()


def rotated() -> Made:
    return Net(lambda m, x: m.b(m.a(x).roll(5, 1).flip(1)), a=conv(3, 16), b=conv(16, 5)), images()


def constants() -> Made:
    """Zeros and ones of literal sizes, expanded and repeated ones."""

    def forward(m, x):
        b = x.shape[0]
        y = m.a(x).tile(1, 1) + torch.zeros(b, 16, 1, 1, dtype=x.dtype, device=x.device)
        y = torch.cat([y, x.new_ones(b, 4, 6, 6), y.mean(1, keepdim=True).expand(b, 3, 6, 6)], 1)
        z = m.c(x.mean((2, 3))) * m.scale.repeat(16).sigmoid()
        return m.b(y) + m.d(z)[:, :, None, None]

    model = Net(forward, a=conv(3, 16), b=conv(23, 5), c=nn.Linear(3, 16), d=nn.Linear(16, 5))
    model.scale = nn.Parameter(torch.randn(1))
    return model, images()


def functional() -> Made:
    """Norms and convolutions called as functions, with literal sizes, and the flags of training."""

    def forward(m, x):
        y = F.conv2d(m.a(x), m.depthwise, padding=1, groups=16)
        y = F.batch_norm(y, m.mean, m.var, training=m.training, momentum=0.2)
        y = F.layer_norm(y.permute(0, 2, 3, 1), (16,), m.gain, None)
        return m.b(F.dropout(y, 0.3, m.training).permute(0, 3, 1, 2))

    model = Net(forward, a=conv(3, 16), b=conv(16, 5))
    model.depthwise = nn.Parameter(torch.randn(16, 1, 3, 3))
    model.gain = nn.Parameter(torch.randn(16))
    model.register_buffer("mean", torch.zeros(16))
    model.register_buffer("var", torch.ones(16))
    return model, images()


def layers() -> Made:
    """Standard layers around a literal view."""

    def forward(m, x):
        y = m.drop(m.bn(m.a(x)).relu_())
        y = m.gn(m.dw(y)).view(-1, 16, 36).mean(2)
        return m.c(m.ln(m.b(y)))

    return Net(
        forward,
        a=conv(3, 16),
        bn=nn.BatchNorm2d(16),
        drop=nn.Dropout(0.3),
        dw=nn.Conv2d(16, 16, 3, padding=1, groups=16),
        gn=nn.GroupNorm(4, 16),
        b=nn.Linear(16, 8),
        ln=nn.LayerNorm(8),
        c=nn.Linear(8, 5),
    ), images()


def unflattened() -> Made:
    def forward(m, x):
        y = m.a(x).unflatten(-1, (4, 8)).transpose(1, 2)
        return m.b(y.transpose(1, 2).flatten(2))

    return Net(forward, a=nn.Linear(6, 32), b=nn.Linear(32, 5)), tokens()


def recurrent() -> Made:
    def forward(m, x):
        y, _ = m.rnn(x, x.new_zeros(1, x.shape[0], 10))
        return m.head(y[:, -1].view(-1, 10))

    return Net(forward, rnn=nn.GRU(6, 10, batch_first=True), head=nn.Linear(10, 4)), tokens()


class Containers(nn.Module):
    """Arguments by name, plain values, a result in containers, a part without gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 16), nn.Linear(16, 5), nn.Linear(16, 5)
        self.register_buffer("shift", torch.linspace(-1, 1, 16), persistent=False)

    def forward(self, x: Tensor, *, weight: dict[str, Tensor], twice: bool = False) -> dict[str, Any]:
        y = self.a(x).view(-1, 16) + self.shift
        with torch.no_grad():
            fixed = self.c(y)
        y = y * weight["scale"]
        return {"out": self.b(y) * (2 if twice else 1), "more": (fixed, [self.c(y).float()])}


def containers() -> Made:
    return Containers(), {"x": torch.randn(3, 6), "weight": {"scale": torch.rand(3, 1)}, "twice": True}


#: Name -> a function that makes the network and its example.
HARD_WIRED: dict[str, Callable[[], Made]] = {
    function.__name__.replace("_", " "): function
    for function in (
        attention,
        batched_heads,
        slices,
        splits,
        selected,
        rotated,
        constants,
        functional,
        layers,
        unflattened,
        recurrent,
        containers,
    )
}
