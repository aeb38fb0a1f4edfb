"""The training loop, recipes, losses and what is measured with labels."""

from netwright.train.averaging import Average
from netwright.train.callbacks import Callback, GradientNorms, Snapshots, State
from netwright.train.job import Fitted, Progress
from netwright.train.lars import LARS
from netwright.train.launch import Launcher
from netwright.train.loop import fit
from netwright.train.losses import (
    UNLABELLED,
    AbsoluteError,
    Distillation,
    Labels,
    Objective,
    Step,
    Term,
    cross_entropy,
    distillation,
)
from netwright.train.mixing import cutmix, mix, mixup
from netwright.train.normalisation import recalibrate_, recalibrated
from netwright.train.optimizers import build_optimizer
from netwright.train.orders import Order
from netwright.train.passes import Batch, Pass, Passes
from netwright.train.recipe import Recipe
from netwright.train.runtime import Runtime, evaluating, main_output, native_bf16, resolve_device
from netwright.train.schedules import SCHEDULES, factor
from netwright.train.scoring import Score, check_fits, evaluate, logits

__all__ = [
    "LARS",
    "SCHEDULES",
    "UNLABELLED",
    "AbsoluteError",
    "Average",
    "Batch",
    "Callback",
    "Distillation",
    "Fitted",
    "GradientNorms",
    "Labels",
    "Launcher",
    "Objective",
    "Order",
    "Pass",
    "Passes",
    "Progress",
    "Recipe",
    "Runtime",
    "Score",
    "Snapshots",
    "State",
    "Step",
    "Term",
    "build_optimizer",
    "check_fits",
    "cross_entropy",
    "cutmix",
    "distillation",
    "evaluate",
    "evaluating",
    "factor",
    "fit",
    "logits",
    "main_output",
    "mix",
    "mixup",
    "native_bf16",
    "recalibrate_",
    "recalibrated",
    "resolve_device",
]
