"""Three-line networks for the tables of rules, and what every row of a table asserts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from netwright.structure import Structure, check, shrink, trace
from netwright.testing.surgery import draw_keep, randomise

TOLERANCE = 1e-10


class Net(nn.Module):
    """A forward function over named modules and parameters: `Net(lambda m, x: m.b(m.a(x)), a=..., b=...)`."""

    def __init__(self, function: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            if isinstance(part, Tensor):
                part = nn.Parameter(part) if part.is_floating_point() else nn.Buffer(part)
            setattr(self, name, part)

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(self, *inputs)


def conv(i: int, o: int, k: int = 1, **options: Any) -> nn.Conv2d:
    """A small two-dimensional convolution."""
    return nn.Conv2d(i, o, k, **options)


def pair(
    function: Callable[..., Any], out: int = 8, into: int | None = None, k: int = 1, **parts: Any
) -> Net:
    """`conv a (3 -> out)`, the function `(m, a(x))`, `conv b (into -> 5)` on images."""
    return Net(
        lambda m, x: m.b(function(m, m.a(x))),
        a=conv(3, out, k),
        b=conv(into if into is not None else out, 5),
        **parts,
    )


def dense(function: Callable[..., Any], out: int = 8, into: int | None = None, **parts: Any) -> Net:
    """`linear a (6 -> out)`, the function `(m, a(x))`, `linear b (into -> 5)` on tokens (2, 4, 6)."""
    return Net(
        lambda m, x: m.b(function(m, m.a(x))),
        a=nn.Linear(6, out),
        b=nn.Linear(into if into is not None else out, 5),
        **parts,
    )


@dataclass(frozen=True)
class Case:
    """One row of a table of rules.

    Attributes:
        name: Of the row.
        build: Makes the network.
        axes: Prunable axes: name -> (cells, size).
        shape: Of the input.
        frozen: Name of a frozen axis -> words in its reason.
        heads: As in `trace`.
    """

    name: str
    build: Callable[[], nn.Module]
    axes: dict[str, tuple[int, int]] = field(default_factory=dict)
    shape: tuple[int, ...] = (2, 3, 6, 6)
    frozen: dict[str, str] = field(default_factory=dict)
    heads: str = "whole"


def holds(case: Case) -> None:
    """The axes are as expected, and removing from them is exact."""
    torch.manual_seed(0)
    model = randomise(case.build()).eval()
    example = torch.rand(case.shape) + 0.1
    net = trace(model, example, heads=case.heads)
    found = {axis.name: tuple(axis.cells.shape) for axis in net.prunable}
    assert found == case.axes, found | {axis.name: axis.reason for axis in net.axes if not axis.prunable}
    reasons = {axis.name: axis.reason for axis in net.axes if not axis.prunable}
    for name, words in case.frozen.items():
        assert words in reasons.get(name, ""), reasons
    for seed in range(3) if found else ():
        exact(model, net, seed)


def exact(model: nn.Module, net: Structure, seed: int = 0) -> None:
    """Remove something at random and compare with the masked network."""
    keep = draw_keep(net, seed)
    assert not bool(keep.all())
    result = check(model, net, keep, shrink(model, net, keep).model)
    assert result.error <= TOLERANCE, f"relative error {result.error:.3g}"
    assert result.change > 1e-6, "the removal changes nothing"
