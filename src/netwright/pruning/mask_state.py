"""The masks of a network: buffers of the network itself, that go wherever it goes.

They lie in ``model.state_dict()`` under ``_nw_mask.<parameter>``, so they are copied, saved, moved and
broadcast with the network. *Hard* masks keep zeros in the weights: after every step of the optimiser the
weights and the optimiser's slots are multiplied, while gradients stay dense, so that growing can look at
them. *Soft* masks multiply in the forward pass alone: the weights beneath keep their values and come back
when the mask does.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from netwright.errors import ArtefactError, UsageError
from netwright.pruning.selection import Masks

#: Name of the module that holds the masks.
ROOT = "_nw_mask"
_ORIGINAL = ".parametrizations."


class _Holder(nn.Module):
    """Masks of the parameters of one module, as buffers of the parameters' names."""

    def forward(self, x: Tensor) -> Tensor:
        """Pass on: a Sequential calls whatever it holds."""
        return x


class _Soft(nn.Module):
    """Multiplies a weight by its mask in the forward pass."""

    def __init__(self, holder: nn.Module, name: str) -> None:
        super().__init__()
        # In a list, so that the holder is not registered twice and its buffer saved twice.
        self._holder, self._name = [holder], name

    def forward(self, weight: Tensor) -> Tensor:
        mask: Tensor = self._holder[0].get_buffer(self._name)
        return weight * mask


class MaskState:
    """The masks of one network.

    Args:
        model: The network; it gets the masks, and with hard masks the zeros, in place.
        masks: Parameter -> bool mask of its shape, under the names of ``model.named_parameters()``.
        soft: Multiply in the forward pass only.

    Raises:
        UsageError: if the network has masks already, a name or a shape does not fit, a parameter is made by
            another parametrization which would not keep zeros, or soft masks are asked for where they cannot
            act.
    """

    def __init__(self, model: nn.Module, masks: Mapping[str, Tensor], *, soft: bool = False) -> None:
        if ROOT in model._modules:
            raise UsageError(
                "the network has masks already", "use MaskState.of(model), or remove() them first"
            )
        _check(model, masks, soft)
        root = _Holder()
        for name, mask in masks.items():
            parameter = model.get_parameter(name)
            holder = _holder_of(root, name)
            holder.register_buffer(name.rpartition(".")[2], mask.to(parameter.device, torch.bool).clone())
        self.model = model
        model.add_module(ROOT, root)
        if soft:
            self._soften(list(masks))
        else:
            self.apply_()

    @classmethod
    def of(cls, model: nn.Module) -> MaskState | None:
        """The masks of a network, a copy or a loaded one included, or None where it has none."""
        if ROOT not in model._modules:
            return None
        state = cls.__new__(cls)
        state.model = model
        return state

    @classmethod
    def load(cls, model: nn.Module, saved: Mapping[str, Tensor]) -> MaskState | None:
        """Load a ``state_dict`` with or without masks into a network with or without masks.

        Args:
            model: The network; its masks become those that were saved, or go where none were.
            saved: What ``state_dict()`` gave.

        Returns:
            The masks, or None where none were saved.

        Raises:
            ArtefactError: if the rest does not fit the network.
        """
        present = cls.of(model)
        if present is not None:
            present.remove()
        prefix = ROOT + "."
        masks = {n.removeprefix(prefix): t for n, t in saved.items() if n.startswith(prefix)}
        plain = {_plain(n): t for n, t in saved.items() if not n.startswith(prefix)}
        soft = any(_is_soft_name(n, masks) for n in saved)
        try:
            model.load_state_dict(plain)
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise ArtefactError(f"the weights do not fit the network: {reason}") from error
        return cls(model, masks, soft=soft) if masks else None

    @property
    def masks(self) -> Masks:
        """Parameter -> its mask. The masks are live: changed in place, they act."""
        return dict(self._named())

    @property
    def soft(self) -> bool:
        """Whether the masks act in the forward pass alone."""
        return any(isinstance(m, _Soft) for m in self.model.modules())

    @property
    def kept(self) -> dict[str, int]:
        """Parameter -> weights that stay."""
        return {name: int(mask.sum()) for name, mask in self._named()}

    @property
    def density(self) -> float:
        """Share of all weights with a mask that stays."""
        total = sum(mask.numel() for _, mask in self._named())
        return sum(self.kept.values()) / total if total else 1.0

    def parameter(self, name: str) -> nn.Parameter:
        """The weight under a mask, as the optimiser knows it."""
        owner, _, leaf = name.rpartition(".")
        module = self.model.get_submodule(owner)
        held = getattr(module, "parametrizations", None)
        if leaf not in module._parameters and held is not None and leaf in held:
            found = held[leaf].original
        else:
            found = module._parameters[leaf]
        assert isinstance(found, nn.Parameter)
        return found

    @torch.no_grad()
    def set_(self, masks: Mapping[str, Tensor]) -> None:
        """Change masks in place; with hard masks, what is masked now becomes zero.

        Raises:
            UsageError: if a name has no mask, or a shape differs.
        """
        present = self.masks
        for name, mask in masks.items():
            if name not in present or present[name].shape != mask.shape:
                raise UsageError(f"there is no mask {name!r} of shape {tuple(mask.shape)}")
            present[name].copy_(mask)
        if not self.soft:
            self.apply_()

    @torch.no_grad()
    def apply_(self, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Zero masked weights (where the masks are hard), and every slot of the optimiser for them.

        Args:
            optimizer: Its same-shaped slots (momentum, moments) are zeroed too.
        """
        soft = self.soft
        for name, mask in self._named():
            parameter = self.parameter(name)
            if not soft:
                parameter.mul_(mask)
            if optimizer is None or soft:
                continue
            for slot in optimizer.state.get(parameter, {}).values():
                if isinstance(slot, Tensor) and slot.shape == mask.shape:
                    slot.mul_(mask)

    def hold(self, optimizer: torch.optim.Optimizer) -> torch.utils.hooks.RemovableHandle:
        """Apply the masks after every step of an optimiser; returns the handle that ends it."""
        return optimizer.register_step_post_hook(lambda opt, args, kwargs: self.apply_(opt))

    def remove(self) -> nn.Module:
        """Take the masks out of the network; soft ones become zeros in the weights first."""
        if self.soft:
            for module in list(self.model.modules()):
                held = getattr(module, "parametrizations", None)
                if isinstance(held, nn.ModuleDict) and any(map(_is_soft, held.values())):
                    _harden(module)
        del self.model._modules[ROOT]
        return self.model

    def broadcast_(self, source: int = 0) -> None:
        """Give every process the masks of one, where several train together."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            for _, mask in self._named():
                torch.distributed.broadcast(mask, source)
            if not self.soft:
                self.apply_()

    def _named(self) -> Iterator[tuple[str, Tensor]]:
        yield from self.model._modules[ROOT].named_buffers()  # type: ignore[union-attr]

    def _soften(self, names: list[str]) -> None:
        root = self.model._modules[ROOT]
        assert root is not None
        for name in names:
            owner, _, leaf = name.rpartition(".")
            module = self.model.get_submodule(owner)
            parametrize.register_parametrization(module, leaf, _Soft(_holder_of(root, name), leaf))


def bake(model: nn.Module) -> nn.Module:
    """A copy of a network with its masks' zeros in the weights, and without masks."""
    baked = copy.deepcopy(model)
    state = MaskState.of(baked)
    return state.remove() if state is not None else baked


def _check(model: nn.Module, masks: Mapping[str, Tensor], soft: bool) -> None:
    parameters = dict(model.named_parameters())
    for name, mask in masks.items():
        if name not in parameters or parameters[name].shape != mask.shape:
            raise UsageError(
                f"the mask of {name!r} has shape {tuple(mask.shape)}, which fits no parameter of that name"
            )
        owner = model.get_submodule(name.rpartition(".")[0])
        if soft and (_ORIGINAL in "." + name or isinstance(owner, (nn.RNNBase, nn.RNNCellBase))):
            raise UsageError(
                f"{name} cannot have a soft mask: {type(owner).__name__} reads it directly",
                "take hard masks, or exclude the layer",
            )
        if _ORIGINAL not in "." + name:
            continue
        if not all("WeightNorm" in type(part).__name__ for part in owner.children()):
            raise UsageError(
                f"{name} is the input of {type(next(owner.children())).__name__}, which keeps no zeros",
                "remove that parametrization first, or exclude the layer",
            )
        if name.endswith("original0"):
            raise UsageError(f"{name} is the length of a normalised weight", "mask original1, its direction")


def _holder_of(root: nn.Module, name: str) -> nn.Module:
    """The module under `root` that holds the mask of a parameter; made where it is missing."""
    for part in name.split(".")[:-1]:
        if part not in root._modules:
            root.add_module(part, _Holder())
        root = root._modules[part]  # type: ignore[assignment]
    return root


def _is_soft(parts: nn.Module) -> bool:
    """Whether a list of parametrizations is one soft mask and nothing else."""
    return [type(part) for part in parts.children()] == [_Soft]


def _harden(module: nn.Module) -> None:
    """Replace the parametrized weights of a module by what the forward pass sees of them."""
    held: Any = module.parametrizations
    if not all(map(_is_soft, held.values())):
        raise UsageError(f"{type(module).__name__} has other parametrizations beside its masks")
    originals = {leaf: held[leaf].original for leaf in held}
    with torch.no_grad():
        for leaf, original in originals.items():
            original.copy_(getattr(module, leaf))
    # PyTorch's own removal deletes the attribute from a class which copies of the network share.
    del module.parametrizations
    module.__class__ = type(module).__mro__[1]
    for leaf, original in originals.items():
        module.register_parameter(leaf, original)


def _plain(name: str) -> str:
    """A name of a state dict without the marks of soft masks."""
    head, mark, tail = name.partition(_ORIGINAL)
    if mark and tail.endswith(".original"):
        return f"{head}.{tail.removesuffix('.original')}"
    if name.startswith(_ORIGINAL[1:]) and name.endswith(".original"):
        return name.removeprefix(_ORIGINAL[1:]).removesuffix(".original")
    return name


def _is_soft_name(name: str, masks: Mapping[str, Tensor]) -> bool:
    return _plain(name) != name and _plain(name) in masks
