"""Operators of classical machine learning that stand before a network: scaling of features."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from netwright.structure.onnx.operators.registry import lift, operator
from netwright.structure.onnx.program import Step


@operator("ai.onnx.ml.Scaler")
def scaler(step: Step, x: Tensor) -> Tensor:
    """`(x - offset) scale`, feature by feature."""
    wide = x if x.is_floating_point() else x.float()
    offset, scale = (np.array(step.get(n) or [d], np.float32) for n, d in (("offset", 0.0), ("scale", 1.0)))
    return (wide - lift(offset, wide)) * lift(scale, wide)


@operator("ai.onnx.ml.Normalizer")
def normalizer(step: Step, x: Tensor) -> Tensor:
    """Every example divided by its norm."""
    wide = x if x.is_floating_point() else x.float()
    kind = step.get("norm", "MAX")
    order = {"MAX": float("inf"), "L1": 1, "L2": 2}[kind]
    return wide / torch.linalg.vector_norm(wide, order, (-1,), keepdim=True).clamp(min=1e-12)
