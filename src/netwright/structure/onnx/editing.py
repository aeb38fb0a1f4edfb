"""Write changes of sizes into an ONNX graph: attributes, constants, and what is computed at run time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from netwright.errors import StructureError
from netwright.structure.onnx.program import named_nodes
from netwright.structure.onnx.resizing import Edit

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto


@dataclass(frozen=True)
class _Place:
    """A node and the graph that holds it."""

    node: NodeProto
    graph: GraphProto


def apply_edits(model: ModelProto, edits: Mapping[str, Edit]) -> None:
    """Change nodes of a graph, in place, and remove what nobody reads any more.

    A constant is changed under its own name where all its readers want the same. What is computed from sizes
    is multiplied by the ratio of new to old, so that sizes that are open stay open.

    Args:
        model: The graph.
        edits: Node -> what changes.

    Raises:
        StructureError: if a size cannot be written; names the node.
    """
    places = dict(_places(model.graph, set()))
    unread = _unread(model)
    writer = _Writer(model)
    for name, edit in edits.items():
        _attributes(places[name].node, edit)
    for name, edit in edits.items():
        for position, (old, new) in edit.operands.items():
            writer.operand(name, places[name], position, old, new, edits)
    writer.flush()
    _remove_unread(model, unread)
    for graph in _graphs(model.graph):
        del graph.value_info[:]  # the shapes that it states are those of the dense network


def _places(graph: GraphProto, used: set[str]) -> Iterator[tuple[str, _Place]]:
    for name, node in named_nodes(graph, used):
        yield name, _Place(node, graph)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _places(attribute.g, used)


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g)


def _attributes(node: NodeProto, edit: Edit) -> None:
    from onnx import helper

    node.op_type = edit.op or node.op_type
    for name, value in edit.attributes.items():
        kept = [a for a in node.attribute if a.name != name]
        held = [type(a).FromString(a.SerializeToString()) for a in kept]
        del node.attribute[:]
        node.attribute.extend(held)
        if value is not None:
            node.attribute.append(helper.make_attribute(name, value))


class _Writer:
    """Changes inputs of nodes; constants that all their readers want alike keep their name."""

    def __init__(self, model: ModelProto) -> None:
        self.model = model
        self.graph = model.graph
        self.readers: dict[str, list[tuple[NodeProto, int]]] = {}
        self.makers: dict[str, NodeProto] = {}
        self.taken: set[str] = set()
        self.pending: dict[str, list[tuple[NodeProto, int, Any]]] = {}
        self.tensors: dict[str, TensorProto] = {}
        for graph in _graphs(model.graph):
            self.tensors |= {t.name: t for t in graph.initializer}
            self.taken |= {t.name for t in graph.initializer} | {i.name for i in graph.input}
            for node in graph.node:
                self.taken |= set(node.output)
                for i, name in enumerate(node.input):
                    self.readers.setdefault(name, []).append((node, i))
                for name in node.output:
                    self.makers[name] = node

    def operand(
        self, name: str, place: _Place, position: int, old: Any, new: Any, edits: Mapping[str, Edit]
    ) -> None:
        """Change one input of a node."""
        node = place.node
        while len(node.input) <= position:
            node.input.append("")
        given = node.input[position]
        if new is None:
            node.input[position] = ""
            while node.input and not node.input[-1]:
                del node.input[-1]
            return
        if old is None and given:
            node.input[position] = self._stored(f"{name}_sizes", new)
            return
        if not given or self._constant(given):
            self.pending.setdefault(given, []).append((node, position, new))
            return
        if old.shape == new.shape and old.dtype.kind == "i" and self._joined(given, old, new):
            return
        if old.shape == new.shape and old.dtype.kind == "i":
            node.input[position] = self._ratio(name, place, given, old, new)
            return
        # A number computed of sizes, whose value must not follow them: it is one whatever the input.
        node.input[position] = self._stored(f"{given}_fixed", new)

    def _constant(self, name: str) -> bool:
        maker = self.makers.get(name)
        return maker is None or maker.op_type == "Constant"

    def _joined(self, name: str, old: Any, new: Any) -> bool:
        """Change the constants among the parts of a concatenation; False where another part changes."""
        maker = self.makers[name]
        if maker.op_type != "Concat" or len(self.readers[name]) != 1:
            return False
        parts = []
        start = 0
        for i, part in enumerate(maker.input):
            held = self._value(part)
            length = 1 if held is None else held.size
            parts.append((i, start, start + length, held))
            start += length
        if start != old.size:
            return False
        changes = [(i, a, b) for i, a, b, held in parts if not np.array_equal(old[a:b], new[a:b])]
        if any(parts[i][3] is None for i, _, _ in changes):
            return False
        for i, a, b in changes:
            self.pending.setdefault(maker.input[i], []).append((maker, i, new[a:b]))
        return True

    def _value(self, name: str) -> Any:
        from onnx import numpy_helper

        maker = self.makers.get(name)
        if maker is not None and maker.op_type == "Constant":
            held = {a.name: a for a in maker.attribute}
            if "value" in held:
                return numpy_helper.to_array(held["value"].t)
            if "value_ints" in held:
                return np.array(held["value_ints"].ints, np.int64)
        return numpy_helper.to_array(self.tensors[name]) if name in self.tensors else None

    def _ratio(self, name: str, place: _Place, given: str, old: Any, new: Any) -> str:
        """Multiply what is computed by the ratio of new to old, element by element."""
        from onnx import helper

        common = np.gcd(np.maximum(np.abs(old), 1), np.maximum(np.abs(new), 1))
        same = (old == new) | (old <= 0)
        if bool(((old <= 0) & (old != new)).any()):
            raise StructureError(f"node {name} takes a size that is computed in a way that cannot be changed")
        times, per = np.where(same, 1, new // common), np.where(same, 1, old // common)
        product, quotient = self._free(f"{name}_size_times"), self._free(f"{name}_size")
        nodes = [
            helper.make_node(
                "Mul",
                [given, self._stored(f"{name}_times", times.astype(old.dtype))],
                [product],
                name=product,
            ),
            helper.make_node(
                "Div",
                [product, self._stored(f"{name}_per", per.astype(old.dtype))],
                [quotient],
                name=quotient,
            ),
        ]
        at = next(i for i, node in enumerate(place.graph.node) if node is place.node or node == place.node)
        for offset, node in enumerate(nodes):
            place.graph.node.insert(at + offset, node)
        return quotient

    def _free(self, base: str) -> str:
        name, count = base, 1
        while name in self.taken:
            name, count = f"{base}_{count}", count + 1
        self.taken.add(name)
        return name

    def _stored(self, base: str, value: Any) -> str:
        from onnx import numpy_helper

        name = self._free(base)
        self.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def flush(self) -> None:
        """Write the constants."""
        for name, wants in self.pending.items():
            values = [value for _, _, value in wants]
            readers = self.readers.get(name, [])
            alike = all(np.array_equal(v, values[0]) and v.shape == values[0].shape for v in values)
            if name and alike and len(readers) == len(wants):
                self._replace(name, values[0])
                continue
            fresh: dict[tuple[Any, ...], str] = {}
            for node, position, value in wants:
                key = (value.shape, value.tobytes())
                if key not in fresh:
                    fresh[key] = self._stored(name or f"{node.name or node.op_type}_sizes", value)
                node.input[position] = fresh[key]

    def _replace(self, name: str, value: Any) -> None:
        from onnx import helper, numpy_helper

        new = numpy_helper.from_array(np.ascontiguousarray(value), name)
        if name in self.tensors:
            self.tensors[name].CopyFrom(new)
            return
        maker = self.makers[name]
        new.name = next((a.t.name for a in maker.attribute if a.name == "value"), "")
        del maker.attribute[:]
        maker.attribute.append(helper.make_attribute("value", new))


def _unread(model: ModelProto) -> set[str]:
    """Names of initializers and results that nobody reads."""
    read = {o.name for o in model.graph.output}
    made: set[str] = set()
    for graph in _graphs(model.graph):
        made |= {t.name for t in graph.initializer}
        read |= {o.name for o in graph.output}
        for node in graph.node:
            read |= set(node.input)
            made |= set(node.output)
    return made - read


def _remove_unread(model: ModelProto, before: set[str]) -> None:
    """Remove what nobody reads now and somebody read before."""
    graph = model.graph
    while True:
        idle = _unread(model) - before
        stored = [i for i, t in enumerate(graph.initializer) if t.name in idle]
        nodes = [
            i for i, n in enumerate(graph.node) if n.output and all(not o or o in idle for o in n.output)
        ]
        if not stored and not nodes:
            return
        for i in reversed(stored):
            del graph.initializer[i]
        for i in reversed(nodes):
            del graph.node[i]
