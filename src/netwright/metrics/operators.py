"""The operators that ONNX Runtime really runs for a network, and their sizes as functions of its widths.

ONNX Runtime rewrites a graph before it runs it: it folds normalisations, fuses activations and additions, and
stores channels in blocks. So its own rewritten graph is read. The same network at several widths has the same
operators with other sizes; how a size depends on the widths is seen by comparing them.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netwright.errors import ArtefactError, ModelError

Array = NDArray[Any]
#: Channels of one block of ONNX Runtime's own layout, by vector width; a size may be rounded up to one.
BLOCKS = (8, 16)
_BLOCKED = "com.microsoft.nchwc"
#: Integer inputs up to so many elements are sizes, axes or indices; longer ones are tables.
_SHORT = 64


@dataclass(frozen=True)
class Size:
    """A number of an operator: a constant, or a width times a ratio, rounded up to whole blocks.

    Args:
        value: The constant, or the numerator of the ratio.
        slot: Which of the operator's widths it follows; -1 is none.
        divisor: Denominator of the ratio.
        block: It is rounded up to a multiple of this.
    """

    value: int
    slot: int = -1
    divisor: int = 1
    block: int = 1

    def at(self, widths: Sequence[int]) -> int:
        """The number for some widths of the operator's slots."""
        if self.slot < 0:
            return self.value
        exact = -(-widths[self.slot] * self.value // self.divisor)
        return -(-exact // self.block) * self.block


@dataclass(frozen=True)
class Value:
    """An input of an operator.

    Args:
        kind: "activation", "weight", "numbers" (a few integers, in `numbers`) or "none" (left out).
        dtype: NumPy's name of its type.
        shape: Its sizes.
        numbers: The integers themselves, for "numbers".
    """

    kind: str
    dtype: str = ""
    shape: tuple[Size, ...] = ()
    numbers: tuple[Size, ...] = ()


@dataclass(frozen=True)
class Kind:
    """A distinct operator: what is measured once, wherever it occurs.

    Args:
        op: Its type.
        domain: The domain of the type.
        version: The version of that domain.
        attributes: (name, value); integers are sizes.
        inputs: What it reads.
        outputs: How many tensors it makes.
        widths: The dense width of each of its slots.
    """

    op: str
    domain: str
    version: int
    attributes: tuple[tuple[str, Any], ...]
    inputs: tuple[Value, ...]
    outputs: int
    widths: tuple[int, ...]

    @property
    def block(self) -> int:
        """Channels of one block where it works on ONNX Runtime's own layout, else 1."""
        return block() if self.domain == _BLOCKED else 1

    def step(self, slot: int) -> int:
        """What the width of a slot must be a multiple of, so that all sizes that follow it are whole."""
        step = self.block
        found = [*_all_sizes(self.attributes), *_all_sizes(self.inputs)]
        for size in found:
            if size.slot == slot:
                step = math.lcm(step, size.divisor)
        return step if step <= self.widths[slot] else math.lcm(*(s.divisor for s in found if s.slot == slot))


@dataclass(frozen=True)
class Call:
    """One operator of a network.

    Args:
        kind: What it is.
        slots: The widths that it follows, as indices of the caller's candidates.
        unmatched: Sizes that differ among the networks and follow no width; they are taken as dense.
    """

    kind: Kind
    slots: tuple[int, ...]
    unmatched: int


def _all_sizes(value: Any) -> Iterator[Size]:
    if isinstance(value, Size):
        yield value
    elif isinstance(value, Value):
        yield from (*value.shape, *value.numbers)
    elif isinstance(value, tuple):
        for part in value:
            yield from _all_sizes(part)


@cache
def block() -> int:
    """Channels of one block of ONNX Runtime's own layout on this processor: seen from a small convolution."""
    import onnx
    from onnx import TensorProto, helper

    weight = onnx.numpy_helper.from_array(np.ones((8, 16, 3, 3), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"])],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 16, 5, 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8, 3, 3])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    with tempfile.TemporaryDirectory(prefix="netwright-operators-") as folder:
        path = Path(folder) / "one.onnx"
        onnx.save(model, path)
        seen = _Graph(path, {"x": np.ones((1, 16, 5, 5), np.float32)}, 1)
    return max([8, *(w.shape[0] for w in seen.weights.values() if w.ndim == 4)])


class _Graph:
    """A file as ONNX Runtime rewrites it, with every tensor's type and shape."""

    def __init__(self, path: Path, example: dict[str, Array], threads: int) -> None:
        import onnx
        import onnxruntime as ort

        with tempfile.TemporaryDirectory(prefix="netwright-operators-") as folder:
            options = _options(threads, ort.GraphOptimizationLevel.ORT_ENABLE_ALL)
            options.optimized_model_filepath = str(Path(folder) / "rewritten.onnx")
            _session(str(path), options)
            self.model = onnx.load(options.optimized_model_filepath)
        graph = self.model.graph
        self.versions = {o.domain: o.version for o in self.model.opset_import}
        self.weights = {w.name: onnx.numpy_helper.to_array(w) for w in graph.initializer}
        declared = {o.name for o in graph.output}
        made = [o for node in graph.node for o in node.output if o]
        graph.output.extend([onnx.ValueInfoProto(name=n) for n in made if n not in declared])
        session = open_as_is(self.model, threads)
        del graph.output[len(declared) :]
        found = dict(zip(made, session.run(made, example), strict=True)) | example
        self.tensors = {name: (str(a.dtype), a.shape) for name, a in found.items()}
        self.nodes = list(graph.node)
        source = {o: node for node in self.nodes for o in node.output}
        for node in self.nodes:  # in order of execution: what is before has its name
            if node.op_type.startswith("Reorder") or not node.name:  # all of one type have one name
                before = source.get(node.input[0]) if node.input else None
                node.name = f"{node.op_type} of {before.name if before is not None else node.input[0]}"


def open_as_is(model: Any, threads: int) -> Any:
    """A session that runs the operators of a graph as they are.

    Args:
        model: The graph.
        threads: Threads inside an operator.

    Raises:
        ArtefactError: if ONNX Runtime cannot run them.
    """
    import onnxruntime as ort

    return _session(model.SerializeToString(), _options(threads, ort.GraphOptimizationLevel.ORT_DISABLE_ALL))


def _options(threads: int, level: Any) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.graph_optimization_level = level
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _session(source: str | bytes, options: Any) -> Any:
    import onnxruntime as ort

    try:
        return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ArtefactError(f"ONNX Runtime cannot run an operator of the network ({reason})") from error


def read_calls(
    paths: Sequence[Path], examples: Sequence[dict[str, Array]], candidates: NDArray[np.int64], threads: int
) -> list[Call]:
    """The operators of a network, from files of it at several widths.

    Args:
        paths: (V) ONNX files: the dense network first, then others that differ in their widths alone.
        examples: (V) inputs by name.
        candidates: (V, C) widths that sizes may follow, for every file.
        threads: Threads inside an operator.

    Raises:
        ModelError: if fewer than two others have the operators of the first.
    """
    graphs = [_Graph(path, example, threads) for path, example in zip(paths, examples, strict=True)]
    marks = [{n.name: _mark(n) for n in g.nodes} for g in graphs]
    # Parallel branches come in any order, and an addition is fused with either of them.
    same = [i for i, mark in enumerate(marks) if mark == marks[0]]
    if len(same) < 3 or len(marks[0]) < len(graphs[0].nodes):
        raise ModelError("ONNX Runtime runs other operators for the same network at other widths")
    alike = [graphs[i] for i in same]
    by_name = [{n.name: n for n in g.nodes} for g in alike]
    rows = candidates[same]
    return [_call([nodes[n.name] for nodes in by_name], alike, rows) for n in graphs[0].nodes]


def _mark(node: Any) -> tuple[Any, ...]:
    """What equal operators of two files have in common, whatever their sizes."""
    return node.domain, node.op_type, len(node.input), tuple(sorted(a.name for a in node.attribute))


def rewritten(path: Path, example: dict[str, Array], threads: int) -> _Graph:
    """A file as ONNX Runtime rewrites it: `nodes`, `weights` by name, `tensors` as (type, shape) by name.

    Args:
        path: The file.
        example: Its inputs by name.
        threads: Threads inside an operator.
    """
    return _Graph(path, example, threads)


def names(path: Path, example: dict[str, Array], threads: int) -> list[tuple[str, str]]:
    """The operators that ONNX Runtime runs for a file, as (domain, type).

    Args:
        path: The file.
        example: Its inputs by name.
        threads: Threads inside an operator.
    """
    return [(node.domain, node.op_type) for node in _Graph(path, example, threads).nodes]


def _call(nodes: Sequence[Any], graphs: Sequence[_Graph], candidates: NDArray[np.int64]) -> Call:
    import onnx

    slots: list[int] = []
    unmatched = 0

    def size(values: Sequence[int]) -> Size:
        nonlocal unmatched
        found = follow([int(v) for v in values], candidates, slots)
        if found is None:
            unmatched += 1
            return Size(int(values[0]))
        return found

    def sizes(rows: Sequence[Sequence[int]]) -> tuple[Size, ...]:
        return tuple(size(column) for column in zip(*rows, strict=True))

    def value(names: Sequence[str]) -> Value:
        if not names[0]:
            return Value("none")
        held = [g.weights.get(n) for g, n in zip(graphs, names, strict=True)]
        if held[0] is None:
            dtype, shape = graphs[0].tensors[names[0]]
            return Value(
                "activation", dtype, sizes([g.tensors[n][1] for g, n in zip(graphs, names, strict=True)])
            )
        arrays = [a for a in held if a is not None]
        dtype = str(arrays[0].dtype)
        shape = sizes([a.shape for a in arrays])
        if arrays[0].dtype.kind in "iu" and arrays[0].size <= _SHORT and len({a.size for a in arrays}) == 1:
            return Value("numbers", dtype, shape, sizes([a.reshape(-1).tolist() for a in arrays]))
        return Value("weight", dtype, shape)

    attributes: list[tuple[str, Any]] = []
    named = [{a.name: a for a in n.attribute} for n in nodes]  # their order differs from file to file
    for attribute in sorted(nodes[0].attribute, key=lambda a: a.name):
        given = [onnx.helper.get_attribute_value(n[attribute.name]) for n in named]
        if isinstance(given[0], int):
            attributes.append((attribute.name, size(given)))
        elif isinstance(given[0], list) and given[0] and isinstance(given[0][0], int):
            attributes.append((attribute.name, sizes(given)))
        elif isinstance(given[0], list):
            attributes.append((attribute.name, tuple(given[0])))
        else:
            attributes.append((attribute.name, given[0]))
    inputs = tuple(value(names) for names in zip(*(n.input for n in nodes), strict=True))
    first = nodes[0]
    widths = tuple(int(candidates[0, c]) for c in slots)
    version = graphs[0].versions[first.domain]
    kind = Kind(first.op_type, first.domain, version, tuple(attributes), inputs, len(first.output), widths)
    return Call(kind, tuple(slots), unmatched)


def follow(values: list[int], candidates: NDArray[np.int64], slots: list[int]) -> Size | None:
    """Which width some values follow, or None where they follow none; a new width gets a new slot."""
    if len(set(values)) == 1:
        return Size(values[0])
    column = np.array(values, dtype=np.int64)
    order = [*slots, *(c for c in range(candidates.shape[1]) if c not in slots)]
    table = candidates[:, order]

    def found(hits: NDArray[np.bool_], block: int = 1) -> Size | None:
        if not hits.any():
            return None
        c = order[int(np.flatnonzero(hits)[0])]
        if c not in slots:
            slots.append(c)
        common = math.gcd(values[0], int(candidates[0, c])) if block == 1 else int(candidates[0, c])
        top = values[0] // common if block == 1 else 1
        return Size(top, slots.index(c), int(candidates[0, c]) // common, block)

    exact = found((table == column[:, None]).all(axis=0))
    if exact is not None:
        return exact
    for block in BLOCKS:
        rounded = found((-(-table // block) * block == column[:, None]).all(axis=0), block)
        if rounded is not None:
            return rounded
    return found((table * column[0] == column[:, None] * table[0]).all(axis=0) & (table[0] > 0))
