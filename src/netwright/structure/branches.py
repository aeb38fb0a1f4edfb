"""Residual branches: what can be left out of a network because a sum passes its input by.

``stream + branch(stream)`` is found in the operators, whatever the Python that wrote it: a sum of two tensors
of one shape, of which one is computed from the other (or from what the other was before further branches
were added to it), and by operators that nothing else needs. A *block* is a module that returns its own input
once its branches are zero.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from netwright.structure.cost import VIEWS
from netwright.structure.flow import Call, Flow, record_calls
from netwright.structure.record import Node, Ref
from netwright.structure.tracing import Structure

#: Operators that pass a stream on, as far as "what was it before" is concerned.
_PASSES = VIEWS | {"clone", "_to_copy", "dropout", "native_dropout", "mul", "div"}
#: Operators that leave the elements and their order alone.
_SAME_ORDER = frozenset(
    "view _unsafe_view reshape _reshape_alias squeeze unsqueeze flatten unflatten clone alias detach"
    " contiguous lift_fresh".split()
)
_NORMS = frozenset(
    "native_layer_norm layer_norm native_batch_norm cudnn_batch_norm batch_norm rms_norm".split()
)
_POSITIVE = frozenset({"relu", "sigmoid", "hardsigmoid", "_softmax", "_safe_softmax", "exp", "abs", "square"})
_KEEPS_RANGE = frozenset(
    "max_pool2d_with_indices max_pool1d max_pool3d_with_indices clone alias detach".split()
)


@dataclass(frozen=True)
class Branch:
    """Something that can be left out.

    Attributes:
        name: Path of the module that it is, or of the largest module in it; a number follows where two would
            have one name.
        kind: "branch", one summand, or "block", a module that returns its input without its branches.
        modules: Outermost modules that compute nothing else.
        block: Path of the block that has no other branch, or "" where there is none: then the module goes
            whole.
        sums: The sums it is added in, by their number among the operators.
        params: Parameters that nothing else uses.
        macs: Multiply-accumulates of one example.
    """

    name: str
    kind: str
    modules: tuple[str, ...]
    block: str
    sums: tuple[int, ...]
    params: int
    macs: int


@dataclass(frozen=True)
class Summand:
    """One residual summand.

    Attributes:
        add: The node that adds it.
        position: Which operand of the sum it is.
        value: Its value.
        stream: The other operand.
        nodes: The operators that run for it alone.
    """

    add: int
    position: int
    value: int
    stream: int
    nodes: frozenset[int]


class Found:
    """Branches and blocks of a network, with what is needed to take them out.

    Args:
        model: The model; it is not touched.
        net: Its structure.
    """

    def __init__(self, model: nn.Module, net: Structure) -> None:
        recording, self.calls = record_calls(model, net.inputs)
        self.flow = Flow(recording)
        self.batch = net.batch
        self.names = {n: name for name, n in reversed(recording.parameters.items())}
        self.within = self._within()
        self.summands = list(_summands(self.flow, set(self.names) - recording.buffers))
        self.inner = [self._inner(s.nodes) for s in self.summands]
        self.blocks = self._blocks()
        self.branches = self._describe()

    def _within(self) -> dict[str, set[int]]:
        """Module path -> the nodes that run in it."""
        within: dict[str, set[int]] = {}
        for index, node in enumerate(self.flow.nodes):
            path = node.module
            while path:
                within.setdefault(path, set()).add(index)
                path = path.rpartition(".")[0]
        return within

    def once(self, path: str) -> Call | None:
        """The call of a module that is called once."""
        calls = self.calls.get(path, [])
        return calls[0] if len(calls) == 1 else None

    def _inner(self, nodes: frozenset[int]) -> list[str]:
        """The outermost modules all of whose operators are among some, in order of execution."""
        idle = {i for i, made in enumerate(self.flow.writes) if not any(self.flow.readers[w] for w in made)}
        busy = {p: own - idle for p, own in self.within.items() if self.once(p) is not None}
        inside = [p for p, own in busy.items() if own and own <= nodes]
        outermost = [p for p in inside if not any(p.startswith(f"{q}.") for q in inside)]
        return sorted(outermost, key=lambda p: min(self.within[p]))

    def _blocks(self) -> dict[str, list[int]]:
        """Module -> its summands, for modules that return their input when those are zero."""
        found: dict[str, list[int]] = {}
        by_add = {s.add: i for i, s in enumerate(self.summands)}
        for path in sorted(self.within, key=lambda p: (-p.count("."), p)):
            ends = self.ends(path)
            if ends is None:
                continue
            used = self._reduces(*ends, by_add)
            if not used:
                continue
            covered = {i for other, mine in found.items() if other.startswith(f"{path}.") for i in mine}
            if not set(used) <= covered:
                found[path] = used
        return found

    def ends(self, path: str) -> tuple[int, int] | None:
        """The values that a module takes (its first tensor) and gives, when it gives one tensor."""
        call = self.once(path)
        if call is None or len(call.outputs) != 1:
            return None
        given = [n for n in (*call.args, *call.kwargs.values()) if n is not None]
        own = self.within[path]
        if not given:
            return None
        start = self.flow.value(given[0], min(own))
        end = self.flow.value(call.outputs[0], max(own) + 1)
        if start is None or end is None or self.flow.shape(start) != self.flow.shape(end):
            return None
        return start, end

    def _reduces(self, start: int, end: int, by_add: dict[int, int]) -> list[int]:
        """The summands without which a value is another one; none when it is not."""
        used: list[int] = []
        held: list[Node] = []
        value = end
        while value != start:
            node = self.flow.node(value)
            if node is None:
                return []
            index = self.flow.maker[value]
            if index in by_add:
                used.append(by_add[index])
                value = self.summands[by_add[index]].stream
                continue
            inputs = self.flow.inputs(value)
            if node.op in _SAME_ORDER and inputs:
                value = inputs[0]
            elif node.op in ("relu", "hardtanh", "clamp", "clamp_min", "relu6"):
                held.append(node)
                value = inputs[0]
            else:
                return []
        return used if all(_fixed(self.flow, node, start) for node in held) else []

    def normalised(self, path: str) -> bool:
        """Whether a module returns its input, but normalised, when its summands are zero (post-norm)."""
        ends = self.ends(path) if path in self.within else None  # what never runs has none
        if ends is None:
            return False
        by_add = {s.add: i for i, s in enumerate(self.summands)}
        start, value = ends
        sums = 0
        while value != start:
            node = self.flow.node(value)
            if node is None:
                return False
            index = self.flow.maker[value]
            if index in by_add:
                sums, value = sums + 1, self.summands[by_add[index]].stream
                continue
            inputs = self.flow.inputs(value)
            if not inputs or node.op not in _SAME_ORDER | _NORMS:
                return False
            value = inputs[0]
        return sums > 0

    def _describe(self) -> list[Branch]:
        out = []
        single = {mine[0]: path for path, mine in self.blocks.items() if len(mine) == 1}
        for i, summand in enumerate(self.summands):
            block = single.get(i, "")
            out.append(self._branch(block or self._name(i), "branch", [i], self.inner[i], block))
            del summand
        for path, mine in self.blocks.items():
            if len(mine) > 1:
                out.append(self._branch(path, "block", mine, [path], path))
        return _unique(sorted(out, key=lambda b: (min(b.sums), -len(b.sums))))

    def _name(self, index: int) -> str:
        inner = self.inner[index]
        if not inner:
            return self.flow.nodes[self.summands[index].add].module or "sum"
        here = self.flow.nodes[self.summands[index].add].module
        near = [p for p in inner if not here or p.startswith(f"{here}.")] or inner
        return max(near, key=lambda p: (self._params(self.within[p]), len(self.within[p])))

    def _branch(self, name: str, kind: str, mine: list[int], modules: list[str], block: str) -> Branch:
        nodes = set[int]().union(*[self.summands[i].nodes for i in mine])
        sums = tuple(sorted(self.summands[i].add for i in mine))
        macs = -(-self.flow.macs(nodes) // max(self.batch, 1))
        return Branch(name, kind, tuple(modules), block, sums, self._params(nodes), macs)

    def _params(self, nodes: set[int] | frozenset[int]) -> int:
        """Elements of the parameters that only these nodes read."""
        read: dict[int, set[int]] = {}
        for index, values in enumerate(self.flow.reads):
            for value in values:
                number = self.flow.number[value]
                if number in self.names and number not in self.flow.recording.buffers:
                    read.setdefault(number, set()).add(index)
        total = 0
        for number, users in read.items():
            if users <= nodes:
                size = 1
                for n in self.flow.recording.shapes[number]:
                    size *= n
                total += size
        return total


def branches(model: nn.Module, net: Structure) -> list[Branch]:
    """What can be left out, in order of execution: residual branches, and whole blocks of several.

    Args:
        model: The model that was traced; it is not touched.
        net: Its structure.
    """
    return Found(model, net).branches


def _summands(flow: Flow, parameters: set[int]) -> list[Summand]:
    found = []
    for index, node in enumerate(flow.nodes):
        if node.op != "add" or len(node.inputs) != 2 or node.kwargs.get("alpha", 1) != 1:
            continue
        if not all(isinstance(a, Ref) for a in node.args[:2]):
            continue
        a, b = flow.reads[index][:2]
        if a == b or flow.shape(a) != flow.shape(b) or not (flow.live[a] and flow.live[b]):
            continue
        for position, (value, stream) in enumerate(((a, b), (b, a))):
            nodes = flow.exclusive(value, index)
            if not nodes:
                continue
            entries = {v for i in nodes for v in flow.reads[i] if flow.maker[v] not in nodes}
            own = any(flow.number[v] in parameters for v in entries)
            if own and entries & flow.after(_before(flow, stream)):
                found.append(Summand(index, position, value, stream, frozenset(nodes)))
                break
    return found


def _before(flow: Flow, value: int) -> set[int]:
    """A stream, and what it was before something was added to it."""
    seen = {value}
    pending = [value]
    while pending:
        node = flow.node(pending[-1])
        value = pending.pop()
        if node is None:
            continue
        inputs = flow.inputs(value)
        if node.op == "add" or (node.op in _PASSES and len(node.inputs) == 1):
            for v in inputs:
                if v not in seen and flow.live[v]:
                    seen.add(v)
                    pending.append(v)
    return seen


def _fixed(flow: Flow, node: Node, value: int) -> bool:
    """Whether a rectifier leaves a value as it is, by how the value was made."""
    maker = flow.node(value)
    while maker is not None and (maker.op in _KEEPS_RANGE or maker.op in VIEWS):
        value = flow.inputs(value)[0]
        maker = flow.node(value)
    if maker is None:
        return False
    numbers = [a for a in node.args if not isinstance(a, Ref)]
    if maker.op == node.op and numbers == [a for a in maker.args if not isinstance(a, Ref)]:
        return True
    if node.op != "relu":
        return False
    bounded = maker.op in ("hardtanh", "clamp") and len(maker.args) > 1 and (maker.args[1] or -1) >= 0
    return maker.op in _POSITIVE or bounded


def _unique(found: list[Branch]) -> list[Branch]:
    seen: dict[str, int] = {}
    out = []
    for branch in found:
        count = seen[branch.name] = seen.get(branch.name, 0) + 1
        name = branch.name if count == 1 else f"{branch.name}#{count}"
        out.append(
            Branch(name, branch.kind, branch.modules, branch.block, branch.sums, branch.params, branch.macs)
        )
    return out
