"""Prove a surgery without arithmetic: shapes, scalars and labels of the small network against the dense.

1. The small network calls the same operators in the same order, every output has the predicted shape,
   and every floating-point argument (a softmax temperature, an epsilon) is the same.
2. Walking the small network with the labels of what was kept ties no two classes: wherever two kept units
   meet in the small network they are one class, as in the dense one.
3. Every operator sees exactly the units that stay of those it saw in the dense network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from netwright.structure.cost import VIEWS
from netwright.structure.labels import Labels, Traced
from netwright.structure.layers import varying
from netwright.structure.record import Node, Recording
from netwright.structure.sizes import take
from netwright.structure.sources import Place

if TYPE_CHECKING:
    from netwright.structure.tracing import Structure

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
        factors: Whether numbers in the code that follow a size count (see `changed_factors`).
    """
    found = _operators(run, small, predicted) or _labels(net, run, small, predicted, keep, kept, order)
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
    for position, (a, b) in enumerate(zip(ours, theirs, strict=False)):
        if a.op != b.op:
            return Mismatch(f"{b.op} runs where {a.op} ran", a.op, a.module, position, a.source)
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


def progress(run: Traced, small: Recording, predicted: list[tuple[int, ...]]) -> Mismatch | None:
    """The first difference in as much of a forward pass as ran, labels and factors aside.

    Args:
        run: The dense recording.
        small: A recording that may have stopped on the way.
        predicted: Shape of every tensor of the dense recording after the surgery.
    """
    return _operators(run, small, predicted, whole=False)


@dataclass(frozen=True)
class Factor:
    """A number in the code that follows a size, and so differs in the small network.

    Attributes:
        dense: The operator call in the dense recording.
        want: The number there.
        got: The number in the small network.
    """

    dense: Node
    want: float
    got: float

    @property
    def what(self) -> str:
        """The difference, in words."""
        return f"the factor is {self.got:.6g} where {self.want:.6g} is right"


def changed_factors(run: Traced, small: Recording) -> list[Factor]:
    """Floating-point arguments (a softmax temperature, an epsilon) that differ between two recordings.

    Args:
        run: The dense recording.
        small: That of the small network, of the same operators.
    """
    found = []
    for a, b in zip(computing(run.recording), computing(small), strict=True):
        for s, t in zip(_floats(a), _floats(b), strict=False):
            if s != t and not (s != s and t != t):
                found.append(Factor(a, s, t))
        if all(x in run.recording.constants for x in a.inputs):
            continue  # what is computed of constants counts where it meets something else
        for x, y in zip(a.inputs, b.inputs, strict=False):
            want, got = run.recording.constants.get(x), small.constants.get(y)
            if want is not None and got is not None and want != got and want == want:
                found.append(Factor(a, want, got))
    return found


def computing(recording: Recording) -> list[Node]:
    """The operators of a recording that compute; copies do not count, since a reshape makes some by size."""
    return [n for n in recording.nodes if n.op not in VIEWS and n.op != "clone"]


def _floats(node: Node) -> Iterator[float]:
    def inside(value: Any) -> Iterator[float]:
        if isinstance(value, float):
            yield value
        elif isinstance(value, (list, tuple)):
            for v in value:
                yield from inside(v)

    yield from inside(node.args)
    yield from inside(list(node.kwargs.values()))


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

    given = {}
    for name, dims in net.layers.items():
        cut = kept.get(name, {})
        given[name] = {
            dim: take(layer, {d: cut[d] for d in varying(layer) if d in cut}) if cut else layer
            for dim, layer in dims.items()
        }
    labels = Labels(heads=net.heads, given=given, units=net.count)
    walked = labels.walk(small)
    left = np.concatenate([np.zeros(0, np.int64), *[a.numpy() for a, _, _ in labels.ties]])
    right = np.concatenate([np.zeros(0, np.int64), *[b.numpy() for _, b, _ in labels.ties]])
    live = (left != 0) & (right != 0) & (left != right)
    left, right = left[live], right[live]
    n = labels.units
    graph = coo_array((np.ones(len(left), np.bool_), (left, right)), shape=(n, n))
    _, component = connected_components(graph, directed=False)
    mine = component[1 : net.count]
    ranked = np.argsort(mine, kind="stable")
    double = np.flatnonzero(np.diff(mine[ranked]) == 0)
    if not len(double):
        return _inputs(net, run, walked, predicted, keep, component, order)
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
    component: np.ndarray[Any, np.dtype[np.int64]],
    order: Order | None,
) -> Mismatch | None:
    """The first operator that does not see exactly what stays of what it saw in the dense network.

    A slice with a fixed bound takes other channels once some before it went; where their number and all
    shapes agree, only the labels tell.
    """
    counted = _counted(run)
    agreed: set[tuple[tuple[int, ...], tuple[int, ...]]] = set()
    for a, b in zip(computing(run.recording), computing(small.recording), strict=True):
        for x, y in zip(a.inputs, b.inputs, strict=False):
            if x in run.uniform or y in small.uniform:
                continue
            free = _free(run, counted, x)
            sizes = zip(predicted[x], small.recording.shapes[y], strict=False)
            if any(m != n for d, (m, n) in enumerate(sizes) if d not in free):
                got, want = small.recording.shapes[y], predicted[x]
                what = f"the input has shape {got} where {want} is right"
                return Mismatch(what, a.op, a.module, source=a.source)
            seen_ids = tuple([id(seen) for seen in small.table[y]])
            mapped = [la for la in map(net.sizes.classes, run.table[x]) if len(varying(la)) == 1]
            layer_ids = tuple([id(layer) for layer in mapped])
            if (layer_ids, seen_ids) in agreed:  # what passes through many operators is one object
                continue
            agreed.add((layer_ids, seen_ids))
            for layer in mapped:
                dims = varying(layer)
                want_units = layer.reshape(-1)[_stays(layer, mapped, keep, order)]
                there = [seen.reshape(-1) for seen in small.table[y] if varying(seen) == dims]
                shuffled = net.partition.shuffled
                if order is None and shuffled.any():
                    found = any(_same_set(seen, want_units, component, shuffled) for seen in there)
                else:
                    found = any(_same(seen, want_units, component) for seen in there)
                if there and not found:
                    return Mismatch("it sees other units than in the dense network", a.op, a.module)
    return None


def _stays(layer: Tensor, layers: list[Tensor], keep: Tensor, order: Order | None) -> Tensor:
    """What is left of a layer: a mask, or indices."""
    if order is not None:
        for other in (layer, *layers):  # the one that moves takes the others along
            index = order(other.reshape(-1))
            if varying(other) == varying(layer) and not torch.equal(index, torch.arange(layer.numel())):
                return index
        return torch.arange(layer.numel())
    stays = keep[layer].reshape(-1)
    for other in layers:  # an element stays iff it does in every layer
        stays = stays & keep[other].reshape(-1) if varying(other) == varying(layer) else stays
    return stays


def _same_set(
    seen: Tensor,
    want: Tensor,
    component: np.ndarray[Any, np.dtype[np.int64]],
    shuffled: np.ndarray[Any, np.dtype[np.bool_]],
) -> bool:
    """Whether two rows of units are the same in any order: that they meet the same is what the ties tell.

    Slots without units are taken for what else is wanted, unless that is interleaved with others.
    """
    if seen.shape != want.shape:
        return False
    x, y = seen.numpy(), want.numpy()
    found, wanted = np.sort(component[x[x != 0]]), component[y]
    order = np.argsort(wanted, kind="stable")
    place = np.searchsorted(wanted[order], found)
    place += np.arange(len(found)) - np.searchsorted(found, found)  # the k-th of equal ones
    if (place >= len(y)).any() or (wanted[order][place] != found).any():
        return False
    rest = np.delete(y[order], place)
    return not shuffled[rest].any()


def _same(seen: Tensor, want: Tensor, component: np.ndarray[Any, np.dtype[np.int64]]) -> bool:
    """Whether two rows of units are the same, up to ties; frozen slots and new units say nothing."""
    if seen.shape != want.shape:
        return False
    x, y = seen.numpy(), want.numpy()
    return bool(((component[x] == component[y]) | (x == 0) | (y == 0)).all())
