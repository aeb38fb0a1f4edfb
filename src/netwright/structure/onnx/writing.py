"""Write a network back as an ONNX file."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from netwright import _files
from netwright.errors import from_os_error
from netwright.structure.onnx.program import fill

if TYPE_CHECKING:
    from onnx import ModelProto

    from netwright.structure.onnx.network import OnnxNetwork

#: Weights of so many bytes do not fit into one file of the format.
INLINE_BYTES = 2**31 - 2**24


def to_proto(network: OnnxNetwork) -> ModelProto:
    """The graph with the weights as they are now.

    Args:
        network: The network.
    """
    import onnx

    model = onnx.ModelProto()
    program = network.program
    stored = {**network._parameters, **network._buffers}
    for name, count in network.sides.items():
        parts = [stored[f"{name}[{d}]"] for d in range(count)]
        stored[name] = torch.stack([p.detach() for p in parts if p is not None])
    model.CopyFrom(program.model)
    holders = {t.name: t for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value":
                    holders[node.output[0]] = attribute.t
    for name in program.weights:
        tensor = stored[name]
        assert tensor is not None
        fill(holders[name], tensor)
    return model


def write(network: OnnxNetwork, path: Path, *, inline_bytes: int = INLINE_BYTES) -> Path:
    """Write an ONNX file, complete or not at all.

    Args:
        network: The network.
        path: The file.
        inline_bytes: Weights of so many bytes or more go into a second file, ``path + ".data"``.

    Raises:
        ArtefactError: if the operating system refuses.
    """
    import onnx

    model = to_proto(network)
    size = sum(t.numel() * t.element_size() for t in (*network.parameters(), *network.buffers()))
    if size < inline_bytes:
        with _files.atomic(path) as temporary:
            temporary.write_bytes(model.SerializeToString())
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.name + ".data"
    with tempfile.TemporaryDirectory(prefix=f".{path.stem}-", dir=path.parent) as folder:
        draft = Path(folder) / path.name
        try:
            onnx.save_model(model, str(draft), save_as_external_data=True, location=beside)
            (Path(folder) / beside).replace(path.with_name(beside))
            draft.replace(path)
        except OSError as error:
            raise from_os_error(error, f"writing {path}") from error
    return path
