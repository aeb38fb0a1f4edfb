"""A transformer with windows that makes images larger.

J. Liang, J. Cao, G. Sun, K. Zhang, L. Van Gool and R. Timofte, SwinIR: Image Restoration Using Swin
Transformer, ICCV Workshops 2021.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from netwright.models.zoo.super_resolution import Recoloured


class _Attention(nn.Module):
    """Attention within windows, with a learned bias for every relative position."""

    places: Tensor

    def __init__(self, width: int, window: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.register_buffer("places", _relative(window), persistent=False)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(windows, N, width), with (windows of an image, N, N) added to the attention where given."""
        count, tokens, width = x.shape
        qkv = self.qkv(x).reshape(count, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # 3 x (windows, heads, N, width / heads)
        bias = self.relative_position_bias_table[self.places.flatten()]
        bias = bias.reshape(tokens, tokens, self.heads).permute(2, 0, 1)
        weights = (q * self.scale) @ k.transpose(-2, -1) + bias
        if mask is not None:
            weights = weights.unflatten(0, (-1, len(mask))) + mask[:, None]
            weights = weights.flatten(0, 1)
        y = weights.softmax(dim=-1) @ v
        return self.proj(y.transpose(1, 2).reshape(count, tokens, width))


class _Layer(nn.Module):
    """One transformer block on windows, which every second one shifts by half."""

    def __init__(self, width: int, heads: int, window: int, shift: int, ratio: float) -> None:
        super().__init__()
        self.window, self.shift = window, shift
        self.norm1 = nn.LayerNorm(width)
        self.attn = _Attention(width, window, heads)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, int(width * ratio))
        self.act = nn.GELU()
        self.fc2 = nn.Linear(int(width * ratio), width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, width), H and W multiples of the window."""
        _, height, width, _ = x.shape
        y = self.norm1(x)
        if self.shift:
            y = y.roll((-self.shift, -self.shift), dims=(1, 2))
        mask = _shifted(height, width, self.window, self.shift, x) if self.shift else None
        y = _merged(self.attn(_windows(y, self.window), mask), self.window, height, width)
        if self.shift:
            y = y.roll((self.shift, self.shift), dims=(1, 2))
        x = x + y
        return x + self.fc2(self.act(self.fc1(self.norm2(x))))


class _Stage(nn.Module):
    """Blocks and a convolution around a shortcut."""

    def __init__(self, width: int, depth: int, heads: int, window: int, ratio: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(_Layer(width, heads, window, window // 2 if k % 2 else 0, ratio) for k in range(depth))
        )
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, width)."""
        return x + self.conv(self.layers(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class SwinIR(Recoloured):
    """SwinIR with one convolution and one pixel shuffle at the end; the defaults are SwinIR-Light.

    Args:
        scale: How many times larger the answer is.
        in_channels: Of the images.
        width: Features of a token, a multiple of the heads.
        depths: Blocks of every stage.
        heads: Of the attention.
        window: Height and width of the windows; images are mirrored up to a multiple.
        ratio: Hidden width of the blocks by `width`.
    """

    def __init__(
        self,
        scale: int = 2,
        in_channels: int = 3,
        width: int = 60,
        depths: tuple[int, ...] = (6, 6, 6, 6),
        heads: int = 6,
        window: int = 8,
        ratio: float = 2.0,
    ) -> None:
        super().__init__(in_channels)
        self.scale, self.window = scale, window
        self.head = nn.Conv2d(in_channels, width, 3, padding=1)
        self.norm1 = nn.LayerNorm(width)
        self.stages = nn.Sequential(*(_Stage(width, depth, heads, window, ratio) for depth in depths))
        self.norm2 = nn.LayerNorm(width)
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.upsample = nn.Sequential(
            nn.Conv2d(width, in_channels * scale**2, 3, padding=1), nn.PixelShuffle(scale)
        )
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def enlarge(self, x: Tensor) -> Tensor:
        """See `Recoloured.enlarge`."""
        height, width = x.shape[-2:]
        more = (-height % self.window, -width % self.window)
        if any(more):
            x = F.pad(x, (0, more[1], 0, more[0]), mode="reflect")
        x = self.head(x)
        y = self.norm2(self.stages(self.norm1(x.permute(0, 2, 3, 1)))).permute(0, 3, 1, 2)
        y = self.upsample(x + self.conv(y))
        return y[..., : height * self.scale, : width * self.scale]


def _windows(x: Tensor, window: int) -> Tensor:
    """(B, H, W, C) -> (B windows, window^2, C)."""
    x = x.unflatten(2, (-1, window)).unflatten(1, (-1, window))  # (B, H/w, w, W/w, w, C)
    return x.transpose(2, 3).flatten(3, 4).flatten(0, 2)


def _merged(x: Tensor, window: int, height: int, width: int) -> Tensor:
    """The inverse of `_windows`."""
    x = x.unflatten(0, (-1, height // window, width // window)).unflatten(3, (window, window))
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def _relative(window: int) -> Tensor:
    """Row of the table for every pair of positions of a window, (N, N)."""
    at = torch.cartesian_prod(torch.arange(window), torch.arange(window))
    apart = at[:, None] - at[None] + window - 1
    return apart[..., 0] * (2 * window - 1) + apart[..., 1]


def _shifted(height: int, width: int, window: int, shift: int, like: Tensor) -> Tensor:
    """What keeps apart positions that only the shift brought into one window, (windows, N, N)."""

    def part(size: int) -> Tensor:
        at = torch.arange(size, device=like.device)
        return (at >= size - window).long() + (at >= size - shift).long()

    places = 3 * part(height)[:, None] + part(width)
    numbers = _windows(places[None, :, :, None], window)[..., 0]  # (windows, N)
    return (numbers[:, None] != numbers[:, :, None]).to(like.dtype) * -100.0
