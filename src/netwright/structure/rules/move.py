"""Data movement: the same movement, applied to the labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from netwright.structure.layers import align, compress, expand_to, factor, full, reshape, varying
from netwright.structure.record import Ref
from netwright.structure.rules._base import rule

if TYPE_CHECKING:
    from netwright.structure.labels import Walk
    from netwright.structure.record import Node

Layers = list[Tensor]


def _pass_uniform(walk: Walk, node: Node) -> None:
    if node.inputs and node.inputs[0] in walk.uniform:
        walk.uniform.update(o for o in node.outputs if o >= 0)


def _arg(node: Node, index: int, name: str, default: Any = None) -> Any:
    return node.args[index] if len(node.args) > index else node.kwargs.get(name, default)


@rule("view", "_unsafe_view", "reshape", "_reshape_alias", "squeeze", "unsqueeze", "flatten", "unflatten",
      "view_as", "expand_as")  # fmt: skip
def view(walk: Walk, node: Node) -> list[Layers]:
    """A reshape: raising the number of varying dimensions makes a block, merging them may cross one."""
    _pass_uniform(walk, node)
    old, new = walk.shape(node.inputs[0]), walk.shape(node.outputs[0])
    out = []
    for layer in _one_factor(walk, node.inputs[0], old, new):
        before = len(varying(layer))
        moved = reshape(layer, old, new)
        after = len(varying(moved))
        if after > before:
            walk.block(moved, "view")
        elif after < before and walk.crossing(layer):
            whole = after == 1 and moved.numel() == layer.numel()
            if not (whole and walk.shuffle(layer)):
                walk.collapse(layer, (varying(layer)[-1],))
        elif after == before > 1:
            moved = walk.moved(moved, varying(moved)[varying(layer).index(walk.ragged(layer))])
        out.append(moved)
    return [out]


def _one_factor(walk: Walk, number: int, old: tuple[int, ...], new: tuple[int, ...]) -> Layers:
    """The layers of a parameter (features, heads, width) without those that a view puts on one dimension.

    What stays of a product is no product of what stays, unless one factor stays whole: the width of heads
    that go whole, otherwise the heads.
    """
    layers = walk.layers_of(number)
    name = walk.parameter_of(number) if len(layers) > 1 else None
    if name is None:
        return layers
    dims = [(d, la.unique()) for d, la in walk.labels.parameters[name].items()]

    def own(layer: Tensor) -> int:
        return next((d for d, units in dims if torch.equal(units, layer.unique())), -1)

    kept = list(layers)
    for runs, _ in factor(old, new):
        merged = [la for la in kept if varying(la) and set(varying(la)) <= set(runs)]
        if len(merged) < 2:
            continue
        merged.sort(key=own)
        stays = merged[0] if walk.labels.heads == "whole" else merged[-1]
        for layer in merged:
            if layer is not stays:
                walk.freeze(layer, "it is one factor of a flattened product of which the other may go")
        kept = [la for la in kept if la is stays or not any(la is m for m in merged)]
    return kept


@rule("permute")
def permute(walk: Walk, node: Node) -> list[Layers]:
    """Reorder dimensions."""
    _pass_uniform(walk, node)
    return [[_permuted(walk, layer, list(node.args[1])) for layer in walk.layers_of(node.inputs[0])]]


def _permuted(walk: Walk, layer: Tensor, order: list[int]) -> Tensor:
    moved = layer.permute(order)
    if len(varying(layer)) < 2:
        return moved
    return walk.moved(moved, [d % layer.dim() for d in order].index(walk.ragged(layer)))


@rule("transpose", "swapaxes")
def transpose(walk: Walk, node: Node) -> list[Layers]:
    """Swap two dimensions."""
    _pass_uniform(walk, node)
    order = list(range(len(walk.shape(node.inputs[0]))))
    i, j = node.args[1], node.args[2]
    order[i], order[j] = order[j], order[i]
    return [[_permuted(walk, layer, order) for layer in walk.layers_of(node.inputs[0])]]


@rule("t", "numpy_T")
def t(walk: Walk, node: Node) -> list[Layers]:
    """Transpose a matrix."""
    _pass_uniform(walk, node)
    return [[layer.t() for layer in walk.layers_of(node.inputs[0])]]


@rule("expand", "broadcast_to")
def expand(walk: Walk, node: Node) -> list[Layers]:
    """Expand: the labels stay constant along what is expanded."""
    _pass_uniform(walk, node)
    rank = len(walk.shape(node.outputs[0]))
    return [[align(layer, rank) for layer in walk.layers_of(node.inputs[0])]]


@rule("alias", "detach", "lift_fresh", "contiguous", "view_of", "requires_grad")
def alias(walk: Walk, node: Node) -> list[Layers]:
    """The same tensor."""
    _pass_uniform(walk, node)
    return [list(walk.layers_of(node.inputs[0]))]


@rule("as_strided")
def as_strided(walk: Walk, node: Node) -> list[Layers]:
    """Only the internal squeeze of PyTorch is understood: the same elements in the same order."""
    old, new = walk.shape(node.inputs[0]), walk.shape(node.outputs[0])
    if [n for n in old if n > 1] == [n for n in new if n > 1]:
        return view(walk, node)
    for layer in walk.layers_of(node.inputs[0]):
        walk.freeze(layer, "as_strided re-arranges it")
    return [[]]


@rule("slice", "narrow")
def slice_(walk: Walk, node: Node) -> list[Layers]:
    """A range along one dimension."""
    _pass_uniform(walk, node)
    shape, rank = walk.shape(node.inputs[0]), len(walk.shape(node.inputs[0]))
    dim = _arg(node, 1, "dim", 0) % rank
    if walk.shape(node.outputs[0]) == shape:
        return [list(walk.layers_of(node.inputs[0]))]
    out = []
    for layer in walk.layers_of(node.inputs[0]):
        if layer.shape[dim] > 1:
            arguments = [a for a in node.args if not isinstance(a, Ref)]
            layer = compress(node.target(layer, *arguments, **node.kwargs))
        out.append(layer)
    return [out]


@rule("select")
def select(walk: Walk, node: Node) -> list[Layers]:
    """One index of a dimension, which goes."""
    _pass_uniform(walk, node)
    dim, index = node.args[1] % len(walk.shape(node.inputs[0])), node.args[2]
    out = []
    for layer in walk.layers_of(node.inputs[0]):
        if varying(layer) == (dim,):  # the index counts from one end: what lies between must stay
            fixed = layer[
                (slice(None),) * dim + (slice(None, index + 1) if index >= 0 else slice(index, None),)
            ]
            walk.freeze(fixed, "one of its members is selected by number")
        out.append(_pick(layer, dim, index))
    return [out]


def _pick(layer: Tensor, dim: int, index: int) -> Tensor:
    varies = layer.shape[dim] > 1
    picked = layer.select(dim, index if varies else 0)
    return compress(picked) if varies else picked


@rule("unbind")
def unbind(walk: Walk, node: Node) -> list[Layers]:
    """Every index of a dimension, which goes."""
    _pass_uniform(walk, node)
    dim = _arg(node, 1, "dim", 0) % len(walk.shape(node.inputs[0]))
    layers = walk.layers_of(node.inputs[0])
    return [[_pick(layer, dim, i) for layer in layers] for i in range(len(node.outputs))]


@rule(
    "split",
    "split_with_sizes",
    "unsafe_split",
    "chunk",
    "unsafe_chunk",
    "tensor_split",
    "unsafe_split_with_sizes",
)
def split(walk: Walk, node: Node) -> list[Layers]:
    """Ranges along one dimension; equal parts must stay equal, so they make a block."""
    _pass_uniform(walk, node)
    shape = walk.shape(node.inputs[0])
    dim = _arg(node, 2, "dim", 0) % len(shape)
    sizes = [walk.shape(o)[dim] for o in node.outputs]
    parts: list[Layers] = [[] for _ in sizes]
    for layer in walk.layers_of(node.inputs[0]):
        if layer.shape[dim] == 1:
            for part in parts:
                part.append(layer)
            continue
        if len(set(sizes)) == 1 and len(sizes) > 1:
            rows = layer.unflatten(dim, (len(sizes), sizes[0]))
            if len(varying(rows)) > 1 and rows.shape[dim + 1] > 1:
                walk.block(rows.movedim((dim, dim + 1), (0, -1)), "split")
        for part, piece in zip(parts, layer.split(sizes, dim), strict=True):
            part.append(compress(piece))
    return parts


@rule("cat", "concat", "concatenate")
def cat(walk: Walk, node: Node) -> list[Layers]:
    """Concatenate slot by slot; what an input does not describe is frozen."""
    refs: list[Ref] = [r for r in node.args[0] if walk.shape(r) != (0,)]
    rank = len(walk.shape(node.outputs[0]))
    dim = _arg(node, 1, "dim", 0) % rank
    return [_join(walk, [r.id for r in refs], dim, rank)]


@rule("stack")
def stack(walk: Walk, node: Node) -> list[Layers]:
    """Concatenate along a new dimension."""
    refs = [r.id for r in node.args[0]]
    rank = len(walk.shape(node.outputs[0]))
    dim = _arg(node, 1, "dim", 0) % rank
    return [_join(walk, refs, dim, rank, new=True)]


def _join(walk: Walk, refs: list[int], dim: int, rank: int, new: bool = False) -> Layers:
    sizes = [1 if new else walk.shape(r)[dim] for r in refs]
    described = []
    for ref in refs:
        layers = walk.layers_of(ref)
        described.append([layer.unsqueeze(dim) for layer in layers] if new else list(layers))
    out: Layers = _filled(walk, refs, dim, rank) if not new else []
    if out:
        return out + [la for la in described[0] if la.shape[dim] == 1]
    along = [[la for la in layers if not new and (la.shape[dim] > 1)] for layers in described]
    if any(along):
        out += _slots(walk, refs, sizes, along, dim, rank)
    out += _across(walk, refs, [[la for la in ls if la.shape[dim] == 1 or new] for ls in described])
    return out


def _filled(walk: Walk, refs: list[int], dim: int, rank: int) -> Layers:
    """Units of their own of what is filled up at its end, where only leading members will stay."""
    if not walk.labels.leading or len(refs) < 2 or any(r not in walk.uniform for r in refs[1:]):
        return []
    before = [la for la in walk.layers_of(refs[0]) if la.shape[dim] > 1]
    if refs[0] in walk.uniform or len(before) != 1 or varying(before[0]) != (dim,):
        return []
    size = sum(walk.shape(r)[dim] for r in refs)
    after = walk.labels.fresh(size).reshape([size if d == dim else 1 for d in range(rank)])
    walk.labels.filled.append((before[0], after))
    return [after]


def _across(walk: Walk, refs: list[int], described: list[Layers]) -> Layers:
    """Tie what the inputs of a concatenation have along other dimensions than its own.

    Where one knows rows and members (heads and their width) and another the members alone, the members of
    all rows are the same: the layer that varies along less says it all.
    """
    out: Layers = []
    done: set[int] = set()
    for key in sorted({varying(la) for layers in described for la in layers}, key=lambda k: (len(k), k)):
        same = [_with_key(layers, key, done) for layers in described]
        exact = [la for la in same if la is not None and varying(la) == key]
        if not exact:
            continue
        if any(la is None and r not in walk.uniform for r, la in zip(refs, same, strict=True)):
            for layer in exact:
                walk.freeze(layer, "it is concatenated with something that has no units there")
            continue
        for known in same:
            if known is not None:
                done.add(id(known))
                if known is not exact[0]:
                    walk.tie(exact[0], known)
        out.append(exact[0])
    return out


def _with_key(layers: Layers, key: tuple[int, ...], done: set[int]) -> Tensor | None:
    """The layer that varies along some dimensions, or else along more, of which they are the innermost."""
    left = [la for la in layers if id(la) not in done]
    for layer in left:
        if varying(layer) == key:
            return layer
    return next((la for la in left if key and varying(la)[-len(key) :] == key), None)


def _slots(walk: Walk, refs: list[int], sizes: list[int], along: list[Layers], dim: int, rank: int) -> Layers:
    slots = []
    for ref, size, layers in zip(refs, sizes, along, strict=True):
        if layers:
            slot, *more = layers
            for layer in more:
                walk.freeze(layer, "two units lie on one concatenated dimension")
        elif ref in walk.uniform and size > 1:
            slot = walk.labels.fresh(size).reshape([size if d == dim else 1 for d in range(rank)])
        else:
            slot = full(tuple(size if d == dim else 1 for d in range(rank)))
        slots.append(slot)
    shape = [max(s.shape[d] for s in slots) for d in range(rank)]
    return [
        torch.cat([s.expand([s.shape[d] if d == dim else shape[d] for d in range(rank)]) for s in slots], dim)
    ]


@rule("flip", "roll")
def flip(walk: Walk, node: Node) -> list[Layers]:
    """Reverse or rotate along dimensions."""
    _pass_uniform(walk, node)
    rank = len(walk.shape(node.inputs[0]))
    if node.op == "roll":
        shifts, dims = _arg(node, 1, "shifts"), _arg(node, 2, "dims", [])
        if not dims:
            return generic(walk, node)
    else:
        dims, shifts = node.args[1], node.args[1]
    out = []
    for layer in walk.layers_of(node.inputs[0]):
        live = [(s, d) for s, d in zip(shifts, dims, strict=True) if layer.shape[d % rank] > 1]
        for s, d in live:
            layer = layer.flip(d) if node.op == "flip" else layer.roll(s, d)
        out.append(layer)
    return [out]


@rule("repeat", "tile")
def repeat(walk: Walk, node: Node) -> list[Layers]:
    """Repeat along dimensions: constant ones stay constant."""
    _pass_uniform(walk, node)
    times = list(node.args[1])
    out = []
    for layer in walk.layers_of(node.inputs[0]):
        layer = align(layer, len(times))
        out.append(
            compress(layer.repeat([k if n > 1 else 1 for k, n in zip(times, layer.shape, strict=True)]))
        )
    return [out]


@rule("pixel_shuffle", "pixel_unshuffle", "unfold", "diagonal", "rot90", "movedim")
def generic(walk: Walk, node: Node) -> list[Layers]:
    """Any other movement: run the operator itself on fully expanded labels."""
    _pass_uniform(walk, node)
    shape = walk.shape(node.inputs[0])
    rest = [a for a in node.args if not isinstance(a, Ref)]
    out = []
    for layer in walk.layers_of(node.inputs[0]):
        moved = compress(node.target(expand_to(layer, shape, tuple(range(len(shape)))), *rest, **node.kwargs))
        if len(varying(moved)) > len(varying(layer)):
            walk.block(moved, "view")
        out.append(moved)
    return [out]


@rule("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(walk: Walk, node: Node) -> list[Layers]:
    """Interleave groups of channels: position r of every group must be the same member."""
    groups = node.args[1]
    for layer in walk.layers_of(node.inputs[0]):
        if layer.shape[1] > 1:
            rows = layer.unflatten(1, (groups, -1))
            if len(varying(layer)) > 1 or len(varying(rows)) < 2:
                walk.collapse(rows, (1,))
            else:
                walk.block(rows, "view")
                walk.shuffle(walk.moved(rows.transpose(1, 2), 1))
    return generic(walk, node)


@rule("im2col")
def im2col(walk: Walk, node: Node) -> list[Layers]:
    """Unfold windows into columns (the operator has no integer kernel, float64 holds every id exactly)."""
    shape = walk.shape(node.inputs[0])
    out = []
    for layer in walk.layers_of(node.inputs[0]):
        wide = expand_to(layer, shape, tuple(range(len(shape)))).double()
        out.append(compress(node.target(wide, *node.args[1:]).long()))
    return [out]


@rule("constant_pad_nd")
def constant_pad(walk: Walk, node: Node) -> list[Layers]:
    """Pad: padded slots of a labelled dimension are frozen."""
    pads = node.args[1]
    out = []
    for layer in walk.layers_of(node.inputs[0]):
        live = list(pads)
        for i in range(0, len(live), 2):
            if layer.shape[layer.dim() - 1 - i // 2] == 1:
                live[i] = live[i + 1] = 0
        out.append(torch.constant_pad_nd(layer, live, 0) if any(live) else layer)
    return [out]
