"""Buffers that lie on parameters (masks, scales of single weights): they are cut as the parameters are.

The forward pass need not read such a buffer, so nothing that is recorded tells where its indices belong. The
module that holds it says on which parameter it lies; every surgery then does to it what it does to that
parameter: indices are kept, repeated and reordered alike. Factors, which undo what a size changes in a
function, are for values and leave it alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, cast, runtime_checkable

from torch import Tensor, nn

from netwright.structure.modules import named_modules

Kept = dict[str, dict[int, Tensor]]


@runtime_checkable
class Follows(Protocol):
    """A module some of whose buffers lie on parameters of the module that holds it."""

    def buffers_on_parameters(self, holder: nn.Module) -> Mapping[str, str]:
        """Buffer of this module -> the parameter of its shape on which it lies, both by dotted names.

        Args:
            holder: The module that holds this one; parameters are named from there.
        """

    def bar_to_graphs(self, holder: nn.Module) -> str:
        """Why the network cannot become a graph with what lies on its parameters; empty where it can.

        Args:
            holder: The module that holds this one.
        """

    def after_moves(self, holder: nn.Module, origins: Mapping[str, str]) -> None:
        """Follow parameters to other names, where modules were put in or taken out.

        Args:
            holder: The module that holds this one, as it is now.
            origins: Parameter -> the name it had, or that of the one it is a copy of; from the holder.
        """

    def after_surgery(self, holder: nn.Module) -> None:
        """Make good again what was true of the parameters, whose values were changed.

        Args:
            holder: The module that holds this one.
        """


def follows(module: nn.Module) -> bool:
    """Whether buffers of a module say that they lie on parameters."""
    return hasattr(type(module), "buffers_on_parameters")


def with_followers(model: nn.Module, kept: Mapping[str, Mapping[int, Tensor]]) -> Kept:
    """What is kept of the parameters, and thus of the buffers on them.

    Args:
        model: The dense network.
        kept: Parameter or buffer -> {dimension: indices (n,) or (blocks, n)}.
    """
    found: Kept = {name: dict(dims) for name, dims in kept.items()}
    for path, above, follower in _followers(model):
        below = f"{above}." if above else ""
        for buffer, parameter in follower.buffers_on_parameters(model.get_submodule(above)).items():
            if below + parameter in kept:
                found[f"{path}.{buffer}"] = dict(kept[below + parameter])
    return found


def bar_to_graphs(model: nn.Module) -> str:
    """Why a network cannot become a graph with what lies on its parameters; empty where it can."""
    told = [follower.bar_to_graphs(model.get_submodule(above)) for _, above, follower in _followers(model)]
    return next(filter(None, told), "")


def moved(model: nn.Module, origins: Mapping[int, str]) -> None:
    """Let whatever lies on parameters follow them, after modules were put in or taken out.

    Args:
        model: The changed network; it is changed in place.
        origins: Number of a module object -> the path that it had, or that of the module it is a copy of.
    """
    named = [(path, origins[id(m)]) for path, m in named_modules(model) if id(m) in origins]
    for _, above, follower in _followers(model):
        now, then = (
            f"{p}." if p else "" for p in (above, origins.get(id(model.get_submodule(above)), above))
        )
        names = {}
        for path, old in named:
            if f"{path}.".startswith(now) and f"{old}.".startswith(then):
                for leaf in model.get_submodule(path)._parameters:
                    new, was = (f"{p}.{leaf}" if p else leaf for p in (path, old))
                    names[new.removeprefix(now)] = was.removeprefix(then)
        follower.after_moves(model.get_submodule(above), names)


def settle(model: nn.Module) -> None:
    """Let whatever lies on parameters make good what their new values broke.

    Args:
        model: A network whose parameters were changed; it is changed in place.
    """
    for _, above, follower in _followers(model):
        follower.after_surgery(model.get_submodule(above))


def _followers(model: nn.Module) -> list[tuple[str, str, Follows]]:
    """Path, path of the holder, and module, of everything that lies on parameters."""
    return [
        (path, path.rpartition(".")[0], cast(Follows, module))
        for path, module in named_modules(model)
        if path and follows(module)
    ]
