"""Read an ONNX file, and say in one line what is wrong with it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netwright.errors import ArtefactError, ModelError, UsageError, from_os_error
from netwright.structure.onnx.network import OnnxNetwork
from netwright.structure.onnx.program import CLASSICAL, compile_program, versions
from netwright.structure.onnx.sharing import unshare

if TYPE_CHECKING:
    from onnx import ModelProto

#: The oldest opset that is read.
OLDEST = 9
_LOOPS = ("Loop", "Scan", "SequenceMap")
_INTEGER = (
    "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul",
    "ConvInteger", "MatMulInteger",
)  # fmt: skip


def read_onnx(source: str | os.PathLike[str] | bytes | ModelProto) -> OnnxNetwork:
    """Read an ONNX graph as a network that can be traced, pruned, trained and written again.

    Weights in files beside it are read, local functions are inlined.

    Args:
        source: A file, its bytes, or an `onnx.ModelProto` (which is copied).

    Raises:
        ArtefactError: if the file is missing or is no ONNX file.
        ModelError: if the graph has something that is not understood: a loop, an operator of another domain,
            integer arithmetic; names the node.
    """
    model = _inlined(_load(source))
    _check(model)
    unshare(model)
    program, weights = compile_program(model)
    return OnnxNetwork(program, weights)


def is_onnx(path: object) -> bool:
    """Whether something is the name of an ONNX file."""
    return isinstance(path, (str, os.PathLike)) and str(path).lower().endswith(".onnx")


def _load(source: Any) -> ModelProto:
    import onnx

    if isinstance(source, onnx.ModelProto):
        copy = onnx.ModelProto()
        copy.CopyFrom(source)
        return copy
    if isinstance(source, bytes):
        return _parsed(source, "the bytes given")
    if not isinstance(source, (str, os.PathLike)):
        raise UsageError(
            f"an ONNX network of type {type(source).__name__} is not understood",
            "give a file, bytes or an onnx.ModelProto",
        )
    path = Path(source)
    if not path.exists():
        raise ArtefactError(f"there is no file {path}", "check the name")
    if path.is_dir():
        raise ArtefactError(f"{path} is a folder", "give an ONNX file")
    try:
        model = _parsed(path.read_bytes(), str(path))
    except OSError as error:
        if isinstance(error, ArtefactError):
            raise
        raise from_os_error(error, f"reading {path}") from error
    _load_beside(model, path)
    return model


def _parsed(content: bytes, name: str) -> ModelProto:
    import onnx

    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except Exception as error:  # the library's own decoding error
        raise ArtefactError(f"{name} is no ONNX file, or a damaged one", "export it again") from error
    if not model.graph.node or not model.opset_import:
        raise ArtefactError(
            f"{name} is no ONNX file: it holds no graph", "give a file that an exporter wrote"
        )
    return model


def _load_beside(model: ModelProto, path: Path) -> None:
    from onnx import external_data_helper

    try:
        external_data_helper.load_external_data_for_model(model, str(path.absolute().parent))
    except Exception as error:  # a missing, short or unsafe file: the library raises several kinds
        reason = " ".join(str(error).split())[:160]
        raise ArtefactError(
            f"weights beside {path.name} cannot be read: {reason}", "keep the files of a network together"
        ) from error


def _inlined(model: ModelProto) -> ModelProto:
    if not model.functions:
        return model
    from onnx import inliner

    return inliner.inline_local_functions(model)


def _check(model: ModelProto) -> None:
    import onnx

    version = versions(model)[""]
    newest = onnx.defs.onnx_opset_version()
    if version > newest:
        raise ModelError(
            f"the graph is written in opset {version}, the newest that is known here is {newest}",
            "install a newer onnx, or export with an older opset",
        )
    if version < OLDEST:
        raise ModelError(
            f"the graph is written in opset {version}, the oldest that is read is {OLDEST}",
            "convert it with onnx.version_converter",
        )
    if model.graph.sparse_initializer:
        raise ModelError("the graph holds sparse weights", "store them dense")
    for node in _nodes(model.graph):
        name = node.name or node.op_type
        if node.domain not in ("", "ai.onnx", CLASSICAL):
            raise ModelError(
                f"node {name} is an operator {node.op_type} of {node.domain}, which is not understood",
                "export the network with standard operators, without a runtime's own optimisations",
            )
        if node.op_type in _LOOPS:
            raise ModelError(
                f"node {name} is a {node.op_type}, and loops are not understood",
                "export the network with the loop unrolled",
            )
        if node.op_type in _INTEGER:
            raise ModelError(
                f"node {name} ({node.op_type}) makes this an integer network",
                "prune the floating-point network, then quantize what comes out",
            )


def _nodes(graph: Any) -> Any:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nodes(attribute.g)
