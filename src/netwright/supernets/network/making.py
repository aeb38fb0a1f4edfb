"""`nw.elastic`: from a network to a supernet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from torch import Tensor, nn
from torch.nn import functional as F

from netwright.errors import ModelError, UsageError
from netwright.structure import Inputs, Structure, stages, trace
from netwright.structure.attention import adopt_attention
from netwright.structure.copying import deep_copy
from netwright.structure.sizes import index_maps
from netwright.structure.surgery import attention_touched
from netwright.supernets.network.blueprint import Blueprint
from netwright.supernets.network.dims import Depths, Values, Width, depths, kernels, operations
from netwright.supernets.network.elastic import Elastic
from netwright.supernets.network.pooling import finished, laid, movable
from netwright.supernets.network.rules import learn
from netwright.supernets.network.widths import apart, widths


class Store(Protocol):
    """Where the weights of a supernet are."""

    def of(self, sup: Elastic) -> Elastic:
        """A supernet of the same blueprint with other weights than one set of them.

        Args:
            sup: With one set of weights.
        """
        ...


def elastic(
    model: nn.Module,
    example: Any,
    *,
    width: Values | None = None,
    depth: Depths = None,
    kernel: Sequence[int] | Mapping[str, Sequence[int]] | None = None,
    heads: Values | None = None,
    resolution: Sequence[int] | None = None,
    pool: int | None = None,
    unit: int = 1,
    share: str | Mapping[str, Sequence[str]] = "axis",
    exclude: Iterable[str] = (),
    store: Store | None = None,
) -> Elastic:
    """Make a supernet of any network: its widths, depths, kernels and resolution are chosen at run time.

    Candidates of a `supernets.OneOf` inside the model are a choice, too.

    Args:
        model: Any module; a copy of it becomes the supernet's largest network.
        example: An example input.
        width: Shares (floats) or counts (ints) that every prunable axis can have, or pattern of axis names ->
            values. What stays are the leading members: sort them by importance first (`sort_channels`).
        depth: True lets every stage of residual blocks have from one to all of them, "any" skips any of them;
            or numbers of blocks for all stages, or pattern of stage names -> numbers; or names of blocks,
            each of which can be skipped by itself. Blocks that normalise their sums (post-norm, as in BERT)
            must be named: ``{"encoder.layer": [2, 4, 6]}`` or their own names.
        kernel: Odd sizes that convolutions can have up to their own, or pattern of module paths -> sizes.
        heads: As `width`, for the axes whose members are attention heads; as `width` when None.
        resolution: Side lengths of square images; inputs are resized.
        pool: Take the steps of stride 2 out and let that many 2x2 max poolings stand in front of any layers
            but the first instead, no two at one; see `pooling`. Not together with depth.
        unit: Widths given as shares are multiples of it, where an axis has as many members.
        share: "axis" chooses every axis by itself, "network" one value for all; or name -> patterns of axes.
        exclude: Names of modules or parameters whose axes are left alone.
        store: Where the weights are, such as `supernets.Mixture(4)`; one set of them when None.

    Returns:
        The supernet, set to its largest network.

    Raises:
        ModelError: if the model rejects the example.
        UsageError: if nothing can be chosen, or a value or pattern does not fit.
        StructureError: if the widths of the network cannot be changed; names operator and module.
    """
    network = deep_copy(model)
    inputs = Inputs.of(example)
    exclude = tuple(exclude)
    poolings = movable(network, inputs, pool) if pool is not None else None
    at = poolings.at(poolings.default) if poolings is not None else ()
    if poolings is not None and depth:
        raise UsageError("pool and depth cannot be chosen together", "choose one of them")
    with laid(network, at):
        blueprint = _blueprint(
            network, inputs, width, depth, kernel, heads, resolution or (), unit, share, exclude
        )
    if poolings is not None:
        real, sides = blueprint.structure.recording.real, blueprint.resolutions
        poolings = finished(poolings, network, inputs, sides, real, exclude)
        blueprint = replace(blueprint, poolings=poolings)
    if not blueprint.chosen:
        raise UsageError("nothing can be chosen of this network", "give width=[0.5, 1.0], depth=True, ...")
    given = {"width": width, "depth": depth, "kernel": kernel, "heads": heads, "resolution": resolution}
    more = {"pool": pool, "unit": unit, "share": share, "exclude": exclude}
    sup = Elastic(network, replace(blueprint, arguments={**given, **more}))
    return sup if store is None else store.of(sup)


def _blueprint(
    network: nn.Module,
    inputs: Inputs,
    width: Values | None,
    depth: Depths,
    kernel: Sequence[int] | Mapping[str, Sequence[int]] | None,
    heads: Values | None,
    resolution: Sequence[int],
    unit: int,
    share: str | Mapping[str, Sequence[str]],
    exclude: Sequence[str],
) -> Blueprint:
    """What can be chosen of a network, apart from its poolings; attention may be adopted in it."""
    net, chosen = _widths(network, inputs, width, heads, unit, share, exclude)
    if chosen and _adopt(network, net):
        net, chosen = _widths(network, inputs, width, heads, unit, share, exclude)
    rules = learn(network, net) if chosen else []
    blueprint = Blueprint(
        net,
        tuple(chosen),
        tuple(depths(stages(network, net, _post_normalised(depth)) if depth else (), depth)),
        tuple(kernels(network, kernel)),
        tuple(operations(network)),
        tuple(sorted(set(resolution))) if resolution else (),
        None if isinstance(rules, str) else tuple(rules),
        _at=_structures(network, inputs, net, resolution, exclude),
    )
    if blueprint.rules is None and (blueprint.depths or blueprint.kernels or blueprint.operations):
        raise UsageError(
            f"widths of {net.name} cannot be chosen together with depths, kernels or operations: {rules}",
            "choose one kind",
        )
    return blueprint


def _post_normalised(depth: Depths) -> list[str]:
    """Patterns of what may hold post-normalised blocks: nothing unless it is named."""
    if isinstance(depth, Mapping):
        return list(depth)
    if depth is None or isinstance(depth, str | bool):
        return []
    return [name.rpartition(".")[0] for name in depth if isinstance(name, str)]


def _widths(
    network: nn.Module,
    inputs: Inputs,
    width: Values | None,
    heads: Values | None,
    unit: int,
    share: str | Mapping[str, Sequence[str]],
    exclude: Sequence[str],
) -> tuple[Structure, list[Width]]:
    """The structure and its widths; shortcuts filled up with zeros tie widths only where they must."""
    net = trace(network, inputs, exclude=exclude, leading=True)
    if net.filled:
        chosen = widths(net, width, heads, unit=unit, share=share)
        if not apart(net, chosen):
            net = trace(network, inputs, exclude=exclude)
    return net, widths(net, width, heads, unit=unit, share=share)


def _adopt(network: nn.Module, net: Structure) -> bool:
    """Give attention modules on elastic axes a free inner width; whether there are any."""
    keep = net.everything
    for axis in net.prunable:
        for part, count in zip(axis.parts, axis.counts(1).tolist(), strict=True):
            keep[part[count:]] = False
    touched = attention_touched(network, index_maps(net.layers, keep))
    return bool(adopt_attention(network, touched)) if touched else False


def _structures(
    network: nn.Module, inputs: Inputs, net: Structure, resolution: Sequence[int], exclude: Iterable[str]
) -> dict[int, Structure]:
    """The structure of the network for images of every size."""
    found = {}
    for side in sorted(set(resolution)):
        if side < 1:
            raise UsageError(f"resolution={side} is no side length", "give sizes in pixels")

        def resize(x: Tensor, side: int = side) -> Tensor:
            return F.interpolate(x, (side, side)) if x.dim() == 4 else x

        try:
            found[side] = trace(network, inputs.map(resize), exclude=exclude, leading=net.leading)
        except ModelError as error:
            raise UsageError(
                f"the network does not take images of {side} x {side}: {error.message}", "leave that size out"
            ) from error
        if found[side].count != net.count:
            raise UsageError(
                f"the network has other axes for images of {side} x {side}", "leave that size out"
            )
    return found
