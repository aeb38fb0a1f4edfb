"""The weights that stay, refitted so that every operator answers as in the dense network.

Each operator's weight becomes the least-squares map from what its input is now to what its output was, by
second moments over examples (see `netwright.pruning.importances.obs`). The networks run in step, so that
an operator also makes up for what the operators before it could not. Where the examples are too few for the
width of an operator it is refitted to the dense network's own inputs instead, over all batches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from netwright import structure
from netwright.pruning.importances.obs import columns_of, refit, solve, varies
from netwright.pruning.statistics.examples import Examples
from netwright.pruning.statistics.lockstep import Call, Use, run_together, survey
from netwright.pruning.statistics.moments import WIDEST, Moments, gather_moments, matrix, unmatrix, width
from netwright.pruning.statistics.sums import Sums
from netwright.structure import Consumer, Inputs, Structure

#: Bytes that the activations of both networks may take at once.
_MEMORY = 1 << 31
#: Rows of an operator's input that its refit needs, as a multiple of its columns.
_LEAST_ROWS = 4


@dataclass
class _Plan:
    """What is done with each operator: the names of weights and running means, and remarks."""

    together: set[str]
    alone: set[str]
    norms: set[str]
    notes: list[str]


def update_(
    small: nn.Module,
    net: Structure,
    model: nn.Module,
    keep: Tensor,
    examples: Examples,
    adopted: Sequence[str] = (),
    *,
    refit: bool = True,
) -> list[str]:
    """Refit the weights and statistics of a network that has just been cut, in place.

    Args:
        small: The small network.
        net: The dense network's structure.
        model: The dense network; it is not touched.
        keep: (count,) bool, what stayed.
        examples: The data.
        adopted: Attention modules that the surgery gave a free inner width.
        refit: Solve for the weights; without, they stay and only biases and statistics take over what removed
            inputs gave on average.

    Returns:
        What a reader should know, one line each.
    """
    dense = structure.replay(model, {}, {}, list(adopted)).eval()  # a copy that calls the same operators
    inputs = _one_batch(examples, _most_examples(net, examples.limit))
    device = next((p.device for p in dense.parameters()), torch.device("cpu"))
    inputs = inputs.map(lambda x: x.to(device))
    uses = survey(dense, net.inputs.map(lambda x: x.to(device)))
    factor = _leading(inputs) / max(net.batch, 1)
    plan = _plan(net, dense, keep, uses, factor if refit else math.inf)
    fit = _Fit(net, dense, small, keep, uses, refit)
    found, more = gather_moments(net, dense, examples, plan.alone)
    modes = {m: m.training for m in small.modules()}
    with torch.no_grad():
        for name, moments in found.items():
            fit.alone(name, moments)
        run_together(dense, small.eval(), inputs, plan.together | plan.norms, fit.together)
    for module, mode in modes.items():
        module.training = mode
    done = len(found) + len(fit.done & plan.together)
    how = "were refitted to the dense network's outputs" if refit else "took over what removed inputs gave"
    notes = [f"{done} operators {how}"]
    if plan.norms:
        notes.append(f"statistics of {len(plan.norms)} batch norms were corrected")
    return [*notes, *plan.notes, *more]


def _plan(net: Structure, dense: nn.Module, keep: Tensor, uses: dict[str, Use], factor: float) -> _Plan:
    """Decide how each operator is refitted."""
    plan = _Plan(set(), set(), {name for name, use in uses.items() if use.norm}, [])
    weights = dict(dense.named_parameters(remove_duplicate=False))
    for consumer in net.consumers:
        name, use = consumer.name, uses.get(consumer.name)
        if use is None or consumer.transposed or weights[name].dim() < 2:
            continue
        columns = width(consumer, weights[name])
        enough = use.rows * factor >= _LEAST_ROWS * columns and (columns <= WIDEST or factor == math.inf)
        if use.calls == 1 and enough:
            plan.together.add(name)
        elif varies(net, consumer):
            classes = columns_of(net.layers[name][consumer.dim_in], consumer, weights[name])
            if not bool(keep[classes].all()):
                plan.alone.add(name)
    if plan.alone:
        few = "for want of rows (more examples may help) or because they run several times"
        plan.notes.append(f"{len(plan.alone)} of them were refitted on their own, {few}")
    return plan


class _Fit:
    """Writes refitted weights into the small network."""

    def __init__(
        self,
        net: Structure,
        dense: nn.Module,
        small: nn.Module,
        keep: Tensor,
        uses: dict[str, Use],
        refit: bool,
    ) -> None:
        self.net, self.keep, self.uses, self.refit = net, keep, uses, refit
        self.consumers = {c.name: c for c in net.consumers}
        self.dense = dict(dense.named_parameters(remove_duplicate=False))
        self.here = dict(small.named_parameters(remove_duplicate=False))
        self.storages = {t.untyped_storage().data_ptr(): n for n, t in reversed(self.dense.items())}
        self.done: set[str] = set()
        #: What the next batch norm takes off its mean.
        self._pending: Tensor | None = None

    def alone(self, name: str, moments: Moments) -> None:
        """Refit to the dense network's own inputs.

        Args:
            name: The weight.
            moments: Of the dense network's inputs.
        """
        consumer = moments.consumer
        rows = self._rows(consumer, 0, self.dense[name].shape[consumer.dim_out])
        full, stay = self._dense(consumer, rows)
        centred = moments.bias is not None or self.uses[name].normalised
        second = moments.centred if centred else moments.second
        new = refit(full, second, stay) if self.refit else _columns(full, stay)
        mean = moments.mean
        shift = full.double() @ mean[:, :, None] - new.double() @ mean.gather(1, stay)[:, :, None]
        self._write(consumer, new, rows, 0, moments.bias, shift)

    def together(self, dense: Call, small: Call) -> None:
        """Refit to the dense network's output, from the small one's input.

        Args:
            dense: The operator's call in the dense network.
            small: The same in the small one.
        """
        if small.statistics is not None:
            self._statistics(dense, small)
            return
        consumer = self.consumers[dense.name]
        rows = self._rows(consumer, *dense.outputs)
        if dense.groups != small.groups or len(rows) != small.outputs[1] - small.outputs[0]:
            return  # whole groups went, of one input channel each: there is nothing to make up with
        full, stay = self._dense(consumer, rows)
        sums = Sums(dense, small, products=self.refit)
        bias = self.storages.get(dense.bias.untyped_storage().data_ptr()) if dense.bias is not None else None
        centred = bias is not None or self.uses[dense.name].normalised
        new = _columns(full, stay)
        if self.refit:
            cross, second = sums.centred() if centred else sums.plain()
            new = solve(full, cross, second, new)
        before, after = sums.means()
        if not self.refit:
            # Only what removed inputs gave: what earlier operators got wrong is theirs.
            after = before.gather(1, stay)
        shift = full.double() @ before[:, :, None] - new.double() @ after[:, :, None]
        self._write(consumer, new, rows, small.outputs[0], bias, shift)
        if not self.refit and bias is None and self.uses[dense.name].normalised:
            self._pending = shift.reshape(-1)
        self.done.add(dense.name)

    def _statistics(self, dense: Call, small: Call) -> None:
        """Give a batch norm the statistics with which it answers as the dense one, in mean and in spread.

        Where the dense network's statistics are those of the data these become the small network's own; where
        they are not, the difference is carried over.
        """
        assert dense.statistics is not None and small.statistics is not None
        (mean, variance), target = dense.statistics, small.statistics
        if not self.refit:
            if self._pending is not None and len(self._pending) == len(target[0]):
                target[0].sub_(self._pending.to(target[0]))
            self._pending = None
            return
        labels = self.net.layers.get(dense.name, {}).get(0)
        stays = torch.ones(len(mean), dtype=torch.bool) if labels is None else self.keep[labels.reshape(-1)]
        index = stays.expand(len(mean)).nonzero().reshape(-1).to(mean.device)
        if len(index) != len(target[0]) or small.x.shape[1] != len(index):
            return
        before, spread = _channel_moments(dense.x)
        after, now = _channel_moments(small.x)
        before, spread, mean, variance = (t[index] for t in (before, spread, mean, variance))
        ratio = torch.where(spread > 0, now / spread, torch.ones_like(now)).clamp(1e-6, 1e6)
        target[0].copy_(after - (before - mean) * ratio.sqrt())
        target[1].copy_(variance * ratio)

    def _rows(self, consumer: Consumer, start: int, stop: int) -> Tensor:
        """Outputs start..stop of an operator that stay, (n,), as indices of the dense weight."""
        weight, labels = self.dense[consumer.name], self.net.layers.get(consumer.name, {})
        rows = torch.arange(start, stop)
        if consumer.dim_out not in labels:
            return rows
        classes = labels[consumer.dim_out].reshape(-1).expand(weight.shape[consumer.dim_out])
        return rows[self.keep[classes[start:stop]]]

    def _dense(self, consumer: Consumer, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The dense weight on some outputs (G, O, D), and the columns that stay (G, S)."""
        weight = self.dense[consumer.name].detach()
        full = matrix(consumer, weight.index_select(consumer.dim_out, rows.to(weight.device)))
        labels = self.net.layers.get(consumer.name, {}).get(consumer.dim_in)
        if labels is None:
            columns = torch.arange(full.shape[2]).expand(full.shape[0], -1)
            return full, columns.to(weight.device)
        stays = self.keep[columns_of(labels, consumer, self.dense[consumer.name])]  # (G, D)
        return full, stays.nonzero()[:, 1].reshape(len(stays), -1).to(weight.device)

    def _write(
        self, consumer: Consumer, new: Tensor, rows: Tensor, first: int, bias: str | None, shift: Tensor
    ) -> None:
        target = self.here[consumer.name].narrow(consumer.dim_out, first, len(rows))
        target.copy_(unmatrix(consumer, new, target))
        if bias is not None and bias in self.here:
            base = self.dense[bias].detach()
            base = base[rows.to(base.device)].double()
            self.here[bias][first : first + len(rows)] = (base + shift.reshape(-1)).to(new.dtype)


def _columns(full: Tensor, stay: Tensor) -> Tensor:
    """The columns that stay: (G, O, D) and (G, S) -> (G, O, S)."""
    return full.gather(2, stay[:, None, :].expand(-1, full.shape[1], -1))


def _channel_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of every channel, (C,) each.

    Args:
        x: (B, C, ...).
    """
    dims = [d for d in range(x.dim()) if d != 1]
    variance, mean = torch.var_mean(x, dim=dims, correction=0)
    return mean, variance


def _most_examples(net: Structure, limit: int) -> int:
    """How many examples both networks can hold at once: about eight of the largest tensors are alive."""
    largest = max((op.activation_bytes for op in net.operators), default=1)
    return max(2, min(limit, _MEMORY // max(1, 8 * largest)))


def _one_batch(examples: Examples, most: int) -> Inputs:
    """The first examples of one shape, as a single batch."""
    taken: list[Inputs] = []
    count = 0
    for inputs, _ in examples:
        same = not taken or [x.shape[1:] for x in inputs.tensors()] == [
            x.shape[1:] for x in taken[0].tensors()
        ]
        if same:
            taken.append(inputs)
            count += _leading(inputs)
        if count >= most:
            break
    sizes = [_leading(inputs) for inputs in taken]

    def join(*parts: Any) -> Any:
        batched = all(
            isinstance(p, Tensor) and p.dim() and len(p) == n for p, n in zip(parts, sizes, strict=True)
        )
        return torch.cat(parts)[:most] if batched else parts[0]

    args, kwargs = pytree.tree_map(
        join, (taken[0].args, dict(taken[0].kwargs)), *[(i.args, dict(i.kwargs)) for i in taken[1:]]
    )
    return Inputs(args, kwargs)


def _leading(inputs: Inputs) -> int:
    return max((len(x) for x in inputs.tensors() if x.dim()), default=1)
