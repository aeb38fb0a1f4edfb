"""Dead neuron rates: how much of what a network's activations put out is zero, and for which inputs.

S. Liu, R. Ghosh, D. Tan and M. Motani, AP: Selective Activation for De-sparsifying Pruned Neural Networks,
2022, section 3: a node is dead on an input where it puts out 0. The *static* rate is the share of nodes that
are dead on every input, the *dynamic* rate is the rest: nodes that are dead on some inputs only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from netwright.data import Part
from netwright.errors import DataError, UsageError
from netwright.train import evaluating

_ATEN = torch.ops.aten
#: Activations that put out exact zeros, and those that come near them only.
_EXACT = {_ATEN.relu.default, _ATEN.relu_.default, _ATEN.hardtanh.default, _ATEN.hardtanh_.default}
_EXACT |= {_ATEN.hardswish.default, _ATEN.hardswish_.default, _ATEN.hardsigmoid.default}
_SMOOTH = {_ATEN.gelu.default, _ATEN.silu.default, _ATEN.silu_.default, _ATEN.mish.default}


@dataclass(frozen=True)
class DeadRates:
    """Dead neuron rates of one layer, or of several together, in 0..1.

    Attributes:
        total: Mean over nodes and inputs of being dead.
        static: Share of the nodes that are dead on every input.
        nodes: How many nodes there are.
        inputs: How many inputs were looked at.
    """

    total: float
    static: float
    nodes: int
    inputs: int

    @property
    def dynamic(self) -> float:
        """What is left: nodes that are dead on some of the inputs."""
        return self.total - self.static

    @classmethod
    def together(cls, rates: Iterable[DeadRates]) -> DeadRates:
        """Rates of the nodes of several layers together.

        Raises:
            UsageError: if there is no layer.
        """
        parts = list(rates)
        nodes = sum(r.nodes for r in parts)
        if not nodes:
            raise UsageError("there are no nodes to average over", "does the network have activations?")
        total = sum(r.total * r.nodes for r in parts) / nodes
        static = sum(r.static * r.nodes for r in parts) / nodes
        return cls(total, static, nodes, parts[0].inputs)


@torch.no_grad()
def dead_neurons(
    model: nn.Module,
    data: Part | Tensor | Iterable[Any],
    *,
    threshold: float = 0.0,
    per_channel: bool = False,
    smooth: bool = False,
    batch_size: int = 256,
) -> dict[str, DeadRates]:
    """Measure the dead neuron rates of every ReLU of a network, in eval mode.

    Activations are found where they are computed, so functions count as modules do. A node of a convolution's
    map is one position of one channel.

    Args:
        model: The network; run on the device of its parameters.
        data: A split, a tensor of inputs (N, ...), or batches: inputs, or tuples that begin with them.
        threshold: A node is dead where the size of its output is at most this. Zero for ReLU; GELU and SiLU
            are never exactly zero, so that a rate of theirs is a matter of definition.
        per_channel: Take a whole channel for one node, dead where all of its positions are: the second
            dimension of maps (B, C, H, W), the last of everything else.
        smooth: Look at GELU, SiLU and Mish too.
        batch_size: Examples at a time.

    Returns:
        Name of the module that computes the activation -> rates; a second activation in the same module is
        called ``name:2``.

    Raises:
        UsageError: if the threshold is negative, or none of the activations was met.
        DataError: if there are no data, or inputs differ in shape.
    """
    if threshold < 0:
        raise UsageError(f"a threshold of {threshold:g} makes no sense", "give 0 or more")
    counts: dict[str, Tensor] = {}
    seen = 0
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one fused kernel would hide the activation
    try:
        with evaluating(model), _Names(model) as names:
            for x in _inputs(data, batch_size):
                watch = _Watch(names, _EXACT | _SMOOTH if smooth else _EXACT, threshold, per_channel)
                with watch:
                    model(x.to(device))
                seen += len(x)
                _add(counts, watch.dead)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    if not seen:
        raise DataError("there are no examples to look at")
    if not counts:
        raise UsageError(
            "the network computes no ReLU" + ("" if smooth else ", and smooth activations are not looked at"),
            "give smooth=True and a threshold for GELU, SiLU and Mish",
        )
    return {
        name: DeadRates(
            float(dead.double().mean()) / seen, float((dead == seen).double().mean()), dead.numel(), seen
        )
        for name, dead in counts.items()
    }


def _inputs(data: Any, batch_size: int) -> Iterator[Tensor]:
    if isinstance(data, Part):
        yield from (x for x, _ in data.batches(batch_size))
    elif isinstance(data, Tensor):
        yield from data.split(batch_size)
    else:
        for batch in data:
            yield batch[0] if isinstance(batch, Sequence) else batch


def _add(counts: dict[str, Tensor], dead: Mapping[str, Tensor]) -> None:
    for name, one in dead.items():
        if name in counts and counts[name].shape != one.shape:
            raise DataError(
                f"the nodes of {name} have shapes {tuple(counts[name].shape)} and {tuple(one.shape)}",
                "give inputs of one size",
            )
        counts[name] = counts[name] + one if name in counts else one


class _Names:
    """Knows in which module of a network the computation is."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.stack: list[str] = []
        self._handles: list[Any] = []

    def __enter__(self) -> _Names:
        for name, module in self.model.named_modules():
            self._handles.append(module.register_forward_pre_hook(lambda m, a, n=name: self.stack.append(n)))
            # Called even where the forward pass fails, so that the stack stays right.
            self._handles.append(module.register_forward_hook(lambda m, a, o: self._pop(), always_call=True))
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _pop(self) -> None:
        self.stack.pop()


class _Watch(TorchDispatchMode):
    """Counts dead nodes of one batch wherever an activation is computed."""

    def __init__(self, names: _Names, kinds: set[Any], threshold: float, per_channel: bool) -> None:
        super().__init__()
        self.names, self.kinds = names, kinds
        self.threshold, self.per_channel = threshold, per_channel
        self.dead: dict[str, Tensor] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in self.kinds:
            base = self.names.stack[-1] if self.names.stack else ""
            name, times = base, 1
            while name in self.dead:
                times += 1
                name = f"{base}:{times}"
            self.dead[name] = self._count(out)
        return out

    def _count(self, out: Tensor) -> Tensor:
        dead = out.abs() <= self.threshold if self.threshold else out == 0
        if self.per_channel:
            channel = 1 if out.dim() == 4 else out.dim() - 1
            dims = [d for d in range(1, out.dim()) if d != channel]
            dead = dead.all(dim=dims) if dims else dead
        return dead.sum(dim=0).cpu()
