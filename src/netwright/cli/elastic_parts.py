"""What the commands of `netwright elastic` share: their options read, data and measures, tables shown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netwright.cli.opening import Opened
from netwright.cli.shape import read_recipe
from netwright.errors import ArtefactError, UsageError

if TYPE_CHECKING:
    from netwright.data import Part, Splits
    from netwright.supernets import Elastic, Measure
    from netwright.train import Recipe

#: What is written while a supernet is trained, and gone when it is.
CHECKPOINT, CLAIM = "training.pt", "training.json"
SAMPLERS = ("sandwich", "uniform", "sorted-prefix", "multi-arch", "fair")
OBJECTIVES = ("accuracy", "macs", "params", "latency")
#: Training examples that batch-norm statistics of a sub-network are measured on.
STATISTICS = 512
#: Trials from which on evolution has its usual population.
_MANY = 1000


def open_supernet(folder: Path, data: str | None, trust: bool) -> tuple[Elastic, Splits]:
    """A supernet from its folder, with data that fit it."""
    from netwright import data as datasets
    from netwright import supernets

    known = supernets.describe(folder)
    spec = data if data is not None else known.get("data")
    if spec is None:
        raise UsageError("the folder does not say what it was trained on", "give --data")
    sup = supernets.load(folder, trust=trust)
    statistics = known["source"].get("statistics")
    splits = datasets.load(spec, seed=int(known.get("seed", 0)), trust=trust, statistics=statistics)
    (example,) = sup.blueprint.structure.inputs.args
    if tuple(splits.shape) != tuple(example.shape[1:]):
        raise UsageError(
            f"examples of {spec} have another shape than the supernet's {tuple(example.shape[1:])}",
            "give the data that it was trained on, or such",
        )
    return sup, splits


def calibration(splits: Splits) -> Part:
    """The training examples that statistics are measured on, the same in every command."""
    return splits.train.head(STATISTICS)


def measures(names: Sequence[str], splits: Splits, device: str) -> list[Measure]:
    """Measures by their names."""
    from netwright import supernets

    made: dict[str, Any] = {
        "accuracy": lambda: supernets.Accuracy(splits.val, calibration(splits), device=device),
        "macs": supernets.Macs,
        "params": supernets.Params,
        "latency": supernets.Latency,
    }
    return [made[name]() for name in names]


def objectives(text: str) -> list[str]:
    """Names of measures, the first one first."""
    names = list(dict.fromkeys(n.strip() for n in text.split(",") if n.strip()))
    wrong = [n for n in names if n not in OBJECTIVES]
    if wrong or not names:
        raise UsageError(
            f"there is no objective {wrong[0] if wrong else text!r}", f"choose from {', '.join(OBJECTIVES)}"
        )
    return names


def read_choice(text: str) -> dict[str, Any]:
    """A choice from JSON, or from a file that holds it (a row of ``front.json`` will do)."""
    if not text.lstrip().startswith("{"):
        try:
            text = Path(text).read_text(encoding="utf-8")
        except OSError as error:
            raise UsageError(
                f"the choice {text} cannot be read: {error.strerror}", "check the path"
            ) from error
    try:
        value = json.loads(text)
    except ValueError as error:
        raise UsageError(f"the choice is not JSON: {error}") from error
    value = value.get("choice", value) if isinstance(value, dict) else value
    if not isinstance(value, dict):
        raise UsageError("the choice is not a JSON object", "write name -> value")
    return {k: tuple(v) if isinstance(v, list) else v for k, v in value.items()}


def numbers(text: str | None, option: str) -> list[float | int] | None:
    """Shares or counts: where one number has a point, all are shares, so that 1 is the whole."""
    if text is None:
        return None
    parts = [p.strip() for p in text.split(",") if p.strip()]
    try:
        return [float(p) for p in parts] if any("." in p for p in parts) else [int(p) for p in parts]
    except ValueError as error:
        raise UsageError(f"{option} {text} is not understood", "write 0.25,0.5,0.75,1 or 8,16,32") from error


def sizes(text: str | None, option: str) -> list[int] | None:
    """Whole numbers with commas between them."""
    try:
        return None if text is None else [int(p) for p in text.split(",") if p.strip()]
    except ValueError as error:
        raise UsageError(f"{option} {text} is not understood", "write whole numbers: 3,5") from error


def training(opened: Opened, seed: int, epochs: int | None, path: Path | None) -> Recipe:
    """From scratch as `netwright shape` trains a dense network; given weights are changed gently."""
    from netwright.shaping.baseline import default_recipe, recovery_epochs, recovery_recipe
    from netwright.train import Recipe

    assert opened.splits is not None
    model, count = opened.loaded.model, len(opened.splits.train)
    base = default_recipe(model, count, seed)
    if opened.loaded.pretrained:
        base = recovery_recipe(model, base, recovery_epochs(count), 0.0, from_scratch=False)
    fields = {} if path is None else read_recipe(path)
    if epochs is not None:
        fields = {**fields, "epochs": epochs}
    return Recipe.from_json({**json.loads(base.to_json()), **fields})


def sampler_named(name: str, seed: int) -> Any:
    """A path sampler by its name."""
    from netwright.supernets import samplers

    made: dict[str, Any] = {
        "sandwich": samplers.Sandwich,
        "uniform": samplers.Uniform,
        "sorted-prefix": samplers.SortedPrefix,
        "multi-arch": samplers.MultiArch,
        "fair": samplers.FairCycle,
    }
    return made[name](seed=seed)


def strategy_named(name: str, trials: int) -> Any:
    """A strategy by its name; a population that fits a short search, where the usual one would only draw."""
    from netwright.nas.strategies import Evolution

    if name == "evolution" and trials < _MANY:
        return Evolution(initial=25, parents=10, mutations=10, crossovers=10)
    return name


def claim(output: Path, identity: dict[str, Any]) -> None:
    """Take the folder for a training; another one's is left alone.

    Raises:
        ArtefactError: if it holds another training, or other files.
    """
    from netwright import _files

    path, mine = output / CLAIM, json.loads(json.dumps(identity))
    if path.exists():
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            known = None
        if known == mine:
            return
        raise ArtefactError(
            f"{output} holds a training with other settings", "use the same, delete it, or choose another -o"
        )
    if output.exists() and any(output.iterdir()):
        raise ArtefactError(f"{output} is not empty", "choose another folder with -o")
    _files.write_json(path, mine)


def source(model: str, opened: Opened) -> dict[str, Any]:
    """What builds the architecture again."""
    from netwright.data import is_callable_spec
    from netwright.models import input_channels

    assert opened.splits is not None
    shape, splits, loaded = opened.splits.shape, opened.splits, opened.loaded
    if is_callable_spec(model):
        file, _, name = model.rpartition(":")
        model = f"{Path(file).resolve()}:{name}"
    square = len(shape) == 3 and shape[1] == shape[2]
    return {
        "model": model,
        "num_classes": splits.num_classes,
        "in_channels": input_channels(tuple(shape)),
        "image_size": shape[1] if square else None,
        "statistics": loaded.statistics if loaded.pretrained else None,
    }


def ends(sup: Elastic, splits: Splits, device: str) -> list[dict[str, Any]]:
    """Accuracy and costs of the largest and the smallest sub-network."""
    accuracy, macs, params = measures(["accuracy", "macs", "params"], splits, device)
    rows = []
    for name, choice in (("largest", sup.blueprint.full), ("smallest", sup.space.min())):
        found = {m.name: m(sup, choice) for m in (accuracy, macs, params)}
        rows.append({"network": name, **found})
    return rows


def show_table(rows: Sequence[dict[str, Any]]) -> None:
    """Print measures of networks."""
    from rich.console import Console
    from rich.table import Table

    from netwright.structure.draw import count_text

    shown = {
        "accuracy": lambda v: f"{v:.2%}",
        "macs": count_text,
        "params": count_text,
        "latency": lambda v: f"{v:.3g} ms",
    }
    table = Table(box=None, header_style="bold", pad_edge=False)
    names = [n for n in rows[0] if n != "network"]
    table.add_column("network")
    for name in names:
        table.add_column({"macs": "MACs"}.get(name, name), justify="right")
    for row in rows:
        table.add_row(row["network"], *(shown[n](row[n]) if n in row else "" for n in names))
    Console(highlight=False).print(table)
