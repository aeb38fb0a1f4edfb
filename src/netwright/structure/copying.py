"""Copies of modules: as `copy.deepcopy` makes them, in a fraction of the time.

Most of what a module holds is empty (eight tables of hooks) or immutable, and `deepcopy` walks all of it
through `__reduce_ex__`. Plain modules are copied table by table here; whatever has its own way of being
copied, and every other object, goes through `deepcopy` with the same memo.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

_ATOMS = frozenset((int, float, bool, str, type(None), bytes, complex))
_OWN = ("__deepcopy__", "__reduce__", "__reduce_ex__", "__getstate__")
#: Ways of taking a state that only add to what old files lack.
_STATES = (nn.Module.__setstate__, nn.modules.conv._ConvNd.__setstate__)


def copy_module(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """A deep copy of a module.

    Args:
        module: Any module; it is not touched.
        memo: Object number -> its copy, for what is copied already; receives what is copied now.
    """
    known = memo.get(id(module))
    if known is not None:
        return known  # type: ignore[no-any-return]
    if not _plain(type(module)):
        return copy.deepcopy(module, memo)
    new = object.__new__(type(module))
    memo[id(module)] = new
    own = new.__dict__
    for name, value in module.__dict__.items():
        own[name] = _copy(value, memo)
    return new


def _copy(value: Any, memo: dict[int, Any]) -> Any:
    kind = type(value)
    if kind in _ATOMS:
        return value
    known = memo.get(id(value))
    if known is not None:
        return known
    if isinstance(value, nn.Module):
        return copy_module(value, memo)
    if kind is dict or kind is OrderedDict:
        if all(type(key) is str for key in value):
            table = memo[id(value)] = kind()
            for key, inner in value.items():
                table[key] = _copy(inner, memo)
            return table
    elif kind is set and all(type(v) in _ATOMS for v in value):
        return set(value)
    elif kind is tuple and all(type(v) in _ATOMS for v in value):
        return value
    return copy.deepcopy(value, memo)


_KINDS: dict[type, bool] = {}


def _plain(kind: type) -> bool:
    """Whether a class of modules is copied as `nn.Module` itself is."""
    known = _KINDS.get(kind)
    if known is None:
        known = all(getattr(kind, name, None) is getattr(nn.Module, name, None) for name in _OWN)
        known = known and getattr(kind, "__setstate__", None) in _STATES
        known = known and not any("__slots__" in base.__dict__ for base in kind.__mro__)
        _KINDS[kind] = known
    return known


def stray_tensors(value: Any, found: list[Tensor], depth: int = 0) -> None:
    """Collect the tensors in a value: itself, or held by lists and dicts up to three deep."""
    if isinstance(value, Tensor):
        found.append(value)
    elif depth < 3 and isinstance(value, dict):
        for inner in value.values():
            stray_tensors(inner, found, depth + 1)
    elif depth < 3 and isinstance(value, (list, tuple)):
        for inner in value:
            stray_tensors(inner, found, depth + 1)


def deep_copy(model: nn.Module, memo: dict[int, Any] | None = None) -> nn.Module:
    """A deep copy; results of a past forward that a module holds are copied without their history.

    Args:
        model: The model; it is not touched.
        memo: Object number -> its copy, for what is copied already.
    """
    memo = {} if memo is None else memo
    found: list[Tensor] = []
    for module in model.modules():
        for value in module.__dict__.values():
            stray_tensors(value, found)
    for tensor in found:
        if not tensor.is_leaf:
            memo.setdefault(id(tensor), tensor.detach().clone())
    return copy_module(model, memo)


def clone(model: nn.Module, device: str | None = "meta", memo: dict[int, Any] | None = None) -> nn.Module:
    """A deep copy on the meta device (no weight copied), or a real one when `device` is None.

    Args:
        model: The model; it is not touched.
        device: "meta", or None for a real copy.
        memo: Object number -> its copy, for what is copied already.
    """
    memo = {} if memo is None else memo
    if device is None:
        return deep_copy(model, memo)
    found: list[Tensor] = []
    for module in model.modules():
        for value in module.__dict__.values():
            stray_tensors(value, found)
    for tensor in found:
        if id(tensor) in memo:
            continue
        empty = torch.empty_like(tensor, device=device, requires_grad=False)
        memo[id(tensor)] = (
            nn.Parameter(empty, requires_grad=tensor.requires_grad)
            if isinstance(tensor, nn.Parameter)
            else empty
        )
    return copy_module(model, memo)
