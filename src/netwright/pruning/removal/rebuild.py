"""Networks of other layers: convolutions taken out or given other sizes, with fresh weights.

Unlike a surgery this keeps no weights, so that kernels and strides may change and layers of unequal widths
may follow each other: every layer is made for the input that reaches it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from netwright.errors import ModelError, StructureError
from netwright.pruning.removal.initialisation import reinitialise_
from netwright.structure import Inputs, Structure, trace

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


@dataclass(frozen=True)
class Layer:
    """A layer whose sizes can change.

    Attributes:
        name: Path of the module.
        kind: 0 a convolution, 1 a linear map.
        kernel: Size of its kernel, 1 for a linear map.
        stride: Its stride.
        out: Outputs.
        padding: Its padding.
        group: Layers of one group keep the same number of outputs: they are added, or lie on one axis.
        removable: Whether the network can do without it: neither the first, nor one that changes the size of
            the image, nor what makes the answer.
        widths: Whether the outputs can change.
    """

    name: str
    kind: int
    kernel: int
    stride: int
    out: int
    padding: int
    group: int
    removable: bool
    widths: bool

    @property
    def encoding(self) -> tuple[int, int, int, int, int]:
        """(type, kernel, stride, outputs, padding)."""
        return (self.kind, self.kernel, self.stride, self.out, self.padding)


class _Passed(nn.Module):
    """Stands for a layer that was taken out: a copy, since what follows may write over what it is given."""

    def forward(self, x: Tensor) -> Tensor:
        """Give a copy of x."""
        return x.clone()


def layers_of(model: nn.Module, example: Any) -> tuple[Structure, list[Layer]]:
    """The convolutions and linear maps of a network, in order of execution.

    Args:
        model: The network.
        example: Its input.

    Raises:
        StructureError: if there is none.
    """
    net = trace(model, example)
    modules = dict(model.named_modules())
    axis_of = torch.full((net.count,), -1)
    for i, axis in enumerate(net.axes):
        axis_of[axis.cells.reshape(-1)] = i
    shortcuts = {n for n in modules if "shortcut" in n or "downsample" in n}
    found: list[Layer] = []
    for consumer in net.consumers:
        name = consumer.name.rpartition(".")[0]
        module = modules[name]
        labels = net.layers.get(consumer.name, {}).get(consumer.dim_out)
        group = int(axis_of[labels.reshape(-1)[0]]) if labels is not None else -1
        widths = group >= 0 and net.axes[group].prunable
        if isinstance(module, _CONVOLUTIONS) and module.groups == 1:
            same = module.stride[0] == 1 and module.kernel_size[0] // 2 == module.padding[0]
            keeps = bool(found) and same and widths and name not in shortcuts
            sizes = (module.kernel_size[0], module.stride[0], module.out_channels, int(module.padding[0]))
            found.append(Layer(name, 0, *sizes, group, keeps, widths))
        elif isinstance(module, nn.Linear):
            found.append(Layer(name, 1, 1, 1, module.out_features, 0, group, bool(found) and widths, widths))
    if not found:
        raise StructureError(
            f"{net.name} has no layer that could change", "it needs convolutions or linear maps"
        )
    return net, found


def rebuild(model: nn.Module, example: Any, layers: Mapping[str, Layer | None], seed: int = 0) -> nn.Module:
    """A network with other layers and fresh weights.

    Args:
        model: The network; it is left alone.
        example: Its input: every layer is made for what reaches it.
        layers: Module -> its new sizes, or None to take it out (with the batch norm that reads it).
        seed: Of the fresh weights.

    Raises:
        StructureError: if the layers do not fit together, or nothing of the image is left.
    """
    child = copy.deepcopy(model).eval()
    norms = norms_after(child, example, [n for n, layer in layers.items() if layer is None])
    for name, layer in layers.items():
        if layer is None:
            for gone in (name, *norms[name]):
                _replace(child, gone, _Passed())
        else:
            _replace(child, name, _resized(child.get_submodule(name), layer))
    handles = [
        m.register_forward_pre_hook(_fit)
        for m in child.modules()
        if isinstance(m, (*_CONVOLUTIONS, nn.Linear, *_NORMS))
    ]
    try:
        with torch.no_grad():
            Inputs.of(example).call(child)
    except (RuntimeError, ModelError) as error:
        raise StructureError(f"these layers do not fit together: {str(error).splitlines()[0]}") from error
    finally:
        for handle in handles:
            handle.remove()
    return reinitialise_(child, seed).train(model.training)


def norms_after(model: nn.Module, example: Any, names: Sequence[str]) -> dict[str, list[str]]:
    """The batch norms that read the outputs of some layers directly.

    Args:
        model: The network, in eval mode.
        example: Its input.
        names: Paths of the layers.
    """
    found: dict[str, list[str]] = {name: [] for name in names}
    made: dict[int, str] = {}
    alive: list[Any] = []  # an id belongs to one tensor only as long as that lives
    handles = []

    def gave(name: str, answer: Any) -> None:
        made[id(answer)] = name
        alive.append(answer)

    def reads(norm: str, x: Tensor) -> None:
        if id(x) in made:
            found[made[id(x)]].append(norm)

    for path, module in model.named_modules():
        if path in found:
            handles.append(module.register_forward_hook(lambda m, args, out, path=path: gave(path, out)))
        elif isinstance(module, _NORMS):
            handles.append(module.register_forward_pre_hook(lambda m, args, path=path: reads(path, args[0])))
    try:
        if found:
            with torch.no_grad():
                Inputs.of(example).call(model)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    owner, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(owner), leaf, module)


def _resized(old: nn.Module, layer: Layer) -> nn.Module:
    if isinstance(old, nn.Linear):
        return nn.Linear(old.in_features, layer.out, old.bias is not None)
    assert isinstance(old, _CONVOLUTIONS)
    kind = type(old)
    return kind(
        old.in_channels, layer.out, layer.kernel, layer.stride, layer.padding, bias=old.bias is not None
    )


def _fit(module: nn.Module, args: tuple[Tensor, ...]) -> None:
    """Give a layer the inputs that reach it."""
    x = args[0]
    if isinstance(module, nn.Linear):
        if module.in_features != x.shape[-1]:
            module.in_features = x.shape[-1]
            module.weight = nn.Parameter(torch.empty(module.out_features, x.shape[-1]))
    elif isinstance(module, _CONVOLUTIONS):
        if module.in_channels != x.shape[1]:
            module.in_channels = x.shape[1]
            module.weight = nn.Parameter(torch.empty(module.out_channels, x.shape[1], *module.kernel_size))
    elif isinstance(module, _NORMS) and module.num_features != x.shape[1]:
        new = type(module)(x.shape[1], module.eps, module.momentum, module.affine, module.track_running_stats)
        module.num_features = x.shape[1]
        module._parameters.update(new._parameters)
        module._buffers.update(new._buffers)


def shrunk(
    layer: Layer, kernel: float = 1.0, stride: float = 1.0, out: float = 1.0, padding: float = 1.0
) -> Layer:
    """A layer with some entries scaled: kernels and strides at least 1, outputs at least 10 (or what it has).

    Args:
        layer: The layer.
        kernel: Factor of the kernel.
        stride: Factor of the stride.
        out: Factor of the outputs.
        padding: Factor of the padding.
    """
    return replace(
        layer,
        kernel=max(int(layer.kernel * kernel), 1),
        stride=max(int(layer.stride * stride), 1),
        out=max(int(layer.out * out), min(10, layer.out)),
        padding=int(layer.padding * padding),
    )
