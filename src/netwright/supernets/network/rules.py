"""Attributes of modules as functions of the widths, learned from a few proven surgeries.

Which attributes of the user's own code repeat a size, and which size, the surgery finds out for one choice of
what stays. Every such value is a count of kept units (or a fixed multiple of one), so a few choices with
different counts everywhere tell which one; any other choice is then a lookup.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from netwright.structure import Shrunk, Structure, holds, shrink
from netwright.structure.copying import clone

Ints = NDArray[np.int64]
#: Surgeries from which the rules are learned.
_FITS = 5
#: Further choices on which they are proved.
_PROOFS = 2


@dataclass(frozen=True)
class Value:
    """A size: `count[row] * times // over`, or the constant `times` where there is no row."""

    row: int
    times: int
    over: int = 1


@dataclass(frozen=True)
class Rule:
    """How one attribute follows the widths.

    Attributes:
        path: Of the module.
        name: Of the attribute.
        kind: int, tuple or list.
        values: One a number in it.
    """

    path: str
    name: str
    kind: type
    values: tuple[Value, ...]

    def at(self, counts: Ints) -> Any:
        """The attribute's value.

        Args:
            counts: (rows,) of `Sizes.counts`.
        """
        found = [v.times if v.row < 0 else int(counts[v.row]) * v.times // v.over for v in self.values]
        return found[0] if self.kind is int else self.kind(found)


def random_keep(net: Structure, generator: torch.Generator, least: float = 0.0) -> Tensor:
    """A prefix of random length of every prunable axis, (count,) bool.

    Args:
        net: The structure.
        generator: Source of the lengths.
        least: Smallest share of an axis.
    """
    keep = net.everything
    for axis in net.prunable:
        low = max(1, int(least * axis.size))
        level = int(torch.randint(low, axis.size + 1, (), generator=generator))
        for part, count in zip(axis.parts, axis.counts(level).tolist(), strict=True):
            keep[part[count:]] = False
    for narrow, wide in net.filled:  # the wide one is never the narrower
        least_kept = int(keep[net.axes[narrow].parts[0]].sum())
        if net.axes[wide].prunable:
            keep[net.axes[wide].parts[0][:least_kept]] = True
    return keep


def learn(model: nn.Module, net: Structure, seed: int = 0) -> list[Rule] | str:
    """The rules of a network, or why it has none.

    Args:
        model: The network; it is not touched.
        net: Its structure.
        seed: Of the choices that the rules are learned from.

    Raises:
        StructureError: if the network cannot be shrunk at all; see `structure.shrink`.
    """
    generator = torch.Generator().manual_seed(seed)
    twin = model if net.recording.real else clone(model, "meta")
    keeps = [random_keep(net, generator) for _ in range(_FITS)]
    made: list[Shrunk] = []
    for keep in keeps:
        small = shrink(twin, net, keep)
        if small.how != "in place":
            return "its Python code fixes sizes, so that every choice is a graph of its own"
        if small.scales:
            return "numbers in its code follow a size and are undone in the weights"
        if net.partition.shuffled.any():
            return "its channels are shuffled into an order that depends on the choice"
        made.append(small)
    modules = dict(model.named_modules())
    counts = net.sizes.counts(torch.stack([net.everything, *keeps]).numpy())
    rows = _Rows(net)
    rules: list[Rule] = []
    names = {(path, name) for small in made for path, values in small.attributes.items() for name in values}
    for path, name in sorted(names):
        dense = getattr(modules[path], name)
        seen = [dense, *[small.attributes.get(path, {}).get(name, dense) for small in made]]
        rule = _rule(path, name, seen, counts, rows)
        if rule is not None:
            rules.append(rule)  # what follows no size is a number that the code does not use
    adopted = made[0].adopted
    for keep in [random_keep(net, generator) for _ in range(_PROOFS)]:
        wrong = holds(twin, net, keep, attributes_at(rules, net.sizes.counts(keep.numpy())), adopted)
        if wrong is not None:
            return f"attributes of its modules follow no rule: {wrong}"
    return rules


def attributes_at(rules: list[Rule], counts: Ints) -> dict[str, dict[str, Any]]:
    """Module path -> {attribute: value} under some counts.

    Args:
        rules: As `learn` gives them.
        counts: (rows,) of `Sizes.counts`.
    """
    found: dict[str, dict[str, Any]] = {}
    for rule in rules:
        found.setdefault(rule.path, {})[rule.name] = rule.at(counts)
    return found


class _Rows:
    """Counts by the modules whose tensors they describe, the module's own first."""

    def __init__(self, net: Structure) -> None:
        run = net.runs[0]
        self._by: dict[str, set[int]] = {}
        self._total = 0
        for node in run.recording.nodes:
            for number in (*node.inputs, *node.outputs):
                if number >= 0 and run.table[number]:
                    for _, row in net.sizes.dims(run.table[number]):
                        self._note(node.module, row)
        for name, dims in net.labels.parameters.items():
            for layer in dims.values():
                for _, row in net.sizes.dims([layer]):
                    self._note(name.rpartition(".")[0], row)

    def _note(self, path: str, row: int) -> None:
        self._by.setdefault(path, set()).add(row)
        self._total = max(self._total, row + 1)

    def near(self, path: str) -> list[list[int]]:
        """Rows of the module, of what is in it, of what it is in, and all."""
        own = self._by.get(path, set())
        inner = set[int]().union(*[r for p, r in self._by.items() if p.startswith(f"{path}.") or not path])
        around, up = set[int](), path
        while up:
            up = up.rpartition(".")[0]
            around |= self._by.get(up, set())
        return [sorted(own), sorted(inner), sorted(around), list(range(self._total))]


def _rule(path: str, name: str, seen: list[Any], counts: Ints, rows: _Rows) -> Rule | None:
    kind = type(seen[0])
    numbers = [[v] if isinstance(v, int) else list(v) for v in seen]
    if kind not in (int, tuple, list) or len({len(n) for n in numbers}) != 1:
        return None
    found = []
    for column in zip(*numbers, strict=True):
        value = _value(np.array(column, dtype=np.int64), path, counts, rows)
        if value is None:
            return None
        found.append(value)
    return Rule(path, name, kind, tuple(found))


def _value(column: Ints, path: str, counts: Ints, rows: _Rows) -> Value | None:
    if (column == column[0]).all():
        return Value(-1, int(column[0]))
    for near in rows.near(path):
        if not near:
            continue
        index = np.array(near)
        table = counts[:, index]  # (choices, rows)
        fits = (table * column[0] == column[:, None] * table[0]).all(axis=0)
        if fits.any():
            hits = index[fits]
            same = hits[counts[0, hits] == column[0]]
            row = int(same[0] if len(same) else hits[0])
            return Value(row, int(column[0]), int(counts[0, row]))
    return None
