"""The ground floor: recorded operators, tied axes, exact surgery, costs and budgets of any network."""

from netwright.structure.attention import ShapedAttention
from netwright.structure.branches import Branch, branches
from netwright.structure.budget import Budget, Limit
from netwright.structure.check import Check, check
from netwright.structure.consumers import Consumer
from netwright.structure.cost import Cost, Operator
from netwright.structure.depth import Deepened, Skip, Zero, drop
from netwright.structure.example import describe_example, remake_example
from netwright.structure.following import Follows
from netwright.structure.graph import GraphNetwork
from netwright.structure.inputs import Inputs
from netwright.structure.insertion import insert
from netwright.structure.maps import IndexMap, interchangeable, sort_by
from netwright.structure.masks import mask_of
from netwright.structure.remapping import Remapped, permute, remap, widen, wider
from netwright.structure.repeating import Repeatable, repeatable
from netwright.structure.skipping import Stage, stages
from netwright.structure.solve import Axis
from netwright.structure.surgery import Shrunk, holds, replay, shrink
from netwright.structure.tracing import Member, Structure, trace

__all__ = [
    "Axis",
    "Branch",
    "Budget",
    "Check",
    "Consumer",
    "Cost",
    "Deepened",
    "Follows",
    "GraphNetwork",
    "IndexMap",
    "Inputs",
    "Limit",
    "Member",
    "Operator",
    "Remapped",
    "Repeatable",
    "ShapedAttention",
    "Shrunk",
    "Skip",
    "Stage",
    "Structure",
    "Zero",
    "branches",
    "check",
    "describe_example",
    "drop",
    "holds",
    "insert",
    "interchangeable",
    "mask_of",
    "permute",
    "remake_example",
    "remap",
    "repeatable",
    "replay",
    "shrink",
    "sort_by",
    "stages",
    "trace",
    "widen",
    "wider",
]
