"""A convex combination of sub-networks, formed in weight space: one forward pass at the cost of the largest.

A convolution or product of a slice, padded with zeros, is linear in the slice: the weighted sum over all
slices is one operator with the weighted sum of the padded weights (TangleNAS). Leading slices nest, so that
sum is the full weight times one factor a member: the weight of all sizes that hold it. Where input and output
are the same decision the factor of an element is that of the later of its two members. Normalisations are not
linear in the number of channels, and depths and candidate modules not in the weights: those are mixed on
their outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from netwright.errors import UsageError
from netwright.structure.layers import varying
from netwright.supernets.network.binding import Places, Plan
from netwright.supernets.network.blueprint import RESOLUTION, Blueprint
from netwright.supernets.network.dims import Depth, OneOf, Operation, Presence
from netwright.supernets.network.factors import Weights, members, memberships, middle_factor
from netwright.supernets.network.labelled import Site, Sites
from netwright.supernets.network.masking import override_forward, run_slice
from netwright.supernets.network.pool_mixing import mix as mix_poolings
from netwright.supernets.network.pooling import POOL

#: Norms: "outputs" mixes the outputs of the slices' norms, "affine" multiplies the affine weights only.
NORMS = ("outputs", "affine")


class Mixing:
    """Runs convex combinations of the sub-networks of one supernet.

    Args:
        network: The full network.
        blueprint: What can be chosen of it.
        places: Where its tensors are.
        norm: "outputs" is what makes a one-hot mixture equal the slice; "affine" leaves the statistics over
            all channels, as TangleNAS's released code does.

    Raises:
        UsageError: if every choice is a graph of its own, or `norm` is not known.
    """

    def __init__(
        self, network: nn.Module, blueprint: Blueprint, places: Places, norm: str = "outputs"
    ) -> None:
        if blueprint.rules is None:
            raise UsageError("every choice of this network is a graph of its own", "set one choice at a time")
        if norm not in NORMS:
            raise UsageError(f"norm={norm!r} is not known", f"choose from {', '.join(NORMS)}")
        self.network, self.blueprint, self.places, self.norm = network, blueprint, places, norm
        net = blueprint.structure
        self._dims = {
            d.name: d
            for d in (*blueprint.widths, *blueprint.depths, *blueprint.kernels, *blueprint.operations)
        }
        self._axis_of, self._position = members(net, blueprint.widths)
        self._owner = {a: w for w in blueprint.widths for a in w.axes}
        sites = Sites(network, net, ~blueprint.least).found
        self._norms = [s for s in sites if s.kind == "norm" and s.takes is not None]
        self._plain = [s for s in sites if s.kind == "batch norm" and self._weightless(s)]

    def _weightless(self, site: Site) -> bool:
        return site.takes is not None and self.places.modules[site.path].weight is None

    def check(self, weights: Weights) -> dict[str, Tensor]:
        """Weights of every dim; those left out are wholly the largest value's, poolings where they were.

        Args:
            weights: Name of a dim -> (values,).

        Raises:
            UsageError: if a dim is not there or has another number of values.
        """
        found = {}
        for name, dim in self._dims.items():
            count = 2 if isinstance(dim, Presence) else len(dim.values)
            given = weights.get(name)
            if given is None:
                given = torch.zeros(count)
                given[-1] = 1.0
            if given.shape != (count,):
                raise UsageError(f"{name} has {count} values, its weights have shape {tuple(given.shape)}")
            found[name] = given
        if POOL in weights and self.blueprint.poolings is not None:
            found[POOL] = weights[POOL]
            count = len(list(self.blueprint.space.dim(POOL).each()))
            if found[POOL].shape != (count,):
                raise UsageError(f"{POOL} has {count} values, its weights {tuple(found[POOL].shape)}")
        lost = set(weights) - set(found)
        if lost:
            why = "it is not mixed" if lost & {RESOLUTION, POOL} else "it is not a dim of the supernet"
            raise UsageError(f"there is no mixture over {sorted(lost)[0]!r}: {why}")
        return found

    @contextmanager
    def laid(self, weights: Weights, own: Mapping[str, Tensor] | None = None) -> Iterator[None]:
        """Let the network run as a mixture.

        Args:
            weights: As `check` gives them.
            own: Parameters that are mixed already.
        """
        factors = memberships(self.blueprint, weights)
        tensors = self._tensors(weights, factors) | dict(own or {})
        undo: list[Callable[[], None]] = []
        try:
            for site in self._norms if self.norm == "outputs" else ():
                module = self.places.modules[site.path]
                override_forward(module, self._normed(site, module, weights), undo)
            for site in self._plain:
                override_forward(self.places.modules[site.path], self._weighted(site, factors), undo)
            for depth in self.blueprint.depths:
                self._deepened(depth, weights[depth.name], undo)
            for operation in self.blueprint.operations:
                place = self.places.modules[operation.path]
                assert isinstance(place, OneOf)
                override_forward(place, _summed(place, operation, weights[operation.name]), undo)
            normed = {s.path for s in self._norms} if self.norm == "outputs" else set()
            laid = {n: t for n, t in tensors.items() if n.rpartition(".")[0] not in normed}
            pools = self.blueprint.pooled(self.blueprint.full)
            if POOL in weights:
                assert self.blueprint.poolings is not None
                places = list(self.blueprint.space.dim(POOL).each())
                mix_poolings(self.network, self.blueprint.poolings, places, weights[POOL], undo)
                pools = ()
            with self.places.laid(Plan(pools=pools), laid):
                yield
        finally:
            for back in reversed(undo):
                back()

    @contextmanager
    def sliced(
        self, plan: Plan, tensors: Mapping[str, Tensor], choice: Mapping[str, Any], weights: Weights
    ) -> Iterator[None]:
        """Let the network run as one slice, outputs of chosen candidates and depths times their weights.

        Args:
            plan: What the choice does.
            tensors: Parameter or buffer -> what stands in its place.
            choice: The values with weight one.
            weights: One-hot, as `check` gives them.
        """
        undo: list[Callable[[], None]] = []
        try:
            for dim in (*self.blueprint.operations, *self.blueprint.depths):
                values = (False, True) if isinstance(dim, Presence) else dim.values
                weight = weights[dim.name][values.index(choice[dim.name])]
                if weight.requires_grad:
                    module = self._last(dim, choice[dim.name])
                    override_forward(module, _times(module, weight), undo)
            with self.places.laid(plan, tensors):
                yield
        finally:
            for back in reversed(undo):
                back()

    def _last(self, dim: Depth | Presence | Operation, value: Any) -> nn.Module:
        """The module whose output is that of a chosen candidate or depth."""
        if isinstance(dim, Operation):
            return self.places.modules[dim.path]
        if isinstance(dim, Presence):
            return self.places.modules[dim.block] if value else self.places.skips[dim.block]
        runs = value - dim.stage.fixed
        blocks = dim.stage.blocks
        return self.places.modules[blocks[runs - 1]] if runs else self.places.skips[blocks[0]]

    def _tensors(self, weights: Weights, factors: Mapping[int, Tensor]) -> dict[str, Tensor]:
        """The mixed parameters."""
        out: dict[str, Tensor] = {}
        net = self.blueprint.structure
        buffers = {n for n, number in net.recording.parameters.items() if number in net.recording.buffers}
        kernels = [f"{kernel.path}.weight" for kernel in self.blueprint.kernels]
        for name in dict.fromkeys([*net.layers, *kernels]):
            if name in buffers or name not in self.places.tensors:
                continue
            factor = self.factor(name, weights, factors)
            if factor is not None:
                tensor = self.places.read(name)
                out[name] = tensor * factor.to(tensor.device, tensor.dtype)
        return out

    def factor(self, name: str, weights: Weights, factors: Mapping[int, Tensor]) -> Tensor | None:
        """The weight of all sub-networks that hold each element of a parameter; None where all hold it.

        Args:
            name: Of the parameter.
            weights: As `check` gives them.
            factors: Of these weights, see `memberships`.

        Returns:
            Of a shape that broadcasts to the parameter's.
        """
        found = self._factor(self.blueprint.structure.layers.get(name, {}), factors)
        for kernel in self.blueprint.kernels:
            if name == f"{kernel.path}.weight":
                middle = middle_factor(kernel, weights[kernel.name], self.places.read(name).dim() - 2)
                found = middle if found is None else found * middle.to(found)
        return found

    def _factor(self, dims: Mapping[int, Tensor], factors: Mapping[int, Tensor]) -> Tensor | None:
        """The product over decisions; within one decision the least."""
        by_decision: dict[str, Tensor] = {}
        for labels in dims.values():
            axis, position = self._axis_of[labels], self._position[labels]
            for a in {int(v) for v in axis.unique() if v >= 0}:
                on = axis == a
                values = torch.where(on, factors[a][torch.where(on, position, 0)], 1.0)
                width = self._owner[a].name
                known = by_decision.get(width)
                by_decision[width] = values if known is None else torch.minimum(known, values)
        total: Tensor | None = None
        for values in by_decision.values():
            total = values if total is None else total * values
        return total

    def _normed(self, site: Site, module: nn.Module, weights: Weights) -> Callable[..., Any]:
        """The outputs of the slices' norms, weighted."""
        assert site.takes is not None
        labels = site.takes
        (axis,) = {int(v) for v in self._axis_of[labels].unique() if v >= 0} or {-1}
        width = self._owner[axis]
        dim = varying(labels)[-1]

        def forward(x: Tensor) -> Tensor:
            total = torch.zeros_like(x)
            for k, row in enumerate(width.levels):
                weight = weights[width.name][k]
                keep = self._keep_of(axis, row[width.axes.index(axis)])
                out = run_slice(self.blueprint, self.places, site.path, module, keep, dim, x)
                total = total + weight.to(x.device, x.dtype) * out
            return total

        return forward

    def _weighted(self, site: Site, factors: Mapping[int, Tensor]) -> Callable[..., Any]:
        """A batch normalisation without weights, whose outputs take the factors."""
        module = self.places.modules[site.path]
        assert site.takes is not None
        factor = self._factor({0: site.takes}, factors)

        def forward(x: Tensor) -> Tensor:
            out: Tensor = type(module).forward(module, x)
            return out if factor is None else out * factor.to(out.device, out.dtype)

        return forward

    def _keep_of(self, axis: int, level: int) -> Tensor:
        net = self.blueprint.structure
        keep = net.everything
        for part, count in zip(net.axes[axis].parts, net.axes[axis].counts(level).tolist(), strict=True):
            keep[part[count:]] = False
        return keep

    def _deepened(self, depth: Depth | Presence, weights: Tensor, undo: list[Callable[[], None]]) -> None:
        """Mix the streams after every number of blocks, or a block with what it is given."""
        if isinstance(depth, Presence):
            module = self.places.modules[depth.block]
            inner = type(module).forward

            def present(x: Tensor, *args: Any, **kwargs: Any) -> Any:
                out = inner(module, x, *args, **kwargs)
                return _mixed_with(out, lambda y: weights[1].to(y) * y + weights[0].to(y) * x)

            override_forward(module, present, undo)
            return
        seen: list[Tensor] = []
        blocks = depth.stage.blocks
        first = depth.values[0] - depth.stage.fixed  # blocks that always run

        def wrap(position: int, path: str) -> Callable[..., Any]:
            module = self.places.modules[path]
            inner = type(module).forward

            def forward(x: Tensor, *args: Any, **kwargs: Any) -> Any:
                if position == 0:
                    seen.clear()
                    if first == 0:
                        seen.append(x)
                out = inner(module, x, *args, **kwargs)
                tensor = _main(out)
                if position + 1 >= first:
                    seen.append(tensor)
                if position + 1 < depth.values[-1] - depth.stage.fixed:
                    return out
                kept = [seen[v - depth.values[0]] for v in depth.values]
                total = sum(
                    (w.to(h) * h for w, h in zip(weights, kept, strict=True)), torch.zeros_like(tensor)
                )
                seen.clear()
                return _mixed_with(out, lambda _: total)

            return forward

        for position, path in enumerate(blocks[: depth.values[-1] - depth.stage.fixed]):
            override_forward(self.places.modules[path], wrap(position, path), undo)


def _summed(place: OneOf, operation: Operation, weights: Tensor) -> Callable[..., Any]:
    def forward(*args: Any, **kwargs: Any) -> Any:
        total: Any = 0.0
        for weight, name in zip(weights, operation.values, strict=True):
            out = place.candidates[name](*args, **kwargs)
            total = total + weight.to(out) * out
        return total

    return forward


def _times(module: nn.Module, weight: Tensor) -> Callable[..., Any]:
    inner = type(module).forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        return _mixed_with(inner(module, *args, **kwargs), lambda y: weight.to(y) * y)

    return forward


def _main(out: Any) -> Tensor:
    tensor = out if isinstance(out, Tensor) else out[0]
    if not isinstance(tensor, Tensor):
        raise UsageError("a block gives no tensor first", "leave depth out of the mixture")
    return tensor


def _mixed_with(out: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(out, Tensor):
        return change(out)
    return type(out)((change(_main(out)), *out[1:]))
