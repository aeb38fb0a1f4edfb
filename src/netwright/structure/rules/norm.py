"""Normalisations: their parameters follow the axis they scale."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from netwright.structure.layers import align, varying
from netwright.structure.rules._base import rule
from netwright.structure.rules.elementwise import merge

if TYPE_CHECKING:
    from netwright.structure.labels import Walk
    from netwright.structure.record import Node


@rule(
    "native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training",
    "cudnn_batch_norm",
    "batch_norm", "instance_norm", "_batch_norm_with_update", "_batch_norm_no_update",
    "batch_norm_with_update",
)  # fmt: skip
def batch_norm(walk: Walk, node: Node) -> list[list[Tensor]]:
    """Everything but the channels is averaged over; weight, bias, mean and variance follow the channels."""
    x, *own = node.inputs
    rank = len(walk.shape(x))
    channels: Tensor | None = None
    passing = []
    training = node.op in ("native_batch_norm", "cudnn_batch_norm") and bool(node.args[5])
    for layer in walk.layers_of(x):
        if training and layer.shape[1] == 1:
            passing.append(layer)  # a standardised weight: the statistics are over what stays
            continue
        layer = walk.collapse(layer, tuple(d for d in range(rank) if d != 1))
        if layer.shape[1] == 1:
            walk.freeze(layer, "batch statistics are taken over it")
        elif channels is None:
            channels = layer
        else:
            walk.tie(channels, layer)
    units = channels.reshape(-1) if channels is not None else None
    for number in own:
        if walk.shape(number) == (walk.shape(x)[1],) and walk.shape(number)[0] > 1:
            _follow(walk, number, units)
    out = [*passing, channels] if channels is not None else passing
    flat = [units] if units is not None else []
    return [out] + [flat if walk.shape(o) == (walk.shape(x)[1],) else [] for o in node.outputs[1:] if o >= 0]


def _follow(walk: Walk, number: int, flat: Tensor | None) -> None:
    if walk.is_parameter(number):
        layer = walk.axis(number, 0, adopt=flat)
        if flat is None:
            walk.freeze(layer, "what it normalises has no units")
        return
    layers = walk.layers_of(number)
    for layer in layers:
        if flat is None:
            walk.freeze(layer, "what it normalises has no units")
        else:
            walk.tie(layer, flat)
    if not layers and flat is not None and number not in walk.uniform:
        walk.freeze(flat, "a computed normalisation parameter has no units")


@rule("native_layer_norm", "layer_norm", "_fused_rms_norm", "rms_norm")
def layer_norm(walk: Walk, node: Node) -> list[list[Tensor]]:
    """Affine parameters are met element-wise; the statistics are over what stays."""
    out = merge(walk, list(node.inputs), walk.shape(node.inputs[0]))
    count = len(node.args[1])
    rank = len(walk.shape(node.inputs[0]))
    outer = [la for la in out if not set(varying(la)) & set(range(rank - count, rank))]
    return [out] + [outer for _ in node.outputs[1:]]


@rule("native_group_norm", "group_norm")
def group_norm(walk: Walk, node: Node) -> list[list[Tensor]]:
    """Channels are averaged within groups, over what stays; groups keep equal counts."""
    x, *own = node.inputs
    rank = len(walk.shape(x))
    groups = node.args[6] if node.op == "native_group_norm" else node.args[1]
    channels = None
    for layer in walk.layers_of(x):
        layer = walk.collapse(layer, tuple(d for d in range(rank) if d != 1))
        if layer.shape[1] == 1:
            walk.freeze(layer, "group statistics are taken over it")
        else:
            channels = layer
    for number in own:
        _follow(walk, number, channels.reshape(-1) if channels is not None else None)
    if channels is None:
        return [[] for _ in node.outputs]
    size = walk.shape(x)[1]
    if groups == size and own:  # the number of groups is the number of channels, and follows it
        return [[channels]] + [[] for _ in node.outputs[1:]]
    if groups == size:
        walk.freeze(channels, "every channel is a group of its own, and the number of groups is fixed")
    elif groups > 1:
        walk.block(channels.reshape(groups, -1), "groups")
    return [[channels]] + [[] for _ in node.outputs[1:]]


@rule("_weight_norm_interface", "_weight_norm")
def weight_norm(walk: Walk, node: Node) -> list[list[Tensor]]:
    """`v * g / |v|`: g follows v along the dimension that it scales."""
    out = merge(walk, list(node.inputs[:2]), walk.shape(node.inputs[0]))
    return [out, [align(la, 1) for la in walk.layers_of(node.inputs[1])]]


@rule("glu")
def glu(walk: Walk, node: Node) -> list[list[Tensor]]:
    """The two halves are tied."""
    shape = walk.shape(node.inputs[0])
    dim = (node.args[1] if len(node.args) > 1 else -1) % len(shape)
    out = []
    for layer in walk.layers_of(node.inputs[0]):
        if layer.shape[dim] > 1:
            first, second = layer.chunk(2, dim)
            walk.tie(first, second)
            layer = first
        out.append(layer)
    return [out]
