"""Checkpoints: tensors and plain Python in one file, written atomically, read without unpickling code."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import torch
from torch import nn

from netwright._files import atomic
from netwright.errors import ArtefactError, TrainingError, from_os_error
from netwright.train.recipe import Recipe

FORMAT = "netwright-training-1"


def fingerprint(model: nn.Module, recipe: Recipe, data: str) -> str:
    """Return a digest of what a checkpoint must agree on: recipe, names and shapes of the state, and data."""
    digest = hashlib.sha256(recipe.to_json().encode())
    for name, tensor in model.state_dict().items():
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
    digest.update(data.encode())
    return digest.hexdigest()


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a state (tensors, numbers, strings, lists, dicts) atomically.

    Raises:
        ArtefactError: if the file cannot be written.
    """
    # Through memory: the zip writer of torch hides the system's error when the disk is full.
    content = io.BytesIO()
    torch.save({"format": FORMAT, **state}, content)
    with atomic(path) as temporary:
        temporary.write_bytes(content.getbuffer())


def load(path: Path, expected: str) -> dict[str, Any]:
    """Read a state and check that it belongs to this training.

    Args:
        path: The file.
        expected: `fingerprint` of the training that is to go on.

    Raises:
        ArtefactError: if the file cannot be read as a checkpoint.
        TrainingError: if it belongs to another training.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise from_os_error(error, f"reading checkpoint {path}") from error
    except Exception as error:
        raise ArtefactError(
            f"checkpoint {path} is damaged or no checkpoint", "delete it to train from the beginning"
        ) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ArtefactError(f"{path} is not a checkpoint of netwright", "delete it or choose another file")
    if state["fingerprint"] != expected:
        raise TrainingError(
            f"checkpoint {path} belongs to another training (model, data or recipe differ)",
            "use the same settings, or delete it to train from the beginning",
        )
    return state
