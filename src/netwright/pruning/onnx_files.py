"""The verb on ONNX files: a graph and a budget in; a smaller graph, that runs anywhere, out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netwright.errors import StructureError, UsageError
from netwright.pruning.importances.importance import Importance
from netwright.pruning.removal.channels import remove_channels
from netwright.pruning.removal.result import Pruned
from netwright.structure import Budget
from netwright.structure.onnx import OnnxNetwork, read_onnx
from netwright.structure.onnx.checking import check_file

if TYPE_CHECKING:
    from onnx import ModelProto

#: Largest relative difference, in ONNX Runtime and single precision, from the masked dense network.
_TOLERANCE = 1e-3


def prune_onnx(
    source: str | os.PathLike[str] | bytes | ModelProto | OnnxNetwork,
    budget: Budget | str | float,
    output: str | os.PathLike[str] | None = None,
    *,
    example: Any = None,
    input_shape: Sequence[int] | None = None,
    importance: str | Importance = "magnitude",
    allocation: str = "global",
    repair: str = "auto",
    data: Any = None,
    seed: int = 0,
    exclude: Iterable[str] = (),
    round_to: int | None = None,
    heads: str = "auto",
    check: bool = False,
) -> Pruned:
    """Remove the least important channels, heads and features of an ONNX network until it fits a budget.

    Args:
        source: A file, its bytes, an `onnx.ModelProto`, or what `netwright.structure.onnx.read_onnx` made.
        budget: As in `prune`.
        output: The file to write; nothing is written when None (``.model.save(path)`` does).
        example: Inputs to record the network with; None makes some of the sizes that the file states.
        input_shape: Sizes of one example of the first input, without the batch, where the file leaves them
            open.
        importance: As in `prune`.
        allocation: As in `prune`.
        repair: As in `prune`, but for "bn": a graph's batch norms keep their statistics.
        data: As in `prune`.
        seed: As in `prune`.
        exclude: Names of initializers, or patterns, that are left alone.
        round_to: As in `prune`.
        heads: As in `prune`.
        check: Also compare the smaller graph, before it is repaired, with the masked dense one in float64;
            and without data, when nothing is repaired, what ONNX Runtime makes of it.

    Returns:
        The smaller network: `.model` is an `OnnxNetwork`, with `save` and `proto`.

    Raises:
        ArtefactError: if the file cannot be read or written.
        ModelError: if the graph holds something that is not understood.
        UsageError: if an argument is not understood.
        BudgetError: if the budget is malformed or cannot be met; names the smallest that can.
        StructureError: if nothing can shrink, or the graph cannot take other sizes.
    """
    network = source if isinstance(source, OnnxNetwork) else read_onnx(source)
    if output is not None and Path(output).suffix.lower() != ".onnx":
        raise UsageError(f"{output} is no name of an ONNX file", "end it with .onnx")
    inputs = network.example(shape=input_shape, seed=seed) if example is None else example
    pruned = remove_channels(
        network,
        inputs,
        budget,
        importance=importance,
        allocation=allocation,
        repair=repair,
        data=data,
        seed=seed,
        exclude=exclude,
        round_to=round_to,
        heads=heads,
        check=check,
    )
    assert isinstance(pruned.model, OnnxNetwork)
    notes = [*assumed_sizes(network, input_shape if example is None else ()), *pruned.notes]
    pruned = replace(pruned, notes=notes)
    if check and data is None:  # what was repaired is no longer the masked network
        pruned = replace(pruned, error=_checked(network, pruned))
    if output is not None:
        pruned.model.save(output)  # type: ignore[operator]
    return pruned


def assumed_sizes(network: OnnxNetwork, given: Sequence[int] | None) -> list[str]:
    """A note on sizes that the file leaves open and nobody gave.

    Args:
        network: The network.
        given: Sizes of the first input that were given, or None.
    """
    first = next(iter(network.program.inputs), "")
    missing = [d for d in network.open_sizes if given is None or not d.startswith(f"{first}:")]
    if not missing or given == ():
        return []
    return [f"sizes that the file leaves open were assumed: {', '.join(missing)}"]


def _checked(network: OnnxNetwork, pruned: Pruned) -> float:
    """The numeric error of a surgery that was not repaired, in ONNX Runtime.

    Raises:
        StructureError: if it is more than rounding.
    """
    assert isinstance(pruned.model, OnnxNetwork)
    found = check_file(network, pruned.net, pruned.keep, pruned.model.proto().SerializeToString())
    if not found.error <= _TOLERANCE:
        raise StructureError(
            f"the smaller {pruned.net.name} differs from the masked dense network by {found.error:.2g}",
            "please report this",
        )
    return found.error
