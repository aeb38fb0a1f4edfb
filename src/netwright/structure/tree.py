"""The operators of a network as a tree of modules, in order of execution: what the picture draws."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from netwright.structure.cost import Operator

if TYPE_CHECKING:
    from netwright.structure.tracing import Structure


@dataclass
class Row:
    """A module, an operator, or a parameter that no single operator owns.

    Attributes:
        path: The module's dotted path.
        label: Its last part, or the operator's kind, or the parameter's name.
        kind: "block" (a module with parts), "layer" (a module of one operator), "operator" or "parameter".
        operator: Of a layer or operator.
        parts: Of a block.
        tensors: Parameters and buffers that belong here.
        depth: Blocks around it.
        number: Its place in the tree, read from top to bottom.
        macs: Multiply-accumulates, parts included.
        params: Parameters, parts included.
        count: Operators, parts included.
    """

    path: str
    label: str
    kind: str = "block"
    operator: Operator | None = None
    parts: list[Row] = field(default_factory=list)
    tensors: list[str] = field(default_factory=list)
    depth: int = 0
    number: int = 0
    macs: int = 0
    params: int = 0
    count: int = 0

    def walk(self) -> Iterator[Row]:
        """Everything below, from top to bottom."""
        for part in self.parts:
            yield part
            yield from part.walk()


def tree(net: Structure) -> Row:
    """Build the tree of a network; its root stands for the network.

    Args:
        net: The structure.
    """
    blocks = {"": Row("", net.name)}
    for operator in net.operators:
        block = _block(blocks, operator.module)
        block.parts.append(Row(operator.module, operator.kind, "operator", operator))
    readers = _readers(net)
    for name in net.layers:
        module = name.rpartition(".")[0]
        if module not in blocks or not module:  # the nodes of a graph do not own what they read
            module = readers.get(name, module)
        while module not in blocks:
            module = split_path(module)[0]
        blocks[module].tensors.append(name)
    root = blocks[""]
    _settle(root, 0)
    for number, row in enumerate(root.walk()):
        row.number = number
    return root


def open_depth(root: Row, most: int = 48) -> int:
    """How many levels of blocks can be open so that at most so many rows are seen.

    Args:
        root: The tree.
        most: Rows.
    """
    depths = [row.depth for row in root.walk()]
    depth = 0
    while depth < max(depths, default=0) and sum(d <= depth + 1 for d in depths) <= most:
        depth += 1
    return depth


def split_path(path: str) -> tuple[str, str]:
    """The path around a module, and its own name: dotted, or with slashes as nodes of ONNX graphs have it.

    Args:
        path: Of a module or node.
    """
    outer, _, own = path.rpartition("/" if "/" in path else ".")
    return outer, own


def _readers(net: Structure) -> dict[str, str]:
    """Parameter -> the module of the first operator that reads it."""
    names = {number: name for name, number in reversed(net.recording.parameters.items())}
    found: dict[str, str] = {}
    for node in net.recording.nodes:
        for number in node.inputs:
            if number in names:
                found.setdefault(names[number], node.module)
    return found


def _block(blocks: dict[str, Row], path: str) -> Row:
    if path not in blocks:
        parent, label = split_path(path)
        blocks[path] = Row(path, label)
        _block(blocks, parent).parts.append(blocks[path])
    return blocks[path]


def _settle(row: Row, depth: int) -> None:
    """Turn modules of one operator into layers, the other modules' own tensors into rows, and sum costs."""
    row.depth = depth - 1
    if row.operator is not None:
        row.macs, row.params, row.count = row.operator.macs, row.operator.params, 1
        return
    if row.path and len(row.parts) == 1 and row.parts[0].kind == "operator":
        (only,) = row.parts
        row.kind, row.operator, row.parts = "layer", only.operator, []
        _settle(row, depth)
        return
    if row.path and len(row.parts) == 1 and not row.tensors:  # a module around one module
        (only,) = row.parts
        row.path, row.label = only.path, f"{row.label}.{only.label}"
        row.parts, row.tensors = only.parts, only.tensors
        _settle(row, depth)
        return
    names = [name.removeprefix(f"{row.path}.") for name in row.tensors]
    tensors = [
        Row(row.path, label, "parameter", tensors=[name], depth=depth)
        for label, name in zip(names, row.tensors, strict=True)
    ]
    row.tensors = []
    for part in row.parts:
        _settle(part, depth + 1)
    row.parts = tensors + row.parts
    row.macs = sum(part.macs for part in row.parts)
    row.params = sum(part.params for part in row.parts)
    row.count = sum(part.count for part in row.parts)
