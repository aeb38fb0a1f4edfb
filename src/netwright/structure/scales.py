"""Numbers in the code that follow a size, undone in the weights.

`1 / sqrt(head_dim)` becomes another number when heads are narrowed, and the small network would be another
function. The number is left as the code computes it, and the rows of the parameters that made what it
multiplies take the quotient instead: `(r W x) s' = (W x) s` with `r = s / s'`. Where the rows come in as a
product with themselves, as in the correlation of two images' features, they take its root:
`(r**(1/2) W x) · (r**(1/2) W y) s' = (W x) · (W y) s`. That is right only if all that comes of those rows
passes the number exactly once and with one degree, which is verified operator by operator (`degrees`); where
it does not (SAM's decomposed positions see the query without the factor), the surgery is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from netwright.structure.cost import CONVOLUTIONS, PRODUCTS, VIEWS
from netwright.structure.degrees import MOVES, NORMS, Degrees, UnevenError, UnfoldableError
from netwright.structure.factors import Factor
from netwright.structure.labels import Traced
from netwright.structure.layers import varying
from netwright.structure.record import Node, Recording, Ref

if TYPE_CHECKING:
    from netwright.structure.tracing import Structure

#: Parameter -> {dimension: (size,) factors in the dense network's order, float64}.
Scales = dict[str, dict[int, Tensor]]
#: Parameter -> {dimension: (size,) bool, which of its indices take the factor}.
_Rows = dict[str, dict[int, Tensor]]


def fold(net: Structure, run: Traced, factors: Iterable[Factor]) -> Scales:
    """The scales of parameters that undo changed numbers.

    Args:
        net: The dense network's structure.
        run: One of its recordings.
        factors: What `changed_factors` found in it.

    Raises:
        UnfoldableError: if it cannot be done in the weights; says why.
    """
    groups: dict[float, list[Node]] = {}
    for factor in factors:
        if factor.dense.op not in ("mul", "div", "true_divide") or not factor.got:
            raise UnfoldableError(f"operator {factor.dense.op} takes the number")
        ratio = factor.want / factor.got
        groups.setdefault(ratio if factor.dense.op == "mul" else 1 / ratio, []).append(factor.dense)
    out: Scales = {}
    for ratio, nodes in groups.items():
        for rows, degree in _rows(net, run, nodes):
            root = _root(ratio, degree)
            found = {
                name: {dim: torch.where(mask, root, torch.ones((), dtype=torch.float64))}
                for name, dims in rows.items()
                for dim, mask in dims.items()
            }
            out = multiply_scales(found, out)
    return out


def _root(ratio: float, degree: int) -> float:
    """What the rows take, so that a product of `degree` of them takes the ratio."""
    if degree == 1:
        return ratio
    if ratio <= 0:
        raise UnfoldableError(f"{ratio:.6g} has no root of degree {degree}")
    return float(ratio ** (1 / degree))


def _rows(net: Structure, run: Traced, nodes: list[Node]) -> list[tuple[_Rows, int]]:
    """Rows of parameters that take a factor, and the degree with which one number multiplies them.

    Numbers of one value may multiply products of different degrees; those with no parameter in common are
    then looked at one by one.
    """
    ends = {id(node): _operand(run.recording, node) for node in nodes}
    every = _Sources(net, run, nodes, ends).rows
    try:
        return [(every, Degrees(run.recording, _degrees(run.recording, every), ends).walk())]
    except UnevenError:
        parts: list[tuple[list[Node], set[str]]] = []
        for node in nodes:
            mine, names = [node], set(_Sources(net, run, [node], ends).rows)
            for other in [p for p in parts if not names.isdisjoint(p[1])]:
                mine, names = other[0] + mine, names | other[1]
                parts.remove(other)
            parts.append((mine, names))
        if len(parts) == 1:
            raise
        return [found for mine, _ in parts for found in _rows(net, run, mine)]


def _operand(recording: Recording, node: Node) -> int:
    """What a number multiplies."""
    tensors = [a.id for a in node.args[:2] if isinstance(a, Ref)]
    varied = [n for n in tensors if n not in recording.constants]
    if len(varied) == 2 or not varied or (node.op != "mul" and varied != tensors[:1]):
        raise UnfoldableError(f"operator {node.op} takes the number otherwise than as a factor")
    return varied[0]


def _degrees(recording: Recording, rows: _Rows) -> dict[int, Tensor]:
    """Degrees of the parameters themselves, by tensor number."""
    found: dict[int, Tensor] = {}
    for name, dims in rows.items():
        number = recording.parameters[name]
        rank = len(recording.shapes[number])
        for dim, mask in dims.items():
            mine = mask.to(torch.float64).reshape([-1 if d == dim else 1 for d in range(rank)])
            found[number] = found[number] + mine if number in found else mine
    return found


def in_both(first: Scales, second: Scales, recording: Recording) -> Scales:
    """The scales of a network of which two passes were recorded.

    Args:
        first: What `fold` found in the first pass.
        second: What it found in the second one.
        recording: The first pass.

    Raises:
        UnfoldableError: if a parameter that the first pass reads would be scaled otherwise in the second.
    """
    used = recording.used()
    for name in first.keys() | {n for n in second if recording.parameters[n] in used}:
        one, other = first.get(name, {}), second.get(name, {})
        if one.keys() != other.keys() or not all(torch.equal(one[d], other[d]) for d in one):
            raise UnfoldableError(f"in training mode {name} is met by other numbers")
    return second


class _Sources:
    """From where a number multiplies back to the rows of parameters that made what it multiplies."""

    def __init__(self, net: Structure, run: Traced, nodes: list[Node], ends: Mapping[int, int]) -> None:
        self.net, self.run_ = net, run
        self.nodes = run.recording.nodes
        self.names = {number: name for name, number in reversed(run.recording.parameters.items())}
        self.made: dict[int, list[int]] = {}
        for i, node in enumerate(self.nodes):
            for number in node.outputs:
                self.made.setdefault(number, []).append(i)
        self.rows: _Rows = {}
        self._seen: dict[int, Tensor] = {}  # node of a contraction -> which of its outputs take the factor
        chosen = {id(node) for node in nodes}
        for i, node in enumerate(self.nodes):
            if id(node) in chosen:
                self._back(ends[id(node)], i, self._units(ends[id(node)]))

    def _units(self, number: int) -> set[int]:
        return {u for layer in self.run_.table[number] for u in layer.reshape(-1).tolist() if u}

    def _producer(self, number: int, before: int) -> int:
        earlier = [i for i in self.made.get(number, ()) if i < before]
        if not earlier:
            raise UnfoldableError("it comes straight from an input or a constant")
        return earlier[-1]

    def _back(self, number: int, before: int, units: set[int]) -> None:
        """Scale the parameters that made a tensor."""
        at = self._producer(number, before)
        node = self.nodes[at]
        if node.op in CONVOLUTIONS or (node.op in PRODUCTS and self._weight(node, at) is not None):
            self._contraction(node, at, units)
        elif node.op in PRODUCTS:
            left = node.inputs[-2]
            self._back(left, at, self._units(left))
        elif node.op in NORMS:
            self._norm(node, at)
        elif node.op in ("cat", "stack"):
            for one in dict.fromkeys(node.inputs):
                self._back(one, at, units)
        elif node.op in ("add", "sub"):
            self._sum(node, at, units)
        elif node.op in ("mul", "div"):
            self._back(self._labelled(node), at, units)
        elif node.op in MOVES or node.op == "neg":
            self._back(node.inputs[0], at, units)
        else:
            raise UnfoldableError(f"operator {node.op} lies between it and the weights")

    def _norm(self, node: Node, at: int) -> None:
        affine = [node.args[i] for i in NORMS[node.op] if i < len(node.args) and node.args[i] is not None]
        if not affine:
            raise UnfoldableError(f"operator {node.op} has no weight")
        for ref in affine:
            self._scale(ref.id, at, torch.ones(self.run_.recording.shapes[ref.id], dtype=torch.bool))

    def _labelled(self, node: Node) -> int:
        """The operand of a product that leads to weights."""
        for number in node.inputs:
            if self._units(number) and number not in self.names:
                return number
        raise UnfoldableError(f"operator {node.op} has no operand with units")

    def _sum(self, node: Node, at: int, units: set[int]) -> None:
        parameters = [n for n in node.inputs if n in self.names]
        for number in dict.fromkeys(node.inputs):
            if number not in parameters:
                self._back(number, at, units)
        for number in parameters:  # a bias that is added by itself
            shape = self.run_.recording.shapes[number]
            if len(shape) != 1:
                raise UnfoldableError("a table is added to it")
            whole = torch.ones(shape, dtype=torch.bool)
            rows = self._made_rows(next(n for n in node.inputs if n not in parameters), at, shape[0])
            self._scale(number, at, rows if rows is not None and rows.shape == shape else whole)
            if rows is None and not self._units(number) <= units:
                raise UnfoldableError("only a part of a bias belongs to it")

    def _made_rows(self, number: int, before: int, size: int) -> Tensor | None:
        """Which outputs of a contraction are scaled, seen through views that leave the last dimension."""
        while self.run_.recording.shapes[number][-1:] == (size,):
            at = self._producer(number, before)
            if at in self._seen:
                return self._seen[at]
            if self.nodes[at].op not in ("view", "_unsafe_view", "reshape", "clone", "alias"):
                return None
            number, before = self.nodes[at].inputs[0], at
        return None

    def _weight(self, node: Node, at: int) -> tuple[str, int] | None:
        """The parameter of a product and its dimension of outputs."""
        number, turned = node.inputs[-1], False
        while number not in self.names:
            if number not in self.made:
                return None
            at = self.made[number][0]
            before = self.nodes[at]
            if before.op not in VIEWS:
                return None
            turned ^= before.op in ("t", "transpose", "permute", "numpy_T")
            number = before.inputs[0]
        if len(self.run_.recording.shapes[number]) != 2:
            return None
        return self.names[number], 0 if turned else 1

    def _contraction(self, node: Node, at: int, units: set[int]) -> None:
        if node.op in CONVOLUTIONS:
            number = node.inputs[1]
            if number not in self.names or node.args[6]:
                raise UnfoldableError("the weight of the convolution is computed or transposed")
            name, dim = self.names[number], 0
            bias = node.inputs[2] if len(node.inputs) > 2 else None
        else:
            found = self._weight(node, at)
            assert found is not None
            name, dim = found
            bias = node.inputs[0] if node.op in ("addmm", "baddbmm") else None
        layer = self.net.labels.parameters.get(name, {}).get(dim)
        if layer is None or len(varying(layer)) != 1:
            raise UnfoldableError(f"the outputs of {name} have no units")
        rows = torch.tensor([u in units for u in layer.reshape(-1).tolist()])
        if not bool(rows.any()):
            raise UnfoldableError(f"what {name} makes of it is mixed with something else")
        self._put(name, dim, rows)
        if bias is not None:
            self._scale(bias, at, rows)
        self._seen[at] = rows

    def _scale(self, number: int, before: int, rows: Tensor) -> None:
        """Scale a parameter, or the parameters that a computed bias consists of."""
        if number in self.names:
            shape = self.run_.recording.shapes[number]
            if len(shape) != rows.dim() or len(shape) != 1:
                if not bool((rows == rows.reshape(-1)[0]).all()):
                    raise UnfoldableError(f"{self.names[number]} has another shape than its weight")
                rows = rows.reshape(-1)[:1].expand(shape[0])
            self._put(self.names[number], 0, rows)
            return
        node = self.nodes[self._producer(number, before)]
        if node.op == "cat":
            parts = [self.run_.recording.shapes[n][0] for n in node.inputs]
            for one, part in zip(node.inputs, rows.split(parts), strict=True):
                if bool(part.any()) and one not in self.run_.uniform:
                    self._scale(one, before, part)
        elif node.op in MOVES and len(node.inputs) == 1:
            self._scale(node.inputs[0], before, rows)
        else:
            raise UnfoldableError(f"the bias is computed by {node.op}")

    def _put(self, name: str, dim: int, rows: Tensor) -> None:
        """Note rows of a parameter, beside other rows of a packed one."""
        known = self.rows.setdefault(name, {})
        known[dim] = known[dim] | rows if dim in known else rows


def fit_scales(scales: Scales, kept: dict[str, dict[int, Tensor]]) -> Scales:
    """Scales of the dense network's indices as those of the indices that stay.

    Args:
        scales: As `fold` gives them.
        kept: Index maps of the parameters; blocks of dimension 0 are not met here.
    """
    return {
        name: {dim: s[kept[name][dim]] if dim in kept.get(name, {}) else s for dim, s in dims.items()}
        for name, dims in scales.items()
    }


def multiply_scales(first: Mapping[str, Mapping[int, Tensor]], second: Scales) -> Scales:
    """The scales that do what two do, one after the other.

    Args:
        first: Parameter -> {dimension: factors}.
        second: Likewise, of the same indices.
    """
    out = {name: dict(dims) for name, dims in second.items()}
    for name, dims in first.items():
        for dim, factor in dims.items():
            mine = out.setdefault(name, {})
            mine[dim] = mine[dim] * factor if dim in mine else factor
    return out
