"""The contractions of parameters with activations: what reads a weight, and along which dimensions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from netwright.structure.cost import CONVOLUTIONS, PRODUCTS, VIEWS
from netwright.structure.layers import factor
from netwright.structure.record import Node, Recording


@dataclass(frozen=True)
class Consumer:
    """A contraction of a parameter with an activation.

    Args:
        name: The parameter.
        dim_in: Its dimension that is summed over.
        dim_out: Its dimension that labels the output.
        kind: "convolution" or "linear".
        module: Dotted path of the module that called it.
        groups: Groups of a convolution; 1 for a linear map.
        transposed: Whether the convolution is transposed.
    """

    name: str
    dim_in: int
    dim_out: int
    kind: str
    module: str
    groups: int = 1
    transposed: bool = False


def consumers(recording: Recording) -> Iterator[Consumer]:
    """The contractions whose weight is a parameter, in order of execution.

    Args:
        recording: Of the network.
    """
    names = {number: name for name, number in reversed(recording.parameters.items())}
    shapes = recording.shapes
    # View of a matrix -> the matrix, and where its two dimensions are.
    placed = {number: (number, (0, 1)) for number in names if len(shapes[number]) == 2}
    seen: set[str] = set()
    for node in recording.nodes:
        if node.op in VIEWS:
            source = node.inputs[0] if node.inputs else -1
            if source in placed:
                root, at = placed[source]
                for number in node.outputs:
                    moved = _placed(node, shapes[source], shapes[number], at)
                    if moved is not None:
                        placed[number] = (root, moved)
            continue
        if node.op in CONVOLUTIONS:
            w = node.inputs[1]
            transposed = node.op != "mkldnn_convolution" and bool(node.args[6])
            groups = node.args[8] if node.op != "mkldnn_convolution" else node.args[6]
            if w in names and names[w] not in seen:
                seen.add(names[w])
                ends = (0, 1) if transposed else (1, 0)
                yield Consumer(names[w], *ends, "convolution", node.module, groups, transposed)
        elif node.op in PRODUCTS:
            b = node.inputs[1] if node.op in ("mm", "bmm") else node.inputs[2]
            if b in placed:
                root, at = placed[b]
                name, rank = names[root], len(shapes[b])
                if name not in seen and set(at) == {rank - 2, rank - 1}:
                    seen.add(name)
                    yield Consumer(name, *((0, 1) if at[0] < at[1] else (1, 0)), "linear", node.module)


def _placed(
    node: Node, old: tuple[int, ...], new: tuple[int, ...], at: tuple[int, int]
) -> tuple[int, int] | None:
    """Where two dimensions of a tensor are in a view of it; None where one is not a dimension any more."""
    if node.op in ("t", "numpy_T"):
        return (len(old) - 1 - at[0], len(old) - 1 - at[1])
    if node.op in ("transpose", "swapaxes"):
        one, other = (d % len(old) for d in node.args[1:3])
        swap = {one: other, other: one}
        return (swap.get(at[0], at[0]), swap.get(at[1], at[1]))
    if node.op == "permute":
        order = [d % len(old) for d in node.args[1]]
        return (order.index(at[0]), order.index(at[1]))
    if len(old) == len(new) and node.op not in ("view", "_unsafe_view", "reshape"):
        return at
    found = []
    for d in at:  # kept by a reshape that adds or drops sizes of 1 around it
        runs = [b for a, b in factor(old, new) if d in a] if prod(old) == prod(new) else []
        same = [e for e in runs[0] if new[e] == old[d]] if runs else []
        found += same[:1]
    return (found[0], found[1]) if len(found) == 2 and found[0] != found[1] else None
