"""Reductions, softmax and order statistics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from netwright.structure.layers import varying
from netwright.structure.rules._base import rule
from netwright.structure.rules.elementwise import elementwise

if TYPE_CHECKING:
    from netwright.structure.labels import Walk
    from netwright.structure.record import Node


def _dims(node: Node, rank: int, index: int = 1) -> tuple[int, ...]:
    value: Any = node.args[index] if len(node.args) > index else node.kwargs.get("dim")
    if value is None or value == [] or isinstance(value, bool):
        return tuple(range(rank))
    return tuple(d % rank for d in ([value] if isinstance(value, int) else value))


def _drop(walk: Walk, node: Node, layer: Tensor, dims: tuple[int, ...]) -> Tensor:
    if len(walk.shape(node.outputs[0])) == layer.dim():
        return layer
    for d in sorted(dims, reverse=True):
        layer = layer.squeeze(d)
    return layer


@rule("mean", "sum", "nansum", "var", "std", "var_mean", "std_mean")
def average(walk: Walk, node: Node) -> list[list[Tensor]]:
    """A layer within the reduced dimensions ends there (its average is over what stays)."""
    return _reduce(walk, node, _dims(node, len(walk.shape(node.inputs[0]))), ends=True)


@rule("linalg_vector_norm", "norm")
def vector_norm(walk: Walk, node: Node) -> list[list[Tensor]]:
    """As a sum: what is removed contributes nothing, unless the order is negative (the smallest counts)."""
    order = node.args[1] if len(node.args) > 1 else 2
    ends = not (isinstance(order, (int, float)) and order < 0)
    return _reduce(walk, node, _dims(node, len(walk.shape(node.inputs[0])), 2), ends=ends)


@rule("amax", "amin", "argmax", "argmin", "prod", "logsumexp", "all", "any", "median", "mode", "aminmax")
def extreme(walk: Walk, node: Node) -> list[list[Tensor]]:
    """A reduction in which zero is not neutral freezes a layer that it ends."""
    return _reduce(walk, node, _dims(node, len(walk.shape(node.inputs[0]))), ends=False)


@rule("max", "min")
def maximum(walk: Walk, node: Node) -> list[list[Tensor]]:
    """Of two tensors: element-wise; along a dimension: a reduction."""
    if len(node.inputs) > 1:
        return elementwise(walk, node)
    return extreme(walk, node)


def _reduce(walk: Walk, node: Node, dims: tuple[int, ...], ends: bool) -> list[list[Tensor]]:
    out = []
    for layer in walk.layers_of(node.inputs[0]):
        vary = set(varying(layer))
        if vary <= set(dims):
            if not ends:
                walk.freeze(layer, f"{node.op} is taken over it")
            continue
        inner = varying(layer)[-1]
        if ends and inner in dims and walk.labels.heads != "whole" and vary - set(dims):
            continue  # rows all stay, and each row's members are summed
        out.append(_drop(walk, node, walk.collapse(layer, tuple(dims)), dims))
    return [list(out) for _ in node.outputs]


@rule("_softmax", "_log_softmax", "_safe_softmax", "softmax", "log_softmax")
def softmax(walk: Walk, node: Node) -> list[list[Tensor]]:
    """Along a labelled dimension every member counts: collapse, or freeze when nothing else varies."""
    return _along(walk, node, node.args[1] % len(walk.shape(node.inputs[0])))


@rule("cumsum", "cumprod", "sort", "topk", "cummax", "cummin", "logcumsumexp", "kthvalue", "argsort")
def ordered(walk: Walk, node: Node) -> list[list[Tensor]]:
    """Along a labelled dimension the result depends on every member: frozen."""
    shape = walk.shape(node.inputs[0])
    index = {"topk": 2, "kthvalue": 2}.get(node.op, 1)
    value = node.args[index] if len(node.args) > index else node.kwargs.get("dim", -1)
    dim = (value if isinstance(value, int) and not isinstance(value, bool) else -1) % len(shape)
    out = []
    for layer in walk.layers_of(node.inputs[0]):
        if layer.shape[dim] > 1:
            walk.freeze(layer, f"{node.op} runs along it")
        else:
            out.append(_drop(walk, node, layer, (dim,)))  # kthvalue ends the dimension
    return [list(out) for _ in node.outputs]


def _along(walk: Walk, node: Node, dim: int) -> list[list[Tensor]]:
    out = []
    for layer in walk.layers_of(node.inputs[0]):
        if layer.shape[dim] > 1:
            if varying(layer) == (dim,):
                walk.freeze(layer, f"{node.op} normalises over it")
                continue
            layer = walk.collapse(layer, (dim,))
        out.append(layer)
    return [out]
