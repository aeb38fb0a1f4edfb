"""Vectors that several layers share only because their values are equal are given to each apart.

PyTorch's TorchScript exporter stores equal biases and scales once: before training, all zeros of one length
are one tensor. A shared tensor ties the layers that read it, so they could only shrink alike. Matrices are
left shared: there it is how a network was built (an embedding that is also the last layer).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from netwright.structure.onnx.program import FLOATS

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto


def unshare(model: ModelProto) -> None:
    """Give every reader of a floating-point vector its own, in place.

    Args:
        model: A graph; copies are named after the node that stood for them, or the vector with a number.
    """
    graph = model.graph
    vectors = {
        t.name: t for t in graph.initializer if len(t.dims) == 1 and t.dims[0] > 1 and t.data_type in FLOATS
    }
    if not vectors:
        return
    outputs = {o.name for o in graph.output}
    kept = []
    for node in graph.node:
        if node.op_type == "Identity" and node.input[0] in vectors and node.output[0] not in outputs:
            copy = graph.initializer.add()
            copy.CopyFrom(vectors[node.input[0]])
            copy.name = node.output[0]
            vectors[copy.name] = copy
        else:
            kept.append(node)
    if len(kept) < len(graph.node):
        held = [type(n).FromString(n.SerializeToString()) for n in kept]
        del graph.node[:]
        graph.node.extend(held)
    _apart(graph, {name for name in vectors if name not in outputs})


def _apart(graph: GraphProto, names: set[str]) -> None:
    stored = {t.name: t for t in graph.initializer}
    taken = {*stored, *(o for n in graph.node for o in n.output), *(i.name for i in graph.input)}
    inner = {name for n in graph.node for a in n.attribute if a.HasField("g") for name in _read_inside(a.g)}
    seen: set[str] = set()
    for node in graph.node:
        for position, name in enumerate(node.input):
            if name not in names or name in inner:
                continue
            if name not in seen:
                seen.add(name)
                continue
            count = 1
            while f"{name}_{count}" in taken:
                count += 1
            copy = graph.initializer.add()
            copy.CopyFrom(stored[name])
            copy.name = f"{name}_{count}"
            taken.add(copy.name)
            node.input[position] = copy.name


def _read_inside(graph: GraphProto) -> set[str]:
    found = {name for node in graph.node for name in node.input}
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                found |= _read_inside(attribute.g)
    return found
