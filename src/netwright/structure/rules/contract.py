"""Matrix products tie their two sides along the contracted dimension and end it there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from netwright.structure.layers import varying
from netwright.structure.rules._base import rule
from netwright.structure.rules.elementwise import meet_all, merge

if TYPE_CHECKING:
    from netwright.structure.labels import Walk
    from netwright.structure.record import Node


@rule("mm", "addmm", "bmm", "baddbmm")
def product(walk: Walk, node: Node) -> list[list[Tensor]]:
    """`A (.., M, K) @ B (.., K, N)`; addmm and baddbmm add their first argument element-wise."""
    *added, a, b = node.inputs[:3]
    out = contract(walk, a, b)
    number = node.outputs[0]
    walk.table[number] = walk.tidy(out, number)
    if added:
        walk.table[number] = merge(walk, [number, *added], walk.shape(number))
    return [walk.table[number] or []]


@rule("dot", "vdot", "mv", "addmv")
def vector_product(walk: Walk, node: Node) -> list[list[Tensor]]:
    """`a (K) . b (K)`, or `A (M, K) @ b (K)`; addmv adds its first argument element-wise."""
    *added, a, b = node.inputs[:3]
    left = walk.layers_of(a)
    inner = [la for la in left if la.shape[-1] > 1]
    if len(walk.shape(a)) == 2:
        inner = [walk.collapse(la, (0,)).reshape(-1) for la in inner]
    _join(walk, a, b, inner, list(walk.layers_of(b)))
    number = node.outputs[0]
    walk.table[number] = [la.reshape(-1) for la in left if la.shape[-1] == 1]
    if added:
        walk.table[number] = merge(walk, [number, *added], walk.shape(number))
    return [walk.table[number] or []]


@rule("_grouped_mm")
def grouped_product(walk: Walk, node: Node) -> list[list[Tensor]]:
    """`A (S, K)`, rows sorted by group, times `B (G, K, N)`, a matrix for each group (experts, say)."""
    a, b = node.inputs[:2]
    biased = len(node.args) > 3 and node.args[3] is not None
    if (len(walk.shape(a)), len(walk.shape(b))) != (2, 3) or biased:
        for number in node.inputs:
            for layer in walk.layers_of(number):
                walk.freeze(layer, f"{node.op} of this form has no rule")
        return [[]]
    right = list(walk.layers_of(b))
    for layer in right:
        if varying(layer) == (0,):
            walk.freeze(layer, "values decide which of the matrices is used")
    inner = [walk.collapse(la, (0,)).reshape(-1) for la in walk.layers_of(a) if la.shape[1] > 1]
    _join(walk, a, b, inner, [walk.collapse(la, (0, 2)).reshape(-1) for la in right if la.shape[1] > 1])
    return [[walk.collapse(la, (0,))[0] for la in right if la.shape[1] == 1 and la.shape[2] > 1]]


@rule("_trilinear")
def trilinear(walk: Walk, node: Node) -> list[list[Tensor]]:
    """Three factors, unsqueezed to one rank, multiplied and summed over some dimensions."""
    *expanded, summed = node.args[3:7]
    described = []
    for number, dims in zip(node.inputs, expanded, strict=True):
        size, layers = list(walk.shape(number)), list(walk.layers_of(number))
        for d in sorted(dims):
            size.insert(d, 1)
            layers = [layer.unsqueeze(d) for layer in layers]
        described.append((number, tuple(size), layers))
    out = []
    for layer in meet_all(walk, described):
        if not set(varying(layer)) <= set(summed):
            layer = walk.collapse(layer, tuple(summed))
            out.append(layer.squeeze(tuple(summed)))
    return [out]


def contract(walk: Walk, a: int, b: int) -> list[Tensor]:
    """Tie the contracted dimension (last of A, last but one of B); returns the layers of the result."""
    rank = len(walk.shape(a))
    left, right = walk.layers_of(a), walk.layers_of(b)
    if walk.is_parameter(b):  # stored inputs first
        walk.labels.outgoing[walk.names[b]] = rank - 1
    inner_a = [walk.collapse(la, (rank - 2,)) for la in left if la.shape[-1] > 1]
    inner_b = [walk.collapse(la, (rank - 1,)) for la in right if la.shape[-2] > 1]
    batch_a = [la for la in left if la.shape[-1] == 1 and la.shape[-2] == 1]
    batch_b = [la for la in right if la.shape[-1] == 1 and la.shape[-2] == 1]
    if walk.labels.heads == "whole":  # of weights over channels only the heads are known, tied below
        inner_a, inner_b = (
            [la for la in inner_a if inner_b or not _is_row(la, rank - 1, batch_b)],
            [la for la in inner_b if inner_a or not _is_row(la, rank - 2, batch_a)],
        )
    heads = _join(walk, a, b, [la.transpose(-1, -2) for la in inner_a], inner_b)
    out = [la for la in left if la.shape[-1] == 1 and la.shape[-2] > 1]
    out += [la for la in right if la.shape[-2] == 1 and la.shape[-1] > 1]
    for row in heads:  # whatever else the result carries along goes with its head (linear attention)
        for layer in out:
            if set(varying(row)) <= set(varying(layer)):
                rest = tuple(d for d in varying(layer) if d not in varying(row))
                walk.tie(row, walk.collapse(layer, rest))
    return _with_batches(walk, out, heads, (batch_a, right, b), (batch_b, left, a))


def _is_row(layer: Tensor, contracted: int, batch: list[Tensor]) -> bool:
    """Whether the other side knows, of what is contracted, which batch entry (head) it belongs to."""
    outer = tuple(d for d in varying(layer) if d != contracted)
    return any(varying(other) == outer for other in batch)


def _join(walk: Walk, a: int, b: int, left: list[Tensor], right: list[Tensor]) -> list[Tensor]:
    """Tie contracted layers one to one; with whole heads, rows of a batched product become one unit."""
    uniform = a in walk.uniform or b in walk.uniform
    if not left and not right:
        return []
    if len(left) != 1 or len(right) != 1:
        if not uniform:
            for layer in left + right:
                walk.freeze(layer, "it is contracted with something that has no units there")
        return []
    walk.tie(left[0], right[0])
    rows = [la for la in (left[0], right[0]) if len(varying(la)) > 1]
    if not rows or walk.labels.heads != "whole":
        return []
    walk.labels.heads_met.append(rows[0])
    row = walk.collapse(rows[0], (rows[0].dim() - 2,))
    return [row]


def _with_batches(
    walk: Walk,
    out: list[Tensor],
    heads: list[Tensor],
    *sides: tuple[list[Tensor], list[Tensor], int],
) -> list[Tensor]:
    """Layers on the batch dimensions alone: tied with the other side's rows, or frozen where it has none."""
    kept = list(heads)
    for layers, others, number in sides:
        for layer in layers:
            partners = [o for o in others if set(varying(layer)) <= set(varying(o))]
            whole = walk.labels.heads == "whole" or all(varying(o) == varying(layer) for o in partners)
            if not whole:
                walk.freeze(layer, "it counts attention heads, and heads are narrowed alike, not removed")
                continue
            walk.labels.heads_met.append(layer)
            for partner in partners:
                extra = tuple(d for d in varying(partner) if d not in varying(layer))
                walk.tie(layer, walk.collapse(partner, extra))
            if partners:
                kept.append(layer)
            elif number not in walk.uniform:
                walk.freeze(layer, "it is multiplied by something that has no units along the batch")
    for layer in kept:
        if not any(set(varying(layer)) <= set(varying(o)) for o in out):
            out = [*out, layer]
    return out
