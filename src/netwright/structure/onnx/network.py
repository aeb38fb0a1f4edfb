"""`OnnxNetwork`: an ONNX graph as a PyTorch module, so that everything that works on modules works on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from netwright.errors import ModelError, NetwrightError, UsageError
from netwright.structure.inputs import Inputs
from netwright.structure.onnx import values
from netwright.structure.onnx.opaque import run_opaque
from netwright.structure.onnx.operators import find_operator
from netwright.structure.onnx.operators.recurrent import directions
from netwright.structure.onnx.operators.registry import UnsupportedFormError
from netwright.structure.onnx.program import Body, Program, Step, Value
from netwright.structure.record import note

if TYPE_CHECKING:
    from onnx import ModelProto

    from netwright.structure.surgery import Change, Shrunk
    from netwright.structure.tracing import Structure

_RECURRENT = ("LSTM", "GRU", "RNN")
#: Sizes assumed for what a file leaves open, by the rank of the input and the dimension from the end.
_OPEN = {4: (64, 64), 5: (16, 16, 16)}
_OPEN_ELSE = 12


class OnnxNode(nn.Module):
    """One node of the graph; its name is that of the node.

    Args:
        step: The node.
    """

    def __init__(self, step: Step) -> None:
        super().__init__()
        self.step = step

    def __deepcopy__(self, memo: dict[int, Any]) -> OnnxNode:
        # A graph has thousands of nodes and copies are made all the time: only what can change is copied.
        new = OnnxNode.__new__(OnnxNode)
        memo[id(self)] = new
        new.__dict__.update({k: v.copy() if isinstance(v, dict) else v for k, v in vars(self).items()})
        return new

    def forward(self, *inputs: Value) -> tuple[Value, ...]:
        """Run the node on its inputs."""
        return execute(self.step, inputs)

    def extra_repr(self) -> str:
        """The operator."""
        return self.step.op


class OnnxNetwork(nn.Module):
    """An ONNX graph that PyTorch runs, prunes and trains; made by `read_onnx`.

    Parameters are the graph's floating-point initializers under their own names, dots and slashes included;
    buffers are the statistics of its batch norms. Nodes are submodules under their own names. Weights of a
    recurrent layer that runs both ways are one parameter a direction, `name[0]` and `name[1]`.
    Batch norms use the stored statistics, and nothing is dropped, whatever the mode.

    Args:
        program: The graph without its weights.
        weights: The weights by name.
    """

    def __init__(self, program: Program, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.program = program
        self.sides = _sides(program, weights)
        # The names hold dots and slashes, which `register_parameter` refuses; nothing looks them up by path.
        for name, tensor in weights.items():
            parts = (
                {f"{name}[{d}]": part for d, part in enumerate(tensor.unbind(0))}
                if name in self.sides
                else {name: tensor}
            )
            for key, part in parts.items():
                if name in program.buffers:
                    self._buffers[key] = part
                else:
                    self._parameters[key] = nn.Parameter(part.contiguous())
        for step in _all_steps(program.steps):
            self._modules[step.name] = OnnxNode(step)

    def forward(self, *args: Tensor, **kwargs: Tensor) -> Any:
        """Run the graph.

        Args:
            args: Its inputs, in order.
            kwargs: Its inputs by name.

        Returns:
            Its output, or a tuple of all of them.
        """
        return self.run(args, kwargs, lambda step, inputs: self._modules[step.name](*inputs))  # type: ignore[misc]

    def run(
        self,
        args: Sequence[Tensor],
        kwargs: Mapping[str, Tensor],
        call: Callable[[Step, tuple[Value, ...]], tuple[Value, ...]],
    ) -> Any:
        """Run the graph, every node through a function of one's own.

        Args:
            args: Its inputs, in order.
            kwargs: Its inputs by name.
            call: Runs a node on its inputs; see `execute`.
        """
        found: dict[str, Value] = {**self.program.constants, **self._stored(), **self._bind(args, kwargs)}
        for step, over in zip(self.program.steps, self.program.last, strict=True):
            self._step(step, found, call)
            for name in over:
                found.pop(name, None)
        like = next((p for p in self.parameters()), torch.zeros(()))
        outputs = [found[name] for name in self.program.outputs]
        out = [
            torch.from_numpy(np.array(v)).to(like.device) if isinstance(v, np.ndarray) else v for v in outputs
        ]
        return out[0] if len(out) == 1 else tuple(out)

    def _step(
        self,
        step: Step,
        found: dict[str, Value],
        call: Callable[[Step, tuple[Value, ...]], tuple[Value, ...]],
    ) -> None:
        inputs = tuple(found[name] if name else None for name in step.inputs)
        if step.op == "If":
            outputs = self._branch(step, inputs, found, call)
        elif all(v is None or isinstance(v, np.ndarray) for v in inputs):
            outputs = values.evaluate(step, inputs)
        else:
            outputs = call(step, inputs)
        for name, value in zip(step.outputs, outputs, strict=False):
            if name:
                found[name] = value
                if isinstance(value, Tensor):
                    note(name, value)

    def _branch(
        self,
        step: Step,
        inputs: tuple[Value, ...],
        found: dict[str, Value],
        call: Callable[[Step, tuple[Value, ...]], tuple[Value, ...]],
    ) -> tuple[Value, ...]:
        (condition,) = inputs
        if isinstance(condition, Tensor):
            raise ModelError(
                f"node {step.name} (If) branches on data", "a network whose course is fixed is understood"
            )
        body: Body = step.bodies["then_branch" if bool(condition) else "else_branch"]
        inner = {**found, **body.constants}
        for own in body.steps:
            self._step(own, inner, call)
        return tuple(inner[name] for name in body.outputs)

    def _stored(self) -> dict[str, Value]:
        stored: dict[str, Value] = {**self._parameters, **self._buffers}
        for name, count in self.sides.items():
            stored[name] = [stored.pop(f"{name}[{d}]") for d in range(count)]
        return stored

    def _bind(self, args: Sequence[Tensor], kwargs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        names = list(self.program.inputs)
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        if len(args) > len(names) or set(given) != set(names):
            count = len(args) + len(kwargs)
            raise ModelError(f"the graph takes {len(names)} inputs ({', '.join(names)}), {count} were given")
        return given

    def example(self, batch: int = 2, shape: Sequence[int] | None = None, seed: int = 0) -> Inputs:
        """Inputs of the sizes that the file states, with random values.

        Open sizes are assumed: `batch` for the first of every input; others, where `shape` does not say
        them, 64 for images, 16 for volumes and 12 for anything else, one size for every symbol.

        Args:
            batch: Size of open first dimensions.
            shape: Sizes of one example of the first input, without the batch.
            seed: Of the values.

        Raises:
            UsageError: if `shape` contradicts the file.
        """
        generator = torch.Generator().manual_seed(seed)
        symbols: dict[str, int] = {}
        made = []
        for index, (name, (dtype, sizes)) in enumerate(self.program.inputs.items()):
            wanted = list(shape) if shape is not None and index == 0 else None
            if wanted is not None and len(wanted) != len(sizes) - 1:
                raise UsageError(
                    f"the input {name} has {len(sizes) - 1} sizes besides the batch, {len(wanted)} were given"
                )
            full = []
            for d, size in enumerate(sizes):
                given = wanted[d - 1] if wanted is not None and d > 0 else None
                if isinstance(size, int):
                    if given is not None and given != size:
                        raise UsageError(f"the input {name} has size {size} where {given} was given")
                    full.append(size)
                    continue
                assumed = batch if d == 0 else given if given is not None else _assumed(d, len(sizes))
                full.append(symbols.setdefault(size, assumed) if isinstance(size, str) else assumed)
            made.append(_random(full, dtype, generator))
        return Inputs(tuple(made))

    @property
    def open_sizes(self) -> list[str]:
        """Inputs' dimensions, other than the first, that the file leaves open."""
        return [
            f"{name}:{d}"
            for name, (_, sizes) in self.program.inputs.items()
            for d, size in enumerate(sizes)
            if d > 0 and not isinstance(size, int)
        ]

    @property
    def open_batch(self) -> bool:
        """Whether the file takes any number of examples."""
        return all(not sizes or not isinstance(sizes[0], int) for _, sizes in self.program.inputs.values())

    def proto(self) -> ModelProto:
        """The graph with its weights as they are now."""
        from netwright.structure.onnx.writing import to_proto

        return to_proto(self)

    def save(self, path: str | Path) -> Path:
        """Write an ONNX file, complete or not at all.

        Args:
            path: The file; weights of 2 GB and more go into a second one, ``path + ".data"``.

        Raises:
            ArtefactError: if the operating system refuses.
        """
        from netwright.structure.onnx.writing import write

        return write(self, Path(path))

    def carry_out(self, net: Structure, change: Change) -> Shrunk:
        """A surgery on this graph; see `netwright.structure.onnx.surgery`."""
        from netwright.structure.onnx.surgery import carry_out

        return carry_out(self, net, change)


def execute(step: Step, inputs: tuple[Value, ...]) -> tuple[Value, ...]:
    """Run one node, at least one of whose inputs is a tensor.

    Args:
        step: The node.
        inputs: Its inputs: tensors, arrays, None.

    Raises:
        ModelError: if it rejects them; names the node.
    """
    function = find_operator(step.op)
    try:
        if function is None:
            return run_opaque(step, inputs)
        out = function(step, *inputs)
    except (UnsupportedFormError, NotImplementedError):  # a rare form of it, or a rare element type
        return run_opaque(step, inputs)
    except NetwrightError:
        raise
    except Exception as error:  # whatever PyTorch raises of sizes that do not fit
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"node {step.name} ({step.op}) fails: {reason}") from error
    return out if isinstance(out, tuple) else (out,)


def _all_steps(steps: Sequence[Step]) -> Sequence[Step]:
    found: list[Step] = []
    for step in steps:
        found.append(step)
        for body in step.bodies.values():
            found += _all_steps(body.steps)
    return found


def _sides(program: Program, weights: Mapping[str, Tensor]) -> dict[str, int]:
    """Weights of recurrent layers that run both ways, which are kept apart by direction."""
    found: dict[str, int] = {}
    others: set[str] = set()
    for step in _all_steps(program.steps):
        both = step.op in _RECURRENT and directions(step) == 2
        for position, name in enumerate(step.inputs):
            if name in weights:
                if both and 1 <= position <= 3:
                    found[name] = 2
                else:
                    others.add(name)
    return {name: count for name, count in found.items() if name not in others}


def _assumed(dim: int, rank: int) -> int:
    sizes = _OPEN.get(rank)
    return sizes[dim - 2] if sizes is not None and dim >= 2 else _OPEN_ELSE


def _random(shape: Sequence[int], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    if dtype.is_floating_point:
        return torch.randn(*shape, generator=generator).to(dtype)
    if dtype == torch.bool:
        return torch.ones(*shape, dtype=dtype)
    return torch.randint(0, 2, tuple(shape), generator=generator).to(dtype)
