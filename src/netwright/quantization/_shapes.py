"""Replace the shape arithmetic that tracing leaves in a graph by the constants it computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Operators and the inputs of theirs that take a shape, sizes or indices.
_SHAPE_INPUTS = {
    "Reshape": (1,),
    "Expand": (1,),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Tile": (1,),
    "Range": (0, 1, 2),
}


def fold_shapes(path: Path, feeds: list[dict[str, NDArray[Any]]]) -> bool:
    """Rewrite a file so that shapes that do not depend on the batch are constants.

    The shape inputs are evaluated for batches of different sizes. What stays the same is a constant; a target
    shape of a reshape that changes in one place only gets -1 there. The rest stays computed, and the nodes
    that nothing needs any more go when unused nodes are removed.

    Args:
        path: The ONNX file, rewritten in place.
        feeds: Inputs of at least two batch sizes.

    Returns:
        Whether anything was rewritten.
    """
    import onnx

    model = onnx.load(path)
    computed = {name for node in model.graph.node for name in node.output if node.op_type != "Constant"}
    uses = [
        (node, place)
        for node in model.graph.node
        for place in _SHAPE_INPUTS.get(node.op_type, ())
        if place < len(node.input) and node.input[place] in computed
    ]
    names = sorted({node.input[place] for node, place in uses})
    if not names or len(feeds) < 2:
        return False
    values = _evaluate(model, names, feeds)
    added: dict[str, NDArray[Any]] = {}
    for node, place in uses:
        name = node.input[place]
        folded = _fold(values[name], free=node.op_type == "Reshape")
        if folded is None:
            continue
        # One tensor may serve a reshape (where -1 is allowed) and others (where it is not).
        constant = f"{name}_{node.op_type}_constant"
        added[constant] = folded
        node.input[place] = constant
    model.graph.initializer.extend(onnx.numpy_helper.from_array(v, k) for k, v in added.items())
    onnx.save(model, path)
    return bool(added)


def _evaluate(
    model: Any, names: list[str], feeds: list[dict[str, NDArray[Any]]]
) -> dict[str, list[NDArray[Any]]]:
    """Return the values of inner tensors for each feed."""
    import onnx
    import onnxruntime

    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    existing = {output.name for output in watched.graph.output}
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in existing)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        watched.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    taken = {i.name for i in session.get_inputs()}
    runs = [session.run(names, {k: v for k, v in feed.items() if k in taken}) for feed in feeds]
    return {name: [np.asarray(run[i]) for run in runs] for i, name in enumerate(names)}


def _fold(values: list[NDArray[Any]], *, free: bool) -> NDArray[Any] | None:
    """Return the one constant that stands for all the values, or None."""
    first = values[0]
    if first.dtype != np.int64 or any(v.shape != first.shape for v in values):
        return None
    differs = np.any([v != first for v in values[1:]], axis=0)
    if not differs.any():
        return first
    if not free or first.ndim != 1 or differs.sum() != 1 or (first == -1).any() or (first == 0).any():
        return None
    return np.where(differs, np.int64(-1), first)
