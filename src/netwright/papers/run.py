"""Running a recipe: what it is given, what it hands back, and the evidence that is written."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from netwright.errors import DataError, UsageError
from netwright.papers.claims import Measured, Outcome, Verdict, verdict
from netwright.papers.frame import Paper

Cell = str | int | float | None


@dataclass(frozen=True)
class Table:
    """A table of a recipe's report.

    Attributes:
        title: What it shows.
        columns: Names of the columns.
        rows: Cells, one tuple a row.
        note: What a reader must know to read it.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""


@dataclass
class Run:
    """What a recipe works with.

    Attributes:
        paper: The paper.
        quick: Run the same path in seconds; gives no verdict.
        seed: First seed.
        data: The user's copy of the paper's data, or None.
        out: Folder for files of the recipe's own, beside the evidence, or None where nothing is to be
            written.
        device: Where to compute: ``"cpu"``, ``"cuda"`` ...
        say: Receives each line of the log.
        scope: Which claims this run can measure; see `claims.Claim`. A recipe sets it when it has seen the
            data.
    """

    paper: Paper
    quick: bool = False
    seed: int = 0
    data: Path | None = None
    out: Path | None = None
    device: str = "cpu"
    say: Callable[[str], None] | None = None
    scope: str = ""
    measured: dict[str, Measured] = field(default_factory=dict)
    tables: list[Table] = field(default_factory=list)
    tries: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)
    svg: str | None = None
    without_verdict: str | None = None
    undecidable: str | None = None

    def seeds(self, count: int = 3) -> list[int]:
        """The seeds to repeat a noisy measurement with: `count` of them, one in a quick run."""
        return list(range(self.seed, self.seed + (1 if self.quick else count)))

    def log(self, line: str) -> None:
        """Tell the user what is being done."""
        if self.say is not None:
            self.say(line)

    def measure(self, claim: str, value: float, spread: float = 0.0, note: str = "") -> None:
        """Record the measured value of a claim.

        Args:
            claim: Name of the claim.
            value: What was measured.
            spread: Half width of what noise leaves open.
            note: How it was measured, where that needs saying.

        Raises:
            UsageError: if the paper has no such claim or the numbers are not finite.
        """
        self.paper.claim(claim)
        if not math.isfinite(value) or not math.isfinite(spread) or spread < 0:
            raise UsageError(
                f"the measurement of {claim!r} is {value} ± {spread}", "a measurement is a finite number"
            )
        self.measured[claim] = Measured(float(value), float(spread), note)

    def table(
        self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]], note: str = ""
    ) -> None:
        """Add a table to the report; every row has one cell a column."""
        bad = next((row for row in rows if len(row) != len(columns)), None)
        if bad is not None:
            raise UsageError(
                f"a row of {title!r} has {len(bad)} cells for {len(columns)} columns", "mend the recipe"
            )
        self.tables.append(Table(title, tuple(columns), tuple(tuple(row) for row in rows), note))

    def tried(self, note: str) -> None:
        """Record what was tried besides, for whoever reads an unwelcome result."""
        self.tries.append(note)

    def plot(self, svg: str) -> None:
        """Set the plot that is written beside the evidence."""
        self.svg = svg

    def no_verdict(self, reason: str) -> None:
        """Say that this run cannot judge the paper, for instance on data that nothing was published about."""
        self.without_verdict = reason

    def cannot_decide(self, reason: str) -> None:
        """Say that what claims are judged by is too noisy; the verdict is inconclusive whatever came out."""
        self.undecidable = reason
        self.tried(f"inconclusive whatever was measured: {reason}")

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the wall time of a block, in seconds, to the evidence."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.timings[name] = self.timings.get(name, 0.0) + time.perf_counter() - start

    @property
    def outcomes(self) -> list[Outcome]:
        """Every claim of the paper with what was measured of it."""
        return [Outcome(c, self.measured.get(c.name), c.scope == self.scope) for c in self.paper.claims]

    @property
    def verdict(self) -> Verdict | None:
        """The verdict; None for a quick run and where the recipe said that it cannot judge."""
        if self.quick or self.without_verdict:
            return None
        return Verdict.INCONCLUSIVE if self.undecidable else verdict(self.outcomes)


def execute(run: Run) -> Run:
    """Run a paper's recipe.

    Args:
        run: What the recipe gets; it is filled in and returned.

    Raises:
        DataError: if the data path does not exist.
    """
    if run.data is not None and not run.data.exists():
        raise DataError(f"there is no {run.data}", "give the path of the paper's data with --data")
    with run.timed("total"):
        cpu = time.process_time()
        run.paper.recipe(run)
        run.timings["total cpu"] = time.process_time() - cpu
    return run


@contextlib.contextmanager
def drawing(seed: int) -> Iterator[None]:
    """Draw weights with a seed; the global random state is left as it was.

    Args:
        seed: Of what is drawn meanwhile.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread: CPU time is work then and not waiting, and small networks gain by no more."""
    import torch
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(limits=1):
            yield
    finally:
        torch.set_num_threads(before)
