"""A traced network with candidate widths and depths: its choices, their cost, the shapes it stands for.

See `soft_width` for what is computed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from netwright.errors import StructureError
from netwright.pruning.allocations.crop_widths import Ends
from netwright.pruning.importances.densities import layer_costs, layer_names
from netwright.pruning.removal.initialisation import reinitialise_
from netwright.pruning.removal.rebuild import norms_after
from netwright.pruning.systems.soft_width import (
    DRAWN,
    TENTHS,
    Choice,
    Followed,
    SoftBlock,
    SoftWidth,
    Stage,
    candidate_widths,
    draw,
    gumbel,
    segments_of,
    soften,
    stages,
)
from netwright.structure import Axis, Shrunk, Structure, drop, shrink, trace
from netwright.structure.copying import deep_copy
from netwright.structure.remapping import TOLERANCE, compare

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_WRITERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
#: Deviation of the logits at the beginning.
_SPREAD = 0.01


@dataclass(frozen=True)
class Shape:
    """One choice of widths and depths.

    Attributes:
        index: Candidate of every axis, then of every stage.
        keep: Axis -> members that each of its cells keeps.
        depth: Stage -> blocks that it keeps, from the front.
        skipped: Paths of the blocks that go.
        macs: Multiply-accumulates of one example.
    """

    index: tuple[int, ...]
    keep: dict[str, int]
    depth: dict[str, int]
    skipped: tuple[str, ...]
    macs: int


class SoftNetwork(nn.Module):
    """A network whose axes have candidate widths and whose stages have candidate depths.

    Axes that a layer other than convolutions, linear maps and batch norms writes to or normalises stay whole,
    as do those whose parts shrink each in its own way. That the rest computes what the smaller networks
    would is proved on the spot, at the smallest candidates and at the full size.

    Args:
        model: The network; it is copied.
        example: Its input.
        exclude: Names of modules or parameters, or patterns, that stay whole.
        seed: Of the logits' small beginnings.
        tenths: Candidate widths, in tenths.

    Attributes:
        net: The structure of the model.
        axes: The axes that have a choice.
        widths: Their candidate widths.
        stages: The stages that have a choice.
        alpha: (axes, widths) logits of the widths.
        beta: (stages, depths) logits of the depths.

    Raises:
        StructureError: if there is nothing to choose, or the network does not compute what its smaller
            versions would.
    """

    valid_widths: Tensor
    valid_depths: Tensor

    def __init__(
        self,
        model: nn.Module,
        example: Any,
        *,
        exclude: Iterable[str] = (),
        seed: int = 0,
        tenths: Sequence[int] = TENTHS,
    ) -> None:
        super().__init__()
        self.model_ = [model]  # in a list: not a part of this module
        self.net = trace(model, example, exclude=exclude)
        chosen = [
            n for n in _choosable(model, self.net) if len(candidate_widths(self.net.axes[n].size, tenths)) > 1
        ]
        self.axes: list[Axis] = [self.net.axes[n] for n in chosen]
        self.owners = {n: k for k, n in enumerate(chosen)}
        self.widths = [candidate_widths(a.size, tenths) for a in self.axes]
        self.stages: list[Stage] = stages(model, self.net)
        if not self.axes and not self.stages:
            raise StructureError(
                f"{self.net.name} has no width or depth to choose",
                "it needs convolutions or linear maps whose outputs nothing else holds",
            )
        self._read: dict[str, list[str]] | None = None
        self.choice = Choice()
        self.network = self._build(model, self.choice)
        generator = torch.Generator().manual_seed(seed)
        self.alpha, valid = _logits([len(w) for w in self.widths], generator)
        self.register_buffer("valid_widths", valid, persistent=False)
        self.beta, valid = _logits([len(s.depths) for s in self.stages], generator)
        self.register_buffer("valid_depths", valid, persistent=False)
        self._price(model)
        self._prove(model)
        device = next(model.parameters()).device
        self.to(device).train(model.training)
        self.choose_(self.full())

    @property
    def architecture(self) -> list[nn.Parameter]:
        """The logits that there are."""
        return [p for p in (self.alpha, self.beta) if p.numel()]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the network, at the present choice."""
        return self.network(*args, **kwargs)

    # What is computed.

    def draw_(self, tau: float, generator: torch.Generator | None = None) -> None:
        """Draw two widths of every axis; depths are all computed, with Gumbel weights.

        Args:
            tau: Temperature.
            generator: Of the noise and the draw.
        """
        index: list[list[int]] = []
        width: list[Tensor] = []
        depth: list[Tensor] = []
        if self.axes:
            soft = soften(self._alpha(), gumbel(self.alpha.shape, generator), tau)
            drawn, weights = draw(soft, DRAWN, generator)
            index, width = drawn.tolist(), list(weights)
        if self.stages:
            weights = soften(self._beta(), gumbel(self.beta.shape, generator), tau).softmax(dim=1)
            depth = [w[: len(s.depths)] for w, s in zip(weights, self.stages, strict=True)]
        self.choice.set_(index, width, depth)

    def choose_(self, index: Sequence[int]) -> None:
        """Compute one candidate of every axis and stage.

        Args:
            index: As in `Shape`.
        """
        one = torch.ones(1, device=self.alpha.device, dtype=self.alpha.dtype)
        widths, depths = index[: len(self.axes)], index[len(self.axes) :]
        hot = [
            torch.eye(len(s.depths), device=one.device, dtype=one.dtype)[k]
            for k, s in zip(depths, self.stages, strict=True)
        ]
        self.choice.set_([[j] for j in widths], [one for _ in widths], hot)

    def _alpha(self) -> Tensor:
        return self.alpha.masked_fill(~self.valid_widths, -torch.inf)

    def _beta(self) -> Tensor:
        return self.beta.masked_fill(~self.valid_depths, -torch.inf)

    # What it costs.

    def expected(self) -> Tensor:
        """Expected multiply-accumulates of one example by plain softmax, a differentiable scalar."""
        return self._macs(self._alpha().softmax(dim=1), self._beta().softmax(dim=1))

    def macs(self, index: Sequence[int]) -> int:
        """Multiply-accumulates of one choice, exactly.

        Args:
            index: As in `Shape`.
        """
        hot = []
        for logits, own in ((self.alpha, index[: len(self.axes)]), (self.beta, index[len(self.axes) :])):
            table = torch.zeros(logits.shape, dtype=torch.float64)
            table[torch.arange(len(own)), list(own)] = 1
            hot.append(table.to(logits.device))
        with torch.no_grad():
            return round(float(self._macs(*hot)))

    def best(self) -> tuple[int, ...]:
        """The most probable candidates."""
        found = [int(k) for x in (self._alpha(), self._beta()) if x.numel() for k in x.detach().argmax(dim=1)]
        return tuple(found)

    def full(self) -> tuple[int, ...]:
        """The largest candidates."""
        return tuple(len(c) - 1 for c in self.candidates)

    @property
    def candidates(self) -> list[tuple[int, ...]]:
        """Widths of every axis, then depths of every stage."""
        return [*self.widths, *(s.depths for s in self.stages)]

    def log_probabilities(self) -> list[Tensor]:
        """Of every candidate of every axis and stage, on the CPU."""
        rows = [
            r for x in (self._alpha(), self._beta()) if x.numel() for r in x.detach().log_softmax(1).cpu()
        ]
        return [r[: len(c)] for r, c in zip(rows, self.candidates, strict=True)]

    def shape(self, index: Sequence[int]) -> Shape:
        """The shape of some candidates."""
        index = tuple(index)
        keep = {a.name: w[j] for a, w, j in zip(self.axes, self.widths, index, strict=False)}
        depth: dict[str, int] = {}
        skipped: list[str] = []
        for stage, j in zip(self.stages, index[len(self.axes) :], strict=True):
            depth[stage.blocks[0] if stage.name in depth else stage.name] = stage.depths[j]
            skipped += stage.blocks[stage.depths[j] :]
        return Shape(index, keep, depth, tuple(skipped), self.macs(index))

    def mask(self, shape: Shape) -> Tensor:
        """(count,) bool, the classes that a shape keeps, before blocks go: the first of every cell."""
        keep = torch.ones(self.net.count, dtype=torch.bool)
        for axis in self.axes:
            keep[axis.cells[:, shape.keep[axis.name] :].reshape(-1)] = False
        return keep

    def cut(
        self, shape: Shape, model: nn.Module | None = None, seed: int | None = None
    ) -> tuple[nn.Module, Shrunk]:
        """The network of a shape.

        Args:
            shape: One of this network's.
            model: Whose weights it keeps; those of the network that was given where None.
            seed: Draws fresh weights instead.

        Returns:
            The network, and the surgery before the blocks went.
        """
        shrunk = shrink(self.model_[0] if model is None else model, self.net, self.mask(shape))
        small = shrunk.model
        if shape.skipped:
            small = drop(small, trace(small, self.net.inputs), shape.skipped).model
        return (small if seed is None else reinitialise_(small, seed)), shrunk

    # How it is made.

    def _build(self, model: nn.Module, choice: Choice) -> nn.Module:
        """A copy of the network with soft widths and depths."""
        network = deep_copy(model)
        modules = dict(network.named_modules())
        writers = {}
        for consumer in self.net.consumers:
            path = consumer.name.rpartition(".")[0]
            if isinstance(modules.get(path), _WRITERS):
                segments = segments_of(self.net, consumer.name, consumer.dim_out, self.owners, self.widths)
                if segments is not None:
                    writers[path] = segments
        if self._read is None:
            self._read = norms_after(deep_copy(model).eval(), self.net.inputs, list(writers))
        for path, norm in modules.items():
            if isinstance(norm, _NORMS):
                name = f"{path}.{'weight' if norm.affine else 'running_mean'}"
                segments = segments_of(self.net, name, 0, self.owners, self.widths)
                if segments is not None:
                    _set(network, path, SoftWidth(segments, choice, 1, norm))
        for path, segments in writers.items():
            if not self._read[path]:
                layer = modules[path]
                dim = -1 if isinstance(layer, nn.Linear) else 1
                _set(network, path, Followed(layer, SoftWidth(segments, choice, dim, None)))
        for number, stage in enumerate(self.stages):
            last = len(stage.blocks)
            for k, path in enumerate(stage.blocks, 1):
                block = network.get_submodule(path)
                _set(network, path, SoftBlock(block, choice, number, k in stage.depths, k == 1, k == last))
        return network.train(model.training)

    def _price(self, model: nn.Module) -> None:
        """Tables of the cost: a layer has a product of sums of widths, times its chance to be there."""
        names = layer_names(self.net)
        macs = layer_costs(self.net, model, names)[1]
        ends = Ends.of(self.net)
        order = {id(axis): k for k, axis in enumerate(ends.axes)}
        rows = max((len(ends.shares.get(n, [])) for n in names), default=1)
        table = np.zeros((len(names), rows, len(ends.axes) + 1))
        table[..., -1] = 1
        there = np.zeros((len(names), *self.beta.shape))
        always = np.ones(len(names))
        modules = {c.name: c.name.rpartition(".")[0] for c in self.net.consumers}
        for k, name in enumerate(names):
            for r, row in enumerate(ends.shares.get(name, [])):
                table[k, r] = row
            for s, stage in enumerate(self.stages):
                for b, path in enumerate(stage.blocks):
                    if f"{modules[name]}.".startswith(f"{path}."):
                        there[k, s, : len(stage.depths)] = [d > b for d in stage.depths]
                        always[k] = 0
        # (axes, widths) shares of the whole axis; (axes, columns) where the axis is in the table.
        shares = np.zeros(tuple(self.alpha.shape))
        columns = np.zeros((len(self.axes), len(ends.axes) + 1))
        for a, (axis, widths) in enumerate(zip(self.axes, self.widths, strict=True)):
            shares[a, : len(widths)] = np.array(widths) / axis.size
            columns[a, order[id(axis)]] = 1
        fixed = self.net.macs - macs.sum()
        for name, array in (
            ("cost_macs", macs), ("cost_table", table), ("cost_there", there), ("cost_always", always),
            ("cost_shares", shares), ("cost_columns", columns), ("cost_fixed", np.array(fixed)),
        ):  # fmt: skip
            self.register_buffer(
                name, torch.from_numpy(np.asarray(array, dtype=np.float64)), persistent=False
            )

    def _macs(self, widths: Tensor, depths: Tensor) -> Tensor:
        """Multiply-accumulates at probabilities of widths (A, K) and depths (S, D)."""
        c: dict[str, Tensor] = dict(self.named_buffers(recurse=False))
        kept = (widths.double() * c["cost_shares"]).sum(dim=1)  # (A,) share of each axis
        ends = 1 - (1 - kept) @ c["cost_columns"]  # (axes of the structure + 1,), 1 where nothing is chosen
        layers = (c["cost_table"] @ ends).prod(dim=1)  # (L,)
        present = c["cost_always"] + (c["cost_there"] * depths.double()).sum(dim=(1, 2))
        return (c["cost_macs"] * layers * present).sum() + c["cost_fixed"]

    def _prove(self, model: nn.Module) -> None:
        """Compare with the smallest and the full network, with norms that hide nothing.

        Raises:
            StructureError: if they differ.
        """
        probe = deep_copy(model).eval()
        generator = torch.Generator().manual_seed(0)
        for module in probe.modules():
            if isinstance(module, _NORMS):
                for tensor in module.state_dict(keep_vars=True).values():
                    if tensor.is_floating_point():
                        tensor.data += torch.rand(tensor.shape, generator=generator).to(tensor) / 2
        choice = Choice()
        soft = self._build(deep_copy(probe).cpu().double(), choice)
        for index in (tuple(0 for _ in self.candidates), self.full()):
            self.choose_(index)
            now = self.choice
            choice.set_(
                now.index, [w.double().cpu() for w in now.width], [w.double().cpu() for w in now.depth]
            )
            small = probe if index == self.full() else self.cut(self.shape(index), probe)[0]
            small = deep_copy(small).cpu().double().eval()
            error = compare(lambda x, small=small: x.call(small), soft, self.net.inputs)  # type: ignore[misc]
            if not error <= TOLERANCE:
                raise StructureError(
                    f"{self.net.name} at candidate widths differs from its smaller versions by {error:.2g}",
                    "leave what does not keep zeros (a sigmoid, a norm over channels) out with exclude=",
                )


def _logits(counts: Sequence[int], generator: torch.Generator) -> tuple[nn.Parameter, Tensor]:
    """Logits (rows, most candidates) from N(0, 0.01), and which of them are candidates."""
    widest = max(counts, default=0)
    logits = torch.randn(len(counts), widest, generator=generator) * _SPREAD
    valid = torch.arange(widest)[None] < torch.tensor(list(counts), dtype=torch.long)[:, None]
    return nn.Parameter(logits), valid


def _choosable(model: nn.Module, net: Structure) -> list[int]:
    """Numbers of the axes whose writers and norms are known here."""
    modules = dict(model.named_modules())
    reads = {(c.name, c.dim_in) for c in net.consumers}
    lost: set[int] = set()
    for name, dims in net.layers.items():
        module = modules.get(name.rpartition(".")[0])
        if isinstance(module, (*_WRITERS, *_NORMS, nn.PReLU)):
            continue
        for dim, labels in dims.items():
            if (name, dim) not in reads:
                lost |= set(labels.reshape(-1).tolist())
    return [
        n
        for n, axis in enumerate(net.axes)
        if axis.prunable and axis.coupling is None and not lost & set(axis.cells.reshape(-1).tolist())
    ]


def _set(model: nn.Module, path: str, module: nn.Module) -> None:
    owner, _, leaf = path.rpartition(".")
    setattr(model.get_submodule(owner), leaf, module)
