"""Widths: how many leading members stay of tied axes, from what a user gave as shares and counts."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence

import torch

from netwright.errors import UsageError
from netwright.structure import Axis, Structure
from netwright.supernets.network.dims import Size, Values, Width, values_for


def head_axes(net: Structure) -> set[int]:
    """Positions of the axes whose members are attention heads.

    Args:
        net: The structure.
    """
    layers = net.labels.heads_met
    if not layers:
        return set()
    heads = torch.zeros(net.count, dtype=torch.bool)
    heads[net.partition.classes[torch.cat([layer.reshape(-1) for layer in layers])]] = True
    return {i for i, axis in enumerate(net.axes) if axis.prunable and bool(heads[axis.cells].any())}


def widths(
    net: Structure,
    width: Values | None,
    heads: Values | None,
    *,
    unit: int = 1,
    share: str | Mapping[str, Sequence[str]] = "axis",
) -> list[Width]:
    """The widths that can be chosen.

    Args:
        net: The structure.
        width: Values for every prunable axis, or pattern of axis names -> values (the first that fits).
        heads: Likewise for the axes whose members are attention heads; those take `width` where None.
        unit: Counts are multiples of it, where the axis has as many members; heads and counts are as given.
        share: "axis" lets every axis be chosen by itself, "network" chooses one value for all; or name of a
            dimension -> patterns of axis names that share it.

    Raises:
        UsageError: if a value is no width, a pattern fits nothing, or axes that share have other values.
    """
    if width is None and heads is None:
        return []
    attention = head_axes(net)
    found: dict[int, tuple[Size, ...]] = {}
    used: set[str] = set()
    for i, axis in enumerate(net.axes):
        if axis.prunable:
            given = heads if i in attention and heads is not None else width
            values = values_for(given, axis.name, used)
            if values is not None:
                found[i] = _sorted(values, f"the width of {axis.name}")
    for given, what in ((width, "width"), (heads, "heads")):
        lost = set(given) - used if isinstance(given, Mapping) else set()
        if lost:
            raise UsageError(
                f"{what}={sorted(lost)[0]!r} fits no axis that can shrink",
                "see `netwright inspect` for the names",
            )
    groups = _groups(net, found, share)
    made = [_width(net, name, members, found[members[0]], unit, attention) for name, members in groups]
    return [
        w
        for w in made
        if len(w.values) > 1 or any(w.levels[0][k] < net.axes[a].size for k, a in enumerate(w.axes))
    ]


def _sorted(values: Sequence[Size], what: str) -> tuple[Size, ...]:
    for value in values:
        good = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        if not good and not (isinstance(value, float) and 0 < value <= 1):
            raise UsageError(f"{value!r} is no value for {what}", "give shares up to 1.0 or whole counts")
    if not values:
        raise UsageError(f"there is no value for {what}", "give at least one")
    return tuple(values)


def _groups(
    net: Structure, found: Mapping[int, tuple[Size, ...]], share: str | Mapping[str, Sequence[str]]
) -> list[tuple[str, list[int]]]:
    """Dimensions and the axes that share them, in the order of the network's first use."""
    if share == "network":
        groups = {"width": list(found)}
    elif share == "axis":
        groups = {f"width:{net.axes[i].name}": [i] for i in found}
    elif isinstance(share, Mapping):
        groups = {}
        for i in found:
            name = next(
                (n for n, ps in share.items() if any(fnmatch.fnmatchcase(net.axes[i].name, p) for p in ps)),
                None,
            )
            groups.setdefault(f"width:{name or net.axes[i].name}", []).append(i)
        for name in share:
            if f"width:{name}" not in groups:
                raise UsageError(
                    f"share={name!r} fits no elastic axis", "see `netwright inspect` for the names"
                )
    else:
        raise UsageError(f"share={share!r} is not known", 'choose "axis", "network" or give name -> patterns')
    for name, members in groups.items():
        if len({found[i] for i in members}) > 1:
            raise UsageError(
                f"the axes that share {name!r} have different values", "give them the same values"
            )
    return [(name, members) for name, members in groups.items() if members]


def _level(axis: Axis, value: Size, unit: int) -> int:
    """The count of members that a value stands for."""
    if isinstance(value, float):
        step = unit if unit <= axis.size else 1
        return min(axis.size, max(step, int(value * axis.size / step + 0.5) * step))
    return min(axis.size, value)


def _width(
    net: Structure, name: str, members: list[int], values: tuple[Size, ...], unit: int, heads: set[int]
) -> Width:
    """Values that come to the same counts are one, the largest; shares beside counts become counts."""
    table: dict[tuple[int, ...], Size] = {}
    for value in values:
        counts = tuple(_level(net.axes[i], value, 1 if i in heads else unit) for i in members)
        if counts not in table or table[counts] < value:
            table[counts] = value
    ordered = sorted(table)
    named = tuple(table[c] for c in ordered)
    if len({type(v) for v in named}) > 1:  # shares and counts
        if len(members) > 1:
            raise UsageError(f"the widths of {name} are shares and counts", "give all axes shares")
        named = tuple(c[0] for c in ordered)
    return Width(name, tuple(members), named, tuple(ordered))


def apart(net: Structure, chosen: Sequence[Width]) -> bool:
    """Whether what a shortcut is added to is never narrower than the shortcut; see `Structure.filled`.

    Args:
        net: The structure, traced for leading members.
        chosen: Its widths.
    """
    counts = {a: {row[k] for row in w.levels} for w in chosen for k, a in enumerate(w.axes)}
    for narrow, wide in net.filled:
        if any(net.axes[a].coupling is not None or len(net.axes[a].cells) != 1 for a in (narrow, wide)):
            return False
        least, most = counts.get(wide, {net.axes[wide].size}), counts.get(narrow, {net.axes[narrow].size})
        if max(most) > min(least):
            return False
    return True
