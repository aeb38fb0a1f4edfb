"""Take residual branches and blocks out of a network, or put blocks in that change nothing yet.

A block (a module that returns its input without its branches) is replaced by `Skip`, which computes nothing.
A branch inside a module whose other parts stay has no module of its own to skip: the module that produces it
becomes `Zero`, and those that only prepare its input become `Skip`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from netwright.errors import ModelError, NetwrightError, StructureError, UsageError
from netwright.structure.attention import adopt_attention
from netwright.structure.branches import Branch, Found
from netwright.structure.copying import deep_copy
from netwright.structure.cost import VIEWS
from netwright.structure.flow import Call, Flow, Leaf, record_calls
from netwright.structure.following import moved
from netwright.structure.inputs import Inputs
from netwright.structure.record import plain_kernels
from netwright.structure.remapping import TOLERANCE, compare
from netwright.structure.stand_ins import Skip, Zero
from netwright.structure.tracing import Structure

__all__ = ["KEEP_ZERO", "Deepened", "Skip", "Zero", "choose", "costs", "drop"]

#: Ways to take a branch out, the thorough ones first: skip whole blocks; replace every module of each branch,
#: only the one that makes its value (the others may be needed for shapes), or a module that merely hands it
#: on, such as a dropout.
VARIANTS = ("blocks", "all", "producer", "last")
#: Operators that make zeros of zeros.
KEEP_ZERO = VIEWS | frozenset(
    "clone _to_copy dropout native_dropout neg mul div relu gelu silu tanh hardswish elu leaky_relu roll flip"
    " constant_pad_nd avg_pool2d mean sum im2col pixel_shuffle contiguous index".split()
)


@dataclass(frozen=True)
class Deepened:
    """A network with fewer or more blocks.

    Attributes:
        model: The new module; the mode is that of the original.
        changed: Name of the branch or block -> what was done.
        replaced: Module path -> "skip" or "zero", or the new path of an inserted block -> "insert".
        macs: Multiply-accumulates of one example afterwards.
        params: Parameters afterwards.
        error: Largest relative difference in float64 to the reference: the given network with the branches
            multiplied by zero, or as it is after an insertion.
        notes: What a reader should know, one line each.
    """

    model: nn.Module
    changed: dict[str, str]
    replaced: dict[str, str]
    macs: int
    params: int
    error: float
    notes: list[str] = field(default_factory=list)


def drop(model: nn.Module, net: Structure, names: Iterable[str]) -> Deepened:
    """Take branches and blocks out.

    The reference is the given network with the branches' outputs at zero; what follows their sum (a
    rectifier, a norm) is still computed unless it changes nothing.

    Args:
        model: The model that was traced; it is not touched.
        net: Its structure.
        names: Names that `branches` gives.

    Raises:
        UsageError: if a name is not among them.
        StructureError: if the module's Python cannot go on without what was taken out.
    """
    found = Found(model, net)
    chosen = choose(found, names)
    reference = _reference(model, net, found, chosen)
    failure: NetwrightError | None = None
    for variant in VARIANTS:
        try:
            planned = _plan(model, found, chosen, variant)
        except StructureError as wrong:
            failure = failure or wrong
            continue
        small = deep_copy(model)
        origins = {id(module): path for path, module in small.named_modules()}
        for path, new in planned.items():
            _set(small, path, new.train(small.get_submodule(path).training))
        moved(small, origins)
        _unfuse(small, planned)
        try:
            error = compare(reference, deep_copy(small).cpu().double().eval(), net.inputs)
        except ModelError as wrong:
            failure = failure or wrong
            continue
        if error <= TOLERANCE:
            return _result(small, net, chosen, planned, error)
        failure = failure or StructureError(f"the relative difference to the reference is {error:.3g}")
    assert failure is not None
    raise StructureError(
        f"{net.name} does not run without {', '.join(b.name for b in chosen)}: {failure.message}",
        "leave out whole blocks, or other branches",
    )


def choose(found: Found, names: Iterable[str]) -> list[Branch]:
    """The branches that are meant.

    Args:
        found: Those of the network.
        names: Names among them.

    Raises:
        UsageError: if a name is not among them, or none was given.
    """
    known = {b.name: b for b in found.branches}
    chosen = []
    for name in dict.fromkeys([names] if isinstance(names, str) else names):
        if name not in known:
            some = ", ".join(list(known)[:4]) or "none"
            raise UsageError(f"the network has no residual branch {name!r}", f"it has {some}")
        chosen.append(known[name])
    if not chosen:
        raise UsageError("no branch was named")
    return chosen


def _plan(model: nn.Module, found: Found, chosen: list[Branch], variant: str) -> dict[str, nn.Module]:
    """Module path -> what takes its place.

    Args:
        model: The given network.
        found: Its branches.
        chosen: Those that go.
        variant: One of `VARIANTS`.
    """
    sums = {add for branch in chosen for add in branch.sums}
    by_add = {s.add: i for i, s in enumerate(found.summands)}
    planned: dict[str, nn.Module] = {}
    done: set[int] = set()
    for path, mine in found.blocks.items() if variant == "blocks" else ():
        adds = {found.summands[i].add for i in mine}
        if adds <= sums and not any(path.startswith(f"{p}.") for p in planned):
            planned[path] = _skip(model, _call(found, path))
            done |= adds
    for add in sorted(sums - done):
        index = by_add[add]
        value = found.summands[index].value
        if variant == "last":
            zero: list[str] | None = _handing(found, value)
        else:
            zero = _producers(found, value, found.inner[index])
        if not zero:
            name = found.flow.nodes[add].module or "the model itself"
            raise StructureError(
                f"no module alone produces what is added in {name}", "leave out whole blocks"
            )
        for path in zero:
            planned[path] = _zero(model, found, _call(found, path), variant == "producer")
        for path in found.inner[index] if variant in ("blocks", "all") else ():
            planned.setdefault(path, _skip(model, _call(found, path)))
    return {p: m for p, m in planned.items() if not any(p.startswith(f"{q}.") for q in planned)}


def _call(found: Found, path: str) -> Call:
    call = found.once(path)
    assert call is not None
    return call


def _handing(found: Found, value: int) -> list[str]:
    """A module that returns the value as it was given it, if there is one."""
    number = found.flow.number[value]
    for path, calls in found.calls.items():
        if len(calls) == 1 and path not in found.within and calls[0].outputs == [number] == calls[0].args[:1]:
            return [path]
    return []


def _key(call: Call) -> int | str:
    for position, number in enumerate(call.args):
        if number is not None:
            return position
    if call.kwargs:
        return next(iter(call.kwargs))
    raise StructureError(f"{call.path} takes no tensor")


def _was(model: nn.Module, path: str) -> dict[str, Any]:
    """Plain attributes of a module; None for its parameters."""
    module = model.get_submodule(path)
    plain = {
        k: v
        for k, v in vars(module).items()
        if not k.startswith("_") and k != "training" and isinstance(v, (bool, int, float, str, type(None)))
    }
    return {**dict.fromkeys(module._parameters), **plain}


def _skip(model: nn.Module, call: Call) -> Skip:
    tree = None if isinstance(call.tree, Leaf) else call.tree
    return Skip(_key(call), tree, _was(model, call.path))


def _zero(model: nn.Module, found: Found, call: Call, sized: bool) -> Zero:
    key = _key(call)
    given = call.args[key] if isinstance(key, int) else call.kwargs[key]
    shapes = found.flow.recording.shapes
    sizes = {}
    if sized and given is not None:
        before, after = shapes[given], shapes[call.outputs[0]]
        if len(before) != len(after):
            raise StructureError(f"{call.path} changes the number of dimensions")
        sizes = {d: n for d, (m, n) in enumerate(zip(before, after, strict=True)) if m != n}
    tree = None if isinstance(call.tree, Leaf) else call.tree
    return Zero(key, tree, _was(model, call.path), sizes)


def _producers(found: Found, value: int, inner: list[str]) -> list[str] | None:
    """The modules whose zero makes a value zero."""
    flow = found.flow
    made: dict[int, str] = {}
    for path in inner:
        for number in _call(found, path).outputs:
            there = flow.value(number, max(found.within[path]) + 1)
            if there is not None:
                made[there] = path

    def source(value: int) -> list[str] | None:
        if value in made:
            return [made[value]]
        node = flow.node(value)
        if node is None:
            return None
        inputs = [v for v in flow.inputs(value) if flow.live[v]]
        if node.op == "add" and len(node.inputs) == 2:
            parts = [source(v) for v in flow.inputs(value)]
            return None if any(p is None for p in parts) else [p for part in parts for p in part or []]
        if node.op in KEEP_ZERO:
            for v in inputs:
                found_ = source(v)
                if found_ is not None:
                    return found_
        return None

    return source(value)


def _unfuse(model: nn.Module, planned: Iterable[str]) -> None:
    """Keep PyTorch's fused encoder layer, which reads weights of its parts itself, from running."""
    for path in planned:
        parent = path
        while parent:
            parent = parent.rpartition(".")[0]
            module = model.get_submodule(parent)
            if isinstance(module, nn.TransformerEncoderLayer):
                module.activation_relu_or_gelu = 0


def _set(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    model.get_submodule(parent)._modules[name] = module


def costs(model: nn.Module, net: Structure) -> tuple[int, int]:
    """Multiply-accumulates of one example, and parameters, of a changed network.

    Args:
        model: The changed network.
        net: The structure of the one it was made from.
    """
    recording, _ = record_calls(model, net.inputs)
    macs = -(-Flow(recording).macs() // max(net.batch, 1))
    return macs, sum(p.numel() for p in model.parameters())


def _result(
    small: nn.Module, net: Structure, chosen: list[Branch], planned: dict[str, nn.Module], error: float
) -> Deepened:
    replaced = {path: "zero" if isinstance(m, Zero) else "skip" for path, m in planned.items()}
    macs, params = costs(small, net)
    changed, notes = {}, []
    for branch in chosen:
        if branch.block and replaced.get(branch.block) == "skip":
            changed[branch.name] = (
                "the module is skipped: the network without the branch returns its input there"
            )
        else:
            changed[branch.name] = "its last module gives zeros; what follows the sum is still computed"
    left = net.macs - sum(b.macs for b in chosen)
    if macs > left and not _nested(chosen):
        notes.append(f"{macs - left:,} multiply-accumulates of what was left out are still computed")
    return Deepened(small, changed, replaced, macs, params, error, notes)


def _nested(chosen: list[Branch]) -> bool:
    sums = [add for b in chosen for add in b.sums]
    return len(sums) != len(set(sums))


class _Without(TorchDispatchMode):
    """Multiply operands of some sums by zero, counted among all sums."""

    def __init__(self, positions: dict[int, int]) -> None:
        super().__init__()
        self.positions, self.count = positions, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.name.partition("::")[2].rstrip("_") == "add" and sum(_tensors(args)) == 2:
            position = self.positions.get(self.count)
            self.count += 1
            if position is not None:
                args = list(args)
                if position == 0 and func._schema.name.endswith("_"):
                    args[0].zero_()
                else:
                    args[position] = torch.zeros_like(args[position])
        return func(*args, **(kwargs or {}))


def _tensors(args: Any) -> list[bool]:
    return [isinstance(a, Tensor) for a in args[:2]]


def _reference(
    model: nn.Module, net: Structure, found: Found, chosen: list[Branch]
) -> Callable[[Inputs], Any]:
    """The given network in float64 with some summands at zero, as a function of inputs."""
    order = {}
    count = 0
    positions = {s.add: s.position for s in found.summands}
    sums = {add for b in chosen for add in b.sums}
    for index, node in enumerate(found.flow.nodes):
        if node.op == "add" and len(node.inputs) == 2:
            if index in sums:
                order[count] = positions[index]
            count += 1
    dense = deep_copy(model).cpu().double().eval()
    adopt_attention(dense)

    def run(inputs: Inputs) -> Any:
        mode = _Without(order)
        fast = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            with plain_kernels(), mode:
                out = inputs.call(dense)
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
        if mode.count != count:
            raise StructureError(
                f"{mode.count} sums run on values where {count} ran without", "this network cannot be checked"
            )
        return out

    return run
