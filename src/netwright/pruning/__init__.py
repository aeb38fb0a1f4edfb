"""Removal of channels, heads and features under a budget: importances, allocations, repairs, `prune`."""

from netwright.pruning import magnitude, obs, taylor  # noqa: F401 - they register their importances
from netwright.pruning.allocation import list_allocations, register_allocation, select
from netwright.pruning.channels import prune
from netwright.pruning.examples import Examples
from netwright.pruning.importance import (
    Importance,
    list_importances,
    normalise,
    register_importance,
    score,
)
from netwright.pruning.onnx_files import prune_onnx
from netwright.pruning.repair import list_repairs
from netwright.pruning.result import Pruned
from netwright.pruning.saving import load, save_pruned
from netwright.pruning.statistics import recalibrate_

__all__ = [
    "Examples",
    "Importance",
    "Pruned",
    "list_allocations",
    "list_importances",
    "list_repairs",
    "load",
    "normalise",
    "prune",
    "prune_onnx",
    "recalibrate_",
    "register_allocation",
    "register_importance",
    "save_pruned",
    "score",
    "select",
]
