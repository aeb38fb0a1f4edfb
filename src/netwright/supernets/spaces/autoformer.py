"""Search spaces of the literature as supernets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from netwright.errors import UsageError
from netwright.models.zoo.attention import TransformerBlock, draw_transformer
from netwright.nas.choice import Choice
from netwright.supernets.network.elastic import Elastic
from netwright.supernets.network.making import elastic


@dataclass(frozen=True)
class AutoFormerSpace:
    """What is chosen from (M. Chen, H. Peng, J. Fu and H. Ling, AutoFormer, ICCV 2021, table 1).

    Attributes:
        widths: Features of a token.
        heads: Of every block, 64 features each.
        ratios: Features inside the perceptron of every block by the width.
        depths: Numbers of blocks.
    """

    widths: tuple[int, ...]
    heads: tuple[int, ...]
    ratios: tuple[float, ...]
    depths: tuple[int, ...]


#: Name -> space.
AUTOFORMER = {
    "tiny": AutoFormerSpace((192, 216, 240), (3, 4), (3.5, 4.0), (12, 13, 14)),
    "small": AutoFormerSpace((320, 384, 448), (5, 6, 7), (3.0, 3.5, 4.0), (12, 13, 14)),
    "base": AutoFormerSpace((528, 576, 624), (9, 10), (3.0, 3.5, 4.0), (14, 15, 16)),
}
_HEAD_DIM = 64


class VisionTransformer(nn.Module):
    """Patches, a class token, positions, blocks, a last norm, a linear head; without relative positions.

    Args:
        width: Features of a token.
        heads: Of every block.
        hidden: Features inside the perceptron of every block.
        head_dim: Features of a head.
        image: Side of the images.
        patch: Side of the patches.
        num_classes: Classes of the answer.
        in_channels: Channels of the images.
    """

    def __init__(
        self,
        width: int,
        heads: Sequence[int],
        hidden: Sequence[int],
        head_dim: int = _HEAD_DIM,
        image: int = 224,
        patch: int = 16,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.patches = nn.Conv2d(in_channels, width, patch, patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(torch.zeros(1, (image // patch) ** 2 + 1, width))
        blocks = [TransformerBlock(width, n, head_dim, m) for n, m in zip(heads, hidden, strict=True)]
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, num_classes)
        draw_transformer(self)
        nn.init.trunc_normal_(self.token, std=0.02)
        nn.init.trunc_normal_(self.position, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, num_classes)."""
        y = self.patches(x).flatten(2).transpose(1, 2)
        y = torch.cat([self.token.expand(len(y), -1, -1), y], dim=1) + self.position
        return self.head(self.norm(self.blocks(y))[:, 0])


def autoformer(name: str = "tiny", **options: Any) -> Elastic:
    """The supernet of an AutoFormer space: a width, a depth, and heads and hidden features of every block.

    The hidden features of a block are chosen by themselves, from all products of a width and a ratio; what
    AutoFormer's space allows is what `autoformer_choice` makes.

    Args:
        name: A name of `AUTOFORMER`.
        options: Others of `VisionTransformer`: ``image``, ``patch``, ``num_classes``, ``in_channels``.

    Raises:
        UsageError: if there is no such space.
    """
    space = _space(name)
    width, depth = max(space.widths), max(space.depths)
    heads, hidden = [max(space.heads)] * depth, [int(width * max(space.ratios))] * depth
    model = VisionTransformer(width, heads, hidden, **options)
    side, channels = options.get("image", 224), options.get("in_channels", 3)
    inner = sorted({int(w * r) for w in space.widths for r in space.ratios})
    return elastic(
        model,
        torch.zeros(1, channels, side, side),
        width={"blocks.*.mlp.fc1": inner, "*": space.widths},
        heads=space.heads,
        depth=space.depths,
    )


def autoformer_choice(
    sup: Elastic, width: int, depth: int, heads: Sequence[int], ratios: Sequence[float]
) -> Choice:
    """The choice of an architecture as AutoFormer writes it.

    Args:
        sup: What `autoformer` gave.
        width: Features of a token.
        depth: Number of blocks.
        heads: Of each block, `depth` of them.
        ratios: Likewise, features inside the perceptron by `width`.

    Raises:
        UsageError: if there are not as many heads and ratios as blocks.
    """
    if len(heads) != depth or len(ratios) != depth:
        raise UsageError(
            f"{depth} blocks have {len(heads)} heads and {len(ratios)} ratios", "give one a block"
        )
    chosen: dict[str, Any] = {}
    for dim in sup.space.dims:
        parts = dim.name.split(".")
        block = next((int(p) for p in parts if p.isdigit()), None)
        if dim.name.startswith("depth:"):
            chosen[dim.name] = depth
        elif parts[-2:] == ["attn", "qkv"]:
            chosen[dim.name] = heads[block] if block is not None and block < depth else max(dim.each())
        elif parts[-2:] == ["mlp", "fc1"]:
            inner = int(width * ratios[block]) if block is not None and block < depth else max(dim.each())
            chosen[dim.name] = inner
        else:
            chosen[dim.name] = width
    return sup.complete(chosen)


def _space(name: str) -> AutoFormerSpace:
    if name not in AUTOFORMER:
        raise UsageError(f"there is no AutoFormer space {name!r}", f"choose from {', '.join(AUTOFORMER)}")
    return AUTOFORMER[name]
