"""How often the elements of tensors hold a scale that is put on some rows of parameters.

When those rows are multiplied by t, an element of degree k becomes t**k times what it was: the products of a
scaled row have degree 1, the correlation of two such tensors 2, what does not depend on the rows 0. Degrees
are computed operator by operator, and an operator that is not homogeneous in what it is given is refused, so
what comes out is a proof.

A tensor's degrees are held like labels: a float64 tensor of its rank with size 1 along every dimension where
they are constant; infinity stands for zeros, which have any degree. Data movement needs no rules: the very
same operator is run on the degrees.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from netwright.structure.cost import CONVOLUTIONS, FACTORIES, PRODUCTS, VIEWS
from netwright.structure.layers import align, compress, reshape
from netwright.structure.record import Node, Recording, Ref

#: Operators that only move elements.
MOVES = VIEWS | frozenset(
    "clone _to_copy copy roll flip cat stack constant_pad_nd repeat index index_select alias im2col"
    " native_dropout reflection_pad2d replication_pad2d".split()
)
#: Normalisations -> positions of their weight and bias among the arguments.
NORMS: dict[str, tuple[int, ...]] = {
    "native_layer_norm": (2, 3),
    "_fused_rms_norm": (2,),
    "native_batch_norm": (1, 2),
    "native_group_norm": (1, 2),
}
_SAME = frozenset("clone _to_copy alias detach lift_fresh contiguous native_dropout neg".split())
_ZEROS = frozenset(("zeros", "new_zeros", "zeros_like"))


class UnfoldableError(Exception):
    """What a changed number multiplies cannot be put right in the weights."""


class UnevenError(UnfoldableError):
    """A number multiplies tensors of several degrees."""


class Degrees:
    """Walks a recording.

    Args:
        recording: One forward pass.
        given: Tensor number of a parameter -> its degrees.
        ends: `id` of a node that multiplies by the number -> the tensor it multiplies.
    """

    def __init__(self, recording: Recording, given: Mapping[int, Tensor], ends: Mapping[int, int]) -> None:
        self.recording = recording
        self.shapes = recording.shapes
        self.given, self.ends = given, ends
        self.maps: dict[int, Tensor] = dict(given)
        self.mixed: set[int] = set()  # written through another view of their memory
        self.whole: dict[int, int] = {}  # view -> the tensor whose memory it shows
        self.parts: dict[int, set[int]] = {}

    def walk(self) -> int:
        """The degree of all that the number multiplies, after which nothing holds the scale any more.

        Raises:
            UnevenError: if it multiplies tensors of several degrees.
            UnfoldableError: if anything else sees what is scaled, or an operator is not homogeneous.
        """
        found: set[float] = set()
        for node in self.recording.nodes:
            self._note_view(node)
            if not self.mixed.isdisjoint(node.inputs):
                raise UnfoldableError("a part of a tensor is written before the number")
            if id(node) in self.ends:
                found.add(self._met(self.ends[id(node)]))
                self._put(node, [None])
            elif any(n in self.maps for n in node.inputs):
                self._put(node, self._results(node))
            elif node.op in _ZEROS:
                self.maps[node.outputs[0]] = _flat(inf, len(self.shapes[node.outputs[0]]))
        for number in {*self.recording.outputs, *self.recording.inputs, *self.recording.parameters.values()}:
            if number in self.mixed or (number not in self.given and _scaled(self.maps.get(number))):
                raise UnfoldableError("what it multiplies is seen without it")
        if len(found) != 1:
            raise UnevenError(f"it multiplies products of {' and '.join(f'{k:g}' for k in sorted(found))}")
        return int(found.pop())

    def _met(self, number: int) -> float:
        known = self.maps.get(number)
        if known is None or not _scaled(known):
            raise UnfoldableError("what it multiplies comes another way too")
        degree = _one(known)
        if degree is None:
            raise UnfoldableError("only a part of what it multiplies is scaled")
        return degree

    def _note_view(self, node: Node) -> None:
        if node.op in VIEWS and node.inputs:
            whole = self.whole.get(node.inputs[0], node.inputs[0])
            for number in node.outputs:
                if number != whole:
                    self.whole[number] = whole
                    self.parts.setdefault(whole, {whole}).add(number)

    def _put(self, node: Node, results: list[Tensor | None]) -> None:
        """Note degrees of outputs; one that is written in place changes what shares its memory."""
        for number, new in zip(node.outputs, results, strict=False):
            if number < 0:
                continue
            if number in node.inputs:
                self._write(number, new)
            if new is None or not bool((new != 0).any()):
                self.maps.pop(number, None)
            else:
                self.maps[number] = compress(align(new, len(self.shapes[number])))

    def _write(self, number: int, new: Tensor | None) -> None:
        before = self.maps.get(number)
        if (new is None and not _scaled(before)) or (
            new is not None and before is not None and torch.equal(compress(new), before)
        ):
            return
        degree = 0.0 if new is None else _one(new)
        for other in self.parts.get(self.whole.get(number, number), set()) - {number}:
            known = self.maps.get(other)
            theirs = 0.0 if known is None else _one(known)
            if degree is not None and theirs is not None and (theirs == degree or degree == inf):
                continue
            if theirs == inf and degree == 0:
                self.maps.pop(other, None)
            else:
                self.mixed.add(other)

    def _results(self, node: Node) -> list[Tensor | None]:
        op = node.op
        if op in FACTORIES:  # these read a shape
            rank = len(self.shapes[node.outputs[0]])
            return [_flat(inf, rank) if op in _ZEROS else None]
        if op in MOVES or op == "neg":
            return list(self._moved(node))
        if not any(_scaled(self.maps.get(n)) for n in node.inputs):
            return [None for _ in node.outputs]  # of zeros, whatever they become
        if op in PRODUCTS:
            return [self._product(node)]
        if op in CONVOLUTIONS:
            return [self._convolution(node)]
        if op in NORMS:
            return [self._norm(node), *[None for _ in node.outputs[1:]]]
        if op in ("add", "sub"):
            return [self._sum(node)]
        if op in ("mul", "div", "true_divide") and not node.kwargs.get("rounding_mode"):
            one, other = [self._of(a) for a in node.args[:2]]
            if op == "mul":
                return [one + other]
            if bool(other.isinf().any()):
                raise UnfoldableError("zeros divide it")
            return [one - other]
        raise UnfoldableError(f"operator {op} sees it without the number")

    def _of(self, value: Any) -> Tensor:
        """Degrees of an argument: a tensor, a number or nothing."""
        number = value.id if isinstance(value, Ref) else -1
        return self.maps.get(number, _flat(0.0, len(self.shapes[number]) if number >= 0 else 0))

    def _sum(self, node: Node) -> Tensor:
        if any(not isinstance(a, Ref) and a != 0 for a in node.args[:2]):
            raise UnfoldableError("a number is added to it before the number")
        return _join([self._of(a) for a in node.args[:2]])

    def _product(self, node: Node) -> Tensor:
        a, b = (self._of(x) for x in node.args[-2:])
        out = _along(a, a.dim() - 1, node.op) + _along(b, b.dim() - 2, node.op)
        return _join([out, self._of(node.args[0])]) if node.op in ("addmm", "baddbmm") else out

    def _convolution(self, node: Node) -> Tensor:
        if node.op not in ("convolution", "convolution_overrideable", "_convolution"):
            raise UnfoldableError(f"operator {node.op} sees it without the number")
        x, weight, bias = (self._of(a) for a in node.args[:3])
        for d in range(1, x.dim()):
            x = _along(x, d, node.op)
        transposed = bool(node.args[6])
        for d in range(0 if transposed else 1, weight.dim()):
            weight = _along(weight, d, node.op)
        rank = len(self.shapes[node.outputs[0]])
        tail = (1,) * (rank - 2)
        out = align(x, rank) + weight.reshape(1, -1, *tail)
        return out if node.args[2] is None else _join([out, bias.reshape(1, -1, *tail)])

    def _norm(self, node: Node) -> Tensor:
        """A normalisation is not homogeneous in what it normalises, but in its weight and bias."""
        at = NORMS[node.op]
        affine = [node.args[i] for i in at if i < len(node.args)]
        ours = {a.id for a in affine if isinstance(a, Ref)}
        if any(_scaled(self.maps.get(n)) for n in node.inputs if n not in ours):
            raise UnfoldableError(f"operator {node.op} sees it without the number")
        degrees = [_one(self._of(a)) for a in affine if isinstance(a, Ref)]
        if len(ours) < sum(a is not None for a in affine) or not isinstance(affine[0], Ref):
            raise UnfoldableError("something else is added to it before the number")
        finite = {d for d in degrees if d != inf}
        if len(finite) != 1 or None in finite:
            raise UnfoldableError("only a part of the weight of a norm is scaled")
        return _flat(float(finite.pop() or 0), len(self.shapes[node.outputs[0]]))

    def _moved(self, node: Node) -> list[Tensor]:
        op = node.op
        ranks = [len(self.shapes[n]) if n >= 0 else 0 for n in node.outputs]
        if op == "copy":
            return [self._of(node.args[1])]
        same = op == "as_strided" and self.shapes[node.inputs[0]] == self.shapes[node.outputs[0]]
        if op in _SAME or same:
            return [self.maps[node.inputs[0]] for _ in ranks]
        if op in ("cat", "stack"):
            return [self._concatenated(node)]
        known = self.maps.get(node.inputs[0])
        if known is None:
            raise UnfoldableError(f"operator {op} takes it for an index")
        padded = op == "constant_pad_nd" and len(node.args) > 2 and node.args[2] != 0
        if known.numel() == 1 and not padded:
            return [known.reshape((1,) * rank) for rank in ranks]
        if op in ("view", "_unsafe_view", "reshape", "_reshape_alias"):
            return [reshape(known, self.shapes[node.inputs[0]], self.shapes[node.outputs[0]])]
        return [compress(x) for x in self._run(node, known)]

    def _concatenated(self, node: Node) -> Tensor:
        rank = len(self.shapes[node.outputs[0]])
        dim = (node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)) % rank
        parts, sizes = [], []
        for number in (r.id for r in node.args[0]):
            shape = self.shapes[number]
            if shape == (0,) and rank > 1 and node.op == "cat":
                continue  # as `cat` does
            part = self.maps.get(number, _flat(0.0, len(shape)))
            parts.append(part.unsqueeze(dim) if node.op == "stack" else part)
            sizes.append(1 if node.op == "stack" else shape[dim])
        wide = [max(p.shape[d] for p in parts) for d in range(rank)]
        each = [
            p.expand([n if d == dim else w for d, w in enumerate(wide)])
            for p, n in zip(parts, sizes, strict=True)
        ]
        return torch.cat(each, dim)

    def _run(self, node: Node, known: Tensor) -> list[Tensor]:
        """The operator itself, on the degrees of its first argument."""
        op, shape = node.op, self.shapes[node.inputs[0]]
        wide = known.expand(shape)
        args = list(node.args)
        if op == "as_strided":
            raise UnfoldableError("operator as_strided lies before the number")
        if op in ("index", "index_select"):
            given = args[1] if op == "index" else [None] * (args[1] % len(shape)) + [args[2]]
            if any(x is not None and known.shape[d] > 1 for d, x in enumerate(given)):
                raise UnfoldableError(f"operator {op} chooses among what is scaled and what is not")
            if any(isinstance(x, Ref) and self.recording.dtypes[x.id] == torch.bool for x in given):
                raise UnfoldableError(f"operator {op} chooses by a mask")
        elif op == "constant_pad_nd" and (len(args) < 3 or args[2] == 0):
            args[2:] = [inf]  # what is filled in is zero
        elif op == "constant_pad_nd":
            args[2:] = [0.0]

        def value(x: Any) -> Any:
            if not isinstance(x, Ref):
                return x
            if x.id == node.inputs[0]:
                return wide
            return torch.zeros(self.shapes[x.id], dtype=torch.int64)

        args = pytree.tree_map(value, args, is_leaf=lambda x: isinstance(x, Ref))
        kwargs = pytree.tree_map(value, node.kwargs, is_leaf=lambda x: isinstance(x, Ref))
        out = node.target(*args, **kwargs)
        return [out] if isinstance(out, Tensor) else list(out)


def _flat(degree: float, rank: int) -> Tensor:
    return torch.full((1,) * rank, degree, dtype=torch.float64)


def _scaled(degrees: Tensor | None) -> bool:
    """Whether any element holds the scale."""
    return degrees is not None and bool(((degrees != 0) & ~degrees.isinf()).any())


def _one(degrees: Tensor) -> float | None:
    """The only degree there is; None where there are several."""
    finite = degrees[~degrees.isinf()]
    if not finite.numel():
        return inf
    low, high = finite.aminmax()
    return float(low) if bool(low == high) else None


def _along(degrees: Tensor, dim: int, op: str) -> Tensor:
    """Degrees with a dimension summed over, along which they must be the same."""
    if degrees.shape[dim] == 1:
        return degrees
    low = degrees.amin(dim, keepdim=True)
    if bool(((degrees != low) & ~degrees.isinf()).any()):
        raise UnfoldableError(f"operator {op} sums scaled and other elements")
    return low


def _join(degrees: list[Tensor]) -> Tensor:
    """The degrees that several tensors share; zeros have those of the others."""
    out = degrees[0]
    for other in degrees[1:]:
        a, b = torch.broadcast_tensors(out, other)
        if bool(((a != b) & ~a.isinf() & ~b.isinf()).any()):
            raise UnfoldableError("something else is added to it before the number")
        out = torch.where(a.isinf(), b, a)
    return out
