"""Importances that look at nothing but the weights: magnitude, scales of normalisation, chance."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from netwright.errors import UsageError
from netwright.pruning.importances.importance import (
    gather,
    parameters_on_axes,
    reduced_dims,
    register_importance,
)
from netwright.pruning.statistics.examples import Examples
from netwright.structure import Structure

#: Elements of a weight that are squared at a time.
_BLOCK = 1 << 17
#: Elements of a kernel below which it is summed by a product.
_SHORT = 128


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
    total, plain = gather(net, norm_scales(net, model)), magnitude_l2(net, model, examples)
    for axis in net.prunable:
        if not bool(total[axis.cells].any()):
            total[axis.cells] = plain[axis.cells]
    return total


def norm_scales(net: Structure, model: nn.Module) -> dict[str, dict[int, Tensor]]:
    """Absolute scales of the normalisation layers: parameter -> {dimension: one number a label}.

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
    return scales


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
    contributions: dict[str, dict[int, Tensor]] = {}
    vectors: dict[tuple[torch.device, torch.dtype], list[tuple[str, Tensor]]] = {}
    with torch.no_grad():
        for name, parameter in parameters_on_axes(net, model).items():
            weight, dims = parameter.detach(), net.layers[name]
            if weight.dim() == 1 and len(dims) == 1 and dims[0].shape == weight.shape:
                vectors.setdefault((weight.device, weight.dtype), []).append((name, weight))
            else:
                contributions[name] = _sums(weight, dims, p)
        for named in vectors.values():  # biases and norms are many and short
            weights = [weight for _, weight in named]
            elements = _powers(torch.cat(weights), p).split([len(weight) for weight in weights])
            for (name, _), own in zip(named, elements, strict=True):
                contributions[name] = {0: own}
    return gather(net, contributions)


def _powers(weight: Tensor, p: int) -> Tensor:
    return weight.square() if p == 2 else weight.abs()


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
    for block in weight.split(rows) if len(weight) > rows else (weight,):
        elements = _powers(block, p)
        if shared:
            elements = _total(elements, shared)
        for dim, labels in dims.items():
            out = [d for d in reduced_dims(labels) if elements.shape[d] > 1]
            parts[dim].append(elements.sum(dim=out, keepdim=True) if out else elements)
    return {dim: _joined(found, dims[dim]) for dim, found in parts.items()}


def _joined(parts: list[Tensor], labels: Tensor) -> Tensor:
    """The sums of a whole weight from those of its blocks of rows."""
    if len(parts) == 1:
        return parts[0]
    return torch.cat(parts) if labels.shape[0] > 1 else torch.stack(parts).sum(dim=0)


def _total(elements: Tensor, dims: list[int]) -> Tensor:
    """Sums over some dimensions, which become 1.

    Over the few elements of a kernel, a product with ones takes a twentieth of the time that `sum` does.
    """
    kernel = elements.shape[dims[0] :]
    exact = elements.dtype in (torch.float32, torch.float64) and elements.device.type == "cpu"
    if exact and len(dims) == len(kernel) and kernel.numel() < _SHORT and elements.is_contiguous():
        flat = elements.reshape(-1, kernel.numel()) @ elements.new_ones(kernel.numel())
        return flat.reshape(*elements.shape[: dims[0]], *[1 for _ in kernel])
    return elements.sum(dim=dims, keepdim=True)
