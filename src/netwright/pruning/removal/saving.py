"""A pruned network in a folder: weights as safetensors, and the surgery that makes the architecture fit."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from netwright import _files, structure
from netwright.errors import ArtefactError, ModelError, StructureError, UsageError, from_os_error
from netwright.models.blocks import without
from netwright.pruning.masks.mask_state import MaskState
from netwright.pruning.masks.masked import bare
from netwright.pruning.masks.packing import pack, unpack
from netwright.pruning.removal.result import Pruned
from netwright.pruning.schedules.sparse_result import Sparse
from netwright.structure import thinning
from netwright.structure.onnx import OnnxNetwork

_FORMAT = "netwright-pruned"
_VERSION = 1
_WEIGHTS, _RECIPE = "model.safetensors", "kept.json"
_NO_SURGERY: Mapping[str, Any] = {"how": "in place", "notes": [], "adopted": [], "attributes": {}, "kept": {}}


def save_pruned(pruned: Pruned | Sparse | nn.Module, folder: str | Path) -> Path:
    """Write a pruned network: ``model.safetensors`` and ``kept.json``, each complete or not at all.

    Masks take one bit a weight, and of what lies under hard masks only the rest is written.

    Args:
        pruned: What `prune` or `sparsify` gave, perhaps with a model that was trained further; or a network
            with masks.
        folder: Where to; it is made if it does not exist.

    Returns:
        The folder.

    Raises:
        ArtefactError: if the files cannot be written, or the network is a graph and its example cannot be
            written down.
        UsageError: if the network is an ONNX graph, which is a file of its own, or nothing says what was done
            to it.
    """
    model = pruned.model if isinstance(pruned, (Pruned, Sparse)) else pruned
    if isinstance(model, OnnxNetwork):
        raise UsageError(
            "an ONNX graph has no architecture to be replayed on", 'write it with .model.save("small.onnx")'
        )
    if not isinstance(pruned, Pruned) and (not isinstance(model, nn.Module) or MaskState.of(model) is None):
        raise UsageError(
            f"a {type(pruned).__name__} does not say what was done to it",
            "give what netwright.prune or netwright.sparsify returned, or a network with masks",
        )
    folder = Path(folder)
    state, masks = pack(model)
    unique, aliases = distinct(state)
    recipe: dict[str, Any] = {
        "format": _FORMAT,
        "version": _VERSION,
        "netwright": metadata.version("netwright"),
        "torch": torch.__version__,
        "model": type(model).__name__,
        "aliases": aliases,
        **(_surgery(pruned) if isinstance(pruned, Pruned) else _NO_SURGERY),
    }
    if masks is not None:
        recipe["masks"] = masks
    if isinstance(pruned, Sparse):
        recipe["notes"] = list(pruned.notes)
    if isinstance(pruned, Pruned):
        recipe.update(_remade(pruned, [*unique, *aliases]))
    _files.write_safetensors(folder / _WEIGHTS, unique)
    _files.write_text(folder / _RECIPE, json.dumps(recipe) + "\n")
    return folder


def load(folder: str | Path, model: nn.Module) -> nn.Module:
    """Read a pruned network: repeat its surgery on the dense architecture and put its weights in.

    Args:
        folder: What `save_pruned` wrote; or a recipe ``NAME.json`` beside its ``NAME.safetensors``.
        model: The dense architecture, with any weights and masks; it is not touched.

    Returns:
        A new module, in the mode (train or eval) of the given one; with masks where the saved one had some.

    Raises:
        ArtefactError: if the files are missing, corrupt, of another format, or do not fit the architecture.
    """
    if not isinstance(model, nn.Module):
        raise UsageError(f"model is a {type(model).__name__}", "give the dense architecture, an nn.Module")
    folder, model = Path(folder), bare(model)
    single = folder.suffix == ".json"
    file = folder if single else folder / _RECIPE
    recipe = _read_recipe(file)
    weights = _read_weights(file.with_suffix(".safetensors") if single else folder / _WEIGHTS)
    try:
        model = without(model, _names(recipe["dropped"])) if recipe.get("dropped") else model
        kept, attributes, adopted = _parse(recipe, model)
        if recipe.get("how") == "graph":
            small = _graph(model, kept, recipe)
        else:
            small = structure.replay(model, kept, attributes, adopted, _scales(recipe))
        if recipe.get("skipped"):
            small = _skipping(small, recipe)
        _thin(small, model, recipe)
    except (StructureError, ModelError) as error:
        raise ArtefactError(
            f"{folder} does not fit {type(model).__name__}: {error.message}", error.hint
        ) from error
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
        raise ArtefactError(
            f"{file} is corrupt or does not fit {type(model).__name__} ({error!r})",
            "write it again with save_pruned",
        ) from error
    try:
        masks = unpack(weights, recipe.get("masks"), small)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArtefactError(
            f"the masks in {folder} are corrupt or do not fit {type(model).__name__} ({error!r})",
            "write it again with save_pruned",
        ) from error
    for alias, name in recipe.get("aliases", {}).items():
        if name in weights:
            weights[alias] = weights[name]
    _check(small, weights, folder)
    state = small.state_dict()  # it also says which version of each module's layout the names follow
    for name in state:
        state[name] = weights[name]
    small.load_state_dict(state)
    if masks is not None:
        MaskState(small, masks.masks, soft=masks.soft)
    return small


def _remade(pruned: Pruned, saved: Sequence[str]) -> dict[str, Any]:
    """What is in no state dict and is made again from the architecture."""
    told: dict[str, Any] = {}
    lost = {n: dims for n, dims in pruned.scales.items() if n not in saved}
    if lost:
        told["scales"] = {
            n: {str(d): s[pruned.kept[n][d]].tolist() if d in pruned.kept.get(n, {}) else s.tolist()}
            for n, dims in lost.items()
            for d, s in dims.items()
        }
    if (
        pruned.how == "graph" or pruned.skipped or pruned.left_out
    ):  # found again in the architecture, which needs an example
        told["example"] = structure.describe_example(pruned.net.inputs)
        told["heads"] = pruned.net.heads
        told["leading"] = pruned.net.leading
    return told


def _surgery(pruned: Pruned) -> dict[str, Any]:
    """What makes the architecture fit."""
    return {
        "how": pruned.how,
        "macs": [pruned.before.macs, pruned.after.macs],
        "params": [pruned.before.params, pruned.after.params],
        "notes": list(pruned.notes),
        "adopted": list(pruned.adopted),
        "dropped": list(pruned.dropped),
        "skipped": list(pruned.skipped),
        "kernels": dict(pruned.kernels),
        "left_out": list(pruned.left_out),
        "parts": dict(pruned.parts),
        "attributes": {m: dict(values) for m, values in pruned.attributes.items()},
        "kept": {n: {str(d): i.tolist() for d, i in dims.items()} for n, dims in pruned.kept.items()},
    }


def _skipping(model: nn.Module, recipe: Mapping[str, Any]) -> nn.Module:
    """Take residual blocks out again.

    Raises:
        StructureError: if the network does not run without them.
    """
    net = structure.trace(model, structure.remake_example(recipe["example"]), heads=recipe["heads"])
    return structure.drop(model, net, _names(recipe["skipped"])).model


def _thin(small: nn.Module, model: nn.Module, recipe: Mapping[str, Any]) -> None:
    """Take out what a sub-network of a supernet lacks besides channels, in place.

    Raises:
        StructureError: if the architecture has no such convolutions, blocks or parts.
    """
    kernels, parts = recipe.get("kernels") or {}, recipe.get("parts") or {}
    thinning.crop_(small, {str(path): int(size) for path, size in kernels.items()})
    if recipe.get("left_out"):
        net = structure.trace(model, structure.remake_example(recipe["example"]), heads=recipe["heads"])
        names = _names(recipe["left_out"])
        holding = {name.rpartition(".")[0] for name in names}  # post-normalised blocks must be asked for
        thinning.leave_out_(small, structure.stages(model, net, holding), names)
    thinning.take_(small, {str(path): str(part) for path, part in parts.items()})


def _graph(
    model: nn.Module, kept: Mapping[str, Mapping[int, Tensor]], recipe: Mapping[str, Any]
) -> nn.Module:
    """Do a surgery on the graph again.

    Raises:
        StructureError: if the architecture has other parameters, or its parameters lie on other axes.
    """
    example, leading = structure.remake_example(recipe["example"]), bool(recipe.get("leading"))
    net = structure.trace(model, example, heads=recipe["heads"], leading=leading)
    keep = structure.mask_of(net, kept)
    return (
        structure.shrink(model, net, keep, how="graph").model
        if not bool(keep.all())
        else copy.deepcopy(model)
    )


def distinct(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors without those that share memory with an earlier one, and the names of these.

    Args:
        state: Name -> tensor.

    Returns:
        Copies on the CPU, and name -> the earlier one's name.
    """
    first: dict[tuple[Any, ...], str] = {}
    unique, aliases = {}, {}
    for name, tensor in state.items():
        key = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
        if tensor.numel() and key in first:
            aliases[name] = first[key]
            continue
        first[key] = name
        unique[name] = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
    return unique, aliases


def _read_recipe(path: Path) -> dict[str, Any]:
    try:
        recipe = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ArtefactError(f"there is no {path}", "give the folder that save_pruned wrote") from error
    except OSError as error:
        raise from_os_error(error, f"reading {path}") from error
    except ValueError as error:
        raise ArtefactError(f"{path} is not JSON", "write it again with save_pruned") from error
    if not isinstance(recipe, dict) or recipe.get("format") != _FORMAT:
        raise ArtefactError(f"{path} is not a pruned network of Netwright")
    if recipe.get("version") != _VERSION:
        raise ArtefactError(
            f"{path} has version {recipe.get('version')!r}, version {_VERSION} is understood",
            "update Netwright",
        )
    return recipe


def _read_weights(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise ArtefactError(f"there is no {path}", "give the folder that save_pruned wrote") from error
    except OSError as error:
        raise from_os_error(error, f"reading {path}") from error
    except SafetensorError as error:
        raise ArtefactError(f"{path} is corrupt ({error})", "write it again with save_pruned") from error


def _parse(
    recipe: Mapping[str, Any], model: nn.Module
) -> tuple[dict[str, dict[int, Tensor]], dict[str, dict[str, Any]], list[str]]:
    """The surgery in the terms of `netwright.structure.replay`."""
    kept = {
        str(name): {int(dim): _indices(index) for dim, index in dims.items()}
        for name, dims in recipe["kept"].items()
    }
    modules = dict(model.named_modules())
    attributes = {
        str(path): {str(k): _typed(v, modules.get(path), k) for k, v in values.items()}
        for path, values in recipe["attributes"].items()
    }
    return kept, attributes, [str(name) for name in recipe["adopted"]]


def _names(value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ValueError("branches must be a list of names")
    return value


def _scales(recipe: Mapping[str, Any]) -> dict[str, dict[int, Tensor]]:
    """Factors of buffers that no state dict holds."""
    return {
        str(name): {int(dim): torch.tensor(values, dtype=torch.float64) for dim, values in dims.items()}
        for name, dims in recipe.get("scales", {}).items()
    }


def _indices(value: Any) -> Tensor:
    index = torch.tensor(value)
    if index.dtype != torch.int64 or index.dim() not in (1, 2) or index.numel() == 0 or int(index.min()) < 0:
        raise ValueError("what was kept must be lists of indices")
    return index


def _typed(value: Any, module: nn.Module | None, name: str) -> Any:
    """A value as its attribute holds it: JSON knows no tuples. Only numbers are taken."""
    flat = value if isinstance(value, list) else [value]
    if not all(isinstance(v, (int, float)) for v in flat):
        raise ValueError(f"attribute {name} must be a number or a list of numbers")
    if module is not None and not hasattr(module, name):
        raise AttributeError(f"{type(module).__name__} has no attribute {name}")
    return (
        tuple(value) if isinstance(value, list) and isinstance(getattr(module, name, None), tuple) else value
    )


def _check(small: nn.Module, weights: Mapping[str, Tensor], folder: Path) -> None:
    """Refuse weights that do not fit, naming the first that does not."""
    own = small.state_dict()
    wrong = [n for n in own if n not in weights] + [n for n in weights if n not in own]
    if wrong:
        raise ArtefactError(
            f"{folder / _WEIGHTS} does not fit {type(small).__name__}: "
            f"{len(wrong)} names differ, first {wrong[0]}",
            "give the architecture that was pruned",
        )
    for name, tensor in own.items():
        if tensor.shape != weights[name].shape:
            raise ArtefactError(
                f"{folder / _WEIGHTS} does not fit {type(small).__name__}: {name} has shape "
                f"{tuple(weights[name].shape)}, {tuple(tensor.shape)} is needed",
                "give the architecture that was pruned",
            )
