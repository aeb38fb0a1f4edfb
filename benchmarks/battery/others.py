"""Networks of other kinds: encoder-decoders, generators, recurrent, graph and mixture networks, and ways of
calling that libraries of image models do not use.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from .others_graphs import attention_graph, convolution_graph, sampling_graph

Made = tuple[nn.Module, Any]


def _image(channels: int = 3, side: int = 32) -> Tensor:
    return torch.randn(2, channels, side, side)


class UNet(nn.Module):
    """Encoder and decoder with skip connections by concatenation (Ronneberger et al., 2015)."""

    def __init__(self, width: int = 16, depth: int = 3) -> None:
        super().__init__()
        widths = [width * 2**i for i in range(depth + 1)]
        self.down = nn.ModuleList(
            self.convolutions(i, o) for i, o in zip([3, *widths[:-1]], widths, strict=True)
        )
        pairs = list(zip(widths[1:], widths[:-1], strict=True))[::-1]
        self.up = nn.ModuleList(nn.ConvTranspose2d(i, o, 2, 2) for i, o in pairs)
        self.join = nn.ModuleList(self.convolutions(2 * o, o) for _, o in pairs)
        self.head = nn.Conv2d(width, 2, 1)

    @staticmethod
    def convolutions(i: int, o: int) -> nn.Sequential:
        """Two convolutions."""
        return nn.Sequential(
            nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU(),
            nn.Conv2d(o, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, 3, H, W) -> (B, 2, H, W)."""
        skips = []
        for i, block in enumerate(self.down):
            x = block(x if i == 0 else F.max_pool2d(x, 2))
            skips.append(x)
        for up, join, skip in zip(self.up, self.join, skips[-2::-1], strict=True):
            x = join(torch.cat([skip, up(x)], dim=1))
        return self.head(x)


class ResNeXt(nn.Module):
    """Residual blocks with grouped convolutions (Xie et al., 2017)."""

    def __init__(self, width: int = 64, groups: int = 8, depth: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, 2, 1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, width, 1), nn.BatchNorm2d(width), nn.ReLU(),
                nn.Conv2d(width, width, 3, padding=1, groups=groups), nn.BatchNorm2d(width), nn.ReLU(),
                nn.Conv2d(width, width, 1), nn.BatchNorm2d(width),
            )
            for _ in range(depth)
        )  # fmt: skip
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, 3, H, W) -> (B, 10)."""
        x = self.stem(x)
        for block in self.blocks:
            x = (x + block(x)).relu()
        return self.head(x.mean((2, 3)))


class DualPath(nn.Module):
    """A residual path and a densely growing one, cut out of each block's output (Chen et al., 2017)."""

    def __init__(self, residual: int = 32, grow: int = 8, depth: int = 4) -> None:
        super().__init__()
        self.residual = residual
        self.stem = nn.Conv2d(3, residual + grow, 3, 2, 1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(residual + grow * (i + 1), 48, 1), nn.BatchNorm2d(48), nn.ReLU(),
                nn.Conv2d(48, 48, 3, padding=1, groups=4), nn.BatchNorm2d(48), nn.ReLU(),
                nn.Conv2d(48, residual + grow, 1),
            )
            for i in range(depth)
        )  # fmt: skip
        self.head = nn.Linear(residual + grow * (depth + 1), 10)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, 3, H, W) -> (B, 10)."""
        x = self.stem(x)
        path, dense = x[:, : self.residual], x[:, self.residual :]
        for block in self.blocks:
            y = block(torch.cat([path, dense], dim=1))
            path = path + y[:, : self.residual]
            dense = torch.cat([dense, y[:, self.residual :]], dim=1)
        return self.head(torch.cat([path, dense], dim=1).mean((2, 3)))


class HighResolution(nn.Module):
    """Parallel resolutions that exchange by sums (Wang et al., 2020)."""

    def __init__(self, widths: tuple[int, ...] = (16, 32, 64), stages: int = 2) -> None:
        super().__init__()
        self.stems = nn.ModuleList(nn.Conv2d(3, w, 3, 2**i, 1) for i, w in enumerate(widths))
        self.own = nn.ModuleList(
            nn.ModuleList(
                nn.Sequential(
                    nn.Conv2d(w, w, 3, padding=1), nn.BatchNorm2d(w), nn.ReLU(), nn.Conv2d(w, w, 3, padding=1)
                )
                for w in widths
            )
            for _ in range(stages)
        )
        self.exchange = nn.ModuleList(
            nn.ModuleList(nn.ModuleList(nn.Conv2d(i, o, 1) for i in widths) for o in widths)
            for _ in range(stages)
        )
        self.head = nn.Conv2d(sum(widths), 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, 3, H, W) -> (B, 5, H, W)."""
        streams = [stem(x) for stem in self.stems]
        for own, exchange in zip(self.own, self.exchange, strict=True):
            streams = [(s + block(s)).relu() for s, block in zip(streams, own, strict=True)]
            sizes = [s.shape[-2:] for s in streams]
            streams = [
                torch.stack([F.interpolate(conv(s), size) for conv, s in zip(row, streams, strict=True)])
                .sum(0)
                .relu()
                for row, size in zip(exchange, sizes, strict=True)
            ]
        size = streams[0].shape[-2:]
        wide = [F.interpolate(s, size, mode="bilinear", align_corners=False) for s in streams]
        return self.head(torch.cat(wide, dim=1))


class SuperResolution(nn.Module):
    """Residual blocks without normalisation and pixel shuffle (Lim et al., 2017)."""

    def __init__(self, width: int = 32, depth: int = 3, factor: int = 2) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)
            )
            for _ in range(depth)
        )
        self.up = nn.Sequential(
            nn.Conv2d(width, width * factor**2, 3, padding=1), nn.PixelShuffle(factor), nn.PReLU(width)
        )
        self.head = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, 3, H, W) -> (B, 3, 2H, 2W)."""
        first = x = self.stem(x)
        for block in self.blocks:
            x = x + 0.1 * block(x)
        return self.head(self.up(x + first))


def generator(noise: int = 32, width: int = 16) -> Made:
    """DCGAN's generator (Radford et al., 2016)."""
    widths = [width * 8, width * 4, width * 2, width]
    layers: list[nn.Module] = [nn.ConvTranspose2d(noise, widths[0], 4, 1, 0, bias=False)]
    for i, o in itertools.pairwise(widths):
        layers += [nn.BatchNorm2d(i), nn.ReLU(), nn.ConvTranspose2d(i, o, 4, 2, 1, bias=False)]
    layers += [nn.BatchNorm2d(width), nn.ReLU(), nn.ConvTranspose2d(width, 3, 4, 2, 1), nn.Tanh()]
    return nn.Sequential(*layers), torch.randn(2, noise, 1, 1)


def discriminator(width: int = 16) -> Made:
    """DCGAN's discriminator, with spectral normalisation (Miyato et al., 2018)."""
    widths = [3, width, width * 2, width * 4]
    layers: list[nn.Module] = []
    for i, o in itertools.pairwise(widths):
        layers += [parametrizations.spectral_norm(nn.Conv2d(i, o, 4, 2, 1)), nn.LeakyReLU(0.2)]
    layers += [nn.Conv2d(widths[-1], 1, 4), nn.Flatten()]
    return nn.Sequential(*layers), _image()


def signals() -> Made:
    """A 1-D network with dilated, strided and depthwise convolutions."""
    layers = [
        *(nn.Conv1d(2, 32, 7, 2, 3), nn.BatchNorm1d(32), nn.ReLU()),
        *(nn.Conv1d(32, 48, 3, padding=2, dilation=2), nn.BatchNorm1d(48), nn.GELU(), nn.MaxPool1d(2)),
        *(nn.Conv1d(48, 48, 5, padding=2, groups=48), nn.Conv1d(48, 64, 1), nn.InstanceNorm1d(64, True)),
        *(nn.ReLU(), nn.AdaptiveAvgPool1d(4), nn.Flatten(), nn.Linear(256, 40), nn.ReLU(), nn.Linear(40, 6)),
    ]
    return nn.Sequential(*layers), torch.randn(2, 2, 128)


def volumes() -> Made:
    """A 3-D network with group normalisation."""
    layers = [
        *(nn.Conv3d(1, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.SiLU(), nn.MaxPool3d(2)),
        *(nn.Conv3d(16, 32, 3, padding=1), nn.GroupNorm(4, 32), nn.SiLU(), nn.AvgPool3d(2)),
        *(nn.Conv3d(32, 32, 3, padding=1), nn.BatchNorm3d(32), nn.SiLU()),
        *(nn.ConvTranspose3d(32, 16, 2, 2), nn.ReLU(), nn.Conv3d(16, 2, 1)),
    ]
    return nn.Sequential(*layers), torch.randn(2, 1, 8, 8, 8)


class Recurrent(nn.Module):
    """Tokens through an embedding and a recurrent network; packed by length where lengths are given."""

    def __init__(self, kind: type[nn.RNNBase], **options: Any) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 24)
        self.rnn = kind(24, 32, batch_first=True, **options)
        self.head = nn.Linear(64 if options.get("bidirectional") else 32, 5)

    def forward(self, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        """tokens: (B, N) -> (B, N, 5)."""
        x = self.embed(tokens)
        if lengths is None:
            return self.head(self.rnn(x)[0])
        packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=True)
        return self.head(pad_packed_sequence(self.rnn(packed)[0], batch_first=True)[0])


def _tokens() -> Tensor:
    return torch.randint(0, 50, (3, 7))


class Expert(nn.Module):
    """A two-layer perceptron."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., width)."""
        return self.down(F.gelu(self.up(x)))


class DenseMixture(nn.Module):
    """Every expert sees everything; a gate weighs them (Jacobs et al., 1991)."""

    def __init__(self, width: int = 32, experts: int = 4) -> None:
        super().__init__()
        self.stem, self.gate = nn.Linear(12, width), nn.Linear(width, experts)
        self.experts = nn.ModuleList(Expert(width, 48) for _ in range(experts))
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, 12) -> (B, 5)."""
        x = self.stem(x)
        parts = torch.stack([expert(x) for expert in self.experts], dim=1)  # (B, experts, width)
        return self.head((parts * self.gate(x).softmax(-1).unsqueeze(-1)).sum(1) + x)


class RoutedMixture(nn.Module):
    """Each token goes to its best experts (Shazeer et al., 2017)."""

    def __init__(self, width: int = 32, experts: int = 4, top: int = 2) -> None:
        super().__init__()
        self.stem, self.gate, self.top = nn.Linear(12, width), nn.Linear(width, experts, bias=False), top
        self.experts = nn.ModuleList(Expert(width, 48) for _ in range(experts))
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, N, 12) -> (B, N, 5)."""
        x = self.stem(x)
        flat = x.reshape(-1, x.shape[-1])
        weights, chosen = self.gate(flat).softmax(-1).topk(self.top, dim=-1)
        mixed = torch.zeros_like(flat)
        for number, expert in enumerate(self.experts):
            token, place = torch.where(chosen == number)
            mixed.index_add_(0, token, expert(flat[token]) * weights[token, place, None])
        return self.head(x + mixed.view_as(x))


class Symmetric(nn.Module):
    """A parametrisation: the symmetric part of a matrix."""

    def forward(self, weight: Tensor) -> Tensor:
        """weight: (N, N)."""
        return (weight + weight.mT) / 2


def parametrised() -> Made:
    """Weight normalisation of the new style, a symmetric matrix, and one learnt scale."""
    symmetric = nn.Linear(32, 32)
    nn.utils.parametrize.register_parametrization(symmetric, "weight", Symmetric())
    layers = [
        *(parametrizations.weight_norm(nn.Linear(12, 32)), nn.ReLU(), symmetric, nn.ReLU()),
        *(parametrizations.weight_norm(nn.Linear(32, 48)), nn.ReLU(), nn.Linear(48, 5)),
    ]
    return nn.Sequential(*layers), torch.randn(4, 12)


class Shared(nn.Module):
    """One block called twice, and one embedding that also is the output layer."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.embed, self.block, self.norm = nn.Embedding(20, width), Expert(width, 48), nn.LayerNorm(width)
        self.head = nn.Linear(width, 20)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens: (B, N) -> (B, N, 20)."""
        x = self.embed(tokens)
        for _ in range(2):
            x = x + self.block(self.norm(x))
        return self.head(x)


class ManyWays(nn.Module):
    """Two inputs, one of them by keyword, and outputs in a dict of tensors and tuples."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.picture = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU())
        self.table = nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, width))
        self.mix = nn.Bilinear(width, width, 40)
        self.score, self.boxes = nn.Linear(40, 3), nn.Linear(40, 4)

    def forward(self, picture: Tensor, *, table: Tensor, scale: float = 1.0) -> dict[str, Any]:
        """picture: (B, 3, H, W), table: (B, 6)."""
        a, b = self.picture(picture).mean((2, 3)), self.table(table)
        x = (self.mix(a, b) * scale).relu()
        return {"score": self.score(x), "boxes": (self.boxes(x), self.boxes(x.tanh()).sigmoid())}


def _many_ways() -> Made:
    return ManyWays(), {"picture": _image(), "table": torch.randn(2, 6), "scale": 0.5}


def networks() -> Iterator[tuple[str, Callable[[], Made]]]:
    """All of them."""
    lengths = torch.tensor([7, 5, 2])
    stacked = {"num_layers": 2, "bidirectional": True}
    yield "u-net", lambda: (UNet(), _image())
    yield "resnext", lambda: (ResNeXt(), _image())
    yield "dual-path", lambda: (DualPath(), _image())
    yield "high-resolution", lambda: (HighResolution(), _image())
    yield "super-resolution", lambda: (SuperResolution(), _image(side=16))
    yield "gan-generator", generator
    yield "gan-discriminator", discriminator
    yield "convolution-1d", signals
    yield "convolution-3d", volumes
    yield "lstm", lambda: (Recurrent(nn.LSTM), _tokens())
    yield "gru", lambda: (Recurrent(nn.GRU), _tokens())
    yield "lstm-bidirectional-stacked", lambda: (Recurrent(nn.LSTM, **stacked), _tokens())
    yield "lstm-packed", lambda: (Recurrent(nn.LSTM), (_tokens(), lengths))
    yield "graph-convolution", convolution_graph
    yield "graph-sampling", sampling_graph
    yield "graph-attention", attention_graph
    yield "mixture-dense", lambda: (DenseMixture(), torch.randn(4, 12))
    yield "mixture-routed", lambda: (RoutedMixture(), torch.randn(2, 6, 12))
    yield "parametrised", parametrised
    yield "shared", lambda: (Shared(), torch.randint(0, 20, (2, 6)))
    yield "inputs-and-outputs", _many_ways
