"""The cost that a search minimises, predicted from the network and the precision.

Decisions of the search must be the same whenever they are made (see `netwright.shaping.propose`), so they
rest on predictions, and time is measured in the final stage. The prediction of time is a roofline: every
operator with weights or products costs its arithmetic at the processor's rate, its traffic at the memory's,
and a fixed overhead. Only the order of candidates matters, not the milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

COSTS = ("latency", "macs", "size")

#: Multiply-accumulates per millisecond, on one core of a server processor with vector integer instructions.
_RATE = {32: 60e6, 8: 160e6}
#: Bytes per millisecond.
_TRAFFIC = 8e6
#: Milliseconds an operator costs at least, whatever its size.
_OVERHEAD = 0.004


class Operation(Protocol):
    """What the prediction needs to know about an operator."""

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""
        ...

    @property
    def params(self) -> int:
        """Parameters."""
        ...

    @property
    def activation_bytes(self) -> int:
        """Bytes of its output in fp32."""
        ...


@dataclass(frozen=True)
class Row:
    """One operator as the report shows it."""

    name: str
    kind: str
    macs: int
    params: int
    activation_bytes: int


def predict(metric: str, rows: Iterable[Operation], bits: int) -> float:
    """Predict a cost.

    Args:
        metric: ``"latency"`` (milliseconds), ``"macs"`` (of 32-bit operations) or ``"size"`` (bytes of
            weights).
        rows: The network's operators.
        bits: 32 or 8.

    Returns:
        The cost; smaller is better, and comparable only within one metric.
    """
    if metric == "macs":
        return float(sum(r.macs for r in rows)) * bits / 32
    if metric == "size":
        return float(sum(r.params for r in rows)) * bits / 8
    rate = _RATE[bits]
    heavy = [r for r in rows if r.macs > 0]
    return sum(
        r.macs / rate + (r.activation_bytes + 4 * r.params) * bits / 32 / _TRAFFIC + _OVERHEAD for r in heavy
    )
