"""A point of a space: which value every dim has."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np

from netwright.errors import UsageError


def plain(value: Any) -> Any:
    """A value as it is kept: numbers of NumPy as Python's, lists as tuples.

    Raises:
        UsageError: if the value is NaN, which equals nothing, or cannot be hashed.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, list | tuple):
        return tuple(plain(v) for v in value)
    if isinstance(value, float) and math.isnan(value):
        raise UsageError("NaN cannot be a value of a dim", "give a number")
    try:
        hash(value)
    except TypeError as error:
        raise UsageError(f"{value!r} cannot be a value of a dim: {error}", "name it by a string") from error
    return value


class Choice(Mapping[str, Any]):
    """An immutable mapping, name of a dim -> value; equal where the mappings are.

    A space makes canonical ones: a dim that is not active has its default there.

    Args:
        values: Name -> value.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = {name: plain(value) for name, value in values.items()}

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self._values == dict(other) if isinstance(other, Mapping) else NotImplemented

    def __repr__(self) -> str:
        return f"Choice({self._values!r})"

    @cached_property
    def _hash(self) -> int:
        return hash(frozenset(self._values.items()))

    @cached_property
    def key(self) -> str:
        """32 hexadecimal digits that depend on the names and values alone: the same in every process.

        Raises:
            UsageError: if a value has no form in JSON.
        """
        text = _dumps(dict(sorted(self._values.items())))
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def replace(self, **values: Any) -> Choice:
        """This choice with other values; the space's ``canonical`` tells what follows from them."""
        return Choice({**self._values, **values})

    def to_json(self) -> str:
        """As JSON text.

        Raises:
            UsageError: if a value has no form in JSON.
        """
        return _dumps(self._values)

    @classmethod
    def from_json(cls, text: str) -> Choice:
        """The choice of a text of `to_json`.

        Raises:
            UsageError: if the text is none.
        """
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise UsageError(f"this is no choice in JSON: {error}") from error
        if not isinstance(values, dict):
            raise UsageError(f"this is no choice in JSON: {text[:60]}", "give an object, name -> value")
        return cls(values)


def _dumps(values: Mapping[str, Any]) -> str:
    try:
        return json.dumps(values, allow_nan=True, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"a choice has no form in JSON: {error}", "use numbers, strings and tuples of them as values"
        ) from error
