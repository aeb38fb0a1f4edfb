"""Find the attribute values under which a module's own code computes the smaller network.

The parameters are given. Which attributes repeat a size is guessed (`attributes`), the network is recorded on
the meta device, and where the recording first differs from what the labels predict, the attributes of the
module in question are tried otherwise. A change is taken when the network then runs further.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import nn

from netwright.structure.attributes import Attributes, Choices
from netwright.structure.layout import arrange
from netwright.structure.proof import Mismatch, changed_factors, computing, progress, prove
from netwright.structure.record import Recording, try_record
from netwright.structure.scales import Scales, UnfoldableError, fold, in_both

if TYPE_CHECKING:
    from netwright.structure.surgery import Change
    from netwright.structure.tracing import Structure

#: Trial runs without progress after which a module's code is given up, and trial runs in all.
_TRIALS, _MOST = 32, 256
#: Above every position in a recording.
_WHOLE = 1 << 40


@dataclass(frozen=True)
class Fitted:
    """How the small network was made to run.

    Attributes:
        attributes: Module path -> {attribute: value}.
        change: The change, with its indices in the order that the small network has them.
        scales: What undoes numbers in the code that follow a size.
    """

    attributes: Attributes
    change: Change
    scales: Scales


class _Trials:
    def __init__(
        self,
        dense: nn.Module,
        make: Callable[[], nn.Module],
        net: Structure,
        change: Change,
        predicted: list[list[tuple[int, ...]]],
        choices: Choices,
    ) -> None:
        self.dense = dict(dense.named_modules())
        self.make, self.net, self.change, self.predicted = make, net, change, predicted
        self.choices = choices
        self.recordings: list[Recording] = []
        self.twin = make()
        self.fresh = True  # whether no pass has left anything in the twin yet

    def run(self) -> Mismatch | None:
        """Record the small network with the attributes chosen now; the first difference, or None."""
        found = self._run()
        if found is None and not self.fresh:  # what an earlier trial stored in the twin must not have helped
            self.twin, self.fresh = self.make(), True
            found = self._run()
        self.fresh = False
        return found

    def _run(self) -> Mismatch | None:
        self._set(dict(self.twin.named_modules()))
        self.recordings = []
        for run, shapes in zip(self.net.runs, self.predicted, strict=True):
            attempt = try_record(
                self.twin,
                self.net.inputs,
                training=run.recording.training,
                real=run.recording.real,
                twin=self.twin,
            )
            if attempt.error is not None:
                found = progress(run, attempt.recording, shapes)
                reached = len(computing(attempt.recording))
                return found or Mismatch(attempt.error.message, "", attempt.module, reached)
            found = progress(run, attempt.recording, shapes, whole=True)
            if found is not None:
                return found
            self.recordings.append(attempt.recording)
        if self.net.partition.shuffled.any() and self.change.order is None:
            self.change = replace(self.change, kept=arrange(self.net, self.change.kept, self.recordings))
        for run, again, shapes in zip(self.net.runs, self.recordings, self.predicted, strict=True):
            change = self.change
            found = prove(
                self.net, run, again, shapes, change.times, change.kept, change.order, ran=True, factors=False
            )
            if found is not None:
                return replace(found, position=_WHOLE)
        return None

    def _set(self, modules: dict[str, nn.Module]) -> None:
        values = self.choices.attributes()
        for path in {*self.choices.options, *values}:
            for name in {*self.choices.options.get(path, {}), *values.get(path, {})}:
                value = values.get(path, {}).get(name, getattr(self.dense[path], name))
                setattr(modules[path], name, value)


def fit(
    dense: nn.Module,
    make: Callable[[], nn.Module],
    net: Structure,
    change: Change,
    predicted: list[list[tuple[int, ...]]],
    typed: Attributes,
) -> Fitted | Mismatch:
    """Find attributes under which the small network runs as the labels predict.

    Args:
        dense: The dense network; it is not touched.
        make: Makes a copy of it with parameters of the small network's sizes, without values where the
            recordings need none.
        net: The dense network's structure.
        change: What becomes of every parameter.
        predicted: Shape of every tensor of every recording after the surgery.
        typed: Sizes of standard layers.

    Returns:
        How it fits, or the first difference when it does not.
    """
    choices = Choices(dense, net, predicted[0], typed)
    trials = _Trials(dense, make, net, change, predicted, choices)
    failure = _search(trials)
    if failure is not None:
        return failure
    scales: Scales = {}
    for run, again in zip(net.runs, trials.recordings, strict=True):
        factors = changed_factors(run, again)
        try:
            found = fold(net, run, factors)
            scales = found if run is net.runs[0] else in_both(scales, found, net.recording)
        except UnfoldableError as reason:
            if not factors:
                return Mismatch(str(reason), "", "", _WHOLE)
            first = factors[0]
            return Mismatch(f"{first.what}, and {reason}", first.dense.op, first.dense.module, _WHOLE)
    return Fitted(choices.attributes(), trials.change, scales)


def _search(trials: _Trials) -> Mismatch | None:
    """Try choices until one fits; the failure of the one that ran furthest otherwise."""
    choices = trials.choices
    failure = trials.run()
    count = total = 0
    while failure is not None:
        best = choices.chosen
        for trial in choices.alternatives(failure.module):
            count, total = count + 1, total + 1
            if count > _TRIALS or total > _MOST:
                return failure
            choices.chosen = trial
            found = trials.run()
            if found is None:
                return None
            if found.position > failure.position:
                failure, count = found, 0
                break
            choices.chosen = best
        else:
            return failure
    return None
