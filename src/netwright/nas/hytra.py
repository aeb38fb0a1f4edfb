"""The HyTra space: layers of convolution or attention whose scale falls where the search lets it.

C. Li, T. Tang, G. Wang, J. Peng, B. Wang, X. Liang and X. Chang, BossNAS: Exploring Hybrid CNN-transformers
with Block-wisely Self-supervised Neural Architecture Search, ICCV 2021, section 4.2; codes of operations as
in the authors' repository.
"""

from __future__ import annotations

from collections.abc import Sequence

from netwright.errors import UsageError

#: Scale, 0 the coarsest -> codes of its operations: attention (where images are small) and convolution.
OPERATIONS: tuple[tuple[int, ...], ...] = ((0, 1), (2, 3), (4,), (5,))
#: Height and width of the images at every scale, of pictures of 224 x 224.
SIDES = (7, 14, 28, 56)


def hytra_paths(
    scales: int, layers: int = 4, *, restricted: bool = False, drop: int | None = 1
) -> list[tuple[int, ...]]:
    """All paths through one block.

    Args:
        scales: How many scales it may use, the coarsest: 1 to 4.
        layers: Of the block.
        restricted: Whether the first layer, too, is at most one scale coarser than the finest allowed; as the
            authors' lists have it.
        drop: Most scales that a layer is coarser than the one before; None for any number.

    Returns:
        Codes of operations, one a layer; a layer is never finer than the one before.

    Raises:
        UsageError: if there are no such scales or layers.
    """
    if not 1 <= scales <= len(OPERATIONS) or layers < 1:
        raise UsageError(f"{layers} layers at {scales} scales make no block", "give 1 to 4 scales")
    most = scales if drop is None else drop
    first = range(max(scales - 2, 0), scales) if restricted else range(scales)
    found: list[tuple[tuple[int, ...], int]] = [((op,), s) for s in first for op in OPERATIONS[s]]
    for _ in range(layers - 1):
        found = [
            ((*path, op), lower)
            for path, scale in found
            for lower in range(max(scale - most, 0), scale + 1)
            for op in OPERATIONS[lower]
        ]
    return sorted(path for path, _ in found)


def scale_of(operation: int) -> int:
    """The scale of an operation, 0 the coarsest.

    Args:
        operation: Its code.

    Raises:
        UsageError: if there is no such code.
    """
    for scale, codes in enumerate(OPERATIONS):
        if operation in codes:
            return scale
    raise UsageError(f"there is no operation {operation}", "codes are 0 to 5")


def scales_after(path: Sequence[int]) -> int:
    """How many scales the block behind a path may use: its first layer may stay where the path ended.

    Args:
        path: Codes of operations.
    """
    return scale_of(path[-1]) + 1


def letters(path: Sequence[int]) -> str:
    """A path as a `models.bossnet` encoding has it: "a" for attention, "c" for a convolution.

    Args:
        path: Codes of operations.
    """
    return "".join("a" if code in (0, 2) else "c" for code in path)
