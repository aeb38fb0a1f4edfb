"""Pruning: importance x granularity x allocation x schedule; `prune` removes structure, `sparsify` masks."""

from netwright.pruning import gradients, magnitude, obs, responses, taylor  # noqa: F401 - they register importances
from netwright.pruning.activate import AP
from netwright.pruning.allocation import list_allocations, register_allocation, select
from netwright.pruning.choosing import choose, prunable_weights
from netwright.pruning.cycles import CycleRun, Cycles, Ticket, iterative, lottery
from netwright.pruning.elements import Context, ElementImportance, learned, movement, register_elements
from netwright.pruning.examples import Examples
from netwright.pruning.granularity import NM, Block, Channel, Granularity, Slices
from netwright.pruning.importance import (
    Importance,
    list_importances,
    normalise,
    register_importance,
    score,
)
from netwright.pruning.integrations import lightning_callback, trainer_callback
from netwright.pruning.joint import JointTraining
from netwright.pruning.layerwise import (
    Layers,
    from_scores,
    layer_counts,
    list_layer_allocations,
    register_layer_allocation,
)
from netwright.pruning.mask_state import MaskState, bake
from netwright.pruning.masked import bare, carry_masks
from netwright.pruning.onnx_files import prune_onnx
from netwright.pruning.plasticity import Plasticity, plasticity
from netwright.pruning.ratios import ratios
from netwright.pruning.repair import list_repairs
from netwright.pruning.result import Pruned
from netwright.pruning.saving import load, save_pruned
from netwright.pruning.space import NodeSpace, initial_loss, space
from netwright.pruning.sparse_kernels import Accelerated, accelerate_sparse
from netwright.pruning.sparse_result import Sparse
from netwright.pruning.sparsify import sparsify
from netwright.pruning.sparsity import Sparsity
from netwright.pruning.stability import Stability, stability
from netwright.pruning.statistics import recalibrate_
from netwright.pruning.structured import prune
from netwright.pruning.supertickets import SuperTicket, draw_ticket, supertickets
from netwright.pruning.tas import Tas
from netwright.pruning.training_cost import TrainingCost

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
