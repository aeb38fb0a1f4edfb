"""Element-wise operators tie the labels that meet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from netwright.structure.layers import align, varying
from netwright.structure.rules._base import rule

if TYPE_CHECKING:
    from netwright.structure.labels import Walk
    from netwright.structure.record import Node

UNARY = (
    "relu relu6 gelu silu sigmoid tanh hardswish hardsigmoid hardtanh elu selu celu mish softplus leaky_relu"
    " log_sigmoid_forward hardshrink softshrink threshold exp expm1 log log1p log2 log10 sqrt rsqrt sin cos"
    " tan asin acos atan sinh cosh asinh acosh atanh erf erfc abs neg sign sgn reciprocal square floor ceil"
    " round trunc frac logit clone _to_copy to native_dropout dropout bernoulli isnan isinf isfinite"
    " logical_not bitwise_not nan_to_num positive fill zero relu_ pow exponential uniform normal random"
    " digamma lgamma erfinv special_expit _conj resolve_conj clamp clamp_min clamp_max alpha_dropout"
    " feature_dropout bernoulli_ fake_quantize_per_tensor_affine"
).split()
BINARY = (
    "add sub rsub mul div true_divide floor_divide remainder fmod atan2 maximum minimum where masked_fill"
    " lerp addcmul addcdiv copy eq ne lt le gt ge logical_and logical_or logical_xor bitwise_and bitwise_or"
    " bitwise_xor prelu _prelu_kernel xlogy hypot logaddexp copysign clamp_tensor rrelu rrelu_with_noise fmax"
    " fmin float_power"
).split()


@rule(*dict.fromkeys(UNARY + BINARY))
def elementwise(walk: Walk, node: Node) -> list[list[Tensor]]:
    """Layers that meet are tied; a layer that meets an unlabelled dimension of full size is frozen."""
    out = node.outputs[0]
    operands = list(dict.fromkeys(node.inputs))
    if node.op in ("prelu", "_prelu_kernel"):
        return [_prelu(walk, node)]
    merged = merge(walk, operands, walk.shape(out))
    if operands and all(o in walk.uniform for o in operands):
        walk.uniform.add(out)  # independent noise (a dropout mask) takes the size of what it meets, too
    else:
        walk.uniform.discard(out)  # an in-place operator may have written into a uniform tensor
        if out not in operands:
            _note_constant_dims(walk, operands, out)
    if out in node.inputs:
        walk.write(out, merged)
    # A dropout mask, a second output, is met by nothing but the dropout itself.
    return [merged] + [list(merged) for _ in node.outputs[1:]]


def _note_constant_dims(walk: Walk, operands: list[int], out: int) -> None:
    """Along a dimension that only uniform operands give its size, the result is as good as expanded."""
    shape = walk.shape(out)
    sized = {o: _effective(walk, o, len(shape)) for o in operands if o not in walk.uniform}
    if len(sized) < len(operands):
        free = {d for d, n in enumerate(shape) if n > 1 and all(size[d] == 1 for size in sized.values())}
        if free:
            known = walk.recording.broadcast.get(out, frozenset())
            walk.recording.broadcast[out] = known | free


def merge(walk: Walk, operands: list[int], shape: tuple[int, ...]) -> list[Tensor]:
    """Tie the layers of operands that meet element-wise.

    Args:
        walk: The walk.
        operands: Tensor numbers.
        shape: Shape of the result.

    Returns:
        The layers of the result.
    """
    rank = len(shape)
    described = [
        (o, _effective(walk, o, rank), [align(la, rank) for la in walk.layers_of(o)]) for o in operands
    ]
    return meet_all(walk, described)


def meet_all(walk: Walk, described: list[tuple[int, tuple[int, ...], list[Tensor]]]) -> list[Tensor]:
    """Tie the layers of tensors that meet element for element.

    Args:
        walk: The walk.
        described: Number, shape (1 where the tensor follows what it meets) and layers, of one rank.

    Returns:
        The layers of the result.
    """
    if any(len(varying(la)) > 1 for _, _, layers in described for la in layers):
        described = _without_products(walk, described)
    out: list[Tensor] = []
    for position, (_, _, layers) in enumerate(described):
        for layer in layers:
            verdicts = [
                _meet(walk, layer, other, size, theirs)
                for index, (other, size, theirs) in enumerate(described)
                if index != position
            ]
            if all(verdicts) and not any(varying(layer) == varying(known) for known in out):
                out.append(layer)
    return out


def _without_products(
    walk: Walk, described: list[tuple[int, tuple[int, ...], list[Tensor]]]
) -> list[tuple[int, tuple[int, ...], list[Tensor]]]:
    """A parameter (heads, width) that meets one layer over both cannot lose along both.

    Its elements are a product, and what stays of the layer would have to be one too: with whole heads its
    width stays, otherwise its heads do.
    """
    wide = [varying(la) for _, _, layers in described for la in layers if len(varying(la)) > 1]
    out = []
    for number, size, layers in described:
        kept = []
        for layer in layers:
            mine = varying(layer)
            rest = [set(varying(la)) for la in layers if la is not layer]
            whole = walk.labels.heads == "whole"
            product = any(
                (mine == dims[-1:] and any(r <= set(dims[:-1]) for r in rest))
                if whole
                else (set(mine) <= set(dims[:-1]) and {dims[-1]} in rest)
                for dims in wide
            )
            if product:
                walk.freeze(layer, "it is one factor of a product of units of which the other may go")
            else:
                kept.append(layer)
        out.append((number, size, kept))
    return out


def _effective(walk: Walk, number: int, rank: int) -> tuple[int, ...]:
    """Shape aligned to the rank; expanded dimensions (stride 0) follow what they meet: size 1."""
    shape = walk.shape(number)
    free = walk.recording.broadcast.get(number, frozenset())
    return (1,) * (rank - len(shape)) + tuple(1 if d in free else n for d, n in enumerate(shape))


def _meet(walk: Walk, layer: Tensor, other: int, size: tuple[int, ...], theirs: list[Tensor]) -> bool:
    """Tie one layer with what another operand has there.

    Returns:
        Whether the layer goes on: not when it was frozen, and not when a layer that varies along more
        dimensions was tied with it, which then says it all.
    """
    dims = varying(layer)
    met = [d for d in dims if size[d] > 1]
    if not met:
        return True
    if other in walk.uniform:
        walk.adopt(other, layer)
        return True
    inner = dims[-1]
    if walk.labels.heads == "whole" and inner in met:
        if len(dims) > 1 and any(size[d] == 1 for d in dims):
            walk.labels.broad.append((walk.node, layer))
            if id(walk.node) in walk.labels.whole_at:
                walk.collapse(layer, (inner,))
                return True
        if id(walk.node) in walk.labels.whole_at and any(
            set(dims) < set(varying(la)) and varying(la)[-1] == inner for la in theirs
        ):
            walk.freeze(layer, "it spans one attention head, and heads go whole")
            return False
    for layer2 in theirs:
        dims2 = varying(layer2)
        if dims2 == dims or (inner in dims2 and (set(dims2) <= set(dims) or set(dims) <= set(dims2))):
            walk.tie(layer, layer2)
            return not set(dims) < set(dims2)
    if walk.labels.heads == "whole":
        for layer2 in theirs:
            if set(varying(layer2)) <= set(dims):  # per-row parameters: the rows go or stay whole
                walk.tie(layer, layer2)
                return True
    elif inner not in met:
        return True  # it spans the rows only, and all rows stay
    walk.freeze(layer, f"it meets, in {walk.node.op}, a tensor of the same size that has no units there")
    return False


def _prelu(walk: Walk, node: Node) -> list[Tensor]:
    layers = list(walk.layers_of(node.inputs[0]))
    weight = node.inputs[1]
    shape = walk.shape(weight)
    if max(shape, default=1) == 1:
        return layers
    rank = len(walk.shape(node.inputs[0]))
    if len(shape) == rank:  # already shaped for broadcasting
        return merge(walk, node.inputs[:2], walk.shape(node.outputs[0]))
    channels = [la for la in layers if la.shape[1] > 1]
    for layer in channels:
        layer = walk.collapse(layer, tuple(d for d in range(rank) if d != 1))
        for own in walk.layers_of(weight):
            walk.tie(layer.reshape(-1), own.reshape(-1))
    if not channels:
        for own in walk.layers_of(weight):
            walk.freeze(own, "its input has no units")
    return layers
