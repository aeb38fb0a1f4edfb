"""Architecture search: a space, objectives and a strategy as an ordinary Optuna study."""

from netwright.nas.search import STRATEGIES, Found, Objective, Space, Trial, search

__all__ = ["STRATEGIES", "Found", "Objective", "Space", "Trial", "search"]
