"""A latency table: every distinct operator measured at a few widths, and any choice of widths from it.

A search asks for the latency of thousands of networks, and measuring one takes a second. So each distinct
operator that ONNX Runtime runs for a network is measured alone, at a few widths of what it reads and writes,
and the time of a pruned network is the sum over its operators, interpolated in their widths. What a sum of
operators cannot know (caches, the calls between them) is a factor and a constant, fitted to a few whole
networks. How far the table is from other whole networks is measured and reported (`LatencyTable.checks`).
"""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from netwright import _files
from netwright.errors import ArtefactError, UsageError
from netwright.structure import Structure

Floats = NDArray[np.float64]
#: How widths lie to ONNX Runtime's blocks, from best to worst.
ALIGNMENTS = ("blocks", "fours", "any", "narrow")
_VERSION = 1


@dataclass(frozen=True)
class Grid:
    """The times of one distinct operator.

    Args:
        op: Its type, for people.
        widths: For every width that it has, the sizes at which it was measured, ascending.
        milliseconds: (sizes of the first width, of the second, ...) medians, nested.
        block: It works on blocks of so many channels, and rounds its widths up to them.
        calls: How often the network runs it.
    """

    op: str
    widths: tuple[tuple[int, ...], ...]
    milliseconds: Any
    block: int = 1
    calls: int = 0


@dataclass(frozen=True)
class Width:
    """A size of the network as the numbers of members that stay in parts of its axes.

    Args:
        constant: Members that always stay.
        parts: (axis, part, members that one of the part brings).
    """

    constant: float
    parts: tuple[tuple[str, int, float], ...] = ()


@dataclass(frozen=True)
class Timed:
    """One operator of the network.

    Args:
        grid: Which of the grids it follows.
        widths: Which of the table's widths its own are.
    """

    grid: int
    widths: tuple[int, ...]


@dataclass
class Layout:
    """How ONNX Runtime runs the network where its widths are of one alignment, and the times of that.

    It stores channels in blocks, and runs a convolution whose widths are no whole blocks in another way, with
    other operators around it.

    Attributes:
        alignment: "blocks" (widths differ from the dense ones by whole blocks), "fours" (they are multiples
            of four), "any", or "narrow" (they are less than one block).
        factor: What an operator takes inside a network by what it takes alone.
        rest_ms: What the network takes beside its operators.
        grids: Times of the distinct operators.
        calls: The operators of the network, in order.
    """

    alignment: str
    factor: float
    rest_ms: float
    grids: list[Grid]
    calls: list[Timed]

    def times(self, sizes: Floats) -> Floats:
        """Milliseconds of the whole network.

        Args:
            sizes: (settings, widths).

        Returns:
            (settings,).
        """
        total = np.zeros(len(sizes))
        done: dict[tuple[int, tuple[int, ...]], Floats] = {}
        for call in self.calls:
            key = (call.grid, call.widths)
            if key not in done:
                done[key] = interpolate(self.grids[call.grid], sizes[:, list(call.widths)])
            total += done[key]
        return np.maximum(self.factor * total + self.rest_ms, 0.0)


@dataclass(frozen=True)
class Comparison:
    """A prediction against the measured network.

    Args:
        share: Multiply-accumulates by the dense network's.
        predicted_ms: From the table.
        measured_ms: The median of a whole network's runs, in turn with the dense network's: the dense time of
            the table times the measured ratio, so that the machine's drift cancels.
        ratio: Measured time by the dense network's, of runs side by side.
    """

    share: float
    predicted_ms: float
    measured_ms: float
    ratio: float

    @property
    def error(self) -> float:
        """The prediction by the measurement, less one."""
        return self.predicted_ms / self.measured_ms - 1


@dataclass
class LatencyTable:
    """Latency of a network at any widths, by its operators. Made by `latency_table`.

    Attributes:
        network: Name of the model.
        device: Where it was measured: processor, threads, versions.
        batch: Examples of one run.
        dense_ms: Median time of the dense network as a whole.
        block: Channels of one block of ONNX Runtime's own layout on the device.
        widths: Sizes that operators may follow.
        dense: The dense network's widths.
        layouts: "blocks" first, and the others where they differ.
        unmatched: Sizes that follow no width of the network; they are taken as dense.
        checks: Predictions against whole networks.
    """

    network: str
    device: dict[str, Any]
    batch: int
    dense_ms: float
    block: int
    widths: list[Width]
    dense: list[int]
    layouts: list[Layout]
    unmatched: int = 0
    checks: list[Comparison] = field(default_factory=list)

    def predict(self, net: Structure, keep: Tensor) -> Tensor:
        """Latency of pruned networks, without building one.

        Args:
            net: The structure of the network that was measured.
            keep: (count,) or (settings, count) bool.

        Returns:
            () or (settings,) milliseconds, float64.

        Raises:
            UsageError: if the table is of another network, or the mask has another length.
        """
        if keep.shape[-1] != net.count:
            raise UsageError(f"the mask has {keep.shape[-1]} classes, the network has {net.count}")
        sizes = self._sizes(net, torch.atleast_2d(keep))  # (settings, widths)
        total = np.zeros(len(sizes))
        for layout, share in zip(self.layouts, self._alignments(sizes), strict=True):
            total += share * layout.times(sizes)
        out = torch.from_numpy(total)
        return out if keep.dim() == 2 else out[0]

    def _alignments(self, sizes: Floats) -> list[Floats]:
        """How much of the network is run in which layout: by the time of the operators in blocks."""
        names = [layout.alignment for layout in self.layouts]
        if len(names) == 1:
            return [np.ones(len(sizes))]
        whole = (np.array(self.dense) - sizes) % self.block == 0
        fours = (sizes % 4 == 0) & (sizes >= self.block)
        aligned = np.where(fours, 1, np.where(sizes >= self.block, 2, 3))
        worst = np.where(whole, 0, aligned)  # (settings, widths)
        place = [max(i for i, name in enumerate(names) if ALIGNMENTS.index(name) <= k) for k in range(4)]
        worst = np.array(place)[worst]  # one that was not measured counts as the one before
        share = np.zeros((len(names), len(sizes)))
        blocks = self.layouts[0]
        for call in blocks.calls:
            grid = blocks.grids[call.grid]
            if grid.block > 1 and call.widths:
                slots = list(call.widths)
                spent = interpolate(grid, sizes[:, slots])
                share[worst[:, slots].max(axis=1), np.arange(len(sizes))] += spent
        whole_ms = share.sum(axis=0)
        share[0] += whole_ms == 0
        return list(share / np.where(whole_ms == 0, 1, whole_ms))

    def _sizes(self, net: Structure, keep: Tensor) -> Floats:
        parts = {(axis.name, p): part for axis in net.prunable for p, part in enumerate(axis.parts)}
        kept: dict[tuple[str, int], Floats] = {}
        columns = []
        for width in self.widths:
            column = np.full(len(keep), float(width.constant))
            for axis, p, members in width.parts:
                if (axis, p) not in parts:
                    raise UsageError(
                        f"the table is of a {self.network} with an axis {axis} of more parts, which this "
                        f"network ({net.name}) lacks",
                        "measure a table of this network",
                    )
                if (axis, p) not in kept:
                    kept[axis, p] = keep[:, parts[axis, p]].sum(dim=1).double().numpy()
                column += members * kept[axis, p]
            columns.append(column)
        return np.stack(columns, axis=1) if columns else np.zeros((len(keep), 0))

    @property
    def error(self) -> float | None:
        """Median absolute relative error over the networks that were checked."""
        errors = [abs(c.error) for c in self.checks]
        return statistics.median(errors) if errors else None

    def save(self, path: str | Path) -> None:
        """Write the table as JSON.

        Raises:
            ArtefactError: if the file cannot be written.
        """
        document = {"version": _VERSION, **asdict(self)}
        _files.write_text(Path(path), json.dumps(document) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> LatencyTable:
        """Read a table.

        Raises:
            ArtefactError: if the file is missing or no latency table.
        """
        try:
            found = json.loads(Path(path).read_text())
            if found.pop("version") != _VERSION:
                raise ValueError("another version")
            found["layouts"] = [_layout(entry) for entry in found["layouts"]]
            found["widths"] = [Width(w["constant"], tuple(map(tuple, w["parts"]))) for w in found["widths"]]
            found["checks"] = [Comparison(**c) for c in found["checks"]]
            return cls(**found)
        except OSError as error:
            raise ArtefactError(f"{path} cannot be read ({error.strerror})", "check the path") from error
        except (ValueError, TypeError, KeyError) as error:
            raise ArtefactError(f"{path} is no latency table", "measure one again") from error

    def __str__(self) -> str:
        lines = [
            f"{self.network}: {self.dense_ms:.3f} ms for {self.batch} on {self.device['processor']}, "
            f"{self.device['threads']} thread; {len(self.layouts[0].calls)} operators, "
            f"{sum(len(layout.grids) for layout in self.layouts)} distinct"
        ]
        lines += [f"{'MACs':>7}{'predicted ms':>14}{'measured ms':>13}{'error':>8}"] if self.checks else []
        lines += [
            f"{c.share:>7.1%}{c.predicted_ms:>14.3f}{c.measured_ms:>13.3f}{c.error:>+8.1%}"
            for c in self.checks
        ]
        if self.unmatched:
            lines.append(f"{self.unmatched} sizes follow no width of the network and are taken as dense")
        return "\n".join(lines)


def _layout(entry: dict[str, Any]) -> Layout:
    grids = [Grid(**{**g, "widths": tuple(map(tuple, g["widths"]))}) for g in entry["grids"]]
    calls = [Timed(c["grid"], tuple(c["widths"])) for c in entry["calls"]]
    return Layout(entry["alignment"], entry["factor"], entry["rest_ms"], grids, calls)


def interpolate(grid: Grid, sizes: Floats) -> Floats:
    """Times at some widths (settings, widths), linear between the measured ones in every width."""
    table = np.asarray(grid.milliseconds, dtype=np.float64)
    if not grid.widths:
        return np.full(len(sizes), table.reshape(-1)[0])
    if table.ndim != len(grid.widths):  # measured along one line: by the mean share of the dense widths
        dense = np.array([axis[-1] for axis in grid.widths], dtype=np.float64)
        line = (np.array(grid.widths, dtype=np.float64) / dense[:, None]).mean(axis=0)
        return _along(line, table[None], (sizes / dense).mean(axis=1))
    sizes = np.ceil(sizes / grid.block) * grid.block
    out = np.broadcast_to(table, (len(sizes), *table.shape))
    for axis, size in zip(grid.widths, sizes.T, strict=True):
        out = _along(np.asarray(axis, dtype=np.float64), out, size)
    return np.maximum(out, 0.0)


def _along(points: Floats, values: Floats, at: Floats) -> Floats:
    """Interpolate the first dimension after the settings away; beyond the ends the last slope goes on.

    Args:
        points: (n,) ascending.
        values: (settings or 1, n, ...).
        at: (settings,).
    """
    values = np.broadcast_to(values, (len(at), *values.shape[1:]))
    if len(points) == 1:
        return values[:, 0]
    right = np.clip(np.searchsorted(points, at), 1, len(points) - 1)
    weight = (at - points[right - 1]) / (points[right] - points[right - 1])
    weight = weight.reshape(-1, *[1] * (values.ndim - 2))
    rows = np.arange(len(at))
    return (1 - weight) * values[rows, right - 1] + weight * values[rows, right]
