"""Importances that look at nothing but the weights: magnitude, scales of normalisation, chance."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from netwright.errors import UsageError
from netwright.pruning.examples import Examples
from netwright.pruning.importance import gather, parameters_on_axes, reduced_dims, register_importance
from netwright.structure import Structure

#: Elements of a weight that are squared at a time.
_BLOCK = 1 << 17


@register_importance("magnitude")
@register_importance("magnitude-l2")
def magnitude_l2(net: Structure, model: nn.Module, examples: Examples) -> Tensor:
    """Euclidean norm of everything that would go with a class: rows, columns, norms and biases.

    H. Li, A. Kadav, I. Durdanovic, H. Samet and H. P. Graf, Pruning Filters for Efficient ConvNets, ICLR
    2017, taken over the whole tied group as in G. Fang, X. Ma, M. Song, M. Bi Mi and X. Wang, DepGraph:
    Towards Any Structural Pruning, CVPR 2023.
    """
    return _norm(net, model, 2).sqrt()


@register_importance("magnitude-l1")
def magnitude_l1(net: Structure, model: nn.Module, examples: Examples) -> Tensor:
    """Sum of the absolute values of everything that would go with a class."""
    return _norm(net, model, 1)


@register_importance("bn-scale")
def bn_scale(net: Structure, model: nn.Module, examples: Examples) -> Tensor:
    """Absolute scale of the normalisation layers on a class; axes without one are scored by their magnitude.

    Z. Liu, J. Li, Z. Shen, G. Huang, S. Yan and C. Zhang, Learning Efficient Convolutional Networks through
    Network Slimming, ICCV 2017.

    Raises:
        UsageError: if no normalisation layer on any axis has a scale.
    """
    modules = dict(model.named_modules())
    scales: dict[str, dict[int, Tensor]] = {}
    for name, weight in parameters_on_axes(net, model).items():
        path, _, leaf = name.rpartition(".")
        if leaf == "weight" and weight.dim() == 1 and _normalises(modules.get(path)):
            scales[name] = {dim: weight.detach().abs() for dim in net.layers[name]}
    if not scales:
        raise UsageError("no normalisation layer of the network has a scale", 'take importance="magnitude"')
    total, plain = gather(net, scales), magnitude_l2(net, model, examples)
    for axis in net.prunable:
        if not bool(total[axis.cells].any()):
            total[axis.cells] = plain[axis.cells]
    return total


@register_importance("random")
def random(net: Structure, model: nn.Module, examples: Examples) -> Tensor:
    """Independent uniform numbers, the same for the same seed: the baseline of every other score."""
    generator = torch.Generator().manual_seed(examples.seed)
    return torch.rand(net.count, generator=generator, dtype=torch.float64)


def _normalises(module: nn.Module | None) -> bool:
    """Whether a module is a normalisation: one of PyTorch's, or of someone's who calls it so."""
    known = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)
    return isinstance(module, known) or "Norm" in type(module).__name__


def _norm(net: Structure, model: nn.Module, p: int) -> Tensor:
    """Sum of |w|^p over each class, (count,)."""
    contributions = {}
    with torch.no_grad():
        for name, weight in parameters_on_axes(net, model).items():
            contributions[name] = _sums(weight.detach(), net.layers[name], p)
    return gather(net, contributions)


def _sums(weight: Tensor, dims: dict[int, Tensor], p: int) -> dict[int, Tensor]:
    """Sums of |w|^p for every label of each dimension; one pass, in blocks that fit the cache.

    Args:
        weight: A parameter.
        dims: Its labels, by dimension.
        p: 1 or 2.
    """
    if not dims:
        return {}
    shared = [d for d in range(1, weight.dim()) if all(labels.shape[d] == 1 for labels in dims.values())]
    parts: dict[int, list[Tensor]] = {dim: [] for dim in dims}
    rows = max(1, _BLOCK // max(1, weight[0].numel()))
    for block in weight.split(rows):
        elements = block.square() if p == 2 else block.abs()
        if shared:
            elements = elements.sum(dim=shared, keepdim=True)
        for dim, labels in dims.items():
            out = reduced_dims(labels)
            parts[dim].append(elements.sum(dim=out, keepdim=True) if out else elements)
    return {
        dim: torch.cat(found) if dims[dim].shape[0] > 1 else torch.stack(found).sum(dim=0)
        for dim, found in parts.items()
    }
