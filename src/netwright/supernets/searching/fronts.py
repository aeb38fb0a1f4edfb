"""The front of a search on disk, and which sub-network of it keeps to a budget."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from netwright import _files
from netwright.errors import ArtefactError, BudgetError, UsageError
from netwright.nas.choice import Choice
from netwright.structure import Budget
from netwright.supernets.network.elastic import Elastic
from netwright.supernets.searching.family import Family, Member, for_budget
from netwright.supernets.searching.measures import Latency

TABLE, FRONT = "front.csv", "front.json"
#: Shares of the macs at which sub-networks are timed where no search found any, largest first.
_LADDER = (1.0, 0.85, 0.7, 0.55, 0.45, 0.35, 0.25, 0.18, 0.12, 0.08, 0.05, 0.03)


def write_front(family: Family, folder: str | Path, notes: dict[str, Any] | None = None) -> Path:
    """Write ``front.csv`` for people and ``front.json`` for programs, cheapest sub-network first.

    Args:
        family: What a search found.
        folder: Where to.
        notes: Whatever a reader should know, as plain values.

    Returns:
        The table.

    Raises:
        BudgetError: if no sub-network keeps to the budget of the search.
    """
    folder, sup = Path(folder), family.sup
    members = sorted(family.front, key=lambda m: sup.macs(m.choice))
    if not members:
        raise BudgetError("no sub-network that was tried keeps to the budget", "search longer, or allow more")
    names = list(dict.fromkeys([*(m.name for m in family.measures), "macs", "params"]))
    rows = []
    for member in members:
        cost = sup.cost(member.choice)
        rows.append({**member.values, "macs": cost.macs, "params": cost.params})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*names, "choice"])
    for member, row in zip(members, rows, strict=True):
        writer.writerow([*(row[n] for n in names), member.choice.to_json()])
    full = sup.blueprint.full
    dense = {m.name: m(sup, full) for m in family.measures} | {
        "macs": sup.macs(full),
        "params": sup.cost(full).params,
    }
    pairs = zip(members, rows, strict=True)
    front = [{"choice": json.loads(m.choice.to_json()), "values": row} for m, row in pairs]
    _files.write_json(folder / FRONT, {"front": front, "full": dense, **(notes or {})})
    return _files.write_text(folder / TABLE, text.getvalue())


def read_front(sup: Elastic, folder: str | Path) -> tuple[list[Member], dict[str, float]]:
    """What `write_front` wrote.

    Args:
        sup: The supernet that was searched.
        folder: Where it lies.

    Returns:
        The members of the front, and the measures of the largest sub-network; both empty where no search was
        finished.

    Raises:
        ArtefactError: if the file is corrupt, or belongs to another supernet.
    """
    path = Path(folder) / FRONT
    if not path.exists():
        return [], {}
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        members = [
            Member(sup.complete(Choice(row["choice"])), {k: float(v) for k, v in row["values"].items()}, sup)
            for row in document["front"]
        ]
        return members, {k: float(v) for k, v in document["full"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, UsageError) as error:
        raise ArtefactError(
            f"{path} is corrupt or belongs to another supernet ({error})", "search again, or delete it"
        ) from error


def pick(
    sup: Elastic,
    budget: Budget | str,
    front: Sequence[Member] = (),
    full: dict[str, float] | None = None,
    *,
    latency: Latency | None = None,
) -> tuple[Choice, dict[str, float]]:
    """The sub-network to take: of a front the most accurate that keeps to the budget, else the largest.

    Latency is measured now, on this machine, alternating with nothing: of a front every member that keeps to
    the other limits is timed, best first, until one is fast enough.

    Args:
        sup: The supernet.
        budget: Limits on macs, params, latency and accuracy.
        front: Members that a search found.
        full: Measures of the largest sub-network; relative limits refer to them.
        latency: How to time.

    Returns:
        The choice, and what is known of it.

    Raises:
        BudgetError: if none keeps to the budget; says what the nearest has.
        UsageError: if a limit cannot be checked.
    """
    given, full = Budget.parse(budget), dict(full or {})
    unknown = set(given.limits) - {"macs", "params", "latency", "accuracy"}
    if not given or unknown:
        what = f"a limit on {sorted(unknown)[0]} of a sub-network" if unknown else "an empty budget"
        raise UsageError(f"{what} cannot be checked", "give macs, params, latency or accuracy")
    if given.accuracy is not None and not any("accuracy" in m.values for m in front):
        raise UsageError(
            "nothing is known of the accuracy of sub-networks", "search first: netwright elastic search"
        )
    cost = sup.cost(sup.blueprint.full)
    full |= {"macs": cost.macs, "params": cost.params}
    if given.latency is not None:
        full["latency"] = (latency or Latency())(sup, sup.blueprint.full) if given.latency.relative else 0.0
    fitting = [m for m in _candidates(sup, given, front) if _keeps(given, m.values, full)]
    fitting.sort(key=lambda m: (m.values.get("accuracy", 0.0), m.values["macs"]), reverse=True)
    if given.latency is None and fitting:
        return fitting[0].choice, fitting[0].values
    fastest = float("inf")
    for member in fitting:
        took = (latency or Latency())(sup, member.choice)
        fastest = min(fastest, took)
        if not given.misses("latency", took, full["latency"]):
            return member.choice, {**member.values, "latency": took}
    near = f"the fastest that was timed takes {fastest:.3g} ms" if fitting else "see front.csv"
    raise BudgetError(f"no sub-network keeps to {given}", f"{near}; allow more, or search longer")


def _candidates(sup: Elastic, budget: Budget, front: Sequence[Member]) -> list[Member]:
    """The members of a front; without one, the largest of a few sizes."""
    if front:
        return list(front)
    counted = Budget(macs=budget.macs, params=budget.params)
    if budget.latency is None:
        choices = [for_budget(sup, counted)]
    else:
        choices = []
        for share in _LADDER:
            try:
                choices.append(for_budget(sup, Budget(macs=share)))
            except UsageError:
                break
        choices.append(sup.space.min())
    found = []
    for choice in dict.fromkeys(choices):
        cost = sup.cost(choice)
        found.append(Member(choice, {"macs": float(cost.macs), "params": float(cost.params)}, sup))
    return found


def _keeps(budget: Budget, values: dict[str, float], full: dict[str, float]) -> bool:
    """Whether what is known keeps to the limits, latency aside: that is measured last."""
    names = [n for n in budget.limits if n != "latency"]
    if "accuracy" in names and "accuracy" not in values:
        return False
    return not any(budget.misses(n, values[n], full.get(n, 0.0)) for n in names)
