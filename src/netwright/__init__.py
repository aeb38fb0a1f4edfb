"""Netwright shapes neural networks: from a network, data and a budget to the right-sized networks."""

from netwright import data, metrics, models, train
from netwright.errors import NetwrightError
from netwright.pruning import MaskState, Pruned, Sparse, Sparsity, load, prune, prune_onnx, sparsify
from netwright.pruning import save_pruned as save
from netwright.quantization import export_onnx as export
from netwright.quantization import quantize_onnx as quantize
from netwright.shaping import Front, read_front, shape
from netwright.structure import Budget, IndexMap, Inputs, Structure, permute, trace, widen
from netwright.structure.onnx import OnnxNetwork, read_onnx
from netwright.supernets import Accuracy, Elastic, Latency, Macs, Params, elastic, search

__version__ = "0.1.0"

__all__ = [
    "Accuracy",
    "Budget",
    "Elastic",
    "Front",
    "IndexMap",
    "Inputs",
    "Latency",
    "Macs",
    "MaskState",
    "NetwrightError",
    "OnnxNetwork",
    "Params",
    "Pruned",
    "Sparse",
    "Sparsity",
    "Structure",
    "__version__",
    "data",
    "elastic",
    "export",
    "load",
    "metrics",
    "models",
    "permute",
    "prune",
    "prune_onnx",
    "quantize",
    "read_front",
    "read_onnx",
    "save",
    "search",
    "shape",
    "sparsify",
    "trace",
    "train",
    "widen",
]
