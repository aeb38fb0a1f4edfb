"""Data of one's own: a function without arguments that returns train, validation and test data."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch.utils.data import TensorDataset


def loaders() -> tuple[TensorDataset, TensorDataset, TensorDataset]:
    """Handwritten digits; x: (N, 1, 8, 8) float32, y: (N,) int64."""
    digits = load_digits()
    x = torch.from_numpy(digits.images.astype(np.float32)).unsqueeze(1) / 16
    y = torch.from_numpy(digits.target.astype(np.int64))
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    train, val, test = order[:1200], order[1200:1500], order[1500:]
    return TensorDataset(x[train], y[train]), TensorDataset(x[val], y[val]), TensorDataset(x[test], y[test])
