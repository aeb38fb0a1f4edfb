"""What is known of a supernet apart from its weights: its structure, its choices and what each does to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from netwright.errors import UsageError
from netwright.nas.choice import Choice
from netwright.nas.conditions import AtLeast, Condition, Equals
from netwright.nas.dims import Categorical, Dim, Ordinal, Subset
from netwright.nas.space import SearchSpace
from netwright.structure import Structure
from netwright.supernets.network.dims import Depth, Kernel, Operation, Presence, Width
from netwright.supernets.network.pooling import POOL, Poolings
from netwright.supernets.network.rules import Rule

Ints = NDArray[np.int64]
#: Name of the dimension that holds the side length of the images.
RESOLUTION = "resolution"


@dataclass(frozen=True, eq=False)
class Blueprint:
    """A supernet without its weights.

    Attributes:
        structure: Of the full network, with every block and full kernels.
        widths: The widths that can be chosen.
        depths: The depths.
        kernels: The kernel sizes.
        operations: The places where one of several modules runs.
        resolutions: Side lengths of the images, ascending; empty where there is no choice.
        poolings: Poolings that can be moved, or None.
        rules: How attributes follow the widths; None where every choice needs a surgery of its own.
        arguments: Of `nw.elastic`, from which it can be made again.
    """

    structure: Structure
    widths: tuple[Width, ...] = ()
    depths: tuple[Depth | Presence, ...] = ()
    kernels: tuple[Kernel, ...] = ()
    operations: tuple[Operation, ...] = ()
    resolutions: tuple[int, ...] = ()
    rules: tuple[Rule, ...] | None = ()
    poolings: Poolings | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict, repr=False)
    _at: dict[int, Structure] = field(default_factory=dict, repr=False)

    def __deepcopy__(self, memo: dict[int, Any]) -> Blueprint:
        return self  # nothing of it changes with the weights

    @property
    def chosen(self) -> bool:
        """Whether there is anything to choose."""
        kinds = (self.widths, self.depths, self.kernels, self.operations, self.resolutions)
        return any(kinds) or self.poolings is not None

    @cached_property
    def space(self) -> SearchSpace:
        """The space of its choices; what lies in a skipped block is no choice."""
        dims: list[Dim] = []
        if self.resolutions:
            dims.append(Ordinal(RESOLUTION, self.resolutions))
        if self.poolings is not None:
            dims.append(Subset(POOL, n=len(self.poolings.paths), k=self.poolings.count))
        dims += [Ordinal(d.name, d.values if isinstance(d, Depth) else (False, True)) for d in self.depths]
        together: dict[str, list[Operation]] = {}
        for operation in self.operations:
            together.setdefault(operation.name, []).append(operation)
        for name, same in together.items():
            condition = self._condition([operation.path for operation in same])
            dims.append(Categorical(name, same[0].values, active_if=condition))
        for width in self.widths:
            paths = [p for a in width.axes for p in self._modules_on(a)]
            dims.append(Ordinal(width.name, width.values, active_if=self._condition(paths)))
        for kernel in self.kernels:
            dims.append(Ordinal(kernel.name, kernel.values, active_if=self._condition([kernel.path])))
        return SearchSpace(dims)

    def _condition(self, paths: Sequence[str]) -> Condition | None:
        """When modules run: all of them lie in one block that can be skipped, or in one candidate."""
        for depth in self.depths:
            blocks = depth.stage.blocks if isinstance(depth, Depth) else (depth.block,)
            for position, block in enumerate(blocks):
                if paths and all(p == block or p.startswith(f"{block}.") for p in paths):
                    if isinstance(depth, Presence):
                        return Equals(depth.name, (True,))
                    return AtLeast(depth.name, depth.stage.fixed + position + 1)
        for operation in self.operations:
            for name in operation.values:
                inside = f"{operation.path}.candidates.{name}"
                if paths and all(p == inside or p.startswith(f"{inside}.") for p in paths):
                    return Equals(operation.name, (name,))
        return None

    def _modules_on(self, axis: int) -> list[str]:
        """Paths of the modules whose parameters lie on an axis."""
        return [m.name.rpartition(".")[0] for m in self.structure.members(self.structure.axes[axis])]

    @cached_property
    def _rank(self) -> tuple[Ints, Ints]:
        """(count,) position of every class in its part, and the part's number: -1 for what always stays."""
        rank = np.zeros(self.structure.count, np.int64)
        part = np.full(self.structure.count, -1, np.int64)
        number = 0
        for axis in self.elastic_axes:
            for members in self.structure.axes[axis].parts:
                rank[members.numpy()] = np.arange(len(members))
                part[members.numpy()] = number
                number += 1
        return rank, part

    @cached_property
    def elastic_axes(self) -> list[int]:
        """Positions of the axes that some width chooses, in the order of the widths."""
        return [axis for width in self.widths for axis in width.axes]

    def levels(self, choice: Mapping[str, Any]) -> tuple[int, ...]:
        """The level of every elastic axis, in the order of `widths`.

        Args:
            choice: A choice.

        Raises:
            UsageError: if a width has no such value.
        """
        found: list[int] = []
        for width in self.widths:
            value = choice[width.name]
            if value not in width.values:
                raise UsageError(f"{width.name} cannot be {value!r}", f"choose from {list(width.values)}")
            found.extend(width.levels[width.values.index(value)])
        return tuple(found)

    def counts(self, levels: Sequence[int]) -> Ints:
        """How many members of every part of every elastic axis stay, (parts,).

        Args:
            levels: As `levels` gives them.
        """
        axes = self.structure.axes
        parts = [axes[a].counts(n).numpy() for a, n in zip(self.elastic_axes, levels, strict=True)]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def keep(self, choice: Mapping[str, Any]) -> Tensor:
        """The classes that stay, (count,) bool.

        Args:
            choice: A choice.
        """
        return self.kept(self.levels(choice))

    def kept(self, levels: Sequence[int]) -> Tensor:
        """The classes that stay, (count,) bool.

        Args:
            levels: As `levels` gives them.
        """
        rank, part = self._rank
        counts = np.append(self.counts(levels), np.iinfo(np.int64).max)  # the last is for part -1
        return torch.from_numpy(rank < counts[part])

    @cached_property
    def least(self) -> Tensor:
        """The classes that every choice keeps, (count,) bool."""
        return self.kept([min(row[k] for row in w.levels) for w in self.widths for k in range(len(w.axes))])

    def skipped(self, choice: Mapping[str, Any]) -> list[str]:
        """Paths of the blocks that do not run.

        Args:
            choice: A choice.
        """
        found: list[str] = []
        for depth in self.depths:
            if isinstance(depth, Depth):
                found.extend(depth.skipped(choice[depth.name]))
            elif not choice[depth.name]:
                found.append(depth.block)
        return found

    def cropped(self, choice: Mapping[str, Any]) -> list[tuple[Kernel, int]]:
        """Kernels that are not whole, with their sizes.

        Args:
            choice: A choice.
        """
        return [(k, choice[k.name]) for k in self.kernels if choice[k.name] != k.full]

    def pooled(self, choice: Mapping[str, Any]) -> tuple[str, ...]:
        """Paths of the layers that a pooling stands in front of.

        Args:
            choice: A choice.
        """
        return self.poolings.at(choice[POOL]) if self.poolings is not None else ()

    def at_resolution(self, choice: Mapping[str, Any]) -> Structure:
        """The structure for images of the chosen size, with the poolings where they are chosen to be.

        Args:
            choice: A choice.
        """
        if self.poolings is not None:
            side = choice[RESOLUTION] if self.resolutions else None
            return self.poolings.structure(tuple(choice[POOL]), side, self.structure)
        return self._at[choice[RESOLUTION]] if self.resolutions else self.structure

    @cached_property
    def full(self) -> Choice:
        """The choice of everything: kernels, depths and widths are the largest, poolings where they were."""
        if self.poolings is None:
            return self.space.max()
        return self.space.canonical(Choice({**self.space.max(), POOL: self.poolings.default}))
