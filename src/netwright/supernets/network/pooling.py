"""Poolings that can move: the steps of a network that halve its images, put in front of any of its layers.

M. J. Roshtkhari, M. Toews and M. Pedersoli, Balanced Mixture of SuperNets for Learning the CNN Pooling
Architecture, AutoML 2023, section 3. A layer is what lies between two places where all data run through one
image and that holds a convolution wider than a pixel: a residual block as a whole, or a convolution of a
network without shortcuts.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from netwright.errors import ModelError, UsageError
from netwright.structure import Inputs, Structure, trace
from netwright.structure.copying import clone
from netwright.structure.cost import CONVOLUTIONS
from netwright.structure.record import Recording

#: Name of the dimension that holds the positions of the poolings.
POOL = "pool"
#: Key of the hook that pools what comes into a layer.
_HOOK: Any = "netwright.pool"
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_POOLS = (nn.MaxPool2d, nn.AvgPool2d)


def pool_before(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """A hook in front of a module: 2x2 max pooling of its first argument.

    Args:
        module: The module.
        args: Its arguments; the first is (B, C, H, W).
    """
    return (F.max_pool2d(args[0], 2), *args[1:])


@dataclass(frozen=True, eq=False)
class Poolings:
    """The poolings of a supernet.

    Attributes:
        paths: Layers that a pooling can go in front of, in the order that they run: all but the first.
        count: How many poolings there are.
        default: Positions in `paths` that are nearest to where the network had them.
    """

    paths: tuple[str, ...]
    count: int
    default: tuple[int, ...]
    _skeleton: nn.Module | None = None
    _inputs: dict[int | None, Inputs] = field(default_factory=dict)
    _exclude: tuple[str, ...] = ()
    _traced: dict[tuple[int | None, tuple[int, ...]], Structure] = field(default_factory=dict)

    def at(self, positions: Sequence[int]) -> tuple[str, ...]:
        """Paths of the layers behind a pooling.

        Args:
            positions: In `paths`.
        """
        return tuple(self.paths[p] for p in positions)

    def structure(self, positions: tuple[int, ...], side: int | None, like: Structure) -> Structure:
        """The structure of the network with its poolings in place; traced once.

        Args:
            positions: In `paths`.
            side: Side length of the images where that is chosen, else None.
            like: The structure that its axes must be those of.

        Raises:
            UsageError: if the network has other axes with the poolings there.
        """
        key = (side, positions)
        if key not in self._traced:
            assert self._skeleton is not None
            with laid(self._skeleton, self.at(positions)):
                found = trace(self._skeleton, self._inputs[side], exclude=self._exclude, leading=like.leading)
            if found.count != like.count:
                raise UsageError(f"the network has other axes with poolings at {positions}", "leave pool out")
            self._traced[key] = found
        return self._traced[key]


@contextmanager
def laid(network: nn.Module, paths: Sequence[str]) -> Iterator[None]:
    """Let poolings stand in front of layers of a network.

    Args:
        network: The network.
        paths: Of the layers.
    """
    modules = [network.get_submodule(path) for path in paths]
    for module in modules:
        module._forward_pre_hooks[_HOOK] = pool_before
    try:
        yield
    finally:
        for module in modules:
            del module._forward_pre_hooks[_HOOK]


def put(module: nn.Module, undo: list[Callable[[], None]]) -> None:
    """Let a pooling stand in front of a module until it is undone.

    Args:
        module: The module.
        undo: Takes what undoes it.
    """
    hooks = module._forward_pre_hooks
    hooks[_HOOK] = pool_before

    def back() -> None:
        hooks.pop(_HOOK, None)

    undo.append(back)


def place(network: nn.Module, paths: Sequence[str]) -> None:
    """Build poolings into a network that may have hooks for some: each layer becomes a pooling and the layer.

    Args:
        network: Changed in place.
        paths: Of the layers.
    """
    for module in network.modules():
        module._forward_pre_hooks.pop(_HOOK, None)
    for path in paths:
        parent, _, key = path.rpartition(".")
        home = network.get_submodule(parent)
        layer = home._modules[key]
        assert layer is not None
        both = nn.Sequential()
        both.add_module("pool", nn.MaxPool2d(2))
        both.add_module("layer", layer)
        home._modules[key] = both.train(layer.training)


def movable(network: nn.Module, inputs: Inputs, count: int, exclude: Sequence[str] = ()) -> Poolings:
    """Take the steps of stride 2 out of a network and find where poolings can stand instead.

    Args:
        network: Convolutions lose their stride and poolings are taken out, in place.
        inputs: The example.
        count: How many poolings there are to be.
        exclude: As of `trace`.

    Raises:
        UsageError: if there is no such step, too few layers, or too many poolings for the images.
    """
    recording = trace(network, inputs).recording
    layers, halved = _layers(recording)
    steps = _still(network)
    if not steps:
        raise UsageError("the network has no step of stride 2 that could move", "leave pool out")
    found = [(k, path) for k, path in enumerate(layers[1:]) if path is not None]
    paths = tuple(path for _, path in found)
    if not 1 <= count < len(paths) + 1 or len(set(paths)) < len(paths):
        raise UsageError(
            f"{count} poolings do not fit in front of {len(paths)} layers",
            f"give pool=1 to {len(paths)}" if paths else "leave pool out",
        )
    default = _default([halved[k + 1] + (halved[0] if not k else 0) for k, _ in found], count)
    made = Poolings(paths, count, default)
    try:
        _check(network, inputs, made)
    except (ModelError, RuntimeError) as error:
        raise UsageError(
            f"the network does not run with {count} poolings: {str(error).splitlines()[0]}",
            f"it has steps at {', '.join(steps[:4])}",
        ) from error
    return made


def finished(
    poolings: Poolings, network: nn.Module, inputs: Inputs, sides: Sequence[int], real: bool, exclude: Any
) -> Poolings:
    """Poolings that can be asked for the structure of every geometry.

    Args:
        poolings: What `movable` gave.
        network: The network without poolings.
        inputs: The example.
        sides: Side lengths of the images that can be chosen; none where that is no choice.
        real: Whether tracing needs values.
        exclude: As of `trace`.
    """
    twin = clone(network, None if real else "meta")
    examples: dict[int | None, Inputs] = {}
    for side in sides or (None,):
        examples[side] = inputs if side is None else inputs.map(_resize(side))
    return Poolings(poolings.paths, poolings.count, poolings.default, twin, examples, tuple(exclude))


def _resize(side: int) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: F.interpolate(x, (side, side)) if x.dim() == 4 else x


def _still(network: nn.Module) -> list[str]:
    """Take out what halves images; paths of where it was."""
    found = []
    for path, module in list(network.named_modules()):
        if isinstance(module, _CONVOLUTIONS) and set(module.stride) == {2}:
            module.stride = (1,) * len(module.stride)
        elif isinstance(module, _POOLS) and module.stride in (2, (2, 2)):
            parent, _, key = path.rpartition(".")
            network.get_submodule(parent)._modules[key] = nn.Identity()
        else:
            continue
        found.append(path)
    return found


def _layers(recording: Recording) -> tuple[list[str | None], list[int]]:
    """Path of the module that is each layer (None for several), and how often it halves its images."""
    nodes = recording.nodes
    data = set(recording.inputs)
    last: dict[int, int] = {n: len(nodes) for n in recording.outputs}
    for node in nodes:
        if data & set(node.inputs):
            data |= set(node.outputs)
    for i, node in enumerate(nodes):
        for n in node.inputs:
            last[n] = max(last.get(n, i), i)
    cuts: list[tuple[int, int]] = []  # (first node behind it, tensor)
    live = set(recording.inputs)
    for i, node in enumerate(nodes):
        if len(live) == 1:
            cuts.append((i, next(iter(live))))
        live |= {n for n in node.outputs if n in data}
        live = {n for n in live if last.get(n, -1) > i}
    paths: list[str | None] = []
    halved: list[int] = []
    pending = 0
    for (start, tensor), (end, _) in itertools.pairwise([*cuts, (len(nodes), -1)]):
        some = nodes[start:end]
        wide = any(
            n.op in CONVOLUTIONS and max(recording.shapes[n.inputs[1]][2:], default=1) > 1 for n in some
        )
        sizes = [
            recording.shapes[n][-1]
            for n in (tensor, *(o for s in some for o in s.outputs if o in data))
            if len(recording.shapes[n]) == 4
        ]
        here = (sizes[0] // max(sizes[-1], 1)).bit_length() - 1 if len(sizes) > 1 else 0
        if not wide:
            pending += here if sizes[-1:] != [1] else 0
            continue
        owners = {n.module for n in some if tensor in n.inputs}
        paths.append(_common(owners))
        halved.append(pending + here)
        pending = 0
    return paths, halved


def _common(paths: set[str]) -> str | None:
    """The innermost module that holds all of some; None if that is the network."""
    parts = [path.split(".") for path in paths]
    same = [a[0] for a in itertools.takewhile(lambda a: len(set(a)) == 1, zip(*parts, strict=False))]
    return ".".join(same) or None


def _default(halved: Sequence[int], count: int) -> tuple[int, ...]:
    """Positions in front of the layers that halve their images, else the next free ones."""
    chosen: list[int] = []
    for position, times in enumerate(halved):
        free = (p for p in range(position, len(halved)) if p not in chosen)
        chosen += itertools.islice(free, times)
    rest = [p for p in range(len(halved)) if p not in chosen]
    return tuple(sorted((chosen + rest)[:count]))


def _check(network: nn.Module, inputs: Inputs, poolings: Poolings) -> None:
    """Every layer is called once, with an image, and the network runs.

    Raises:
        ModelError: if a layer is not.
    """
    calls: dict[str, int] = dict.fromkeys(poolings.paths, 0)

    def watch(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            good = bool(args) and isinstance(args[0], torch.Tensor) and args[0].dim() == 4
            calls[path] += 1 if good else 2

        return hook

    handles = [network.get_submodule(p).register_forward_pre_hook(watch(p)) for p in poolings.paths]
    mode = network.training
    try:
        with laid(network, poolings.at(poolings.default)), torch.no_grad():
            inputs.call(network.eval())
    finally:
        network.train(mode)
        for handle in handles:
            handle.remove()
    wrong = next((path for path, times in calls.items() if times != 1), None)
    if wrong is not None:
        raise ModelError(f"{wrong} does not take one image once")
