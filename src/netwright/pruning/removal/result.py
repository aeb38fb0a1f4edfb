"""What pruning gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from netwright.structure import Cost, Shrunk, Structure
from netwright.structure.sources import why


@dataclass(frozen=True)
class Pruned:
    """A pruned network and what was done to make it.

    Attributes:
        model: The smaller network, a module of the same class; the given one was left alone.
        kept: Parameter or buffer -> {dimension: indices that stayed (n,)}, or (blocks, n) where the blocks of
            dimension 0 keep different ones.
        before: Costs of the dense network, for one example.
        after: Costs of the smaller one.
        frozen: (axis, reason) of every axis that could not shrink; the reason names operator and line.
        net: The dense network's structure.
        keep: (count,) bool, the classes of the structure that stayed.
        how: "in place", in the network's own classes, or "graph", in its exported graph.
        attributes: Module -> {attribute: value} that were rewritten.
        adopted: Attention modules that were given a free inner width.
        notes: What a reader should know, one line each.
        seconds: How long it took.
        latency: Measured milliseconds, where the budget named a latency: {"before": ..., "after": ...}.
        error: Difference from the masked dense network, relative, where it was checked.
        scales: Parameter -> {dimension: factors of the dense network's indices}, where the surgery put
            factors into parameters (see `netwright.structure.Shrunk`).
        history: Of the training after the removal, one record an epoch; empty where nothing was trained.
        dropped: Paths of branches that went whole before channels did (see `netwright.models.blocks`).
        skipped: Paths of residual blocks that went whole after channels did (see `netwright.structure.drop`).
        kernels: Path of a convolution -> size of the middle of its kernel that stayed.
        left_out: Paths of blocks of stages that went whole (see `netwright.structure.stages`).
        parts: Path of a module -> path of the part inside it that stands for the whole.
    """

    model: nn.Module
    kept: Mapping[str, Mapping[int, Tensor]]
    before: Cost
    after: Cost
    frozen: list[tuple[str, str]]
    net: Structure = field(repr=False)
    keep: Tensor = field(repr=False)
    how: str = "in place"
    attributes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    adopted: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    latency: Mapping[str, float] | None = None
    error: float | None = None
    scales: Mapping[str, Mapping[int, Tensor]] = field(default_factory=dict, repr=False)
    history: list[dict[str, Any]] = field(default_factory=list, repr=False)
    dropped: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    kernels: Mapping[str, int] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    parts: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, net: Structure, keep: Tensor, shrunk: Shrunk, **rest: Any) -> Pruned:
        """A result from a surgery and the structure that it was made on.

        Args:
            net: The dense network's structure.
            keep: (count,) bool, the classes that stayed.
            shrunk: What the surgery gave.
            **rest: Further attributes.
        """
        return cls(
            shrunk.model,
            shrunk.kept,
            before=net.dense,
            after=net.cost(keep),
            frozen=[(axis.name, why(axis)) for axis in net.axes if not axis.prunable],
            net=net,
            keep=keep,
            how=shrunk.how,
            attributes=shrunk.attributes,
            adopted=shrunk.adopted,
            scales=shrunk.scales,
            **rest,
        )

    @property
    def widths(self) -> dict[str, tuple[int, int]]:
        """Axis -> (members that stayed, members before), for every axis that could shrink."""
        return {a.name: (int(self.keep[a.cells].sum()), a.total) for a in self.net.prunable}

    def __str__(self) -> str:
        rows = [
            ("macs", self.before.macs, self.after.macs),
            ("params", self.before.params, self.after.params),
            ("activation bytes", self.before.activation_bytes, self.after.activation_bytes),
        ]
        how = "as a graph" if self.how == "graph" else self.how
        lines = [f"{self.net.name}, pruned {how} in {self.seconds:.2f} s", ""]
        lines += [f"{'':<18}{'before':>16}{'after':>16}{'share':>9}"]
        lines += [f"{n:<18}{b:>16,}{a:>16,}{a / b if b else 1:>9.1%}" for n, b, a in rows]
        if self.latency is not None:
            b_ms, a_ms = self.latency["before"], self.latency["after"]
            lines.append(f"{'latency':<18}{b_ms:>13.3f} ms{a_ms:>13.3f} ms{a_ms / b_ms:>9.1%}")
        lines += ["", f"{'axis':<44}{'before':>8}{'after':>8}{'share':>9}"]
        lines += [f"{_short(n):<44}{t:>8}{k:>8}{k / t:>9.1%}" for n, (k, t) in self.widths.items()]
        if self.frozen:
            lines += ["", "left alone:"]
            lines += [f"  {name}: {reason}" for name, reason in self.frozen]
        if self.notes:
            lines += ["", *[f"- {note}" for note in self.notes]]
        return "\n".join(lines)


def _short(name: str) -> str:
    return name if len(name) <= 43 else "…" + name[-42:]
