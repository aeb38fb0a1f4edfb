"""Two networks that run side by side and stop together at every operator that contracts a parameter.

The dense network runs in a thread of its own. Wherever it is about to use one of the watched weights it hands
the operator's input over and waits; the small network, at the same operator, receives it together with its
own input, may change its weight, and goes on. So every operator of the small network sees what the operators
before it, as they are now, really give.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from netwright.errors import StructureError
from netwright.pruning.statistics.moments import plain_attention
from netwright.structure import Inputs

_PRODUCTS = {"mm": 0, "addmm": 1, "bmm": 0, "baddbmm": 1}


@dataclass(frozen=True)
class Call:
    """An operator that is about to use a watched tensor.

    Attributes:
        name: The weight, or the running mean of a batch norm.
        x: Its input.
        bias: The bias, or None.
        geometry: Kernel, stride, padding, dilation of a convolution; None for anything else.
        groups: Groups of a convolution.
        columns: Columns that are contracted, for one group; 0 for a batch norm.
        outputs: First and last-but-one output that the operator computes, where it uses a part of the weight.
        statistics: Running mean and variance of a batch norm.
    """

    name: str
    x: Tensor
    bias: Tensor | None = None
    geometry: tuple[Any, ...] | None = None
    groups: int = 1
    columns: int = 0
    outputs: tuple[int, int] = (0, 0)
    statistics: tuple[Tensor, Tensor] | None = None

    @property
    def rows(self) -> int:
        """Rows of the operator's input matrix (for a convolution an estimate from the stride)."""
        if self.geometry is None:
            return self.x.numel() // max(1, self.columns)
        stride = self.geometry[1]
        rows = self.x.shape[0]
        for d, n in enumerate(self.x.shape[2:]):
            rows *= max(1, n // stride[d % len(stride)])
        return rows


class Watch(TorchDispatchMode):
    """Tells about every use of a weight or of running statistics, recognised by their memory, as it begins.

    Args:
        model: The network that will run.
        act: Called with every use.
    """

    def __init__(self, model: nn.Module, act: Callable[[Call], None]) -> None:
        super().__init__()
        self._act = act
        self._names: dict[int, str] = {}
        self._last: tuple[str, Tensor] | None = None
        #: Weights whose output a batch norm reads at once.
        self.normalised: set[str] = set()
        tensors = [
            *model.named_parameters(remove_duplicate=False),
            *model.named_buffers(remove_duplicate=False),
        ]
        for name, tensor in tensors:
            self._names.setdefault(tensor.untyped_storage().data_ptr(), name)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        op = func._schema.name.partition("::")[2]
        call = self._call(op, args)
        if call is not None:
            self._act(call)
            if call.statistics is not None and self._last is not None and call.x is self._last[1]:
                self.normalised.add(self._last[0])
        out = func(*args, **(kwargs or {}))
        if call is not None and isinstance(out, Tensor):
            self._last = (call.name, out)
        return out

    def _call(self, op: str, args: Any) -> Call | None:
        if op == "convolution":
            x, weight, bias, stride, padding, dilation, transposed, _, groups = args
            name = self._name(weight)
            if name is None or transposed:
                return None
            geometry = (weight.shape[2:], stride, padding, dilation)
            return Call(name, x, bias, geometry, groups, weight[0].numel(), (0, len(weight)))
        if op in _PRODUCTS:
            first = _PRODUCTS[op]
            x, weight = args[first], args[first + 1]
            name = self._name(weight)
            if name is None:
                return None
            columns, outputs = weight.shape[-2:]
            start = weight.storage_offset() // columns
            return Call(name, x, args[0] if first else None, None, 1, columns, (start, start + outputs))
        if "batch_norm" in op and len(args) > 4 and isinstance(args[3], Tensor):
            name = self._name(args[3])
            return None if name is None else Call(name, args[0], statistics=(args[3], args[4]))
        return None

    def _name(self, tensor: Any) -> str | None:
        return self._names.get(tensor.untyped_storage().data_ptr()) if isinstance(tensor, Tensor) else None


@dataclass(frozen=True)
class Use:
    """How a network uses a weight.

    Attributes:
        calls: How often, at most, it uses the same part of it.
        rows: Rows of its input for the examples it was surveyed with.
        normalised: Whether a batch norm reads its output.
        norm: Whether it is the running mean of a batch norm.
    """

    calls: int
    rows: int
    normalised: bool
    norm: bool


def survey(model: nn.Module, inputs: Inputs) -> dict[str, Use]:
    """How every weight is used, from one forward pass in the mode the model is in.

    Args:
        model: The network.
        inputs: Any example.
    """
    calls: dict[str, list[Call]] = {}
    watch = Watch(model, lambda call: calls.setdefault(call.name, []).append(call))
    with torch.no_grad(), plain_attention(), watch:
        inputs.call(model)
    uses = {}
    for name, found in calls.items():
        starts = [call.outputs for call in found]
        most = max(starts.count(start) for start in starts)
        norm = found[0].statistics is not None
        uses[name] = Use(most, found[0].rows, name in watch.normalised, norm)
    return uses


def run_together(
    dense: nn.Module,
    small: nn.Module,
    inputs: Inputs,
    names: Collection[str],
    act: Callable[[Call, Call], None],
) -> None:
    """Run two networks of one architecture on the same inputs, in step.

    Args:
        dense: The one that is only listened to.
        small: The one whose weights may change.
        inputs: All examples, as one batch.
        names: The weights and running means at which they meet.
        act: Called at each of them with (dense call, small call).

    Raises:
        StructureError: if the networks do not come by the same weights in the same order.
        Exception: what either network raises.
    """
    handed: queue.SimpleQueue[Call | BaseException] = queue.SimpleQueue()
    onward: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def listen(call: Call) -> None:
        if call.name in names:
            handed.put(call)
            if not onward.get():
                raise _Stop

    def run_dense() -> None:
        try:
            with torch.no_grad(), Watch(dense, listen):
                inputs.call(dense)
            handed.put(_Stop())
        except BaseException as error:
            handed.put(error)

    def meet(call: Call) -> None:
        if call.name not in names:
            return
        other = handed.get()
        if isinstance(other, _Stop) or (isinstance(other, Call) and other.name != call.name):
            raise StructureError(f"the networks part at {call.name}", 'take repair="bn"')
        if isinstance(other, BaseException):
            raise other
        act(other, call)
        onward.put(True)

    thread = threading.Thread(target=run_dense, name="dense network", daemon=True)
    with plain_attention():
        thread.start()
        try:
            with torch.no_grad(), Watch(small, meet):
                small(*inputs.args, **inputs.kwargs)
        finally:
            onward.put(False)
            thread.join()


class _Stop(BaseException):
    """Ends the dense network's run early."""
