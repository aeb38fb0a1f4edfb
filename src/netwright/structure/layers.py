"""Label layers: which unit each element of a tensor belongs to.

A *layer* is an int64 tensor of the rank of the tensor it describes, with size 1 along every dimension where
it is constant, so a convolution's activation (B, C, H, W) is described by one layer (1, C, 1, 1) whatever its
image size. An element stays iff its unit stays in every layer. Unit 0 is frozen.
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

Shape = tuple[int, ...]


def varying(layer: Tensor) -> tuple[int, ...]:
    """Dimensions along which a layer varies."""
    return tuple([d for d, n in enumerate(layer.shape) if n > 1])


def compress(layer: Tensor, dims: tuple[int, ...] | None = None) -> Tensor:
    """Give size 1 to the dimensions along which a layer turns out constant.

    Args:
        layer: Labels.
        dims: The dimensions to look at; all when None.
    """
    for d in dims if dims is not None else range(layer.dim()):
        n = layer.shape[d]
        if n > 1:
            if layer.stride(d) == 0 or _constant(layer, d):
                layer = layer.narrow(d, 0, 1)
    return layer


def _constant(layer: Tensor, dim: int) -> bool:
    """Whether a layer is the same at every index of a dimension."""
    array = layer.numpy()
    if array.size == array.shape[dim]:
        array = array.ravel()
        if array[0] != array[-1]:  # most that vary tell by their ends
            return False
        dim = 0
    first = array[(*[slice(None)] * dim, slice(0, 1))]
    return bool((array == first).all())


def align(layer: Tensor, rank: int) -> Tensor:
    """Prepend dimensions of size 1, as broadcasting does."""
    return layer.reshape((1,) * (rank - layer.dim()) + tuple(layer.shape)) if layer.dim() < rank else layer


def expand_to(layer: Tensor, shape: Shape, dims: tuple[int, ...]) -> Tensor:
    """Expand a layer to the tensor's size along some dimensions (no memory)."""
    return layer.expand([shape[d] if d in dims else n for d, n in enumerate(layer.shape)])


def factor(old: Shape, new: Shape) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Match runs of old dimensions with runs of new ones of the same product, for a reshape.

    Args:
        old: Shape before.
        new: Shape after, of the same number of elements.

    Returns:
        Pairs (old dimensions, new dimensions); sizes of 1 may stand alone.
    """
    if prod(old) == 0:
        return [(tuple(range(len(old))), tuple(range(len(new))))]
    pairs = []
    i = j = 0
    while i < len(old) or j < len(new):
        a, b = [i] if i < len(old) else [], [j] if j < len(new) else []
        p, q = (old[i] if a else 1), (new[j] if b else 1)
        i, j = i + len(a), j + len(b)
        while p != q:
            if p < q:
                a.append(i)
                p, i = p * old[i], i + 1
            else:
                b.append(j)
                q, j = q * new[j], j + 1
        pairs.append((tuple(a), tuple(b)))
    return pairs


def reshape(layer: Tensor, old: Shape, new: Shape) -> Tensor:
    """The layer of a reshaped tensor; expands only the runs of dimensions in which the layer varies.

    Args:
        layer: Labels of a tensor of shape `old`.
        old: Shape before.
        new: Shape after.
    """
    vary = set(varying(layer))
    source: list[int] = []
    target = [1] * len(new)
    touched: list[int] = []
    for a, b in factor(old, new):
        if vary.intersection(a):
            source += [old[d] for d in a]
            for d in b:
                target[d] = new[d]
            if len(a) > 1 or len(b) > 1:
                touched += b
        else:
            source += [1] * len(a)
    return compress(layer.expand(source).reshape(target), tuple(touched))


def full(shape: Shape) -> Tensor:
    """An all-frozen layer, for slots that no unit describes."""
    return torch.zeros(shape, dtype=torch.int64)
