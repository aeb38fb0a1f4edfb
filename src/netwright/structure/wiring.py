"""Which operator reads what which other one made: a branch in the code may choose another tensor.

Two recordings may run the same operators on tensors of the same shapes and units and still differ in their
edges: a block that asks whether its input is as wide as its output adds the normalised input instead of the
input itself when one attribute of the two is not the right one.
"""

from __future__ import annotations

from netwright.structure.cost import VIEWS
from netwright.structure.record import Node, Recording

#: What made a tensor: the place of an operator among those that compute, the name of a parameter, or None for
#: an input or a constant.
Source = int | str | None


def computes(node: Node) -> bool:
    """Whether an operator computes; copies do not count, since a reshape makes some by size."""
    return node.op not in VIEWS and node.op != "clone"


def sources(recording: Recording) -> list[list[Source]]:
    """What every operator that computes reads, seen through views and copies.

    Args:
        recording: The operators.
    """
    made: dict[int, Source] = {number: name for name, number in reversed(recording.parameters.items())}
    read: list[list[Source]] = []
    for node in recording.nodes:
        if computes(node):
            read.append([made.get(number) for number in node.inputs])
            for number in node.outputs:
                made[number] = len(read) - 1
        elif node.inputs:
            for number in node.outputs:
                if number not in node.inputs:
                    made[number] = made.get(node.inputs[0])
    return read
