"""Independent references: small networks pruned by hand, without the engine's labels."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from netwright.structure import Structure, shrink, trace

D = torch.float64


def keep_of(net: Structure, name: str, stays: list[int]) -> Tensor:
    """The mask under which one axis keeps the given positions."""
    axis = next(a for a in net.prunable if a.name == name)
    keep = net.everything.clone()
    for cell in axis.cells:
        keep[cell] = False
        keep[cell[stays]] = True
    return keep


def fill(model: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, x in [*model.named_parameters(), *model.named_buffers()]:
            if x.is_floating_point():
                x.copy_(
                    torch.rand(x.shape, generator=generator) + 0.2
                    if "var" in name
                    else torch.randn(x.shape, generator=generator)
                )
    return model.to(D).eval()


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner, self.outer = (
            nn.Conv2d(3, 6, 3, padding=1),
            nn.Conv2d(6, 5, 1),
            nn.Conv2d(5, 6, 1),
        )
        self.norm, self.head = nn.BatchNorm2d(6), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.stem(x)).relu()
        return self.head(y + self.outer(self.inner(y).relu()))


def test_a_residual_stream_loses_the_channels_that_are_zeroed_by_hand() -> None:
    model = fill(Residual())
    x = torch.randn(2, 3, 5, 5, dtype=D)
    net = trace(model, x)
    assert {a.name: a.size for a in net.prunable} == {"stem": 6, "inner": 5}
    small = shrink(model, net, keep_of(net, "stem", [0, 2, 5])).model
    by_hand = copy.deepcopy(model)
    with torch.no_grad():
        for gone in (1, 3, 4):
            by_hand.stem.weight[gone] = by_hand.stem.bias[gone] = 0
            by_hand.norm.weight[gone] = by_hand.norm.bias[gone] = 0
            by_hand.outer.weight[gone] = by_hand.outer.bias[gone] = 0
            by_hand.inner.weight[:, gone] = 0
            by_hand.head.weight[:, gone] = 0
        torch.testing.assert_close(small(x), by_hand(x), rtol=1e-12, atol=1e-12)
        assert (model(x) - by_hand(x)).abs().max() > 1e-3
    assert small.stem.weight.shape == (3, 3, 3, 3) and small.norm.num_features == 3
    assert small.inner.in_channels == 3 and small.outer.out_channels == 3


class OneBlock(nn.Module):
    """Self-attention by `nn.MultiheadAttention`, computed by hand in `reference`."""

    def __init__(self, batch_first: bool, bias: bool) -> None:
        super().__init__()
        self.mix = nn.MultiheadAttention(12, 3, batch_first=batch_first, bias=bias)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mix(x, x, x, need_weights=False)[0])


def reference(model: OneBlock, x: Tensor, heads: list[int]) -> Tensor:
    """Loop over the heads that stay; the temperature is that of the dense network."""
    if not model.mix.batch_first:
        x = x.transpose(0, 1)
    weights, biases = model.mix.in_proj_weight.chunk(3), (0, 0, 0)
    if model.mix.in_proj_bias is not None:
        biases = model.mix.in_proj_bias.chunk(3)
    q, k, v = (x @ w.t() + b for w, b in zip(weights, biases, strict=True))
    out = torch.zeros_like(x)
    for h in heads:
        part = slice(4 * h, 4 * h + 4)
        scores = q[..., part] @ k[..., part].transpose(1, 2) / 2.0
        out = out + scores.softmax(-1) @ v[..., part] @ model.mix.out_proj.weight[:, part].t()
    if model.mix.out_proj.bias is not None:
        out = out + model.mix.out_proj.bias
    out = model.head(out)
    return out if model.mix.batch_first else out.transpose(0, 1)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_whole_heads_go_from_multihead_attention(batch_first: bool, bias: bool) -> None:
    model = fill(OneBlock(batch_first, bias))
    with torch.no_grad():
        for parameter in model.mix.parameters():
            parameter *= 0.3
    x = torch.randn(2, 5, 12, dtype=D)
    net = trace(model, x)
    heads = next(a for a in net.prunable if a.name.startswith("mix"))
    assert tuple(heads.cells.shape) == (1, 3)
    torch.testing.assert_close(model(x), reference(model, x, [0, 1, 2]), rtol=1e-10, atol=1e-12)
    for stays in ([0, 2], [1, 2], [1]):
        small = shrink(model, net, keep_of(net, heads.name, stays))
        torch.testing.assert_close(small.model(x), reference(model, x, stays), rtol=1e-10, atol=1e-12)
        assert small.model.mix.num_heads == len(stays) and small.adopted == ["mix"]
        assert isinstance(small.model.mix, nn.MultiheadAttention)
        assert type(model.mix) is nn.MultiheadAttention


class Stream(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(4, 7), nn.LayerNorm(7, eps=1e-3)
        self.mix, self.head = nn.Linear(7, 7), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return self.head(x + self.mix(self.norm(x)))


def test_layer_norm_takes_its_statistics_over_what_stays() -> None:
    model, x = fill(Stream()), torch.randn(3, 5, 4, dtype=D)
    net = trace(model, x)
    stays = [0, 3, 4, 6]
    small = shrink(model, net, keep_of(net, "embed", stays)).model
    stream = model.embed(x)[..., stays]
    mean, var = stream.mean(-1, keepdim=True), stream.var(-1, keepdim=True, unbiased=False)
    normed = (stream - mean) / (var + 1e-3).sqrt() * model.norm.weight[stays] + model.norm.bias[stays]
    stream = stream + normed @ model.mix.weight[stays][:, stays].t() + model.mix.bias[stays]
    want = stream @ model.head.weight[:, stays].t() + model.head.bias
    torch.testing.assert_close(small(x), want, rtol=1e-12, atol=1e-12)
    assert small.norm.normalized_shape == (4,)


def test_grouped_convolutions_keep_other_members_in_every_group() -> None:
    model = fill(
        nn.Sequential(
            nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 4, 3, groups=2), nn.ReLU(), nn.Conv2d(4, 2, 1)
        )
    )
    x = torch.randn(2, 3, 5, 5, dtype=D)
    net = trace(model, x)
    axis = net.prunable[0]
    assert tuple(axis.cells.shape) == (2, 3)
    keep = net.everything.clone()
    keep[axis.cells[0, 0]] = keep[axis.cells[1, 2]] = False
    small = shrink(model, net, keep)
    assert small.kept["2.weight"][1].tolist() == [[1, 2], [0, 1]]
    w = model[2].weight
    hidden = F.relu(model[0](x))
    first = F.conv2d(hidden[:, [1, 2]], w[:2, [1, 2]], model[2].bias[:2])
    second = F.conv2d(hidden[:, [3, 4]], w[2:, [0, 1]], model[2].bias[2:])
    want = model[4](F.relu(torch.cat([first, second], 1)))
    torch.testing.assert_close(small.model(x), want, rtol=1e-12, atol=1e-12)


def test_a_recurrence_loses_its_hidden_units_by_hand() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.GRU(3, 4, batch_first=True), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.rnn(x)[0][:, -1])

    model, x = fill(Net()), torch.randn(2, 6, 3, dtype=D)
    net = trace(model, x)
    small = shrink(model, net, keep_of(net, net.prunable[0].name, [1, 3])).model
    rows = [g * 4 + i for g in range(3) for i in (1, 3)]
    want = nn.GRU(3, 2, batch_first=True).to(D)
    with torch.no_grad():
        want.weight_ih_l0.copy_(model.rnn.weight_ih_l0[rows])
        want.weight_hh_l0.copy_(model.rnn.weight_hh_l0[rows][:, [1, 3]])
        want.bias_ih_l0.copy_(model.rnn.bias_ih_l0[rows])
        want.bias_hh_l0.copy_(model.rnn.bias_hh_l0[rows])
    torch.testing.assert_close(small.rnn(x)[0], want(x)[0], rtol=1e-12, atol=1e-12)
    head = want(x)[0][:, -1] @ model.head.weight[:, [1, 3]].t() + model.head.bias
    torch.testing.assert_close(small(x), head, rtol=1e-12, atol=1e-12)
    assert small.rnn.hidden_size == 2


def test_the_concatenation_of_two_branches_maps_its_indices() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.c, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 3, 1), nn.Conv2d(7, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.cat([self.a(x), self.c(x)], 1))

    model = fill(Net())
    net = trace(model, torch.randn(1, 3, 4, 4, dtype=D))
    keep = keep_of(net, "a", [1, 2]) & keep_of(net, "c", [0, 2])
    small = shrink(model, net, keep)
    assert small.kept["b.weight"][1].tolist() == [1, 2, 4, 6]
    members = {
        m.name: m.index.tolist()
        for m in net.members(next(a for a in net.axes if a.name == "c"))
        if m.dim == 1
    }
    assert members == {"b.weight": [-1, -1, -1, -1, 0, 1, 2]}
