"""Reductions, order statistics and indexing."""

from __future__ import annotations

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


@operator(
    "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2",
    "ReduceSumSquare", "ReduceLogSumExp", "ReduceLogSum",
)  # fmt: skip
def reduce(step: Step, x: Tensor, axes: Value = None) -> Tensor:
    """Over some axes, or all."""
    found = integers(step, (x, axes), 1, "axes")
    if not found:
        if step.get("noop_with_empty_axes", 0):
            return x
        found = list(range(x.dim()))
    dims = tuple(a % x.dim() for a in found)
    keep = bool(step.get("keepdims", 1))
    kind = step.op.removeprefix("Reduce")
    if kind in ("L1", "L2"):
        return torch.linalg.vector_norm(x, int(kind[1]), dims, keep)
    if kind == "Prod":
        for d in sorted(dims, reverse=True):
            x = x.prod(d, keepdim=keep)
        return x
    if kind == "LogSumExp":
        return torch.logsumexp(x, dims, keep)
    if kind in ("Sum", "SumSquare", "LogSum"):
        out = (x * x if kind == "SumSquare" else x).sum(dims, keep, dtype=x.dtype)
        return out.log() if kind == "LogSum" else out
    return {"Mean": torch.mean, "Max": torch.amax, "Min": torch.amin}[kind](x, dims, keep)  # type: ignore[operator]


@operator("ArgMax", "ArgMin")
def arg_extreme(step: Step, x: Tensor) -> Tensor:
    """Where the largest or smallest is."""
    axis, keep = axis_of(step, x.dim(), 0), bool(step.get("keepdims", 1))
    if step.get("select_last_index", 0):
        raise unsupported(step, "the last of equal ones is wanted")
    return x.argmax(axis, keep) if step.op == "ArgMax" else x.argmin(axis, keep)


@operator("TopK")
def top_k(step: Step, x: Tensor, k: Value = None) -> Any:
    """The largest or smallest ones along an axis, with their positions."""
    (count,) = integers(step, (x, k), 1, "k") or [1]
    axis = axis_of(step, x.dim())
    # Sorted and cut: of equal ones the first is wanted.
    found = torch.sort(x, dim=axis, descending=bool(step.get("largest", 1)), stable=True)
    return tuple(v.narrow(axis, 0, count) for v in found)


@operator("CumSum")
def cumulative(step: Step, x: Tensor, axis: Value) -> Tensor:
    """Running sums along an axis."""
    (dim,) = known_integers(step, axis)
    x = x.flip(dim) if step.get("reverse", 0) else x
    out = x.cumsum(dim)
    out = out - x if step.get("exclusive", 0) else out
    return out.flip(dim) if step.get("reverse", 0) else out


@operator("Gather")
def gather(step: Step, x: Value, index: Value) -> Tensor:
    """What lies at some positions of an axis."""
    if not isinstance(x, Tensor):
        x = lift(x, index)
    axis = axis_of(step, x.dim(), 0)
    size = x.shape[axis]
    if isinstance(index, np.ndarray):
        if index.ndim == 0:
            return x.select(axis, int(index) % size if index >= 0 else int(index))
        flat = (index.reshape(-1) % size).astype(np.int64)
        run = np.arange(flat[0], flat[0] + len(flat)) if len(flat) else flat
        if len(flat) and bool((flat == run).all()):  # a range: it can shrink, unlike any other selection
            picked = torch.ops.aten.slice.Tensor(x, axis, int(flat[0]), int(flat[-1]) + 1)
        else:
            picked = x.index_select(axis, torch.from_numpy(flat).to(x.device))
        return (
            picked if index.ndim == 1 else picked.reshape(x.shape[:axis] + index.shape + x.shape[axis + 1 :])
        )
    index = index.long()
    if x.dim() == 2 and axis == 0:
        return F.embedding(torch.where(index < 0, index + size, index), x)
    picked = x.index_select(axis, torch.where(index < 0, index + size, index).reshape(-1))
    return picked.reshape(x.shape[:axis] + index.shape + x.shape[axis + 1 :])


@operator("GatherElements")
def gather_elements(step: Step, x: Value, index: Value) -> Tensor:
    """An element of every position."""
    x, index = tensors(x, index)
    axis = axis_of(step, x.dim(), 0)
    return x.gather(axis, torch.where(index < 0, index + x.shape[axis], index).long())


@operator("GatherND")
def gather_nd(step: Step, x: Value, index: Value) -> Tensor:
    """Slices at some positions."""
    x, index = tensors(x, index)
    if step.get("batch_dims", 0):
        raise unsupported(step, "positions that differ from example to example")
    return x[tuple(index.long().unbind(-1))]


@operator("ScatterElements", "Scatter")
def scatter(step: Step, x: Value, index: Value, updates: Value) -> Tensor:
    """With some elements replaced."""
    x, index, updates = tensors(x, index, updates)
    axis, how = axis_of(step, x.dim(), 0), step.get("reduction", "none")
    index = torch.where(index < 0, index + x.shape[axis], index).long()
    if how == "none":
        return x.scatter(axis, index, updates)
    kinds = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}
    return x.scatter_reduce(axis, index, updates, kinds[how])


@operator("ScatterND")
def scatter_nd(step: Step, x: Value, index: Value, updates: Value) -> Tensor:
    """With some slices replaced."""
    x, index, updates = tensors(x, index, updates)
    if step.get("reduction", "none") not in ("none", "add"):
        raise unsupported(step, "a reduction of what is written")
    return x.index_put(tuple(index.long().unbind(-1)), updates, step.get("reduction", "none") == "add")


@operator("OneHot")
def one_hot(step: Step, index: Tensor, depth: Value, values: Value) -> Tensor:
    """One value at a position, another elsewhere."""
    (count,) = known_integers(step, depth)
    axis = int(step.get("axis", -1)) % (index.dim() + 1)
    place = torch.arange(count, device=index.device)
    hot = (torch.where(index < 0, index + count, index).unsqueeze(-1) == place).movedim(-1, axis)
    off, on = (lift(values, hot)[i] for i in (0, 1))
    return torch.where(hot, on, off)


@operator("NonZero")
def nonzero(step: Step, x: Tensor) -> Tensor:
    """Where it is not zero, one row a dimension."""
    return x.nonzero().t()


@operator("Compress")
def compress(step: Step, x: Tensor, condition: Value) -> Tensor:
    """What a condition picks."""
    mask = lift(condition, x, torch.bool)
    axis = step.get("axis")
    x = x.reshape(-1) if axis is None else x
    return x.index_select(axis or 0, mask.nonzero().reshape(-1))
