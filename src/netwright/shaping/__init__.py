"""The main job: from a network, data and a budget to a front of exported, measured networks and a report."""

from netwright.shaping.candidate import Candidate, Evaluator, Outcome, Space
from netwright.shaping.dominance import Member, front_of, worth_having
from netwright.shaping.front import Front, Shaped
from netwright.shaping.job import over_budget, shape
from netwright.shaping.progress import Console, Reporter
from netwright.shaping.reading import read_front

__all__ = [
    "Candidate",
    "Console",
    "Evaluator",
    "Front",
    "Member",
    "Outcome",
    "Reporter",
    "Shaped",
    "Space",
    "front_of",
    "over_budget",
    "read_front",
    "shape",
    "worth_having",
]
