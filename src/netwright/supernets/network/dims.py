"""What can be chosen of a supernet: widths of tied axes, depths of stages, kernels, candidate modules."""

from __future__ import annotations

import fnmatch
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from netwright.errors import UsageError
from netwright.structure import Axis, Stage, Structure

#: A width: a share of the axis (a float up to 1.0) or a count of its members (an int).
Size = int | float
#: Values for everything, or pattern -> values.
Values = Sequence[Size] | Mapping[str, Sequence[Size]]
#: True, "any", numbers of blocks, names of blocks, or pattern of stage names -> numbers.
Depths = bool | str | Sequence[int] | Sequence[str] | Mapping[str, Sequence[int]] | None


@dataclass(frozen=True)
class Width:
    """One choice of how many leading members stay of one or several axes.

    Attributes:
        name: Of the dimension of the space.
        axes: Positions in `Structure.axes`.
        values: What can be chosen, ascending.
        levels: (values, axes) counts of members.
    """

    name: str
    axes: tuple[int, ...]
    values: tuple[Size, ...]
    levels: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Depth:
    """How many blocks of a stage run; the last ones go first.

    Attributes:
        name: Of the dimension of the space.
        stage: The stage.
        values: Numbers of blocks, those that cannot be skipped included, ascending.
    """

    name: str
    stage: Stage
    values: tuple[int, ...]

    def skipped(self, value: int) -> tuple[str, ...]:
        """Paths of the blocks that do not run.

        Args:
            value: One of `values`.
        """
        return self.stage.blocks[value - self.stage.fixed :]


@dataclass(frozen=True)
class Presence:
    """Whether one block runs.

    Attributes:
        name: Of the dimension of the space; its values are False and True.
        stage: The stage that it belongs to.
        block: Its path.
    """

    name: str
    stage: Stage
    block: str


@dataclass(frozen=True)
class Kernel:
    """The size of a convolution's kernel: the middle of the full one.

    Attributes:
        name: Of the dimension of the space.
        path: Of the convolution.
        values: Odd sizes, ascending.
        full: The size that it has.
    """

    name: str
    path: str
    values: tuple[int, ...]
    full: int


@dataclass(frozen=True)
class Operation:
    """Which of several modules runs.

    Attributes:
        name: Of the dimension of the space; those of one name are chosen together.
        path: Of the `OneOf`.
        values: Names of its candidates.
    """

    name: str
    path: str
    values: tuple[str, ...]


class OneOf(nn.Module):
    """Several modules of which one runs; `nw.elastic` makes which of them a choice.

    Args:
        candidates: Name -> module; all take the same input and give outputs of one shape.
        name: What the choice is called, "op:NAME"; those of one name are one choice, as in stacked cells.
            None is a choice of its own, called by the path.

    Raises:
        UsageError: if there are fewer than two.
    """

    def __init__(self, candidates: Mapping[str, nn.Module], name: str | None = None) -> None:
        super().__init__()
        if len(candidates) < 2:
            raise UsageError("OneOf needs at least two candidates", 'give {"name": module, ...}')
        self.candidates = nn.ModuleDict(dict(candidates))
        self.name = name
        self.active: str | None = None

    def forward(self, *args: object, **kwargs: object) -> torch.Tensor:
        """What the active candidate gives; the sum over all of them while none is chosen.

        Args:
            args: As the candidates take them.
            kwargs: Likewise.
        """
        if self.active is not None:
            return self.candidates[self.active](*args, **kwargs)  # type: ignore[no-any-return]
        outputs = [module(*args, **kwargs) for module in self.candidates.values()]
        total: torch.Tensor = outputs[0]
        for output in outputs[1:]:
            total = total + output
        return total


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
            values = _match(given, axis.name, used)
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


def _match(given: Values | None, name: str, used: set[str]) -> Sequence[Size] | None:
    if given is None or not isinstance(given, Mapping):
        return given
    for pattern, values in given.items():
        if fnmatch.fnmatchcase(name, pattern):
            used.add(pattern)
            return values
    return None


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


def depths(found: Iterable[Stage], depth: Depths) -> list[Depth | Presence]:
    """The depths that can be chosen.

    Args:
        found: The stages of the network.
        depth: True lets a stage have any number of its blocks from one on, "any" every subset of them; or
            numbers of blocks for all stages (as far as they have them), or name of a stage -> numbers; or
            names of blocks, each of which can be skipped by itself.

    Raises:
        UsageError: if there is no block to skip, or a stage is not there or has no such number of blocks.
    """
    if depth is None or depth is False:
        return []
    stages = list(found)
    if not stages:
        raise UsageError("the network has no residual block that can be skipped", "leave depth out")
    if depth == "any":
        return [Presence(f"block:{path}", stage, path) for stage in stages for path in stage.blocks]
    named = [] if isinstance(depth, Mapping | str | bool) else [d for d in depth if isinstance(d, str)]
    if named:
        stage_of = {path: stage for stage in stages for path in stage.blocks}
        lost = [path for path in named if path not in stage_of]
        if lost:
            raise UsageError(
                f"there is no block {lost[0]!r} to skip", f"the blocks are {', '.join(stage_of)}"
            )
        return [Presence(f"block:{path}", stage_of[path], path) for path in stage_of if path in named]
    if isinstance(depth, str):
        raise UsageError(f"depth={depth!r} is not known", 'choose True, "any", or give numbers of blocks')
    made: list[Depth | Presence] = []
    used: set[str] = set()
    for stage in stages:
        most, least = stage.fixed + len(stage.blocks), max(stage.fixed, 1)
        if depth is True:
            values: Sequence[int] = range(least, most + 1)
        elif isinstance(depth, Mapping):
            pattern = next((p for p in depth if fnmatch.fnmatchcase(stage.name, p)), None)
            if pattern is None:
                continue
            used.add(pattern)
            values = depth[pattern]
            wrong = [v for v in values if not stage.fixed <= v <= most]
            if wrong:
                raise UsageError(
                    f"{stage.name} cannot have {wrong[0]} blocks",
                    f"it has {most}, {stage.fixed} of them always",
                )
        else:
            values = [v for v in depth if isinstance(v, int) and least <= v <= most]
        values = tuple(sorted(set(values)))
        if values and values != (most,):
            made.append(Depth(f"depth:{stage.name}", stage, values))
    if isinstance(depth, Mapping) and set(depth) - used:
        names = ", ".join(stage.name for stage in stages)
        raise UsageError(f"depth={sorted(set(depth) - used)[0]!r} fits no stage", f"the stages are {names}")
    return made


def kernels(model: nn.Module, kernel: Sequence[int] | Mapping[str, Sequence[int]] | None) -> list[Kernel]:
    """The kernel sizes that can be chosen.

    Args:
        model: The network.
        kernel: Odd sizes, of which every square convolution takes those up to its own; or pattern of module
            paths -> sizes.

    Raises:
        UsageError: if a size is even, a pattern fits no convolution, or none is larger than the least size.
    """
    if kernel is None:
        return []
    made: list[Kernel] = []
    used: set[str] = set()
    for path, module in model.named_modules():
        if not isinstance(module, nn.modules.conv._ConvNd) or len(set(module.kernel_size)) != 1:
            continue
        given = _match(kernel, path, used)
        full = module.kernel_size[0]
        values = tuple(sorted({int(k) for k in given or () if k <= full}))
        if any(k % 2 == 0 or k < 1 for k in given or ()):
            raise UsageError(f"kernel={list(given or ())} has an even size", "the middle of a kernel is odd")
        if len(values) > 1 and full % 2 and not module.transposed and module.padding_mode == "zeros":
            made.append(Kernel(f"kernel:{path}", path, values, full))
    lost = set(kernel) - used if isinstance(kernel, Mapping) else set()
    if lost or not made:
        raise UsageError(
            f"kernel={sorted(lost)[0] if lost else list(kernel)!r} fits no convolution",
            "give odd sizes up to those that the network has",
        )
    return made


def operations(model: nn.Module) -> list[Operation]:
    """The places where one of several modules runs.

    Args:
        model: The network.

    Raises:
        UsageError: if those of one name have different candidates.
    """
    found = [
        Operation(f"op:{module.name or path}", path, tuple(module.candidates))
        for path, module in model.named_modules()
        if isinstance(module, OneOf)
    ]
    for one, other in itertools.combinations(found, 2):
        if one.name == other.name and one.values != other.values:
            raise UsageError(
                f"{one.path} and {other.path} are both called {one.name!r} and have different candidates",
                "give them names of their own",
            )
    return found
