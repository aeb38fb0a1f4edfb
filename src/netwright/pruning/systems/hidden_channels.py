"""Hidden channels of mixed blocks: which scales tell their worth, what each costs, and which go.

The search of SuperTickets (Y. Fu et al., ECCV 2022) and, before it, of AtomNAS (J. Mei et al., ICLR 2020):
the scale after a depthwise convolution belongs to one hidden channel, an L1 penalty on it is weighted by what
the channel costs, and channels whose scale has come to nothing are removed while the training goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from netwright.errors import UsageError
from netwright.models.blocks import branch_paths
from netwright.pruning.schedules.penalties import scales
from netwright.structure import Structure
from netwright.structure.cost import CONVOLUTIONS

#: A channel whose scale is at most this is dead.
THRESHOLD = 1e-3

#: Scale -> its channels' classes of the structure, (C,).
Hidden = dict[str, Tensor]


def hidden_scales(net: Structure, model: nn.Module) -> Hidden:
    """The scales that follow depthwise convolutions; of a network without any, all that can shrink.

    Args:
        net: The structure of the network.
        model: The network.

    Raises:
        UsageError: if no normalisation has a scale whose channels can go.
    """
    free = {
        name: labels
        for name in scales(model)
        if (labels := net.layers.get(name, {}).get(0, torch.zeros(1, dtype=torch.int64)).reshape(-1)).numel()
        and not bool(net.frozen[labels].any())
    }
    after = _after_depthwise(net)
    found = {name: labels for name, labels in free.items() if name in after} or free
    if not found:
        raise UsageError(
            "no normalisation has a scale whose channels can go", "give a network with batch norms"
        )
    return found


def _after_depthwise(net: Structure) -> set[str]:
    """Names of the scales of normalisations whose input a depthwise convolution made."""
    recording = net.recording
    names = {number: name for name, number in recording.parameters.items()}
    depthwise: set[int] = set()
    found: set[str] = set()
    for node in recording.nodes:
        if node.op in CONVOLUTIONS and len(node.inputs) > 1:
            weight = recording.shapes[node.inputs[1]]
            groups = node.args[6] if node.op == "mkldnn_convolution" else node.args[8]
            if groups == weight[0] > 1 and weight[1] == 1:
                depthwise.update(node.outputs)
        elif "norm" in node.op and node.inputs and node.inputs[0] in depthwise:
            found.update(names[n] for n in node.inputs[1:] if n in names)
    return found


def channel_macs(net: Structure, hidden: Mapping[str, Tensor]) -> dict[str, int]:
    """Multiply-accumulates that go with one channel of each scale, all others being there."""
    keep = net.everything.repeat(len(hidden) + 1, 1)
    for row, labels in enumerate(hidden.values(), start=1):
        keep[row, labels[0]] = False
    macs = net.costs(keep)[:, 0]
    return {name: int(macs[0] - macs[row]) for row, name in enumerate(hidden, start=1)}


def cost_weights(net: Structure, hidden: Mapping[str, Tensor]) -> dict[str, float]:
    """Scale -> factor of its penalty: what a channel costs, by the mean over all channels.

    The mean of the factors, each counted once a channel, is 1.
    """
    costs = channel_macs(net, hidden)
    total = sum(len(labels) for labels in hidden.values())
    mean = sum(len(labels) * costs[name] for name, labels in hidden.items()) / total
    return {name: cost / max(mean, 1e-12) for name, cost in costs.items()}


@dataclass(frozen=True)
class Removal:
    """What goes.

    Attributes:
        keep: (count,) bool, the classes that stay; of a branch that goes whole all of them stay here.
        dropped: Paths of branches that go whole.
        alive: Scale -> (C,) bool, the channels that stay; scales of dropped branches are left out.
        channels: Channels that go, those of dropped branches included.
        macs: Multiply-accumulates afterwards.
    """

    keep: Tensor
    dropped: tuple[str, ...]
    alive: dict[str, Tensor]
    channels: int
    macs: int


def choose_removal(
    net: Structure,
    hidden: Mapping[str, Tensor],
    values: Mapping[str, Tensor],
    *,
    threshold: float = THRESHOLD,
    ceiling: float | None = None,
    branches: Sequence[str] = (),
) -> Removal:
    """Choose the dead channels, and as many of the weakest besides as a ceiling needs.

    Args:
        net: The structure.
        hidden: As of `hidden_scales`.
        values: Scale -> its present values (C,).
        threshold: Channels whose scale is at most this in absolute value are dead.
        ceiling: Multiply-accumulates that are not to be exceeded, or None.
        branches: Paths of branches that can go whole (see `netwright.models.blocks`); anywhere else one
            channel of every scale stays.

    Raises:
        UsageError: if the ceiling cannot be met by removing hidden channels.
    """
    owner = {n: next((b for b in branches if n.startswith(f"{b}.")), None) for n in hidden}
    order, worth = _weakest_first(net, hidden, values, owner)
    cost = _Cost(net, hidden, owner)

    count = least = int((worth <= threshold).sum())
    if ceiling is not None and cost.after(order[:least]) > ceiling:
        if cost.after(order) > ceiling:
            raise UsageError(
                f"{ceiling:,.0f} multiply-accumulates cannot be met by removing hidden channels",
                f"the smallest network has {cost.after(order):,}",
            )
        low, high = least, len(order)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if cost.after(order[:middle]) <= ceiling else (middle, high)
        count = high
    keep, empty = cost.left(order[:count])
    macs = cost.after(order[:count])
    dropped = tuple(dict.fromkeys(b for n in hidden if n in empty and (b := owner[n]) is not None))
    alive = {
        n: keep[labels] if _labelled(labels) else torch.ones(len(values[n]), dtype=torch.bool)
        for n, labels in hidden.items()
        if n not in empty
    }
    for n in empty:
        if _labelled(hidden[n]):
            keep[hidden[n]] = True  # the branch goes before channels do
    return Removal(keep, dropped, alive, count, macs)


def labels_of(net: Structure, name: str, size: int) -> Tensor:
    """The classes of a scale's channels, (C,); -1 where they cannot go one by one, as a last one cannot.

    Args:
        net: The structure.
        name: Of the scale.
        size: Its channels.
    """
    found = net.layers.get(name, {}).get(0)
    if found is None or found.numel() != size or bool(net.frozen[found].any()):
        return torch.full((size,), -1)
    return found.reshape(-1)


def _labelled(labels: Tensor) -> bool:
    return int(labels[0]) >= 0


def _weakest_first(
    net: Structure,
    hidden: Mapping[str, Tensor],
    values: Mapping[str, Tensor],
    owner: Mapping[str, str | None],
) -> tuple[list[int | str], Tensor]:
    """What can go, the weakest first: classes, and names of scales that go as one piece; and their sizes."""
    size = {n: values[n].detach().abs().double().cpu() for n in hidden}
    worth = torch.zeros(net.count, dtype=torch.float64)
    spared: set[int] = set()
    whole: list[tuple[float, int | str]] = []
    for n, labels in hidden.items():
        if _labelled(labels):  # what several scales share is worth as much as the largest of them
            worth.scatter_reduce_(0, labels, size[n], "amax")
        elif owner[n] is not None:
            whole.append((float(size[n].max()), n))
    for n, labels in hidden.items():
        if _labelled(labels) and owner[n] is None:
            spared.add(int(labels[worth[labels].argmax()]))
    found = [labels for labels in hidden.values() if _labelled(labels)]
    classes = torch.cat(found).unique().tolist() if found else []
    ranked = sorted(
        [*((float(worth[c]), c) for c in classes if c not in spared), *whole], key=lambda pair: pair[0]
    )
    return [what for _, what in ranked], torch.tensor([value for value, _ in ranked], dtype=torch.float64)


class _Cost:
    """Multiply-accumulates when some channels and some branches are gone."""

    def __init__(self, net: Structure, hidden: Mapping[str, Tensor], owner: Mapping[str, str | None]) -> None:
        self.net, self.hidden, self.owner = net, hidden, owner

    def left(self, gone: Sequence[int | str]) -> tuple[Tensor, set[str]]:
        """The classes that stay, and the scales that nothing stays of."""
        keep = self.net.everything
        keep[[c for c in gone if isinstance(c, int)]] = False
        empty = {c for c in gone if isinstance(c, str)}
        empty |= {
            n for n, labels in self.hidden.items() if _labelled(labels) and not bool(keep[labels].any())
        }
        return keep, empty

    def after(self, gone: Sequence[int | str]) -> int:
        """What is left of the network's cost."""
        keep, empty = self.left(gone)
        macs = self.net.cost(keep).macs
        whole = [f"{self.owner[n]}." for n in empty if not _labelled(self.hidden[n])]
        if whole:
            operators = self.net.operators_at(keep)
            macs -= sum(o.macs for o in operators if o.module.startswith(tuple(whole)))
        return macs


def whole_branches(model: nn.Module, hidden: Mapping[str, Tensor]) -> list[str]:
    """Branches of a network that have exactly one of the scales: without its channels nothing is left.

    Args:
        model: The network.
        hidden: As of `hidden_scales`.
    """
    return [path for path in branch_paths(model) if sum(name.startswith(f"{path}.") for name in hidden) == 1]
