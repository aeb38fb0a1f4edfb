"""ONNX graphs as networks: read, traced, pruned and written like any other."""

from netwright.structure.onnx.network import OnnxNetwork
from netwright.structure.onnx.reading import is_onnx, read_onnx

__all__ = ["OnnxNetwork", "is_onnx", "read_onnx"]
