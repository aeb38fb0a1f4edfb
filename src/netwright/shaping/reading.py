"""Read a finished study's folder again: its networks, their figures, and the PyTorch modules."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from netwright import models, pruning
from netwright.errors import ArtefactError, UsageError
from netwright.shaping.baseline import load_weights
from netwright.shaping.candidate import Candidate, Outcome
from netwright.shaping.front import Front, Shaped
from netwright.structure import Budget


def read_front(folder: str | os.PathLike[str], model: nn.Module | None = None) -> Front:
    """Read the front that `shape` wrote.

    Args:
        folder: The study's folder (``--out``).
        model: The dense architecture, where it was given as an object and cannot be built by name.

    Returns:
        The front, without the trials that are not on it. ``front.model(name)`` rebuilds a PyTorch network.

    Raises:
        ArtefactError: if the folder holds no finished study.
    """
    path = Path(folder)
    try:
        document = json.loads((path / "front.json").read_text(encoding="utf-8"))
        rows = [*document["front"], *document["compared"]]
        networks = [_network(row, path) for row in rows]
        budget = Budget.parse(document["budget"])
    except FileNotFoundError as error:
        raise ArtefactError(
            f"{path} holds no finished study", "run `netwright shape` to the end first"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ArtefactError(
            f"{path / 'front.json'} is corrupt", "run the same `netwright shape` command again"
        ) from error
    networks.sort(key=lambda n: (n.outcome.cost, n.slot))

    def load(network: Shaped) -> nn.Module:
        dense = model if model is not None else architecture(document.get("source", {}))
        if network.candidate.dense:
            return load_weights(dense, network.weights).eval()
        return pruning.load(network.weights.with_suffix(".json"), model=dense).eval()

    return Front(networks, budget, [], document, path, load)


def architecture(source: dict[str, Any]) -> nn.Module:
    """The dense network of a study, with fresh weights.

    Args:
        source: How it was loaded: the fields that front.json holds under "source".

    Raises:
        UsageError: if it was an object.
    """
    if source.get("model") is None:
        raise UsageError(
            "the study's model was given as an object", "pass it: nw.read_front(folder, model=...)"
        )
    with torch.random.fork_rng(devices=[]):
        return models.load(
            source["model"],
            num_classes=source.get("num_classes"),
            in_channels=source["in_channels"],
            image_size=source.get("image_size"),
        ).model.cpu()


def _network(row: dict[str, Any], folder: Path) -> Shaped:
    return Shaped(
        name=row["name"],
        slot=row["trial"],
        candidate=Candidate.from_json(row["pipeline"]),
        outcome=Outcome(
            error=1
            - (
                row["validation_agreement"]
                if row["validation_accuracy"] is None
                else row["validation_accuracy"]
            ),
            cost=row["predicted_cost"],
            agreement=row["validation_agreement"],
            accuracy=row["validation_accuracy"],
            macs=row["macs"],
            params=row["params"],
            size=row["bytes"],
            file=row["onnx"],
            allocation=row.get("allocation", ""),
            importance=row.get("importance", ""),
        ),
        latency=row["latency"],
        test={
            k: row[f"test_{n}"]
            for k, n in (("accuracy", "accuracy"), ("agreement", "agreement"), ("count", "examples"))
        }
        | {"change": row.get("test_change")},
        folder=folder,
        on_front=row["on_front"],
        reasons=tuple(row.get("reasons", ())),
        like=row.get("like"),
        misses=row["misses"],
        recommended=row["recommended"],
    )
