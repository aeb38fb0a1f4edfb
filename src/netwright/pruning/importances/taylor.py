"""First-order importance: how much the loss would change, to first order, without a class."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from netwright.errors import DataError
from netwright.pruning.importances.importance import (
    gather,
    parameters_on_axes,
    reduced_dims,
    register_importance,
)
from netwright.pruning.statistics.examples import Examples
from netwright.structure import Structure

#: Batches looked at; more change the ranking little.
_BATCHES = 8


@register_importance("taylor", needs="labels")
def taylor(net: Structure, model: nn.Module, examples: Examples) -> Tensor:
    """Sum of |w dL/dw| over everything that would go with a class, over a few labelled batches.

    P. Molchanov, A. Mallya, S. Tyree, I. Frosio and J. Kautz, Importance Estimation for Neural Network
    Pruning, CVPR 2019; the tied group's parameters are added up. The loss is cross-entropy for class numbers,
    squared error for labels of the answer's own shape. The gradient is taken on a copy, in eval mode.

    Raises:
        DataError: if labels and answers do not fit together.
    """
    twin = copy.deepcopy(model).eval()
    for parameter in twin.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
        parameter.grad = None
    weights = parameters_on_axes(net, twin)
    device = next(iter(weights.values())).device if weights else torch.device("cpu")
    total = torch.zeros(net.count, dtype=torch.float64)
    for number, (inputs, labels) in enumerate(examples):
        if number >= _BATCHES or labels is None:
            break
        with torch.enable_grad():
            answer = inputs.map(lambda x: x.to(device)).call(twin)
            error = loss(first_tensor(answer), labels.to(device))
            grads = torch.autograd.grad(error, list(weights.values()), allow_unused=True)
        parts = {
            name: {dim: _reduce(weight.detach() * grad, la) for dim, la in net.layers[name].items()}
            for (name, weight), grad in zip(weights.items(), grads, strict=True)
            if grad is not None
        }
        total += gather(net, parts)
    return total


def loss(answer: Tensor, labels: Tensor, *, checked: bool = True) -> Tensor:
    """Cross-entropy for class numbers, squared error for anything else.

    Args:
        answer: (B, K) or (B, K, ...), or of the labels' shape.
        labels: (B,) or (B, ...) class numbers, -100 or below zero where there is none; or floats.
        checked: Look whether class numbers are too large, which inside a vectorised function is impossible.

    Raises:
        DataError: if the shapes do not fit.
    """
    if labels.is_floating_point():
        if labels.shape != answer.shape:
            raise DataError(f"labels of shape {tuple(labels.shape)} do not fit answers {tuple(answer.shape)}")
        return F.mse_loss(answer, labels)
    if answer.dim() != labels.dim() + 1 or len(answer) != len(labels):
        raise DataError(
            f"labels of shape {tuple(labels.shape)} do not fit answers {tuple(answer.shape)}",
            "give one class number for every answer",
        )
    if checked and int(labels.max()) >= answer.shape[1]:
        raise DataError(f"there is a label {int(labels.max())}, the model knows {answer.shape[1]} classes")
    return F.cross_entropy(answer, labels.clamp(min=-1).long(), ignore_index=-1)


def first_tensor(answer: object) -> Tensor:
    """The first tensor of whatever a model returns.

    Raises:
        DataError: if there is none.
    """
    if isinstance(answer, Tensor):
        return answer
    values = answer.values() if isinstance(answer, dict) else answer
    for value in values if isinstance(values, (list, tuple)) else list(values):  # type: ignore[call-overload]
        if isinstance(value, Tensor):
            return value
    raise DataError(f"the model returns {type(answer).__name__}, in which there is no tensor of answers")


def _reduce(elements: Tensor, labels: Tensor) -> Tensor:
    dims = reduced_dims(labels)
    elements = elements.abs()
    return elements.sum(dim=dims) if dims else elements
