"""The ground floor: recorded operators, tied axes, exact surgery, costs and budgets of any network."""

from netwright.structure.attention import ShapedAttention
from netwright.structure.budget import Budget, Limit
from netwright.structure.check import Check, check
from netwright.structure.cost import Cost, Operator
from netwright.structure.inputs import Inputs
from netwright.structure.solve import Axis
from netwright.structure.surgery import Shrunk, replay, shrink
from netwright.structure.tracing import Consumer, Member, Structure, trace

__all__ = [
    "Axis",
    "Budget",
    "Check",
    "Consumer",
    "Cost",
    "Inputs",
    "Limit",
    "Member",
    "Operator",
    "ShapedAttention",
    "Shrunk",
    "Structure",
    "check",
    "replay",
    "shrink",
    "trace",
]
