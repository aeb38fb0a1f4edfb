"""The dense network: weights as they were given, or trained here with a recipe that fits the data's size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from netwright import _files, train
from netwright.errors import ArtefactError
from netwright.shaping.state import Folder

if TYPE_CHECKING:
    from netwright.data import Splits
    from netwright.train import Progress, Recipe


@dataclass(frozen=True)
class Baseline:
    """The dense network that a study starts from.

    Args:
        model: On the CPU, in eval mode.
        trained: Whether it was trained here.
        seconds: Time the training took, 0 if there was none.
        accuracy: Validation accuracy, None without labels.
    """

    model: nn.Module
    trained: bool
    seconds: float
    accuracy: float | None


def default_recipe(
    model: nn.Module, examples: int, seed: int, changes: Mapping[str, Any] | None = None
) -> Recipe:
    """A training recipe for a number of training examples.

    Convolutional networks with batch normalisation are trained by SGD on a one-cycle schedule with averaged
    weights, for about a million examples in all (at least 8 passes, at most 80); all others by AdamW.

    Args:
        model: The network.
        examples: Number of training examples.
        seed: Seed of the training.
        changes: Fields of the recipe to set instead.
    """
    epochs = max(8, min(80, round(950_000 / max(examples, 1))))
    batch = 128 if examples >= 5000 else max(8, min(64, examples // 16))
    common: dict[str, Any] = {"epochs": epochs, "batch_size": batch, "seed": seed, "label_smoothing": 0.05}
    if normalised(model):
        common |= {"lr": 0.2 * batch / 128, "schedule": "one-cycle", "weight_decay": 5e-4}
        common |= {"ema": 0.995 if examples >= 5000 else 0.98}
    else:
        common |= {"optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.05, "schedule": "cosine"}
        common |= {"warmup_epochs": min(2.0, epochs / 5), "clip_norm": 1.0}
    return train.Recipe.from_json({**common, **(changes or {})})


def recovery_epochs(examples: int) -> int:
    """Epochs of recovery for a number of training examples: about 170 000 examples, at most 40 passes."""
    return max(1, min(40, round(170_000 / max(examples, 1))))


def recovery_recipe(
    model: nn.Module, base: Recipe, epochs: int, distill: float, *, from_scratch: bool
) -> Recipe:
    """The recipe by which a pruned network recovers: the baseline's, shorter, following the dense network.

    Args:
        model: The pruned network.
        base: The baseline's recipe.
        epochs: Passes.
        distill: Weight of the dense network's answers.
        from_scratch: Whether the dense network was trained by `base`; weights that were given are changed
            gently.
    """
    sgd = normalised(model) and base.optimizer == "sgd"
    if from_scratch:
        rate = base.lr * 0.5
    else:
        rate = 0.01 * base.batch_size / 128 if sgd else base.lr * 0.1
    schedule: Literal["one-cycle", "cosine"] = "one-cycle" if from_scratch and sgd else "cosine"
    return replace(
        base,
        epochs=epochs,
        lr=rate,
        schedule=schedule,
        warmup_epochs=0.0,
        ema=0.0,
        mixup=0.0,
        cutmix=0.0,
        label_smoothing=0.0,
        distill_weight=distill,
    )


def normalised(model: nn.Module) -> bool:
    """Whether a network has batch normalisations."""
    return any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())


def is_trained(accuracy: float, classes: int) -> bool:
    """Whether an accuracy is so far above chance that the weights cannot be random."""
    return accuracy >= max(1 / classes + 0.15, min(2 / classes, 0.8))


def load_weights(model: nn.Module, path: Path) -> nn.Module:
    """Load safetensors into a network of the same shapes.

    Raises:
        ArtefactError: if the file is corrupt or belongs to another network.
    """
    from safetensors.torch import load_file

    try:
        model.load_state_dict(load_file(path))
    except Exception as error:
        text = " ".join(str(error).split())[:160]
        raise ArtefactError(
            f"{path} cannot be read: {text}", "delete it and run the same command again"
        ) from error
    return model


def save_weights(model: nn.Module, path: Path) -> None:
    """Write a network's parameters and buffers as safetensors, atomically."""
    state = {k: v.detach().cpu().contiguous().clone() for k, v in model.state_dict().items()}
    _files.write_safetensors(path, state)


def prepare(
    folder: Folder,
    model: nn.Module,
    splits: Splits,
    recipe: Recipe,
    *,
    given: bool,
    device: str = "auto",
    progress: Callable[[Progress], None] | None = None,
    note: Callable[[str], None] | None = None,
) -> Baseline:
    """Make the dense network, or take it from the folder where an earlier run made it.

    Args:
        folder: The study's folder; the network is kept in its cache, a training under way in a checkpoint.
        model: The network as it was loaded.
        splits: The data.
        recipe: How to train it, if it must be trained.
        given: Whether its weights were given; if not, it is trained unless it answers clearly better than
            chance.
        device: Where to train.
        progress: Told how far the training is.
        note: Told what is being done.

    Raises:
        TrainingError: if the training fails.
    """
    say = note or (lambda _: None)
    weights, facts = folder.cache("dense") / "model.safetensors", folder.cache("dense") / "baseline.json"
    if weights.exists() and facts.exists():
        known = _read(facts)
        return Baseline(load_weights(model, weights), known["trained"], known["seconds"], known["accuracy"])
    accuracy = train.evaluate(model, splits.val, device=device).accuracy if splits.labelled else None
    trained, seconds = False, 0.0
    if accuracy is not None and not given and not is_trained(accuracy, splits.num_classes):
        say(f"training the dense network: {recipe.epochs} epochs of {len(splits.train)} examples")
        checkpoint = folder.cache("dense") / "training.pt"
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        fitted = train.fit(model, splits, recipe, device=device, checkpoint=checkpoint, progress=progress)
        model, trained, seconds = fitted.model.cpu().eval(), True, fitted.seconds
        accuracy = train.evaluate(model, splits.val, device=device).accuracy
    save_weights(model, weights)
    _files.write_json(facts, {"trained": trained, "seconds": seconds, "accuracy": accuracy})
    (folder.cache("dense") / "training.pt").unlink(missing_ok=True)
    return Baseline(model, trained, seconds, accuracy)


def _read(path: Path) -> dict[str, Any]:
    import json

    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        return {k: value[k] for k in ("trained", "seconds", "accuracy")}
    except (ValueError, KeyError, TypeError) as error:
        raise ArtefactError(f"{path} is corrupt", "delete it and run the same command again") from error
