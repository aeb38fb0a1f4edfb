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

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from netwright.errors import ArtefactError, UsageError
from netwright.pruning.masks.existing import existing
from netwright.pruning.masks.selection import Masks
from netwright.pruning.masks.soft_masks import (
    ORIGINAL,
    Soft,
    harden,
    is_soft,
    plain_name,
    refer_to,
    soften,
    stored_name,
)

#: Name of the module that holds the masks.
ROOT = "_nw_mask"


class _Holder(nn.Module):
    """Masks of the parameters of one module, as buffers of the parameters' names."""

    def forward(self, x: Tensor) -> Tensor:
        """Pass on: a Sequential calls whatever it holds."""
        return x


class _Root(_Holder):
    """The holder of the network itself."""

    def hold_after_steps(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> object:
        """Called by `netwright.train.fit`: whoever trains a masked network need not know that it is one."""
        state = MaskState.of(model)
        return None if state is None else state.hold(optimizer)

    def buffers_on_parameters(self, holder: nn.Module) -> dict[str, str]:
        """Called by `netwright.structure`: a mask is cut, repeated and reordered like its weight."""
        return {name: stored_name(holder, name) for name, _ in self.named_buffers()}

    def bar_to_graphs(self, holder: nn.Module) -> str:
        """Called by `netwright.structure`: a graph computes with the weights that a soft mask lies on."""
        state = MaskState.of(holder)
        if state is None or not state.soft:
            return ""
        return "soft masks are code, which a graph has none of; cut bare(model), then carry_masks"

    def after_moves(self, holder: nn.Module, origins: Mapping[str, str]) -> None:
        """Called by `netwright.structure`: a mask goes where its weight goes, and with what is left out."""
        masks = dict(self.named_buffers())
        self._modules.clear()
        self._buffers.clear()
        owners: dict[int, nn.Module] = {}
        for name, origin in origins.items():
            if plain_name(origin) in masks:
                own = _holder_of(self, plain_name(name))
                own.register_buffer(plain_name(name).rpartition(".")[2], masks[plain_name(origin)].clone())
                owners[id(holder.get_parameter(name))] = own
        refer_to(holder, owners)

    def after_surgery(self, holder: nn.Module) -> None:
        """Called by `netwright.structure`: what was added to masked weights goes."""
        state = MaskState.of(holder)
        if state is not None:
            state.apply_()


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
        model = unwrap(model)
        if ROOT in model._modules:
            raise UsageError(
                "the network has masks already", "use MaskState.of(model), or remove() them first"
            )
        _check(model, masks, soft)
        there = existing(model, masks)
        masks = {name: mask & there[name] if name in there else mask for name, mask in masks.items()}
        root = _Root()
        for name, mask in masks.items():
            parameter = model.get_parameter(name)
            holder = _holder_of(root, name)
            holder.register_buffer(name.rpartition(".")[2], mask.to(parameter.device, torch.bool).clone())
        self.model = model
        model.add_module(ROOT, root)
        for name in masks if soft else ():
            soften(model, model.get_parameter(name), _holder_of(root, name), name.rpartition(".")[2])
        if not soft:
            self.apply_()

    @classmethod
    def of(cls, model: nn.Module) -> MaskState | None:
        """The masks of a network, a copy or a loaded one included, or None where it has none.

        Also of one inside a `DistributedDataParallel`, an `AveragedModel` or a compiled module.
        """
        model = unwrap(model)
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
        plain = {plain_name(n): t for n, t in saved.items() if not n.startswith(prefix)}
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
        return any(isinstance(m, Soft) for m in self.model.modules())

    @property
    def kept(self) -> dict[str, int]:
        """Parameter -> weights that stay."""
        return {name: int(mask.sum()) for name, mask in self._named()}

    @property
    def sizes(self) -> dict[str, int]:
        """Parameter -> its elements, those that do not exist (see `existing`) left out."""
        there = self.existing
        return {name: int(there[name].sum()) if name in there else m.numel() for name, m in self._named()}

    @property
    def existing(self) -> Masks:
        """Parameter -> mask of what exists, where some of it does not."""
        return existing(self.model, [name for name, _ in self._named()])

    @property
    def density(self) -> float:
        """Share of all weights with a mask that stays."""
        total = sum(self.sizes.values())
        return sum(self.kept.values()) / total if total else 1.0

    def parameter(self, name: str) -> nn.Parameter:
        """The weight under a mask, as the optimiser knows it."""
        return self.model.get_parameter(stored_name(self.model, name))

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
            _check_lengths(self.model, name, mask)
        there = self.existing
        for name, mask in masks.items():
            present[name].copy_(mask & there[name].to(mask.device) if name in there else mask)
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
            if parameter.shape != mask.shape:
                raise UsageError(
                    f"{name} has shape {tuple(parameter.shape)}, its mask {tuple(mask.shape)}",
                    "cut networks with netwright.prune, or carry_masks(dense, small, kept) after a surgery",
                )
            if soft:
                continue
            gone = ~mask
            # Filled, not multiplied: a product with what is not finite is no zero.
            parameter.masked_fill_(gone, 0)
            for slot in () if optimizer is None else optimizer.state.get(parameter, {}).values():
                if isinstance(slot, Tensor) and slot.shape == mask.shape:
                    slot.masked_fill_(gone, 0)

    def hold(self, optimizer: torch.optim.Optimizer) -> torch.utils.hooks.RemovableHandle:
        """Apply the masks after every step of an optimiser; returns the handle that ends it."""
        return optimizer.register_step_post_hook(lambda opt, args, kwargs: self.apply_(opt))

    def remove(self) -> nn.Module:
        """Take the masks out of the network; soft ones become zeros in the weights first."""
        if self.soft:
            for module in list(self.model.modules()):
                held = getattr(module, "parametrizations", None)
                if isinstance(held, nn.ModuleDict) and any(map(is_soft, held.values())):
                    harden(module)
        del self.model._modules[ROOT]
        return self.model

    def broadcast_(self, source: int = 0) -> None:
        """Give every process the masks of one, where several train together."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            own = self.masks
            for name, mask in agree(own, source).items():
                own[name].copy_(mask)
            if not self.soft:
                self.apply_()

    def _named(self) -> Iterator[tuple[str, Tensor]]:
        yield from self.model._modules[ROOT].named_buffers()  # type: ignore[union-attr]


def unwrap(model: nn.Module) -> nn.Module:
    """The network inside a `DistributedDataParallel`, an `AveragedModel` or a compiled module."""
    wrappers = (nn.parallel.DistributedDataParallel, nn.DataParallel, torch.optim.swa_utils.AveragedModel)
    inner = model._modules.get("module") if isinstance(model, wrappers) else model._modules.get("_orig_mod")
    return model if inner is None else unwrap(inner)


def agree(masks: Mapping[str, Tensor], source: int = 0) -> Masks:
    """The masks that one of several processes chose; where there is one process, the given ones.

    Args:
        masks: Parameter -> mask; of the same shapes in every process.
        source: Whose masks are taken.
    """
    ready = torch.distributed.is_available() and torch.distributed.is_initialized()
    if not ready or torch.distributed.get_world_size() == 1 or not masks:
        return dict(masks)
    # In one message of bytes: not every backend sends bools.
    flat = torch.cat([mask.reshape(-1).to(torch.uint8) for mask in masks.values()])
    torch.distributed.broadcast(flat, source)
    parts = flat.bool().split([mask.numel() for mask in masks.values()])
    return {name: part.reshape(mask.shape) for (name, mask), part in zip(masks.items(), parts, strict=True)}


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
        if soft and ORIGINAL in "." + name:
            raise UsageError(
                f"{name} cannot have a soft mask: another parametrization reads it",
                "take hard masks, or exclude the layer",
            )
        if ORIGINAL not in "." + name:
            continue
        kinds = ("_WeightNorm", "_SpectralNorm")
        if not all(type(part).__name__ in kinds for part in owner.children()):
            raise UsageError(
                f"{name} is the input of {type(next(owner.children())).__name__}, which keeps no zeros",
                "remove that parametrization first, or exclude the layer",
            )
        if name.endswith("original0"):
            raise UsageError(f"{name} is the length of a normalised weight", "mask original1, its direction")
    for name, mask in masks.items():
        _check_lengths(model, name, mask)


def _check_lengths(model: nn.Module, name: str, mask: Tensor) -> None:
    """Refuse to mask all of what a weight is divided by the length of: the quotient would be no number."""
    owner_name, _, leaf = name.rpartition(".")
    owner = model.get_submodule(owner_name)
    kinds = [type(part).__name__ for part in owner.children()]
    length: Tensor | None = None
    if isinstance(owner, parametrize.ParametrizationList) and "_WeightNorm" in kinds:
        length = owner._parameters.get("original0")
    elif isinstance(owner, parametrize.ParametrizationList) and "_SpectralNorm" in kinds:
        length = mask.new_empty([1] * mask.dim())
    elif leaf.endswith("_v"):
        length = owner._parameters.get(leaf[:-1] + "g")
    if length is None:
        return
    summed = [dim for dim in range(mask.dim()) if length.dim() == 0 or length.shape[dim] == 1]
    if not bool(mask.sum(dim=summed).all() if summed else mask.all()):
        raise UsageError(
            f"nothing would stay of a part of {name} that is divided by its own length",
            "keep some of every output, or take the normalisation off before masking",
        )


def _holder_of(root: nn.Module, name: str) -> nn.Module:
    """The module under `root` that holds the mask of a parameter; made where it is missing."""
    for part in name.split(".")[:-1]:
        if part not in root._modules:
            root.add_module(part, _Holder())
        root = root._modules[part]  # type: ignore[assignment]
    return root


def _is_soft_name(name: str, masks: Mapping[str, Tensor]) -> bool:
    return plain_name(name) != name and plain_name(name) in masks
