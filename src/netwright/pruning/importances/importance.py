"""Importances by name: how much a network would miss each of its tied units.

An importance is a function ``(net, model, examples) -> (count,)``: one finite score for every class of the
structure, small where a class may go. It looks at all tied parameters of a class, at once, and changes
nothing of the model: no parameter, gradient, statistic or mode.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from netwright.errors import UsageError
from netwright.pruning.statistics.examples import Examples
from netwright.structure import Structure

#: Scores every class: (structure, model, examples) -> (count,).
Importance = Callable[[Structure, nn.Module, Examples], Tensor]
Needs = Literal["nothing", "examples", "labels"]


@dataclass(frozen=True)
class _Entry:
    function: Importance
    needs: Needs


_REGISTRY: dict[str, _Entry] = {}
#: Name -> `elements.ElementImportance`, for those that score single weights as well.
_ELEMENTS: dict[str, Any] = {}


def register_importance(name: str, *, needs: Needs = "nothing") -> Callable[[Importance], Importance]:
    """Register an importance under a kebab-case name.

    Args:
        name: The name that ``prune(importance=...)`` takes.
        needs: What it cannot do without: ``"nothing"``, ``"examples"`` or ``"labels"`` (of the examples).

    Raises:
        UsageError: if the name is taken or is not kebab-case.
    """
    _check_name(name)

    def enter(function: Importance) -> Importance:
        if name in _REGISTRY:
            raise UsageError(f"there is an importance {name!r} already", "choose another name")
        _REGISTRY[name] = _Entry(function, needs)
        return function

    return enter


def enter_elements(name: str, importance: Any) -> None:
    """Enter an importance of single weights (see `elements.register_elements`)."""
    _check_name(name)
    if name in _ELEMENTS:
        raise UsageError(f"there is an importance {name!r} already", "choose another name")
    _ELEMENTS[name] = importance


def _check_name(name: str) -> None:
    if name != name.lower() or not name.replace("-", "").isalnum():
        raise UsageError(f"{name!r} is not a kebab-case name", 'for instance "my-score"')


def list_importances(kind: Literal["channel", "weight"] = "channel") -> list[str]:
    """Names of all importances of whole channels, or of single weights, in alphabetical order."""
    return sorted({*_REGISTRY, *_ELEMENTS} if kind == "channel" else _ELEMENTS)


def find_elements(importance: Any) -> Any:
    """Look an importance of single weights up; an object is returned as it is.

    Raises:
        UsageError: if there is none of that name, or it scores whole channels only.
    """
    if not isinstance(importance, str):
        if hasattr(importance, "function") and hasattr(importance, "needs"):
            return importance
        raise UsageError(
            f"an importance of type {type(importance).__name__} scores no single weights",
            "give a name, or an ElementImportance",
        )
    if importance in _ELEMENTS:
        return _ELEMENTS[importance]
    names = ", ".join(list_importances("weight"))
    if importance in _REGISTRY:
        raise UsageError(
            f"importance {importance!r} scores whole channels, not single weights",
            f'take granularity="channel", or one of {names}',
        )
    raise UsageError(f"there is no importance {importance!r}", f"choose from {names}")


def find_importance(importance: str | Importance) -> tuple[Importance, Needs]:
    """Look an importance up.

    Args:
        importance: A name, or a function, which is returned as it is.

    Raises:
        UsageError: if there is none of that name; lists those there are.
    """
    if not isinstance(importance, str):
        if not callable(importance):
            raise UsageError(
                f"an importance of type {type(importance).__name__} is not understood",
                f"give a name ({', '.join(list_importances())}) or a function of (net, model, examples)",
            )
        return importance, "nothing"
    entry = _REGISTRY.get(importance)
    if entry is None and importance in _ELEMENTS:
        return _ELEMENTS[importance], _ELEMENTS[importance].needs
    if entry is None:
        raise UsageError(
            f"there is no importance {importance!r}", f"choose from {', '.join(list_importances())}"
        )
    return entry.function, entry.needs


def require_data(importance: str | Importance, examples: Examples) -> None:
    """Refuse an importance whose data are missing.

    Raises:
        UsageError: naming what it needs.
    """
    _, needs = find_importance(importance)
    if needs != "nothing" and not examples:
        what = "labelled examples" if needs == "labels" else "some examples, without labels"
        raise UsageError(f"importance {importance!r} looks at data", f"give data= {what}")
    if needs == "labels" and not examples.labelled:
        raise UsageError(
            f"importance {importance!r} needs labels, the data have none",
            'give batches (inputs, labels), or take importance="obs"',
        )


def score(
    net: Structure,
    model: nn.Module,
    importance: str | Importance = "magnitude",
    examples: Examples | None = None,
) -> Tensor:
    """Score every class of a network.

    Scores of a named importance are normalised (see `normalise`); those of a function are taken as they are.

    Args:
        net: The structure.
        model: The model that was traced.
        importance: A name or a function.
        examples: Data for those that look at some.

    Returns:
        (count,) float64.

    Raises:
        UsageError: if the importance is unknown, lacks its data, or a function returns something else than
            one finite score for every class.
    """
    examples = examples if examples is not None else Examples(None, net.inputs)
    function, _ = find_importance(importance)
    require_data(importance, examples)
    scores = function(net, model, examples)
    label = importance if isinstance(importance, str) else getattr(importance, "__name__", "the importance")
    if not isinstance(scores, Tensor) or scores.shape != (net.count,):
        found = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise UsageError(f"{label} returned {found}, not one score for each of the {net.count} classes")
    scores = scores.detach().to("cpu", torch.float64)
    if not bool(scores.isfinite().all()):
        raise UsageError(
            f"{label} gave scores that are not finite", "look for NaN in the weights or the data"
        )
    return normalise(net, scores) if isinstance(importance, str) else scores


def normalise(net: Structure, scores: Tensor) -> Tensor:
    """Divide the scores of every axis by their mean, so that one threshold can serve all axes.

    The raw scale of an axis says how large its weights are, which normalisation layers undo, and over how
    many parameters it extends, not how much the network needs it. After division a score of 1 is the average
    member of any axis: an axis whose members are alike loses few of them, one in which a few stand out loses
    many. An axis of zeros only stays at zero.

    Args:
        net: The structure.
        scores: (count,), not negative.

    Returns:
        (count,).
    """
    axes = [axis.cells.reshape(-1) for axis in net.prunable]
    if not axes:
        return scores.clone()
    lengths, classes = torch.tensor([len(axis) for axis in axes]), torch.cat(axes)
    axis = torch.arange(len(axes)).repeat_interleave(lengths)
    mean = scores.new_zeros(len(axes)).index_add_(0, axis, scores[classes].abs()) / lengths
    mean = torch.where(mean > 0, mean, 1)
    return scores.index_copy(0, classes, scores[classes] / mean[axis])


def gather(net: Structure, contributions: dict[str, dict[int, Tensor]]) -> Tensor:
    """Add what every parameter says about its classes.

    Args:
        net: The structure.
        contributions: Parameter -> {dimension: one number for every label of that dimension, in the order of
            the labels}.

    Returns:
        (count,) float64.
    """
    total = torch.zeros(net.count, dtype=torch.float64)
    alike: dict[tuple[torch.device, torch.dtype], tuple[list[Tensor], list[Tensor]]] = {}
    for name, dims in contributions.items():
        for dim, values in dims.items():
            labels, parts = alike.setdefault((values.device, values.dtype), ([], []))
            labels.append(net.layers[name][dim].reshape(-1))
            parts.append(values.reshape(-1))
    for labels, parts in alike.values():  # one addition for all of them: most are short
        total.index_add_(0, torch.cat(labels), torch.cat(parts).to("cpu", torch.float64))
    return total


def reduced_dims(labels: Tensor) -> list[int]:
    """Dimensions of a parameter that a label tensor does not distinguish."""
    return [d for d, n in enumerate(labels.shape) if n == 1]


def parameters_on_axes(net: Structure, model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters (not buffers) that have labels, by the name that the structure gives them."""
    named = dict(model.named_parameters(remove_duplicate=False))
    return {name: named[name] for name in net.layers if name in named}
