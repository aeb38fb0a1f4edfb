"""A supernet in a folder: weights as safetensors, and JSON that says what can be chosen of which network.

Beside the weights of the full network lie the batch-norm statistics that were measured for single choices.
Nothing is unpickled; the architecture is built again from its name, or handed over.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from netwright import _files, models, structure
from netwright.data import is_callable_spec
from netwright.errors import ArtefactError, NetwrightError, UsageError, from_os_error
from netwright.nas.choice import Choice
from netwright.pruning import Pruned
from netwright.pruning.removal.saving import distinct
from netwright.structure.attention import ShapedAttention
from netwright.supernets.network.blueprint import RESOLUTION
from netwright.supernets.network.cutting import cut_out
from netwright.supernets.network.elastic import Elastic
from netwright.supernets.network.making import elastic

_FORMAT, _VERSION = "netwright-supernet", 1
WEIGHTS, STATISTICS, DESCRIPTION = "supernet.safetensors", "statistics.safetensors", "supernet.json"
_AGAIN = "write it again with supernets.save"


def save(
    sup: Elastic,
    folder: str | Path,
    *,
    source: Mapping[str, Any] | None = None,
    history: Sequence[Mapping[str, Any]] = (),
    notes: Mapping[str, Any] | None = None,
) -> Path:
    """Write a supernet: ``supernet.safetensors``, ``supernet.json`` and, where choices were calibrated,
    ``statistics.safetensors``; the description last, so that a folder with one is complete.

    Args:
        sup: The supernet.
        folder: Where to; it is made if it does not exist.
        source: What builds the architecture: "model" (a name, or ``file.py:callable``) and, where the
            architecture is fitted to data, "num_classes", "in_channels", "image_size". None for an object.
        history: Of its training, one record an epoch.
        notes: Whatever else a reader should know, such as the recipe, as plain values.

    Returns:
        The folder.

    Raises:
        UsageError: if the supernet has more than one set of weights.
        ArtefactError: if the files cannot be written, or the example cannot be written down.
    """
    if type(sup) is not Elastic:
        raise UsageError(f"a {type(sup).__name__} holds several networks", "write each of them by itself")
    folder, blueprint = Path(folder), sup.blueprint
    weights, aliases = distinct(sup.state_dict())
    measured = list(sup.statistics)
    document = {
        "format": _FORMAT,
        "version": _VERSION,
        "netwright": metadata.version("netwright"),
        "torch": torch.__version__,
        "network": type(sup.network).__name__,
        "source": dict(source or {"model": None}),
        "example": structure.describe_example(blueprint.structure.inputs),
        "elastic": _plain(blueprint.arguments),
        "space": json.loads(sup.space.to_json()),
        "sub_networks": str(sup.space.size()),  # JSON readers lose large integers
        "aliases": aliases,
        "choices": [json.loads(choice.to_json()) for choice in measured],
        "history": [dict(record) for record in history],
        **(notes or {}),
    }
    _files.write_safetensors(folder / WEIGHTS, weights)
    if measured:
        table = {
            f"{i}/{name}": tensor.detach().cpu().contiguous().clone()
            for i, choice in enumerate(measured)
            for name, tensor in sup.statistics[choice].items()
        }
        _files.write_safetensors(folder / STATISTICS, table)
    _files.write_json(folder / DESCRIPTION, document)
    return folder


def is_saved(folder: Path) -> bool:
    """Whether a whole supernet lies in a folder: its description is what `save` writes last.

    Args:
        folder: The folder; it need not exist.
    """
    return (folder / DESCRIPTION).exists()


def load(folder: str | Path, model: nn.Module | None = None, *, trust: bool = False) -> Elastic:
    """Read a supernet.

    Args:
        folder: What `save` wrote.
        model: The architecture, with any weights; built from its name when None. It is not touched.
        trust: Whether the architecture may be built by a Python file that the folder names.

    Returns:
        The supernet in eval mode, set to its largest network.

    Raises:
        ArtefactError: if a file is missing, corrupt or of another format, or does not fit the architecture.
        UsageError: if the architecture must be given.
    """
    folder = Path(folder)
    document = describe(folder)
    network = _architecture(document["source"], folder, trust) if model is None else model
    try:
        example, arguments = structure.remake_example(document["example"]), dict(document["elastic"])
        sup = elastic(network, example, **arguments).eval()
    except (NetwrightError, TypeError, KeyError) as error:
        raise ArtefactError(
            f"{folder} does not fit {type(network).__name__}: {getattr(error, 'message', error)}",
            "give the architecture that it was made of",
        ) from error
    if json.loads(sup.space.to_json()) != document["space"]:
        raise ArtefactError(
            f"{folder} does not fit {type(network).__name__}: other things can be chosen of it",
            "give the architecture that it was made of, or use the version of Netwright that wrote it",
        )
    state = _tensors(folder / WEIGHTS)
    state |= {alias: state[name] for alias, name in document["aliases"].items() if name in state}
    try:
        sup.load_state_dict(state)
    except RuntimeError as error:
        text = " ".join(str(error).split())[:200]
        raise ArtefactError(f"{folder / WEIGHTS} does not fit {type(network).__name__}: {text}") from error
    _measured(sup, document["choices"], folder)
    return sup


def describe(folder: str | Path) -> dict[str, Any]:
    """What the description of a supernet says.

    Args:
        folder: What `save` wrote.

    Raises:
        ArtefactError: if there is none, or it is corrupt or of another format.
    """
    path = Path(folder) / DESCRIPTION
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ArtefactError(
            f"there is no {path}", "give the folder that `netwright elastic train` or supernets.save wrote"
        ) from error
    except OSError as error:
        raise from_os_error(error, f"reading {path}") from error
    except ValueError as error:
        raise ArtefactError(f"{path} is not JSON", _AGAIN) from error
    if not isinstance(document, dict) or document.get("format") != _FORMAT:
        raise ArtefactError(f"{path} is not a supernet of Netwright")
    if document.get("version") != _VERSION:
        raise ArtefactError(
            f"{path} has version {document.get('version')!r}, version {_VERSION} is understood",
            "update Netwright",
        )
    kinds = {
        "source": dict,
        "example": dict,
        "elastic": dict,
        "space": dict,
        "aliases": dict,
        "choices": list,
    }
    for name, kind in kinds.items():
        if not isinstance(document.get(name), kind):
            raise ArtefactError(f"{path} is corrupt: it says nothing of {name}", _AGAIN)
    return document


def as_pruned(sup: Elastic, choice: Mapping[str, Any] | None = None, notes: Sequence[str] = ()) -> Pruned:
    """Cut a sub-network out as `nw.prune` would give it, so that `nw.save` writes it and `nw.load` reads it.

    Args:
        sup: The supernet; it is not touched.
        choice: A choice; the present one when None.
        notes: What a reader should know besides.

    Returns:
        What stayed of the full network, its costs before and after, and the network itself.

    Raises:
        StructureError: if the network's code cannot take the sizes.
        UsageError: if its poolings were moved.
    """
    blueprint = sup.blueprint
    if blueprint.poolings is not None:
        raise UsageError(
            "a network with moved poolings cannot be made again from a file of its own",
            "keep the supernet and the choice, or export what sup.extract(choice) gives",
        )
    picked = sup.choice if choice is None else sup.complete(choice)
    shrunk, less = cut_out(sup, picked)
    told = list(shrunk.notes)
    if blueprint.resolutions:
        told.append(f"it takes images of {picked[RESOLUTION]} x {picked[RESOLUTION]}")
    if less.blocks:
        told.append(f"{len(less.blocks)} blocks are left out: {', '.join(less.blocks)}")
    if less.kernels:
        told.append(f"{len(less.kernels)} convolutions have smaller kernels")
    adopted = [path for path, m in sup.network.named_modules() if type(m) is ShapedAttention]
    return replace(
        Pruned.of(blueprint.structure, blueprint.keep(picked), shrunk),
        before=sup.cost(blueprint.full),
        after=sup.cost(picked),
        adopted=list(dict.fromkeys([*adopted, *shrunk.adopted])),
        notes=[*told, *notes],
        kernels=less.kernels,
        left_out=less.blocks,
        parts=less.parts,
    )


def _plain(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `nw.elastic` in JSON's terms."""

    def value(given: Any) -> Any:
        if isinstance(given, Mapping):
            return {str(k): value(v) for k, v in given.items()}
        if isinstance(given, (list, tuple, range, set, frozenset)):
            return [value(v) for v in given]
        return given

    return {name: value(given) for name, given in arguments.items()}


def _architecture(source: Mapping[str, Any], folder: Path, trust: bool) -> nn.Module:
    spec = source.get("model")
    if spec is None:
        raise UsageError(
            f"the network of {folder} was given as an object", "pass it: supernets.load(folder, model=...)"
        )
    if is_callable_spec(str(spec)) and not trust:
        raise UsageError(
            f"the network of {folder} is built by {spec}, which runs code",
            "trust it (--trust), or pass the network: supernets.load(folder, model=...)",
        )
    fields = ("num_classes", "in_channels", "image_size")
    with torch.random.fork_rng(devices=[]):
        return models.load(spec, **{n: source[n] for n in fields if source.get(n) is not None}).model.cpu()


def _tensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise ArtefactError(f"there is no {path}", _AGAIN) from error
    except OSError as error:
        raise from_os_error(error, f"reading {path}") from error
    except SafetensorError as error:
        raise ArtefactError(f"{path} is corrupt ({error})", _AGAIN) from error


def _measured(sup: Elastic, choices: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Give a supernet the statistics of single choices back."""
    if not choices:
        return
    known = [sup.complete(Choice(dict(choice))) for choice in choices]
    names = dict(sup.network.named_buffers(remove_duplicate=False))
    for key, tensor in _tensors(folder / STATISTICS).items():
        number, _, name = key.partition("/")
        if not number.isdigit() or int(number) >= len(known) or name not in names:
            raise ArtefactError(f"{folder / STATISTICS} is corrupt: {key} is no statistic", _AGAIN)
        sup.statistics.setdefault(known[int(number)], {})[name] = tensor
