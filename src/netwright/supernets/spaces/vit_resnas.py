"""The search spaces of ViT-ResNAS as supernets.

Y.-L. Liao, S. Karaman and V. Sze, Searching for Efficient Multi-Stage Vision Transformers, 2021
(arXiv:2109.00642), section 3.3, and the configurations of the authors' repository (yilunliao/vit-search).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from netwright.errors import UsageError
from netwright.models import VIT_RES, VitStage, vit_res
from netwright.nas.choice import Choice
from netwright.supernets.network.elastic import Elastic
from netwright.supernets.network.making import elastic


@dataclass(frozen=True)
class VitStageSpace:
    """What can be chosen of a stage.

    Args:
        largest: The stage with everything, its blocks all alike.
        widths: Features of a token.
        heads: Of every block by itself.
        hidden: Features inside the perceptron of every block by itself.
        removable: Positions of the blocks that may be left out.
    """

    largest: VitStage
    widths: tuple[int, ...]
    heads: tuple[int, ...]
    hidden: tuple[int, ...]
    removable: tuple[int, ...] = (1, 3, 5)

    @property
    def raw(self) -> int:
        """Number of choices, those inside a block that is left out included."""
        inner = len(self.heads) * len(self.hidden)
        return int(len(self.widths) * inner**self.largest.depth * 2 ** len(self.removable))


VitSpace = Sequence[VitStageSpace]
#: Dims in the order in which a choice that costs too much is shrunk (``order`` of `SearchSpace.constrained`):
#: heads and hidden widths, then embeddings and blocks.
SHRINK_ORDER = (("width:*.attn.qkv", "width:*.mlp.fc1"), ("width:*", "block:*"))


def _space(name: str, widths: Sequence[Sequence[int]], heads: Sequence[Sequence[int]], step: int) -> VitSpace:
    stages = []
    for i, stage in enumerate(VIT_RES[name]):
        most = stage.hidden[0]
        hidden = tuple(range(most, most // 2 - 1, -step * 2**i))
        stages.append(VitStageSpace(stage, tuple(widths[i]), tuple(heads[i]), hidden))
    return tuple(stages)


#: The two spaces; that of Small is searched for Medium as well.
VIT_SPACES: Mapping[str, VitSpace] = {
    "tiny": _space(
        "largest-tiny",
        ((256, 224, 192, 176, 160), (512, 448, 384, 352, 320), (1024, 896, 768, 704, 640)),
        ((6, 5, 4, 3), (12, 10, 8, 6), (12, 10, 8, 6)),
        64,
    ),
    "small": _space(
        "largest-small",
        ((320, 280, 240, 220, 200), (640, 560, 480, 440, 400), (1280, 1120, 960, 880, 800)),
        ((8, 7, 6, 5), (16, 14, 12, 10), (16, 14, 12, 10)),
        80,
    ),
}


def raw_size(space: str | VitSpace) -> int:
    """Number of choices, those inside blocks that are left out included (`Elastic.space.size` merges them).

    Args:
        space: A name of `VIT_SPACES`, or the choices of every stage.
    """
    return math.prod(stage.raw for stage in _find(space))


def vit_resnas(space: str | VitSpace = "tiny", device: str | torch.device = "cpu", **options: Any) -> Elastic:
    """The largest network of a space as a supernet, freshly drawn.

    Embedding widths of stages are independent of one another; reductions fill their shortcut up with zeros.

    Args:
        space: A name of `VIT_SPACES`, or the choices of every stage.
        device: Where its weights are; on "meta" there are none, but choices and costs.
        options: Of `models.vit_res`.

    Raises:
        UsageError: if the space is not known.
    """
    stages = _find(space)
    with torch.device(device):
        model = vit_res([stage.largest for stage in stages], **options)
    stem = "stem.proj" if options.get("stem", "conv") == "conv" else "stem"
    width: dict[str, Sequence[int]] = {}
    heads: dict[str, Sequence[int]] = {}
    for number, stage in enumerate(stages):
        width[_embedding(stages, number) if number else stem] = stage.widths
        for position in range(stage.largest.depth):
            path = _block(stages, number, position)
            heads[f"{path}.attn.qkv"] = stage.heads
            width[f"{path}.mlp.fc1"] = stage.hidden
    removable = [_block(stages, n, p) for n, stage in enumerate(stages) for p in stage.removable]
    side = model.image_size
    example = torch.zeros(2, int(options.get("in_channels", 3)), side, side, device=model.head.weight.device)
    return elastic(model, example, width=width, heads=heads, depth=removable or None)


def choice_of(sup: Elastic, space: str | VitSpace, definition: Sequence[VitStage]) -> Choice:
    """The choice that a network is, its blocks in order in those that are not left out.

    Args:
        sup: Made by `vit_resnas`.
        space: Of the supernet.
        definition: The network's stages; the last removable blocks are left out where it has fewer.

    Raises:
        UsageError: if the network is not in the space.
    """
    stages = _find(space)
    stem = next((n for n in ("stem.proj", "stem") if f"width:{n}" in sup.blueprint.full), "stem")
    chosen: dict[str, Any] = {}
    for number, (stage, wanted) in enumerate(zip(stages, definition, strict=True)):
        missing = stage.largest.depth - wanted.depth
        if not 0 <= missing <= len(stage.removable):
            raise UsageError(f"stage {number} cannot have {wanted.depth} blocks", "see VIT_SPACES")
        gone = set(stage.removable[len(stage.removable) - missing :])
        chosen[f"width:{_embedding(stages, number) if number else stem}"] = wanted.width
        left = iter(zip(wanted.heads, wanted.hidden, strict=True))
        for position in range(stage.largest.depth):
            path = _block(stages, number, position)
            if position in stage.removable:
                chosen[f"block:{path}"] = position not in gone
            if position not in gone:
                count, hidden = next(left)
                chosen[f"width:{path}.attn.qkv"] = count
                chosen[f"width:{path}.mlp.fc1"] = hidden
    return sup.complete(chosen)


def _find(space: str | VitSpace) -> VitSpace:
    if isinstance(space, str):
        if space not in VIT_SPACES:
            raise UsageError(f"there is no ViT-Res space {space!r}", f"choose from {', '.join(VIT_SPACES)}")
        return VIT_SPACES[space]
    return space


def _first(stages: VitSpace, number: int) -> int:
    """Position in the network's sequence of the first block of a stage; reductions stand between stages."""
    return sum(stage.largest.depth + 1 for stage in stages[:number])


def _block(stages: VitSpace, number: int, position: int) -> str:
    return f"blocks.{_first(stages, number) + position}"


def _embedding(stages: VitSpace, number: int) -> str:
    """Name of the axis of a stage's tokens, for all stages but the first."""
    return f"blocks.{_first(stages, number) - 1}.conv"
