"""Granularities: what is kept or masked as one piece, from single weights to whole rows.

A granularity divides a weight into *units*. `pool` turns scores of elements into one score a unit, `spread`
turns chosen units back into a mask. Whole channels are the business of `netwright.pruning.prune`, which
removes them; everything here keeps the shapes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from netwright.errors import UsageError
from netwright.pruning.masks.selection import top_k


@dataclass(frozen=True)
class Granularity:
    """Single weights: every element is a unit. The base of the others."""

    @property
    def name(self) -> str:
        """As on the command line."""
        return "weight"

    def pool(self, scores: Tensor) -> Tensor:
        """Mean score of each unit: scores of a weight's shape -> (units,)."""
        return scores.reshape(-1)

    def spread(self, units: Tensor, shape: torch.Size) -> Tensor:
        """Units (units,) -> elements of a weight of `shape`."""
        return units.reshape(shape)

    def sizes(self, weight: Tensor) -> Tensor:
        """Elements of each unit, (units,)."""
        return self.pool(torch.ones_like(weight, dtype=torch.float64)).round().long()

    def fits(self, weight: Tensor) -> bool:
        """Whether a weight can be divided so."""
        return True


WEIGHT = Granularity()


@dataclass(frozen=True)
class Slices(Granularity):
    """Rows (all that makes one output), columns (all that reads one input) or kernels of a weight.

    Args:
        dims: Dimensions that tell units apart: (0,) rows, (1,) columns, (0, 1) kernels.
    """

    dims: tuple[int, ...] = (0,)

    @property
    def name(self) -> str:
        """As on the command line."""
        return "row" if self.dims == (0,) else "column" if self.dims == (1,) else "kernel"

    def pool(self, scores: Tensor) -> Tensor:
        """Mean score of each slice."""
        return (
            scores.mean(dim=self._rest(scores.dim())).reshape(-1)
            if self._rest(scores.dim())
            else scores.reshape(-1)
        )

    def spread(self, units: Tensor, shape: torch.Size) -> Tensor:
        """Give every element its slice's value."""
        return units.reshape([n if d in self.dims else 1 for d, n in enumerate(shape)]).expand(shape)

    def sizes(self, weight: Tensor) -> Tensor:
        """Elements of each slice."""
        units = 1
        for d in self.dims:
            units *= weight.shape[d]
        return torch.full((units,), weight.numel() // units, dtype=torch.long)

    def _rest(self, rank: int) -> list[int]:
        return [d for d in range(rank) if d not in self.dims]


@dataclass(frozen=True)
class Block(Granularity):
    """Blocks of the matrix (outputs, everything else); blocks at the edges may be smaller.

    Args:
        height: Rows of a block.
        width: Columns.
    """

    height: int = 4
    width: int = 4

    @property
    def name(self) -> str:
        """As on the command line."""
        return f"block:{self.height}x{self.width}"

    def pool(self, scores: Tensor) -> Tensor:
        """Mean score of each block."""
        return self._sums(scores) / self._sums(torch.ones_like(scores))

    def spread(self, units: Tensor, shape: torch.Size) -> Tensor:
        """Give every element its block's value."""
        rows, columns = shape[0], shape[1:].numel()
        down = -(-rows // self.height)
        blocks = units.reshape(down, -1)
        grid = blocks.repeat_interleave(self.height, 0).repeat_interleave(self.width, 1)
        return grid[:rows, :columns].reshape(shape)

    def sizes(self, weight: Tensor) -> Tensor:
        """Elements of each block."""
        return self._sums(torch.ones_like(weight, dtype=torch.float64)).round().long()

    def _sums(self, values: Tensor) -> Tensor:
        matrix = values.reshape(values.shape[0], -1)
        pad = (0, -matrix.shape[1] % self.width, 0, -matrix.shape[0] % self.height)
        padded = F.pad(matrix, pad)
        down, across = padded.shape[0] // self.height, padded.shape[1] // self.width
        return padded.reshape(down, self.height, across, self.width).sum(dim=(1, 3)).reshape(-1)


@dataclass(frozen=True)
class NM(Granularity):
    """Of every `m` consecutive weights, `n` stay: the density is n / m in every layer.

    Args:
        n: How many stay.
        m: Of how many.
        dim: Along which dimension they are consecutive, 1 the inputs; None runs through the whole tensor,
            of whose last few weights, where they are no full `m`, at most `n` stay.
    """

    n: int = 2
    m: int = 4
    dim: int | None = 1

    def __post_init__(self) -> None:
        if not 0 < self.n <= self.m:
            raise UsageError(f"{self.n} of every {self.m} weights cannot stay", "for instance n=2, m=4")

    @property
    def name(self) -> str:
        """As on the command line."""
        return f"{self.n}:{self.m}"

    def fits(self, weight: Tensor) -> bool:
        """Whether the dimension is a multiple of `m`."""
        return self.dim is None or weight.shape[self.dim] % self.m == 0

    def mask(self, scores: Tensor) -> Tensor:
        """The best `n` of every `m`, of equal ones the first; scores of a weight's shape -> bool."""
        if self.dim is None:
            more = -scores.numel() % self.m
            moved = F.pad(scores.reshape(-1), (0, more), value=-torch.inf)
        else:
            moved = scores.movedim(self.dim, -1)
        groups = moved.reshape(-1, self.m)
        # A stable sort, so that of equal scores the first stays on every device.
        order = groups.argsort(dim=1, descending=True, stable=True)[:, : self.n]
        chosen = torch.zeros_like(groups, dtype=torch.bool).scatter_(1, order, True)
        chosen = chosen.reshape(moved.shape)
        if self.dim is None:
            return chosen[: scores.numel()].reshape(scores.shape)
        return chosen.movedim(-1, self.dim)


Aggregate = Literal["sum", "mean", "max", "first", "prod", "vote"]
Normalise = Literal["mean", "sum", "max", "gaussian", "lamp", "none"]


@dataclass(frozen=True)
class Channel(Granularity):
    """Whole channels of tied axes, which `netwright.pruning.prune` removes; nothing here masks them.

    Args:
        aggregate: How the scores of all parameters that would go with a channel become one: their "sum",
            "mean", "max" or product ("prod"), that of the "first" parameter in order of definition, or the
            threshold at which they "vote" for its removal (see `netwright.pruning.importances.voting`).
        normalise: How the channels of one axis are made comparable with those of others: divided by their
            "mean", "sum" or "max", "gaussian" (mean 0, deviation 1), "lamp" (over the sum of all that are not
            smaller), or "none".
    """

    aggregate: Aggregate = "sum"
    normalise: Normalise = "mean"

    def __post_init__(self) -> None:
        for field, value, known in (
            ("aggregate", self.aggregate, get_args(Aggregate)),
            ("normalise", self.normalise, get_args(Normalise)),
        ):
            if value not in known:
                raise UsageError(f"{field}={value!r} is not known", f"choose from {', '.join(known)}")

    @property
    def name(self) -> str:
        """As on the command line."""
        return "channel" if self == Channel() else f"channel:{self.aggregate}:{self.normalise}"


_PATTERN = re.compile(r"(?P<n>\d+):(?P<m>\d+)$")
_BLOCK = re.compile(r"block(?::(?P<h>\d+)x(?P<w>\d+))?$")


def find_granularity(granularity: str | Granularity) -> Granularity:
    """Look a granularity up.

    Args:
        granularity: ``weight``, ``row``, ``column``, ``kernel``, ``block:4x4``, ``2:4``, ``channel`` or
            ``channel:mean:lamp`` (aggregate and normalisation), or an object.

    Raises:
        UsageError: if there is none of that name.
    """
    if isinstance(granularity, Granularity):
        return granularity
    named = {"weight": WEIGHT, "row": Slices((0,)), "column": Slices((1,)), "kernel": Slices((0, 1))}
    if granularity in named:
        return named[granularity]
    if found := _PATTERN.match(str(granularity)):
        return NM(int(found["n"]), int(found["m"]))
    if found := _BLOCK.match(str(granularity)):
        return Block(int(found["h"] or 4), int(found["w"] or 4))
    kind, *parts = str(granularity).split(":")
    if kind == "channel" and len(parts) <= 2:
        return Channel(*parts)  # type: ignore[arg-type]
    raise UsageError(
        f"there is no granularity {granularity!r}",
        "choose weight, row, column, kernel, block:4x4, 2:4 or channel",
    )


def keep_units(scores: Tensor, sizes: Tensor, elements: int) -> Tensor:
    """The best units that together have at most so many elements.

    Args:
        scores: (units,).
        sizes: (units,) elements of each.
        elements: The bound; where all units are of one size the count is exact.

    Returns:
        (units,) bool, the longest prefix of the order by score that fits.
    """
    if len(sizes) and int(sizes.min()) == int(sizes.max()):
        return top_k(scores, min(elements // int(sizes[0]), len(sizes)))
    order = scores.argsort(descending=True, stable=True)
    fits = sizes.to(order.device)[order].cumsum(0) <= elements
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(0, order, fits)
