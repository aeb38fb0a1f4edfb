"""The training loop: one for any device, any precision, one process or several."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from netwright.errors import DataError, UsageError
from netwright.train.averaging import Average
from netwright.train.callbacks import Callback
from netwright.train.job import Fitted, Job, Progress
from netwright.train.launch import Launcher, SingleDevice, launch
from netwright.train.losses import Distillation, Labels, Objective
from netwright.train.orders import Order
from netwright.train.passes import Passes
from netwright.train.recipe import Recipe
from netwright.train.runtime import resolve_device
from netwright.train.training import Training

if TYPE_CHECKING:
    from netwright.data import Splits

Trainable = Callable[[str], bool] | Iterable[str]


def fit(
    model: nn.Module,
    data: Splits,
    recipe: Recipe | None = None,
    *,
    teacher: nn.Module | None = None,
    device: str | torch.device = "auto",
    checkpoint: Path | None = None,
    progress: Callable[[Progress], None] | None = None,
    trainable: Trainable | None = None,
    objective: Objective | None = None,
    devices: int = 1,
    callbacks: Sequence[Callback] = (),
    start: int = 0,
    stop: int | None = None,
    optimizer: Mapping[str, Any] | None = None,
    average: Average | None = None,
    passes: Passes | None = None,
    order: Order | None = None,
) -> Fitted:
    """Train a copy of a network; masks that it has (see `netwright.pruning.MaskState`) are held.

    The same seed on the same machine gives the same weights; a training resumed from its checkpoint gives the
    same weights as one that was never stopped. The global random state is left as it was.

    Args:
        model: The network; it is copied, never changed.
        data: Its `train` split is trained on, its `val` split judged after each epoch; `test` is not touched.
        recipe: How to train; the defaults of `Recipe` where None.
        teacher: A network whose answers are followed; needed where the data have no labels or
            ``recipe.distill_weight > 0``.
        device: ``"auto"``, or where to train.
        checkpoint: File to resume from where it exists, written after each epoch; left behind when done.
        progress: Called every few steps.
        trainable: Which parameters to train: patterns of their names, or a predicate on the name. Batch
            normalisations whose parameters are all frozen keep their statistics.
        objective: A loss of your own in place of labels plus distillation.
        devices: Number of devices; more than one needs the extra ``scale``.
        callbacks: Called around every step, in order; those of several devices are copies, whose state the
            given ones take over in the end.
        start: Steps that count as done: the training goes on with the learning rate, the order of the data
            and the dropout of that step, as if `model` had been trained so far. A checkpoint counts for more.
        stop: Steps, those before `start` included, after which the training ends early, with the learning
            rates that the whole training has until then; None trains to the end.
        optimizer: State of the optimiser to begin with, as its ``state_dict`` gave it; fresh where None.
        average: The moving average to go on with, where the recipe asks for one; it is copied.
        passes: What runs forward and backward in each step, in place of one pass with the objective.
        order: Chooses the examples of every epoch, in place of a shuffle of all; on one device.

    Returns:
        The trained network and what happened.

    Raises:
        TrainingError: if the loss stops being finite, or the checkpoint belongs to another training.
        ArtefactError: if the checkpoint cannot be read or written.
        ModelError: if the model rejects the data.
        DataError: if the training split is too small or has no labels and there is no teacher.
    """
    recipe = recipe or Recipe()
    if data.train.numbers and objective is None:
        raise UsageError("the targets are numbers, not classes", "give objective=, what they are compared by")
    job = Job(
        model=model,
        data=data,
        recipe=recipe,
        teacher=teacher,
        checkpoint=Path(checkpoint) if checkpoint is not None else None,
        trainable=_chosen(model, trainable),
        objective=objective or _objective(recipe, labelled=data.train.labelled, teacher=teacher is not None),
        callbacks=tuple(callbacks),
        start=start,
        stop=stop,
        optimizer=optimizer,
        average=average,
        passes=passes,
        order=order,
    )
    if len(data.train) < 2:
        raise DataError(f"training needs at least 2 examples, the training split has {len(data.train)}")
    if start < 0:
        raise UsageError(f"start={start} is no number of steps", "give 0 or more")
    if stop is not None and stop <= start:
        raise UsageError(f"a training that begins at step {start} cannot stop at {stop}", "give a later step")
    if devices < 1:
        raise UsageError(f"devices={devices} is not a number of devices", "give 1 or more")
    if order is not None and devices > 1:
        raise UsageError("an order of one's own goes with one device", "leave devices= or order= out")
    if devices == 1:
        return _work(SingleDevice(resolve_device(device)), job, progress)
    fitted, states = launch(_work_away, job, devices, device, progress)
    for callback, state in zip(callbacks, states, strict=True):
        callback.load_state_dict(state)
    return fitted


def _work(launcher: Launcher, job: Job, progress: Callable[[Progress], None] | None) -> Fitted:
    device = launcher.device
    gpus = [device.index or 0] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus):
        fitted = Training(launcher, job, progress).run()
    if launcher.world > 1:
        fitted.model.cpu()
    return fitted


def _work_away(
    launcher: Launcher, job: Job, progress: Callable[[Progress], None] | None
) -> tuple[Fitted, list[dict[str, Any]]]:
    """Train in a process of its own, whose callbacks are copies: what they know comes back too."""
    return _work(launcher, job, progress), [callback.state_dict() for callback in job.callbacks]


def _objective(recipe: Recipe, *, labelled: bool, teacher: bool) -> Objective:
    """Return the loss that a recipe, the data and a teacher make together."""
    if not teacher:
        if recipe.distill_weight > 0:
            raise UsageError(f"distill_weight={recipe.distill_weight:g} needs a teacher", "pass teacher=")
        if not labelled:
            raise DataError(
                "training needs labels, and these data have none", "pass a teacher to distil from"
            )
    follow = (recipe.distill_weight if labelled else 1.0) if teacher else 0.0
    terms: list[tuple[float, Any]] = []
    if follow < 1:
        terms.append((1 - follow, Labels(recipe.label_smoothing)))
    if follow > 0:
        terms.append((follow, Distillation(recipe.distill_temperature)))
    return Objective(tuple(terms))


def _chosen(model: nn.Module, trainable: Trainable | None) -> frozenset[str] | None:
    if trainable is None:
        return None
    names = [name for name, _ in model.named_parameters()]
    if callable(trainable):
        found = frozenset(name for name in names if trainable(name))
    else:
        patterns = [trainable] if isinstance(trainable, str) else list(trainable)
        found = frozenset(
            n for n in names if any(fnmatchcase(n, p) or n.startswith(f"{p}.") for p in patterns)
        )
    if not found:
        raise UsageError(
            "trainable names no parameter of the model", f"parameters are named like {names[:3]}"
        )
    return found
