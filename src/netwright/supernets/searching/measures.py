"""What a sub-network of a trained supernet is worth, and what it costs: objectives of a search."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from netwright.data import Part
from netwright.errors import UsageError
from netwright.metrics import latency
from netwright.nas.choice import Choice
from netwright.quantization import export_onnx
from netwright.supernets.network.elastic import Elastic
from netwright.train import evaluate


class Measure(Protocol):
    """One number of a sub-network.

    Attributes:
        name: What it is called in results and budgets.
        more_is_better: Whether it is maximised.
    """

    name: str
    more_is_better: bool

    def __call__(self, sup: Elastic, choice: Choice) -> float:
        """Measure a choice."""
        ...


@dataclass
class Accuracy:
    """Accuracy of a sub-network with the supernet's weights.

    Args:
        part: The labelled split that is judged; never the test split.
        calibrate: Inputs for its batch-norm statistics, measured anew for every sub-network; those that all
            share where None.
        batches: Of them, most that are used.
        batch_size: Examples at a time.
        device: Where to run.
    """

    part: Part
    calibrate: Part | None = None
    batches: int = 8
    batch_size: int = 256
    device: str = "auto"
    name: str = field(default="accuracy", init=False)
    more_is_better: bool = field(default=True, init=False)

    def __call__(self, sup: Elastic, choice: Choice) -> float:
        """Share of the labels predicted."""
        if self.calibrate is not None and choice not in sup.statistics:
            sup.calibrate(self.calibrate.batches(self.batch_size), choice, limit=self.batches)
        before = sup.choice
        try:
            sup.set(choice)
            return evaluate(sup, self.part, device=self.device, batch_size=self.batch_size).accuracy
        finally:
            sup.set(before)


@dataclass
class Macs:
    """Multiply-accumulates of one example."""

    name: str = field(default="macs", init=False)
    more_is_better: bool = field(default=False, init=False)

    def __call__(self, sup: Elastic, choice: Choice) -> float:
        """Exact."""
        return float(sup.macs(choice))


@dataclass
class Params:
    """Parameters."""

    name: str = field(default="params", init=False)
    more_is_better: bool = field(default=False, init=False)

    def __call__(self, sup: Elastic, choice: Choice) -> float:
        """Exact."""
        return float(sup.cost(choice).params)


@dataclass
class Latency:
    """Milliseconds of one run of the extracted network, measured here.

    Args:
        runtime: "onnxruntime" exports and runs it there, "torch" runs the module.
        example: The input of one run; that of the supernet, resized to the choice's resolution, when None.
        threads: Threads inside an operator.
        min_seconds: Timed seconds at least.
    """

    runtime: str = "onnxruntime"
    example: Any = None
    threads: int = 1
    min_seconds: float = 0.2
    name: str = field(default="latency", init=False)
    more_is_better: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        if self.runtime not in ("onnxruntime", "torch"):
            raise UsageError(f"runtime={self.runtime!r} is not known", 'choose "onnxruntime" or "torch"')

    def __call__(self, sup: Elastic, choice: Choice) -> float:
        """The median."""
        example = self.example
        if example is None:
            (example,) = sup.blueprint.at_resolution(choice).inputs.args
        small = sup.extract(choice).eval()
        if self.runtime == "torch":
            return latency(small, example, threads=self.threads, min_seconds=self.min_seconds).median_ms
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "net.onnx"
            export_onnx(small, example, path)
            return latency(path, example, threads=self.threads, min_seconds=self.min_seconds).median_ms
