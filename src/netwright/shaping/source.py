"""What is shaped, as a value from which every worker process can rebuild model and data."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from netwright import data as datasets
from netwright import models
from netwright.errors import DataError, ModelError, NetwrightError

if TYPE_CHECKING:
    from netwright.data import Splits


@dataclass(frozen=True)
class Source:
    """Model and data by name (or as objects, which other processes then get by pickling).

    Args:
        model: Whatever `netwright.models.load` takes.
        data: Whatever `netwright.data.load` takes.
        seed: Decides splits, training, selection and search.
        weights: Weights of the dense network, or None.
        pretrained: Whether to load the zoo's own weights.
        image_size: Side of the images, or None for the data's own.
        limit: Most training examples, or None.
        trust: Whether files that can run code may be opened.
        device: Where to train.
    """

    model: str | Path | nn.Module
    data: str | Path | Splits
    seed: int = 0
    weights: Path | None = None
    pretrained: bool = False
    image_size: int | None = None
    limit: int | None = None
    trust: bool = False
    device: str = "auto"

    def load(self) -> Loaded:
        """Load model and data, and run one on the other.

        Raises:
            DataError: if the data cannot be loaded, or one of the splits is empty.
            ModelError: if the model cannot be built, or does not run on the data.
        """
        splits = self._data(None)
        shape = splits.shape
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            form: dict[str, Any] = {
                "num_classes": splits.num_classes if splits.labelled else None,
                "in_channels": int(shape[0] if len(shape) == 3 else shape[-1]),
                "image_size": int(shape[-1]) if len(shape) == 3 else None,
            }
            loaded = models.load(
                self.model, pretrained=self.pretrained, weights=self.weights, trust=self.trust, **form
            )
        if loaded.pretrained and loaded.statistics is not None and not isinstance(self.data, datasets.Splits):
            splits = self._data(loaded.statistics)
        module = copy.deepcopy(loaded.model) if isinstance(self.model, nn.Module) else loaded.model
        module = module.cpu().eval()
        check_runs(module, splits.example(2), splits.num_classes if splits.labelled else None)
        given = loaded.pretrained or isinstance(self.model, nn.Module)
        how = {"model": None if isinstance(self.model, nn.Module) else _absolute(str(self.model)), **form}
        return Loaded(module, loaded.name, splits, given, loaded.notes, how)

    def _data(self, statistics: tuple[tuple[float, ...], tuple[float, ...]] | None) -> Splits:
        splits = datasets.load(
            self.data,
            seed=self.seed,
            limit=self.limit,
            image_size=self.image_size,
            statistics=statistics,
            trust=self.trust,
        )
        for name, part in (("training", splits.train), ("validation", splits.val), ("test", splits.test)):
            if len(part) == 0:
                raise DataError(f"{splits.name}: the {name} split is empty", "shaping needs all three splits")
        return splits


@dataclass(frozen=True)
class Loaded:
    """A model and data that fit together.

    Args:
        model: The dense network as it comes, on the CPU in eval mode.
        name: Its name.
        splits: The data.
        given: Whether its weights were given with it.
        notes: What was done to make it fit, one line each.
        how: What builds the architecture again: "model" (None for an object) and how it was fitted to the
            data.
    """

    model: nn.Module
    name: str
    splits: Splits
    given: bool
    notes: tuple[str, ...] = ()
    how: dict[str, Any] = field(default_factory=dict)

    def identity(self) -> dict[str, Any]:
        """What identifies them: names, shapes, and the weights if they were given."""
        return {
            "model": self.name,
            "state": state_hash(self.model) if self.given else shape_hash(self.model),
            "data": self.splits.name,
            "examples": self.splits.fingerprint,
        }


def _absolute(spec: str) -> str:
    """``file.py:callable`` with the whole path, so that it is found from anywhere."""
    file, colon, name = spec.rpartition(":")
    return f"{Path(file).resolve()}:{name}" if colon and file.endswith(".py") else spec


def check_runs(model: nn.Module, example: Tensor, classes: int | None) -> None:
    """Run a model once on an example.

    Args:
        model: In eval mode.
        example: (B, C, H, W).
        classes: Number of classes of the data, or None.

    Raises:
        ModelError: if it rejects the example or answers in another form than (B, classes).
    """
    try:
        with torch.no_grad():
            answer = model(example)
    except NetwrightError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())[:200]
        raise ModelError(
            f"the model rejects a batch of shape {tuple(example.shape)}: {text}",
            "check its number of input channels and the image size (--image-size)",
        ) from error
    if isinstance(answer, tuple | list) and answer and isinstance(answer[0], Tensor):
        answer = answer[0]
    if not isinstance(answer, Tensor) or answer.dim() != 2 or len(answer) != len(example):
        form = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
        raise ModelError(
            f"the model answers {form} to a batch of {len(example)}", "a classifier answers (batch, classes)"
        )
    if classes is not None and answer.shape[1] < classes:
        raise ModelError(f"the model answers {answer.shape[1]} classes, the data have {classes}")


def state_hash(model: nn.Module) -> str:
    """A short hash of a network's parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def shape_hash(model: nn.Module) -> str:
    """A short hash of the names and shapes of a network's parameters and buffers."""
    text = repr(sorted((k, tuple(v.shape)) for k, v in model.state_dict().items()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
