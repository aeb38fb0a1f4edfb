"""One training from beginning to end: its steps, its judgement, its checkpoints."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from netwright.errors import ModelError, TrainingError
from netwright.train import checkpoint as checkpoints
from netwright.train.averaging import Average
from netwright.train.callbacks import State
from netwright.train.job import Fitted, Job, Progress
from netwright.train.launch import Launcher
from netwright.train.losses import Objective, Step
from netwright.train.mixing import mix
from netwright.train.optimizers import Holding, build_optimizer
from netwright.train.passes import Batch
from netwright.train.runtime import Runtime, evaluating
from netwright.train.schedules import factor
from netwright.train.scoring import check_fits, tally

if TYPE_CHECKING:
    pass

#: Steps between two looks at the loss: each look waits for the device.
LOOK_EVERY = 10


class Training:
    """One training: what it holds, one epoch, one step, its state."""

    def __init__(self, launcher: Launcher, job: Job, progress: Callable[[Progress], None] | None) -> None:
        recipe, self.recipe = job.recipe, job.recipe
        self.launcher, self.job, self.progress = launcher, job, progress
        self.model = copy.deepcopy(job.model)
        for callback in job.callbacks:
            callback.prepare(self.model)
        self.runtime = self._choose_runtime()
        self.requires_grad = {name: p.requires_grad for name, p in self.model.named_parameters()}
        if job.trainable is not None:
            for name, parameter in self.model.named_parameters():
                parameter.requires_grad_(name in job.trainable)
        uses_teacher = job.teacher is not None
        self.teacher = (
            self.runtime.place(copy.deepcopy(job.teacher)).eval() if uses_teacher and job.teacher else None
        )
        self.average = Average(self.model, recipe.ema) if recipe.ema > 0 else None
        if self.average is not None and job.average is not None:
            self.average.model.load_state_dict(job.average.model.state_dict())
            self.average.updates = job.average.updates
        self.optimizer = build_optimizer(self.model, recipe)
        if not any(getattr(callback, "holds_masks", False) for callback in job.callbacks):
            for part in self.model.modules():
                if isinstance(part, Holding):
                    part.hold_after_steps(self.model, self.optimizer)
        self.forward_model = launcher.setup(self.model)
        count = min(len(job.data.train), recipe.limit or len(job.data.train)) // launcher.world
        self.batch_size = max(1, recipe.batch_size // launcher.world)
        full, rest = divmod(count, self.batch_size)
        self.steps = max(full + (rest > 1), 1)
        if job.optimizer is not None:
            self.optimizer.load_state_dict(copy.deepcopy(dict(job.optimizer)))
        self.state = State(
            self.model,
            self.optimizer,
            recipe.epochs * self.steps,
            self.steps,
            job.start,
            self.average.model if self.average else None,
        )
        self.history: list[dict[str, Any]] = []
        self.spent = 0.0
        self.started = time.perf_counter()

    def _choose_runtime(self) -> Runtime:
        """Resolve precision and layout, trying the model once; ``"auto"`` is fp32 where bf16 fails."""
        data, recipe, device = self.job.data, self.recipe, self.launcher.device
        example, _ = next(data.train.batches(2))
        classes = data.num_classes if data.train.labelled else None
        chosen = Runtime.choose(
            device,
            example,
            precision=recipe.precision,
            channels_last=recipe.channels_last,
            model=self.model,
        )
        plain = Runtime(device, bf16=False, channels_last=False)
        check_fits(plain.place(self.model), example, classes, plain)
        if chosen.bf16:
            try:
                check_fits(chosen.place(self.model), example, classes, chosen)
            except ModelError:
                if recipe.precision != "auto":
                    raise
                chosen = plain
        chosen.place(self.model)
        return chosen

    def run(self) -> Fitted:
        """Train from the beginning or from the checkpoint to the end."""
        first = self._restore()
        for callback in self.job.callbacks:
            callback.begin(self.state)
        try:
            for epoch in range(first, self.recipe.epochs):
                if self.job.stop is not None and epoch * self.steps >= self.job.stop:
                    break
                self._epoch(epoch)
                if self.job.stop is None or self.job.stop >= (epoch + 1) * self.steps:
                    self._save(epoch + 1)
        finally:
            for name, parameter in self.model.named_parameters():
                parameter.requires_grad_(self.requires_grad[name])
                parameter.grad = None
        judged = self.average.model if self.average else self.model
        judged.train(self.job.model.training)
        for name, parameter in judged.named_parameters():
            parameter.requires_grad_(self.requires_grad[name])
        # Other formats than contiguous surprise whoever saves or exports the weights.
        judged.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        accuracies = [r["accuracy"] for r in self.history if r["accuracy"] is not None]
        return Fitted(judged, self.history, self._seconds(), max(accuracies, default=None))

    def _epoch(self, epoch: int) -> None:
        """Train one epoch and judge it; all its randomness derives from seed, epoch, step and rank."""
        generator = torch.Generator().manual_seed(self._seed(epoch, 0))
        self._train_mode()
        begun, total, done, lr = time.perf_counter(), 0.0, 0, 0.0
        skipped = max(self.job.start - epoch * self.steps, 0)
        stop = self.job.stop if self.job.stop is not None else self.recipe.epochs * self.steps
        last = min(stop - epoch * self.steps, self.steps)
        pending: list[Tensor] = []
        for x, y, positions in self._batches(epoch, generator):
            if done < skipped:
                done += 1
                continue
            lr = self._set_lr(epoch * self.steps + done)
            torch.manual_seed(self._seed(epoch, done))
            pending.append(self._step(x, y, positions))
            done += 1
            if len(pending) == LOOK_EVERY or done == last:
                total += self._look(pending, epoch, done, lr)
                pending.clear()
                self._report(epoch, done, total / (done - skipped), lr)
            if done == last:
                break
        if pending:
            total += self._look(pending, epoch, done, lr)
        accuracy = self._judge()
        loss = total / max(done - skipped, 1)
        if self.job.order is not None and done == self.steps:
            self.job.order.after_epoch(epoch, self.recipe.epochs)
        record = {"epoch": epoch + 1, "loss": loss, "accuracy": accuracy, "lr": lr}
        self.history.append({**record, "seconds": time.perf_counter() - begun})
        for callback in self.job.callbacks:
            callback.after_epoch(self.state, self.history[-1])
        self._report(epoch, done, loss, lr)

    def _seed(self, epoch: int, step: int) -> int:
        """Of one step, so that a training may begin at any."""
        return (
            ((self.recipe.seed * 100_003 + epoch) * 1_009 + self.launcher.rank) * 1_000_003 + step
        ) % 2**63

    def _batches(
        self, epoch: int, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """Yield the training batches of this process; a rest of one example is left out.

        With an order of its own the positions of the examples come along.
        """
        train, limit, positions = self.job.data.train, self.recipe.limit, None
        if self.launcher.world > 1:
            # The order comes from a generator that all processes share, so that their shares are disjoint.
            shared = torch.Generator().manual_seed(self.recipe.seed * 100_003 + epoch)
            order = torch.randperm(len(train), generator=shared)[: limit or len(train)]
            mine = order[: len(order) // self.launcher.world * self.launcher.world]
            train, limit = train.subset(mine[self.launcher.rank :: self.launcher.world]), None
        if self.job.order is not None:
            positions = self.job.order.draw(epoch, len(train), generator)[:limit]
            train = train.subset(positions)
        batches = train.batches(
            self.batch_size,
            shuffle=positions is None,
            generator=generator,
            augment=self.recipe.augment,
            limit=limit,
        )
        done = 0
        for x, y in batches:
            here = None if positions is None else positions[done : done + len(x)]
            done += len(x)
            # Batch normalisation has no variance over one example.
            if len(x) > 1 or self.batch_size == 1:
                yield x, y, here

    def _step(self, x: Tensor, y: Tensor, positions: Tensor | None = None) -> Tensor:
        """Take one optimiser step; returns the loss, detached, without waiting for the device."""
        recipe, runtime = self.recipe, self.runtime
        generator = torch.Generator().manual_seed(torch.initial_seed() % 2**63)
        x, y, other, share = mix(
            x, y, mixup_alpha=recipe.mixup, cutmix_alpha=recipe.cutmix, generator=generator
        )
        x, y = runtime.move(x), y.to(runtime.device, non_blocking=True)
        other = other.to(runtime.device, non_blocking=True) if other is not None else None
        teacher = None
        if self.teacher is not None:
            with torch.no_grad():
                teacher = runtime.forward(self.teacher, x)
        weights = None
        if self.job.order is not None and positions is not None:
            weights = self.job.order.weights(positions)
            weights = None if weights is None else weights.to(runtime.device, non_blocking=True)
        batch = Batch(x, y, other, share, teacher, positions, weights)
        self.optimizer.zero_grad(set_to_none=True)
        if self.job.passes is None:
            _, loss = self._pass(batch)
        else:
            loss = self.job.passes(self._pass, batch, self.model, self.state)
        if recipe.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip_norm)
        for callback in self.job.callbacks:
            callback.before_step(self.state)
        self.optimizer.step()
        if self.average is not None:
            self.average.update(self.model)
        self.state.step += 1
        for callback in self.job.callbacks:
            callback.after_step(self.state)
        return loss

    def _pass(
        self, batch: Batch, objective: Objective | None = None, weight: float = 1.0
    ) -> tuple[Step, Tensor]:
        """One forward and backward pass of a batch; gradients are added to those that are there."""
        answer = self.runtime.forward(self.forward_model, batch.inputs)
        step = Step(
            batch.inputs, answer, batch.targets, batch.other, batch.share, batch.teacher, batch.weights
        )
        loss = (objective or self.job.objective)(step)
        self.launcher.backward(loss if weight == 1.0 else loss * weight)
        if self.job.order is not None and batch.positions is not None:
            self.job.order.observe(batch.positions, answer.detach(), batch.targets)
        return step, loss.detach()

    def _look(self, pending: list[Tensor], epoch: int, done: int, lr: float) -> float:
        """Return the sum of the pending losses.

        Raises:
            TrainingError: if one is not finite.
        """
        losses = torch.stack(pending).double()
        bad = torch.nonzero(~torch.isfinite(losses)).flatten().tolist()
        if bad:
            step = done - len(pending) + bad[0] + 1
            hint = "lower the learning rate" + ("" if self.recipe.clip_norm else " or set clip_norm=1")
            raise TrainingError(
                f"the loss became {losses[bad[0]].item()} in epoch {epoch + 1}, step {step} of {self.steps}, "
                f"at learning rate {lr:.4g}",
                hint + (" or precision=fp32" if self.runtime.bf16 else ""),
            )
        return float(losses.sum())

    def _judge(self) -> float | None:
        """Return the validation accuracy of the present weights, on rank 0, in the training's precision."""
        val = self.job.data.val
        if self.launcher.rank or not val.labelled or val.numbers or len(val) == 0:
            return None
        judged = self.average.model if self.average else self.model
        correct, count = torch.zeros((), dtype=torch.float64), 0
        with torch.no_grad(), evaluating(judged):
            for x, y in val.batches(256):
                answer = self.runtime.forward(judged, self.runtime.move(x))
                right, _, seen = tally(answer, y.to(self.runtime.device))
                correct, count = correct.to(right.device) + right, count + seen
        return float(correct) / count if count else None

    def _train_mode(self) -> None:
        self.forward_model.train()
        if self.job.trainable is None:
            return
        for norm in self.model.modules():
            if isinstance(norm, _BatchNorm) and not any(p.requires_grad for p in norm.parameters()):
                norm.eval()

    def _set_lr(self, step: int) -> float:
        recipe = self.recipe
        warmup = round(recipe.warmup_epochs * self.steps)
        steps = recipe.epochs * self.steps
        period = recipe.decay_epochs * self.steps
        share = factor(
            recipe.schedule, step, steps, warmup, recipe.milestones, recipe.gamma, period, recipe.floor
        )
        lr = recipe.lr * share
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        return lr

    def _seconds(self) -> float:
        return self.spent + time.perf_counter() - self.started

    def _report(self, epoch: int, done: int, loss: float, lr: float) -> None:
        if self.progress is None:
            return
        finished = epoch * self.steps + done
        seconds, whole = self._seconds(), self.recipe.epochs * self.steps
        accuracy = self.history[-1]["accuracy"] if self.history else None
        eta = seconds / max(finished, 1) * max(whole - finished, 0)
        self.progress(
            Progress(epoch + 1, self.recipe.epochs, done, self.steps, loss, accuracy, lr, seconds, eta)
        )

    def _fingerprint(self) -> str:
        data = str(getattr(self.job.data, "fingerprint", ""))
        return checkpoints.fingerprint(self.model, self.recipe, data)

    def _save(self, epoch: int) -> None:
        if self.job.checkpoint is None or self.launcher.rank:
            return
        average = self.average
        state = {
            "fingerprint": self._fingerprint(),
            "recipe": self.recipe.to_json(),
            "epoch": epoch,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": {"model": average.model.state_dict(), "updates": average.updates} if average else None,
            "history": self.history,
            "seconds": self._seconds(),
            "callbacks": [callback.state_dict() for callback in self.job.callbacks],
            "order": self.job.order.state_dict() if self.job.order is not None else None,
        }
        checkpoints.save(self.job.checkpoint, state)

    def _restore(self) -> int:
        """Load the checkpoint where there is one; returns the epoch to go on with.

        Otherwise a first checkpoint is written, so that a folder that cannot be written is noticed at once.
        """
        path = self.job.checkpoint
        if path is None or not path.exists():
            first = self.job.start // self.steps
            self._save(first)
            return first
        state = checkpoints.load(path, self._fingerprint())
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.model.load_state_dict(state["average"]["model"])
            self.average.updates = state["average"]["updates"]
        self.history, self.spent = state["history"], state["seconds"]
        self.state.step = max(state["epoch"] * self.steps, self.job.start)
        for callback, saved in zip(self.job.callbacks, state["callbacks"], strict=True):
            callback.load_state_dict(saved)
        if self.job.order is not None and state.get("order") is not None:
            self.job.order.load_state_dict(state["order"])
        return state["epoch"]
