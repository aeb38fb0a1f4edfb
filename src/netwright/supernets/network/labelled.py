"""Which members of which axes lie in the tensors that a network's modules take and give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from netwright.errors import UsageError
from netwright.structure import Structure
from netwright.structure.record import Node


@dataclass(frozen=True)
class Site:
    """A module with parameters of its own, and what its channels are.

    Attributes:
        path: Its path.
        kind: "batch norm", "norm" (statistics over channels), or "map" (a convolution, product or table).
        takes: Class labels of its input, of the input's rank with size 1 where constant; None without units.
        gives: Likewise of its output.
    """

    path: str
    kind: str
    takes: Tensor | None
    gives: Tensor | None


class Sites:
    """The modules of a network at whose boundary channels are masked.

    Args:
        model: The network.
        net: Its structure.
        elastic: (count,) bool, the classes that may go.
    """

    def __init__(self, model: nn.Module, net: Structure, elastic: Tensor) -> None:
        self.net, self.elastic = net, elastic
        self._parameters = set(net.recording.parameters.values())
        self._modules = {p: m for p, m in model.named_modules() if _own(m)}
        self._nodes: dict[str, list[Node]] = {}
        for node in net.recording.nodes:
            if node.module in self._modules:
                self._nodes.setdefault(node.module, []).append(node)

    @cached_property
    def found(self) -> list[Site]:
        """Every site with elastic channels, in order of execution."""
        sites = [self._site(path, nodes) for path, nodes in self._nodes.items()]
        return [s for s in sites if s.takes is not None or s.gives is not None]

    def _site(self, path: str, nodes: Sequence[Node]) -> Site:
        module = self._modules[path]
        if isinstance(module, _BatchNorm):
            kind = "batch norm"
        elif "norm" in type(module).__name__.lower():
            kind = "norm"
        else:
            kind = "map"
        taken = next((i for n in nodes for i in n.inputs if i >= 0 and i not in self._parameters), None)
        given = next((o for n in reversed(nodes) for o in n.outputs[:1] if o >= 0), None)
        return Site(path, kind, self._labels(taken), self._labels(given))

    @cached_property
    def _varied(self) -> set[int]:
        """Tensors that the inputs have a part in: those that have a place for every example."""
        found = set(self.net.recording.inputs)
        for node in self.net.recording.nodes:
            if any(i in found for i in node.inputs):
                found.update(o for o in node.outputs if o >= 0)
        return found

    def _labels(self, number: int | None) -> Tensor | None:
        """Labels of a tensor of activations; what is the same for all examples is left alone."""
        if number is None or number not in self._varied:
            return None
        layers = self.net.runs[0].table[number]
        found = [self.net.sizes.classes(layer) for layer in layers]
        found = [labels for labels in found if bool(self.elastic[labels].any())]
        if not found:
            return None
        if len(found) > 1:
            raise UsageError("a tensor lies on several elastic axes", "leave one of them out of the widths")
        assert number is not None
        shape = self.net.recording.shapes[number]
        if found[0].shape[0] != 1 or shape[0] % max(self.net.batch, 1):
            raise UsageError("the examples do not lie along the first dimension", "set one choice instead")
        return found[0]


def _own(module: nn.Module) -> bool:
    """Whether a module has parameters or statistics of its own and no module within it."""
    return not module._modules and any(
        t is not None for t in (*module._parameters.values(), *module._buffers.values())
    )


def spread(values: Tensor, labels: Tensor, size: int) -> Tensor:
    """Values of classes as a factor of a tensor.

    Args:
        values: (B, count) of every class for every example, or (count,).
        labels: Class labels of the tensor, size 1 along its first dimension.
        size: Of the tensor's first dimension, a multiple of B (windows of one example follow each other).

    Returns:
        (size, ...), or (B, ...) where the tensor is one for all examples, of the labels' rank.
    """
    flat = labels.reshape(-1).to(values.device)
    if values.dim() == 1:
        return values[flat].reshape(labels.shape)
    found = values[:, flat].reshape(len(values), *labels.shape[1:])
    if len(values) >= size:  # one for all examples broadcasts
        return found
    return found.repeat_interleave(size // len(values), dim=0)
