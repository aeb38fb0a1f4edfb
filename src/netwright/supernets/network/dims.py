"""What can be chosen of a supernet: widths of tied axes, depths of stages, kernels, candidate modules."""

from __future__ import annotations

import fnmatch
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from netwright.errors import UsageError
from netwright.structure import Stage

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


def values_for(given: Values | None, name: str, used: set[str]) -> Sequence[Size] | None:
    """The values that were given for something by its name.

    Args:
        given: Values for everything, or pattern -> values (the first that fits).
        name: Of an axis or module.
        used: Receives the pattern that fits.
    """
    if given is None or not isinstance(given, Mapping):
        return given
    for pattern, values in given.items():
        if fnmatch.fnmatchcase(name, pattern):
            used.add(pattern)
            return values
    return None


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
        given = values_for(kernel, path, used)
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
