"""`netwright shape --elastic`: one supernet is trained once, and candidates are cut out of it.

The dense network's channels are sorted by importance and its sub-networks trained together: on every batch
the largest, the smallest and two drawn ones, the others taught by the largest (J. Yu et al., BigNAS, ECCV
2020). Then, for every cost of the ladder, an evolution looks for the sub-network that answers best on the
validation examples with the supernet's own weights. Those are exported and measured like any candidate; none
recovers by itself.
"""

from __future__ import annotations

import copy
import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from netwright import _files, pruning, supernets
from netwright.errors import ArtefactError, NetwrightError, UsageError
from netwright.nas.choice import Choice
from netwright.nas.strategies import Evolution
from netwright.shaping.baseline import recovery_recipe
from netwright.shaping.candidate import Candidate, Space
from netwright.shaping.state import Folder
from netwright.structure import Budget

if TYPE_CHECKING:
    from netwright.data import Part, Splits
    from netwright.shaping.pipeline import Pipeline
    from netwright.train import Progress, Recipe

#: Shares of every axis.
WIDTHS = (0.1875, 0.25, 0.375, 0.5, 0.75, 1.0)
#: Epochs of the supernet for each epoch that a candidate would recover: about what ten candidates, a third of
#: the dense network's size, and their teacher compute in as many epochs.
EPOCHS = 3
#: Sub-networks that are judged for each cost of the ladder, and how they are proposed.
JUDGED = 32
_EVOLUTION = Evolution(initial=14, parents=6, mutations=3, crossovers=3, p=0.2)
#: Least share of a cost of the ladder that its sub-networks use.
_WINDOW = 0.85
#: The best of each cost that become candidates.
_BEST = 3
#: Weight of the dense network's answers in what the largest sub-network learns.
_DISTILL = 0.7


@dataclass(frozen=True)
class SubNetworks(Space):
    """Sub-networks of a supernet that was searched, in the place of pipelines.

    Args:
        found: The candidates in fp32: the best of every cost of the ladder, then the second best.
    """

    found: tuple[Candidate, ...] = ()

    def ladder(self) -> list[Candidate]:
        """The dense network, then what was found, in every precision."""
        return [replace(network, bits=b) for network in (Candidate(), *self.found) for b in self.bits]

    def distributions(self) -> dict[str, Any]:
        """The same in Optuna's terms."""
        from optuna.distributions import CategoricalDistribution

        numbers = tuple(range(len(self.found)))
        return {"network": CategoricalDistribution(numbers), "bits": CategoricalDistribution(self.bits)}

    def candidate(self, params: Mapping[str, Any]) -> Candidate:
        """The candidate that Optuna's parameters describe."""
        return replace(self.found[int(params["network"])], bits=int(params["bits"]))

    def params(self, candidate: Candidate) -> dict[str, Any]:
        """Optuna's parameters for a candidate; for the dense network, outside the space, only the bits."""
        if candidate.dense:
            return {"bits": candidate.bits}
        return {"network": self.found.index(replace(candidate, bits=32)), "bits": candidate.bits}


def prepare(
    folder: Folder,
    dense: nn.Module,
    splits: Splits,
    space: Space,
    recipe: Recipe,
    *,
    from_scratch: bool,
    recovery: int,
    statistics: Part,
    seed: int,
    device: str = "auto",
    progress: Callable[[Progress], None] | None = None,
    note: Callable[[str], None] | None = None,
) -> SubNetworks:
    """Train the supernet and search it, or take both from the folder.

    Args:
        folder: Of the study.
        dense: The dense network, trained.
        splits: The data.
        space: What candidates would come from without a supernet: its ladder of costs is searched.
        recipe: The dense network's.
        from_scratch: Whether it was trained by it.
        recovery: Epochs that a candidate would recover.
        statistics: Training examples for importances and batch-norm statistics.
        seed: Of the training and the search.
        device: Where to train.
        progress: Told how far the training is.
        note: Told what is being done.

    Raises:
        UsageError: if the data have no labels, or no width of the network can be chosen.
    """
    if not splits.labelled:
        raise UsageError("--elastic needs labels", "leave it out: candidates then follow the dense network")
    say, place = note or (lambda _: None), folder.cache("supernet")
    listed = place / "found.json"
    if not listed.exists():
        if not supernets.is_saved(place):
            how = recovery_recipe(
                dense, recipe, EPOCHS * max(recovery, 1), _DISTILL, from_scratch=from_scratch
            )
            say(f"training the supernet: {how.epochs} epochs of {len(splits.train)} examples")
            _train(place, dense, splits, how, statistics, seed, device, progress)
        sup = supernets.load(place, model=dense)
        say(f"searching {sup.space.size():,} sub-networks")
        found = _search(sup, splits, statistics, space, seed, device, place)
        _files.write_json(listed, [c.to_json() for c in found])
    try:
        rows = json.loads(listed.read_text(encoding="utf-8"))
        candidates = tuple(Candidate.from_json(row) for row in rows)
    except (ValueError, TypeError) as error:
        raise ArtefactError(f"{listed} is corrupt", "delete it and run the same command again") from error
    return SubNetworks(metric=space.metric, bits=space.bits, recovery=(0,), found=candidates)


def check(dense: nn.Module, example: Any) -> None:
    """Refuse a network of which no supernet can be made, before anything is trained.

    Args:
        dense: The network; its weights do not matter.
        example: An example input.

    Raises:
        UsageError: if no width can be chosen.
        StructureError: if its widths cannot be changed.
    """
    supernets.elastic(dense, example, width=WIDTHS)


def cut_out(pipeline: Pipeline, candidate: Candidate, folder: Path) -> nn.Module:
    """The network of a candidate, with batch-norm statistics of its own; it is saved like a pruned one.

    Args:
        pipeline: Evaluates the candidates of the study.
        candidate: One with a choice.
        folder: Where the network is kept.
    """
    sup = supernets.load(pipeline.folder.cache("supernet"), model=pipeline.dense)
    choice = sup.complete(Choice(json.loads(candidate.choice)))
    _calibrate(sup, choice, pipeline.statistics())
    pruned = supernets.as_pruned(sup, choice)
    pruned.model.eval()
    pruning.save_pruned(pruned, folder)
    return pruned.model


def _calibrate(sup: supernets.Elastic, choice: Choice, statistics: Part) -> None:
    sup.calibrate(statistics.batches(128), choice)


def _train(
    place: Path,
    dense: nn.Module,
    splits: Splits,
    recipe: Recipe,
    statistics: Part,
    seed: int,
    device: str,
    progress: Callable[[Progress], None] | None,
) -> None:
    sup = supernets.elastic(dense, splits.example(2), width=WIDTHS)
    supernets.sort_channels(sup, "taylor", statistics)
    paths = supernets.Paths(
        supernets.samplers.Sandwich(n_random=2, seed=seed), supernets.InplaceDistill(), "max-only"
    )
    checkpoint = place / "training.pt"
    place.mkdir(parents=True, exist_ok=True)
    fitted = supernets.train(
        sup,
        splits,
        recipe,
        paths=paths,
        teacher=dense,
        device=device,
        checkpoint=checkpoint,
        progress=progress,
    )
    trained = fitted.model.cpu().eval()
    assert isinstance(trained, supernets.Elastic)
    notes = {"macs": paths.macs, "seconds": fitted.seconds, "recipe": json.loads(recipe.to_json())}
    supernets.save(trained, place, history=fitted.history, notes=notes)
    checkpoint.unlink(missing_ok=True)


def _costs(space: Space) -> list[float]:
    """Shares that are searched: those of the ladder, then one between each two neighbours."""
    low, high = space.share
    rungs = list(dict.fromkeys(round(min(max(r, low), high), 4) for r in space.rungs))
    ordered = sorted(rungs)
    between = [round(math.sqrt(a * b), 4) for a, b in itertools.pairwise(ordered)]
    return rungs + sorted(between, reverse=True)


def _search(
    sup: supernets.Elastic,
    splits: Splits,
    statistics: Part,
    space: Space,
    seed: int,
    device: str,
    place: Path,
) -> list[Candidate]:
    """The best sub-networks of every cost, the best of all costs first."""
    accuracy = supernets.Accuracy(splits.val, statistics, device=device, batch_size=128)
    metric = "params" if space.metric == "params" else "macs"
    ranks: list[list[Candidate]] = [[] for _ in range(_BEST)]
    for share in _costs(space):
        try:
            family = supernets.search(
                sup,
                [accuracy],
                strategy=copy.deepcopy(_EVOLUTION),
                budget=Budget(**{metric: share}),  # type: ignore[arg-type]
                window=_WINDOW,
                trials=JUDGED,
                seed=seed,
                storage=place / "search.db",
                name=f"{metric}-{share}",
            )
        except NetwrightError:
            continue  # the smallest is larger
        for rank, member in zip(ranks, _best(family), strict=False):
            rank.append(_candidate(sup, member, space))
        sup.statistics.clear()  # those of so many would fill the memory
    return list(dict.fromkeys(c for rank in ranks for c in rank))


def _best(family: supernets.Family) -> Sequence[supernets.Member]:
    """Members inside the budget, the most accurate first, the cheaper of equals."""
    inside = [t for t in family.found.trials if not t.violation]
    inside.sort(key=lambda t: (t.values[0], family.sup.macs(t.candidate)))
    return [supernets.Member(t.candidate, {"accuracy": -t.values[0]}, family.sup) for t in inside]


def _candidate(sup: supernets.Elastic, member: supernets.Member, space: Space) -> Candidate:
    share = sup.macs(member.choice) / sup.macs(sup.blueprint.full)
    return Candidate(
        share=round(min(share, 0.9999), 4),
        allocation="searched",
        importance="supernet",
        repair="bn",
        choice=member.choice.to_json(),
    )
