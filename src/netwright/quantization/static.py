"""Integer ONNX networks by static calibration."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from netwright._files import atomic
from netwright.errors import ArtefactError, DataError, UsageError, from_os_error
from netwright.metrics import feed, open_session
from netwright.quantization._quiet import quiet

Calibration = Literal["minmax", "percentile", "entropy"]

_METHODS = {"minmax": "MinMax", "percentile": "Percentile", "entropy": "Entropy"}
_ACTIVATIONS = {"uint8": "QUInt8", "int8": "QInt8"}
#: Examples that pass through the network at once; bounds the memory that calibration takes.
_PIECE = 8


def quantize_onnx(
    source: str | Path,
    target: str | Path,
    batches: Iterable[Tensor | Sequence[Tensor]],
    *,
    per_channel: bool = True,
    calibrate: Calibration = "minmax",
    activations: Literal["uint8", "int8"] = "uint8",
    percentile: float = 99.99,
) -> Path:
    """Write an integer (QDQ) version of an ONNX network, calibrated on examples.

    Weights become signed 8-bit integers with a scale a channel; activations become 8-bit integers with a
    scale a tensor, measured on the examples. The result depends on nothing but the file and the examples.

    Args:
        source: The network in floating point.
        target: Where to write; replaced only by a complete file that ONNX Runtime opens.
        batches: Inputs (B, ...) as the network takes them, on the CPU, or tuples whose first item is the
            input. A few hundred examples are enough.
        per_channel: A scale for each output channel of a weight, or one for the whole weight.
        calibrate: ``"minmax"`` covers all values seen, ``"percentile"`` leaves out the outermost,
            ``"entropy"`` chooses the range that loses least information (slower).
        activations: ``"uint8"`` with a zero point, which ONNX Runtime fuses fully on CPUs, or symmetric
            ``"int8"`` for devices that want it (slower on CPUs).
        percentile: Share of values that percentile calibration covers, in percent.

    Returns:
        The target.

    Raises:
        ArtefactError: if the source is no ONNX network, or the target cannot be written.
        DataError: if there are no examples, or they do not fit the network.
        UsageError: if the method is unknown.
    """
    if calibrate not in _METHODS or activations not in _ACTIVATIONS:
        raise UsageError(
            f"calibration {calibrate!r} with {activations} activations is unknown",
            f"choose from {', '.join(_METHODS)}; {', '.join(_ACTIVATIONS)}",
        )
    source, target = Path(source), Path(target)
    reader = _reader(source, batches)
    with tempfile.TemporaryDirectory(prefix="netwright-quantize-") as folder:
        draft = Path(folder) / "quantised.onnx"
        try:
            with quiet():
                prepared = _prepare(source, Path(folder))
                _quantize(prepared, draft, reader, per_channel, calibrate, activations, percentile)
        except OSError as error:
            raise from_os_error(error, f"quantising {source}") from error
        except Exception as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise ArtefactError(f"{source} cannot be quantised ({reason})") from error
        open_session(draft)
        with atomic(target) as temporary:
            shutil.copyfile(draft, temporary)
    return target


def _prepare(source: Path, folder: Path) -> Path:
    """Infer shapes and fold constants, as ONNX Runtime's quantiser wants it."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = folder / "prepared.onnx"
    # Symbolic shape inference is slow and fails on valid networks; ONNX's own is enough for calibration.
    quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
    return prepared


def _quantize(
    prepared: Path,
    target: Path,
    reader: Any,
    per_channel: bool,
    calibrate: str,
    activations: str,
    percentile: float,
) -> None:
    from onnxruntime import quantization

    options = {
        "ActivationSymmetric": activations == "int8",
        "WeightSymmetric": True,
        "CalibPercentile": percentile,
        # One piece at a time: the histogram methods otherwise keep every activation of every example. Despite
        # its name the option serves all methods.
        "CalibStridedMinMax": 1,
    }
    quantization.quantize_static(
        str(prepared),
        str(target),
        reader,
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=per_channel,
        activation_type=getattr(quantization.QuantType, _ACTIVATIONS[activations]),
        weight_type=quantization.QuantType.QInt8,
        calibrate_method=getattr(quantization.CalibrationMethod, _METHODS[calibrate]),
        extra_options=options,
    )


def _reader(source: Path, batches: Iterable[Tensor | Sequence[Tensor]]) -> Any:
    """Return the examples as ONNX Runtime reads them, in pieces that the network's batch size allows."""
    from onnxruntime.quantization import CalibrationDataReader

    session = open_session(source)
    examples = [b if isinstance(b, Tensor) else b[0] for b in batches]
    if not sum(len(x) for x in examples):
        raise DataError("calibration needs examples, and there are none", "give data with --data")
    x = torch.cat(examples)
    fixed = session.get_inputs()[0].shape[:1]
    size = fixed[0] if fixed and isinstance(fixed[0], int) else min(_PIECE, len(x))
    if fixed and isinstance(fixed[0], int) and len(x) % size:
        x = torch.cat([x, x[:1].expand(size - len(x) % size, *x.shape[1:])])
    pieces: list[dict[str, np.ndarray]] = [feed(session, piece) for piece in x.split(size)]

    class Reader(CalibrationDataReader):  # type: ignore[misc, valid-type]
        """Hands out the pieces between `start` and `end`."""

        def __init__(self) -> None:
            self.start, self.end = 0, len(pieces)

        def __len__(self) -> int:
            return len(pieces)

        def set_range(self, start_index: int, end_index: int) -> None:
            self.start, self.end = start_index, end_index

        def get_next(self) -> dict[str, np.ndarray] | None:
            if self.start >= self.end:
                return None
            self.start += 1
            return pieces[self.start - 1]

    return Reader()
