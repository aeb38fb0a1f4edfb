"""Convolutions: the input's channels tie with the weight's, the weight's outputs label the result."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from netwright.structure.layers import varying
from netwright.structure.rules._base import rule, rule_for

if TYPE_CHECKING:
    from netwright.structure.labels import Walk
    from netwright.structure.record import Node, Recording

#: How many tensors behind a computed weight are looked at.
_ANCESTORS = 64


@rule("convolution", "convolution_overrideable", "_convolution", "mkldnn_convolution")
def convolution(walk: Walk, node: Node) -> list[list[Tensor]]:
    """`input (B, C, ...), weight (O, C/g, ...)`, or (C, O/g, ...) when transposed; bias (O)."""
    x, w = node.inputs[0], node.inputs[1]
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    stride, padding, _, transposed, _, groups = _geometry(node)
    channels = walk.shape(x)[1]
    kernel = walk.shape(w)[2:]
    pointwise = tuple(
        k == 1 and s == 1 and p == 0
        for k, s, p in zip(kernel, _wide(stride, kernel), _wide(padding, kernel), strict=True)
    )
    incoming, through = _incoming(walk, x, pointwise)
    row, column = (1, 0) if transposed else (0, 1)
    if not walk.is_parameter(w):
        outgoing = _computed_weight(walk, w, incoming, row, column, groups)
    elif groups == 1:
        if channels > 1:
            _tie_or_freeze(walk, w, column, incoming)
        outgoing = walk.axis(w, row).reshape(-1) if walk.shape(w)[row] > 1 else None
    elif walk.shape(w)[1] == 1 and groups == channels and walk.given(walk.names[w], 1) is None:
        outgoing = _depthwise(walk, w, incoming, channels)
    else:
        outgoing = _grouped(walk, w, incoming, groups, transposed)
    out = list(through)
    if outgoing is not None:
        if bias is not None:
            _bias(walk, bias, outgoing)
        out.append(outgoing.reshape([1, -1] + [1] * len(kernel)))
    elif bias is not None:
        for layer in walk.layers_of(bias):
            walk.freeze(layer, "it is the bias of a convolution whose outputs have no units")
    return [out]


def kernels(recording: Recording) -> dict[int, int]:
    """Parameters that are convolution kernels, perhaps after a computation of the same shape.

    Args:
        recording: The operators.

    Returns:
        Parameter number -> its first dimension without units (a kernel slides as a whole).
    """
    owned = set(recording.parameters.values())
    weights = [node.inputs[1] for node in recording.nodes if rule_for(node) is convolution]
    found = {number: 2 for number in weights if number in owned}
    if len(found) == len(set(weights)):
        return found
    made = {number: node for node in reversed(recording.nodes) for number in node.outputs}
    for weight in set(weights) - set(found):
        shape, seen, waiting = recording.shapes[weight], set[int](), [weight]
        while waiting and len(seen) < _ANCESTORS:
            number = waiting.pop()
            if number in seen:
                continue
            seen.add(number)
            if number in owned and recording.shapes[number] == shape:
                found[number] = 2
            elif number in made:
                waiting += made[number].inputs
    return found


def _geometry(node: Node) -> tuple[list[int], list[int], list[int], bool, list[int], int]:
    if node.op == "mkldnn_convolution":
        padding, stride, dilation, groups = node.args[3:7]
        return stride, padding, dilation, False, [], groups
    return tuple(node.args[3:9])  # type: ignore[return-value]


def _wide(values: list[int], kernel: tuple[int, ...]) -> list[int]:
    return list(values) * len(kernel) if len(values) == 1 else list(values)


def _incoming(walk: Walk, x: int, pointwise: tuple[bool, ...]) -> tuple[Tensor | None, list[Tensor]]:
    """The input's channel units (C,), and layers along dimensions where the convolution is element-wise."""
    found: Tensor | None = None
    through = []
    for layer in walk.layers_of(x):
        spatial = tuple(d for d in varying(layer) if d != 1)
        passes = spatial and all(d >= 2 and pointwise[d - 2] for d in spatial)
        if layer.shape[1] == 1 and passes:
            through.append(layer)
            continue
        layer = walk.collapse(layer, spatial)
        if layer.shape[1] == 1:
            walk.freeze(layer, "a convolution slides along it")
        elif found is None:
            found = layer.reshape(-1)
        else:
            walk.freeze(layer, "two units lie on one channel dimension")
            walk.freeze(found, "two units lie on one channel dimension")
    return found, through


def _tie_or_freeze(walk: Walk, w: int, dim: int, incoming: Tensor | None) -> None:
    layer = walk.axis(w, dim, adopt=incoming)
    if incoming is None:
        walk.freeze(
            layer, "the input of the convolution has no units (the network's own input, or frozen before)"
        )


def _depthwise(walk: Walk, w: int, incoming: Tensor | None, channels: int) -> Tensor:
    if incoming is not None and walk.shape(w)[0] == channels:
        return walk.axis(w, 0, adopt=incoming).reshape(-1)
    own = walk.axis(w, 0)
    if incoming is None:
        walk.freeze(own, "the input of the depthwise convolution has no units")
    else:
        walk.tie(own.reshape(channels, -1), incoming.reshape(-1, 1))
    return own.reshape(-1)


def _grouped(walk: Walk, w: int, incoming: Tensor | None, groups: int, transposed: bool) -> Tensor:
    shape = walk.shape(w)
    ones = [1] * (len(shape) - 2)
    if transposed:  # (C, O/g, ...): the rows are the inputs, the columns the outputs of one group
        own = walk.axis(w, 0)
        walk.block(own.reshape(groups, -1), "groups") if shape[0] > groups else None
        if incoming is None:
            walk.freeze(own, "the input of the convolution has no units")
        else:
            walk.tie(own.reshape(-1), incoming)
        name = walk.names[w]
        known = walk.labels.parameters.setdefault(name, {})
        if 1 not in known and shape[1] > 1:
            units = walk.labels.fresh(groups * shape[1])
            per = units.reshape(groups, 1, shape[1]).expand(groups, shape[0] // groups, shape[1])
            walk.set_axis(w, 1, per.reshape([shape[0], shape[1], *ones]))
        if shape[1] == 1:
            walk.freeze(own, "a grouped transposed convolution with one output a group")
            return walk.labels.fresh(groups) * 0
        columns = known[1].expand(
            [shape[0], shape[1], *ones]
        )  # labels of classes may be constant over the rows
        layer = columns.reshape(groups, shape[0] // groups, shape[1])[:, 0]
        walk.block(layer, "groups")
        return layer.reshape(-1)
    own = walk.axis(w, 0)
    if shape[0] > groups:
        walk.block(own.reshape(groups, -1), "groups")
    elif walk.labels.given is None:
        walk.freeze(own, "a grouped convolution with one output a group")
    if shape[1] == 1 and walk.given(walk.names[w], 1) is None:
        if incoming is not None:
            walk.freeze(incoming, "a grouped convolution with one input a group")
    elif incoming is None:
        walk.freeze(walk.axis(w, 1), "the input of the grouped convolution has no units")
    else:
        walk.block(incoming.reshape(groups, -1), "groups")
        per = incoming.reshape(groups, 1, -1).expand(groups, shape[0] // groups, shape[1])
        walk.set_axis(w, 1, per.reshape([shape[0], shape[1], *ones]))
    return own.reshape(-1)


def _computed_weight(
    walk: Walk, w: int, incoming: Tensor | None, row: int, column: int, groups: int
) -> Tensor | None:
    """A weight that is itself computed (standardised, normalised, generated)."""
    shape = walk.shape(w)
    if groups > 1 and row == 0 and shape[1] > 1 and shape[0] > groups:
        return _computed_groups(walk, w, incoming, groups)
    outgoing = None
    for layer in walk.layers_of(w):
        dims = varying(layer)
        if dims == (row,) and (groups == 1 or groups == shape[0]):
            outgoing = layer.reshape(-1)
            if groups > 1:
                if incoming is not None and incoming.numel() == outgoing.numel():
                    walk.tie(outgoing, incoming)
                else:
                    walk.freeze(layer, "the input of the depthwise convolution has no units")
        elif dims == (column,) and groups == 1 and incoming is not None:
            walk.tie(layer.reshape(-1), incoming)
        else:
            walk.freeze(layer, "a computed convolution weight")
    tied = any(varying(la) == (column,) for la in walk.layers_of(w))
    if incoming is not None and groups == 1 and not tied:
        walk.freeze(incoming, "the computed weight of the convolution has no units there")
    if groups > 1 and outgoing is None and incoming is not None:
        walk.freeze(incoming, "the computed weight of the convolution has no units there")
    return outgoing


def _computed_groups(walk: Walk, w: int, incoming: Tensor | None, groups: int) -> Tensor | None:
    """A computed weight (O, K/g, ...): what stays of its columns is the same for all groups."""
    outgoing: Tensor | None = None
    columns: Tensor | None = None
    for layer in walk.layers_of(w):
        dims = varying(layer)
        if dims == (0,):
            outgoing = layer.reshape(-1)
        elif dims == (1,) and incoming is not None:
            columns = layer.reshape(-1)
            walk.tie(columns, incoming.reshape(groups, -1))
        else:
            walk.freeze(layer, "a computed convolution weight")
    if columns is None and incoming is not None:
        walk.freeze(incoming, "the computed weight of the convolution has no units there")
    if outgoing is not None:
        walk.block(outgoing.reshape(groups, -1), "groups")
    return outgoing


def _bias(walk: Walk, bias: int, outgoing: Tensor) -> None:
    if walk.is_parameter(bias):
        walk.axis(bias, 0, adopt=outgoing)
    else:
        layers = walk.layers_of(bias)
        for layer in layers:
            walk.tie(layer.reshape(-1), outgoing)
        if not layers:
            walk.freeze(outgoing, "its bias is computed and has no units")


POOLS = (
    "max_pool1d max_pool2d_with_indices max_pool3d_with_indices max_pool2d avg_pool1d avg_pool2d avg_pool3d"
    " _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_avg_pool1d adaptive_max_pool1d adaptive_max_pool2d"
    " adaptive_max_pool3d adaptive_avg_pool2d mkldnn_max_pool2d upsample_nearest1d upsample_nearest2d"
    " upsample_nearest3d _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d"
    " upsample_linear1d upsample_bilinear2d upsample_bicubic2d upsample_trilinear3d _upsample_bicubic2d_aa"
    " _upsample_bilinear2d_aa reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d"
    " replication_pad2d replication_pad3d grid_sampler_2d grid_sampler_3d"
).split()


@rule(*POOLS)
def pool(walk: Walk, node: Node) -> list[list[Tensor]]:
    """Pooling, interpolation and mirrored padding mix spatial positions and let channels pass."""
    shape = walk.shape(node.inputs[0])
    count = next((n for key, n in (("1d", 1), ("2d", 2), ("3d", 3)) if key in node.op), 2)
    dims = tuple(range(len(shape) - count, len(shape)))
    out = []
    for layer in walk.layers_of(node.inputs[0]):
        layer = walk.collapse(layer, dims)
        if layer.numel() > 1:
            out.append(layer)
        else:
            walk.freeze(layer, f"{node.op} mixes it")
    for number in node.inputs[1:]:
        for layer in walk.layers_of(number):
            walk.freeze(layer, f"{node.op} reads positions from it")
    return [out] + [list(out) for _ in node.outputs[1:]]
