"""Modules that stand where others were taken out."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.utils import _pytree as pytree

from netwright.structure.flow import Leaf


class Skip(nn.Module):
    """Returns its input where a module was; computes nothing.

    Args:
        key: Which argument is returned: its position, or its keyword.
        tree: What the module returned, `Leaf` where the tensors were.
        was: Plain attributes of the module, for code that asks for them.
    """

    def __init__(self, key: int | str = 0, tree: Any = None, was: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.key, self.tree, self.was = key, tree, was or {}

    def __getattr__(self, name: str) -> Any:
        """An attribute of the module that was here: a plain value; None for a parameter."""
        was = self.__dict__.get("was", {})
        return was[name] if name in was else super().__getattr__(name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Args as the module took them; tensors of any shape."""
        x = args[self.key] if isinstance(self.key, int) else kwargs[self.key]
        return (
            x if self.tree is None else pytree.tree_map(lambda v: x if isinstance(v, Leaf) else v, self.tree)
        )

    def extra_repr(self) -> str:
        """The argument that is returned."""
        return "" if self.key == 0 else repr(self.key)


class Zero(Skip):
    """Returns zeros where a module was.

    Args:
        key: The argument whose shape the zeros take.
        tree: What the module returned, `Leaf` where the tensors were.
        was: Plain attributes of the module, for code that asks for them.
        sizes: Dimension -> size, where it is not the argument's.
    """

    def __init__(
        self,
        key: int | str = 0,
        tree: Any = None,
        was: dict[str, Any] | None = None,
        sizes: dict[int, int] | None = None,
    ) -> None:
        super().__init__(key, tree, was)
        self.sizes = sizes or {}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Args as the module took them; tensors of any shape."""
        x = args[self.key] if isinstance(self.key, int) else kwargs[self.key]
        zeros = x.new_zeros([self.sizes.get(d, n) for d, n in enumerate(x.shape)])
        if self.tree is None:
            return zeros
        return pytree.tree_map(lambda v: zeros if isinstance(v, Leaf) else v, self.tree)
