"""A small supernet of cells and examples for it, that several tests use."""

from __future__ import annotations

import torch

from netwright.data import Part, Splits
from netwright.papers.supernet_cells import cell_supernet
from netwright.supernets import Elastic


def tiny(count: int = 40, side: int = 6) -> Splits:
    """Noise in four classes."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 1, side, side, generator=generator)
    part = Part.from_tensors(x, torch.arange(count) % 4)
    return Splits("tiny", part, part, part, tuple("0123"))


def small_cells() -> Elastic:
    """Cells of four channels."""
    return cell_supernet(0, width=4, side=6, num_classes=4)
