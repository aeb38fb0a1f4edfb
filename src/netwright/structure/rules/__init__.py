"""What each ATen operator does to label layers: one short function per family, found by the operator's name.

A rule has one signature, `(walk, node) -> [layers of output 0, layers of output 1, ...]`. Adding an operator
is writing such a function under `@rule("name", ...)` in the file of its family.
"""

from netwright.structure.rules import contract, conv, elementwise, factory, index, move, norm, reduce
from netwright.structure.rules._base import rule, rule_for

__all__ = [
    "contract",
    "conv",
    "elementwise",
    "factory",
    "index",
    "move",
    "norm",
    "reduce",
    "rule",
    "rule_for",
]
