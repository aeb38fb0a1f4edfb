"""A mixture of supernets: several sets of weights for one blueprint, of which one runs at a time.

M. J. Roshtkhari, M. Toews and M. Pedersoli, Balanced Mixture of SuperNets for Learning the CNN Pooling
Architecture, AutoML 2023, section 4: sub-networks that disturb each other need not share their weights.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from netwright.errors import UsageError
from netwright.nas.choice import Choice
from netwright.pruning.removal.initialisation import reinitialise_
from netwright.structure.copying import deep_copy
from netwright.supernets.network.elastic import Elastic


class Supernets(Elastic):
    """Several supernets of one blueprint; what is asked of it is asked of the one in use.

    Made by a `Mixture`. Parameters of those that are not in use get no gradient, and optimisers of PyTorch
    leave such parameters and what they know of them as they are: a step trains one supernet alone.

    Args:
        members: The supernets; they are used, not copied.

    Attributes:
        members: The supernets.
        active: Number of the one in use.
    """

    def __init__(self, members: Sequence[Elastic]) -> None:
        nn.Module.__init__(self)
        self.members = nn.ModuleList(members)
        self.active = 0

    def use(self, member: int) -> Supernets:
        """Choose the supernet that is used from now on.

        Args:
            member: Its number.

        Raises:
            UsageError: if there is none.
        """
        if not 0 <= member < len(self.members):
            raise UsageError(f"there is no supernet {member}", f"there are 0 to {len(self.members) - 1}")
        self.active = member
        return self

    @property
    def member(self) -> Elastic:
        """The supernet in use."""
        found = self.members[self.active]
        assert isinstance(found, Elastic)
        return found

    def __getattr__(self, name: str) -> Any:
        """What only one supernet has is that of the one in use."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            modules = self.__dict__.get("_modules", {})
            if "members" not in modules or name.startswith("__"):
                raise
            return getattr(modules["members"][self.__dict__["active"]], name)

    def __setattr__(self, name: str, value: Any) -> None:
        """What is chosen of it is chosen of the supernet in use."""
        if name in ("choice", "_mode", "_masking", "_mixing", "statistics", "places"):
            setattr(self.member, name, value)
        else:
            super().__setattr__(name, value)

    def set(self, choice: Mapping[str, Any]) -> Supernets:
        """Choose the sub-network of the supernet in use that runs from now on.

        Args:
            choice: A choice of `space`.
        """
        self.member.set(choice)
        return self

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the chosen sub-network of the supernet in use; arguments as the network takes them."""
        return self.member(*args, **kwargs)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Those of all supernets, under ``members.NUMBER``."""
        return nn.Module.state_dict(self, *args, **kwargs)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load the state dicts of all supernets.

        Args:
            state_dict: Name -> tensor, as `state_dict` gives them.
            strict: As in PyTorch.
            assign: As in PyTorch.
        """
        for number, member in enumerate(self.members):
            head = f"members.{number}."
            mine = {n.removeprefix(head): t for n, t in state_dict.items() if n.startswith(head)}
            member.load_state_dict(mine, strict=strict, assign=assign)

    def _apply(self, fn: Any, recurse: bool = True) -> Supernets:
        for member in self.members:
            member._apply(fn, recurse)
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Supernets:
        new = Supernets([copy.deepcopy(m, memo) for m in self.members])  # type: ignore[misc]
        new.active = self.active
        return new.train(self.training)

    def extra_repr(self) -> str:
        """How many there are and the size of the space."""
        return f"{len(self.members)} supernets of {self.member.space.size():,} sub-networks"


@dataclass(frozen=True)
class Mixture:
    """Several sets of weights in place of one.

    Args:
        count: How many; with 1 it is the supernet itself, asked through one more object.
        seed: Of their draws: the first keeps the weights that are there, the others are drawn anew. None lets
            all begin with the weights that are there.
    """

    count: int
    seed: int | None = 0

    def of(self, sup: Elastic) -> Supernets:
        """The supernets.

        Args:
            sup: The first; it is used, not copied.

        Raises:
            UsageError: if there are fewer than one.
        """
        if self.count < 1:
            raise UsageError(f"a mixture of {self.count} supernets has none", "give 1 or more")
        members = [sup]
        for number in range(1, self.count):
            network = deep_copy(sup.network)
            if self.seed is not None:
                reinitialise_(network, self.seed * 1_000 + number)
            members.append(Elastic(network, sup.blueprint))
        return Supernets(members).train(sup.training)


def choices_of(sup: Elastic, most: int = 10_000) -> list[Choice]:
    """All choices of a supernet's space, in its order.

    Args:
        sup: The supernet.
        most: How many there may be.

    Raises:
        UsageError: if there are more.
    """
    if sup.space.size() > most:
        raise UsageError(f"{sup.space.size():,} sub-networks are too many to name each", "choose of fewer")
    return list(sup.space.enumerate())
