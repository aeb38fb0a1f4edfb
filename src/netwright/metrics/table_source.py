"""How a latency table is measured: which networks are built, what operators they run, and what each takes."""

from __future__ import annotations

import itertools
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from netwright.errors import ArtefactError, ModelError
from netwright.metrics.alone import Nothing, Single
from netwright.metrics.latency_table import Comparison, Floats, Grid, LatencyTable, Layout, Timed, Width
from netwright.metrics.operators import Call, Kind, block, names, read_calls
from netwright.metrics.session import Example, feed, open_session
from netwright.structure import Structure, shrink
from netwright.structure.blocks import Parts

Ints = NDArray[np.int64]
#: Writes a network as an ONNX file of fixed shapes: (model, example, path).
Export = Callable[[nn.Module, Any, Path], object]

#: Shares of a width at which an operator is measured, by how many widths it has; more than three share one.
_SHARES = {1: (0.125, 0.25, 0.5, 0.75, 1.0), 2: (0.125, 0.25, 0.5, 0.75, 1.0), 3: (0.25, 0.5, 1.0)}
_STEP = 8
#: Operators that move nothing.
_FREE = frozenset("Reshape Squeeze Unsqueeze Flatten Identity Shape Constant Cast".split())


def latency_table(
    model: nn.Module,
    net: Structure,
    export: Export,
    *,
    threads: int = 1,
    checks: int = 4,
    seed: int = 0,
    min_seconds: float = 0.5,
) -> LatencyTable:
    """Measure a network's operators, each at a few widths, on this machine's processor in ONNX Runtime.

    Args:
        model: The dense network; it is not touched.
        net: Its structure.
        export: Writes a module and an example as an ONNX file of fixed shapes, for instance
            ``lambda m, x, p: netwright.quantization.export_onnx(m, x, p, dynamic_batch=False)``.
        threads: Threads inside an operator.
        checks: Pruned networks that are built, measured as a whole and compared; 0 compares none.
        seed: Of the widths of the compared networks.
        min_seconds: Seconds for which each whole network is measured.

    Raises:
        ModelError: if ONNX Runtime runs other operators at other widths.
        StructureError: if the network cannot be built at other widths.
    """
    inputs = net.inputs.map(lambda x: x[:1]) if net.batch > 1 else net.inputs
    example: Example = dict(inputs.kwargs) if inputs.kwargs else inputs.args
    tensors = _tensors(example)
    parts = Parts(net.prunable)
    widths, counts = candidates(net)
    with tempfile.TemporaryDirectory(prefix="netwright-table-") as name:
        folder = Path(name)
        files = itertools.count()

        def write(keep: Tensor) -> Path:
            path = folder / f"{next(files)}.onnx"
            small = model if bool(keep.all()) else shrink(model, net, keep).model
            export(small, example, path)
            return path

        source = _Source(net, parts, counts, write, tensors, threads, min_seconds, seed)
        layouts, dense, unmatched = source.layouts()
        table = LatencyTable(
            net.name,
            fingerprint(threads),
            1,
            dense,
            block(),
            widths,
            counts(net.everything).tolist(),
            layouts,
            unmatched,
        )
        generator = torch.Generator().manual_seed(seed + 1)
        whole = write(net.everything) if checks else folder
        for share in np.linspace(1, 0.25, checks).tolist() if checks > 1 else [0.5] * checks:
            keep = _draw(net, parts, share, generator)
            both = _whole([whole, write(keep)], tensors, threads, min_seconds)
            ratio = statistics.median(both[1]) / statistics.median(both[0])
            predicted = float(table.predict(net, keep))
            macs = net.cost(keep).macs / max(net.macs, 1)
            table.checks.append(Comparison(macs, predicted, table.dense_ms * ratio, ratio))
    return table


def fingerprint(threads: int) -> dict[str, Any]:
    """What a measured time depends on, beside the network: processor, threads and versions."""
    import onnxruntime

    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((ln.partition(":")[2].strip() for ln in lines if ln.startswith("model name")), name)
    except OSError:
        pass
    return {
        "processor": name,
        "system": platform.system(),
        "threads": threads,
        "runtime": "onnxruntime",
        "version": onnxruntime.__version__,
        "provider": "CPUExecutionProvider",
    }


@dataclass
class _Source:
    """What the layouts of a network are measured from."""

    net: Structure
    parts: Parts
    counts: Callable[[Tensor], Ints]
    write: Callable[[Tensor], Path]
    tensors: Example
    threads: int
    min_seconds: float
    seed: int

    def layouts(self) -> tuple[list[Layout], float, int]:
        """The layouts that differ, the dense network's milliseconds, and the sizes that follow no width."""
        size = self.parts.levels
        wide = size >= 2 * block()
        try:
            first, dense, found = self._layout("blocks", size, torch.where(wide, block(), 1))
        except ModelError:  # narrow convolutions are run in another way: their widths stay
            first, dense, found = self._layout("blocks", size, torch.where(wide, block(), 0))
        layouts = [first]
        kinds = [(call.kind.domain, call.kind.op) for call in found]
        if all(grid.block == 1 for grid in first.grids):
            return layouts, dense, sum(call.unmatched for call in found)
        four = torch.where(wide & (size % block() == 0), size - block() // 2, size)
        odd = torch.where(wide, size - 1 - size % 2, size)  # neither whole blocks nor fours
        narrow = torch.minimum(size, torch.tensor(block() - 1))
        for name, top, step in (
            ("fours", four, torch.where(wide, block(), 0)),
            ("any", odd, torch.where(wide, 2, 0)),
            ("narrow", narrow, torch.ones_like(size)),
        ):
            widest = self.write(self._keep(top))
            if names(widest, self._feed(widest), self.threads) == kinds:
                continue
            try:
                layout, _, _ = self._layout(name, top, step)
            except ModelError:  # it is no single layout: the one before stands in
                continue
            layouts.append(layout)
        return layouts, dense, sum(call.unmatched for call in found)

    def _layout(self, name: str, top: Tensor, step: Tensor) -> tuple[Layout, float, list[Call]]:
        """Measure the operators of networks whose widths are some widest ones less multiples of a step."""
        keeps = [self._keep(top), *telling(self.net, self.parts, self.counts, top, step, self.seed)]
        keeps.append(
            self._keep(top - (0.8 * _room(top, step)).long() * step)
        )  # a small one, to tell the rest
        paths = [self.write(keep) for keep in keeps]
        feeds = [self._feed(path) for path in paths]
        table = np.stack([self.counts(keep) for keep in keeps])
        found = read_calls(paths, feeds, table, self.threads)
        kinds = list(dict.fromkeys(call.kind for call in found))
        grids = [_measure(kind, self.threads, sum(c.kind == kind for c in found)) for kind in kinds]
        layout = Layout(name, 1.0, 0.0, grids, [Timed(kinds.index(c.kind), c.slots) for c in found])
        sums = layout.times(table.astype(np.float64))
        times = _whole(paths, self.tensors, self.threads, self.min_seconds)
        whole = np.array([statistics.median(t) for t in times])
        layout.factor, layout.rest_ms = _line(sums, whole)
        return layout, float(whole[0]), found

    def _keep(self, levels: Tensor) -> Tensor:
        return self.parts.first(levels, self.net.count)

    def _feed(self, path: Path) -> dict[str, Any]:
        return feed(open_session(path, threads=self.threads), self.tensors)


def _tensors(example: Example) -> Example:
    if isinstance(example, dict):
        return {k: v for k, v in example.items() if isinstance(v, Tensor)}
    return [x for x in example if isinstance(x, Tensor)]


def _draw(net: Structure, parts: Parts, share: float, generator: torch.Generator) -> Tensor:
    """A keep mask of about some share of every axis, a quarter up or down; wide axes keep whole steps."""
    factor = 1 + (torch.rand(len(parts.levels), generator=generator) - 0.5) / 2 if share < 1 else 1.0
    step = torch.where(parts.levels >= 2 * _STEP, _STEP, 1)
    levels = ((parts.levels * share * factor / step).round() * step).long()
    levels = torch.minimum(torch.maximum(levels, torch.ones_like(levels)), parts.levels)
    return parts.first(levels, net.count)


def candidates(net: Structure) -> tuple[list[Width], Callable[[Tensor], Ints]]:
    """What sizes may follow: every distinct combination of parts that a parameter's dimension lies on.

    Returns:
        The widths, and a function from a keep mask to the number of members that each of them keeps.
    """
    owner = torch.full((net.count,), -1, dtype=torch.int64)
    names: list[tuple[str, int]] = []
    lengths: list[int] = []
    for axis in net.prunable:
        for p, part in enumerate(axis.parts):
            owner[part] = len(names)
            names.append((axis.name, p))
            lengths.append(len(part))
    found: dict[bytes, tuple[Width, Tensor]] = {}
    for dims in net.layers.values():
        for dim, layer in dims.items():
            for d in range(layer.dim()):
                layer = layer if d == dim else layer.narrow(d, 0, 1)
            labels = layer.reshape(-1)
            on = owner[labels]
            if not bool((on >= 0).any()):
                continue
            times = torch.bincount(on[on >= 0], minlength=len(names))
            fixed = int((on < 0).sum())
            key = times.numpy().tobytes() + bytes(str(fixed), "ascii")
            pieces = tuple(
                (*names[p], int(times[p]) / lengths[p]) for p in times.nonzero().reshape(-1).tolist()
            )
            found.setdefault(key, (Width(fixed, pieces), labels))
    labelled = [labels for _, labels in found.values()]

    def counts(keep: Tensor) -> Ints:
        return np.array([int(keep[labels].sum()) for labels in labelled], dtype=np.int64)

    return [width for width, _ in found.values()], counts


def telling(
    net: Structure,
    parts: Parts,
    counts: Callable[[Tensor], Ints],
    top: Tensor,
    step: Tensor,
    seed: int,
    most: int = 4,
) -> list[Tensor]:
    """As few keep masks as tell the widths of a network apart, also when they are rounded to blocks.

    Args:
        net: The network.
        parts: Of its axes.
        counts: Widths of a mask.
        top: (A,) the largest level of every axis.
        step: (A,) by multiples of which the levels are smaller; 0 leaves them.
        seed: Of the draws.
        most: Masks at most.
    """
    generator = torch.Generator().manual_seed(seed)
    room = _room(top, step)
    best: list[Tensor] = []
    fewest = -1
    first = parts.first(top, net.count)
    for number in range(2, most + 1):
        for _ in range(12):
            less = (torch.rand(number, len(top), generator=generator) * (0.7 * room + 1)).long()
            keeps = list(parts.first(top - torch.minimum(less, room) * step, net.count))
            table = np.stack([counts(keep) for keep in (first, *keeps)])
            alike = table.shape[1] - np.unique(-(-table // block()), axis=1).shape[1]
            if fewest < 0 or alike < fewest:
                best, fewest = keeps, alike
            if fewest == 0:
                return best
    return best


def _room(top: Tensor, step: Tensor) -> Tensor:
    """(A,) how many steps each level can go down; where steps are not single, not below a block."""
    least = torch.where(step > 1, block(), 1)
    return torch.where(step > 0, ((top - least) // step.clamp(min=1)).clamp(min=0), 0)


def _line(sums: Floats, whole: Floats) -> tuple[float, float]:
    """Factor and constant with the least squares of relative errors; neither is negative."""
    from scipy.optimize import nnls

    (factor, rest), _ = nnls(np.stack([sums / whole, 1 / whole], axis=1), np.ones(len(whole)))
    return float(factor), float(rest)


def _measure(kind: Kind, threads: int, calls: int) -> Grid:
    """Time an operator at every combination of a few widths, in turn."""
    shares = _SHARES.get(len(kind.widths))
    if not kind.widths:
        axes: list[list[int]] = []
        points: list[tuple[int, ...]] = [()]
    elif shares is None:  # all its widths together
        axes = [_sizes(kind, slot, _SHARES[1]) for slot in range(len(kind.widths))]
        shortest = min(map(len, axes))
        axes = [a[-shortest:] for a in axes]
        points = list(zip(*axes, strict=True))
    else:
        axes = [_sizes(kind, slot, shares) for slot in range(len(kind.widths))]
        points = list(itertools.product(*axes))
    if kind.op in _FREE:
        points = [kind.widths]
    try:
        times = time_alone([Single(kind, point, threads) for point in points], threads)
    except ArtefactError:  # a size of it could not be told: it is taken as it is in the dense network
        points = [kind.widths]
        times = time_alone([Single(kind, point, threads) for point in points], threads)
    if len(points) == 1:
        return Grid(kind.op, (), times[0], kind.block, calls)
    table = np.asarray(times)
    if shares is not None:
        table = table.reshape([len(a) for a in axes])
    return Grid(kind.op, tuple(map(tuple, axes)), table.tolist(), kind.block, calls)


def _sizes(kind: Kind, slot: int, shares: Sequence[float]) -> list[int]:
    """Widths of a slot near some shares of the dense one that the operator can have."""
    dense, step = kind.widths[slot], kind.step(slot)
    points = {max(step, round(dense * share / step) * step) for share in shares if share < 1} | {dense}
    return sorted({-(-point // kind.block) * kind.block for point in points})


def clock(threads: int) -> Callable[[], float]:
    """Seconds that a measurement counts: with one thread its own, so that other programs do not count."""
    return time.thread_time if threads == 1 else time.perf_counter


def time_alone(singles: Sequence[Single], threads: int, seconds: float = 0.01) -> list[float]:
    """Median milliseconds of operators by themselves, run in turn so that drift meets all alike.

    Args:
        singles: The operators.
        threads: Threads inside an operator.
        seconds: For each of them.
    """
    times = _in_turn([single.run for single in singles], threads, seconds, 5)
    copies = sorted({single.copies for single in singles})
    empty = _in_turn([Nothing(threads, n).run for n in copies], threads, seconds, 5)
    call = {n: statistics.median(t) for n, t in zip(copies, empty, strict=True)}
    return [
        max(statistics.median(t) - call[s.copies], 0.0) / s.copies
        for t, s in zip(times, singles, strict=True)
    ]


def _in_turn(
    runs: Sequence[Callable[[], object]], threads: int, seconds: float, rounds: int
) -> list[list[float]]:
    """Milliseconds of every run of some functions, A A B B A A B B, the first run of a turn not counted."""
    now = clock(threads)
    repeats = []
    for run in runs:
        run()
        begun = now()
        run()
        repeats.append(int(np.clip(seconds / max(now() - begun, 1e-6), 5, 200)))
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(rounds):
        for run, number, found in zip(runs, repeats, times, strict=True):
            run()
            for _ in range(max(1, number // rounds)):
                begun = now()
                run()
                found.append((now() - begun) * 1e3)
    return times


def _whole(paths: Sequence[Path], tensors: Example, threads: int, seconds: float) -> list[list[float]]:
    """Milliseconds of runs of whole networks, in turn."""
    sessions = [open_session(path, threads=threads) for path in paths]
    feeds = [feed(session, tensors) for session in sessions]
    runs = [partial(s.run, None, f) for s, f in zip(sessions, feeds, strict=True)]
    return _in_turn(runs, threads, seconds, 10)
