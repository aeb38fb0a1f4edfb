"""What a person sees while a study runs: what is being tried, the best so far, how long it will take."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from netwright.shaping.candidate import Candidate, Outcome
from netwright.shaping.propose import Record

if TYPE_CHECKING:
    from netwright.train import Progress


class Reporter:
    """Told what happens; this one says nothing."""

    def stage(self, text: str) -> None:
        """A new part of the job begins."""

    def plan(self, text: str) -> None:
        """Something worth keeping on the screen."""

    def training(self, progress: Progress) -> None:
        """A training went on."""

    def search(self, trials: int, done: list[Record], estimate: float | None) -> None:
        """The search begins: trials in all, those already done, seconds a trial is expected to take."""

    def started(self, slot: int, candidate: Candidate) -> None:
        """An evaluation began."""

    def ended(self, record: Record, seconds: float) -> None:
        """An evaluation is finished."""

    def close(self) -> None:
        """The job ended, or was stopped."""


class Console(Reporter):
    """Rich progress on stderr: live where it is a terminal, plain lines where it is not."""

    def __init__(self) -> None:
        from rich import console
        from rich import progress as bars

        self._console = console.Console(stderr=True, highlight=False)
        self._live = self._console.is_terminal
        self._bars: Any = bars.Progress(
            bars.SpinnerColumn(),
            bars.TextColumn("{task.description}"),
            bars.BarColumn(bar_width=24),
            bars.TextColumn("{task.fields[extra]}"),
            console=self._console,
            transient=True,
            disable=not self._live,
        )
        self._bars.start()
        self._train: Any = None
        self._search: Any = None
        self._now: dict[int, str] = {}
        self._done: list[Record] = []
        self._trials = 0
        self._each: float | None = None
        self._spent: list[float] = []
        self._began = time.monotonic()
        self._epoch = 0

    def stage(self, text: str) -> None:
        """Print the stage."""
        self._drop_training()
        self._console.print(f"[bold]▸[/bold] {text}")

    def plan(self, text: str) -> None:
        """Print a note."""
        self._console.print(f"  [dim]{text}[/dim]")

    def training(self, progress: Progress) -> None:
        """Show epoch, accuracy and the time that is left."""
        accuracy = "" if progress.accuracy is None else f" · {progress.accuracy:.2%}"
        extra = f"loss {progress.loss:.3f}{accuracy} · {_duration(progress.eta_seconds)} left"
        text = f"  epoch {progress.epoch}/{progress.epochs}"
        total = progress.epochs * progress.steps
        done = (progress.epoch - 1) * progress.steps + progress.step
        if self._live:
            if self._train is None:
                self._train = self._bars.add_task(text, total=total, extra=extra)
            self._bars.update(self._train, description=text, completed=done, total=total, extra=extra)
        elif self._search is None and not self._trials and progress.step == progress.steps:
            tenth = max(1, progress.epochs // 8)
            if progress.epoch != self._epoch and (
                progress.epoch % tenth == 0 or progress.epoch == progress.epochs
            ):
                self._epoch = progress.epoch
                self._console.print(f"{text} · {extra}")

    def _drop_training(self) -> None:
        if self._train is not None:
            self._bars.remove_task(self._train)
            self._train = None

    def search(self, trials: int, done: list[Record], estimate: float | None) -> None:
        """Open the bar of the search."""
        self._drop_training()
        self._trials, self._done, self._each = trials, list(done), estimate
        left = trials - len(done)
        resumed = f", {len(done)} of them done before" if done else ""
        hint = f", about {_duration(left * estimate)}" if estimate and left > 0 else ""
        self.stage(f"searching: {trials} trials{resumed}{hint}")
        if self._live:
            self._search = self._bars.add_task("", total=trials, completed=len(done), extra="")
            self._refresh()

    def started(self, slot: int, candidate: Candidate) -> None:
        """Show what is being tried."""
        self._drop_training()
        self._now[slot] = candidate.describe()
        self._refresh()

    def ended(self, record: Record, seconds: float) -> None:
        """Print the trial's line and refresh the best and the estimate."""
        self._drop_training()
        self._now.pop(record.slot, None)
        self._done.append(record)
        self._spent.append(seconds)
        number = f"  {len(self._done):>3}/{self._trials}"
        name = record.candidate.describe()
        if record.outcome is None:
            self._console.print(f"{number}  [yellow]failed[/yellow] {name}: {record.failure}", soft_wrap=True)
        else:
            name = record.outcome.carried_out(record.candidate).describe()
            self._console.print(
                f"{number}  {name:<44} {quality(record.outcome):>8} · "
                f"{record.outcome.macs / 1e6:8.2f} M macs · {_duration(seconds)}",
                soft_wrap=True,
            )
        self._refresh()

    def _refresh(self) -> None:
        if self._search is None:
            return
        text = "  trying " + (" | ".join(self._now.values()) or "…")
        each = sum(self._spent) / len(self._spent) if self._spent else self._each
        left = (self._trials - len(self._done)) * each if each else None
        extra = f"{len(self._done)}/{self._trials}"
        if left:
            extra += f" · {_duration(left)} left"
        extra += self._best()
        self._bars.update(self._search, description=text, completed=len(self._done), extra=extra)

    def _best(self) -> str:
        """The cheapest so far within a point of the dense network."""
        good = [r for r in self._done if r.outcome is not None]
        dense = next((r.outcome for r in good if r.candidate == Candidate()), None)
        if dense is None:
            return ""
        close = [r for r in good if r.outcome and r.outcome.error <= dense.error + 0.01]
        best = min(close, key=lambda r: r.outcome.cost if r.outcome else 0.0)
        return f" · best {best.candidate.describe()}" if best.outcome and not best.candidate.dense else ""

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._bars.stop()


def quality(outcome: Outcome) -> str:
    """Accuracy, or agreement where there are no labels, as text."""
    return f"{1 - outcome.error:.2%}"


def _duration(seconds: float) -> str:
    seconds = max(0, round(seconds))
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"
