"""Soft masks: a parametrization multiplies the weight by its mask, so that the weight beneath is kept.

PyTorch gives a module with parametrizations a class of its own. What that class lacks is added here: it can
be pickled, the order of the parameters is kept, and recurrent layers, which hold a list of their weights, see
the masked ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from netwright.errors import UsageError

#: What PyTorch puts before the name of a weight with a parametrization.
ORIGINAL = ".parametrizations."
#: The lists that a recurrent layer holds of its weights.
_LISTS = ("_flat_weights", "_flat_weight_refs")


class Soft(nn.Module):
    """Multiplies a weight by its mask in the forward pass."""

    def __init__(self, holder: nn.Module, name: str, order: Iterable[str]) -> None:
        super().__init__()
        # In a list, so that the holder is not registered twice and its buffer saved twice.
        self._holder, self._name = [holder], name
        #: How the parameters of the module stood before: a parametrization loses their order.
        self.order = tuple(order)

    def forward(self, weight: Tensor) -> Tensor:
        """The weight with zeros where it is masked; shapes as given."""
        mask: Tensor = self._holder[0].get_buffer(self._name)
        # Where a structure is traced there are no values to mask, and shapes are those of the weight.
        return weight if weight.is_meta else weight * mask


def soften(model: nn.Module, parameter: nn.Parameter, holder: nn.Module, name: str) -> None:
    """Let a weight be masked in the forward pass, in every module that holds it.

    Args:
        model: The network.
        parameter: One of its weights.
        holder: What holds the mask.
        name: Of the mask there.
    """
    for module, leaf in _owners(model, parameter):
        held = getattr(module, "parametrizations", None)
        lists: Any = list(held.values()) if isinstance(held, nn.ModuleDict) else [[None]]
        first = lists[0][0]
        order = first.order if isinstance(first, Soft) else tuple(module._parameters)
        _parametrize(module, leaf, Soft(holder, name, order))


def refer_to(model: nn.Module, holders: Mapping[int, nn.Module]) -> None:
    """Let soft masks read from other holders, where those were made anew.

    Args:
        model: The network.
        holders: Number of a parameter object -> what holds its mask now, under the same name.
    """
    for module in model.modules():
        if isinstance(module, parametrize.ParametrizationList) and is_soft(module):
            own, mask = holders.get(id(module.original)), module[0]
            if own is not None and isinstance(mask, Soft):
                mask._holder = [own]


def _parametrize(module: nn.Module, leaf: str, mask: nn.Module, *, unsafe: bool = False) -> None:
    parametrize.register_parametrization(module, leaf, mask, unsafe=unsafe)
    kind: Any = type(module)
    # PyTorch refuses to pickle what it parametrized; processes send their networks that way.
    kind.__reduce_ex__ = _reduced
    if isinstance(module, nn.RNNBase):
        # Whoever reads the list gets the weights as they are now, and nobody has to refresh or copy it.
        kind._flat_weights = property(_weights_now, _ignore)
        kind._flat_weight_refs = property(lambda self: [None] * len(self._flat_weights_names), _ignore)
        for name in _LISTS:
            module.__dict__.pop(name, None)


def _weights_now(module: Any) -> list[Tensor | None]:
    return [getattr(module, name, None) for name in module._flat_weights_names]


def _ignore(module: nn.Module, value: object) -> None:
    """Set nothing: the list follows from the weights."""


def _owners(model: nn.Module, parameter: nn.Parameter) -> list[tuple[nn.Module, str]]:
    """Every module that holds a parameter, under which name: one that is shared has several."""
    return [
        (module, leaf)
        for module in model.modules()
        for leaf, held in module._parameters.items()
        if held is parameter
    ]


def is_soft(parts: nn.Module) -> bool:
    """Whether a list of parametrizations is one soft mask and nothing else."""
    return [type(part) for part in parts.children()] == [Soft]


def _reduced(module: nn.Module, protocol: object) -> tuple[Any, ...]:
    """How a module with soft masks is pickled: as one of its own class, and its parametrizations."""
    base = type(module).__mro__[1]
    return object.__new__, (base,), dict(module.__dict__), None, None, _revive


def _revive(module: nn.Module, state: dict[str, Any]) -> None:
    modules = dict(state["_modules"])
    parts = modules.pop("parametrizations")
    module.__dict__.update(state, _modules=modules, _parameters=dict(state["_parameters"]))
    for leaf, held in parts.items():
        module.register_parameter(leaf, held.original)
        _parametrize(module, leaf, held[0], unsafe=True)


def harden(module: nn.Module) -> None:
    """Replace the parametrized weights of a module by what the forward pass sees of them."""
    held: Any = module.parametrizations
    if not all(map(is_soft, held.values())):
        raise UsageError(f"{type(module).__name__} has other parametrizations beside its masks")
    originals = {leaf: held[leaf].original for leaf in held}
    order = next(iter(held.values()))[0].order
    with torch.no_grad():
        for leaf, original in originals.items():
            original.copy_(getattr(module, leaf))
    # PyTorch's own removal deletes the attribute from a class which copies of the network share.
    del module.parametrizations
    module.__class__ = type(module).__mro__[1]
    for leaf, original in originals.items():
        module.register_parameter(leaf, original)
    for leaf in filter(module._parameters.__contains__, order):
        module._parameters[leaf] = module._parameters.pop(leaf)
    if isinstance(module, nn.RNNBase):
        module._init_flat_weights()


def stored_name(model: nn.Module, name: str) -> str:
    """Where the weight under a mask is stored: beside a soft mask, not under the name of the weight."""
    owner, _, leaf = name.rpartition(".")
    module = model.get_submodule(owner)
    if leaf in module._parameters or leaf not in getattr(module, "parametrizations", ()):
        return name
    return f"{owner}{ORIGINAL}{leaf}.original".removeprefix(".")


def plain_name(name: str) -> str:
    """A name of a state dict without the marks of soft masks."""
    head, mark, tail = name.partition(ORIGINAL)
    if mark and tail.endswith(".original"):
        return f"{head}.{tail.removesuffix('.original')}"
    if name.startswith(ORIGINAL[1:]) and name.endswith(".original"):
        return name.removeprefix(ORIGINAL[1:]).removesuffix(".original")
    return name
