"""Repairs: how the weights that stay make up for those that went, without any training.

"none" leaves the slices as they are; "bn" recomputes the statistics of batch norms; "absorb" moves what
removed inputs gave on average into biases and statistics; "obs" refits every operator to the dense network's
outputs, in the least-squares sense, and corrects the statistics of batch norms; "auto" is "obs" where there
are data and "none" where there are not.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from netwright.errors import UsageError
from netwright.pruning.removal.update import update_
from netwright.pruning.statistics.batch_norm import recalibrate_
from netwright.pruning.statistics.examples import Examples
from netwright.structure import Structure
from netwright.structure.onnx import OnnxNetwork

REPAIRS = ("none", "bn", "absorb", "obs", "auto")


def list_repairs() -> list[str]:
    """Names of all repairs."""
    return list(REPAIRS)


def check_repair(repair: str, examples: Examples) -> str:
    """The repair that will be made.

    Args:
        repair: A name.
        examples: The data.

    Returns:
        The name; "auto" is resolved.

    Raises:
        UsageError: if the name is unknown or its data are missing.
    """
    if repair not in REPAIRS:
        raise UsageError(f"there is no repair {repair!r}", f"choose from {', '.join(REPAIRS)}")
    if repair == "auto":
        return "obs" if examples else "none"
    if repair != "none" and not examples:
        raise UsageError(
            f"repair {repair!r} looks at data", "give data= a few hundred examples, without labels"
        )
    return repair


def repair_(
    small: nn.Module,
    repair: str,
    net: Structure,
    model: nn.Module,
    keep: Tensor,
    examples: Examples,
    adopted: Sequence[str] = (),
) -> list[str]:
    """Repair a network that has just been cut, in place.

    Args:
        small: The small network.
        repair: "none", "bn" or "obs".
        net: The dense network's structure.
        model: The dense network.
        keep: (count,) bool, what stayed.
        examples: The data.
        adopted: Attention modules that the surgery gave a free inner width.

    Returns:
        What a reader should know, one line each.

    Raises:
        UsageError: if the batch norms of an ONNX graph are to be recomputed.
    """
    notes: list[str] = []
    if repair == "bn" and isinstance(small, OnnxNetwork):
        raise UsageError(
            "the batch norms of an ONNX graph keep their statistics", 'take repair="obs" or "none"'
        )
    if repair == "obs":
        notes += update_(small, net, model, keep, examples, adopted)
    if repair == "absorb":
        notes += update_(small, net, model, keep, examples, adopted, refit=False)
    if repair == "bn":
        count = recalibrate_(small, examples)
        if count:
            notes.append(f"statistics of {count} batch norms were recomputed")
        else:
            notes.append("the network has no batch norm, nothing was recomputed")
    return notes
