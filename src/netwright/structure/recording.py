"""What one forward pass did, as plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(unsafe_hash=True, slots=True)  # like a frozen one, which takes three times as long to make
class Ref:
    """A tensor of the recording, by number."""

    id: int


@dataclass(slots=True)
class Node:
    """One operator call.

    Attributes:
        op: Name without overload and without the trailing underscore of in-place variants; those that are
            not PyTorch's own begin with their namespace, as in "shop::gate".
        target: The ATen overload, callable.
        args: Positional arguments with tensors replaced by `Ref`.
        kwargs: Keyword arguments likewise.
        inputs: Numbers of all tensors among the arguments, in order.
        outputs: Numbers of the output tensors, in order (-1 for a missing one).
        module: Dotted path of the module whose forward made the call ("" is the root).
        source: File and line of the network's own code that made the call, where there is one.
    """

    op: str
    target: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inputs: list[int]
    outputs: list[int]
    module: str
    source: tuple[str, int] | None = None


@dataclass
class Recording:
    """What one forward pass did: its operators, and every tensor's shape.

    Attributes:
        nodes: Operator calls in order.
        shapes: Shape of every tensor, by number.
        dtypes: Its dtype.
        strides: Its strides when it was made, () where it has none.
        broadcast: Dimensions of stride 0 and size above 1 (expanded ones, or copies of one element), where
            there are any.
        constants: Value of single numbers that the code made into a tensor, and of what is computed of them.
        parameters: Name of every parameter and buffer -> tensor number (aliases share one).
        buffers: Numbers of those that are buffers.
        inputs: Numbers of the example's tensors.
        outputs: Numbers of the tensors that the model returned.
        real: Whether real values were needed.
        training: Whether it was recorded in training mode.
        named: Names that the model gave to its tensors (see `note`) -> tensor number.
    """

    nodes: list[Node] = field(default_factory=list)
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    dtypes: list[torch.dtype] = field(default_factory=list)
    strides: list[tuple[int, ...]] = field(default_factory=list)
    broadcast: dict[int, frozenset[int]] = field(default_factory=dict)
    constants: dict[int, float] = field(default_factory=dict)
    parameters: dict[str, int] = field(default_factory=dict)
    buffers: set[int] = field(default_factory=set)
    inputs: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    real: bool = False
    training: bool = False
    named: dict[str, int] = field(default_factory=dict)

    def used(self) -> set[int]:
        """Numbers of all tensors that some operator reads."""
        return {i for node in self.nodes for i in node.inputs}
