"""What a user's callable may return as data: splits, pairs of tensors, PyTorch data sets, data loaders."""

from __future__ import annotations

import dataclasses
from collections.abc import Sized
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, default_collate

from netwright.data.callables import import_callable, one_line
from netwright.data.items import DatasetSource
from netwright.data.parts import Part, Splits
from netwright.data.raw import Raw, digest, from_arrays
from netwright.data.sources import UNLABELLED, ArraySource, Source
from netwright.errors import DataError, NetwrightError

_KEYS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
_FORMS = (
    "return Splits, or (train, test), (train, val, test) or a dict of (x, y), a torch Dataset or a DataLoader"
)


def read(spec: str) -> Raw | Splits:
    """Call ``file.py:callable`` and read what it returns; floats are left as they are, bytes are normalised.

    Raises:
        DataError: if the callable is missing, raises, or returns something else than data.
    """
    function = import_callable(spec)
    try:
        returned = function()
    except NetwrightError:
        raise
    except Exception as error:
        raise DataError(f"{spec} raised {one_line(error)}", "mend the function") from error
    if isinstance(returned, Splits):
        return returned
    name = spec.rpartition(":")[2]
    parts = _named(spec, returned)
    arrays = {part: _arrays(value) for part, value in parts.items()}
    if all(a is not None for a in arrays.values()):
        raw = from_arrays(name, arrays["train"], arrays.get("val"), arrays.get("test"))  # type: ignore[arg-type]
        if isinstance(raw.train, ArraySource) and raw.train.x.dtype == torch.uint8:
            return raw
        # Floats have been prepared by the user, who would augment them too.
        return dataclasses.replace(_plain(raw), as_is=True, augment="none")
    sources = {part: _source(spec, part, value) for part, value in parts.items()}
    classes = _class_names(parts["train"], list(sources.values()))
    content = digest(*(_content(s) for s in sources.values()))
    return Raw(
        name, sources["train"], classes, content, val=sources.get("val"), test=sources.get("test"), as_is=True
    )


def _plain(raw: Raw) -> Raw:
    def bare(source: Source | None) -> Any:
        return dataclasses.replace(source, augment="none") if isinstance(source, ArraySource) else source

    return dataclasses.replace(raw, train=bare(raw.train), val=bare(raw.val), test=bare(raw.test))


def _named(spec: str, returned: Any) -> dict[str, Any]:
    """Return the splits by name."""
    if isinstance(returned, dict):
        named = {
            part: next((returned[k] for k in keys if k in returned), None) for part, keys in _KEYS.items()
        }
        if named["train"] is not None:
            return {part: value for part, value in named.items() if value is not None}
        raise DataError(
            f"{spec} returned a dict without 'train'; it has {sorted(map(str, returned))}", _FORMS
        )
    if isinstance(returned, (tuple, list)):
        if len(returned) == 2 and all(isinstance(r, (torch.Tensor, np.ndarray)) for r in returned):
            return {"train": returned}
        if len(returned) in (2, 3):
            return dict(zip(("train", "test") if len(returned) == 2 else tuple(_KEYS), returned, strict=True))
        raise DataError(f"{spec} returned {len(returned)} things", _FORMS)
    if _is_data(returned):
        return {"train": returned}
    raise DataError(f"{spec} returned a {type(returned).__name__}, not data", _FORMS)


def _is_data(value: Any) -> bool:
    return isinstance(value, (Part, DataLoader, IterableDataset, torch.Tensor, np.ndarray)) or (
        hasattr(value, "__getitem__") and isinstance(value, Sized)
    )


def _arrays(value: Any) -> tuple[np.ndarray, np.ndarray | None] | None:
    """Return x and y where a split is in memory."""
    if isinstance(value, DataLoader) and _is_plain(value):
        value = value.dataset
    if type(value) is TensorDataset:
        value = value.tensors
    if isinstance(value, (torch.Tensor, np.ndarray)):
        value = (value, None)
    if not isinstance(value, (tuple, list)) or not 1 <= len(value) <= 2:
        return None
    x, y = value[0], value[1] if len(value) == 2 else None
    if not isinstance(x, (torch.Tensor, np.ndarray)) or np.ndim(x) < 2:
        return None
    return _numpy(x), None if y is None else _numpy(y)


def _numpy(value: Any) -> np.ndarray:
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)


def _is_plain(loader: DataLoader[Any]) -> bool:
    """Whether a loader only groups the items of its data set."""
    return loader.collate_fn is default_collate and not isinstance(loader.dataset, IterableDataset)


def _source(spec: str, part: str, value: Any) -> Source:
    if isinstance(value, Part):
        return DatasetSource(value, value.labels if value.labelled else None)
    pair = _arrays(value)
    if pair is not None:
        return _plain(from_arrays(f"the {part} split of {spec}", pair)).train
    if isinstance(value, (DataLoader, IterableDataset)) and not (
        isinstance(value, DataLoader) and _is_plain(value)
    ):
        return _collected(spec, part, value)
    dataset = value.dataset if isinstance(value, DataLoader) else value
    if not (hasattr(dataset, "__getitem__") and isinstance(dataset, Sized)):
        raise DataError(f"the {part} split of {spec} is a {type(value).__name__}, not data", _FORMS)
    if len(dataset) == 0:
        raise DataError(f"the {part} split of {spec} is empty", "return at least one example")
    return DatasetSource(dataset, _known_labels(dataset))


def _collected(spec: str, part: str, value: Any) -> Source:
    """Read a stream or a loader with a collation of its own into memory."""
    batched = isinstance(value, DataLoader) and value.batch_size is not None
    items = list(value)
    if not items:
        raise DataError(f"the {part} split of {spec} is empty", "return at least one example")
    if not all(isinstance(i, (tuple, list)) and len(i) == 2 for i in items):
        raise DataError(f"the {part} split of {spec} gives {type(items[0]).__name__}, not (x, y)", _FORMS)
    join = torch.cat if batched else torch.stack
    try:
        x = join([torch.as_tensor(i[0]) for i in items])
        y = join([torch.as_tensor(i[1]) for i in items])
        return ArraySource(x, y.long())
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"the {part} split of {spec} cannot be joined: {one_line(error)}") from error


def _known_labels(dataset: Any) -> torch.Tensor | None:
    """Return the labels that torchvision's data sets list, so that no image is decoded for them."""
    for name in ("targets", "labels"):
        found = getattr(dataset, name, None)
        # A transform of the labels makes the list say something else than the items.
        if found is not None and getattr(dataset, "target_transform", None) is None:
            try:
                labels = torch.as_tensor(found).long()
            except (TypeError, ValueError, RuntimeError):
                continue
            if labels.shape == (len(dataset),):
                return labels
    return None


def _class_names(train: Any, sources: list[Source]) -> tuple[str, ...]:
    if not all(s.labelled for s in sources):
        if any(s.labelled for s in sources):
            raise DataError("some splits have labels and some have none", "give labels for all or for none")
        return ()
    count = max(int(s.labels.max()) for s in sources) + 1
    dataset = train.dataset if isinstance(train, DataLoader) else train
    names = getattr(dataset, "classes", None)
    if names is not None and len(names) >= count:
        return tuple(str(n) for n in names)
    return tuple(str(i) for i in range(count))


def _content(source: Source) -> str:
    """Return a digest of the labels and of a few examples; reading all might take hours."""
    chosen = torch.linspace(0, len(source) - 1, min(4, len(source))).long()
    labels = source.labels.numpy() if source.labelled else np.array([UNLABELLED])
    return digest(str(len(source)), labels, source.get(chosen, None).numpy())
