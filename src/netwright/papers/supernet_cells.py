"""What the recipes on `cell-64` share: its supernet, how it is judged, and the table of taus."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from netwright.data import Part, Splits
from netwright.models.zoo.cell_net import CELL_OPS, Cell, cell_edges, cell_net, cell_op
from netwright.nas import Choice, TabularBench, ranking
from netwright.papers.benches import TEST_BATCH, WIDTH, bench_data, edge_name
from netwright.papers.run import Run, drawing
from netwright.supernets import Elastic, OneOf, Split, elastic

#: Patterns of what lies outside of the cells.
OUTSIDE = ("stem.*", "last.*", "fc.*")


def cell_supernet(
    seed: int,
    *,
    ops: Sequence[str] = CELL_OPS,
    kind: str = "cell-64",
    width: int = WIDTH,
    in_channels: int = 1,
    side: int = 14,
    num_classes: int = 10,
) -> Elastic:
    """The network of cells with every operation on every edge, the same one in all cells.

    Args:
        seed: Of the weights.
        ops: Operations of the edges.
        kind: See `models.zoo.cell_net`.
        width: Channels of the first stage.
        in_channels: Channels of the images.
        side: Of the images.
        num_classes: Classes of the answer.
    """
    with drawing(seed):
        net: nn.Module = cell_net(kind=kind, width=width, in_channels=in_channels, num_classes=num_classes)
        for cell in [m for m in net.modules() if isinstance(m, Cell)]:
            nodes = max(cell.targets) + 1
            channels = _channels(cell)
            for number, edge in enumerate(cell_edges(nodes)):
                candidates = {op: cell_op(op, channels) for op in ops}
                cell.edges[number] = OneOf(candidates, name=edge_name(*edge))
    return elastic(net, torch.zeros(2, in_channels, side, side))


def _channels(cell: Cell) -> int:
    return next(m.out_channels for m in cell.modules() if isinstance(m, nn.Conv2d))


def few_data(run: Run) -> Splits:
    """The data of the tables; a few examples in a quick run."""
    return bench_data(200, 250, 250) if run.quick else bench_data(5_000, 750, 5_000)


def for_fit(data: Splits) -> Splits:
    """The same with hardly any validation: nothing is chosen by it while a supernet trains."""
    return dataclasses.replace(data, val=data.val.head(50))


class Judge:
    """Inherited accuracies of the networks of a table, on the examples to choose by.

    Args:
        part: Those examples.
    """

    def __init__(self, part: Part) -> None:
        self.batches: list[tuple[Tensor, Tensor]] = [
            (x.contiguous(memory_format=torch.channels_last), y) for x, y in part.batches(TEST_BATCH)
        ]

    def accuracy(self, sup: Elastic | Split, choice: Choice) -> float:
        """Of one network, in 0..1.

        Args:
            sup: A trained supernet.
            choice: The network.
        """
        return self.now(sup.of(choice) if isinstance(sup, Split) else sup.set(choice))

    def now(self, model: Elastic) -> float:
        """Of a supernet as it is set, in 0..1.

        Args:
            model: The supernet.
        """
        right = count = 0
        training = model.training
        model.eval()
        with torch.no_grad():
            for x, y in self.batches:
                right += int((model(x).argmax(1) == y).sum())
                count += len(y)
        model.train(training)
        return right / count

    def accuracies(self, sup: Elastic | Split, choices: Sequence[Choice]) -> list[float]:
        """Of several networks.

        Args:
            sup: A trained supernet.
            choices: The networks.
        """
        (sup if isinstance(sup, Elastic) else sup.supernets).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return [self.accuracy(sup, choice) for choice in choices]


@dataclasses.dataclass
class Ranked:
    """What the supernets of one arm made, a value a seed.

    Attributes:
        accuracies: Inherited ones, of every network.
        macs: Multiply-accumulates of the forward passes of the training.
        taus: Kendall's tau with a table.
        best: Mean test accuracy, by the table, of the network with the greatest inherited accuracy.
    """

    accuracies: list[list[float]] = dataclasses.field(default_factory=list)
    macs: list[float] = dataclasses.field(default_factory=list)
    taus: list[float] = dataclasses.field(default_factory=list)
    best: list[float] = dataclasses.field(default_factory=list)

    def add(self, accuracies: Sequence[float], macs: float) -> None:
        """Take note of one supernet.

        Args:
            accuracies: Inherited ones, of all networks in one order.
            macs: Of the training.
        """
        self.accuracies.append(list(accuracies))
        self.macs.append(macs)

    @property
    def inherited(self) -> list[float]:
        """Mean inherited accuracy of all networks."""
        return [sum(values) / len(values) for values in self.accuracies]

    def judge(self, bench: TabularBench, choices: Sequence[Choice]) -> None:
        """Compare every supernet with a table.

        Args:
            bench: The table.
            choices: The networks, in the order of the accuracies.
        """
        truth = [bench[choice].accuracy for choice in choices]
        for values in self.accuracies:
            tau = ranking.kendall(values, truth)
            self.taus.append(0.0 if math.isnan(tau) else tau)
            self.best.append(truth[max(range(len(values)), key=values.__getitem__)])


def tau_table(
    run: Run, title: str, arms: Mapping[str, Ranked], bench: TabularBench, baseline: str, note: str = ""
) -> None:
    """Add a table of the arms beside the noise ceiling and the costs alone.

    Args:
        run: The run.
        title: Of the table.
        arms: Name -> what they made.
        bench: The table of the truth.
        baseline: Arm that the others are compared with, seed by seed.
        note: What a reader must know besides.
    """
    from netwright.papers.sparse_parts import mean_deviation, paired

    rows = []
    for name, arm in arms.items():
        mean, deviation = mean_deviation(arm.taus)
        above, half = paired(arm.taus, arms[baseline].taus)
        best, inherited = mean_deviation(arm.best)[0], mean_deviation(arm.inherited)[0]
        macs = mean_deviation(arm.macs)[0] / 1e9
        rows.append((name, mean, deviation, above, half, 100 * best, 100 * inherited, macs, len(arm.taus)))
    costs = ranking.kendall(bench.macs, bench.truth)
    more = (
        f"Noise ceiling of the table {bench.ceiling:.3f}; MACs alone rank with tau {costs:.3f}; the best "
        f"network of the table has {100 * bench.truth.max():.2f} %. ± is half a 95 % interval of the paired "
        "difference."
    )
    columns = (
        "arm", "tau", "deviation", f"above {baseline}", "±", "chosen network, %", "inherited, mean %",
        "GMACs, forward", "seeds",
    )  # fmt: skip
    run.table(title, columns, rows, f"{note} {more}".strip())
