"""Vision transformers in three stages whose spatial reductions keep a residual path.

Y.-L. Liao, S. Karaman and V. Sze, Searching for Efficient Multi-Stage Vision Transformers, 2021
(arXiv:2109.00642): the architecture and its residual spatial reduction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from netwright.errors import ModelError
from netwright.models.zoo.attention import TransformerBlock, draw_transformer
from netwright.models.zoo.drop_path import rising_rates
from netwright.models.zoo.vit_res_definitions import NetworkDef, VitStage, find_stages


class ConvStem(nn.Module):
    """Images to tokens: three 3x3 convolutions, the last two around a shortcut, then one for each patch.

    Args:
        in_channels: Of the images.
        width: Features of a token.
        patch: Side of a patch in pixels, even: the first convolution halves the image.
        middle: Channels of the 3x3 convolutions.
    """

    def __init__(self, in_channels: int, width: int, patch: int, middle: int) -> None:
        super().__init__()
        if patch % 2:
            raise ModelError(
                f"a convolutional stem cannot make patches of {patch} pixels", "give an even side"
            )
        self.conv1 = _conv(in_channels, middle, 2)
        self.conv2 = _conv(middle, middle, 1)
        self.conv3 = _conv(middle, middle, 1)
        self.proj = nn.Conv2d(middle, width, patch // 2, patch // 2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, width, H / patch, W / patch)."""
        x = self.conv1(x)
        return self.proj(x + self.conv3(self.conv2(x)))


class SpatialReduction(nn.Module):
    """Halve the grid of tokens and widen them; the means of 2x2 tokens go around the convolution.

    Args:
        inputs: Features of a token that comes in.
        outputs: Features of one that goes out, not fewer.
        grid: Height and width of the grid that comes in, even.
        residual: Whether anything goes around.
    """

    def __init__(self, inputs: int, outputs: int, grid: tuple[int, int], residual: bool = True) -> None:
        super().__init__()
        if outputs < inputs:
            raise ModelError(f"{inputs} features are not reduced to {outputs}", "let widths never fall")
        if grid[0] % 2 or grid[1] % 2:
            raise ModelError(
                f"a grid of {grid[0]}x{grid[1]} tokens has no half",
                "give image sides of 4 patches or multiples",
            )
        self.grid, self.residual = grid, residual
        self.norm = nn.LayerNorm(inputs, eps=1e-6)
        self.conv = nn.Conv2d(inputs, outputs, 3, 2, 1)
        self.token = nn.Linear(inputs, outputs)
        self.pos_embed = nn.Parameter(torch.zeros(1, grid[0] * grid[1] // 4, outputs))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1 + N, inputs) -> (B, 1 + N / 4, outputs), the class token first."""
        y = self.norm(x)
        patches = self.conv(self._image(y)).flatten(2).transpose(1, 2) + self.pos_embed
        y = torch.cat([self.token(y[:, :1]), patches], dim=1)
        if not self.residual:
            return y
        pooled = F.avg_pool2d(self._image(x), 2).flatten(2).transpose(1, 2)
        around = torch.cat([x[:, :1], pooled], dim=1)
        more = y.new_zeros(1, 1, 1).expand(*y.shape[:2], max(0, y.shape[-1] - around.shape[-1]))
        return y + torch.cat([around, more], dim=-1)

    def _image(self, x: Tensor) -> Tensor:
        return x[:, 1:].transpose(1, 2).unflatten(2, self.grid)


class VitRes(nn.Module):
    """A vision transformer of several stages, with residual spatial reduction between them.

    While training a network with a patch head, the answer is a pair: of the class token (B, classes), and of
    every patch of the last stage (B, N, classes), for token labelling.

    Args:
        stages: Widths, heads and hidden widths.
        num_classes: Classes of the answer.
        in_channels: Channels of the images.
        image_size: Height and width of the images in pixels.
        patch: Side of a patch in pixels; None is the 14 of the paper for image sizes that are multiples of
            56, else what makes 16 x 16 patches.
        stem: "conv", or "patch" for one linear projection of every patch.
        stem_width: Channels of the convolutional stem.
        patch_head: Whether patches are classified as well while training.
        residual: Whether spatial reductions have their residual path.
        drop_path: Rate of stochastic depth of the last block, rising from 0.
        dropout: Of the tokens that come in.

    Raises:
        ModelError: if the image, the patch and the number of stages do not fit, or widths fall.
    """

    def __init__(
        self,
        stages: Sequence[VitStage],
        num_classes: int = 1000,
        in_channels: int = 3,
        image_size: int = 224,
        patch: int | None = None,
        stem: str = "conv",
        stem_width: int = 24,
        patch_head: bool = False,
        residual: bool = True,
        drop_path: float = 0.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if stem not in ("conv", "patch"):
            raise ModelError(f"there is no stem {stem!r}", "choose from conv, patch")
        if patch is None:
            patch = 14 if image_size % 56 == 0 else max(1, image_size // 16)
        if image_size % patch:
            raise ModelError(
                f"images of {image_size} pixels are not cut into patches of {patch}", "give a multiple"
            )
        side, width = image_size // patch, stages[0].width
        self.image_size = image_size
        self.stem = (
            ConvStem(in_channels, width, patch, stem_width)
            if stem == "conv"
            else nn.Conv2d(in_channels, width, patch, patch)
        )
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + side**2, width))
        self.dropout = nn.Dropout(dropout)
        rates = iter(rising_rates(drop_path, sum(stage.depth for stage in stages)))
        layers: list[nn.Module] = []
        for number, stage in enumerate(stages):
            if number:
                layers.append(SpatialReduction(width, stage.width, (side, side), residual))
                side, width = side // 2, stage.width
            for heads, hidden in zip(stage.heads, stage.hidden, strict=True):
                layers.append(TransformerBlock(width, heads, stage.head_dim, hidden, drop_path=next(rates)))
        self.blocks = nn.Sequential(*layers)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, num_classes)
        self.patch_head = nn.Linear(width, num_classes) if patch_head else None
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.trunc_normal_(self.token, std=0.02)
        draw_transformer(self)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """(B, C, H, W) -> (B, num_classes); see the class for training with a patch head."""
        x = self.stem(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.pos_embed
        x = self.blocks(self.dropout(x))
        if self.patch_head is None or not self.training:
            return self.head(self.norm(x[:, 0]))
        x = self.norm(x)
        return self.head(x[:, 0]), self.patch_head(x[:, 1:])


def vit_res(
    network_def: NetworkDef = "reference-tiny",
    patch_head: bool = False,
    num_classes: int = 1000,
    in_channels: int = 3,
    image_size: int = 224,
    **options: Any,
) -> VitRes:
    """Build a ViT-Res network.

    Args:
        network_def: A name (see `VIT_RES`), stages, or a definition in the notation of the authors'
            repository: nested tuples (see `find_stages`).
        patch_head: Whether patches are classified as well while training.
        num_classes: Classes of the answer.
        in_channels: Channels of the images.
        image_size: Height and width of the images in pixels.
        options: Others of `VitRes`: ``patch``, ``stem``, ``stem_width``, ``residual``, ``drop_path``,
            ``dropout``.

    Raises:
        ModelError: if the definition is not known or not consistent, or does not fit the images.
    """
    return VitRes(
        find_stages(network_def), num_classes, in_channels, image_size, patch_head=patch_head, **options
    )


def _conv(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )
