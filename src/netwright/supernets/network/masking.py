"""A different sub-network for every example of a batch, in one forward pass: boolean masks of channels.

Channels are zeroed where a module with weights takes and gives them, so that every contraction sees what the
slice would see; normalisations average over the active channels (or, batch normalisation, over the examples
that have a channel); a block that an example skips passes its input on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils import _pytree as pytree

from netwright.errors import UsageError
from netwright.nas.choice import Choice
from netwright.structure.sizes import index_maps
from netwright.supernets.network.binding import Places, Plan, cut
from netwright.supernets.network.blueprint import Blueprint
from netwright.supernets.network.labelled import Site, Sites, spread
from netwright.supernets.network.rules import attributes_at


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
        self.sites = Sites(network, net, self.elastic).found
        self.tables = _tables(network, blueprint, self.elastic)

    @contextmanager
    def laid(self, choices: Sequence[Choice], plans: Sequence[Plan], assignment: Tensor) -> Iterator[None]:
        """Let the network run a choice per example.

        Args:
            choices: G canonical choices.
            plans: What each does.
            assignment: (B,) int64, the choice of every example.
        """
        if len({(tuple(p.crops.items()), tuple(p.active.items()), p.pools) for p in plans}) > 1:
            raise UsageError(
                "kernels, operations and poolings cannot differ within a batch",
                "give all examples the same ones",
            )
        keep = torch.stack([self.blueprint.keep(choice) for choice in choices])
        values = keep.to(assignment.device)[assignment]  # (B, count)
        first = plans[0]
        shared = Plan(crops=first.crops, attributes=_resizing(first), active=first.active, pools=first.pools)
        tensors = {name: self._table(name, labels, values) for name, labels in self.tables.items()}
        undo: list[Callable[[], None]] = []
        try:
            for site in self.sites:
                module = self.places.modules[site.path]
                override_forward(module, self._forward(site, module, keep, assignment, values), undo)
            for path in {path for plan in plans for path in plan.skips}:
                active = torch.tensor([path not in plan.skips for plan in plans], device=assignment.device)
                override_forward(self.places.modules[path], self._skipping(path, active[assignment]), undo)
            with self.places.laid(shared, tensors):
                yield
        finally:
            for back in reversed(undo):
                back()

    def _table(self, name: str, labels: Tensor, values: Tensor) -> Tensor:
        """A table that is added to the activations, one per example."""
        tensor = self.places.read(name)
        return tensor * spread(values, labels, len(values)).to(tensor.dtype)

    def _forward(
        self, site: Site, module: nn.Module, keep: Tensor, assignment: Tensor, values: Tensor
    ) -> Callable[..., Any]:
        inner = type(module).forward

        def masked(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            if site.takes is not None and x.dtype.is_floating_point:
                x = x * spread(values, site.takes, x.shape[0]).to(x.dtype)
            if site.kind == "batch norm" and site.takes is not None:
                assert isinstance(module, _BatchNorm)
                return batch_norm(x, values[:, site.takes.reshape(-1)], module)
            if site.kind == "norm" and site.takes is not None:
                return self._norm(site, module, keep, assignment, x)
            out: Tensor = inner(module, x, *args, **kwargs)
            return out if site.gives is None else out * spread(values, site.gives, out.shape[0]).to(out.dtype)

        return masked

    def _norm(self, site: Site, module: nn.Module, keep: Tensor, assignment: Tensor, x: Tensor) -> Tensor:
        """A normalisation over the active channels of each example."""
        assert site.takes is not None
        if type(module) is nn.LayerNorm and len(module.normalized_shape) == 1 and site.takes.shape[-1] > 1:
            mask = keep.to(x.device)[assignment][:, site.takes.reshape(-1)]  # (B, C)
            mask = mask.repeat_interleave(len(x) // len(mask), dim=0)
            shape = (len(mask), *[1] * (x.dim() - 2), mask.shape[1])
            return masked_layer_norm(x, mask.reshape(shape), module.weight, module.bias, module.eps)
        per = len(x) // len(assignment)
        out = torch.zeros_like(x)
        kept = {tuple(row[site.takes.reshape(-1)].tolist()): g for g, row in enumerate(keep)}
        group = torch.tensor([kept[tuple(row[site.takes.reshape(-1)].tolist())] for row in keep])
        which = group.to(assignment.device)[assignment].repeat_interleave(per)
        for g in sorted(set(kept.values())):
            rows = (which == g).nonzero().reshape(-1)
            if len(rows):
                out = out.index_add(0, rows, self._sliced(site, module, keep[g], x.index_select(0, rows)))
        return out

    def _sliced(self, site: Site, module: nn.Module, keep: Tensor, x: Tensor) -> Tensor:
        """A module as the slice has it, on the active channels; zeros elsewhere."""
        assert site.takes is not None
        dim = next(d for d, n in enumerate(site.takes.shape) if n > 1)
        return run_slice(self.blueprint, self.places, site.path, module, keep, dim, x)

    def _skipping(self, path: str, active: Tensor) -> Callable[..., Any]:
        module, skip = self.places.modules[path], self.places.skips[path]
        inner = type(module).forward

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


def masked_layer_norm(
    x: Tensor, mask: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    """Layer normalisation over the active channels (ViT-ResNAS, section 3.3).

    Args:
        x: (..., C), zero where a channel is not active.
        mask: Bool, broadcasts to `x`.
        weight: (C,) or None.
        bias: (C,) or None.
        eps: Added to the variance.

    Returns:
        As `x`, zero where a channel is not active.
    """
    active = mask.to(x.dtype)
    share = active.mean(dim=-1, keepdim=True)
    mean = x.mean(dim=-1, keepdim=True) / share
    variance = ((x - mean) * active).square().mean(dim=-1, keepdim=True) / share
    out = (x - mean) * torch.rsqrt(variance + eps)
    out = out if weight is None else out * weight
    return (out if bias is None else out + bias) * active


def batch_norm(x: Tensor, mask: Tensor, module: _BatchNorm) -> Tensor:
    """Batch normalisation in which a channel's statistics are over the examples that have it.

    Args:
        x: (B, C, ...), zero where a channel is not active.
        mask: (B, C) bool.
        module: The normalisation; its running statistics move for the channels that any example has.

    Returns:
        As `x`, zero where a channel is not active.
    """
    shape = (len(mask), mask.shape[1], *[1] * (x.dim() - 2))
    active = mask.to(x.dtype).reshape(shape)
    if not module.training and module.running_mean is not None:
        out = F.batch_norm(
            x, module.running_mean, module.running_var, module.weight, module.bias, eps=module.eps
        )
        return out * active
    dims = [d for d in range(x.dim()) if d != 1]
    count = active.expand_as(x).sum(dim=dims)  # (C,)
    safe = count.clamp(min=1)
    view = [1, -1, *[1] * (x.dim() - 2)]
    mean = (x * active).sum(dim=dims) / safe
    centred = (x - mean.reshape(view)) * active
    variance = centred.square().sum(dim=dims) / safe
    if module.training and module.running_mean is not None and module.running_var is not None:
        _track(module, mean.detach(), (variance * safe / (safe - 1).clamp(min=1)).detach(), count > 0)
    out = centred * torch.rsqrt(variance + module.eps).reshape(view)
    if module.weight is not None:
        out = out * module.weight.reshape(view) + module.bias.reshape(view)
    return out * active


def _track(module: _BatchNorm, mean: Tensor, variance: Tensor, seen: Tensor) -> None:
    assert module.running_mean is not None and module.running_var is not None
    with torch.no_grad():
        if module.num_batches_tracked is not None:
            module.num_batches_tracked += 1
        momentum = module.momentum
        share = 1.0 / float(module.num_batches_tracked or 1) if momentum is None else momentum
        for buffer, value in ((module.running_mean, mean), (module.running_var, variance)):
            buffer.copy_(torch.where(seen, buffer.lerp(value.to(buffer.dtype), share), buffer))


def _resizing(plan: Plan) -> tuple[tuple[str, str, Any], ...]:
    """Of a plan's attributes those that belong to cropped kernels."""
    return tuple(
        a for a in plan.attributes if a[1] in ("kernel_size", "padding") and f"{a[0]}.weight" in plan.crops
    )


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
