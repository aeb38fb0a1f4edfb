"""What supernets have in common that hold more than the parameters of their network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from netwright.errors import UsageError
from netwright.supernets.network.binding import Plan
from netwright.supernets.network.cutting import extract
from netwright.supernets.network.elastic import Elastic

_PREFIX = "store."


class Holding(Elastic):
    """A supernet with modules of its own beside the network; its state dict has them under ``store.``.

    Every choice may have other weights, so that one pass runs one choice where a store does not say more.

    Attributes:
        held: Names of the attributes that hold the modules.
    """

    held: ClassVar[tuple[str, ...]] = ()

    def set_many(self, choices: Sequence[Mapping[str, Any]], assignment: Tensor) -> Elastic:
        """Not possible: examples of other choices have other weights.

        Raises:
            UsageError: always.
        """
        raise UsageError(f"{type(self).__name__} runs one choice at a time", "use set(choice)")

    def set_mixture(self, weights: Any, *, norm: str = "outputs") -> Elastic:
        """Not possible: weights go with whole choices.

        Raises:
            UsageError: always.
        """
        raise UsageError(f"{type(self).__name__} runs one choice at a time", "use set(choice)")

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """That of the full network, and what is held besides under ``store.``."""
        found = dict(self.network.state_dict(*args, **kwargs))
        for part in self.held:
            own = getattr(self, part).state_dict(*args, **kwargs)
            found |= {f"{_PREFIX}{part}.{n}": t for n, t in own.items()}
        return found

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load what `state_dict` gave.

        Args:
            state_dict: Name -> tensor.
            strict: As in PyTorch.
            assign: As in PyTorch.
        """
        for part in self.held:
            head = f"{_PREFIX}{part}."
            own = {n.removeprefix(head): t for n, t in state_dict.items() if n.startswith(head)}
            getattr(self, part).load_state_dict(own, strict=strict, assign=assign)
        rest = {n: t for n, t in state_dict.items() if not n.startswith(_PREFIX)}
        return super().load_state_dict(rest, strict=strict, assign=assign)

    def whole(self) -> dict[str, Tensor]:
        """Full parameters of the present choice that are not the network's own, under its names."""
        return {}

    def extract(self, choice: Mapping[str, Any] | None = None) -> nn.Module:
        """See `Elastic.extract`; what the store computes is in the plain layers.

        Args:
            choice: A choice; the present one when None.
        """
        before = self.choice
        self.choice = self.choice if choice is None else self.complete(choice)
        try:
            with torch.no_grad():
                computed = {n: nn.Parameter(t) for n, t in self.whole().items()}
            with self.places.laid(Plan(), computed):
                return extract(self, self.choice)
        finally:
            self.choice = before

    def extra_parameters(self) -> int:
        """Parameters beyond those of the network."""
        return sum(p.numel() for part in self.held for p in getattr(self, part).parameters())
