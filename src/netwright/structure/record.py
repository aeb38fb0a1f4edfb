"""Record the ATen operators of one forward pass.

The forward pass runs on a *meta clone*: a deep copy of the model whose memo replaces every tensor by one
without values, so no weight is copied or computed with, and nothing that the forward stores reaches the
user's model.
Where a forward needs values (meta tensors have none), the recording is repeated on a real copy.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from netwright.errors import ModelError
from netwright.structure.attention import adopt_attention
from netwright.structure.copying import clone, stray_tensors
from netwright.structure.inputs import Inputs, to_meta
from netwright.structure.kernels import KERNELS
from netwright.structure.modules import named_modules, named_tensors
from netwright.structure.recording import Node, Recording, Ref
from netwright.structure.sources import caller

__all__ = [
    "Attempt",
    "Node",
    "Recording",
    "Ref",
    "note",
    "plain_kernels",
    "record",
    "record_values",
    "recording_now",
    "try_record",
    "within",
]


#: Where the operators are from that are called by their plain names.
_SPACES = frozenset({"aten", "prims", "prim", "torchvision"})


#: Types of arguments that hold no tensor.
_PLAIN = frozenset((int, float, bool, str, type(None), torch.dtype, torch.device))
#: Operator -> `_plain_name` of it.
_names: dict[Any, str] = {}


def _plain_name(func: Any) -> str:
    """The name of an operator without overload, nor the underscore of in-place variants."""
    space, _, name = func._schema.name.partition("::")
    if space not in _SPACES:  # an operator of the user's own is not PyTorch's of that name
        name = f"{space}::{name}"
    return name[:-1] if name.endswith("_") and not name.endswith("__") else str(name)


class _Recorder(TorchDispatchMode):
    def __init__(self, recording: Recording, values: dict[int, Tensor] | None = None) -> None:
        super().__init__()
        self.recording = recording
        self.values = values  # what was there before the pass, where it is wanted
        self.ids: dict[int, int] = {}
        self.held: list[Tensor] = []  # Python reuses the id of a dead object: keep every tensor alive
        self.path: list[str] = [""]

    def number(self, tensor: Tensor) -> int:
        key = id(tensor)
        known = self.ids.get(key)
        if known is not None:
            return known
        new = self.ids[key] = len(self.held)
        self.held.append(tensor)
        shape = tuple(tensor.shape)
        self.recording.shapes.append(shape)
        self.recording.dtypes.append(tensor.dtype)
        stride = tensor.stride() if tensor.layout == torch.strided else ()
        self.recording.strides.append(stride)
        if 0 in stride:
            free = frozenset(
                d for d, (s, n) in enumerate(zip(stride, shape, strict=True)) if s == 0 and n > 1
            )
            if free:
                self.recording.broadcast[new] = free
        return new

    def start(self, tensor: Tensor) -> int:
        """Number a tensor that no operator of the pass has made."""
        number = self.number(tensor)
        if self.values is not None and number not in self.values:
            value = tensor.detach()  # a forward pass writes buffers, but no parameters
            self.values[number] = value if isinstance(tensor, nn.Parameter) else value.clone()
        return number

    def refer(self, value: Any, seen: list[int]) -> Any:
        if type(value) in _PLAIN:
            return value
        if isinstance(value, Tensor):
            number = self.ids.get(id(value))
            if number is None:
                number = self.start(value)
                self._constant(value, number)
            seen.append(number)
            return Ref(number)
        if isinstance(value, (list, tuple)):
            return type(value)([v if type(v) in _PLAIN else self.refer(v, seen) for v in value])
        return value

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        seen: list[int] = []
        held = tuple([self.refer(a, seen) for a in args])
        named = {k: self.refer(v, seen) for k, v in kwargs.items()} if kwargs else {}
        kernel = KERNELS.get(func) if not self.recording.real else None
        out = kernel(*args, **kwargs) if kernel is not None else None
        if out is None:
            out = func(*args, **kwargs)
        if isinstance(out, Tensor):
            outputs = [self.number(out)]
        elif isinstance(out, (list, tuple)):
            outputs = [self.number(o) if isinstance(o, Tensor) else -1 for o in out]
        else:
            return out
        known = self.recording.constants
        if known and seen and isinstance(out, Tensor) and all(n in known for n in seen):
            self._computed(func, args, kwargs, seen, out, outputs[0])
        if func is torch.ops.aten.repeat.default:
            self._repeated(args[0], args[1], outputs[0])
        name = _names.get(func)
        if name is None:
            name = _names[func] = _plain_name(func)
        source = caller(_run.__code__)
        self.recording.nodes.append(Node(name, func, held, named, seen, outputs, self.path[-1], source))
        return out

    def _constant(self, tensor: Tensor, number: int) -> None:
        if tensor.numel() == 1 and tensor.device.type == "cpu" and not tensor.is_complex():
            self.recording.constants[number] = float(tensor)

    def _computed(self, func: Any, args: Any, kwargs: Any, seen: list[int], out: Tensor, number: int) -> None:
        """What is computed of constants, in double precision: the check computes with it in that, too."""
        known = self.recording.constants
        if torch.Tag.nondeterministic_seeded in func.tags:
            return
        same = func in (torch.ops.aten._to_copy.default, torch.ops.aten.lift_fresh.default)
        if same and out.is_floating_point():
            known[number] = known[seen[0]]
            return

        def wide(x: Tensor) -> Tensor:
            return torch.full(x.shape, known[self.ids[id(x)]], dtype=torch.float64)

        if number not in seen and out.is_floating_point():
            args, kwargs = pytree.tree_map_only(Tensor, wide, (args, kwargs))
            out = func(*args, **kwargs)
        self._constant(out, number)

    def _repeated(self, source: Tensor, times: list[int], output: int) -> None:
        """Repeating a single element is expanding it."""
        shape = (1,) * (len(times) - source.dim()) + tuple(source.shape)
        free = frozenset(d for d, (n, k) in enumerate(zip(shape, times, strict=True)) if n == 1 and k > 1)
        if free:
            self.recording.broadcast[output] = free


_RUNNING: list[_Recorder] = []


def note(name: str, tensor: Tensor) -> None:
    """Name a tensor in the recording in progress, if there is one: a graph being interpreted has names.

    Args:
        name: The name, for `Recording.named`.
        tensor: An input of the model or the result of an operator.
    """
    if _RUNNING:
        recorder = _RUNNING[-1]
        recorder.recording.named[name] = recorder.number(tensor)


def recording_now() -> bool:
    """Whether a recording is in progress."""
    return bool(_RUNNING)


@contextmanager
def within(path: str) -> Iterator[None]:
    """Say that what runs now belongs to a module, in the recording in progress, if there is one.

    Args:
        path: Dotted path of the module.
    """
    if not _RUNNING:
        yield
        return
    recorder = _RUNNING[-1]
    recorder.path.append(path)
    try:
        yield
    finally:
        recorder.path.pop()


@contextmanager
def _module_paths(model: nn.Module, recorder: _Recorder) -> Iterator[None]:
    names: dict[int, str] = {}
    for name, module in named_modules(model):
        names.setdefault(id(module), name)

    # Hooks on all modules would say the same, but where there are any every call of a module takes a way that
    # is six times as long.
    called = nn.Module.__call__

    def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        recorder.path.append(names.get(id(module), recorder.path[-1]))
        try:
            return called(module, *args, **kwargs)
        finally:
            recorder.path.pop()

    nn.Module.__call__ = call  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.__call__ = called  # type: ignore[method-assign]


class plain_kernels:  # noqa: N801 - used like a function
    """Run the decomposed operators that the rules know instead of fused CPU kernels."""

    def __enter__(self) -> None:
        # Only this flag: setting the others, as `flags()` does, warns on machines without the hardware.
        self._enabled = torch.backends.mkldnn.set_flags(_enabled=False, _fp32_precision=None)[0]
        self._sdpa = sdpa_kernel(SDPBackend.MATH)
        self._sdpa.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._sdpa.__exit__(*error)
        torch.backends.mkldnn.set_flags(_enabled=self._enabled, _fp32_precision=None)


def record(
    model: nn.Module, inputs: Inputs, *, training: bool = False, real: bool | None = None
) -> Recording:
    """Record one forward pass.

    Args:
        model: The model; it is not touched.
        inputs: The example inputs.
        training: Record in training mode (for branches that run only there).
        real: Use real values; None tries without and falls back.

    Raises:
        ModelError: if the model rejects the example.
    """
    if real is None:
        try:
            return record(model, inputs, training=training, real=False)
        except ModelError as without:
            try:
                return record(model, inputs, training=training, real=True)
            except ModelError as error:
                raise error from without
    attempt = try_record(model, inputs, training=training, real=real)
    if attempt.error is not None:
        raise attempt.error
    return attempt.recording


@dataclass(frozen=True)
class Attempt:
    """A forward pass that may have stopped on the way.

    Attributes:
        recording: What ran.
        error: Why it stopped, or None.
        module: Path of the module in whose code it stopped.
    """

    recording: Recording
    error: ModelError | None = None
    module: str = ""


def try_record(
    model: nn.Module,
    inputs: Inputs,
    *,
    training: bool = False,
    real: bool = False,
    twin: nn.Module | None = None,
) -> Attempt:
    """Record one forward pass as far as it goes.

    Args:
        model: The model; it is not touched.
        inputs: The example inputs.
        training: Record in training mode.
        real: Use real values.
        twin: A clone of the model to run instead of a new one; what its forward stores stays in it.
    """
    twin = clone(model, None if real else "meta") if twin is None else twin
    if any(module.training != training for _, module in named_modules(twin)):
        twin.train(training)
    inputs = inputs.map(lambda x: x.detach().clone()) if real else to_meta(inputs)
    recorder = _Recorder(Recording(real=real, training=training))
    try:
        _run(twin, inputs, recorder)
    except ModelError as error:
        return Attempt(recorder.recording, error, _stopped_in(twin, error))
    return Attempt(recorder.recording)


def _stopped_in(model: nn.Module, error: BaseException) -> str:
    """The module whose code was running when an error arose: the innermost one on the stack."""
    names = {id(module): name for name, module in model.named_modules()}
    found = ""
    trace = (error.__cause__ or error).__traceback__
    while trace is not None:
        found = names.get(id(trace.tb_frame.f_locals.get("self")), found)
        trace = trace.tb_next
    return found


def record_values(model: nn.Module, inputs: Inputs) -> tuple[Recording, dict[int, Tensor]]:
    """Record one forward pass on real tensors, in the mode the model is in, and keep what it started from.

    Args:
        model: The model; buffers that its forward writes are written.
        inputs: The example inputs, on the model's device.

    Returns:
        The recording, and the value of every parameter, buffer, input and constant before the pass and
        of every output after it, by number.

    Raises:
        ModelError: if the model rejects the example.
    """
    recorder = _Recorder(Recording(real=True, training=model.training), values={})
    outputs = _run(model, inputs.map(torch.clone), recorder)
    assert recorder.values is not None
    return recorder.recording, {**recorder.values, **outputs}


def _run(twin: nn.Module, inputs: Inputs, recorder: _Recorder) -> dict[int, Tensor]:
    """Run a model that is ours under a recorder; returns its output tensors by number."""
    adopt_attention(twin)
    recording = recorder.recording
    parameters, buffers = named_tensors(twin)
    for name, parameter in parameters:
        recording.parameters[name] = recorder.start(parameter)
    for name, buffer in buffers:
        recording.parameters[name] = recorder.start(buffer)
        if not isinstance(buffer, nn.Parameter):
            recording.buffers.add(recording.parameters[name])
    recording.inputs = [recorder.start(x) for x in inputs.tensors()]
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the fused encoder operator would hide everything
    _RUNNING.append(recorder)
    try:
        with plain_kernels(), torch.no_grad(), torch.random.fork_rng(devices=[]):
            with _module_paths(twin, recorder), recorder:
                output = inputs.call(twin)
    finally:
        _RUNNING.pop()
        torch.backends.mha.set_fastpath_enabled(fast)
    leaves = [x for x in pytree.tree_leaves(output) if isinstance(x, Tensor)]
    if not leaves:
        leaves = _attribute_tensors(output)
    recording.outputs = [recorder.number(x) for x in leaves]
    return dict(zip(recording.outputs, leaves, strict=True))


def _attribute_tensors(output: Any) -> list[Tensor]:
    found: list[Tensor] = []
    stray_tensors(getattr(output, "__dict__", {}), found)
    if not found:
        raise ModelError(
            f"the model returned {type(output).__name__}, in which there is no tensor",
            "return the tensors themselves",
        )
    return found
