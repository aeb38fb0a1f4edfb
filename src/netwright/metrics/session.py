"""ONNX files in ONNX Runtime: opening one, and fitting an example to its inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from netwright.errors import ArtefactError, DataError, UsageError

Example = Tensor | Sequence[Tensor] | Mapping[str, Tensor]

_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(bool)": np.bool_,
}


def open_session(path: str | Path, *, threads: int = 1, device: str = "cpu") -> Any:
    """Open an ONNX file for inference.

    Idle threads do not spin: spinning steals time from whatever runs beside.

    Args:
        path: The file.
        threads: Threads inside one operator; operators run one after the other.
        device: ``"cpu"``, or ``"cuda"`` where ONNX Runtime has it.

    Raises:
        ArtefactError: if the file is missing or ONNX Runtime cannot read it as a network.
        UsageError: if ONNX Runtime has no such device here.
    """
    import onnxruntime

    path = Path(path)
    if not path.is_file():
        raise ArtefactError(f"there is no ONNX file {path}", "check the path")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers = ["CPUExecutionProvider"]
    if str(device).startswith("cuda"):
        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            raise UsageError(
                "this ONNX Runtime has no CUDA", "pip install onnxruntime-gpu, or measure on the CPU"
            )
        providers.insert(0, "CUDAExecutionProvider")
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ArtefactError(f"{path} is no ONNX network that ONNX Runtime can run ({reason})") from error


def feed(session: Any, example: Example) -> dict[str, np.ndarray]:
    """Fit an example to a session's inputs, by name or by order.

    Args:
        session: From `open_session`.
        example: A tensor, a tuple of tensors or a dict by input name.

    Raises:
        DataError: if the number, names or shapes of the inputs do not agree.
    """
    inputs = session.get_inputs()
    if isinstance(example, Mapping):
        missing = [i.name for i in inputs if i.name not in example]
        if missing:
            raise DataError(f"the network has an input {missing[0]!r} that the example lacks")
        values = [example[i.name] for i in inputs]
    else:
        values = [example] if isinstance(example, Tensor) else list(example)
    if len(values) != len(inputs):
        raise DataError(f"the network takes {len(inputs)} inputs, the example has {len(values)}")
    return {i.name: _fit(i, value) for i, value in zip(inputs, values, strict=True)}


def run_padded(session: Any, x: Tensor) -> Tensor:
    """Run a batch through the first input and output of a session; returns logits (B, ...) in fp32.

    A file exported for one fixed batch size is fed in pieces of that size, the last one padded.

    Raises:
        DataError: if the shape does not fit.
        ArtefactError: if ONNX Runtime fails on it.
    """
    if len(session.get_inputs()) != 1:
        raise DataError(f"the network takes {len(session.get_inputs())} inputs, the data give one")
    fixed = session.get_inputs()[0].shape[:1]
    size = fixed[0] if fixed and isinstance(fixed[0], int) else len(x)
    pieces = []
    for piece in x.split(size):
        padding = piece[-1:].expand(size - len(piece), *piece.shape[1:])
        values = feed(session, torch.cat([piece, padding]))
        try:
            answer = session.run([session.get_outputs()[0].name], values)[0]
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise ArtefactError(
                f"ONNX Runtime fails on a batch of shape {tuple(piece.shape)} ({reason})"
            ) from error
        pieces.append(torch.from_numpy(np.asarray(answer))[: len(piece)].float())
    return torch.cat(pieces)


def _fit(declared: Any, value: Tensor) -> np.ndarray:
    """Cast one value to the declared type and check it against the declared shape."""
    array: np.ndarray = value.detach().cpu().numpy().astype(_TYPES.get(declared.type, np.float32), copy=False)
    shape = declared.shape
    fits = len(shape) == array.ndim and all(
        not isinstance(want, int) or want == got for want, got in zip(shape, array.shape, strict=True)
    )
    if not fits:
        wanted, given = ("x".join(map(str, sizes)) for sizes in (shape, array.shape))
        raise DataError(
            f"input {declared.name!r} of the network is {wanted}, the example is {given}",
            "give --input-shape or --batch as the file was exported, or other data",
        )
    return np.ascontiguousarray(array)
