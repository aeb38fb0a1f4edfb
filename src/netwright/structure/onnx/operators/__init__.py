"""ONNX operators by PyTorch's: one short function each, found by name."""

from netwright.structure.onnx.operators import (
    attention,
    classical,
    elementwise,
    layers,
    move,
    recurrent,
    reduce,
    resize,
)
from netwright.structure.onnx.operators.registry import find_operator, known_operators, operator

__all__ = [
    "attention",
    "classical",
    "elementwise",
    "find_operator",
    "known_operators",
    "layers",
    "move",
    "operator",
    "recurrent",
    "reduce",
    "resize",
]
