"""A different sub-network for every example of a batch, in one forward pass: boolean masks of channels.

Channels are zeroed where a module with weights takes and gives them, so that every contraction sees what the
slice would see; normalisations average over the active channels (or, batch normalisation, over the examples
that have a channel); a block that an example skips passes its input on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils import _pytree as pytree

from netwright.errors import UsageError
from netwright.nas.choice import Choice
from netwright.structure.sizes import index_maps
from netwright.structure.thinning import middle
from netwright.supernets.network.binding import Places, Plan, cut
from netwright.supernets.network.blueprint import Blueprint
from netwright.supernets.network.labelled import Site, Sites, spread
from netwright.supernets.network.masked_norms import batch_norm, masked_layer_norm
from netwright.supernets.network.rules import attributes_at


@dataclass(frozen=True)
class Lane:
    """One of several sub-networks that run at once.

    Attributes:
        choice: A canonical choice.
        plan: What it does.
        own: Parameters of its own, whole but for cropped kernels, where the supernet does not share them.
        statistics: Its batch-norm statistics, where it has some of its own.
    """

    choice: Choice
    plan: Plan
    own: Mapping[str, Tensor] = field(default_factory=dict)
    statistics: Mapping[str, Tensor] = field(default_factory=dict)


class Masking:
    """Runs several sub-networks of one supernet at once.

    Args:
        network: The full network.
        blueprint: What can be chosen of it.
        places: Where its tensors are.

    Raises:
        UsageError: if examples do not lie along the first dimension, or every choice is a graph of its own.
    """

    def __init__(self, network: nn.Module, blueprint: Blueprint, places: Places) -> None:
        if blueprint.rules is None:
            raise UsageError("every choice of this network is a graph of its own", "set one choice at a time")
        self.network, self.blueprint, self.places = network, blueprint, places
        net = blueprint.structure
        self.elastic = ~blueprint.least
        self.sites = {site.path: site for site in Sites(network, net, self.elastic).found}
        self.tables = _tables(network, blueprint, self.elastic)

    def shared(self, plans: Sequence[Plan]) -> Plan:
        """What several sub-networks have in common besides widths and depths.

        Args:
            plans: What each does.

        Raises:
            UsageError: if a kernel, an operation or a pooling differs between those that run it.
        """
        active = {
            path: self._common(plans, path, [plan.active[path] for plan in plans]) for path in plans[0].active
        }
        crops = {}
        resized: dict[tuple[str, str], Any] = {}
        for name in dict.fromkeys(n for plan in plans for n in plan.crops):
            path = name.rpartition(".")[0]
            size = self._common(plans, path, [plan.crops.get(name) for plan in plans])
            if size is not None:
                crops[name] = size
                like = next(plan for plan in plans if plan.crops.get(name) == size)
                resized |= {(p, key): value for p, key, value in like.resized if p == path}
        if len({plan.pools for plan in plans}) > 1:
            raise UsageError("poolings cannot differ within a batch", "give all examples the same ones")
        attributes = tuple((path, key, value) for (path, key), value in resized.items())
        return Plan(crops=crops, resized=attributes, active=active, pools=plans[0].pools)

    def _common(self, plans: Sequence[Plan], path: str, values: Sequence[Any]) -> Any:
        """The one value of the plans that run a module; any where none does."""
        runs = [not any(f"{path}.".startswith(f"{skip}.") for skip in plan.skips) for plan in plans]
        found = {value for value, run in zip(values, runs, strict=True) if run} or {values[0]}
        if len(found) > 1:
            raise UsageError(
                f"kernels and operations cannot differ within a batch, as those of {path} do",
                "give all examples the same ones",
            )
        return found.pop()

    @contextmanager
    def laid(self, lanes: Sequence[Lane], assignment: Tensor) -> Iterator[None]:
        """Let the network run a choice per example.

        Args:
            lanes: G sub-networks.
            assignment: (B,) int64, that of every example.
        """
        shared = self.shared([lane.plan for lane in lanes])
        now = _Pass(self, lanes, assignment)
        own = {name for lane in lanes for name in lane.own}
        tensors = {name: self._table(name, labels, now.values) for name, labels in self.tables.items()}
        tensors |= {n: middle(self.places.read(n), size) for n, size in shared.crops.items() if n not in own}
        paths = dict.fromkeys([*self.sites, *(name.rpartition(".")[0] for name in own)])
        undo: list[Callable[[], None]] = []
        try:
            for path in paths:
                site = self.sites.get(path, Site(path, "map", None, None))
                override_forward(self.places.modules[path], now.forward(site), undo)
            for path in {path for lane in lanes for path in lane.plan.skips}:
                override_forward(self.places.modules[path], now.skipping(path), undo)
            with self.places.laid(shared, tensors):
                yield
        finally:
            for back in reversed(undo):
                back()

    def _table(self, name: str, labels: Tensor, values: Tensor) -> Tensor:
        """A table that is added to the activations, one per example."""
        tensor = self.places.read(name)
        return tensor * spread(values, labels, len(values)).to(tensor.dtype)


class _Pass:
    """How modules run in one pass of several sub-networks.

    Args:
        masking: Of the supernet.
        lanes: G sub-networks.
        assignment: (B,) int64, that of every example.
    """

    def __init__(self, masking: Masking, lanes: Sequence[Lane], assignment: Tensor) -> None:
        self.blueprint, self.places = masking.blueprint, masking.places
        self.lanes, self.assignment = lanes, assignment
        self.keep = torch.stack([self.blueprint.keep(lane.choice) for lane in lanes])  # (G, count)
        self.values = self.keep.to(assignment.device)[assignment]  # (B, count)

    def forward(self, site: Site) -> Callable[..., Any]:
        """What a module with weights runs.

        Args:
            site: Where it is, and what its channels are.
        """
        module, values = self.places.modules[site.path], self.values
        inner = self._inner(site.path, module)

        def masked(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            if site.takes is not None and x.dtype.is_floating_point:
                x = x * spread(values, site.takes, x.shape[0]).to(x.dtype)
            if site.kind == "batch norm" and site.takes is not None:
                assert isinstance(module, _BatchNorm)
                labels = site.takes.reshape(-1)
                own = None if module.training else self._statistics(site.path, module, labels)
                return batch_norm(x, values[:, labels], module, own)
            if site.kind == "norm" and site.takes is not None:
                return self._norm(site, module, x)
            out: Tensor = inner(x, *args, **kwargs)
            return out if site.gives is None else out * spread(values, site.gives, out.shape[0]).to(out.dtype)

        return masked

    def _inner(self, path: str, module: nn.Module) -> Callable[..., Tensor]:
        """A module's own forward, by groups where its weights are not the same for all examples."""
        names = [f"{path}.{key}" for key in module._parameters]
        own = [{n: lane.own[n] for n in names if n in lane.own} for lane in self.lanes]
        if not any(own):
            return partial(type(module).forward, module)

        def grouped(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            if len(x) == 1 < len(self.assignment):  # one for all examples
                x = x.expand(len(self.assignment), *x.shape[1:])
            which = self.assignment.repeat_interleave(len(x) // len(self.assignment))
            out: Tensor | None = None
            for g, tensors in enumerate(own):
                rows = (which == g).nonzero().reshape(-1)
                if len(rows):
                    with self.places.laid(Plan(), tensors):
                        part = type(module).forward(module, x.index_select(0, rows), *args, **kwargs)
                    out = part.new_zeros(len(x), *part.shape[1:]) if out is None else out
                    out = out.index_add(0, rows, part)
            assert out is not None
            return out

        return grouped

    def _statistics(self, path: str, module: _BatchNorm, labels: Tensor) -> tuple[Tensor, Tensor] | None:
        """(B, C) means and variances, where any sub-network has its own."""
        found = []
        for key in ("running_mean", "running_var"):
            shared = getattr(module, key)
            if shared is None or not any(f"{path}.{key}" in lane.statistics for lane in self.lanes):
                return None
            rows = []
            for lane, keep in zip(self.lanes, self.keep, strict=True):
                own = lane.statistics.get(f"{path}.{key}")
                at = keep[labels].nonzero().reshape(-1).to(shared.device)
                rows.append(shared if own is None else shared.index_copy(0, at, own.to(shared)))
            found.append(torch.stack(rows)[self.assignment])
        return found[0], found[1]

    def _norm(self, site: Site, module: nn.Module, x: Tensor) -> Tensor:
        """A normalisation over the active channels of each example."""
        assert site.takes is not None
        labels = site.takes.reshape(-1)
        if type(module) is nn.LayerNorm and len(module.normalized_shape) == 1 and site.takes.shape[-1] > 1:
            mask = self.values[:, labels].to(x.device)  # (B, C)
            mask = mask.repeat_interleave(len(x) // len(mask), dim=0)
            shape = (len(mask), *[1] * (x.dim() - 2), mask.shape[1])
            return masked_layer_norm(x, mask.reshape(shape), module.weight, module.bias, module.eps)
        per = len(x) // len(self.assignment)
        out = torch.zeros_like(x)
        kept = {tuple(row[labels].tolist()): g for g, row in enumerate(self.keep)}
        group = torch.tensor([kept[tuple(row[labels].tolist())] for row in self.keep])
        which = group.to(self.assignment.device)[self.assignment].repeat_interleave(per)
        for g in sorted(set(kept.values())):
            rows = (which == g).nonzero().reshape(-1)
            if len(rows):
                part = self._sliced(site, module, self.keep[g], x.index_select(0, rows))
                out = out.index_add(0, rows, part)
        return out

    def _sliced(self, site: Site, module: nn.Module, keep: Tensor, x: Tensor) -> Tensor:
        """A module as the slice has it, on the active channels; zeros elsewhere."""
        assert site.takes is not None
        dim = next(d for d, n in enumerate(site.takes.shape) if n > 1)
        return run_slice(self.blueprint, self.places, site.path, module, keep, dim, x)

    def skipping(self, path: str) -> Callable[..., Any]:
        """What a block runs that some examples skip.

        Args:
            path: Of the block.
        """
        module, skip = self.places.modules[path], self.places.skips[path]
        inner = type(module).forward
        runs = torch.tensor([path not in lane.plan.skips for lane in self.lanes])
        active = runs.to(self.assignment.device)[self.assignment]

        def forward(*args: Any, **kwargs: Any) -> Any:
            def chosen(new: Any, old: Any) -> Any:
                if not isinstance(new, Tensor):
                    return new
                flags = active.repeat_interleave(len(new) // len(active))
                return torch.where(flags.reshape(-1, *[1] * (new.dim() - 1)), new, old)

            return pytree.tree_map(chosen, inner(module, *args, **kwargs), skip(*args, **kwargs))

        return forward


def run_slice(
    blueprint: Blueprint, places: Places, path: str, module: nn.Module, keep: Tensor, dim: int, x: Tensor
) -> Tensor:
    """Run one module on the channels that stay, as the cut-out network has it.

    Args:
        blueprint: Of the supernet.
        places: Where its tensors are.
        path: Of the module, whose output lies on the channels of its input.
        module: The module.
        keep: (count,) bool.
        dim: Where the channels of `x` are.
        x: Of all channels.

    Returns:
        As `x`, zero where a channel does not stay.
    """
    net = blueprint.structure
    names = [f"{path}.{key}" for key in (*module._parameters, *module._buffers)]
    kept = index_maps({n: net.layers[n] for n in names if n in net.layers}, keep)
    index = next((i for dims in kept.values() for i in dims.values()), None)
    if index is None:
        return type(module).forward(module, x)  # type: ignore[no-any-return]
    index = index.to(x.device)
    rules = [rule for rule in blueprint.rules or () if rule.path == path]
    values = attributes_at(rules, net.sizes.counts(keep.numpy())) if rules else {}
    attributes = tuple((p, name, v) for p, found in values.items() for name, v in found.items())
    tensors = {n: cut(places.read(n), tuple(dims.items())) for n, dims in kept.items()}
    with places.laid(Plan(attributes=attributes), tensors):
        out = type(module).forward(module, x.index_select(dim, index))
    return torch.zeros_like(x).index_add(dim, index, out)


def _tables(network: nn.Module, blueprint: Blueprint, elastic: Tensor) -> dict[str, Tensor]:
    """Parameters (1, ...) that modules with parts of their own add to activations, with their labels."""
    found = {}
    for path, module in network.named_modules():
        for key, parameter in module._parameters.items() if module._modules else ():
            name = f"{path}.{key}" if path else key
            if parameter is None or parameter.dim() < 2 or parameter.shape[0] != 1:
                continue  # what multiplies leaves zeros zero, and what heads look up goes with their values
            for labels in blueprint.structure.layers.get(name, {}).values():
                if bool(elastic[labels].any()):
                    found[name] = labels
    return found


def override_forward(module: nn.Module, forward: Callable[..., Any], undo: list[Callable[[], None]]) -> None:
    """Let a module run another forward for a while.

    Args:
        module: The module.
        forward: What runs instead.
        undo: Receives what brings back what was there.
    """
    before: Mapping[str, Any] = {k: v for k, v in module.__dict__.items() if k == "forward"}
    module.__dict__["forward"] = forward

    def back() -> None:
        del module.__dict__["forward"]
        module.__dict__.update(before)

    undo.append(back)
