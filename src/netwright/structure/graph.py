"""A network whose forward pass is a graph of ATen operators around the user's own parameters.

Where the Python code of a network hard-wires sizes it cannot hold fewer channels; its graph can. A
`GraphNetwork` keeps the names of all parameters and buffers, the standard layers themselves (`nn.Linear`,
`nn.Conv2d`, norms, dropout: the graph calls them) and the modes of every module; other modules are mere
containers of parameters. It takes any batch size, moves across devices and dtypes, and can be copied, traced
and exported again.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from netwright.errors import ModelError
from netwright.structure.copying import deep_copy
from netwright.structure.following import follows
from netwright.structure.record import note, recording_now, within

#: Layers of which the forward pass is one operator: a graph calls them instead of the operator.
LAYERS: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Linear: ("linear",),
    nn.Conv1d: ("conv1d",),
    nn.Conv2d: ("conv2d",),
    nn.Conv3d: ("conv3d",),
    nn.BatchNorm1d: ("batch_norm",),
    nn.BatchNorm2d: ("batch_norm",),
    nn.BatchNorm3d: ("batch_norm",),
    nn.LayerNorm: ("layer_norm",),
    nn.GroupNorm: ("group_norm",),
    nn.Embedding: ("embedding",),
    nn.Dropout: ("dropout",),
    nn.Dropout1d: ("feature_dropout",),
    nn.Dropout2d: ("feature_dropout",),
    nn.Dropout3d: ("feature_dropout",),
    nn.AlphaDropout: ("alpha_dropout",),
    nn.FeatureAlphaDropout: ("feature_alpha_dropout",),
}
#: Key of a graph node's metadata: dotted path of the module that made the call.
PATH = "path"


@dataclass(frozen=True, eq=False)
class Program:
    """A forward pass as a graph; shared by all copies of a network, never changed.

    Args:
        graph: Placeholders are the leaves of the arguments in order, the output is the tuple of all leaves.
        inputs: How the arguments (args, kwargs) are made of leaves.
        outputs: How the result is made of leaves.
        shapes: Of every leaf of the arguments: its shape with None for what may vary, or None for what is
            no tensor.
        constants: Position of every leaf that is no tensor -> its value.
        signature: Of the forward method.
    """

    graph: fx.Graph
    inputs: pytree.TreeSpec
    outputs: pytree.TreeSpec
    shapes: tuple[tuple[int | None, ...] | None, ...]
    constants: Mapping[int, Any]
    signature: inspect.Signature
    run: Callable[..., tuple[Any, ...]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        code = self.graph.python_code("self")
        scope = dict(code.globals)
        exec(compile(code.src, "<netwright graph>", "exec"), scope)
        object.__setattr__(self, "run", scope["forward"])

    def __deepcopy__(self, memo: Any) -> Program:
        return self

    def with_graph(self, graph: fx.Graph) -> Program:
        """The same arguments and results around another graph."""
        return dataclasses.replace(self, graph=graph)

    def leaves(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
        """The leaves of the arguments of a call, in the order of the placeholders.

        Raises:
            ModelError: if there are others than those the graph was made from, or of other shapes.
        """
        if [spec.num_children for spec in self.inputs.children()] != [len(args), len(kwargs)]:
            args, kwargs = self._bound(args, kwargs)
        else:
            names = self.inputs.children()[1].context
            kwargs = {name: kwargs[name] for name in names if name in kwargs}
        leaves, spec = pytree.tree_flatten((args, dict(kwargs)))
        if len(leaves) != len(self.shapes) or (spec != self.inputs and not _alike(spec, self.inputs)):
            raise ModelError(
                "the arguments are others than those the network was traced with",
                "give the same ones; see .program.inputs",
            )
        for position, (value, shape) in enumerate(zip(leaves, self.shapes, strict=True)):
            self._fits(position, value, shape)
        return leaves

    def _bound(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments given in another way (by name or by position, constants left out) as they were traced."""
        try:
            bound = self.signature.bind_partial(*args, **kwargs)
        except TypeError as error:
            raise ModelError(f"the network cannot be called so: {error}") from error
        sample = pytree.tree_unflatten(
            [self.constants.get(i, _MISSING) for i in range(len(self.shapes))], self.inputs
        )
        traced = self.signature.bind_partial(*sample[0], **sample[1])
        for name, value in bound.arguments.items():
            if name not in traced.arguments and value is not self.signature.parameters[name].default:
                raise ModelError(f"the network was traced without {name}", "leave it out, or trace with it")
        traced.arguments.update({n: v for n, v in bound.arguments.items() if n in traced.arguments})
        names = list(self.signature.parameters)[len(sample[0]) : len(traced.args)]
        named = {**dict(zip(names, traced.args[len(sample[0]) :], strict=True)), **traced.kwargs}
        return traced.args[: len(sample[0])], {name: named[name] for name in sample[1]}

    def _fits(self, position: int, value: Any, shape: tuple[int | None, ...] | None) -> None:
        if shape is None:
            if value is not self.constants[position] and value != self.constants[position]:
                raise ModelError(
                    f"the network was traced with {self.constants[position]!r}, {value!r} was given",
                    "trace it again with this value",
                )
        elif not isinstance(value, Tensor):
            raise ModelError(f"a tensor of shape {_shown(shape)} is missing", "give what was traced")
        elif len(value.shape) != len(shape) or any(
            n is not None and m != n for m, n in zip(value.shape, shape, strict=True)
        ):
            raise ModelError(
                f"the network takes an input of shape {_shown(shape)}, {tuple(value.shape)} was given",
                "its graph was traced with that size; trace and prune with the size that is needed",
            )


class _Missing:
    def __repr__(self) -> str:
        return "a tensor"


_MISSING = _Missing()


def _shown(shape: tuple[int | None, ...]) -> str:
    return "(" + ", ".join("any" if n is None else str(n) for n in shape) + ")"


def _alike(a: pytree.TreeSpec, b: pytree.TreeSpec) -> bool:
    """Whether two structures differ only in being a list here and a tuple there."""
    if a.num_leaves != b.num_leaves or a.num_children != b.num_children:
        return False
    kinds = {list, tuple}
    same = a.type == b.type and a.context == b.context
    if not same and not (a.type in kinds and b.type in kinds):
        return False
    return all(_alike(x, y) for x, y in zip(a.children(), b.children(), strict=True))


class Part(nn.Module):
    """A module of the user's as a container of its parameters; its computation is in the graph.

    Args:
        kind: Name of the user's class.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def _get_name(self) -> str:
        return self.kind

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Refused: the graph of the whole network computes what this module did."""
        raise ModelError(
            f"{self.kind} is a part of a graph and cannot be called by itself", "call the whole network"
        )


class GraphNetwork(nn.Module):
    """A network that runs a graph.

    Args:
        kind: Name of the user's class.
        program: The forward pass.
        training_program: The forward pass in training mode, where more differs than the flags of dropout
            and batch norm.
    """

    def __init__(self, kind: str, program: Program, training_program: Program | None = None) -> None:
        super().__init__()
        self.kind = kind
        self.program = program
        self.training_program = training_program

    def _get_name(self) -> str:
        return f"{self.kind} (graph)"

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the user's network: the same arguments, the same structure of the result."""
        alternative = self.training_program if self.training else None
        program = self.program if alternative is None else alternative
        leaves = program.leaves(args, kwargs)
        if recording_now():
            outputs = _Noted(self, graph=program.graph).run(*leaves, enable_io_processing=False)
        else:
            outputs = program.run(self, *leaves)
        return pytree.tree_unflatten(list(outputs), program.outputs)


class _Noted(fx.Interpreter):
    """Runs a graph so that the recording in progress knows its nodes and the modules they stand for."""

    def __init__(self, module: nn.Module, graph: fx.Graph) -> None:
        super().__init__(module, garbage_collect_values=True, graph=graph)

    def run_node(self, n: fx.Node) -> Any:
        if n.op in ("placeholder", "get_attr", "output"):
            value = super().run_node(n)
        else:
            with within(n.meta.get(PATH, "")):
                value = super().run_node(n)
        if isinstance(value, Tensor):
            note(n.name, value)
        elif isinstance(value, (tuple, list)) and n.op == "call_function":
            for i, part in enumerate(value):
                if isinstance(part, Tensor):
                    note(f"{n.name}#{i}", part)
        return value


def build(
    model: nn.Module,
    kind: str,
    program: Program,
    training_program: Program | None,
    tensors: Mapping[int, Tensor],
    attributes: Mapping[str, Mapping[str, Any]],
    constants: Mapping[str, Tensor],
) -> GraphNetwork:
    """A graph network with the parameters of a model, some of them replaced.

    Args:
        model: The user's network; it is not touched.
        kind: Name of its class.
        program: The forward pass.
        training_program: As in `GraphNetwork`.
        tensors: Number of a parameter or buffer object -> what replaces it; others are shared.
        attributes: Module path -> {attribute: value} for the standard layers.
        constants: Name -> further tensors that the graph reads.
    """
    network = _class_of(kind, program.signature)(kind, program, training_program)
    memo: dict[int, Any] = {id(model): network}
    for module in model.modules():
        for tensor in [*module._parameters.values(), *module._buffers.values()]:
            if tensor is not None:
                memo[id(tensor)] = tensors.get(id(tensor), tensor)
    for name, module in model.named_modules():
        if name and id(module) not in memo:
            memo[id(module)] = _part(module, memo)
    for module in list(model.modules()):
        if not is_layer(module):
            _fill(memo[id(module)], module, memo)
    for path, values in attributes.items():
        part = network.get_submodule(path)
        if type(part) in LAYERS:
            for name, value in values.items():
                setattr(part, name, value)
    for name, tensor in constants.items():
        network.register_buffer(name, tensor, persistent=False)
    network.training = model.training
    return network


def _class_of(kind: str, signature: inspect.Signature) -> type[GraphNetwork]:
    """A class of its own, for exporters and readers: with the user's name and signature."""

    def forward(self: GraphNetwork, *args: Any, **kwargs: Any) -> Any:
        return GraphNetwork.forward(self, *args, **kwargs)

    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    forward.__signature__ = signature.replace(parameters=[own, *signature.parameters.values()])  # type: ignore[attr-defined]
    forward.__doc__ = GraphNetwork.forward.__doc__
    return type(kind, (GraphNetwork,), {"forward": forward, "__module__": __name__})


def is_layer(module: nn.Module) -> bool:
    """Whether a module is a standard layer as PyTorch made it."""
    hooked = module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)
    plain = getattr(module, "padding_mode", "zeros") == "zeros" and getattr(module, "max_norm", None) is None
    return type(module) in LAYERS and not hooked and plain


def _part(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    if is_layer(module) or follows(module):
        return deep_copy(module, memo)
    if isinstance(module, nn.ModuleDict):
        part: nn.Module = nn.ModuleDict()
    elif isinstance(module, (nn.ModuleList, nn.Sequential)):
        numbered = list(module._modules) == [str(i) for i in range(len(module._modules))]
        part = nn.ModuleList() if numbered else Part(type(module).__name__)
    else:
        part = Part(type(module).__name__)
    part.training = module.training
    return part


def _fill(part: nn.Module, module: nn.Module, memo: dict[int, Any]) -> None:
    for name, parameter in module._parameters.items():
        part.register_parameter(name, None if parameter is None else memo[id(parameter)])
    for name, buffer in module._buffers.items():
        held = None if buffer is None else memo[id(buffer)]
        part.register_buffer(name, held, persistent=name not in module._non_persistent_buffers_set)
    for name, child in module._modules.items():
        part.register_module(name, None if child is None else memo[id(child)])
