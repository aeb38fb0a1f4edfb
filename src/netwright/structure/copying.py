"""Copies of modules: as `copy.deepcopy` makes them, in a fraction of the time.

Most of what a module holds is empty (eight tables of hooks) or immutable, and `deepcopy` walks all of it
through `__reduce_ex__`. Plain modules are copied table by table here; whatever has its own way of being
copied, and every other object, goes through `deepcopy` with the same memo.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

from torch import nn

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
