"""From importance, granularity and allocation to masks: the one place where the three meet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from netwright.errors import UsageError
from netwright.pruning.allocations.layerwise import (
    LayerAllocation,
    Layers,
    find_layer_allocation,
    from_scores,
    layer_counts,
)
from netwright.pruning.importances.densities import synflow_rounds
from netwright.pruning.importances.elements import Context, scores_of
from netwright.pruning.importances.importance import find_elements
from netwright.pruning.masks.existing import existing
from netwright.pruning.masks.granularity import NM, WEIGHT, Channel, Granularity, find_granularity, keep_units
from netwright.pruning.masks.selection import Masks, whole_counts

#: Beginning of the names of allocations that take the densities another importance would leave.
FROM = "from-"
Allocations = str | Mapping[str, float] | LayerAllocation
#: What the parts of a recurrent network's weights are called.
_PARTS = {"i2h": "weight_ih", "h2h": "weight_hh"}
#: Selects the scales of normalisations too.
_NORMS = "norms"


def prunable_weights(
    model: nn.Module, *, select: str | Sequence[str] | None = None, exclude: Iterable[str] = ()
) -> list[str]:
    """Names of the weights that are pruned: those of linear maps, convolutions, attention and recurrence.

    Biases, normalisations, embeddings and tables are not.

    Args:
        model: The network.
        select: Only these: patterns or beginnings of names; "i2h" and "h2h" are the input and the recurrent
            weights of recurrent layers. "norms" adds the scales of normalisations to what is selected, or to
            everything, as scripts do that prune whatever is called a weight.
        exclude: Patterns or beginnings of names that are left alone.

    Returns:
        Names as in ``model.named_parameters()``, in order of definition; a shared weight is there once.

    Raises:
        UsageError: if nothing is left.
    """
    wanted = [select] if isinstance(select, str) else select
    scales = wanted is not None and _NORMS in wanted
    found, norms = [], []
    for name, parameter in model.named_parameters():
        owner, _, leaf = name.rpartition(".")
        module = model.get_submodule(owner)
        if isinstance(module, nn.utils.parametrize.ParametrizationList):
            if leaf in ("original0",) or parameter.dim() < 2:
                continue
            found.append(name)
            continue
        if leaf.endswith("_g") and leaf[:-1] + "v" in module._parameters:
            continue  # the lengths of a normalised weight
        known = leaf == "weight" or leaf.startswith("weight_") or leaf.endswith("_weight")
        normalises = "Norm" in type(module).__name__ or isinstance(module, (nn.Embedding, nn.EmbeddingBag))
        if known and parameter.dim() >= 2 and not normalises and parameter.is_floating_point():
            found.append(name)
        elif scales and leaf == "weight" and parameter.dim() == 1 and "Norm" in type(module).__name__:
            norms.append(name)
    named = None if wanted is None else [p for p in wanted if p != _NORMS]
    if named or not scales:
        found = [n for n in found if named is None or any(_matches(n, p) for p in named)]
    if norms:
        chosen = {*found, *norms}
        found = [n for n, _ in model.named_parameters() if n in chosen]
    patterns = [exclude] if isinstance(exclude, str) else list(exclude)
    found = [n for n in found if not any(_matches(n, p) for p in patterns)]
    if not found:
        raise UsageError("no weight of the network is left to prune", "look at select= and exclude=")
    return found


def _matches(name: str, pattern: str) -> bool:
    if pattern in _PARTS:
        return name.rpartition(".")[2].startswith(_PARTS[pattern])
    return fnmatchcase(name, pattern) or name.startswith(pattern + ".")


def check_together(importance: Any, granularity: str | Granularity, allocation: Allocations) -> None:
    """Refuse what makes no sense together.

    Raises:
        UsageError: with the reason.
    """
    find_elements(importance)
    pattern = find_granularity(granularity)
    if isinstance(pattern, Channel):
        raise UsageError(
            "whole channels are removed, not masked",
            'use netwright.prune, or granularity="row" for rows of each weight by itself',
        )
    if isinstance(allocation, str) and allocation.startswith(FROM):
        source = allocation.removeprefix(FROM)
        find_elements(importance if source == "scores" else source)
    elif allocation == "convex":
        raise UsageError(
            "the convex programme gives the widths of channels",
            'use netwright.prune, or allocation="from-synflow"',
        )
    else:
        find_layer_allocation(allocation)
    if isinstance(pattern, NM) and allocation not in ("global", "uniform"):
        raise UsageError(
            f"{pattern.name} keeps {pattern.n} of every {pattern.m} in every layer, whatever the allocation",
            "leave allocation out",
        )


def choose(
    model: nn.Module,
    names: Sequence[str],
    keep: float,
    *,
    importance: Any = "magnitude",
    granularity: str | Granularity = WEIGHT,
    allocation: Allocations = "global",
    context: Context | None = None,
    eligible: Mapping[str, Tensor] | None = None,
) -> Masks:
    """Choose what stays.

    Args:
        model: The network; it is not changed.
        names: Weights, as of `prunable_weights`.
        keep: Share of all of them that stays.
        importance: A name or an `ElementImportance`.
        granularity: A name or an object.
        allocation: A name, a function or the share of every layer.
        context: Data, seed and more for the importance.
        eligible: Weight -> mask of what may stay at all: everything where None.

    Returns:
        Weight -> mask; single weights together exactly ``round(keep * weights)``.

    Raises:
        UsageError: if the parts do not fit together, or the importance lacks what it needs.
    """
    check_together(importance, granularity, allocation)
    there = existing(model, names)
    if there and find_granularity(granularity) != WEIGHT:
        raise UsageError(
            f"some elements of {next(iter(there))} do not exist: only single weights of it can be masked",
            'take granularity="weight", or exclude it',
        )
    if there:
        eligible = _allowed(model, names, there, eligible or {})
    chosen, pattern = find_elements(importance), find_granularity(granularity)
    context = context or Context(keep=keep)
    if chosen.needs != "nothing" and not context.examples:
        what = "labelled examples" if chosen.needs == "labels" else "some examples"
        raise UsageError(f"importance {chosen.name!r} looks at data", f"give data= {what}")
    scores = scores_of(chosen, model, names, context)
    if isinstance(allocation, str) and allocation.startswith(FROM):
        allocation = _shares_of(allocation.removeprefix(FROM), scores, model, names, context, eligible)
    if eligible is not None:
        scores = {n: torch.where(eligible[n], s, -torch.inf) for n, s in scores.items()}
    if isinstance(pattern, NM):
        return {
            n: pattern.mask(s) if pattern.fits(s) else torch.ones_like(s, dtype=torch.bool)
            for n, s in scores.items()
        }
    units = {n: pattern.pool(s) for n, s in scores.items()}
    layers = Layers(
        {n: scores[n].shape for n in names},
        {n: pattern.spread(u, scores[n].shape) for n, u in units.items()},
        {n: int(m.sum()) for n, m in there.items()},
    )
    counts = layer_counts(layers, keep, allocation)
    if eligible is not None:
        counts = _within(counts, {n: int(eligible[n].sum()) for n in names})
    if pattern == WEIGHT:
        return {
            n: keep_units(u, torch.ones_like(u, dtype=torch.long), counts[n]).reshape(scores[n].shape)
            for n, u in units.items()
        }
    return {
        n: pattern.spread(keep_units(u, pattern.sizes(scores[n]), counts[n]), scores[n].shape).clone()
        for n, u in units.items()
    }


def _allowed(model: nn.Module, names: Sequence[str], there: Masks, eligible: Mapping[str, Tensor]) -> Masks:
    """What may stay of every weight, given what exists of some."""
    weights = dict(model.named_parameters())
    allowed = {n: eligible.get(n, torch.ones_like(weights[n], dtype=torch.bool)) for n in names}
    return {n: m & there[n].to(m.device) if n in there else m for n, m in allowed.items()}


def _within(counts: Mapping[str, int], room: Mapping[str, int]) -> dict[str, int]:
    """Counts that no layer's room falls short of, with the same sum where there is room for it.

    What a layer cannot take goes to the others in proportion to what they have: an allocation knows nothing
    of the masks that there are, and what is masked must not come back by being first among equals.
    """
    if all(counts[n] <= room[n] for n in counts):
        return dict(counts)
    total = min(sum(counts.values()), sum(room.values()))
    full: set[str] = set()
    shares: dict[str, float] = {n: float(c) for n, c in counts.items()}
    while over := {n for n in counts if n not in full and shares[n] > room[n]}:
        full |= over
        rest = total - sum(room[n] for n in full)
        free = sum(counts[n] for n in counts if n not in full)
        shares = {n: room[n] if n in full else counts[n] * rest / max(free, 1) for n in counts}
    whole = whole_counts([shares[n] / max(room[n], 1) for n in counts], [room[n] for n in counts], total)
    return dict(zip(counts, whole, strict=True))


def _shares_of(
    source: str,
    scores: Mapping[str, Tensor],
    model: nn.Module,
    names: Sequence[str],
    context: Context,
    eligible: Mapping[str, Tensor] | None,
) -> LayerAllocation:
    """The shares that one threshold over single weights leaves, of these scores or of another importance.

    SynFlow prunes in its many rounds: a single one would remove whole layers.
    """
    if source == "synflow":
        if context.examples is None:
            raise UsageError("synflow runs the network once", "give example= an input of the right shape")
        like = context.examples.like

        def flow(layers: Layers, keep: float) -> list[float]:
            there = sum(layers.sizes) / sum(torch.Size(s).numel() for s in layers.shapes.values())
            within = dict(eligible) if eligible else None
            found = synflow_rounds(model, like, names, keep * there, eligible=within)
            return [int(found[n].sum()) / size for n, size in zip(layers.names, layers.sizes, strict=True)]

        return flow
    if source != "scores":
        other = find_elements(source)
        if other.needs != "nothing" and not context.examples:
            raise UsageError(f"importance {other.name!r} looks at data", "give data=")
        scores = scores_of(other, model, names, context)
    if eligible is not None:
        scores = {n: torch.where(eligible[n], s, -torch.inf) for n, s in scores.items()}
    return from_scores(scores)
