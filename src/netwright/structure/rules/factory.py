"""Tensors made inside the forward pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from netwright.structure.rules._base import rule

if TYPE_CHECKING:
    from netwright.structure.labels import Walk
    from netwright.structure.record import Node


@rule(
    "zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full", "new_empty", "scalar_tensor",
    "empty_strided", "new_empty_strided",
)  # fmt: skip
def uniform(walk: Walk, node: Node) -> list[list[Tensor]]:
    """The same value everywhere: like a scalar, it ties nothing and takes the size of what it meets."""
    walk.uniform.update(node.outputs)
    return [[] for _ in node.outputs]


@rule("zeros_like", "ones_like", "full_like", "empty_like")
def alike(walk: Walk, node: Node) -> list[list[Tensor]]:
    """Uniform, too, but of the size of another tensor, whose units it has."""
    source = node.inputs[0]
    if source in walk.uniform:
        walk.uniform.update(node.outputs)
        return [[]]
    return [list(walk.layers_of(source))]


@rule("arange", "linspace", "rand", "randn", "randint", "randperm", "rand_like", "randn_like", "eye",
      "_local_scalar_dense",
      "sym_size", "tril_indices", "triu_indices")  # fmt: skip
def unlabelled(walk: Walk, node: Node) -> list[list[Tensor]]:
    """No units."""
    return [[] for _ in node.outputs]


@rule("tril", "triu")
def triangle(walk: Walk, node: Node) -> list[list[Tensor]]:
    """Which elements stay depends on their position."""
    for layer in walk.layers_of(node.inputs[0]):
        walk.freeze(layer, f"{node.op} cuts by position")
    walk.overwritten(node)
    return [[]]
