"""Numbers in the code that follow a size: what differs between a network and a smaller one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from netwright.structure.labels import Traced
from netwright.structure.record import Node, Recording
from netwright.structure.wiring import computes

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Factor:
    """A number in the code that follows a size, and so differs in the small network.

    Attributes:
        dense: The operator call in the dense recording.
        want: The number there.
        got: The number in the small network.
    """

    dense: Node
    want: float
    got: float

    @property
    def what(self) -> str:
        """The difference, in words."""
        return f"the factor is {self.got:.6g} where {self.want:.6g} is right"


def changed_factors(run: Traced, small: Recording) -> list[Factor]:
    """Floating-point arguments (a softmax temperature, an epsilon) that differ between two recordings.

    Args:
        run: The dense recording.
        small: That of the small network, of the same operators.
    """
    found = []
    for a, b in zip(computing(run.recording), computing(small), strict=True):
        for s, t in zip(_floats(a), _floats(b), strict=False):
            if s != t and not (s != s and t != t):
                found.append(Factor(a, s, t))
        if not run.recording.constants or all(x in run.recording.constants for x in a.inputs):
            continue  # what is computed of constants counts where it meets something else
        for x, y in zip(a.inputs, b.inputs, strict=False):
            want, got = run.recording.constants.get(x), small.constants.get(y)
            if want is not None and got is not None and want != got and want == want:
                found.append(Factor(a, want, got))
    return found


def computing(recording: Recording) -> list[Node]:
    """The operators of a recording that compute."""
    return [n for n in recording.nodes if computes(n)]


def _floats(node: Node) -> list[float]:
    found: list[float] = []

    def look(values: Iterable[Any]) -> None:
        for value in values:
            if type(value) is float:
                found.append(value)
            elif type(value) in (list, tuple):
                look(value)

    look(node.args)
    if node.kwargs:
        look(node.kwargs.values())
    return found
