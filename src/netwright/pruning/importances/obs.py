"""Optimal brain surgeon for groups of columns: what their removal costs, and how the rest makes up for it.

B. Hassibi and D. G. Stork, Second Order Derivatives for Network Pruning: Optimal Brain Surgeon, NeurIPS 1992,
for the squared error of one operator, whose Hessian is the second moment H = E[x x^T] of its inputs. Removing
the columns Q of a weight W and refitting the others S in the least-squares sense gives

    W_S <- W H[:, S] (H[S, S] + d I)^-1,     error = 1/2 tr(W_Q ([H^-1]_QQ)^-1 W_Q^T),

with the damping d = `DAMPING` mean(diag H).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from netwright.errors import UsageError
from netwright.pruning.importances.elements import Context, register_elements, weights_of
from netwright.pruning.importances.importance import gather, register_importance
from netwright.pruning.importances.magnitude import magnitude_l2
from netwright.pruning.statistics.examples import Examples
from netwright.pruning.statistics.moments import gather_moments, matrix, unmatrix
from netwright.structure import Consumer, Structure, trace

DAMPING = 1e-3


def solve(weight: Tensor, cross: Tensor, second: Tensor, start: Tensor, damping: float = DAMPING) -> Tensor:
    """The weight on the inputs there are that comes closest to a weight on the inputs there were.

    Minimises E|W x - V z|^2 + d |V - V_0|^2 over V, for pairs (x, z) of a dense and a present input.

    Args:
        weight: (G, O, D) dense weight W.
        cross: (G, S, D) mean of z x^T.
        second: (G, S, S) mean of z z^T.
        start: (G, O, S) weight V_0 that is kept where the inputs say nothing.
        damping: d as a share of the mean of the diagonal of `second`.

    Returns:
        (G, O, S) in the weight's dtype; the computation is in float64.
    """
    second, cross = second.double(), cross.double()
    mean = second.diagonal(dim1=-2, dim2=-1).mean(dim=-1)[:, None, None]  # (G, 1, 1)
    extra = torch.where(mean > 0, damping * mean, torch.ones_like(mean))
    eye = torch.eye(second.shape[-1], dtype=torch.float64, device=second.device)
    right = cross @ weight.double().transpose(1, 2) + extra * start.double().transpose(1, 2)  # (G, S, O)
    return torch.cholesky_solve(right, _factor(second + extra * eye)).transpose(1, 2).to(weight.dtype)


def _factor(matrix: Tensor) -> Tensor:
    """Cholesky factor (G, D, D); where rounding left a matrix indefinite, its diagonal grows."""
    lift = 0.0
    while True:
        diagonal = matrix.diagonal(dim1=-2, dim2=-1)
        extra = torch.diag_embed((lift * diagonal.abs().mean(dim=-1, keepdim=True)).expand_as(diagonal))
        factor, info = torch.linalg.cholesky_ex(matrix + extra)
        if not bool(info.any()) or lift > 1:
            return factor
        lift = max(1e-6, 10 * lift)


def refit(weight: Tensor, second: Tensor, stay: Tensor, damping: float = DAMPING) -> Tensor:
    """The least-squares weight on the columns that stay: `solve` with the dense network's own inputs.

    Args:
        weight: (G, O, D) dense weight.
        second: (G, D, D) second moments of the inputs.
        stay: (G, S) columns that stay.
        damping: Share of the mean of the diagonal that is added to it.

    Returns:
        (G, O, S) in the weight's dtype; the computation is in float64.
    """
    cross = second.gather(1, stay[:, :, None].expand(-1, -1, second.shape[-1]))  # (G, S, D)
    inner = cross.gather(2, stay[:, None, :].expand(-1, stay.shape[1], -1))  # (G, S, S)
    start = weight.gather(2, stay[:, None, :].expand(-1, weight.shape[1], -1))
    return solve(weight, cross, inner, start, damping)


def saliency(weight: Tensor, second: Tensor, block: int, damping: float = DAMPING) -> Tensor:
    """What the removal of one block of columns at a time costs: half the squared error per row of inputs.

    Args:
        weight: (G, O, D) weight.
        second: (G, D, D) second moments of the inputs.
        block: Columns of one input channel; D is a multiple of it.
        damping: As in `refit`.

    Returns:
        (G, D / block) float64.
    """
    groups, outputs, size = weight.shape
    inverse = torch.cholesky_inverse(_factor(_damped(second.double(), damping)))
    count = size // block
    view = inverse.reshape(groups, count, block, count, block)
    diagonal = view.diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2)  # (G, count, block, block)
    columns = (
        weight.double().reshape(groups, outputs, count, block).permute(0, 2, 3, 1)
    )  # (G, count, block, O)
    solved = torch.linalg.solve(diagonal, columns)
    return (columns * solved).sum(dim=(2, 3)) / 2


@register_importance("obs", needs="examples")
def obs(net: Structure, model: nn.Module, examples: Examples) -> Tensor:
    """The error that the removal of a class makes in all operators that read it, the others being refitted.

    Each operator's error is divided by the mean square of its output. Axes that no such operator reads are
    scored by their magnitude. No labels are looked at.
    """
    wanted = [c.name for c in net.consumers if varies(net, c)]
    found, _ = gather_moments(net, model, examples, wanted)
    named = dict(model.named_parameters(remove_duplicate=False))
    parts: dict[str, dict[int, Tensor]] = {}
    for name, moments in found.items():
        weight = matrix(moments.consumer, named[name].detach())
        centred = moments.centred
        scale = float(((weight.double() @ centred) * weight).sum())
        if scale <= 0:
            continue
        labels = net.layers[name][moments.consumer.dim_in]
        block = weight.shape[-1] * weight.shape[0] // _channels(moments.consumer, named[name])
        errors = saliency(weight, centred, block) / scale  # (G, D / block)
        parts[name] = {moments.consumer.dim_in: per_label(errors, labels, moments.consumer)}
    total, plain = gather(net, parts), magnitude_l2(net, model, examples)
    for axis in net.prunable:
        if not bool(total[axis.cells].any()):
            total[axis.cells] = plain[axis.cells]
    return total


@register_elements("obs", needs="examples")
def single(model: nn.Module, names: Sequence[str], context: Context) -> dict[str, Tensor]:
    """w^2 / (2 [H^-1]_qq): what removing one weight costs its operator, the others being refitted.

    H is the damped second moment of the operator's inputs, without labels, so scores compare within a layer
    rather than between layers. Weights whose inputs are not seen (of transposed convolutions, of fused
    recurrent layers) are scored as if the inputs were white, w^2 / 2.

    Raises:
        UsageError: if there are no examples.
    """
    if not context.examples:
        raise UsageError("obs looks at data", "give data= some examples, without labels")
    scores = {name: w.square() / 2 for name, w in weights_of(model, names).items()}
    found, _ = gather_moments(trace(model, context.examples.like), model, context.examples, names)
    for name, moments in found.items():
        inverse = torch.cholesky_inverse(_factor(_damped(moments.second, DAMPING)))
        diagonal = inverse.diagonal(dim1=-2, dim2=-1)[:, None]  # (G, 1, D)
        like = scores[name]
        each = unmatrix(moments.consumer, (1 / diagonal).expand(matrix(moments.consumer, like).shape), like)
        scores[name] = like * each.to(like)
    return scores


def varies(net: Structure, consumer: Consumer) -> bool:
    """Whether an operator reads an axis that can shrink."""
    labels = net.layers.get(consumer.name, {}).get(consumer.dim_in)
    return labels is not None and not bool(net.frozen[labels].all())


def columns_of(labels: Tensor, consumer: Consumer, weight: Tensor) -> Tensor:
    """The class of every column of an operator's weight matrices.

    Args:
        labels: Classes of the weight along its input dimension, in its rank; they may differ from group to
            group.
        consumer: The operator.
        weight: The weight.

    Returns:
        (G, D) class ids.
    """
    shape = [n if d == consumer.dim_in else 1 for d, n in enumerate(weight.shape)]
    if consumer.kind != "convolution" or consumer.groups == 1:
        first = labels
        for d in range(labels.dim()):
            if d != consumer.dim_in:
                first = first.narrow(d, 0, 1)
        return first.expand(shape).expand(_one_row(weight.shape, consumer.dim_out)).reshape(1, -1)
    rows = weight.shape[0] // consumer.groups
    by_group = labels.expand(weight.shape[0], *labels.shape[1:])[::rows]  # (G, I / G, 1...)
    return by_group.expand(consumer.groups, *weight.shape[1:]).reshape(consumer.groups, -1)


def _one_row(shape: Sequence[int], dim_out: int) -> list[int]:
    """A weight's shape with a single output."""
    return [1 if d == dim_out else n for d, n in enumerate(shape)]


def per_label(errors: Tensor, labels: Tensor, consumer: Consumer) -> Tensor:
    """Errors (G, channels of a group) in the order and number of the labels."""
    if labels.numel() == errors.numel():
        return errors
    if labels.shape[0] == 1:
        return errors.sum(dim=0)  # the groups are tied to each other
    rows = labels.shape[0] // consumer.groups
    spread = errors[:, None, :].expand(-1, rows, -1) / rows  # a group's rows share its label
    return spread.reshape(labels.shape)


def _channels(consumer: Consumer, weight: Tensor) -> int:
    return weight.shape[consumer.dim_in] * consumer.groups


def _damped(second: Tensor, damping: float) -> Tensor:
    """Add a share of the mean diagonal; columns that were always zero get a diagonal of one."""
    diagonal = second.diagonal(dim1=-2, dim2=-1)
    mean = diagonal.mean(dim=-1, keepdim=True)
    extra = torch.where(mean > 0, damping * mean, torch.ones_like(mean)).expand_as(diagonal)
    return second + torch.diag_embed(extra)
