"""Squeeze and excitation: a factor for every channel from the means of all.

J. Hu, L. Shen and G. Sun, Squeeze-and-Excitation Networks, CVPR 2018.
"""

from __future__ import annotations

from torch import Tensor, nn


class SqueezeExcitation(nn.Module):
    """Two 1x1 convolutions on the means over the image give a factor for every channel.

    Args:
        channels: That are scaled.
        squeezed: Channels between the two convolutions.
        gate: What makes factors of the answers; a sigmoid where None.
    """

    def __init__(self, channels: int, squeezed: int, gate: nn.Module | None = None) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.act = nn.ReLU()
        self.expand = nn.Conv2d(squeezed, channels, 1)
        self.gate = nn.Sigmoid() if gate is None else gate

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W), the same back."""
        return x * self.gate(self.expand(self.act(self.reduce(x.mean((2, 3), keepdim=True)))))
