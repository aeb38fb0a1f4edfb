"""Put blocks into a network that change nothing yet: copies whose branches are zero."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import nn

from netwright.errors import ModelError, StructureError, UsageError
from netwright.structure.branches import Branch, Found
from netwright.structure.copying import deep_copy
from netwright.structure.cost import VIEWS
from netwright.structure.depth import KEEP_ZERO, Deepened, choose, costs
from netwright.structure.following import moved
from netwright.structure.remapping import TOLERANCE, compare
from netwright.structure.tracing import Structure


def insert(model: nn.Module, net: Structure, names: Iterable[str]) -> Deepened:
    """Put a copy of a block behind it, with its branches at zero, so that the function stays.

    The last parameters of every branch of the copy are zero (a norm's weight and bias, a layer scale, or the
    weight and bias of the last contraction); they learn as usual.

    Args:
        model: The model that was traced; it is not touched.
        net: Its structure.
        names: Names of blocks (a `Branch` with a `block`) inside an `nn.Sequential` or `nn.ModuleList`.

    Raises:
        UsageError: if a name is not among them, or has no list to be put in.
        StructureError: if the network cannot take one more.
    """
    found = Found(model, net)
    chosen = choose(found, names)
    deep = deep_copy(model)
    origins = {id(module): path for path, module in deep.named_modules()}
    twins: list[nn.Module] = []
    for branch in sorted(
        chosen, key=lambda b: b.sums, reverse=True
    ):  # back to front: numbers shift behind it
        if not branch.block:
            raise UsageError(f"{branch.name} is no block of its own", "name a block that `branches` lists")
        block = deep.get_submodule(branch.block)
        twin = copy.deepcopy(block)
        origins |= {id(t): origins[id(m)] for t, m in zip(twin.modules(), block.modules(), strict=True)}
        with torch.no_grad():
            for name in _last(found, branch):
                twin.get_parameter(name).zero_()
        _put_behind(deep, branch.block, twin)
        twins.append(twin)
    moved(deep, origins)
    where = {path: "insert" for path, module in deep.named_modules() if any(module is t for t in twins)}
    dense = deep_copy(model).cpu().double().eval()
    try:
        error = compare(lambda inputs: inputs.call(dense), deep_copy(deep).cpu().double().eval(), net.inputs)
    except ModelError as wrong:
        raise StructureError(f"{net.name} does not run with one more block: {wrong.message}") from wrong
    if not error <= TOLERANCE:
        raise StructureError(
            f"{net.name} computes something else with one more block: the relative difference is {error:.3g}"
        )
    macs, params = costs(deep, net)
    changed = {b.name: "a copy whose branches are zero follows it" for b in chosen}
    return Deepened(deep, changed, where, macs, params, error)


def _last(found: Found, branch: Branch) -> list[str]:
    """Parameters (relative to the block) whose zero makes the block's branches zero."""
    flow = found.flow
    prefix = f"{branch.block}."

    def parameter(value: int) -> str | None:
        name = (
            found.names.get(flow.number[value]) if flow.number[value] not in flow.recording.buffers else None
        )
        if name is None:  # a view of one
            node = flow.node(value)
            return parameter(flow.inputs(value)[0]) if node is not None and node.op in VIEWS else None
        return name if name.startswith(prefix) else None

    def zero(value: int) -> list[str] | None:
        own = parameter(value)
        if own is not None:
            return [own]
        node = flow.node(value)
        if node is None:
            return None
        inputs = flow.inputs(value)
        if node.op == "add":
            parts = [zero(v) for v in inputs]
            return None if any(p is None for p in parts) else [p for part in parts for p in part or []]
        if node.op in ("mul", "mm", "bmm", "convolution", "addmm") or node.op in KEEP_ZERO:
            first = {"addmm": [2], "convolution": [1], "mm": [1, 0], "bmm": [1, 0]}.get(node.op)
            order = first or sorted(range(len(inputs)), key=lambda i: parameter(inputs[i]) is None)
            extra: list[str] = []
            bias = {"addmm": 0, "convolution": 2}.get(node.op)
            if bias is not None and bias < len(inputs):
                name = parameter(inputs[bias])
                if name is None:
                    return None
                extra = [name]
            for i in order:
                names = zero(inputs[i])
                if names is not None:
                    return [*extra, *names]
            return None
        if "norm" in node.op:
            affine = [parameter(v) for v in inputs[1:3]]
            return None if not affine or None in affine else [n for n in affine if n is not None]
        return None

    wanted: list[str] = []
    for summand in found.summands:
        if summand.add in branch.sums:
            names = zero(summand.value)
            if names is None:
                raise StructureError(
                    f"no parameter at the end of a branch of {branch.block} makes it zero",
                    "insert another block",
                )
            wanted += [n.removeprefix(prefix) for n in names]
    return list(dict.fromkeys(wanted))


def _put_behind(model: nn.Module, path: str, new: nn.Module) -> None:
    """Insert a module into the list that holds another one."""
    parent_path, _, key = path.rpartition(".")
    parent = model.get_submodule(parent_path)
    if not isinstance(parent, (nn.Sequential, nn.ModuleList)):
        raise UsageError(
            f"{path} is in no list of blocks but in a {type(parent).__name__}",
            "insert blocks of an nn.Sequential or nn.ModuleList",
        )
    entries: list[tuple[str, nn.Module]] = []
    numbered = all(name.isdigit() for name in parent._modules)
    for name, module in parent._modules.items():
        assert module is not None
        entries.append((str(len(entries)) if numbered else name, module))
        if name == key:
            entries.append((str(len(entries)) if numbered else _free(parent, f"{name}_deeper"), new))
    parent._modules.clear()
    for name, module in entries:
        parent.add_module(name, module)


def _free(parent: nn.Module, name: str) -> str:
    while name in parent._modules:
        name += "_"
    return name
