"""What a repeated unit does to the function, operator by operator.

Copies of a unit carry the same values, so operators that treat the members of an axis alike pass them on.
Where an axis *ends*, the copies are counted: a contraction with a parameter counts every copy, which the
parameter makes good (each copy gets its share of the weight: Chen et al., Net2Net, 2016); an average counts
them, which changes nothing when all members are there equally often; a sum, or a contraction of two
activations, counts them and nothing makes it good.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from netwright.structure.cost import CONVOLUTIONS, PRODUCTS
from netwright.structure.labels import Traced
from netwright.structure.layers import factor, varying
from netwright.structure.makers import NORMS, RESHAPES, Makers, Root
from netwright.structure.record import Node, Ref
from netwright.structure.rules import rule_for
from netwright.structure.rules.conv import POOLS

if TYPE_CHECKING:
    from netwright.structure.tracing import Structure

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

#: Why the parts of an axis that a shuffle interleaves cannot be repeated: a cut at the half of twice as many
#: positions leaves copies of one member on both sides.
INTERLEAVED = "its parts are interleaved, and copies would go other ways than their members"
#: Why the members of an axis whose parts differ in size are repeated equally often or not at all.
COUPLED = "its parts must keep sizes that fit each other"
#: Families of rules whose operators treat the members of an axis alike and one by one.
_ONE_BY_ONE = frozenset({"elementwise", "move", "factory", "index"})
_GROUP_NORMS = frozenset({"native_group_norm", "group_norm"})
#: Reductions to which a second copy of the same value adds nothing.
_EXTREMES = frozenset({"amax", "amin", "max", "min", "all", "any", "aminmax"})
_SAME = frozenset(
    "alias detach contiguous clone _to_copy to neg slice narrow split split_with_sizes chunk unsafe_split"
    " unsafe_chunk tensor_split unsafe_split_with_sizes flip roll lift_fresh positive".split()
)


@dataclass(frozen=True)
class Demand:
    """Classes of which the copies are counted.

    Attributes:
        rows: (rows, n) class ids.
        alike: True when repeating all classes of a row equally often changes nothing, False when they can
            be there once only.
        reason: What counts them, in words.
        node: The operator call.
    """

    rows: Ints
    alike: bool
    reason: str
    node: Node

    def broken(self, times: Ints) -> bool:
        """Whether a choice of multiplicities (count,) breaks it; members that are gone do not count."""
        there = times[self.rows]
        if not self.alike:
            return bool((there > 1).any())
        most = there.max(axis=1, keepdims=True)
        return bool(((there != most) & (there != 0)).any())


@dataclass(frozen=True)
class Shared:
    """Where copies share the weight of a parameter along one of its dimensions.

    Attributes:
        classes: Whose copies.
        rows: (size,) bool, the indices of which that holds; all when None.
    """

    classes: Ints
    rows: Bools | None = None


@dataclass
class Multiplicities:
    """What repeating means for a network.

    Attributes:
        demands: What restricts it.
        shared: Parameter -> {dimension: where copies share the weight}.
    """

    demands: list[Demand] = field(default_factory=list)
    shared: dict[str, dict[int, list[Shared]]] = field(default_factory=dict)

    def share(self, name: str, dim: int, classes: Ints, rows: Bools | None = None) -> None:
        """Let the copies of some classes share a parameter's weight along one of its dimensions."""
        found = self.shared.setdefault(name, {}).setdefault(dim, [])
        found.append(Shared(np.unique(classes), rows))

    def sharing(self, name: str, dim: int, classes: Ints, index: Ints) -> Bools | None:
        """Which slots of a parameter's dimension carry a share; None where none does.

        Args:
            name: The parameter.
            dim: The dimension.
            classes: (..., n) the class of every slot, 0 where nothing changes.
            index: (..., n) the dense index that every slot comes from.
        """
        found = self.shared.get(name, {}).get(dim)
        if found is None:
            return None
        out = np.zeros(classes.shape, np.bool_)
        for one in found:
            mine = np.isin(classes, one.classes)
            out |= mine if one.rows is None else mine & one.rows[index]
        return out


def multiplicities(net: Structure) -> Multiplicities:
    """Find where copies are counted.

    Args:
        net: The structure.
    """
    found = Multiplicities()
    uses: dict[int, list[tuple[Node, int | None]]] = {}
    ends: dict[tuple[int, int], list[_End]] = {}
    for run in net.runs:
        _Reading(net, run, found, uses, ends).read()
    names = {number: name for name, number in reversed(net.recording.parameters.items())}
    for (number, dim), where in ends.items():
        name = names[number]
        layer = net.layers.get(name, {}).get(dim)
        others = [node for node, contracted in uses[number] if contracted != dim]
        if layer is None:
            continue
        classes = layer[~net.frozen[layer]].numpy()
        if not others:
            found.share(name, dim, classes)
            continue
        makers = [end.reading.makers.of(end.activation, classes) for end in where]
        if all(made is not None for made in makers):
            for one in [one for made in makers for one in made or []]:
                found.share(one.name, one.dim, classes, one.rows)
            continue
        place = where[0].node.module or "the model itself"
        reason = f"{name} is contracted over it in {place} and used in another way here"
        found.demands.append(Demand(layer.reshape(1, -1).numpy(), False, reason, others[0]))
    return found


@dataclass(frozen=True)
class _End:
    """A contraction of an activation with a parameter."""

    reading: _Reading
    node: Node
    activation: int


class _Reading:
    """One recording being read."""

    def __init__(
        self,
        net: Structure,
        run: Traced,
        found: Multiplicities,
        uses: dict[int, list[tuple[Node, int | None]]],
        ends: dict[tuple[int, int], list[_End]],
    ) -> None:
        self.net, self.run, self.found, self.uses, self.ends = net, run, found, uses, ends
        self.shapes = run.recording.shapes
        parameters = run.recording.parameters.values()
        self.roots: dict[int, Root] = {p: (p, tuple(range(len(self.shapes[p])))) for p in parameters}
        self.makers = Makers(net, run.recording, self.roots)

    def read(self) -> None:
        for node in self.run.recording.nodes:
            contracted: dict[int, int] = {}
            if node.op in PRODUCTS:
                contracted = self._product(node)
            elif node.op in CONVOLUTIONS:
                contracted = self._convolution(node)
            else:
                self._other(node)
            if not self._pass_root(node):
                for number in node.inputs:
                    if number in self.roots:
                        use = (node, contracted.get(number))
                        self.uses.setdefault(self.roots[number][0], []).append(use)

    def layers(self, number: int) -> list[Tensor]:
        """Class labels of a tensor; a frozen class is there once, like the zeroth."""
        found = [self.net.sizes.classes(layer) for layer in self.run.table[number]]
        return [layer.masked_fill(self.net.frozen[layer], 0) for layer in found]

    def rows(self, number: int, dims: tuple[int, ...]) -> Iterator[Ints]:
        """Class labels along some dimensions (rows, n), for every layer that varies there."""
        for layer in self.layers(number):
            inside = [d for d in varying(layer) if d in dims]
            if inside:
                moved = layer.movedim(inside, list(range(layer.dim() - len(inside), layer.dim())))
                size = int(np.prod([layer.shape[d] for d in inside]))
                yield moved.reshape(-1, size).numpy()

    def demand(self, rows: Ints, alike: bool, reason: str, node: Node) -> None:
        if rows.any():
            self.found.demands.append(Demand(rows, alike, reason, node))

    def _pass_root(self, node: Node) -> bool:
        """Follow a parameter through views and multiplications by numbers."""
        root = self.roots.get(node.inputs[0]) if node.inputs else None
        if root is None or len(node.inputs) > 1:
            return False
        number = node.inputs[0]
        passed = False
        for out in node.outputs:
            if out >= 0:
                dims = _through(node, root[1], self.shapes[number], self.shapes[out])
                if dims is not None:
                    self.roots[out] = (root[0], dims)
                    passed = True
        return passed

    def _product(self, node: Node) -> dict[int, int]:
        a, b = node.inputs[-2:] if node.op in ("mm", "bmm") else node.inputs[1:3]
        rank = len(self.shapes[a])
        rows = [*self.rows(a, (rank - 1,)), *self.rows(b, (rank - 2,))]
        contracted = {}
        for number, dim in ((a, rank - 1), (b, rank - 2)):
            if number in self.roots:
                contracted[number] = self.roots[number][1][dim]
        if not any(r.any() for r in rows):
            return contracted
        for number, other in ((b, a), (a, b)):
            if contracted.get(number, -1) >= 0:
                key = (self.roots[number][0], contracted[number])
                self.ends.setdefault(key, []).append(_End(self, node, other))
                return contracted
        classes = np.unique(np.concatenate([r.reshape(-1) for r in rows]))
        made = self.makers.of(a, classes) or self.makers.of(b, classes)
        if made is not None:
            for one in made:
                self.found.share(one.name, one.dim, classes, one.rows)
            return contracted
        for r in rows:
            self.demand(r, False, "two computed tensors are contracted over it", node)
        return contracted

    def _convolution(self, node: Node) -> dict[int, int]:
        x, w = node.inputs[:2]
        plain = node.op == "mkldnn_convolution"
        transposed = not plain and bool(node.args[6])
        groups = int(node.args[6] if plain else node.args[8])
        rows = np.concatenate(
            [np.zeros((0, self.shapes[x][1] // groups), np.int64), *self._channels(x, groups)]
        )
        root = self.roots.get(w)
        column = 0 if transposed else 1
        contracted = {w: root[1][column]} if root is not None and root[1][column] >= 0 else {}
        ending = (rows != rows[:, :1]).any() or (groups == 1 and rows.any())
        if not ending:  # every group is one class: the copies of a group are groups
            return {}
        if w in contracted and root is not None:
            self.ends.setdefault((root[0], contracted[w]), []).append(_End(self, node, x))
        else:
            self.demand(rows, False, "the weight that is contracted over it is computed", node)
        return contracted

    def _channels(self, x: int, groups: int) -> list[Ints]:
        return [r.reshape(-1, r.shape[1] // groups) for r in self.rows(x, (1,))]

    def _other(self, node: Node) -> None:
        rule = rule_for(node)
        if rule is None or not node.inputs:
            return  # an operator without a rule has frozen what it touches
        x = node.inputs[0]
        rank = len(self.shapes[x])
        family = rule.__module__.rpartition(".")[2]
        if node.op in NORMS:
            dims = tuple(range(rank - len(node.args[1]), rank))
            for rows in self.rows(x, dims):
                self.demand(rows, True, f"{node.op} averages over it", node)
        elif node.op in _GROUP_NORMS:
            groups = node.args[6] if node.op == "native_group_norm" else node.args[1]
            for rows in self.rows(x, (1,)):
                self.demand(rows.reshape(groups, -1), True, f"{node.op} averages over it", node)
        elif "batch_norm" in node.op or node.op == "instance_norm":
            for rows in self.rows(x, tuple(d for d in range(rank) if d != 1)):
                self.demand(rows, True, f"{node.op} averages over it", node)
        elif "weight_norm" in node.op:
            scaled = node.args[2] if len(node.args) > 2 else 0
            for rows in self.rows(x, tuple(d for d in range(rank) if d != scaled)):
                self.demand(rows, False, f"{node.op} adds up over it", node)
        elif family == "reduce" and len(node.inputs) == 1:
            self._reduction(node, x, rank)
        elif family not in _ONE_BY_ONE and family != "reduce" and node.op != "glu":
            dims = tuple(range(2, rank)) if node.op in POOLS else tuple(range(rank))
            for number in node.inputs:
                for rows in self.rows(
                    number, dims if number == x else tuple(range(len(self.shapes[number])))
                ):
                    self.demand(rows, False, f"what {node.op} does to copies is not known", node)

    def _reduction(self, node: Node, x: int, rank: int) -> None:
        if node.op in _EXTREMES:
            return
        alike = node.op == "mean"
        if node.op in ("var", "std", "var_mean", "std_mean"):
            alike = node.kwargs.get("correction", 1) == 0 or node.kwargs.get("unbiased") is False
        verb = "averages" if alike else "counts every copy"
        for rows in self.rows(x, _reduced(node, rank)):
            self.demand(rows, alike, f"{node.op} {verb} over it", node)


def _reduced(node: Node, rank: int) -> tuple[int, ...]:
    """The dimensions that a reduction ends or runs along."""
    index = 2 if node.op in ("linalg_vector_norm", "norm", "topk", "kthvalue") else 1
    value: Any = node.args[index] if len(node.args) > index else node.kwargs.get("dim")
    if value is None or value == [] or isinstance(value, bool):
        return tuple(range(rank))
    return tuple(d % rank for d in ([value] if isinstance(value, int) else value))


def _through(
    node: Node, dims: tuple[int, ...], old: tuple[int, ...], new: tuple[int, ...]
) -> tuple[int, ...] | None:
    """The root dimensions of an operator's output, None when it computes something new."""
    op, rank = node.op, len(old)
    if op in ("t", "numpy_T"):
        return dims[::-1]
    if op in ("transpose", "swapaxes"):
        order = list(range(rank))
        a, b = node.args[1] % rank, node.args[2] % rank
        order[a], order[b] = b, a
        return tuple(dims[d] for d in order)
    if op == "permute":
        return tuple(dims[d % rank] for d in node.args[1])
    if op in ("expand", "broadcast_to"):
        return (-1,) * (len(new) - rank) + dims
    if op in ("select", "unbind"):
        gone = (node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)) % rank
        return dims[:gone] + dims[gone + 1 :]
    if op in RESHAPES:
        out = [-1] * len(new)
        for a, b in factor(old, new):
            sources = {dims[d] for d in a if old[d] > 1}
            for d in b:
                out[d] = sources.pop() if len(sources) == 1 and len(b) == 1 else -1
                if len(b) > 1:
                    out[d] = next(iter(sources)) if len(sources) == 1 and new[d] > 1 else -1
        return tuple(out)
    by_number = op in ("mul", "div") and not any(isinstance(a, Ref) for a in node.args[1:])
    return dims if (op in _SAME or by_number) and rank == len(new) else None
