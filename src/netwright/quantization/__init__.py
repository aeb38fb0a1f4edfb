"""Export to ONNX and integer networks by calibration."""

from netwright.quantization.export import Exported, export_onnx
from netwright.quantization.static import quantize_onnx

__all__ = ["Exported", "export_onnx", "quantize_onnx"]
