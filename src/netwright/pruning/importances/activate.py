"""AP: a small share of what any pruning removes is chosen to wake nodes up instead.

S. Liu, R. Ghosh, D. Tan and M. Motani, AP: Selective Activation for De-sparsifying Pruned Neural Networks,
2022. What a layer reads after a ReLU is not negative, so a negative weight can only lower its output: without
it the node is awake for more inputs. Of the negative weights go those that training moved least; they carry
little of what was learned.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from torch import Tensor, nn

from netwright.errors import UsageError
from netwright.pruning.importances.elements import Context, ElementImportance, movement, scores_of
from netwright.pruning.importances.importance import find_elements
from netwright.pruning.masks.selection import top_k


def AP(  # noqa: N802 - the method's name
    host: Any = "magnitude",
    q: float = 0.02,
    *,
    share: float | None = None,
    ap_cycles: Literal["all", "last"] = "all",
    exclude: Sequence[str] = (),
    waking: ElementImportance | None = None,
) -> ElementImportance:
    """Let another importance prune less and wake nodes up with the rest; as many weights go as without.

    Of the n weights that go at one event the host chooses all but ``floor(q * alive)``, and these are the
    negative weights among what the host leaves that moved least since the event before, in all layers
    together. (Where there are fewer negative weights, the host chooses more.) Under an allocation by layers
    the counts of the layers are the allocation's, and each layer gives up first what was chosen to wake.

    Weights that read the network's input read negative numbers too where the data are normalised; name such
    layers in `exclude`.

    Args:
        host: The importance that is helped: a name or an object.
        q: Share of the weights that are alive before the event; at most as many as go.
        share: Instead of `q`, the share of what goes at the event: for schedules of many small prunings.
        ap_cycles: "all" acts at every event, "last" only at the one that reaches the final share.
        exclude: Patterns or beginnings of names that the waking half leaves to the host.
        waking: What the waking half goes by, instead of ``movement(negative_only=True)``; weights with
            infinite scores are never chosen.

    Returns:
        An importance, for schedules of a training or of several.

    Raises:
        UsageError: if a share is none.
    """
    if not 0 <= q < 1:
        raise UsageError(f"a share of {q:g} cannot be pruned to wake", "give q= in 0..1, for instance 0.02")
    if share is not None and not 0 <= share <= 1:
        raise UsageError(f"a share of {share:g} of what goes is none", "give share= in 0..1")
    if ap_cycles not in ("all", "last"):
        raise UsageError(f"ap_cycles={ap_cycles!r} is unknown", 'choose "all" or "last"')
    helped = find_elements(host)
    wake = waking if waking is not None else movement(negative_only=True)

    def function(model: nn.Module, names: Sequence[str], context: Context) -> dict[str, Tensor]:
        scores = scores_of(helped, model, names, context)
        if ap_cycles == "last" and not context.last:
            return scores
        alive = _joined({n: _alive(n, scores[n], context.masks) for n in names})
        present = int(alive.sum())
        going = present - round(context.keep * alive.numel())
        chosen = math.floor(q * present) if share is None else math.floor(share * max(going, 0))
        chosen = min(chosen, going)
        if chosen <= 0:
            return scores
        merits = _joined(wake.function(model, names, context))
        barred = _joined({n: torch.full_like(scores[n], _barred(n, exclude)) for n in names}).bool()
        flat = _joined(scores).double()
        merits = merits.masked_fill(barred | ~alive, torch.inf)
        woken = _waking(flat, merits, alive, going, chosen)
        # Below everything else that is alive, the least moved first.
        order = torch.arange(len(woken), dtype=torch.float64, device=flat.device)
        flat[woken] = -torch.finfo(torch.float64).max * (1 - order / 2**40)
        parts = flat.split([scores[n].numel() for n in names])
        return {n: part.reshape(scores[n].shape) for n, part in zip(names, parts, strict=True)}

    return ElementImportance(f"ap({helped.name})", function, helped.needs, since_start=True)


def _waking(flat: Tensor, merits: Tensor, alive: Tensor, going: int, chosen: int) -> Tensor:
    """Indices of what the waking half prunes, the least moved first.

    Args:
        flat: Scores of the host, (N,).
        merits: Scores of the waking half, (N,), infinite for what it never chooses.
        alive: (N,) bool.
        going: How many go in all.
        chosen: How many of these the waking half chooses.
    """
    # The host goes first, and further where the rest has too few candidates for the waking half.
    stays = top_k(flat.masked_fill(~alive, -torch.inf), int(alive.sum()) - (going - chosen))
    left = merits.masked_fill(~stays, torch.inf)
    found = (top_k(-left, chosen) & torch.isfinite(left)).nonzero().reshape(-1)
    return found[left[found].argsort(stable=True)]


def _joined(parts: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([p.reshape(-1) for p in parts.values()])


def _alive(name: str, scores: Tensor, masks: Mapping[str, Tensor]) -> Tensor:
    found = masks.get(name)
    return torch.ones_like(scores, dtype=torch.bool) if found is None else found.to(scores.device).bool()


def _barred(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, p) or name.startswith(p + ".") for p in patterns)
