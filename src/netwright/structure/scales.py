"""Numbers in the code that follow a size, undone in the weights.

`1 / sqrt(head_dim)` becomes another number when heads are narrowed, and the small network would be another
function. The number is left as the code computes it, and the rows of the parameters that made what it
multiplies take the quotient instead: `(r W x) s' = (W x) s` with `r = s / s'`. That is right only if all that
comes of those rows passes the number exactly once, which is verified operator by operator; where it does not
(SAM's decomposed positions see the query without the factor), the surgery is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from netwright.structure.cost import CONVOLUTIONS, PRODUCTS, VIEWS
from netwright.structure.labels import Traced
from netwright.structure.layers import varying
from netwright.structure.proof import Factor
from netwright.structure.record import Node

if TYPE_CHECKING:
    from netwright.structure.tracing import Structure

#: Parameter -> {dimension: (size,) factors in the dense network's order, float64}.
Scales = dict[str, dict[int, Tensor]]

_MOVES = VIEWS | frozenset(
    "clone _to_copy copy roll flip cat stack constant_pad_nd repeat index index_select alias im2col unfold"
    " native_dropout reflection_pad2d replication_pad2d".split()
)
_NORMS = frozenset(("native_layer_norm", "_fused_rms_norm", "native_batch_norm", "native_group_norm"))


class UnfoldableError(Exception):
    """What a changed number multiplies cannot be put right in the weights."""


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
        for name, dims in _Fold(net, run, ratio, nodes).run().items():
            for dim, scale in dims.items():
                known = out.setdefault(name, {})
                known[dim] = known[dim] * scale if dim in known else scale
    return out


class _Fold:
    """One number: back from where it multiplies to the parameters, and forward to see who else reads."""

    def __init__(self, net: Structure, run: Traced, ratio: float, nodes: list[Node]) -> None:
        self.net, self.run_, self.ratio = net, run, ratio
        self.nodes = run.recording.nodes
        self.names = {number: name for name, number in reversed(run.recording.parameters.items())}
        self.ends = {id(node) for node in nodes}
        self.position = {id(node): i for i, node in enumerate(self.nodes)}
        self.made: dict[int, list[int]] = {}
        for i, node in enumerate(self.nodes):
            for number in node.outputs:
                self.made.setdefault(number, []).append(i)
        self.scales: Scales = {}
        self.units: set[int] = set()
        self.starts: dict[int, None] = {}
        self._rows: dict[int, Tensor] = {}  # node of a contraction -> the scales of its outputs

    def run(self) -> Scales:
        for node in [n for n in self.nodes if id(n) in self.ends]:
            self._back(node.inputs[0], self.position[id(node)], self._units(node.inputs[0]))
        self._forward()
        return self.scales

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
        elif node.op in _NORMS and len(node.inputs) > 1:
            for extra in node.inputs[1:3]:
                size = self.run_.recording.shapes[extra]
                self._scale(extra, at, torch.full(size, self.ratio, dtype=torch.float64))
            self.starts[at] = None
        elif node.op in ("cat", "stack"):
            for one in dict.fromkeys(node.inputs):
                self._back(one, at, units)
        elif node.op in ("add", "sub"):
            self._sum(node, at, units)
        elif node.op in ("mul", "div"):
            self._back(self._labelled(node), at, units)
        elif node.op in _MOVES or node.op == "neg":
            self._back(node.inputs[0], at, units)
        else:
            raise UnfoldableError(f"operator {node.op} lies between it and the weights")

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
            whole = torch.full(shape, self.ratio, dtype=torch.float64)
            rows = self._made_rows(next(n for n in node.inputs if n not in parameters), at, shape[0])
            self._scale(number, at, rows if rows is not None and rows.shape == shape else whole)
            if rows is None and not self._units(number) <= units:
                raise UnfoldableError("only a part of a bias belongs to it")

    def _made_rows(self, number: int, before: int, size: int) -> Tensor | None:
        """The scales of a contraction's outputs, seen through views that leave the last dimension alone."""
        while self.run_.recording.shapes[number][-1:] == (size,):
            at = self._producer(number, before)
            if at in self._rows:
                return self._rows[at]
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
        mine = torch.tensor([u in units for u in layer.reshape(-1).tolist()])
        if not bool(mine.any()):
            raise UnfoldableError(f"what {name} makes of it is mixed with something else")
        rows = torch.ones(len(mine), dtype=torch.float64).masked_fill_(mine, self.ratio)
        self._put(name, dim, rows)
        if bias is not None:
            self._scale(bias, at, rows)
        self._rows[at] = rows
        self.units |= set(layer.reshape(-1)[mine].tolist())
        self.starts[at] = None

    def _scale(self, number: int, before: int, scale: Tensor) -> None:
        """Scale a parameter, or the parameters that a computed bias consists of."""
        if number in self.names:
            shape = self.run_.recording.shapes[number]
            if len(shape) != scale.dim() or len(shape) != 1:
                if not bool((scale == scale.reshape(-1)[0]).all()):
                    raise UnfoldableError(f"{self.names[number]} has another shape than its weight")
                scale = scale.reshape(-1)[:1].expand(shape[0])
            self._put(self.names[number], 0, scale)
            return
        node = self.nodes[self._producer(number, before)]
        if node.op == "cat":
            parts = [self.run_.recording.shapes[n][0] for n in node.inputs]
            for one, part in zip(node.inputs, scale.split(parts), strict=True):
                if bool((part != 1).any()) and one not in self.run_.uniform:
                    self._scale(one, before, part)
        elif node.op in _MOVES and len(node.inputs) == 1:
            self._scale(node.inputs[0], before, scale)
        else:
            raise UnfoldableError(f"the bias is computed by {node.op}")

    def _put(self, name: str, dim: int, scale: Tensor) -> None:
        known = self.scales.setdefault(name, {}).get(dim)
        if known is not None and not torch.equal(known, scale):
            both = torch.where(known == 1, scale, known)  # other rows of a packed weight
            if bool(((known != 1) & (scale != 1) & (known != scale)).any()):
                raise UnfoldableError(f"two numbers meet {name}")
            scale = both
        self.scales[name][dim] = scale

    def _forward(self) -> None:
        """Follow what was scaled: everything must pass the number once, and nothing else may see it.

        Raises:
            UnfoldableError: at the first operator where that fails.
        """
        tainted: set[int] = set()
        whole: set[int] = set()  # scaled in all elements
        met: set[int] = set()
        for at, node in enumerate(self.nodes):
            if at in self.starts:
                tainted.add(node.outputs[0])
                if node.op in _NORMS:
                    whole.add(node.outputs[0])
                continue
            hit = [n for n in dict.fromkeys(node.inputs) if n in tainted]
            if id(node) in self.ends:
                if node.inputs[0] not in tainted:
                    raise UnfoldableError("what it multiplies comes another way too")
                met.add(id(node))
                tainted.discard(node.outputs[0])
                continue
            if not hit:
                tainted.difference_update(node.outputs[:1])
                continue
            self._pass(node, hit, tainted, whole)
        if met != self.ends or tainted & set(self.run_.recording.outputs):
            raise UnfoldableError("what it multiplies is seen without it")

    def _pass(self, node: Node, hit: list[int], tainted: set[int], whole: set[int]) -> None:
        op = node.op
        others = [n for n in node.inputs if n not in tainted]
        everything = all(n in whole for n in hit)
        if op in PRODUCTS:
            if len(hit) != 1 or hit[0] in others:
                raise UnfoldableError("two scaled tensors are multiplied")
            everything = True
            if hit[0] not in whole and not self._units(hit[0]) & self.units:
                return
            if hit[0] not in whole and not self._all(hit[0]):
                raise UnfoldableError(f"{op} sums scaled and other elements")
        elif op in ("add", "sub"):
            strange = [n for n in others if not self._scaled_parameter(n)]
            if strange:
                raise UnfoldableError("something else is added to it before the number")
        elif op in ("mul", "div"):
            if len(hit) != 1 or (op == "div" and node.inputs[0] not in hit):
                raise UnfoldableError("two scaled tensors are multiplied")
        elif op not in _MOVES and op != "neg":
            if not any(self._units(n) & self.units for n in hit if n not in whole) and not everything:
                return
            raise UnfoldableError(f"operator {op} sees it without the number")
        for number in node.outputs:
            if number >= 0 and (everything or self._units(number) & self.units):
                tainted.add(number)
                if everything:
                    whole.add(number)

    def _all(self, number: int) -> bool:
        return any(set(layer.reshape(-1).tolist()) <= self.units for layer in self.run_.table[number])

    def _scaled_parameter(self, number: int) -> bool:
        name = self.names.get(number)
        return name is not None and name in self.scales


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
