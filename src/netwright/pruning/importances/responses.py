"""Importances of channels from what a network computes, and from how its filters lie to each other.

`activation`, `apoz` and `hrank` look at the channels as the operators that read them see them, after
normalisation and activation; `fpgm` looks at the filters that write them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from netwright.pruning.importances.importance import register_importance
from netwright.pruning.importances.magnitude import magnitude_l2
from netwright.pruning.importances.obs import columns_of, varies
from netwright.pruning.statistics.examples import Examples
from netwright.pruning.statistics.moments import plain_attention
from netwright.structure import Consumer, Structure

#: Examples that are looked at; the ranks of a map need a decomposition each, so fewer for them.
EXAMPLES, RANKED = 512, 128

#: Maps (B, C, positions...) or rows (N, D) -> one number for every example and channel, (B, C) or (N, D).
Statistic = Callable[[Tensor], Tensor]


@register_importance("activation", needs="examples")
def activation(net: Structure, model: nn.Module, examples: Examples) -> Tensor:
    """Mean |a| of a channel over examples and positions, averaged over the operators that read it.

    P. Molchanov, S. Tyree, T. Karras, T. Aila and J. Kautz, Pruning Convolutional Neural Networks for
    Resource Efficient Inference, ICLR 2017, use the mean activation as a baseline. Axes that no operator with
    weights reads are scored by their magnitude.
    """
    return _responses(net, model, examples, lambda x: _positions(x).abs().mean(dim=2), EXAMPLES)


@register_importance("apoz", needs="examples")
def apoz(net: Structure, model: nn.Module, examples: Examples) -> Tensor:
    """One minus the average share of zeros of a channel; of a network without ReLUs it tells little.

    H. Hu, R. Peng, Y.-W. Tai and C.-K. Tang, Network Trimming: A Data-Driven Neuron Pruning Approach towards
    Efficient Deep Architectures, 2016. Axes that no operator with weights reads are scored by their
    magnitude.
    """
    return _responses(net, model, examples, lambda x: (_positions(x) != 0).double().mean(dim=2), EXAMPLES)


@register_importance("hrank", needs="examples")
def hrank(net: Structure, model: nn.Module, examples: Examples) -> Tensor:
    """Mean rank of a channel's maps, as matrices (height, everything else).

    M. Lin, R. Ji, Y. Wang, Y. Zhang, B. Zhang, Y. Tian and L. Shao, HRank: Filter Pruning using High-Rank
    Feature Map, CVPR 2020. A single number has rank 1, or 0 where it is zero. Axes that no operator with
    weights reads are scored by their magnitude.
    """
    return _responses(net, model, examples, ranks, RANKED)


@register_importance("fpgm")
def fpgm(net: Structure, model: nn.Module, examples: Examples) -> Tensor:
    """Sum of the distances of a filter to the others of its layer, over the layers that write a channel.

    Y. He, P. Liu, Z. Wang, Z. Hu and Y. Yang, Filter Pruning via Geometric Median for Deep Convolutional
    Neural Networks Acceleration, CVPR 2019: what lies near the geometric median is what the others can stand
    for. Axes that no layer writes are scored by their magnitude.
    """
    weights = dict(model.named_parameters(remove_duplicate=False))
    total = torch.zeros(net.count, dtype=torch.float64)
    for consumer in net.consumers:
        labels = net.layers.get(consumer.name, {}).get(consumer.dim_out)
        weight = weights[consumer.name].detach()
        if labels is None or labels.numel() != weight.shape[consumer.dim_out]:
            continue
        rows = weight.movedim(consumer.dim_out, 0).flatten(1).double()
        distances = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").sum(dim=1)
        total.index_add_(0, labels.reshape(-1), distances.cpu())
    return _elsewhere(net, model, examples, total)


def ranks(x: Tensor) -> Tensor:
    """Rank of every map: (B, C, positions...) -> (B, C); of rows (N, D), whether a number is not zero."""
    if x.dim() < 4:
        return (_positions(x) != 0).any(dim=2).double()
    return torch.linalg.matrix_rank(x.flatten(3) if x.dim() > 4 else x).double()


def _positions(x: Tensor) -> Tensor:
    """(B, C, positions); rows (N, D) have a single one."""
    return x.flatten(2) if x.dim() > 2 else x[..., None]


def _elsewhere(net: Structure, model: nn.Module, examples: Examples, total: Tensor) -> Tensor:
    """Scores with those of the magnitude on axes that have none."""
    missing = [axis for axis in net.prunable if not bool(total[axis.cells].any())]
    if missing:
        plain = magnitude_l2(net, model, examples)
        for axis in missing:
            total[axis.cells] = plain[axis.cells]
    return total


def _responses(
    net: Structure, model: nn.Module, examples: Examples, statistic: Statistic, most: int
) -> Tensor:
    """Mean of a statistic over examples and over the operators that read a class, (count,)."""
    readers = {c.name: c for c in net.consumers if varies(net, c)}
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices), torch.no_grad(), plain_attention():
        twin = copy.deepcopy(model).eval()
        weights = dict(twin.named_parameters(remove_duplicate=False))
        device = next((w.device for w in weights.values()), torch.device("cpu"))
        watch = _Watch(readers, weights, statistic)
        seen = 0
        for inputs, _ in examples:
            if seen >= most:
                break
            seen += max((len(x) for x in inputs.tensors() if x.dim()), default=1)
            with watch:
                inputs.map(lambda x: x.to(device)).call(twin)
    total, times = (torch.zeros(net.count, dtype=torch.float64) for _ in range(2))
    for name, (sums, count) in watch.found.items():
        consumer, weight = readers[name], weights[name]
        classes = columns_of(net.layers[name][consumer.dim_in], consumer, weight)  # (G, D)
        classes = classes.reshape(len(sums), -1)[:, 0].cpu()  # (channels,), a kernel's columns are alike
        total.index_add_(0, classes, sums.cpu() / count)
        times.index_add_(0, classes, torch.ones(len(classes), dtype=torch.float64))
    return _elsewhere(net, model, examples, total / times.clamp(min=1))


class _Watch(TorchDispatchMode):
    """Adds up a statistic of the input of every operator that uses a wanted weight."""

    def __init__(
        self, wanted: dict[str, Consumer], weights: dict[str, nn.Parameter], statistic: Statistic
    ) -> None:
        super().__init__()
        self.found: dict[str, tuple[Tensor, int]] = {}
        self._statistic = statistic
        # Grouped transposed convolutions have their inputs in another order.
        plain = {n: c for n, c in wanted.items() if not (c.transposed and c.groups > 1)}
        self._names = {weights[n].untyped_storage().data_ptr(): n for n in plain}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        at = _INPUTS.get(func._schema.name.partition("::")[2])
        if at is not None and isinstance(args[at + 1], Tensor):
            name = self._names.get(args[at + 1].untyped_storage().data_ptr())
            if name is not None:
                self._add(name, args[at], rows=func._schema.name != "aten::convolution")
        return func(*args, **(kwargs or {}))

    def _add(self, name: str, x: Tensor, rows: bool) -> None:
        values = self._statistic(x.reshape(-1, x.shape[-1]) if rows else x).double()
        sums, count = self.found.get(name, (torch.zeros_like(values[0]), 0))
        self.found[name] = sums + values.sum(dim=0), count + len(values)


#: Operator -> where its input is among the arguments; the weight comes next.
_INPUTS = {"convolution": 0, "mm": 0, "addmm": 1, "bmm": 0, "baddbmm": 1}
