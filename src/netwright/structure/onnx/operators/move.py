"""Data movement: reshapes, slices, concatenation, padding, blocks of pixels."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from netwright.structure.onnx.operators.registry import (
    axis_of,
    integers,
    known_integers,
    lift,
    operator,
    tensors,
    unsupported,
)
from netwright.structure.onnx.program import Step, Value


def target_shape(step: Step, shape: tuple[int, ...], wanted: list[int]) -> list[int]:
    """The shape that a Reshape makes: 0 copies a size, -1 takes the rest.

    Args:
        step: The node.
        shape: Of its input.
        wanted: As the node says it.
    """
    copies = not step.get("allowzero", 0)
    out = [shape[d] if n == 0 and copies and d < len(shape) else n for d, n in enumerate(wanted)]
    if -1 in out:
        rest = prod(n for n in out if n != -1)
        out[out.index(-1)] = prod(shape) // rest if rest else 0
    return out


@operator("Reshape")
def reshape(step: Step, x: Tensor, shape: Value = None) -> Tensor:
    """Another shape of as many elements."""
    wanted = integers(step, (x, shape), 1, "shape") or []
    return x.reshape(target_shape(step, tuple(x.shape), wanted))


@operator("Flatten")
def flatten(step: Step, x: Tensor) -> Tensor:
    """A matrix: what comes before an axis, and the rest."""
    axis = step.get("axis", 1)
    axis = axis + x.dim() if axis < 0 else axis
    return x.reshape(prod(x.shape[:axis]), prod(x.shape[axis:]))


@operator("Transpose")
def transpose(step: Step, x: Tensor) -> Tensor:
    """Dimensions in another order."""
    return x.permute(step.get("perm") or list(reversed(range(x.dim()))))


@operator("Unsqueeze")
def unsqueeze(step: Step, x: Tensor, axes: Value = None) -> Tensor:
    """New dimensions of size 1."""
    found = integers(step, (x, axes), 1, "axes") or []
    rank = x.dim() + len(found)
    for axis in sorted(a % rank for a in found):
        x = x.unsqueeze(axis)
    return x


@operator("Squeeze")
def squeeze(step: Step, x: Tensor, axes: Value = None) -> Tensor:
    """Without some, or all, dimensions of size 1."""
    found = integers(step, (x, axes), 1, "axes")
    if found is None:
        found = [d for d, n in enumerate(x.shape) if n == 1]
    for axis in sorted((a % x.dim() for a in found), reverse=True):
        x = x.squeeze(axis)
    return x


@operator("Expand")
def expand(step: Step, x: Tensor, shape: Value) -> Tensor:
    """Broadcast against a shape."""
    wanted = known_integers(step, shape)
    return x.expand(torch.broadcast_shapes(tuple(x.shape), tuple(wanted)))


@operator("Tile")
def tile(step: Step, x: Tensor, times: Value) -> Tensor:
    """Repeat along dimensions."""
    return x.repeat(known_integers(step, times))


@operator("Concat")
def concat(step: Step, *values: Value) -> Tensor:
    """One after the other along an axis."""
    found = tensors(*values)
    return torch.cat(found, axis_of(step, found[0].dim()))


def slices(
    step: Step, inputs: tuple[Value, ...], shape: tuple[int, ...]
) -> list[tuple[int, int, int, int, int]]:
    """The ranges of a Slice.

    Returns:
        (axis, start, end, stride, position in the lists) for each; with a stride above 0 the range is within
        the size, with one below it start and end are indices in falling order, end exclusive and at least -1.
    """
    starts = integers(step, inputs, 1, "starts") or []
    ends = integers(step, inputs, 2, "ends") or []
    axes = integers(step, inputs, 3, "axes") or list(range(len(starts)))
    strides = integers(step, inputs, 4, "steps") or [1] * len(starts)
    out = []
    for i, (axis, start, end, stride) in enumerate(zip(axes, starts, ends, strides, strict=True)):
        axis %= len(shape)
        low, high, by = slice(start, end, stride).indices(shape[axis])
        out.append((axis, low, max(high, low) if by > 0 else high, by, i))
    return out


@operator("Slice")
def slice_(
    step: Step, x: Tensor, starts: Value = None, ends: Value = None, axes: Value = None, strides: Value = None
) -> Tensor:
    """Ranges along some dimensions."""
    for axis, low, high, by, _ in slices(step, (x, starts, ends, axes, strides), tuple(x.shape)):
        if by not in (1, -1):  # which of them it takes depends on what stays: a selection, which freezes
            x = x.index_select(axis, torch.arange(low, high, by, device="cpu").to(x.device))
        elif by < 0:
            x = x.narrow(axis, high + 1, low - high).flip(axis)
        elif (low, high) != (0, x.shape[axis]):
            x = torch.ops.aten.slice.Tensor(x, axis, low, high, 1)
    return x


def split_sizes(step: Step, inputs: tuple[Value, ...], size: int) -> list[int]:
    """The sizes of a Split's parts: as given, or equal with a smaller last one."""
    found = integers(step, inputs, 1, "split")
    if found is not None:
        return found
    count = step.get("num_outputs") or len(step.outputs)
    part = -(-size // count)
    return [*[part] * (count - 1), size - part * (count - 1)]


@operator("Split")
def split(step: Step, x: Tensor, sizes: Value = None) -> Any:
    """Parts along an axis."""
    axis = axis_of(step, x.dim(), 0)
    return tuple(torch.split(x, split_sizes(step, (x, sizes), x.shape[axis]), axis))


@operator("SplitToSequence")
def split_to_sequence(step: Step, x: Tensor, sizes: Value = None) -> Any:
    """A sequence of parts along an axis."""
    axis = axis_of(step, x.dim(), 0)
    if sizes is None:
        parts = list(torch.split(x, 1, axis))
        return ([p.squeeze(axis) for p in parts] if not step.get("keepdims", 1) else parts,)
    given = known_integers(step, sizes)
    return (list(torch.split(x, given if np.ndim(sizes) else given[0], axis)),)


@operator("SequenceConstruct")
def sequence(step: Step, *values: Value) -> Any:
    """A sequence."""
    return (list(values),)


@operator("SequenceAt")
def sequence_at(step: Step, values: list[Value], position: Value) -> Value:
    """One of a sequence."""
    return values[known_integers(step, position)[0]]


@operator("ConcatFromSequence")
def concat_sequence(step: Step, values: list[Value]) -> Tensor:
    """A sequence as one tensor."""
    found = tensors(*values)
    axis = int(step.get("axis"))
    return torch.stack(found, axis) if step.get("new_axis", 0) else torch.cat(found, axis)


@operator("Pad")
def pad(step: Step, x: Tensor, pads: Value = None, value: Value = None, axes: Value = None) -> Tensor:
    """Zeros, a constant, or what is at or beyond the border."""
    given = integers(step, (x, pads), 1, "pads") or []
    dims = [a % x.dim() for a in known_integers(step, axes)] if axes is not None else list(range(x.dim()))
    before, after = [0] * x.dim(), [0] * x.dim()
    for i, axis in enumerate(dims):
        before[axis], after[axis] = given[i], given[i + len(dims)]
    flat = [p for both in zip(reversed(before), reversed(after), strict=True) for p in both]
    while len(flat) > 2 and not any(flat[-2:]):
        flat = flat[:-2]
    mode = step.get("mode", "constant")
    if not any(flat):
        return x
    if mode == "constant":
        number = step.get("value", 0.0) if value is None else value.item()
        return F.pad(x, flat, value=number)
    if mode == "wrap" or len(flat) // 2 > min(x.dim() - 1, 3):
        raise unsupported(step, f"padding of this kind ({mode}) along {len(flat) // 2} dimensions")
    lead = x.dim() - len(flat) // 2  # PyTorch pads the last one to three dimensions of at least two more
    merged = x.reshape(1, 1, *x.shape) if lead == 0 else x.unsqueeze(0) if lead == 1 else x
    merged = merged.flatten(0, lead - 2) if lead > 2 else merged
    out = F.pad(merged, flat, mode="reflect" if mode == "reflect" else "replicate")
    return out.reshape(*x.shape[:lead], *out.shape[out.dim() - len(flat) // 2 :])


@operator("DepthToSpace")
def depth_to_space(step: Step, x: Tensor) -> Tensor:
    """Channels to blocks of pixels."""
    b, c, h, w = x.shape
    size = int(step.get("blocksize"))
    if step.get("mode", "DCR") == "CRD":
        return torch.pixel_shuffle(x, size)
    parts = x.reshape(b, size, size, c // size**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return parts.reshape(b, c // size**2, h * size, w * size)


@operator("SpaceToDepth")
def space_to_depth(step: Step, x: Tensor) -> Tensor:
    """Blocks of pixels to channels."""
    b, c, h, w = x.shape
    size = int(step.get("blocksize"))
    if step.get("mode", "DCR") == "CRD":
        return torch.pixel_unshuffle(x, size)
    parts = x.reshape(b, c, h // size, size, w // size, size).permute(0, 3, 5, 1, 2, 4)
    return parts.reshape(b, c * size**2, h // size, w // size)


@operator("Shape")
def shape_(step: Step, x: Value) -> Value:
    """Sizes, which are known."""
    return np.array(x.shape, dtype=np.int64)[slice(step.get("start", 0), step.get("end", None))]


@operator("Size")
def size_(step: Step, x: Value) -> Value:
    """Number of elements, which is known."""
    return np.array(prod(x.shape), dtype=np.int64)


@operator("Trilu")
def triangle(step: Step, x: Tensor, k: Value = None) -> Tensor:
    """A triangle of every matrix."""
    offset = 0 if k is None else known_integers(step, k)[0]
    return torch.triu(x, offset) if step.get("upper", 1) else torch.tril(x, offset)


@operator("EyeLike")
def eye(step: Step, x: Tensor) -> Tensor:
    """Ones on a diagonal."""
    out = np.eye(x.shape[0], x.shape[1], k=step.get("k", 0), dtype=np.float32)
    return lift(out, x)


@operator("ReverseSequence")
def reverse_sequence(step: Step, x: Tensor, lengths: Value) -> Tensor:
    """Every example backwards, up to its own length."""
    time, batch = step.get("time_axis", 0) % x.dim(), step.get("batch_axis", 1) % x.dim()
    counts = known_integers(step, lengths)
    if all(n == x.shape[time] for n in counts):
        return x.flip(time)
    parts = []
    for part, count in zip(x.split(1, batch), counts, strict=True):
        turned, rest = part.split([count, x.shape[time] - count], time)
        parts.append(torch.cat([turned.flip(time), rest], time))
    return torch.cat(parts, batch)
