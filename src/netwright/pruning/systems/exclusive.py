"""Many tasks in one network: a mask for each, and weights that only the first task to use them trains.

P. Yadav and M. Bansal, Exclusive Supermask Subnetwork Training for Continual Learning, Findings of ACL 2023
(ExSSNeT), on supermasks per task: M. Wortsman et al., Supermasks in Superposition, NeurIPS 2020 (SupSup).
"""

from __future__ import annotations

import copy
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from netwright.data import Splits
from netwright.errors import UsageError
from netwright.pruning.allocations.choosing import prunable_weights
from netwright.pruning.allocations.layerwise import Layers, find_layer_allocation
from netwright.pruning.masks.mask_state import MaskState
from netwright.pruning.masks.selection import Masks
from netwright.pruning.systems.supermask import masks_of, scores_in, with_scores
from netwright.train import Callback, Recipe, State, evaluating, fit

Train = Literal["masks", "exclusive", "all"]
#: What decides where the scores of a new task begin.
Transfer = Literal["none", "knn"]


@dataclass(frozen=True)
class Task:
    """What is stored of one task.

    Attributes:
        masks: Weight -> packed bits of its mask.
        scores: Weight -> its scores, for transfer to later tasks.
        buffers: Statistics of the normalisations under this task.
        free: Weights that this task alone trained.
        history: Of the mask's training, and of the weights'.
    """

    masks: dict[str, np.ndarray[Any, Any]]
    scores: dict[str, Tensor] = field(repr=False)
    buffers: dict[str, Tensor] = field(repr=False)
    free: int
    history: list[dict[str, Any]] = field(repr=False)

    @property
    def bytes(self) -> int:
        """Bytes of the masks: one bit a weight."""
        return sum(bits.nbytes for bits in self.masks.values())


class _Exclusive(Callback):
    """Let only some weights move: no gradient, no decay and no moment reaches the others."""

    def __init__(self, free: Mapping[str, Tensor]) -> None:
        self.free = dict(free)
        self._before: dict[str, Tensor] = {}

    def begin(self, state: State) -> None:
        """Remember the weights."""
        named = dict(state.model.named_parameters())
        self._before = {n: named[n].detach().clone() for n in self.free}

    def before_step(self, state: State) -> None:
        """Mask the gradient."""
        for name, parameter in state.model.named_parameters():
            if name in self.free and parameter.grad is not None:
                parameter.grad.mul_(self.free[name].to(parameter.device))

    @torch.no_grad()
    def after_step(self, state: State) -> None:
        """Put back what decay or moments moved all the same."""
        for name, parameter in state.model.named_parameters():
            if name in self.free:
                free = self.free[name].to(parameter.device)
                parameter.copy_(torch.where(free, parameter, self._before[name].to(parameter.device)))


class ExSSNet:
    """A base network and the tasks it has learned.

    Args:
        base: The network; a copy is kept. Its normalisations must have no scales of their own to train, see
            `supermask.signed_constant_`.
        keep: Share of each layer that a task's mask keeps.
        train: "exclusive" trains the weights of a mask that no earlier task uses, "all" those of the whole
            mask (earlier tasks then suffer), "masks" none (SupSup).
        allocation: How the share is spread: "uniform" or "erk".
        transfer: "knn" begins with the scores of the earlier task whose features serve a nearest-neighbour
            classifier best, if they do better than chance.
        neighbours: Of that classifier.
        seed: Of scores and samples.
        device: Where to train.

    Attributes:
        tasks: Task -> what is stored of it, in the order of learning.
    """

    def __init__(
        self,
        base: nn.Module,
        keep: float = 0.1,
        *,
        train: Train = "exclusive",
        allocation: str = "uniform",
        transfer: Transfer = "none",
        neighbours: int = 10,
        seed: int = 0,
        device: str | torch.device = "auto",
    ) -> None:
        self.base = copy.deepcopy(base)
        self.names = prunable_weights(base)
        trained = [n for n, p in base.named_parameters() if p.requires_grad and n not in set(self.names)]
        if trained:
            raise UsageError(
                f"{trained[0]} belongs to no mask, so all tasks would share and move it",
                "freeze it first: netwright.pruning.systems.supermask.signed_constant_(model)",
            )
        shapes = {n: tuple(base.get_parameter(n).shape) for n in self.names}
        shares = find_layer_allocation(allocation)(Layers(shapes), keep)
        self.keep = dict(zip(self.names, shares, strict=True))
        self.train, self.transfer, self.neighbours = train, transfer, neighbours
        self.seed, self.device = seed, device
        self._last = self.names[-1].rpartition(".")[0]
        self.tasks: dict[Hashable, Task] = {}
        self.used: Masks = {n: torch.zeros(s, dtype=torch.bool) for n, s in shapes.items()}

    def fit_task(self, name: Hashable, data: Splits, masks: Recipe, weights: Recipe | None = None) -> Task:
        """Learn one more task.

        Args:
            name: Of the task.
            data: Its data; labels from 0.
            masks: How the mask is trained.
            weights: How the weights are trained; as `masks` where None. Not used with ``train="masks"``.

        Raises:
            UsageError: if the task is known already.
        """
        if name in self.tasks:
            raise UsageError(f"task {name!r} was learned already", "give it another name")
        first = self._transferred(data)
        seed = self.seed + 1_009 * len(self.tasks)
        scored = with_scores(self.base, self.keep, names=self.names, scores=first, seed=seed)
        fitted = fit(scored, data, masks, device=self.device)
        trained = fitted.model.cpu()
        chosen, history = masks_of(trained), [*fitted.history]
        free = {n: m & ~self.used[n] if self.train == "exclusive" else m for n, m in chosen.items()}
        scores, buffers = scores_in(trained), _buffers(trained)
        if self.train != "masks":
            network = copy.deepcopy(self.base)
            _load(network, buffers)
            network.requires_grad_(False)
            for weight in self.names:
                network.get_parameter(weight).requires_grad_(True)
            MaskState(network, chosen, soft=True)
            moves = {_soft_name(n): m for n, m in free.items()}
            after = fit(network, data, weights or masks, device=self.device, callbacks=[_Exclusive(moves)])
            learned = after.model.cpu()
            history += after.history
            state = MaskState.of(learned)
            assert state is not None
            with torch.no_grad():
                for weight in self.names:
                    self.base.get_parameter(weight).copy_(state.parameter(weight))
            buffers = _buffers(learned)
        else:
            free = {n: torch.zeros_like(m) for n, m in chosen.items()}
        for weight, mask in chosen.items():
            self.used[weight] |= mask
        packed = {n: np.packbits(m.numpy().reshape(-1)) for n, m in chosen.items()}
        count = sum(int(m.sum()) for m in free.values())
        self.tasks[name] = Task(packed, scores, buffers, count, history)
        return self.tasks[name]

    def masks(self, name: Hashable) -> Masks:
        """The masks of a task."""
        task = self._task(name)
        found = {}
        for weight, bits in task.masks.items():
            shape = self.base.get_parameter(weight).shape
            flat = np.unpackbits(bits, count=shape.numel()).astype(bool)
            found[weight] = torch.from_numpy(flat).reshape(shape)
        return found

    def activate(self, name: Hashable) -> nn.Module:
        """A task's network, with zeros where its mask has them; an ordinary network that can be exported."""
        task = self._task(name)
        network = copy.deepcopy(self.base)
        _load(network, task.buffers)
        with torch.no_grad():
            for weight, mask in self.masks(name).items():
                network.get_parameter(weight).mul_(mask)
        return network.eval()

    def overlap(self, one: Hashable, other: Hashable) -> float:
        """Share of one task's weights that another uses too."""
        first, second = self.masks(one), self.masks(other)
        both = sum(int((m & second[n]).sum()) for n, m in first.items())
        return both / sum(int(m.sum()) for m in first.values())

    def _task(self, name: Hashable) -> Task:
        if name not in self.tasks:
            raise UsageError(f"there is no task {name!r}", f"learned: {', '.join(map(str, self.tasks))}")
        return self.tasks[name]

    def _transferred(self, data: Splits) -> dict[str, Tensor] | None:
        """The scores of the earlier task that serves best, or None."""
        if self.transfer == "none" or not self.tasks:
            return None
        accuracies = {
            name: knn_accuracy(self.activate(name), data, self._last, self.neighbours, self.seed)
            for name in self.tasks
        }
        best = max(accuracies, key=lambda n: accuracies[n])
        # A copy: what is trained from it must not change the task it came from.
        above = accuracies[best] > 1 / data.num_classes
        return {n: s.clone() for n, s in self.tasks[best].scores.items()} if above else None


def knn_accuracy(
    network: nn.Module, data: Splits, layer: str, neighbours: int = 10, seed: int = 0, share: float = 0.2
) -> float:
    """How well a network's features of new data separate their classes, by a nearest-neighbour classifier.

    Args:
        network: Of an earlier task.
        data: Of the new task; of a share of its training examples two thirds are neighbours of the rest.
        layer: The module whose inputs are the features.
        neighbours: How many vote.
        seed: Of the sample.
        share: Of the training examples.

    Returns:
        Accuracy in 0..1.
    """
    from sklearn.neighbors import KNeighborsClassifier

    generator = torch.Generator().manual_seed(seed)
    count = max(round(share * len(data.train)), 6)
    order = torch.randperm(len(data.train), generator=generator)[:count]
    sample = data.train.subset(order)
    features: list[Tensor] = []
    labels: list[Tensor] = []
    hook = network.get_submodule(layer).register_forward_pre_hook(
        lambda module, args: features.append(args[0].flatten(1))
    )
    try:
        with torch.no_grad(), evaluating(network):
            for images, classes in sample.batches(256):
                network(images)
                labels.append(classes)
    finally:
        hook.remove()
    x, y = torch.cat(features).numpy(), torch.cat(labels).numpy()
    cut = round(0.66 * len(x))
    classifier = KNeighborsClassifier(min(neighbours, cut)).fit(x[:cut], y[:cut])
    return float(classifier.score(x[cut:], y[cut:]))


def _buffers(model: nn.Module) -> dict[str, Tensor]:
    return {n: b.detach().clone() for n, b in model.named_buffers() if not n.startswith("_nw_mask")}


def _load(model: nn.Module, buffers: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])


def _soft_name(name: str) -> str:
    owner, _, leaf = name.rpartition(".")
    return f"{owner}.parametrizations.{leaf}.original" if owner else f"parametrizations.{leaf}.original"
