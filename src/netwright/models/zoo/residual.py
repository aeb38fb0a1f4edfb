"""A residual network with kernels of any size, of which every block but a stage's first can be skipped."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from netwright.errors import ModelError


class ResidualBlock(nn.Module):
    """Two convolutions of one width, added to what is given.

    Args:
        width: Channels.
        kernel: Side of the kernels, odd.
    """

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, kernel, padding=kernel // 2, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, kernel, padding=kernel // 2, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) of non-negative values to the same."""
        return self.act(x + self.norm2(self.conv2(self.act(self.norm1(self.conv1(x))))))


class Residual(nn.Module):
    """Stages of residual blocks, each begun by a convolution that halves the image (the first does not).

    Args:
        widths: Channels of every stage.
        depth: Blocks of a stage.
        kernel: Side of the blocks' kernels, odd.
        in_channels: Of the images.
        num_classes: Of the answer.

    Raises:
        ModelError: if a number is none.
    """

    def __init__(
        self,
        widths: Sequence[int] = (16, 32, 64),
        depth: int = 3,
        kernel: int = 5,
        in_channels: int = 1,
        num_classes: int = 10,
    ) -> None:
        super().__init__()
        if not widths or min(widths) < 1 or depth < 0 or kernel < 1 or kernel % 2 == 0:
            raise ModelError("widths, depth and kernel must be positive, the kernel odd")
        stages, before = [], in_channels
        for number, width in enumerate(widths):
            step = nn.Conv2d(before, width, 3, stride=1 if number == 0 else 2, padding=1, bias=False)
            parts: list[nn.Module] = [nn.Sequential(step, nn.BatchNorm2d(width), nn.ReLU())]
            parts += [ResidualBlock(width, kernel) for _ in range(depth)]
            stages.append(nn.Sequential(*parts))
            before = width
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(before, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to logits (B, num_classes)."""
        return self.head(self.pool(self.stages(x)).flatten(1))  # type: ignore[no-any-return]

    def zero_last_gamma(self) -> Residual:
        """Let every block begin as the identity: the scale of its last normalisation is zero."""
        for module in self.modules():
            if isinstance(module, ResidualBlock):
                nn.init.zeros_(module.norm2.weight)
        return self
