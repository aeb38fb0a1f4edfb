"""Node embeddings: vectors with the names of their nodes."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from netwright._files import atomic
from netwright.errors import ArtefactError, UsageError


@dataclass(frozen=True)
class Embedding:
    """One vector a node.

    Attributes:
        vectors: The vectors, (n, dim) float32.
        ids: Names of the nodes in row order, or None where a node's name is its row.
    """

    vectors: NDArray[np.float32]
    ids: tuple[Hashable, ...] | None = None

    def __post_init__(self) -> None:
        if self.ids is not None and len(self.ids) != len(self.vectors):
            raise UsageError(
                f"{len(self.ids)} names for {len(self.vectors)} vectors", "give one name a vector"
            )

    def __len__(self) -> int:
        return len(self.vectors)

    def row(self, node: Hashable) -> int:
        """The row of a node.

        Raises:
            UsageError: if there is no such node.
        """
        try:
            row = int(node) if self.ids is None else self.ids.index(node)  # type: ignore[call-overload]
        except (TypeError, ValueError):
            row = -1
        if not 0 <= row < len(self.vectors):
            raise UsageError(f"the embedding has no node {node!r}", f"it has {len(self.vectors):,} nodes")
        return row

    def nearest(self, node: Hashable, k: int = 10) -> list[tuple[Hashable, float]]:
        """The k nodes most similar to a node by cosine, best first, without the node itself.

        Args:
            node: The node's name.
            k: How many neighbours to return.

        Returns:
            Pairs of a node's name and its cosine similarity.
        """
        row = self.row(node)
        lengths = np.linalg.norm(self.vectors, axis=1) * np.linalg.norm(self.vectors[row])
        cosine = np.divide(
            self.vectors @ self.vectors[row], lengths, out=np.zeros(len(self)), where=lengths > 0
        )
        cosine[row] = -np.inf
        k = min(k, len(self) - 1)
        best = np.argsort(-cosine, kind="stable")[:k]
        return [(int(i) if self.ids is None else self.ids[i], float(cosine[i])) for i in best]

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the vectors and names to an NPZ (plain arrays, no pickle) and return its path."""
        arrays: dict[str, NDArray] = {"vectors": self.vectors}
        if self.ids is not None:
            whole = all(isinstance(i, int) for i in self.ids)
            arrays["ids"] = np.asarray(self.ids, dtype=np.int64 if whole else str)
        with atomic(Path(path).with_suffix(".npz")) as temporary:
            np.savez(temporary, **arrays)  # type: ignore[arg-type]
        return Path(path).with_suffix(".npz")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Embedding:
        """Read what `save` wrote.

        Raises:
            ArtefactError: if the file is missing or is not an embedding.
        """
        try:
            with np.load(path, allow_pickle=False) as content:
                ids = tuple(content["ids"].tolist()) if "ids" in content.files else None
                return cls(np.asarray(content["vectors"], dtype=np.float32), ids)
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise ArtefactError(
                f"{path} is not a saved embedding ({error})", "write it with Embedding.save"
            ) from error
