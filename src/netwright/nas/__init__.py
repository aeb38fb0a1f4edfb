"""Architecture search: a space, objectives and a strategy as an ordinary Optuna study."""

from typing import TYPE_CHECKING, Any

from netwright.nas import ranking, strategies
from netwright.nas.bench import BenchEntry, TabularBench, benches
from netwright.nas.choice import Choice
from netwright.nas.conditions import Condition, all_of, any_of, at_least, equals
from netwright.nas.constrained import ConstrainedSpace
from netwright.nas.constraints import Constraint
from netwright.nas.costs import Additive
from netwright.nas.dim import Dim
from netwright.nas.dims import Categorical, Float, Int, Ordinal, Subset, Tied
from netwright.nas.history import History, Judged
from netwright.nas.hypervolume import hypervolume
from netwright.nas.ranking import RankingReport, noise_ceiling, ranking_report
from netwright.nas.search import STRATEGIES, Found, Objective, Space, Trial, search
from netwright.nas.space import SearchSpace
from netwright.nas.strategies import Strategy

if TYPE_CHECKING:
    from netwright.nas.sampler import StrategySampler

__all__ = [
    "STRATEGIES",
    "Additive",
    "BenchEntry",
    "Categorical",
    "Choice",
    "Condition",
    "ConstrainedSpace",
    "Constraint",
    "Dim",
    "Float",
    "Found",
    "History",
    "Int",
    "Judged",
    "Objective",
    "Ordinal",
    "RankingReport",
    "SearchSpace",
    "Space",
    "Strategy",
    "StrategySampler",
    "Subset",
    "TabularBench",
    "Tied",
    "Trial",
    "all_of",
    "any_of",
    "at_least",
    "benches",
    "equals",
    "hypervolume",
    "noise_ceiling",
    "ranking",
    "ranking_report",
    "search",
    "strategies",
]


def __getattr__(name: str) -> Any:
    """Import the sampler where it is used: Optuna takes long to import."""
    if name == "StrategySampler":
        from netwright.nas.sampler import StrategySampler

        return StrategySampler
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
