"""Networks of many widths and depths at once, chosen by probabilities that gradients reach.

X. Dong and Y. Yang, Network Pruning via Transformable Architecture Search, NeurIPS 2019, on tied axes: every
axis of a traced network has candidate widths, and what writes to it (a convolution or linear map with the
norm that reads it) gives, of the widths that were drawn, the first channels, each through a norm of its own.
They are brought to one width by interpolation over channels, added with the weights of the draw, and filled
up with zeros, so that the network's own code runs on and a narrower input is what its convolutions see.
Stages of residual blocks have candidate depths, whose outputs are added in the same way.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from netwright.errors import StructureError
from netwright.structure.branches import Found
from netwright.structure.tracing import Structure

#: Candidate widths, in tenths of an axis.
TENTHS = (3, 4, 5, 6, 7, 8, 9, 10)
#: How many candidates are computed at a time.
DRAWN = 2
#: Keeps what has come to no probability drawable where too little else is left.
_EPSILON = 1e-7

Norm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d
_WRITERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


def candidate_widths(size: int, tenths: Sequence[int] = TENTHS) -> tuple[int, ...]:
    """The widths that an axis may have: int(r * size) of every ratio r, each once and at least 1."""
    return tuple(sorted({max(size * t // 10, 1) for t in tenths}))


def candidate_depths(blocks: int) -> tuple[int, ...]:
    """How many blocks a stage may keep: all odd numbers and all; up to three blocks, any number."""
    if blocks <= 3:
        return tuple(range(1, blocks + 1))
    return tuple(sorted({*range(1, blocks + 1, 2), blocks}))


@functools.lru_cache(maxsize=4096)
def _pooling(inputs: int, outputs: int) -> Tensor:
    """(outputs, inputs): row t averages inputs floor(t I / O) .. ceil((t + 1) I / O)."""
    table = torch.zeros(outputs, inputs, dtype=torch.float64)
    for t in range(outputs):
        first, last = t * inputs // outputs, -(-(t + 1) * inputs // outputs)
        table[t, first:last] = 1 / (last - first)
    return table


def interpolate_channels(x: Tensor, channels: int, dim: int = 1) -> Tensor:
    """Channel-wise interpolation: adaptive average pooling over the channels.

    Args:
        x: (..., C, ...).
        channels: How many to make; x itself where it has as many.
        dim: Where they are.
    """
    if x.shape[dim] == channels:
        return x
    table = _pooling(x.shape[dim], channels).to(x.device, x.dtype)
    if dim in (-1, x.dim() - 1):
        return x @ table.T
    flat = x.flatten(dim + 1)  # (..., C, n)
    return (table @ flat).unflatten(-1, x.shape[dim + 1 :])


def gumbel(shape: Sequence[int], generator: torch.Generator | None = None) -> Tensor:
    """Noise -log(-log u), on the CPU, where generators give the same on every machine."""
    tiny = torch.finfo(torch.float32).tiny
    u = torch.rand(tuple(shape), generator=generator).clamp(min=tiny, max=1 - 1e-7)
    return -torch.log(-torch.log(u))


def soften(logits: Tensor, noise: Tensor, tau: float) -> Tensor:
    """(log softmax(logits) + noise) / tau: Gumbel logits, of which a softmax gives the probabilities.

    Args:
        logits: (A, K); -inf where there is no candidate.
        noise: (A, K).
        tau: Temperature.
    """
    return (logits.log_softmax(dim=1) + noise.to(logits)) / tau


def draw(soft: Tensor, count: int = DRAWN, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Draw candidates without replacement; the draw has no gradient, their weights do.

    Args:
        soft: (A, K) Gumbel logits; -inf where there is no candidate; at least `count` candidates in a row.
        count: How many.
        generator: Of the draw, on the CPU.

    Returns:
        (A, count) indices on the CPU, and (A, count) weights that add up to 1: a softmax over the drawn ones.
    """
    with torch.no_grad():
        chances = soft.softmax(dim=1).double().cpu()
        chances = chances + _EPSILON * torch.isfinite(soft).cpu()
        index = torch.multinomial(chances, count, generator=generator)
    return index, soft.gather(1, index.to(soft.device)).softmax(dim=1)


@dataclass
class Choice:
    """What is computed in a forward pass; the modules of one network share it.

    Attributes:
        index: For every axis, the candidates that are computed.
        width: For every axis, their weights, (drawn,).
        depth: For every stage, the weights of its candidate depths, (D,).
        maps: For every stage, outputs of the present forward pass.
    """

    index: list[list[int]] = field(default_factory=list)
    width: list[Tensor] = field(default_factory=list)
    depth: list[Tensor] = field(default_factory=list)
    maps: dict[int, list[Tensor]] = field(default_factory=dict)

    def set_(self, index: list[list[int]], width: list[Tensor], depth: list[Tensor]) -> None:
        """Choose anew."""
        self.index, self.width, self.depth = index, width, depth
        self.maps.clear()


@dataclass(frozen=True)
class Segment:
    """Channels of a tensor that lie on one axis, or on none that is chosen.

    Attributes:
        axis: Number of the axis; -1 where all stay.
        positions: (n,) where they are, in the order in which they stay.
        counts: Candidate -> how many of the positions it keeps.
    """

    axis: int
    positions: Tensor
    counts: tuple[int, ...]


class SoftWidth(nn.Module):
    """The first channels of every drawn width, each normalised by itself, interpolated, added, filled up.

    Args:
        segments: What the channels are.
        choice: The draw.
        dim: Dimension of the channels; -1 for linear maps.
        norm: The norm that was here, copied for every candidate, or None.
    """

    def __init__(self, segments: Sequence[Segment], choice: Choice, dim: int, norm: Norm | None) -> None:
        super().__init__()
        self.segments, self.choice, self.dim = list(segments), choice, dim
        self.size = sum(len(s.positions) for s in segments)
        self.norms = nn.ModuleList(
            nn.ModuleList(part_of_norm(norm, s.positions[:k]) for k in s.counts)
            for s in (segments if norm is not None else ())
        )
        self.plain = len(self.segments) == 1 and bool(
            (self.segments[0].positions == torch.arange(self.size)).all()
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) -> the same shape, zeros behind the largest drawn width."""
        if self.plain:
            y = self._segment(x, 0)
            missing = self.size - y.shape[self.dim]
            if not missing:
                return y
            shape = list(y.shape)
            shape[self.dim] = missing
            return torch.cat([y, y.new_zeros(shape)], dim=self.dim)
        out: Tensor | None = None
        for number, segment in enumerate(self.segments):
            y = self._segment(x, number)
            out = torch.zeros_like(x, dtype=y.dtype) if out is None else out
            out = out.index_copy(self.dim, segment.positions[: y.shape[self.dim]].to(x.device), y)
        assert out is not None
        return out

    def _segment(self, x: Tensor, number: int) -> Tensor:
        """One segment at its largest drawn width."""
        segment = self.segments[number]
        if segment.axis < 0:
            return self._candidate(x, number, 0)
        drawn, weights = self.choice.index[segment.axis], self.choice.width[segment.axis]
        parts = [self._candidate(x, number, j) for j in drawn]
        if len(parts) == 1:
            return parts[0]
        return aligned_sum(parts, weights, self.dim)

    def _candidate(self, x: Tensor, number: int, j: int) -> Tensor:
        segment = self.segments[number]
        count = segment.counts[j]
        if self.plain:
            part = x.narrow(self.dim, 0, count)
        else:
            part = x.index_select(self.dim, segment.positions[:count].to(x.device))
        if not len(self.norms):
            return part
        norms = self.norms[number]
        assert isinstance(norms, nn.ModuleList)
        out: Tensor = norms[j](part)
        return out


def aligned_sum(parts: Sequence[Tensor], weights: Tensor, dim: int = 1) -> Tensor:
    """A weighted sum of feature maps of different widths, interpolated to the largest.

    Args:
        parts: (..., C_j, ...) each.
        weights: (parts,).
        dim: Dimension of the channels.
    """
    widest = max(p.shape[dim] for p in parts)
    total = interpolate_channels(parts[0], widest, dim) * weights[0]
    for part, weight in zip(parts[1:], weights[1:], strict=True):
        total = total + interpolate_channels(part, widest, dim) * weight
    return total


def part_of_norm(norm: Norm | None, positions: Tensor) -> Norm:
    """A batch norm of some channels of another."""
    assert norm is not None
    new = type(norm)(len(positions), norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    with torch.no_grad():
        for name, value in norm.state_dict(keep_vars=True).items():
            getattr(new, name).data = (
                value.detach()[positions.to(value.device)] if value.dim() else value.clone()
            )
    return new


class Followed(nn.Module):
    """A layer without a norm, and the soft width of what it writes."""

    def __init__(self, layer: nn.Module, soft: SoftWidth) -> None:
        super().__init__()
        self.layer, self.soft = layer, soft

    def forward(self, x: Tensor) -> Tensor:
        """As the layer."""
        out: Tensor = self.soft(self.layer(x))
        return out


class SoftBlock(nn.Module):
    """A block of a stage; the last one gives the weighted sum of the outputs at the candidate depths.

    Args:
        block: The block.
        choice: The draw.
        stage: Number of the stage.
        wanted: Whether a candidate depth ends with this block.
        first: Whether the stage begins with it.
        last: Whether the stage ends with it.
    """

    def __init__(
        self, block: nn.Module, choice: Choice, stage: int, wanted: bool, first: bool, last: bool
    ) -> None:
        super().__init__()
        self.block, self.choice, self.stage = block, choice, stage
        self.wanted, self.first, self.last = wanted, first, last

    def forward(self, x: Tensor) -> Tensor:
        """As the block."""
        y: Tensor = self.block(x)
        if self.first:
            self.choice.maps[self.stage] = []
        if self.wanted:
            self.choice.maps[self.stage].append(y)
        if not self.last:
            return y
        return aligned_sum(self.choice.maps.pop(self.stage), self.choice.depth[self.stage])


@dataclass(frozen=True)
class Stage:
    """Residual blocks that follow each other, of which the first ones can stay.

    Attributes:
        blocks: Their paths; the first one always stays.
        depths: How many may stay.
    """

    blocks: tuple[str, ...]
    depths: tuple[int, ...]

    @property
    def name(self) -> str:
        """Path of the first block's owner, with the block where the owner has several stages."""
        return self.blocks[0].rpartition(".")[0] or self.blocks[0]


def stages(model: nn.Module, net: Structure) -> list[Stage]:
    """The stages of a network that have a choice of depth.

    A stage is a chain of blocks in one container that could each be left out, with the block of the same
    class before it, which brings the features to their size.

    Args:
        model: The network.
        net: Its structure.
    """
    found = Found(model, net)
    out = []
    begins = {path: min(found.within[path]) for path in found.blocks}
    for owner in dict.fromkeys(p.rpartition(".")[0] for p in sorted(begins, key=begins.__getitem__)):
        container = model.get_submodule(owner)
        if not isinstance(container, (nn.Sequential, nn.ModuleList)):
            continue
        children = [f"{owner}.{name}".lstrip(".") for name, _ in container.named_children()]
        for free, run in itertools.groupby(enumerate(children), key=lambda c: c[1] in found.blocks):
            chain = list(run)
            if not free:
                continue
            paths = [path for _, path in chain]
            before = chain[0][0] - 1
            if before >= 0 and type(model.get_submodule(children[before])) is type(
                model.get_submodule(paths[0])
            ):
                paths.insert(0, children[before])
            if len(paths) > 1 and _chained(found, paths):
                out.append(Stage(tuple(paths), candidate_depths(len(paths))))
    return out


def _chained(found: Found, paths: Sequence[str]) -> bool:
    """Whether every block takes what the one before it gives, and nothing else does."""
    for one, other in itertools.pairwise(paths):
        gives, takes = found.once(one), found.once(other)
        if gives is None or takes is None or len(gives.outputs) != 1 or not takes.args:
            return False
        end = found.flow.value(gives.outputs[0], max(found.within[one]) + 1)
        start = (
            found.flow.value(takes.args[0], min(found.within[other])) if takes.args[0] is not None else None
        )
        if end is None or end != start:
            return False
    return True


def segments_of(
    net: Structure, name: str, dim: int, owners: dict[int, int], widths: Sequence[Sequence[int]]
) -> list[Segment] | None:
    """The segments of one dimension of a parameter, None where nothing of it is chosen.

    Args:
        net: The structure.
        name: The parameter.
        dim: Its dimension.
        owners: Number of an axis in ``net.axes`` -> its number among those that are chosen.
        widths: Candidate widths of the latter.

    Raises:
        StructureError: if channels of one unit come in unequal numbers.
    """
    labels = net.layers.get(name, {}).get(dim)
    if labels is None or labels.numel() == 1:
        return None
    flat = labels.reshape(-1)
    place = torch.arange(len(flat))
    rest = torch.ones(len(flat), dtype=torch.bool)
    found = []
    for number, chosen in owners.items():
        for cell in net.axes[number].cells:
            rank = torch.full((net.count,), -1)
            rank[cell] = torch.arange(len(cell))
            own = rank[flat]
            mine = own >= 0
            if not bool(mine.any()):
                continue
            times = torch.bincount(own[mine], minlength=len(cell))
            if int(times.min()) != int(times.max()):
                raise StructureError(f"the channels of {name} hold the units of an axis unequally often")
            order = torch.argsort(own[mine], stable=True)
            counts = tuple(int(times[0]) * w for w in widths[chosen])
            found.append(Segment(chosen, place[mine][order], counts))
            rest &= ~mine
    if not found:
        return None
    if bool(rest.any()):
        found.append(Segment(-1, place[rest], (int(rest.sum()),)))
    return found
