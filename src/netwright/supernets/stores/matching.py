"""Which values of a dim pull shared weights in different directions, and how to part them.

S. Hu, R. Wang, L. Hong, Z. Li, C.-J. Hsieh and J. Feng, Generalizing Few-Shot NAS with Gradient Matching,
ICLR 2022, section 3: the gradients that the values of one dim give to the weights that all of them use are
compared; values whose gradients disagree are better kept in supernets of their own.
"""

from __future__ import annotations

import copy
import dataclasses
import fnmatch
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from netwright.data import Part
from netwright.errors import UsageError
from netwright.nas.choice import Choice
from netwright.nas.dim import Dim
from netwright.nas.dims import Categorical, Ordinal
from netwright.nas.space import SearchSpace
from netwright.supernets.network.elastic import Elastic
from netwright.supernets.stores.belonging import Belongings, sliced
from netwright.train.losses import cross_entropy

#: Group of values -> positions of the values.
Groups = tuple[tuple[int, ...], ...]
METRICS = ("cosine", "mse", "filters")
#: Values that all partitions are tried of.
_MOST = 10


def shared_names(sup: Elastic, dim: str, exclude: Sequence[str] | None = None) -> frozenset[str]:
    """Names of the parameters that all values of a dim use, at least in part.

    Args:
        sup: The supernet.
        dim: Name of the dim.
        exclude: Patterns of names to leave out; None leaves out the first and the last module with
            parameters.

    Raises:
        UsageError: if nothing is left.
    """
    belongings = Belongings(sup)
    names = [name for name, _ in sup.network.named_parameters()]
    base = sup.space.max()
    of_all = frozenset.intersection(
        *(belongings.used(dim, base.replace(**{dim: value})) for value in sup.space.dim(dim).each())
    )
    kept = (frozenset(names) - belongings.parameters[dim]) | of_all
    patterns = _ends(sup) if exclude is None else list(exclude)
    found = frozenset(n for n in kept if not any(fnmatch.fnmatchcase(n, p) for p in patterns))
    if not found:
        raise UsageError(f"the values of {dim!r} share no parameter", "exclude fewer")
    return found


def _ends(sup: Elastic) -> list[str]:
    """Patterns of the parameters of the first and the last module that have any, as they run."""
    recording = sup.blueprint.structure.recording
    owners = {name.rpartition(".")[0] for name in recording.parameters}
    order = [node.module for node in recording.nodes if node.module in owners]
    return [f"{order[0]}.*", f"{order[-1]}.*"] if order else []


def gradient_distances(
    sup: Elastic,
    data: Part,
    dim: str,
    *,
    space: SearchSpace | None = None,
    repeats: int = 100,
    batch_size: int = 64,
    metric: str = "cosine",
    exclude: Sequence[str] | None = None,
    weights: Mapping[str, Tensor] | None = None,
    seed: int = 0,
) -> Tensor:
    """How far apart the gradients are that the values of a dim give to what they share.

    Every repeat draws a batch and a value for every other dim, and runs all values of the dim on them.

    Args:
        sup: The supernet; it is left alone.
        data: Training examples, with classes.
        dim: Name of a dim that always matters.
        space: The sub-networks to draw; all of the supernet's when None.
        repeats: Batches, each with a path of its own.
        batch_size: Examples of a batch.
        metric: "cosine": 1 less the cosine of all shared gradients as one vector; "mse": the squared
            distance; "filters": 1 less the cosine, summed over output channels.
        exclude: Patterns of parameters to leave out; see `shared_names`.
        weights: Name of a dim -> (values,) of a mixture that the other dims stay at, in place of paths that
            are drawn: for supernets that are trained as mixtures (DARTS, SNAS).
        seed: Of the draws.

    Returns:
        (values, values) float64, symmetric with a zero diagonal, the mean over the repeats. Values are those
        of `space`.

    Raises:
        UsageError: if the dim does not always matter, or there is no such metric.
    """
    space = sup.space if space is None else space
    values = splittable(space, dim)
    if metric not in METRICS or repeats < 1:
        raise UsageError(f"metric={metric!r}, repeats={repeats} do not do", f"metrics: {', '.join(METRICS)}")
    model = copy.deepcopy(sup).train()
    names = shared_names(model, dim, exclude)
    least = sup.space.min()[dim]
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    total = torch.zeros(len(values), len(values), dtype=torch.float64)
    for _ in range(repeats):
        positions = torch.randperm(len(data), generator=generator)[:batch_size]
        x, y = next(data.subset(positions).batches(batch_size))
        path = space.sample(rng)
        gradients = [_gradients(model, path, dim, v, least, names, x, y, weights) for v in values]
        for i, j in itertools.combinations(range(len(values)), 2):
            total[i, j] += distance(gradients[i], gradients[j], metric)
    total = total / repeats
    return total + total.T


def splittable(space: SearchSpace, dim: str) -> list[Any]:
    """The values of a dim that always matters.

    Args:
        space: The space.
        dim: Name of the dim.

    Raises:
        UsageError: if it matters only sometimes.
    """
    if space.dim(dim).condition is not None:
        raise UsageError(f"{dim!r} matters only sometimes", "split by dims that always do")
    return list(space.dim(dim).each())


def only(space: SearchSpace, dim: str, value: Any) -> Tensor:
    """The mixture of a dim that is one of its values.

    Args:
        space: The space.
        dim: Name of the dim.
        value: The value.

    Returns:
        (values,): a one and zeros.
    """
    return torch.tensor([float(v == value) for v in space.dim(dim).each()])


def _gradients(
    model: Elastic,
    path: Choice,
    dim: str,
    value: Any,
    least: Any,
    names: frozenset[str],
    x: Tensor,
    y: Tensor,
    weights: Mapping[str, Tensor] | None,
) -> list[Tensor]:
    """Gradients of the shared parameters, those on the dim itself only where its least value uses them."""
    device = next(model.parameters()).device
    model.zero_grad(set_to_none=True)
    if weights is None:
        model.set(path.replace(**{dim: value}))
    else:
        model.set_mixture({**weights, dim: only(model.space, dim, value)})
    cross_entropy(model(x.to(device)), y.to(device)).backward()  # type: ignore[no-untyped-call]
    found = {
        name: (torch.zeros_like(p) if p.grad is None else p.grad).detach().clone()
        for name, p in model.network.named_parameters()
        if name in names
    }
    own = Belongings(model).parameters[dim] & names
    if own:
        found |= sliced(model, {n: found[n] for n in own}, {**model.blueprint.full, dim: least})
    return list(found.values())


def distance(one: Sequence[Tensor], other: Sequence[Tensor], metric: str = "cosine") -> float:
    """How far apart two gradients are.

    Args:
        one: Of each parameter.
        other: Likewise.
        metric: See `gradient_distances`.
    """
    if metric == "filters":
        return sum(float((1 - _cosine(a.flatten(1), b.flatten(1))).sum()) for a, b in _rows(one, other))
    a = torch.cat([t.reshape(-1).double() for t in one])
    b = torch.cat([t.reshape(-1).double() for t in other])
    if metric == "mse":
        return float(((a - b) ** 2).sum())
    return float(1 - _cosine(a[None], b[None]))


def _rows(one: Sequence[Tensor], other: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Parameters with an output channel along the first dimension."""
    return ((a.double(), b.double()) for a, b in zip(one, other, strict=True) if a.dim() > 1)


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    """Of rows, in -1..1; 1 for two that are 0, 0 for one."""
    norms = torch.linalg.vector_norm(a, dim=1) * torch.linalg.vector_norm(b, dim=1)
    both = (a == 0).all(1) & (b == 0).all(1)
    found = (a * b).sum(1) / norms.clamp_min(torch.finfo(a.dtype).tiny)
    return torch.where(both, torch.ones_like(found), found.clamp(-1.0, 1.0))


def max_cut(distances: Tensor, groups: int = 2, *, balanced: bool = True) -> tuple[Groups, float]:
    """The partition with the least distances inside its groups, that is the largest between them.

    All partitions are tried.

    Args:
        distances: (values, values), symmetric.
        groups: How many; none is empty.
        balanced: Only groups whose sizes differ by one at most.

    Returns:
        The groups, and the sum of the distances between them, each pair once.

    Raises:
        UsageError: if there are fewer values than groups, or too many values.
    """
    count = len(distances)
    if not 2 <= groups <= count or count > _MOST:
        raise UsageError(
            f"{count} values cannot be parted into {groups}", f"2 groups or more of up to {_MOST}"
        )
    upper = torch.triu(distances.double(), 1).numpy()
    best: tuple[float, Groups] | None = None
    for parts in partitions(count, groups):
        if balanced and max(map(len, parts)) - min(map(len, parts)) > 1:
            continue
        inside = float(sum(upper[np.ix_(part, part)].sum() for part in parts))
        if best is None or inside < best[0]:
            best = (inside, parts)
    assert best is not None
    return best[1], float(upper.sum()) - best[0]


def partitions(count: int, groups: int) -> Iterator[Groups]:
    """All ways to part the numbers below `count` into non-empty groups without an order.

    Args:
        count: How many numbers.
        groups: How many groups.
    """

    def grow(number: int, parts: list[list[int]]) -> Iterator[Groups]:
        if groups - len(parts) > count - number:
            return
        if number == count:
            yield tuple(map(tuple, parts))
            return
        for part in parts:
            part.append(number)
            yield from grow(number + 1, parts)
            part.pop()
        if len(parts) < groups:
            parts.append([number])
            yield from grow(number + 1, parts)
            parts.pop()

    return grow(0, [])


def restricted(space: SearchSpace, region: Mapping[str, Sequence[Any]]) -> SearchSpace:
    """A space in which some dims have fewer values.

    Args:
        space: The space.
        region: Name of a dim that always matters -> the values that stay.

    Raises:
        UsageError: if a dim is not there, matters only sometimes or has no such value.
    """
    dims: list[Dim] = []
    for dim in space.dims:
        if dim.name in region:
            kept = [v for v in splittable(space, dim.name) if v in set(region[dim.name])]
            if len(kept) != len(region[dim.name]):
                raise UsageError(f"{list(region[dim.name])} are not values of {dim.name!r}")
            if isinstance(dim, Categorical):
                dim = dataclasses.replace(dim, options=tuple(kept))
            elif isinstance(dim, Ordinal):
                dim = dataclasses.replace(dim, values=tuple(kept))
            else:
                raise UsageError(f"{dim.name!r} cannot have fewer values", "divide by listed values")
        dims.append(dim)
    for name in set(region) - {dim.name for dim in space.dims}:
        space.dim(name)
    return SearchSpace(dims)
