"""Second moments of the inputs of every operator that contracts a parameter, over real forward passes.

Weights are recognised by their memory, not by their modules: functional calls, raw parameters and views of a
parameter are met like any layer. The convolution's input is unfolded, so that its weight is a matrix too.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from netwright.pruning.statistics.examples import Examples
from netwright.structure import Consumer, Structure

#: Columns of the widest operator whose moments are gathered: 8192 x 8192 floats are 256 MiB.
WIDEST = 8192
#: Numbers of an unfolded input that are held at a time.
_CHUNK = 1 << 23


@dataclass
class Moments:
    """Sums over the rows x of an operator's input matrix, by group, about an origin near their mean.

    Attributes:
        consumer: The operator.
        bias: Name of its bias, or None.
        count: Number of rows.
        origin: (G, D) mean of the first rows; single precision is enough about it.
        total: (G, D) sum of x - origin.
        square: (G, D, D) sum of (x - origin) (x - origin)^T.
    """

    consumer: Consumer
    bias: str | None
    count: int
    origin: Tensor
    total: Tensor
    square: Tensor

    @property
    def mean(self) -> Tensor:
        """(G, D) mean of x, float64."""
        return self.origin.double() + self.total / self.count

    @property
    def centred(self) -> Tensor:
        """(G, D, D) covariance of x, float64."""
        mean = self.total / self.count
        return self.square.double() / self.count - mean[:, :, None] * mean[:, None, :]

    @property
    def second(self) -> Tensor:
        """(G, D, D) mean of x x^T, float64."""
        mean = self.mean
        return self.centred + mean[:, :, None] * mean[:, None, :]


def gather_moments(
    net: Structure, model: nn.Module, examples: Examples, names: Collection[str]
) -> tuple[dict[str, Moments], list[str]]:
    """Run the dense network on the examples and add up second moments.

    Args:
        net: The structure.
        model: The dense model; a copy of it runs, in eval mode.
        examples: The data.
        names: The parameters that are asked for.

    Returns:
        Moments by parameter, and a line for every operator that had to be left out.
    """
    twin = copy.deepcopy(model).eval()
    wanted = {c.name: c for c in net.consumers if c.name in names}
    tensors = dict(twin.named_parameters(remove_duplicate=False))
    notes = []
    for name, consumer in list(wanted.items()):
        columns = width(consumer, tensors[name])
        if consumer.transposed or columns > WIDEST:
            why = "it is a transposed convolution" if consumer.transposed else f"it has {columns} columns"
            notes.append(f"{name} is not updated: {why}")
            del wanted[name]
    device = next((t.device for t in tensors.values()), torch.device("cpu"))
    watch = _Watch(wanted, tensors)
    if wanted:
        with torch.no_grad(), watch, plain_attention():
            for inputs, _ in examples:
                inputs.map(lambda x: x.to(device)).call(twin)
    return watch.found, notes


def width(consumer: Consumer, weight: Tensor) -> int:
    """Columns of an operator's weight matrix, for one group."""
    return weight[0].numel() if consumer.kind == "convolution" else weight.shape[consumer.dim_in]


def matrix(consumer: Consumer, weight: Tensor) -> Tensor:
    """A weight as matrices (G, outputs of a group, D); a view where the layout allows.

    Args:
        consumer: The operator.
        weight: (O, I / G, K...) of a convolution, or (O, I), or (I, O), of a linear map.
    """
    if consumer.kind == "convolution":
        return weight.reshape(consumer.groups, weight.shape[0] // consumer.groups, -1)
    return (weight if consumer.dim_in == 1 else weight.t())[None]


def unmatrix(consumer: Consumer, value: Tensor, like: Tensor) -> Tensor:
    """The inverse of `matrix`.

    Args:
        consumer: The operator.
        value: (G, outputs of a group, D).
        like: A tensor of the shape that is wanted.
    """
    if consumer.kind == "convolution":
        return value.reshape(like.shape)
    return value[0] if consumer.dim_in == 1 else value[0].t()


def unfold(
    x: Tensor, kernel: Any, stride: Any, padding: Any, dilation: Any, groups: int, chunk: int | None = None
) -> Iterator[Tensor]:
    """The rows that a convolution multiplies with its weight, a few examples at a time.

    Args:
        x: (B, C, spatial...).
        kernel: Size of the kernel in every spatial dimension.
        stride: Of the convolution, likewise.
        padding: Of the convolution, likewise.
        dilation: Of the convolution, likewise.
        groups: G.
        chunk: Examples at a time; None takes as many as fit a fixed memory.

    Yields:
        (G, rows, D) with D = C / G * kernel, ordered as the flattened weight.
    """
    rank = len(kernel)
    stride, padding, dilation = (
        list(v) * rank if len(v) == 1 else list(v) for v in (stride, padding, dilation)
    )
    if x.dim() == rank + 1:
        x = x[None]
    x = F.pad(x, [p for pad in reversed(padding) for p in (pad, pad)])
    span = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    sizes = [(n - s) // t + 1 for n, s, t in zip(x.shape[2:], span, stride, strict=True)]
    step = [*x.stride()[2:]]
    volume = x[0].numel() * max(1, _product(kernel))
    for part in x.split(chunk or max(1, _CHUNK // max(1, volume))):
        strides = [part.stride(0), part.stride(1)]
        strides += [s * t for s, t in zip(step, stride, strict=True)]
        strides += [s * d for s, d in zip(step, dilation, strict=True)]
        view = part.as_strided([*part.shape[:2], *sizes, *kernel], strides, part.storage_offset())
        view = view.movedim(1, 1 + rank)  # (B, out..., C, kernel...)
        rows = view.reshape(-1, groups, x.shape[1] // groups * _product(kernel))
        yield rows.movedim(1, 0)


@contextmanager
def plain_attention() -> Iterator[None]:
    """Keep away PyTorch's fused encoder operator, which would hide its weights."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _product(values: Any) -> int:
    out = 1
    for v in values:
        out *= int(v)
    return out


class _Watch(TorchDispatchMode):
    """Adds up moments wherever a wanted weight is used."""

    def __init__(self, wanted: dict[str, Consumer], tensors: dict[str, nn.Parameter]) -> None:
        super().__init__()
        self.wanted = wanted
        self.columns = {name: width(consumer, tensors[name]) for name, consumer in wanted.items()}
        self.found: dict[str, Moments] = {}
        self._names: dict[int, str] = {}
        for name, tensor in tensors.items():
            self._names.setdefault(tensor.untyped_storage().data_ptr(), name)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        rule = _RULES.get(func._schema.name.partition("::")[2])
        if rule is not None:
            rule(self, args)
        return func(*args, **(kwargs or {}))

    def name(self, tensor: Any) -> str | None:
        """The parameter that a tensor is, or is a view of."""
        if not isinstance(tensor, Tensor):
            return None
        return self._names.get(tensor.untyped_storage().data_ptr())

    def add(self, name: str, bias: Any, rows: Tensor) -> None:
        """Add rows (G, N, D) of the input of an operator."""
        groups, count, columns = rows.shape
        rows = rows.float()
        known = self.found.get(name)
        if known is None:
            known = self.found[name] = Moments(
                self.wanted[name],
                self.name(bias),
                0,
                rows.mean(dim=1),
                torch.zeros(groups, columns, dtype=torch.float64, device=rows.device),
                torch.zeros(groups, columns, columns, device=rows.device),
            )
        rows = rows - known.origin[:, None]
        known.count += count
        known.total += rows.sum(dim=1).double()
        known.square.baddbmm_(rows.transpose(1, 2), rows)


def _convolution(watch: _Watch, args: Any) -> None:
    x, weight, bias, stride, padding, dilation, transposed, _, groups = args
    name = watch.name(weight)
    if name is not None and name in watch.wanted and not transposed:
        for rows in unfold(x, weight.shape[2:], stride, padding, dilation, groups):
            watch.add(name, bias, rows)


def _product_rule(inputs: int, bias: int | None) -> Callable[[_Watch, Any], None]:
    def rule(watch: _Watch, args: Any) -> None:
        x, weight = args[inputs], args[inputs + 1]
        name = watch.name(weight)
        if name is not None and watch.columns.get(name) == weight.shape[-2]:
            watch.add(name, args[bias] if bias is not None else None, x.reshape(1, -1, x.shape[-1]))

    return rule


_RULES: dict[str, Callable[[_Watch, Any], None]] = {
    "convolution": _convolution,
    "mm": _product_rule(0, None),
    "addmm": _product_rule(1, 0),
    "bmm": _product_rule(0, None),
    "baddbmm": _product_rule(1, 0),
}
