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


@dataclass(frozen=True)
class _Speed:
    """Milliseconds for a million products, for a megabyte of fp32 activations, and for an operator."""

    products: float
    traffic: float
    operator: float


#: Fitted to files of ResNet-8, -18 and -20 and MobileNetV2 between 0.2 and 1800 million products, dense and
#: pruned, in ONNX Runtime on one core of a server processor with vector integer instructions. The fit is
#: within 15 % for most; it knows that small networks gain nothing from integers.
_SPEED = {32: _Speed(0.0173, 0.108, 0.00114), 8: _Speed(0.0056, 0.081, 0.00211)}


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
    speed = _SPEED[bits]
    heavy = [r for r in rows if r.macs > 0]
    products = sum(r.macs for r in heavy) / 1e6
    traffic = sum(r.activation_bytes for r in heavy) / 1e6
    return speed.products * products + speed.traffic * traffic + speed.operator * len(heavy)
