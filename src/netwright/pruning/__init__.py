"""Pruning: importance x granularity x allocation x schedule; `prune` removes structure, `sparsify` masks."""

from netwright.pruning.allocations.allocation import list_allocations, register_allocation, select
from netwright.pruning.allocations.choosing import choose, prunable_weights
from netwright.pruning.allocations.layerwise import (
    Layers,
    from_scores,
    layer_counts,
    list_layer_allocations,
    register_layer_allocation,
)
from netwright.pruning.allocations.ratios import ratios
from netwright.pruning.importances import gradients, magnitude, obs, responses, taylor  # noqa: F401 - they register importances
from netwright.pruning.importances.activate import AP
from netwright.pruning.importances.elements import (
    Context,
    ElementImportance,
    learned,
    movement,
    register_elements,
)
from netwright.pruning.importances.importance import (
    Importance,
    list_importances,
    normalise,
    register_importance,
    score,
)
from netwright.pruning.integrations import lightning_callback, trainer_callback
from netwright.pruning.masks.granularity import NM, Block, Channel, Granularity, Slices
from netwright.pruning.masks.mask_state import MaskState, bake
from netwright.pruning.masks.masked import bare, carry_masks
from netwright.pruning.masks.sparse_kernels import Accelerated, accelerate_sparse
from netwright.pruning.onnx_files import prune_onnx
from netwright.pruning.removal.repair import list_repairs
from netwright.pruning.removal.result import Pruned
from netwright.pruning.removal.saving import load, save_pruned
from netwright.pruning.schedules.cycles import CycleRun, Cycles, Ticket, iterative, lottery
from netwright.pruning.schedules.plasticity import Plasticity, plasticity
from netwright.pruning.schedules.sparse_result import Sparse
from netwright.pruning.schedules.sparsity import Sparsity
from netwright.pruning.schedules.stability import Stability, stability
from netwright.pruning.schedules.training_cost import TrainingCost
from netwright.pruning.sparsify import sparsify
from netwright.pruning.statistics.batch_norm import recalibrate_
from netwright.pruning.statistics.examples import Examples
from netwright.pruning.structured import prune
from netwright.pruning.systems.joint import JointTraining
from netwright.pruning.systems.space import NodeSpace, initial_loss, space
from netwright.pruning.systems.supertickets import SuperTicket, draw_ticket, supertickets
from netwright.pruning.systems.tas import Tas

__all__ = [
    "AP",
    "NM",
    "Accelerated",
    "Block",
    "Channel",
    "Context",
    "CycleRun",
    "Cycles",
    "ElementImportance",
    "Examples",
    "Granularity",
    "Importance",
    "JointTraining",
    "Layers",
    "MaskState",
    "NodeSpace",
    "Plasticity",
    "Pruned",
    "Slices",
    "Sparse",
    "Sparsity",
    "Stability",
    "SuperTicket",
    "Tas",
    "Ticket",
    "TrainingCost",
    "accelerate_sparse",
    "bake",
    "bare",
    "carry_masks",
    "choose",
    "draw_ticket",
    "from_scores",
    "initial_loss",
    "iterative",
    "layer_counts",
    "learned",
    "lightning_callback",
    "list_allocations",
    "list_importances",
    "list_layer_allocations",
    "list_repairs",
    "load",
    "lottery",
    "movement",
    "normalise",
    "plasticity",
    "prunable_weights",
    "prune",
    "prune_onnx",
    "ratios",
    "recalibrate_",
    "register_allocation",
    "register_elements",
    "register_importance",
    "register_layer_allocation",
    "save_pruned",
    "score",
    "select",
    "space",
    "sparsify",
    "stability",
    "supertickets",
    "trainer_callback",
]
