"""Run an ONNX file in ONNX Runtime, as a module, so that it can be checked like any other network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from netwright.errors import ModelError

if TYPE_CHECKING:
    from netwright.structure.check import Check
    from netwright.structure.onnx.network import OnnxNetwork
    from netwright.structure.tracing import Structure


class RuntimeNetwork(nn.Module):
    """An ONNX file that ONNX Runtime runs on the CPU; it has no parameters.

    Args:
        source: The file, or its bytes.
        results: Names of the values to return; all outputs when None.

    Raises:
        ModelError: if ONNX Runtime does not take it.
    """

    def __init__(self, source: str | Path | bytes, results: Sequence[str] | None = None) -> None:
        super().__init__()
        import onnxruntime

        self._results = None if results is None else list(results)
        source = source if results is None else _with_outputs(source, results)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                source if isinstance(source, bytes) else str(source),
                options,
                providers=["CPUExecutionProvider"],
            )
        except Exception as error:  # the runtime raises many kinds of its own
            reason = " ".join(str(error).split())[:200]
            raise ModelError(f"ONNX Runtime does not take the network: {reason}") from error

    def __deepcopy__(self, memo: dict[int, Any]) -> RuntimeNetwork:
        return self  # a session cannot be copied, and nothing changes it

    def forward(self, *args: Tensor, **kwargs: Tensor) -> Any:
        """Run the file; numbers go in with the precision that it asks for.

        Args:
            args: Its inputs, in order.
            kwargs: Its inputs by name.
        """
        inputs = self._session.get_inputs()
        given = {**{i.name: x for i, x in zip(inputs, args, strict=False)}, **kwargs}
        feed = {i.name: given[i.name].numpy().astype(_TYPES.get(i.type, np.float32)) for i in inputs}
        found = [torch.from_numpy(np.asarray(y)) for y in self._session.run(self._results, feed)]
        return found[0] if len(found) == 1 else tuple(found)


def _with_outputs(source: str | Path | bytes, names: Sequence[str]) -> str | Path | bytes:
    """The file, or a copy that also gives out values from within."""
    import onnx

    model = onnx.load_from_string(source) if isinstance(source, bytes) else onnx.load(str(source))
    missing = [n for n in names if n not in {o.name for o in model.graph.output}]
    if not missing:
        return source
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in missing)
    return model.SerializeToString()


_TYPES: dict[str, Any] = {
    "tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16,
    "tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(bool)": np.bool_, "tensor(uint8)": np.uint8,
}  # fmt: skip


def check_file(network: OnnxNetwork, net: Structure, keep: Tensor, source: str | Path | bytes) -> Check:
    """Compare what ONNX Runtime makes of a smaller file with the masked dense network in float64.

    Args:
        network: The dense network.
        net: Its structure.
        keep: (count,) bool, what stayed.
        source: The smaller file, or its bytes.

    Raises:
        ModelError: if ONNX Runtime does not take the file.
    """
    from netwright.structure.check import check

    return check(network, net, keep, RuntimeNetwork(source, network.program.outputs))
