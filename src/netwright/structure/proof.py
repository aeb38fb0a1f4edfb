"""Prove a surgery without arithmetic: shapes, scalars and labels of the small network against the dense.

1. The small network calls the same operators in the same order, every output has the predicted shape,
   and every floating-point argument (a softmax temperature, an epsilon) is the same.
2. Walking the small network with the labels of what was kept ties no two classes: wherever two kept units
   meet in the small network they are one class, as in the dense one.
3. Every operator sees exactly the units that stay of those it saw in the dense network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from netwright.structure.labels import Labels, Traced
from netwright.structure.layers import varying
from netwright.structure.record import Node, Recording
from netwright.structure.sizes import take
from netwright.structure.sources import Place
from netwright.structure.wiring import sources

if TYPE_CHECKING:
    from netwright.structure.tracing import Structure
from netwright.structure.factors import changed_factors, computing

Ints = NDArray[np.int64]
#: From the class labels (n,) of a dimension to the indices of what is there after a change.
Order = Callable[[Tensor], Tensor]
#: Operators whose secondary outputs are bookkeeping.
_PRIMARY = 1


@dataclass(frozen=True)
class Mismatch:
    """A difference between the small network and what the labels predict.

    Attributes:
        what: The difference, in words.
        op: The operator.
        module: Path of the module that called it.
        position: How many operators ran before it.
        source: File and line of the code that called it, where that is known.
    """

    what: str
    op: str
    module: str
    position: int = 0
    source: tuple[str, int] | None = None

    def __str__(self) -> str:
        line = f", {Place(*self.source)}" if self.source is not None else ""
        where = f" (operator {self.op} in {self.module or 'the model itself'}{line})" if self.op else ""
        return self.what + where


def prove(
    net: Structure,
    run: Traced,
    small: Recording,
    predicted: list[tuple[int, ...]],
    keep: Tensor,
    kept: Mapping[str, Mapping[int, Tensor]],
    order: Order | None = None,
    *,
    ran: bool = False,
    factors: bool = True,
) -> Mismatch | None:
    """The first difference, or None when the surgery is right.

    Args:
        net: The dense network's structure.
        run: One of its recordings.
        small: The same recording of the small network.
        predicted: Shape of every tensor of the dense recording after the surgery.
        keep: (count,) bool, True where a class stays.
        kept: What stayed, by parameter.
        order: What is where along a dimension, when it is not simply what stays.
        ran: Whether operators and shapes are known to be as predicted (see `progress`).
        factors: Whether numbers in the code that follow a size count (see `changed_factors`).
    """
    found = None if ran else _operators(run, small, predicted)
    found = found or _labels(net, run, small, predicted, keep, kept, order)
    if found is None and factors:
        for factor in changed_factors(run, small):
            dense = factor.dense
            return Mismatch(factor.what, dense.op, dense.module, source=dense.source)
    return found


def _operators(
    run: Traced, small: Recording, predicted: list[tuple[int, ...]], whole: bool = True
) -> Mismatch | None:
    """The first operator or shape that is not as predicted; of a pass that stopped, of what ran of it."""
    ours, theirs = computing(run.recording), computing(small)
    counted = _counted(run)
    read = zip(sources(run.recording), sources(small), strict=False)
    for position, (a, b, (want_from, got_from)) in enumerate(zip(ours, theirs, read, strict=False)):
        if a.op != b.op:
            return Mismatch(f"{b.op} runs where {a.op} ran", a.op, a.module, position, a.source)
        if any(s != t and None not in (s, t) for s, t in zip(want_from, got_from, strict=False)):
            return Mismatch("it reads another tensor", a.op, a.module, position, a.source)
        for x, y in list(zip(a.outputs, b.outputs, strict=False))[:_PRIMARY]:
            if x < 0 or y < 0 or x in run.uniform:
                continue
            free = _free(run, counted, x)
            want, got = predicted[x], small.shapes[y]
            if len(want) != len(got) or any(
                m != n for d, (m, n) in enumerate(zip(want, got, strict=True)) if d not in free
            ):
                what = f"the shape is {got} where {want} is right"
                return Mismatch(what, a.op, a.module, position, a.source)
    if whole and len(ours) != len(theirs):
        return Mismatch(
            f"{len(theirs)} operators run where {len(ours)} ran", "", "", min(len(ours), len(theirs))
        )
    return None


#: Operators whose values decide about sizes, which another network's values decide otherwise.
_COUNTING = frozenset("nonzero masked_select _unique2 unique_dim unique_consecutive".split())


def _counted(run: Traced) -> set[int]:
    """Tensors with a dimension whose size may come from values (how many tokens an expert is given)."""
    recording = run.recording
    found: set[int] = set()
    for node in recording.nodes if recording.real else ():
        masked = node.op == "index" and any(
            recording.dtypes[i] in (torch.bool, torch.uint8) for i in node.inputs[1:]
        )
        if masked or node.op in _COUNTING or any(i in found for i in node.inputs):
            found.update(o for o in node.outputs if o not in node.inputs)  # what was written keeps its size
    return found


def _free(run: Traced, counted: set[int], number: int) -> frozenset[int]:
    """Dimensions whose size is not predicted: expanded ones, and those that values decide."""
    free = run.recording.broadcast.get(number, frozenset())
    if number not in counted:
        return free
    labelled = {d for layer in run.table[number] for d in varying(layer)}
    return free | (frozenset(range(len(run.recording.shapes[number]))) - labelled)


def progress(
    run: Traced, small: Recording, predicted: list[tuple[int, ...]], *, whole: bool = False
) -> Mismatch | None:
    """The first difference in as much of a forward pass as ran, labels and factors aside.

    Args:
        run: The dense recording.
        small: A recording that may have stopped on the way.
        predicted: Shape of every tensor of the dense recording after the surgery.
        whole: Whether it came to its end.
    """
    return _operators(run, small, predicted, whole)


def _given(net: Structure, kept: Mapping[str, Mapping[int, Tensor]]) -> dict[str, dict[int, Tensor]]:
    """The class labels of the small network's parameters.

    Args:
        net: The dense network's structure.
        kept: What stayed, by parameter.
    """
    known: dict[tuple[int, ...], Tensor] = {}  # what follows one axis is one object, of labels and of indices
    given: dict[str, dict[int, Tensor]] = {}
    for name, dims in net.layers.items():
        cut = kept.get(name, {})
        given[name] = dict(dims)
        for dim, layer in dims.items() if cut else ():
            own = {d: cut[d] for d in varying(layer) if d in cut}
            key = (id(layer), *[number for d, index in own.items() for number in (d, id(index))])
            if key not in known:
                known[key] = take(layer, own)
            given[name][dim] = known[key]
    return given


def _labels(
    net: Structure,
    run: Traced,
    small: Recording,
    predicted: list[tuple[int, ...]],
    keep: Tensor,
    kept: Mapping[str, Mapping[int, Tensor]],
    order: Order | None,
) -> Mismatch | None:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    given = _given(net, kept)
    labels = Labels(heads=net.heads, given=given, units=net.count, leading=net.leading)
    walked = labels.walk(small)
    left = np.concatenate([np.zeros(0, np.int64), *[a.numpy() for a, _, _ in labels.ties]])
    right = np.concatenate([np.zeros(0, np.int64), *[b.numpy() for _, b, _ in labels.ties]])
    live = (left != 0) & (right != 0) & (left != right)
    left, right = left[live], right[live]
    n = labels.units
    graph = coo_array((np.ones(len(left), np.bool_), (left, right)), shape=(n, n))
    _, component = connected_components(graph, directed=False)
    mine = component[1 : net.count]
    if np.bincount(mine, minlength=1).max() <= 1:
        return _inputs(net, run, walked, predicted, keep, component, order)
    ranked = np.argsort(mine, kind="stable")
    double = np.flatnonzero(np.diff(mine[ranked]) == 0)
    bad = {int(ranked[double[0]]) + 1, int(ranked[double[0] + 1]) + 1}
    for a, b, node in labels.ties:
        x, y = a.numpy(), b.numpy()
        hit = (x != y) & np.isin(x, list(bad)) & np.isin(y, list(bad))
        if hit.any() and node is not None:
            return Mismatch("units meet that did not meet in the dense network", node.op, node.module)
    return Mismatch("units meet that did not meet in the dense network", "", "")


def _inputs(
    net: Structure,
    run: Traced,
    small: Traced,
    predicted: list[tuple[int, ...]],
    keep: Tensor,
    component: Ints,
    order: Order | None,
) -> Mismatch | None:
    """The first operator that does not see exactly what stays of what it saw in the dense network.

    A slice with a fixed bound takes other channels once some before it went; where their number and all
    shapes agree, only the labels tell.
    """
    counted = _counted(run)
    shuffled = net.partition.shuffled
    agreed: set[tuple[tuple[int, ...], tuple[int, ...]]] = set()
    dense, after = _Rows(net.sizes.classes), _Rows(lambda layer: layer)
    waiting: list[tuple[Ints, Ints, Node]] = []  # rows that are to be the same, compared all at once
    for a, b in zip(computing(run.recording), computing(small.recording), strict=True):
        for x, y in zip(a.inputs, b.inputs, strict=False):
            if x in run.uniform or y in small.uniform:
                continue
            got, want = small.recording.shapes[y], predicted[x]
            if got != want:
                free = _free(run, counted, x)
                if any(m != n for d, (m, n) in enumerate(zip(want, got, strict=False)) if d not in free):
                    what = f"the input has shape {got} where {want} is right"
                    return _apart(waiting, component) or Mismatch(what, a.op, a.module, source=a.source)
            before, now = run.table[x], small.table[y]
            if not before or not now:
                continue
            key = (tuple(map(id, before)), tuple(map(id, now)))
            if key in agreed:  # what passes through many operators is one object
                continue
            agreed.add(key)
            rows = [row for row in map(dense.row, before) if len(row.dims) == 1]
            for row in rows:
                there = [seen.units for seen in map(after.row, now) if seen.dims == row.dims]
                if not there:
                    continue
                stay = row.units[_stays(row, rows, keep, order)]
                if order is None and shuffled.any():
                    found = any(_same_set(units, stay, component, shuffled) for units in there)
                elif len(there) == 1 and there[0].shape == stay.shape:
                    waiting.append((there[0], stay, a))
                    found = True
                else:
                    found = any(_same(units, stay, component) for units in there)
                if not found:
                    what = "it sees other units than in the dense network"
                    return _apart(waiting, component) or Mismatch(what, a.op, a.module)
    return _apart(waiting, component)


@dataclass(frozen=True)
class _Row:
    """A layer as an array: the dimensions along which it varies, and its units (n,) in order."""

    dims: tuple[int, ...]
    units: Ints


class _Rows:
    """Layers as arrays, each looked at once."""

    def __init__(self, label: Callable[[Tensor], Tensor]) -> None:
        self._label = label
        self._known: dict[int, tuple[Tensor, _Row]] = {}  # by id; the layer is held, so that it stays its own

    def row(self, layer: Tensor) -> _Row:
        known = self._known.get(id(layer))
        if known is None:
            seen = self._label(layer)
            same = self._known.get(id(seen))  # layers of units may be one of classes
            row = same[1] if same is not None else _Row(varying(seen), seen.numpy().ravel())
            self._known[id(seen)] = (seen, row)
            known = self._known[id(layer)] = (layer, row)
        return known[1]


def _apart(waiting: list[tuple[Ints, Ints, Node]], component: Ints) -> Mismatch | None:
    """The first operator whose rows of units are not the same."""
    if not waiting:
        return None
    seen = np.concatenate([units for units, _, _ in waiting])
    want = np.concatenate([units for _, units, _ in waiting])
    wrong = ~_agree(seen, want, component)
    if not wrong.any():
        return None
    ends = np.cumsum([len(units) for units, _, _ in waiting])
    node = waiting[int(np.searchsorted(ends, wrong.argmax(), side="right"))][2]
    return Mismatch("it sees other units than in the dense network", node.op, node.module)


def _stays(row: _Row, rows: list[_Row], keep: Tensor, order: Order | None) -> NDArray[Any]:
    """What is left of a row: a mask, or indices."""
    if order is not None:
        for other in (row, *rows):  # the one that moves takes the others along
            index = order(torch.from_numpy(other.units)).numpy()
            if other.dims == row.dims and not np.array_equal(index, np.arange(len(row.units))):
                return index  # type: ignore[no-any-return]
        return np.arange(len(row.units))
    mask = keep.numpy()
    stays = mask[row.units]
    for other in rows:  # an element stays iff it does in every layer
        if other is not row and other.dims == row.dims:
            stays = stays & mask[other.units]
    return stays  # type: ignore[no-any-return]


def _same_set(
    x: Ints,
    y: Ints,
    component: Ints,
    shuffled: NDArray[np.bool_],
) -> bool:
    """Whether two rows of units are the same in any order: that they meet the same is what the ties tell.

    Slots without units are taken for what else is wanted, unless that is interleaved with others.
    """
    if x.shape != y.shape:
        return False
    found, wanted = np.sort(component[x[x != 0]]), component[y]
    order = np.argsort(wanted, kind="stable")
    place = np.searchsorted(wanted[order], found)
    place += np.arange(len(found)) - np.searchsorted(found, found)  # the k-th of equal ones
    if (place >= len(y)).any() or (wanted[order][place] != found).any():
        return False
    rest = np.delete(y[order], place)
    return not shuffled[rest].any()


def _same(seen: Ints, want: Ints, component: Ints) -> bool:
    """Whether two rows of units are the same, up to ties; frozen slots and new units say nothing."""
    return seen.shape == want.shape and bool(_agree(seen, want, component).all())


def _agree(seen: Ints, want: Ints, component: Ints) -> NDArray[np.bool_]:
    """Where two rows of units (n,) say nothing against one another."""
    return (component[seen] == component[want]) | (seen == 0) | (want == 0)  # type: ignore[no-any-return]
