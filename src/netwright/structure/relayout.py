"""Copies that a tensor's layout in memory asks for, and when a smaller network does without them.

`contiguous` and `reshape` copy where dimensions do not lie in memory in their order. A dimension of size 1
has no place in that order: attention with a single head left gives its output as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray

from netwright.structure.layers import factor
from netwright.structure.recording import Node, Recording

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Relayout:
    """A copy that `contiguous` or `reshape` made.

    Args:
        shape: Of the tensor that was copied.
        strides: Likewise.
        runs: Dimensions that must lie in memory one after the other, for there to be no copy.
        dense: Whether the innermost of them must have stride 1, too.
    """

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    runs: tuple[tuple[int, ...], ...]
    dense: bool

    @classmethod
    def of(cls, recording: Recording, node: Node, then: Node | None) -> Relayout | None:
        """The copy that a node is; None for what the network's code copies whatever its layout.

        Args:
            recording: A recording.
            node: An operator call of it.
            then: The one after it.
        """
        if node.op != "clone" or node.kwargs.get("memory_format") is not torch.contiguous_format:
            return None
        shape, strides = recording.shapes[node.inputs[0]], recording.strides[node.inputs[0]]
        if len(strides) != len(shape):  # not a strided tensor
            return None
        if then is not None and then.op == "_unsafe_view" and then.inputs[0] == node.outputs[0]:
            pairs = factor(shape, recording.shapes[then.outputs[0]])
            return cls(shape, strides, tuple(old for old, _ in pairs), False)
        return cls(shape, strides, (tuple(range(len(shape))),), True)

    def needed(self, single: frozenset[int]) -> bool:
        """Whether a network copies, too, in which some dimensions have come down to size 1.

        The sizes of the others do not matter: dimensions that do not lie in order at one size do not at any.

        Args:
            single: The dimensions.
        """
        # What lies around them comes closer.
        strides = [s // prod(self.shape[d] for d in single if 0 < self.strides[d] < s) for s in self.strides]
        for run in self.runs:
            left = [d for d in run if self.shape[d] > 1 and d not in single]
            if any(strides[i] != strides[j] * self.shape[j] for i, j in pairwise(left)):
                return True
            if self.dense and left and strides[left[-1]] != 1:
                return True
        return False


class Relayouts:
    """The copies of a network, so that those that vanish under a choice are found at once.

    Args:
        copies: (index of its own, copy, {dimension: row of the count that is its size}).
    """

    def __init__(self, copies: Sequence[tuple[int, Relayout, dict[int, int]]]) -> None:
        self._known: dict[tuple[int, bytes], bool] = {}
        self._copies: list[tuple[int, Relayout, list[int], slice]] = []
        rows: list[int] = []
        for index, copy, counted in copies:
            dims = [d for d in counted if copy.shape[d] > 1]
            at = slice(len(rows), len(rows) + len(dims))
            rows += [counted[d] for d in dims]
            self._copies.append((index, copy, dims, at))
        self._rows = np.array(rows, np.int64)

    def vanished(self, counts: Ints) -> Iterator[tuple[int, NDArray[np.bool_]]]:
        """What is not copied.

        Args:
            counts: (settings, rows) counts of what stays.

        Yields:
            The index of a copy, and (settings,) whether it is not made.
        """
        single = counts[:, self._rows] == 1
        if not single.any():
            return
        for position, (index, copy, dims, at) in enumerate(self._copies):
            mine = np.ascontiguousarray(single[:, at])
            if not mine.any():
                continue
            patterns, which = np.unique(mine, axis=0, return_inverse=True)
            gone = np.array([not self._needed(position, copy, dims, p) for p in patterns])
            if gone.any():
                yield index, gone[which.reshape(-1)]

    def _needed(self, position: int, copy: Relayout, dims: list[int], single: NDArray[np.bool_]) -> bool:
        key = (position, single.tobytes())
        if key not in self._known:
            self._known[key] = copy.needed(frozenset(d for d, one in zip(dims, single, strict=True) if one))
        return self._known[key]
