"""Carry an index map out: reordered, repeated or removed members, checked to be the same function."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from netwright.errors import StructureError, UsageError
from netwright.structure.check import Precision, check
from netwright.structure.copying import deep_copy
from netwright.structure.following import settle
from netwright.structure.inputs import Inputs
from netwright.structure.maps import IndexMap, Layout, interchangeable, width
from netwright.structure.multiplicity import COUPLED, INTERLEAVED, Multiplicities, multiplicities
from netwright.structure.repeating import interleaved, repeatable, uneven
from netwright.structure.scales import fit_scales, multiply_scales
from netwright.structure.sizes import scale
from netwright.structure.sources import where
from netwright.structure.surgery import Change, Kept, Shrunk, carry_out, replay, shrink
from netwright.structure.tracing import Structure

#: Largest relative difference in float64.
TOLERANCE = 1e-10


@dataclass(frozen=True)
class Remapped(Shrunk):
    """A network after an index map.

    Attributes:
        map: What was done.
        factors: Parameter -> {dimension: factors that fit its `kept`}: the shares of repeated members.
        error: Largest relative difference to the given network in float64 (with removed members at zero),
            NaN when it was not verified.
    """

    map: IndexMap = field(default_factory=IndexMap)
    factors: Mapping[str, Mapping[int, Tensor]] = field(default_factory=dict)
    error: float = float("nan")


def remap(
    model: nn.Module,
    net: Structure,
    change: IndexMap,
    *,
    shares: Tensor | None = None,
    verify: bool = True,
) -> Remapped:
    """Reorder, repeat and remove members of tied axes.

    Args:
        model: The model that was traced; it is not touched.
        net: Its structure.
        change: What becomes of the axes.
        shares: (places,) how much of a member's weight each of its copies carries, summing to 1 over the
            copies of a member, in the order of `Layout.source`; equal when None.
        verify: Compare with the given network in float64 on the example.

    Raises:
        UsageError: if the map does not fit the network, or changes a frozen axis.
        StructureError: if repeating would change the function, if the module's Python code cannot take the
            new sizes, or if the comparison fails; names operator and module.
    """
    change.validate(net)
    layout = Layout(net, change)
    _same_kinds(net, change, layout)
    _whole_paths(net, layout)
    repeats = bool((layout.times > 1).any())
    counted = multiplicities(net) if repeats else Multiplicities()
    for demand in counted.demands:
        if demand.broken(layout.times):
            hit = demand.rows[layout.times[demand.rows] > 1]
            name = next((a.name for a in net.axes if bool(np.isin(a.cells.numpy(), hit).any())), "an axis")
            raise StructureError(
                f"repeating {name} like this would change the function: {demand.reason} "
                f"({where(demand.node)})",
                "repeat all its members equally often" if demand.alike else "leave it as it is",
            )
    if shares is None:
        shares = torch.from_numpy(1.0 / layout.shares)
    kept, factors = _kept(net, layout, counted, shares)
    plan = Change(kept, torch.from_numpy(layout.times), layout.order, factors)
    if not repeats and not layout.moves:
        made = shrink(model, net, plan.times > 0)
    else:
        made = carry_out(model, net, plan)
    error = _verify(model, net, made, plan) if verify else float("nan")
    return Remapped(**vars(made), map=change, factors=factors, error=error)


def permute(model: nn.Module, net: Structure, change: IndexMap, *, verify: bool = True) -> Remapped:
    """Reorder the members of tied axes; the function stays.

    Args:
        model: The model that was traced; it is not touched.
        net: Its structure.
        change: A permutation of the members of some axes, see `sort_by`.
        verify: Compare with the given network in float64 on the example.

    Raises:
        UsageError: if the map is no permutation, does not fit, or exchanges members that are not alike.
        StructureError: see `remap`.
    """
    change.validate(net)
    sizes = {axis.name: width(axis) for axis in net.axes}
    for name, table in change.tables.items():
        if table.shape[1] != sizes[name] or not IndexMap({name: table}).permutes:
            raise UsageError(f"the map of {name} is no permutation", "use `remap` to lose or repeat members")
    return remap(model, net, change, verify=verify)


def widen(
    model: nn.Module,
    net: Structure,
    to: IndexMap | Mapping[str, int] | int,
    *,
    generator: torch.Generator | None = None,
    noise: float = 0.0,
    verify: bool = True,
) -> Remapped:
    """Repeat members of tied axes; the function stays (Chen et al., Net2Net, 2016).

    Args:
        model: The model that was traced; it is not touched.
        net: Its structure.
        to: A map, the new size of some axes by name, or how often every member of every axis that allows it
            shall be there.
        generator: Draws which members are repeated and how much of the weight each copy carries, which lets
            copies train apart while the function is still exactly the same. Without it, the first members
            are repeated and copies carry equal shares.
        noise: Standard deviation of what is added to the parameters of copies, relative to that of the
            parameter; 0 adds nothing, and the function is the same exactly.
        verify: Compare with the given network in float64 on the example, before any noise.

    Raises:
        UsageError: if an axis would become smaller, or `noise` comes without a generator.
        StructureError: if repeating would change the function; see `remap`.
    """
    if noise and generator is None:
        raise UsageError("noise needs a generator", "give generator=torch.Generator().manual_seed(0)")
    change = to if isinstance(to, IndexMap) else wider(net, to, generator)
    change.validate(net)
    if not bool(change.keep(net).all()):
        raise UsageError("the map loses members", "use `remap` to lose and repeat members at once")
    shares = _drawn_shares(Layout(net, change), generator) if generator is not None else None
    made = remap(model, net, change, shares=shares, verify=verify)
    if noise and generator is not None:
        _disturb(made, Layout(net, change), net, noise, generator)
    return made


def wider(net: Structure, to: Mapping[str, int] | int, generator: torch.Generator | None = None) -> IndexMap:
    """The map to larger sizes: the members as they were, then the copies.

    Args:
        net: The structure.
        to: New sizes by axis name, or how often every member shall be there, on every axis that allows it.
        generator: Draws which members are repeated; the first ones when None.

    Raises:
        UsageError: if a size is smaller than the axis is.
    """
    if isinstance(to, int):
        able = {r.axis for r in repeatable(net) if r.kind != "once"}
        to = {axis.name: width(axis) * to for axis in net.prunable if axis.name in able}
    axes = {axis.name: axis for axis in net.axes}
    kinds = interchangeable(net)
    tables = {}
    for name, size in to.items():
        axis = axes.get(name)
        if axis is None:
            raise UsageError(f"the network has no axis {name!r}")
        if size < width(axis):
            raise UsageError(
                f"{name} has {width(axis)} members, {size} would be fewer", "use `shrink` to remove"
            )
        rows = [
            _copies_last(_chosen(width(axis), size, generator), kinds[cell], width(axis))
            for cell in axis.cells
        ]
        tables[name] = torch.stack(rows)
    return IndexMap(tables)


def _chosen(old: int, new: int, generator: torch.Generator | None) -> Tensor:
    """Members (new,) in order, each as often as it shall be there."""
    extra = new - old * (new // old)
    first = torch.arange(old) if generator is None else torch.randperm(old, generator=generator)
    return torch.cat([torch.arange(old).repeat(new // old), first[:extra]]).sort().values


def _copies_last(members: Tensor, kinds: Tensor, size: int) -> Tensor:
    """Order members so that the first of each come before the copies, among those that can change places."""
    times = torch.bincount(members, minlength=size)
    number = torch.arange(len(members)) - (torch.cumsum(times, 0) - times)[members]
    table = members.clone()
    for kind in kinds.unique():
        places = (kinds[members] == kind).nonzero().reshape(-1)
        table[places] = members[places[torch.argsort(number[places], stable=True)]]
    return table


def _drawn_shares(layout: Layout, generator: torch.Generator) -> Tensor:
    raw = 0.5 + torch.rand(len(layout.source), generator=generator, dtype=torch.float64)
    source = torch.from_numpy(layout.source)
    total = torch.zeros(len(layout.times), dtype=torch.float64).index_add_(0, source, raw)
    return raw / total[source]


def _whole_paths(net: Structure, layout: Layout) -> None:
    """Refuse what would send members of parts along other paths than their own, or leave unequal parts."""
    for axis in net.axes:
        if axis.coupling is None:
            continue
        times = layout.times[axis.cells.numpy()]
        repeats, cuts = bool((times > 1).any()), bool((times == 0).any())
        if interleaved(net, axis) and (repeats or (cuts and layout.moves)):
            raise StructureError(
                f"{axis.name} cannot be repeated, or cut and reordered at once: {INTERLEAVED}",
                "remove or reorder its members, one after the other",
            )
        if (repeats and (times.min() != times.max() or uneven(net, axis))) or (cuts and layout.moves):
            raise StructureError(
                f"{axis.name} cannot be repeated unevenly, or cut and reordered at once: {COUPLED}",
                "repeat all its members equally often, or remove or reorder them, one after the other",
            )


def _same_kinds(net: Structure, change: IndexMap, layout: Layout) -> None:
    """Refuse to exchange members that lie in different tensors."""
    if not layout.moves:
        return
    kinds = interchangeable(net)
    for axis, table in change._on(net):
        now = kinds[axis.cells.gather(1, table)]
        before = kinds[axis.cells.gather(1, table.sort(dim=1).values)]
        if not torch.equal(now, before):
            raise UsageError(
                f"members of {axis.name} that lie in different tensors cannot change places (a slice or a "
                "split takes some of them)",
                "reorder only members that `interchangeable` calls alike",
            )


def _kept(
    net: Structure, layout: Layout, counted: Multiplicities, shares: Tensor
) -> tuple[Kept, dict[str, dict[int, Tensor]]]:
    """Indices and factors of every parameter."""
    kept: Kept = {}
    factors: dict[str, dict[int, Tensor]] = {}
    for name, dims in net.layers.items():
        for dim, layer in dims.items():
            found = layout.parameter(layer, dim)
            if found is None:
                continue
            index, place = found
            kept.setdefault(name, {})[dim] = index
            slot = place.clamp(min=0)
            there = place >= 0
            known = np.where(there, layout.source[slot] if len(layout.source) else 0, 0)
            sharing = counted.sharing(name, dim, known, index.numpy())
            if sharing is not None:
                factor = torch.where(torch.from_numpy(sharing), shares[slot], 1.0)
                if bool((factor != 1).any()):
                    factors.setdefault(name, {})[dim] = factor
    return kept, factors


def _verify(model: nn.Module, net: Structure, made: Shrunk, plan: Change) -> float:
    """The largest relative difference in float64."""
    keep = plan.times > 0
    if bool(keep.all()):
        given = _exactly(net.inputs)
        network = _double(model)
        wanted = _outputs(lambda inputs: inputs.call(network), given)
        del network  # one at a time in memory
        network = _changed(model, net, made, plan)
        error = _difference(wanted, _outputs(lambda inputs: inputs.call(network), given))
    else:
        error = check(_double(model), net, keep, _changed(model, net, made, plan)).error
    if not error <= TOLERANCE:
        raise StructureError(
            f"{net.name} computes something else after the change: the relative difference is {error:.3g}",
            "leave the last axis that you changed as it is",
        )
    return error


def _double(model: nn.Module) -> nn.Module:
    return deep_copy(model).to("cpu", torch.float64).eval()


def _changed(model: nn.Module, net: Structure, made: Shrunk, plan: Change) -> nn.Module:
    """The changed network in float64; shares such as 1/3 are rounded to the precision of the parameter."""
    if not plan.factors and not made.scales:
        return _double(made.model)
    if made.how == "in place":
        factors = multiply_scales(plan.factors, fit_scales(made.scales, made.kept))
        return replay(_double(model), made.kept, made.attributes, made.adopted, factors).eval()
    exact = copy.copy(net)
    exact.inputs = net.inputs.map(lambda x: x.double() if x.is_floating_point() else x)
    return carry_out(_double(model), exact, plan, made.how).model.eval()


def compare(reference: Callable[[Inputs], Any], network: nn.Module, inputs: Inputs) -> float:
    """Largest difference of any output to a reference, relative to the reference's largest value.

    Args:
        reference: Gives the wanted outputs of float64 inputs on the CPU.
        network: A network in float64 on the CPU.
        inputs: The example inputs.

    Returns:
        Infinity when shapes differ or something is not a number.

    Raises:
        ModelError: if the network rejects the inputs.
    """
    given = _exactly(inputs)
    return _difference(_outputs(reference, given), _outputs(lambda x: x.call(network), given))


def _exactly(inputs: Inputs) -> Inputs:
    return inputs.map(lambda x: x.detach().cpu().double() if x.is_floating_point() else x.detach().cpu())


def _outputs(run: Callable[[Inputs], Any], given: Inputs) -> list[Tensor]:
    """What a network returns, in float64 throughout; one that draws noise draws the same each time."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]), Precision(torch.float64):
        torch.manual_seed(0)
        leaves = pytree.tree_leaves(run(given.map(torch.clone)))
        return [x.double() for x in leaves if isinstance(x, Tensor)]


def _difference(wanted: list[Tensor], got: list[Tensor]) -> float:
    worst = 0.0 if len(wanted) == len(got) else float("inf")
    for x, y in zip(wanted, got, strict=False):
        if x.shape != y.shape:
            return float("inf")
        if x.numel():
            error = float((x - y).abs().max() / x.abs().max().clamp(min=1e-30))
            worst = max(worst, error) if error == error else float("inf")
    return worst


def _disturb(
    made: Remapped, layout: Layout, net: Structure, noise: float, generator: torch.Generator
) -> None:
    """Add noise to the parameters of all copies but the first of a member."""
    first = np.unique(layout.source, return_index=True)[1]
    later = torch.ones(len(layout.source), dtype=torch.bool)
    later[torch.from_numpy(first)] = False
    named = dict(made.model.named_parameters(remove_duplicate=False))
    for name, dims in made.kept.items():
        if name not in named:
            continue
        with torch.no_grad():
            parameter = named[name]
            still = torch.ones_like(parameter)
            for dim in dims:
                found = layout.parameter(net.layers[name][dim], dim)
                assert found is not None
                copied = (found[1] >= 0) & later[found[1].clamp(min=0)]
                still = scale(still, {dim: (~copied).double()}, dims.get(0), net.layers[name][dim].shape[0])
            drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(parameter)
            parameter.add_(drawn * (1 - still) * noise * parameter.std())
    settle(made.model)
