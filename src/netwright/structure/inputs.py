"""Example inputs: a tensor, a tuple of arguments, a dict of keyword arguments, or `Inputs(args, kwargs)`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from netwright.errors import ModelError, NetwrightError, UsageError


@dataclass(frozen=True)
class Inputs:
    """The arguments of one forward call.

    Args:
        args: Positional arguments; tensors of any shape, or containers of tensors.
        kwargs: Keyword arguments.
    """

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def of(example: Any) -> Inputs:
        """Understand what a user gives as an example.

        Args:
            example: A tensor, a tuple or list of arguments, a dict of keyword arguments, or an `Inputs`.

        Raises:
            UsageError: if it is none of these.
        """
        if isinstance(example, Inputs):
            return example
        if isinstance(example, Tensor):
            return Inputs((example,))
        if isinstance(example, Mapping):
            return Inputs((), dict(example))
        if isinstance(example, (tuple, list)):
            return Inputs(tuple(example))
        raise UsageError(
            f"an example input of type {type(example).__name__} is not understood",
            "give a tensor, a tuple of arguments, a dict of keyword arguments or nw.Inputs(args, kwargs)",
        )

    def map(self, function: Callable[[Tensor], Tensor]) -> Inputs:
        """Apply a function to every tensor inside."""
        args = pytree.tree_map_only(Tensor, function, self.args)
        kwargs = pytree.tree_map_only(Tensor, function, dict(self.kwargs))
        return Inputs(args, kwargs)

    def tensors(self) -> list[Tensor]:
        """All tensors inside, in order."""
        return [x for x in pytree.tree_leaves((self.args, dict(self.kwargs))) if isinstance(x, Tensor)]

    def call(self, model: nn.Module) -> Any:
        """Run the model on these inputs.

        Raises:
            ModelError: if the model rejects them; names the shapes and what the model said.
        """
        try:
            return model(*self.args, **self.kwargs)
        except NetwrightError:
            raise
        except Exception as error:
            shapes = ", ".join(str(tuple(x.shape)) for x in self.tensors()) or "no tensor"
            reason = " ".join(str(error).split())[:300]
            raise ModelError(
                f"{type(model).__name__} rejects the example input of shape {shapes}: {reason}",
                "give an example (or data) of the shape the model expects",
            ) from error


def to_meta(inputs: Inputs) -> Inputs:
    """The same inputs without values: shapes and dtypes on the meta device."""
    return inputs.map(lambda x: torch.empty_like(x, device="meta"))
