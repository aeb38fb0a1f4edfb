"""The further arms of PA&DA: widths, a baseline of meta-learning, and cells whose edges may carry nothing."""

from __future__ import annotations

from netwright.models.zoo.cell_net import NB201_OPS
from netwright.papers import pa_da_small as small
from netwright.papers.pa_da_small import BOTH, SPOS, SUM
from netwright.papers.run import Cell, Run, one_thread
from netwright.papers.sparse_parts import mean_deviation, paired
from netwright.papers.supernet_cells import cell_supernet, few_data, tau_table
from netwright.supernets import Elastic

#: Epochs of one pass a step; SUMNAS makes 8 passes a step.
EPOCHS = 16
#: Of cells with five operations.
ZERO_EPOCHS = 10
_PREFIX = "with a zero: "


def measure(run: Run) -> None:
    """All of them; each is three seeds, paired."""
    small.measure_widths(run)
    with one_thread():
        _sumnas(run)
        _zero(run)


def _sumnas(run: Run) -> None:
    """SPOS, PA&DA and SUMNAS on the table of cells, at equal passes."""
    names = (SPOS, BOTH, SUM)
    arms = small.trained(run, "cell-64", few_data(run), cell_supernet, run.seeds(3), names, EPOCHS)
    run.settings["cell-64"]["SUMNAS"] = {
        "outer": dict(small.OUTER),
        "inner": "2 steps of 0.05, momentum kept",
    }
    bench = small.judged(arms, "cell-64")
    note = (
        f"{small.NOTE} SUMNAS: every path of a step goes two inner steps from the same weights, and the "
        "supernet moves to the mean of where they went. The authors' code never renews the list of its fair "
        "paths within an epoch; here every step draws new ones, which is kinder to the baseline."
    )
    tau_table(run, "Kendall's tau beside SUMNAS, cell-64", arms, bench, SPOS, note)
    run.measure("tau of PA&DA above SUMNAS", *paired(arms[BOTH].taus, arms[SUM].taus))
    some, half = paired(arms[BOTH].some, arms[SUM].some)
    run.measure("inherited accuracy of 30 networks, PA&DA above SUMNAS, points", 100 * some, 100 * half)


def zero_supernet(seed: int) -> Elastic:
    """The cells of `cell-64` with a fifth operation on every edge: nothing.

    Args:
        seed: Of the weights.
    """
    return cell_supernet(seed, ops=NB201_OPS)


def _zero(run: Run) -> None:
    """Gradient variance and inherited accuracy where operations without parameters are the most."""
    choices = list(zero_supernet(0).space.enumerate())
    arms = small.trained(
        run,
        "cell-125",
        few_data(run),
        zero_supernet,
        run.seeds(3),
        (SPOS, BOTH),
        ZERO_EPOCHS,
        choices=choices,
        looks=True,
    )
    small.variances(run, arms, "Gradient variance by that of SPOS, cells with a zero")
    rows: list[tuple[Cell, ...]] = []
    for name, arm in arms.items():
        some, whole = mean_deviation(arm.some), mean_deviation(arm.inherited)
        rows.append((name, *(100 * v for v in (*some, *whole))))
    columns = ("arm", "30 fixed networks, %", "deviation", "all networks, %", "deviation of it")
    note = "Of 125 networks no table was trained: they are not ranked."
    run.table("Inherited accuracy, cells with a zero", columns, rows, note)
    small.compare_variances(run, arms, _PREFIX)
    above, half = paired(arms[BOTH].some, arms[SPOS].some)
    name = f"{_PREFIX}inherited accuracy of 30 networks, PA&DA above SPOS, points"
    run.measure(name, 100 * above, 100 * half)
