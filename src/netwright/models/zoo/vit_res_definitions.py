"""Stages of the published ViT-Res networks, and the notation of the authors' repository.

Y.-L. Liao, S. Karaman and V. Sze, Searching for Efficient Multi-Stage Vision Transformers, 2021
(arXiv:2109.00642).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from netwright.errors import ModelError

#: Kinds of entries in the authors' notation.
_EMBEDDINGS, _BLOCK, _HEAD, _REDUCTION = (0, 4, 5), 1, 2, 3


@dataclass(frozen=True)
class VitStage:
    """Blocks of one width.

    Args:
        width: Features of a token.
        head_dim: Features of a head.
        heads: Of every block.
        hidden: Features inside the perceptron of every block.

    Raises:
        ModelError: if heads and hidden widths are not of as many blocks.
    """

    width: int
    head_dim: int
    heads: tuple[int, ...]
    hidden: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.heads) != len(self.hidden):
            raise ModelError(
                f"a stage has heads for {len(self.heads)} blocks, hidden widths for {len(self.hidden)}",
                "give one of each for every block",
            )

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.heads)

    @classmethod
    def equal(cls, width: int, head_dim: int, heads: int, hidden: int, depth: int) -> VitStage:
        """A stage of equal blocks."""
        return cls(width, head_dim, (heads,) * depth, (hidden,) * depth)


NetworkDef = str | Sequence[VitStage] | Sequence[Sequence[Any]]

#: Name -> stages: the reference, the three that were found, and the largest networks of the two spaces.
VIT_RES: Mapping[str, tuple[VitStage, ...]] = {
    "reference-tiny": (
        VitStage.equal(192, 64, 3, 768, 4),
        VitStage.equal(384, 64, 6, 1536, 4),
        VitStage.equal(768, 64, 12, 3072, 4),
    ),
    "tiny": (
        VitStage(176, 32, (3, 3, 3, 4, 4), (704, 576, 640, 576, 704)),
        VitStage(352, 48, (10, 8, 8, 8, 10, 10), (1408, 1408, 1280, 1408, 1280, 1024)),
        VitStage(704, 64, (10, 10, 10, 8, 8), (2560, 1792, 2816, 2816, 2560)),
    ),
    "small": (
        VitStage(220, 32, (5, 5, 7, 5, 5, 5), (880, 880, 800, 720, 720, 720)),
        VitStage(440, 48, (10, 10, 10, 10, 12, 12), (1760, 1440, 1920, 1600, 1600, 1440)),
        VitStage(880, 64, (16, 12, 16, 12, 14), (3200, 3200, 2880, 2240, 2560)),
    ),
    "medium": (
        VitStage(240, 32, (7, 6, 7, 8, 7, 8, 6), (960, 960, 800, 960, 880, 880, 800)),
        VitStage(640, 48, (10, 14, 14, 16, 14, 16, 16), (1120, 1760, 1920, 1760, 1440, 1760, 1920)),
        VitStage(880, 64, (16, 10, 16, 12, 16, 14), (3200, 3840, 3840, 3200, 3520, 3520)),
    ),
    "largest-tiny": (
        VitStage.equal(256, 32, 6, 768, 6),
        VitStage.equal(512, 48, 12, 1536, 6),
        VitStage.equal(1024, 64, 12, 3072, 6),
    ),
    "largest-small": (
        VitStage.equal(320, 32, 8, 960, 7),
        VitStage.equal(640, 48, 16, 1920, 7),
        VitStage.equal(1280, 64, 16, 3840, 7),
    ),
}


def find_stages(network_def: NetworkDef) -> tuple[VitStage, ...]:
    """The stages of a definition.

    Args:
        network_def: A name of `VIT_RES`; stages; or entries as the authors write them: (4, width) first,
            (1, (width, heads, head_dim), (width, hidden), exists) for a block, (3, width, next width) for a
            spatial reduction, (2, width, classes) last. Blocks with ``exists`` 0 are left out.

    Raises:
        ModelError: if the name is unknown or the definition is not consistent.
    """
    if isinstance(network_def, str):
        if network_def not in VIT_RES:
            raise ModelError(
                f"there is no ViT-Res network {network_def!r}", f"choose from {', '.join(VIT_RES)}"
            )
        return VIT_RES[network_def]
    stages = [stage for stage in network_def if isinstance(stage, VitStage)]
    if len(stages) != len(network_def):
        stages = _read(network_def)  # type: ignore[arg-type]
    if not stages:
        raise ModelError("a ViT-Res network needs a stage", "give VitStage(...) at least once")
    return tuple(stages)


def _read(entries: Sequence[Any]) -> list[VitStage]:
    """Stages of a definition in the authors' notation."""
    groups: list[list[Any]] = [[]]
    try:
        if entries[0][0] not in _EMBEDDINGS or entries[-1][0] != _HEAD:
            raise ModelError(
                "a definition begins with an embedding and ends with a head", "(4, width), ..., (2, ...)"
            )
        widths = [int(entries[0][1])]
        for entry in entries[1:-1]:
            if entry[0] == _REDUCTION:
                groups.append([])
                widths.append(int(entry[2]))
            elif entry[0] == _BLOCK and entry[3]:
                groups[-1].append(entry)
        return [_stage(width, blocks) for width, blocks in zip(widths, groups, strict=True)]
    except ModelError:
        raise
    except (TypeError, IndexError, ValueError) as error:
        raise ModelError(
            f"the definition cannot be read: {error}", "give nested tuples such as those of find_stages"
        ) from error


def _stage(width: int, blocks: Sequence[Any]) -> VitStage:
    dims = {block[1][2] for block in blocks}
    if len(dims) > 1 or any(block[1][0] != width or block[2][0] != width for block in blocks):
        raise ModelError(
            f"the blocks of the stage that is {width} wide differ in width or in the width of a head",
            "let all blocks of a stage share both",
        )
    heads, hidden = tuple(block[1][1] for block in blocks), tuple(block[2][1] for block in blocks)
    return VitStage(width, dims.pop() if dims else 1, heads, hidden)
