"""Interpolation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from netwright.structure.onnx.operators.registry import known_integers, lift, operator, unsupported
from netwright.structure.onnx.program import Step, Value


def _given(value: Value) -> bool:
    return value is not None and np.prod(value.shape) > 0


@operator("Resize", "Upsample")
def resize(step: Step, x: Tensor, *rest: Value) -> Tensor:
    """Other spatial sizes, by scales or by sizes."""
    scales, sizes = _geometry(step, rest)
    shape = tuple(x.shape)
    axes = [a % x.dim() for a in step.get("axes") or range(x.dim())]
    new, factor = list(shape), [1.0] * x.dim()
    if sizes is not None:
        for axis, n in zip(axes, sizes, strict=True):
            new[axis], factor[axis] = n, n / shape[axis]
        _keep_aspect(step, shape, axes, new, factor)
    else:
        for axis, s in zip(axes, scales, strict=True):
            new[axis], factor[axis] = int(np.floor(shape[axis] * s)), s
    if new == list(shape) and all(f == 1 for f in factor):
        return x
    how = _by_torch(step, shape, new, factor)
    if how is not None:
        mode, corners = how
        options = {} if mode.startswith("nearest") else {"align_corners": corners}
        return F.interpolate(x, tuple(new[2:]), mode=mode, **options)
    for axis, (old, n, s) in enumerate(zip(shape, new, factor, strict=True)):
        if n != old or s != 1:
            x = _along(step, x, axis, n, s)
    return x


def _geometry(step: Step, rest: Sequence[Value]) -> tuple[list[float], list[int] | None]:
    if step.op == "Upsample" or step.version < 11:
        found = step.get("scales") if step.get("scales") is not None else rest[0]
        return [float(s) for s in np.asarray(found).reshape(-1)], None
    scales = rest[1] if len(rest) > 1 else None
    sizes = rest[2] if len(rest) > 2 else None
    if _given(sizes):
        return [], known_integers(step, sizes)
    if scales is None or isinstance(scales, Tensor):
        raise unsupported(step, "scales that depend on the data")
    return [float(s) for s in scales.reshape(-1)], None


def _keep_aspect(
    step: Step, shape: Sequence[int], axes: Sequence[int], new: list[int], factor: list[float]
) -> None:
    policy = step.get("keep_aspect_ratio_policy", "stretch")
    if policy == "stretch":
        return
    pick = min if policy == "not_larger" else max
    one = pick(new[a] / shape[a] for a in axes)
    for a in axes:
        new[a], factor[a] = int(np.floor(one * shape[a] + 0.5)), one


def _by_torch(
    step: Step, shape: Sequence[int], new: Sequence[int], factor: Sequence[float]
) -> tuple[str, bool] | None:
    """PyTorch's interpolation of the same kind (mode, whether corners align), if it has one."""
    n = len(shape) - 2
    mode, where = step.get("mode", "nearest"), step.get("coordinate_transformation_mode", "half_pixel")
    if step.op == "Upsample" or step.version < 11:
        where = "asymmetric"
    if n < 1 or n > 3 or tuple(new[:2]) != tuple(shape[:2]) or step.get("antialias", 0):
        return None
    if any(abs(f - b / a) > 1e-6 for f, a, b in zip(factor, shape, new, strict=True)):
        return None  # PyTorch takes the ratio of the sizes
    whole = all(b % a == 0 for a, b in zip(shape, new, strict=True))
    if mode == "nearest":
        rounding = step.get("nearest_mode", "round_prefer_floor")
        floors = where == "asymmetric" and (rounding == "floor" or step.version < 11 or step.op == "Upsample")
        centred = whole and where in ("half_pixel", "pytorch_half_pixel") and "prefer" in rounding
        return ("nearest", False) if floors or centred else None
    if where not in ("half_pixel", "pytorch_half_pixel", "align_corners"):
        return None
    if where == "pytorch_half_pixel" and any(b == 1 and a > 1 for a, b in zip(shape, new, strict=True)):
        return None
    if mode == "linear":
        return ("linear", "bilinear", "trilinear")[n - 1], where == "align_corners"
    plain = step.get("cubic_coeff_a", -0.75) == -0.75 and not step.get("exclude_outside", 0)
    return ("bicubic", where == "align_corners") if n == 2 and plain else None


def _along(step: Step, x: Tensor, axis: int, new: int, factor: float) -> Tensor:
    """Interpolate along one dimension by picking neighbours and weighing them."""
    if step.get("antialias", 0):
        raise unsupported(step, "smoothing before it samples")
    old = x.shape[axis]
    at = _coordinates(step, np.arange(new, dtype=np.float64), old, new, factor)
    mode = step.get("mode", "nearest")
    if mode == "nearest":
        picks = [(_rounded(step, at), None)]
    else:
        base = np.floor(at)
        t = at - base
        if mode == "linear":
            weights = {0: 1 - t, 1: t}
        else:
            weights = _cubic(step, t, base, old)
        picks = [((base + k).astype(np.int64), w) for k, w in weights.items()]
    out: Tensor | None = None
    wide = [new if d == axis else 1 for d in range(x.dim())]
    for index, weight in picks:
        taken = x.index_select(axis, torch.from_numpy(np.clip(index, 0, old - 1)).to(x.device))
        if weight is not None:
            taken = taken * lift(weight.reshape(wide), x)
        out = taken if out is None else out + taken
    assert out is not None
    return out


def _coordinates(step: Step, at: np.ndarray, old: int, new: int, factor: float) -> np.ndarray:  # type: ignore[type-arg]
    where = step.get("coordinate_transformation_mode", "half_pixel")
    if step.op == "Upsample" or step.version < 11 or where == "asymmetric":
        return at / factor
    if where == "align_corners":
        return at * (old - 1) / (new - 1) if new > 1 else at * 0
    if where == "pytorch_half_pixel" and new == 1:
        return at * 0
    if where == "half_pixel_symmetric":
        adjustment = new / (factor * old)
        return old / 2 * (1 - adjustment) + (at + 0.5) / factor - 0.5
    if where in ("half_pixel", "pytorch_half_pixel"):
        return (at + 0.5) / factor - 0.5
    raise unsupported(step, f"coordinates by {where}")


def _rounded(step: Step, at: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    how = step.get("nearest_mode", "round_prefer_floor")
    if step.op == "Upsample" or step.version < 11 or how == "floor":
        found = np.floor(at)
    elif how == "ceil":
        found = np.ceil(at)
    elif how == "round_prefer_ceil":
        found = np.floor(at + 0.5)
    else:
        found = np.ceil(at - 0.5)
    return found.astype(np.int64)


def _cubic(step: Step, t: np.ndarray, base: np.ndarray, old: int) -> dict[int, np.ndarray]:  # type: ignore[type-arg]
    a = step.get("cubic_coeff_a", -0.75)
    near = lambda d: ((a + 2) * d - (a + 3)) * d * d + 1  # noqa: E731
    far = lambda d: ((a * d - 5 * a) * d + 8 * a) * d - 4 * a  # noqa: E731
    weights = {-1: far(1 + t), 0: near(t), 1: near(1 - t), 2: far(2 - t)}
    if step.get("exclude_outside", 0):
        weights = {k: np.where((base + k >= 0) & (base + k < old), w, 0.0) for k, w in weights.items()}
        total = sum(weights.values())
        weights = {k: w / total for k, w in weights.items()}
    return weights


@operator("GridSample")
def grid_sample(step: Step, x: Tensor, grid: Tensor) -> Tensor:
    """Sample at given places."""
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(
        step.get("mode", "linear"), step.get("mode", "linear")
    )
    return F.grid_sample(x, grid, mode, step.get("padding_mode", "zeros"), bool(step.get("align_corners", 0)))
