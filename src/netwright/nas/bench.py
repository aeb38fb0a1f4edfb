"""Spaces of which every network was trained, several times: what a predictor of accuracy is judged by."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from netwright._files import write_text
from netwright.errors import DataError, UsageError
from netwright.nas.choice import Choice
from netwright.nas.ranking import RankingReport, noise_ceiling, ranking_report
from netwright.nas.space import SearchSpace


@dataclass(frozen=True)
class BenchEntry:
    """What is known of one network.

    Attributes:
        choice: Which one.
        macs: Multiply-accumulates for one example.
        params: Parameters.
        accuracies: Test accuracy of each training, in 0..1.
    """

    choice: Choice
    macs: int
    params: int
    accuracies: tuple[float, ...]

    @property
    def accuracy(self) -> float:
        """The mean over the trainings."""
        return float(np.mean(self.accuracies))


@dataclass(frozen=True)
class TabularBench:
    """The measured test accuracy of the networks of a space, each trained with the same seeds.

    Attributes:
        name: Of the table.
        space: The choices; all of them are in a whole table.
        seeds: Of the trainings, in the order of the accuracies.
        entries: One a network.
        settings: How the networks were trained: plain values.
        made: Where and with what they were trained: plain values.

    Raises:
        DataError: if a choice comes twice or is none of the space, or has another number of accuracies.
    """

    name: str
    space: SearchSpace
    seeds: tuple[int, ...]
    entries: tuple[BenchEntry, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    made: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for entry in self.entries:
            if len(entry.accuracies) != len(self.seeds):
                raise DataError(
                    f"{self.name}: {dict(entry.choice)} has {len(entry.accuracies)} accuracies for "
                    f"{len(self.seeds)} seeds"
                )
        if len(self._of) < len(self.entries):
            raise DataError(f"{self.name}: a choice comes twice", "keep one entry of each")

    @cached_property
    def _of(self) -> dict[Choice, int]:
        try:
            return {self.space.canonical(e.choice): i for i, e in enumerate(self.entries)}
        except UsageError as error:
            raise DataError(f"{self.name}: an entry is none of the space: {error.message}") from error

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, choice: Mapping[str, Any]) -> BenchEntry:
        """What is known of a choice.

        Raises:
            UsageError: if it is none of the space, or not in the table.
        """
        return self.entries[self.number(choice)]

    def number(self, choice: Mapping[str, Any]) -> int:
        """Position of a choice in `entries`.

        Args:
            choice: A choice of the space.

        Raises:
            UsageError: if it is none of the space, or not in the table.
        """
        canonical = self.space.canonical(choice)
        if canonical not in self._of:
            raise UsageError(f"{self.name} has no {dict(canonical)}", "the table is not whole")
        return self._of[canonical]

    @property
    def choices(self) -> list[Choice]:
        """The choice of every entry."""
        return [entry.choice for entry in self.entries]

    @cached_property
    def table(self) -> np.ndarray:
        """(networks, seeds) test accuracies."""
        return np.array([entry.accuracies for entry in self.entries], dtype=np.float64)

    @property
    def truth(self) -> np.ndarray:
        """(networks,) mean test accuracies."""
        means: np.ndarray = self.table.mean(axis=1)
        return means

    @property
    def macs(self) -> np.ndarray:
        """(networks,) multiply-accumulates."""
        return np.array([entry.macs for entry in self.entries], dtype=np.float64)

    @property
    def whole(self) -> bool:
        """Whether every choice of the space is there."""
        return len(self.entries) == self.space.size()

    @cached_property
    def ceiling(self) -> float:
        """Kendall's tau between halves of the seeds: see `ranking.noise_ceiling`."""
        return noise_ceiling(self.table)

    @property
    def noise(self) -> float:
        """Standard deviation of one training, pooled over the networks."""
        return float(np.sqrt(self.table.var(axis=1, ddof=1).mean()))

    def regret(self, choice: Mapping[str, Any]) -> float:
        """How much a network's mean accuracy falls short of the best one's.

        Args:
            choice: A choice of the space.
        """
        return float(self.truth.max() - self[choice].accuracy)

    def report(self, score: Callable[[Choice], float] | Sequence[float], **options: Any) -> RankingReport:
        """How well scores rank the networks, beside the noise ceiling and the costs alone.

        Args:
            score: Of a choice, greater is better; or one of each entry.
            options: Of `ranking.ranking_report`.
        """
        scores = [score(c) for c in self.choices] if callable(score) else list(score)
        return ranking_report(scores, self.table, self.macs, **options)

    def restricted(self, choices: Iterable[Mapping[str, Any]]) -> TabularBench:
        """The table of some of the networks.

        Args:
            choices: Which.
        """
        kept = tuple(self[choice] for choice in choices)
        return dataclasses.replace(self, entries=kept)

    def to_json(self) -> str:
        """As JSON text, one network a line."""
        names = [dim.name for dim in self.space.free]
        rows = [
            json.dumps([[e.choice[n] for n in names], e.macs, e.params, [round(a, 6) for a in e.accuracies]])
            for e in self.entries
        ]
        head = {
            "name": self.name,
            "space": json.loads(self.space.to_json()),
            "settings": dict(self.settings),
            "made": dict(self.made),
            "seeds": list(self.seeds),
            "columns": ["choice", "macs", "params", "accuracies"],
        }
        lines = [f" {json.dumps(key)}: {json.dumps(value)}," for key, value in head.items()]
        return "\n".join(["{", *lines, ' "entries": [', ",\n".join(rows), "]}"]) + "\n"

    @classmethod
    def from_json(cls, text: str) -> TabularBench:
        """The table of a text of `to_json`.

        Raises:
            DataError: if the text is none.
        """
        try:
            data = json.loads(text)
            space = SearchSpace.from_json(json.dumps(data["space"]))
            names = [dim.name for dim in space.free]
            entries = tuple(
                BenchEntry(
                    space.canonical(dict(zip(names, _lists_as_tuples(values), strict=True))),
                    int(macs),
                    int(params),
                    tuple(map(float, accuracies)),
                )
                for values, macs, params, accuracies in data["entries"]
            )
            seeds = tuple(map(int, data["seeds"]))
            return cls(data["name"], space, seeds, entries, data.get("settings", {}), data.get("made", {}))
        except (json.JSONDecodeError, KeyError, TypeError, ValueError, UsageError) as error:
            raise DataError(
                f"this is no table of a bench: {error}", "see nas.bench for the format"
            ) from error

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Write the table to a file.

        Args:
            path: Where.
        """
        return write_text(path, self.to_json())

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> TabularBench:
        """Read the table of a file, one's own as well.

        Args:
            path: Where.

        Raises:
            DataError: if there is none.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}") from error
        return cls.from_json(text)

    @classmethod
    def load(cls, name: str) -> TabularBench:
        """A table that comes with Netwright.

        Args:
            name: One of `benches`.

        Raises:
            UsageError: if there is none of that name.
        """
        if name not in benches():
            raise UsageError(f"there is no table {name!r}", f"there are {', '.join(benches())}")
        return cls.from_json((_folder() / f"{name}.json").read_text(encoding="utf-8"))


def _lists_as_tuples(values: Sequence[Any]) -> list[Any]:
    return [tuple(v) if isinstance(v, list) else v for v in values]


def _folder() -> Any:
    return resources.files("netwright.nas") / "tables"


def benches() -> list[str]:
    """Names of the tables that come with Netwright."""
    if not _folder().is_dir():
        return []
    return sorted(f.name.removesuffix(".json") for f in _folder().iterdir() if f.name.endswith(".json"))
