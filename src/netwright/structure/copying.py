"""Copies of modules: as `copy.deepcopy` makes them, in a fraction of the time.

Most of what a module holds is empty (eight tables of hooks) or immutable, and `deepcopy` walks all of it
through `__reduce_ex__`. Plain modules are copied table by table here; whatever has its own way of being
copied, and every other object, goes through `deepcopy` with the same memo.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn

#: What `copy.deepcopy` gives back as it is.
_ATOMS = frozenset(
    (int, float, bool, str, type(None), bytes, complex, type, torch.dtype, FunctionType, BuiltinFunctionType)
)
#: The tables that every module has, most of them empty.
_TABLES = frozenset(
    name for name, value in vars(nn.Module()).items() if type(value) in (dict, OrderedDict, set)
)
_OWN = ("__deepcopy__", "__reduce__", "__reduce_ex__", "__getstate__")
#: Ways of taking a state that only add to what old files lack.
_STATES = (nn.Module.__setstate__, nn.modules.conv._ConvNd.__setstate__)
#: From a tensor to what stands for it in the copy; None leaves it to `deepcopy`.
Replace = Callable[[Tensor], Tensor | None]


def copy_module(module: nn.Module, memo: dict[int, Any], replace: Replace | None = None) -> nn.Module:
    """A deep copy of a module.

    Args:
        module: Any module; it is not touched.
        memo: Object number -> its copy, for what is copied already; receives what is copied now.
        replace: What stands for its tensors.
    """
    return _Copier(module, memo, replace).module(module)


class _Copier:
    def __init__(self, root: nn.Module, memo: dict[int, Any], replace: Replace | None) -> None:
        self._root, self._memo, self._replace = root, memo, replace
        self._scanned = replace is None

    def module(self, module: nn.Module) -> nn.Module:
        memo = self._memo
        known = memo.get(id(module))
        if known is not None:
            return known  # type: ignore[no-any-return]
        if not _plain(type(module)):
            return self._object(module)  # type: ignore[no-any-return]
        new = object.__new__(type(module))
        memo[id(module)] = new
        own = new.__dict__
        for name, value in module.__dict__.items():
            kind = type(value)
            if kind in _ATOMS:
                own[name] = value
            elif name in _TABLES and not value:  # nobody shares an empty table of hooks
                own[name] = kind()
            else:
                own[name] = self._value(value)
        return new

    def _value(self, value: Any) -> Any:
        """The copy of anything but an atom."""
        memo = self._memo
        known = memo.get(id(value))
        if known is not None:
            return known
        kind = type(value)
        if kind is dict or kind is OrderedDict:
            if all([type(key) is str for key in value]):  # noqa: C419 - most are empty
                table = memo[id(value)] = kind()
                for key, inner in value.items():
                    table[key] = inner if type(inner) in _ATOMS else self._value(inner)
                return table
        elif isinstance(value, nn.Module):
            return self.module(value)
        elif isinstance(value, Tensor):
            return self._tensor(value)
        elif kind is list:
            items = memo[id(value)] = []
            for inner in value:
                items.append(inner if type(inner) in _ATOMS else self._value(inner))
            return items
        elif kind is tuple and all([type(v) in _ATOMS for v in value]):  # noqa: C419 - they are short
            return value
        elif kind is set and all([type(v) in _ATOMS for v in value]):  # noqa: C419
            return set(value)
        return self._object(value)

    def _tensor(self, tensor: Tensor) -> Any:
        new = self._replace(tensor) if self._replace is not None else None
        if new is None:
            return copy.deepcopy(tensor, self._memo)
        self._memo[id(tensor)] = new
        return new

    def _object(self, value: Any) -> Any:
        """What has its own way of being copied, and may hold any tensor: those are replaced before."""
        if not self._scanned:
            self._scanned = True
            found: list[Tensor] = []
            for module in self._root.modules():
                for held in module.__dict__.values():
                    stray_tensors(held, found)
            for tensor in found:
                if id(tensor) not in self._memo and self._replace is not None:
                    new = self._replace(tensor)
                    if new is not None:
                        self._memo[id(tensor)] = new
        return copy.deepcopy(value, self._memo)


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

    def without_history(tensor: Tensor) -> Tensor | None:
        return None if tensor.is_leaf else tensor.detach().clone()

    return copy_module(model, {} if memo is None else memo, without_history)


def clone(model: nn.Module, device: str | None = "meta", memo: dict[int, Any] | None = None) -> nn.Module:
    """A deep copy on the meta device (no weight copied), or a real one when `device` is None.

    Args:
        model: The model; it is not touched.
        device: "meta", or None for a real copy.
        memo: Object number -> its copy, for what is copied already.
    """
    if device is None:
        return deep_copy(model, memo)

    def empty(tensor: Tensor) -> Tensor:
        return hollow(tensor, device)

    return copy_module(model, {} if memo is None else memo, empty)


def hollow(tensor: Tensor, device: str = "meta", shape: tuple[int, ...] | None = None) -> Tensor:
    """A tensor or parameter without values.

    Args:
        tensor: What it is like in type, order in memory and whether gradients are wanted.
        device: Where it is.
        shape: Its shape, contiguous in memory; that of the other when None.
    """
    if shape is not None or tensor.is_contiguous():  # `empty_like` takes many times as long on this device
        empty = torch.empty(tensor.shape if shape is None else shape, dtype=tensor.dtype, device=device)
    else:
        empty = torch.empty_like(tensor, device=device, requires_grad=False)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(empty, requires_grad=tensor.requires_grad)
    return empty
