"""How to train: one frozen, validated, serialisable record."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, Literal

from netwright.errors import UsageError
from netwright.train.schedules import GAMMA, MILESTONES, SCHEDULES

Precision = Literal["auto", "fp32", "bf16"]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that decides how a network is trained, apart from the network and the data.

    Args:
        epochs: Passes over the training split; 0 trains nothing and only evaluates.
        batch_size: Examples of one optimiser step, over all devices together.
        lr: Peak learning rate.
        optimizer: ``"sgd"`` (Nesterov where ``momentum > 0``), ``"adam"`` (its decay is part of the
            gradient), ``"adamw"``, ``"rmsprop"`` or ``"lars"`` (steps are shares of the weights' norms).
        momentum: Momentum of SGD, RMSprop and LARS; ignored by the others.
        weight_decay: Decay of weights with two dimensions or more; norms and biases are never decayed.
        schedule: ``"cosine"``, ``"step"``, ``"one-cycle"``, ``"exponential"`` or ``"constant"``.
        milestones: Where the schedule ``"step"`` falls, as shares of the training.
        gamma: What it multiplies the learning rate by each time; of ``"exponential"``, every `decay_epochs`.
        decay_epochs: Epochs in which the schedule ``"exponential"`` falls by `gamma`.
        floor: Share of the peak below which ``"exponential"`` does not fall.
        beta2: Decay of AdamW's second moment and of RMSprop's; ignored by SGD.
        warmup_epochs: Epochs over which the learning rate rises linearly before the schedule begins.
        label_smoothing: Share of the target spread over all classes, in 0..1.
        mixup: Alpha of the Beta distribution of mixup; 0 is off.
        cutmix: Alpha of cutmix in the same way; with both on, each step draws one of the two.
        ema: Decay of the exponential moving average of the weights, in 0..1; 0 is off.
        clip_norm: Largest norm of the whole gradient, or None.
        precision: ``"bf16"`` is autocast; ``"auto"`` takes it where the device computes in it natively.
        channels_last: Memory format of 4-D inputs; ``"auto"`` takes it on CUDA, and with bf16 on processors
            where all convolutions make multiples of 8 channels.
        augment: Whether the training split's own augmentation is applied.
        distill_weight: Share of the loss that follows the teacher, in 0..1.
        distill_temperature: Temperature of the distillation.
        seed: Decides order, augmentation, mixing and dropout.
        limit: Most training examples of one epoch, or None for all.

    Raises:
        UsageError: if a value is out of its range.
    """

    epochs: int = 10
    batch_size: int = 128
    lr: float = 0.1
    optimizer: Literal["sgd", "adam", "adamw", "rmsprop", "lars"] = "sgd"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: Literal["cosine", "step", "one-cycle", "exponential", "constant"] = "cosine"
    milestones: tuple[float, ...] = MILESTONES
    gamma: float = GAMMA
    decay_epochs: float = 1.0
    floor: float = 0.0
    beta2: float = 0.999
    warmup_epochs: float = 0.0
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    ema: float = 0.0
    clip_norm: float | None = None
    precision: Precision = "auto"
    channels_last: bool | Literal["auto"] = "auto"
    augment: bool = True
    distill_weight: float = 0.0
    distill_temperature: float = 4.0
    seed: int = 0
    limit: int | None = None

    def __post_init__(self) -> None:
        _range("epochs", self.epochs, at_least=0)
        _range("batch_size", self.batch_size, at_least=1)
        _range("lr", self.lr, at_least=0, open_below=True)
        _range("momentum", self.momentum, at_least=0, below=1)
        _range("weight_decay", self.weight_decay, at_least=0)
        # JSON has lists only, and a recipe must be hashable.
        object.__setattr__(self, "milestones", tuple(self.milestones))
        for milestone in self.milestones:
            _range("milestones", milestone, at_least=0, at_most=1)
        _range("gamma", self.gamma, at_least=0, open_below=True, at_most=1)
        _range("decay_epochs", self.decay_epochs, at_least=0, open_below=True)
        _range("floor", self.floor, at_least=0, at_most=1)
        _range("beta2", self.beta2, at_least=0, below=1)
        _range("warmup_epochs", self.warmup_epochs, at_least=0)
        _range("label_smoothing", self.label_smoothing, at_least=0, below=1)
        _range("mixup", self.mixup, at_least=0)
        _range("cutmix", self.cutmix, at_least=0)
        _range("ema", self.ema, at_least=0, below=1)
        _range("distill_weight", self.distill_weight, at_least=0, at_most=1)
        _range("distill_temperature", self.distill_temperature, at_least=0, open_below=True)
        _range("seed", self.seed, at_least=0)
        if self.clip_norm is not None:
            _range("clip_norm", self.clip_norm, at_least=0, open_below=True)
        if self.limit is not None:
            _range("limit", self.limit, at_least=1)
        _choice("optimizer", self.optimizer, ("sgd", "adam", "adamw", "rmsprop", "lars"))
        _choice("schedule", self.schedule, SCHEDULES)
        _choice("precision", self.precision, ("auto", "fp32", "bf16"))
        _choice("channels_last", self.channels_last, (True, False, "auto"))

    def to_json(self) -> str:
        """Return the recipe as a JSON object, one line."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str | Mapping[str, Any]) -> Recipe:
        """Read a recipe back from `to_json`, or from a mapping of its fields.

        Raises:
            UsageError: if the text is no JSON object, or a field is unknown or out of range.
        """
        try:
            fields = json.loads(text) if isinstance(text, str) else dict(text)
        except json.JSONDecodeError as error:
            raise UsageError(f"a recipe that is not JSON: {error}") from error
        known = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(fields, dict) or (unknown := set(fields) - known):
            wrong = ", ".join(sorted(unknown)) if isinstance(fields, dict) else type(fields).__name__
            raise UsageError(f"a recipe has no field {wrong}", f"fields: {', '.join(sorted(known))}")
        return cls(**fields)


def _range(
    name: str,
    value: Any,
    *,
    at_least: float,
    open_below: bool = False,
    below: float | None = None,
    at_most: float | None = None,
) -> None:
    """Refuse a number out of its range (NaN is out of every range)."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    fits = number and (value > at_least if open_below else value >= at_least)
    fits = (
        fits
        and value != float("inf")
        and (below is None or value < below)
        and (at_most is None or value <= at_most)
    )
    if not fits:
        sign = ">" if open_below else ">="
        top = (
            f" and < {below:g}"
            if below is not None
            else f" and <= {at_most:g}"
            if at_most is not None
            else ""
        )
        raise UsageError(
            f"recipe: {name}={value!r} is out of range", f"{name} must be {sign} {at_least:g}{top}"
        )


def _choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    if value not in choices:
        raise UsageError(
            f"recipe: {name}={value!r} is unknown", f"choose from {', '.join(map(str, choices))}"
        )
