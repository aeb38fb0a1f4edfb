"""Weights from files: checked against the model, and never a pickle unless it is trusted."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from netwright.errors import ArtefactError, ModelError

_NESTED = ("state_dict", "model", "model_state", "model_state_dict", "net", "weights")


def read_weights(path: Path, *, trust: bool = False) -> dict[str, Tensor]:
    """Read named tensors from a .safetensors file, or from a PyTorch file without running its pickle.

    Args:
        path: The file.
        trust: Whether a pickle may be run, which can do anything that the user can.

    Raises:
        ArtefactError: if the file is missing, damaged, or a pickle that is not trusted.
    """
    if not path.is_file():
        raise ArtefactError(f"there is no weights file {path}", "check the path given to --weights")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    with path.open("rb") as file:
        start = file.read(8)
    # PyTorch writes zip files, and wrote pickles that begin with its magic number before that.
    if not start.startswith((b"PK", b"\x80")):
        raise ArtefactError(f"{path} is not a weights file", "needed is .safetensors, .pt or .pth")
    if start.startswith(b"PK") and not zipfile.is_zipfile(path):
        raise ArtefactError(f"{path} is cut off or damaged", "copy or save it again")
    try:
        with warnings.catch_warnings():
            # Of the pickle's protocol, before it is refused.
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=not trust)
    except pickle.UnpicklingError as error:
        if trust:
            return _named(path, _unpickle(path))
        raise ArtefactError(
            f"{path} holds a pickle{_culprit(error)}, which can run code; refused unless --trust",
            "save the state dict, best as .safetensors",
        ) from error
    except Exception as error:
        if trust and start.startswith(b"\x80"):
            return _named(path, _unpickle(path))
        raise ArtefactError(
            f"{path} is cut off or damaged: {_line(error)}", "copy or save it again"
        ) from error
    return _named(path, content)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise ArtefactError(
            f"{path} is cut off or damaged: {_line(error)}", "copy or save it again"
        ) from error


def _unpickle(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            return pickle.load(file)
    except Exception as error:
        raise ArtefactError(f"{path} cannot be unpickled: {_line(error)}") from error


def _culprit(error: Exception) -> str:
    found = re.search(r"GLOBAL (\S+)", str(error))
    return f" of {found[1]}" if found else ""


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]


def _named(path: Path, content: Any) -> dict[str, Tensor]:
    """Return the named tensors of what a file held, wherever training scripts put them."""
    if isinstance(content, nn.Module):
        content = content.state_dict()
    for key in _NESTED:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    tensors = (
        {k: v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, Mapping) else {}
    )
    if not tensors:
        raise ArtefactError(f"{path} holds no named tensors", "save model.state_dict()")
    if all(k.startswith("module.") for k in tensors):
        tensors = {k.removeprefix("module."): v for k, v in tensors.items()}
    return tensors


def put_weights(
    model: nn.Module, tensors: Mapping[str, Tensor], *, where: str, name: str, fresh_head: bool = False
) -> tuple[str, ...]:
    """Put named tensors into a model, changing it.

    The first convolution is adapted where it takes another number of channels: summed for grey images.

    Args:
        model: Changed in place.
        tensors: Must have the model's names and shapes.
        where: The file, for messages.
        name: The model, for messages.
        fresh_head: Whether a classifier of another number of classes is left as it was made.

    Returns:
        What was done besides, one line each.

    Raises:
        ModelError: if names or shapes do not fit.
    """
    own, notes, given = model.state_dict(), [], dict(tensors)
    # Batches counted while training decide nothing here, and many files lack them.
    for key in own:
        if key.endswith("num_batches_tracked"):
            given.setdefault(key, own[key])
    stem = _first_convolution(model)
    if stem in given and given[stem].dim() == own[stem].dim() and given[stem].shape != own[stem].shape:
        before, after = given[stem].shape[1], own[stem].shape[1]
        if given[stem].shape[0] == own[stem].shape[0] and given[stem].shape[2:] == own[stem].shape[2:]:
            given[stem] = adapt_channels(given[stem], after)
            notes.append(f"the first convolution was adapted from {before} to {after} channels")
    head = last_layer(model)
    if fresh_head and head and f"{head}.weight" in given:
        weight = given[f"{head}.weight"]
        if weight.shape[1:] == own[f"{head}.weight"].shape[1:] and len(weight) != len(own[f"{head}.weight"]):
            for key in (f"{head}.weight", f"{head}.bias"):
                if key in own:
                    given[key] = own[key]
            notes.append(f"the classifier ({head}) is new: the file has {len(weight)} classes")
    missing = [k for k in own if k not in given]
    unexpected = [k for k in given if k not in own]
    other = [k for k in own if k in given and own[k].shape != given[k].shape]
    if missing or unexpected or other:
        parts = [_some(missing, "missing"), _some(unexpected, "unexpected")]
        if other:
            first = other[0]
            shapes = (
                f"{first}: {tuple(given[first].shape)} in the file, {tuple(own[first].shape)} in the model"
            )
            parts.append(f"{len(other)} of another shape ({shapes})")
        raise ModelError(
            f"the weights in {where} do not fit {name}: {', '.join(p for p in parts if p)}",
            "give the weights of this architecture with as many classes",
        )
    model.load_state_dict(given)
    return tuple(notes)


def _some(names: list[str], what: str) -> str:
    if not names:
        return ""
    more = ", …" if len(names) > 2 else ""
    return f"{len(names)} {what} ({', '.join(names[:2])}{more})"


def adapt_channels(weight: Tensor, channels: int) -> Tensor:
    """Return a convolution's weight for another number of input channels.

    Args:
        weight: (out, in, ...).
        channels: New number; one is the sum over the old ones, more repeat them, scaled to the same total.
    """
    before = weight.shape[1]
    if channels == 1:
        return weight.sum(dim=1, keepdim=True)
    repeated = weight.repeat(1, -(-channels // before), *[1] * (weight.dim() - 2))
    return repeated[:, :channels] * (before / channels)


def _first_convolution(model: nn.Module) -> str:
    """Return the name of the weight of the first convolution; empty if there is none."""
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return next(
        (f"{n}.weight" for n, m in model.named_modules() if isinstance(m, kinds) and m.groups == 1), ""
    )


def last_layer(model: nn.Module) -> str:
    """Return the name of the last linear layer, which is the classifier of nearly every network."""
    return next((n for n, m in reversed(list(model.named_modules())) if isinstance(m, nn.Linear)), "")
