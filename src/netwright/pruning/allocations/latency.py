"""Budgets in milliseconds: widths chosen by a share of the MACs, measured, and chosen again."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from netwright import structure
from netwright.errors import BudgetError
from netwright.metrics import latencies
from netwright.pruning.allocations.allocation import Allocation, allocate
from netwright.pruning.allocations.limits import Limits
from netwright.pruning.allocations.widths import Widths
from netwright.quantization import export_onnx
from netwright.structure import Budget, Limit, Shrunk
from netwright.structure.onnx import OnnxNetwork

#: Networks that are built and measured at most.
_TRIES = 6
#: A network this close below the limit is close enough: measurements repeat to a few per cent.
_CLOSE = 0.93


def within_latency(
    model: nn.Module,
    widths: Widths,
    limits: Limits,
    limit: Limit,
    allocation: str | Allocation,
    round_to: int | None,
    how: str = "auto",
) -> tuple[Tensor, Shrunk, dict[str, float]]:
    """Find a network whose measured time for one example is within a limit.

    Time falls with the MACs, though not in proportion: the share of MACs is found by interpolation between
    measured networks. The dense network is measured in turn with each, and a relative limit refers to that.

    Args:
        model: The dense network.
        widths: Its ranked axes.
        limits: Further limits.
        limit: The latency.
        allocation: A registered name.
        round_to: See `netwright.pruning.allocations.allocation.allocate`.
        how: See `netwright.structure.shrink`.

    Returns:
        The keep mask, the smaller network, and its and the dense network's milliseconds.

    Raises:
        BudgetError: if the smallest network that was found is slower; names its time.
    """
    net = widths.net
    fixed = isinstance(model, OnnxNetwork) and not model.open_batch
    example = _one(net.inputs, 1 if fixed else net.batch)
    with tempfile.TemporaryDirectory(prefix="netwright-latency-") as folder:
        dense = _file(model, example, Path(folder) / "dense.onnx")

        def measure(share: float) -> _Try | None:
            try:
                counts = allocate(widths, limits.also(Budget(macs=share)), allocation, round_to=round_to)
            except BudgetError:
                return None
            keep = widths.mask(counts)
            shrunk = structure.shrink(model, net, keep, how=how)
            file = _file(shrunk.model, example, Path(folder) / "small.onnx")
            found = latencies(
                {"before": dense, "after": file}, example, baseline="before", min_seconds=0.3, min_runs=20
            )
            ratio = found["after"].ratio or 1.0
            return _Try(share, keep, shrunk, found["before"].median_ms, found["after"].median_ms, ratio)

        first = measure(1.0)
        assert first is not None
        used = first.spent(limit)
        if used <= 1:
            return first.result()
        best: _Try | None = None
        slow, fast = (1.0, used), (0.0, 0.0)  # (share of macs, share of the limit) on either side
        smallest = first
        for _ in range(_TRIES):
            share = fast[0] + (slow[0] - fast[0]) * (0.97 - fast[1]) / (slow[1] - fast[1])
            tried = measure(min(max(share, 0.002), 0.999))
            if tried is None:  # below the smallest: look between
                fast = (share, fast[1])
                tried = measure((share + slow[0]) / 2)
                if tried is None:
                    continue
            used = tried.spent(limit)
            smallest = min(smallest, tried, key=lambda t: t.milliseconds)
            if used <= 1:
                best, fast = tried, (tried.share, used)
                if used >= _CLOSE:
                    break
            else:
                slow = (tried.share, used)
            if slow[0] - fast[0] < 0.01:
                break
        if best is None:
            raise BudgetError(
                f"latency of at most {_text(limit)} cannot be met: the smallest network measured takes "
                f"{smallest.milliseconds:.3g} ms ({smallest.ratio:.0%} of the dense one)",
                "ask for more, or remove layers rather than channels",
            )
        return best.result()


class _Try:
    """One measured network."""

    def __init__(
        self, share: float, keep: Tensor, shrunk: Shrunk, before: float, after: float, ratio: float
    ) -> None:
        self.share, self.keep, self.shrunk = share, keep, shrunk
        self.before, self.milliseconds, self.ratio = before, after, ratio

    def spent(self, limit: Limit) -> float:
        """The share of the limit that it uses."""
        return self.ratio / limit.value if limit.relative else self.milliseconds / limit.value

    def result(self) -> tuple[Tensor, Shrunk, dict[str, float]]:
        """What the caller wants."""
        return self.keep, self.shrunk, {"before": self.before, "after": self.milliseconds}


def _file(model: nn.Module, example: Any, path: Path) -> Path:
    """The network as an ONNX file."""
    if isinstance(model, OnnxNetwork):
        return model.save(path)
    return export_onnx(model, example, path, verify=False).path


def _text(limit: Limit) -> str:
    return f"{limit.value:g} of the dense network's" if limit.relative else f"{limit.value:g} ms"


def _one(inputs: structure.Inputs, batch: int) -> Any:
    """One example, in the form that the exporter takes."""
    one = inputs.map(lambda x: x[:1] if batch > 1 and x.dim() and x.shape[0] == batch else x)
    return dict(one.kwargs) if one.kwargs else tuple(one.args)
