"""A supernet in blocks that are trained one after another: whose choices are whose, how to run one alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from netwright.errors import UsageError
from netwright.nas.choice import Choice
from netwright.supernets.network.blueprint import Blueprint
from netwright.supernets.network.dims import Depth
from netwright.supernets.network.elastic import Elastic

#: Most paths of a block.
_PATHS = 10_000


class _Reached(Exception):  # noqa: N818 - no error
    """Ends a forward pass at the tensor that is wanted."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = value


def dims_of(blueprint: Blueprint, blocks: Sequence[Sequence[str]]) -> list[list[str]]:
    """Names of the dims of every block: a width that reaches into several is that of the first.

    Args:
        blueprint: Of the supernet.
        blocks: Paths of the modules of every block.

    Raises:
        UsageError: if a dim is of no block.
    """
    places: dict[str, list[str]] = {}
    for width in blueprint.widths:
        places[width.name] = [p for axis in width.axes for p in blueprint._modules_on(axis)]
    for depth in blueprint.depths:
        places[depth.name] = list(depth.stage.blocks) if isinstance(depth, Depth) else [depth.block]
    for kernel in blueprint.kernels:
        places[kernel.name] = [kernel.path]
    for operation in blueprint.operations:
        places[operation.name] = [operation.path]
    found: list[list[str]] = [[] for _ in blocks]
    for dim in blueprint.space.free:
        owners = [
            number
            for number, modules in enumerate(blocks)
            if any(p == m or p.startswith(f"{m}.") for p in places.get(dim.name, ()) for m in modules)
        ]
        if not owners:
            raise UsageError(f"{dim.name} is the choice of no block", "name blocks that hold all choices")
        found[min(owners)].append(dim.name)
    return found


class PathBlock(Protocol):
    """One block of any supernet: its paths, and how to run them on what the blocks before it give."""

    @property
    def sup(self) -> Any:
        """The supernet, a module; `run` also takes a copy of it."""
        ...

    @property
    def paths(self) -> Sequence[Any]:
        """Its paths."""
        ...

    @property
    def keys(self) -> Sequence[tuple[Any, ...]]:
        """Of every path what it chooses in this block."""
        ...

    def run(self, sup: Any, path: Any, x: Tensor) -> Tensor:
        """What a path of the block makes of what comes into it."""
        ...

    def names(self) -> list[str]:
        """Names of the parameters of `sup` that are trained with the block."""
        ...

    def parts(self, sup: Any) -> list[nn.Module]:
        """The modules of a supernet that run with the block, for changing their mode."""
        ...

    def fair(self, rng: np.random.Generator) -> list[Any]:
        """Paths of one step in which every value of every choice is used once (FairNAS)."""
        ...


class Block:
    """One block of an elastic supernet: its paths, and how to run them on what the blocks before it give.

    Args:
        sup: The supernet.
        modules: Paths of its modules, which run one after another.
        dims: Names of its dims.
        fixed: What the blocks before it have become.
        first: Whether it begins the network: then what runs before its modules belongs to it.
        others: Modules of all blocks, which are not trained with the first.

    Attributes:
        paths: Its paths: whole choices of the supernet, with the fixed ones before and the largest behind.
        keys: Of every path what it chooses in this block.
    """

    def __init__(
        self,
        sup: Elastic,
        modules: Sequence[str],
        dims: Sequence[str],
        fixed: Mapping[str, Any],
        first: bool,
        others: Sequence[Sequence[str]] = (),
    ) -> None:
        self.sup, self.modules, self.dims, self.first = sup, list(modules), list(dims), first
        self.others = [m for some in others for m in some if m not in modules]
        values = [list(sup.space.dim(name).each()) for name in dims]
        count = torch.tensor([len(v) for v in values], dtype=torch.float64).prod()
        if float(count) > _PATHS:
            raise UsageError(f"a block of {count:.0f} paths is too large to rate each", "make smaller blocks")
        self.paths: list[Choice] = []
        self.keys: list[tuple[Any, ...]] = []
        for some in itertools.product(*values):
            choice = sup.complete({**fixed, **dict(zip(dims, some, strict=True))})
            if choice not in self.paths:
                self.paths.append(choice)
                self.keys.append(self.key(choice))

    def key(self, choice: Mapping[str, Any]) -> tuple[Any, ...]:
        """What a choice chooses in this block.

        Args:
            choice: A canonical choice of the supernet.
        """
        return tuple(choice[name] for name in self.dims)

    def run(self, sup: Elastic, path: Choice, x: Tensor) -> Tensor:
        """What the block makes of what comes into it.

        Args:
            sup: The supernet, or one of the same blueprint.
            path: A whole choice.
            x: (B, ...), as `Feeder` gives it.
        """
        sup.set(path)
        with sup.bound() as network:
            if self.first:
                return upto(network, self.modules[-1], x, after=True)
            for name in self.modules:
                x = network.get_submodule(name)(x)
            return x

    def names(self) -> list[str]:
        """Names of the parameters that are trained with the block, as the supernet calls them."""
        return [
            f"network.{name}"
            for name, _ in self.sup.network.named_parameters()
            if _inside(name, self.modules) or (self.first and not _inside(name, self.others))
        ]

    def parts(self, sup: Elastic) -> list[nn.Module]:
        """The modules that run with the block, for changing their mode.

        Args:
            sup: The supernet, or one of the same blueprint.
        """
        if self.first:
            return [sup.network]
        return [sup.network.get_submodule(name) for name in self.modules]

    def fair(self, rng: np.random.Generator) -> list[Choice]:
        """Paths of one step: every value of every dim in exactly one, as many as dims have values (FairNAS).

        Args:
            rng: Draws them.
        """
        values = {name: list(self.sup.space.dim(name).each()) for name in self.dims}
        most = max(map(len, values.values()))
        orders = {n: [v[i % len(v)] for i in rng.permutation(most)] for n, v in values.items()}
        return [
            self.sup.complete({**self.paths[0], **{n: o[k] for n, o in orders.items()}}) for k in range(most)
        ]


def _inside(name: str, modules: Sequence[str]) -> bool:
    return any(name.startswith(f"{m}.") for m in modules)


def upto(network: nn.Module, path: str, x: Tensor, *, after: bool = False) -> Tensor:
    """Run a network until a module is reached.

    Args:
        network: Takes (B, ...).
        path: Of the module.
        x: Its input.
        after: Whether the module's output is wanted rather than its first input.

    Raises:
        UsageError: if the network does not come to it.
    """
    module = network.get_submodule(path)

    def stop(*seen: Any) -> None:
        found = seen[-1] if after else seen[-1][0]
        raise _Reached(found)

    handle = module.register_forward_hook(stop) if after else module.register_forward_pre_hook(stop)
    try:
        network(x)
    except _Reached as seen:
        return seen.value
    finally:
        handle.remove()
    raise UsageError(f"the network does not run {path}", "name modules that every path runs")


class Feeder:
    """What comes into a block: images, or what the blocks before it, as they have become, make of them.

    Args:
        network: A plain network, evaluated, or None for images themselves.
        path: Of the first module of the block.
    """

    def __init__(self, network: nn.Module | None, path: str) -> None:
        self.network, self.path = network, path

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) -> what comes into the block."""
        return x if self.network is None else upto(self.network, self.path, x)


def outputs_of(block: PathBlock, x: Tensor) -> dict[int, int]:
    """Numbers of channels that the paths of a block put out, and the height of the images that have them.

    Args:
        block: The block.
        x: What comes into it, a few examples.
    """
    mode = block.sup.training
    block.sup.eval()
    found: dict[int, int] = {}
    with torch.no_grad():
        for path in block.paths:
            shape = block.run(block.sup, path, x).shape
            found[shape[1]] = shape[2] if len(shape) > 2 else 1
    block.sup.train(mode)
    return dict(sorted(found.items()))


#: What comes into a block, of images.
Feed = Callable[[Tensor], Tensor]
#: Makes two views of a batch: (images (B, C, H, W), generator) -> images.
View = Callable[[Tensor, torch.Generator], Tensor]
