"""The table of rules."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from netwright.structure.labels import Walk
    from netwright.structure.record import Node

Rule = Callable[["Walk", "Node"], list[list[Tensor]]]
_RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for operators.

    Args:
        names: Without overload and without the in-place underscore; with their namespace where they are not
            PyTorch's own, as in "shop::gate".

    Raises:
        ValueError: if an operator has a rule already.
    """

    def register(function: Rule) -> Rule:
        for name in names:
            if name in _RULES:
                raise ValueError(f"operator {name} has two rules")
            _RULES[name] = function
        return function

    return register


def rule_for(node: Node) -> Rule | None:
    """The rule of a node, or None."""
    return _RULES.get(node.op)


def known() -> frozenset[str]:
    """Names of all operators that have a rule."""
    return frozenset(_RULES)
