"""Sparse trainings in the trainers of others: Lightning, Hugging Face's `Trainer`, Accelerate.

`netwright.pruning.Sparsity` does the work in all of them; here is only who calls it when. They come with
``pip install 'netwright[integrations]'``.

Accelerate leaves the loop to the user, so it needs no callback: attach to what ``prepare`` gave, and step
where gradients were applied, before they are cleared::

    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    sparsity = Sparsity(keep=0.1, schedule="granet")
    sparsity.attach(model, optimizer, steps)
    for x, y in loader:
        with accelerator.accumulate(model):
            accelerator.backward(loss(model(x), y))
            optimizer.step()
            if accelerator.sync_gradients:
                sparsity.step()
            optimizer.zero_grad()
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from netwright._files import atomic
from netwright._imports import require
from netwright.errors import UsageError
from netwright.train import Callback, State

EXTRA = "integrations"
#: In a checkpoint folder of Hugging Face's trainer: what the callback knows beside the masks.
FILE = "netwright_sparsity.pt"


def lightning_callback(callback: Callback, part: str = "") -> Any:
    """A `Sparsity` (or another callback of `netwright.train`) for ``lightning.Trainer(callbacks=[...])``.

    The network gets its masks in ``setup``, before a checkpoint is loaded; masks, changes and what else the
    callback knows lie in Lightning's checkpoints, and a training that goes on is the one that never stopped.

    Args:
        callback: What acts.
        part: Attribute of the `LightningModule` that is the network, ``"model"`` for instance; the whole
            module where empty.

    Returns:
        A ``lightning.pytorch.Callback``.

    Raises:
        MissingExtraError: if Lightning is not installed.
    """
    lightning = require("lightning.pytorch", extra=EXTRA)

    class LightningSparsity(lightning.Callback):  # type: ignore[name-defined, misc]
        """Calls the callback around every step."""

        def __init__(self) -> None:
            self.state: State | None = None

        def setup(self, trainer: Any, pl_module: nn.Module, stage: str) -> None:
            if stage == "fit":
                callback.prepare(pl_module.get_submodule(part))

        def on_train_start(self, trainer: Any, pl_module: nn.Module) -> None:
            if len(trainer.optimizers) != 1:
                raise UsageError(
                    f"the module has {len(trainer.optimizers)} optimisers",
                    "use Sparsity.attach and step in manual optimisation",
                )
            steps = trainer.estimated_stepping_batches
            if steps == float("inf"):
                raise UsageError("the training has no end to plan for", "set max_steps or max_epochs")
            network = pl_module.get_submodule(part)
            batches = max(int(steps) // max(trainer.max_epochs or 1, 1), 1)
            self.state = State(network, trainer.optimizers[0], int(steps), batches, trainer.global_step)
            callback.begin(self.state)

        def on_before_optimizer_step(self, trainer: Any, pl_module: nn.Module, optimizer: Any) -> None:
            assert self.state is not None
            callback.before_step(self.state)

        def on_train_batch_end(self, trainer: Any, *args: Any, **kwargs: Any) -> None:
            assert self.state is not None
            # Where gradients are accumulated, most batches end without a step.
            if trainer.global_step > self.state.step:
                self.state.step = trainer.global_step
                callback.after_step(self.state)

        def state_dict(self) -> dict[str, Any]:
            return callback.state_dict()

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            callback.load_state_dict(state_dict)

    return LightningSparsity()


def trainer_callback(callback: Callback) -> Any:
    """A `Sparsity` (or another callback of `netwright.train`) for ``transformers.Trainer(callbacks=[...])``.

    The network gets its masks when the trainer is made, so that its checkpoints hold them and can be gone on
    from; what else the callback knows is written into them as ``netwright_sparsity.pt``. Use the trainer in
    the ordinary way: give the callback to its constructor, not later.

    Args:
        callback: What acts.

    Returns:
        A ``transformers.TrainerCallback``.

    Raises:
        MissingExtraError: if Transformers is not installed.
    """
    transformers = require("transformers", extra=EXTRA)

    class TransformersSparsity(transformers.TrainerCallback):  # type: ignore[name-defined, misc]
        """Calls the callback around every step."""

        def __init__(self) -> None:
            self.state: State | None = None
            self.prepared = False

        def on_init_end(self, args: Any, state: Any, control: Any, model: nn.Module, **more: Any) -> None:
            callback.prepare(model)
            self.prepared = True

        def on_train_begin(
            self, args: Any, state: Any, control: Any, model: nn.Module, optimizer: Any, **more: Any
        ) -> None:
            if not self.prepared:
                raise UsageError(
                    "the callback came after the trainer was made", "give it to Trainer(callbacks=[...])"
                )
            epochs = max(round(state.num_train_epochs), 1)
            steps = max(state.max_steps // epochs, 1)
            self.state = State(model, optimizer, state.max_steps, steps, state.global_step)
            saved = Path(args.output_dir) / f"checkpoint-{state.global_step}" / FILE
            if state.global_step and saved.is_file():
                callback.load_state_dict(torch.load(saved, map_location="cpu", weights_only=True))
            callback.begin(self.state)

        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            assert self.state is not None
            callback.before_step(self.state)

        def on_optimizer_step(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            assert self.state is not None
            self.state.step = state.global_step + 1  # it is counted after this
            callback.after_step(self.state)

        def on_save(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            if state.is_world_process_zero and folder.is_dir():
                with atomic(folder / FILE) as temporary:
                    torch.save(callback.state_dict(), temporary)

    return TransformersSparsity()
