"""BigNAS on a small elastic residual network: its training, its children, and the same networks alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

import numpy as np
from torch import nn

from netwright.data import Splits
from netwright.models import Residual
from netwright.models.zoo.residual import ResidualBlock
from netwright.nas import Choice
from netwright.papers.plot import Panel, figure
from netwright.papers.run import Cell, Run, one_thread
from netwright.papers.sparse_parts import fashion, paired
from netwright.pruning.removal.initialisation import reinitialise_
from netwright.supernets import Elastic, InplaceDistill, Paths, elastic, samplers, train
from netwright.supernets.network.resizing import Resize
from netwright.supernets.samplers.base import Sampler
from netwright.supernets.training.paths import HardLabels, Rule
from netwright.train import Recipe, evaluate, fit

WIDTHS, DEPTHS, KERNELS, SIDES = (0.5, 0.75, 1.0), (1, 2, 3), (3, 5), (10, 12, 14)
FULL = (4, 8, 16)
#: Children along the range of costs, and draws from which they are the nearest to even steps.
CHILDREN, DRAWS = 8, 2000
#: Batches for the statistics of a child.
CALIBRATION = 16
BIG, SINGLE, BARE = "BigNAS", "single path", "BigNAS, no calibration"


@dataclass(frozen=True)
class Setting:
    """Data and recipe.

    Attributes:
        data: Splits at the largest side.
        recipe: Of the supernet; a child alone has the same.
    """

    data: Splits
    recipe: Recipe


@dataclass
class Scores:
    """Accuracies, one list of the children's a seed.

    Attributes:
        by_arm: Arm -> seed by seed.
    """

    by_arm: dict[str, list[list[float]]] = field(default_factory=dict)

    def add(self, arm: str, values: Sequence[float]) -> None:
        """Those of one more seed."""
        self.by_arm.setdefault(arm, []).append(list(values))

    def means(self, arm: str, of: slice | None = None) -> list[float]:
        """Mean over some children, seed by seed."""
        return [fmean(values[of] if of is not None else values) for values in self.by_arm[arm]]


def small(run: Run, longer: int = 1) -> Setting:
    """1,000 pictures and 32 passes, in batches of 32: about 1,000 steps, and large children that overfit.

    Args:
        run: The run.
        longer: What the passes are multiplied by.
    """
    data = fashion(200, 100) if run.quick else fashion(1_000, 3_000)
    epochs = 1 if run.quick else 32 * longer
    recipe = Recipe(
        epochs=epochs,
        batch_size=32,
        lr=0.03,
        schedule="exponential",  # with its constant ending: 5 % of the peak from three quarters on
        gamma=0.05,
        decay_epochs=0.75 * epochs,
        floor=0.05,
        weight_decay=1e-5,
        label_smoothing=0.1,
        augment=False,
        precision="fp32",
    )
    return Setting(data, recipe)


def network(seed: int, *, zero: bool = True) -> Residual:
    """The largest network with fresh weights, every block the identity."""
    net = Residual(FULL, depth=DEPTHS[-1], kernel=KERNELS[-1])
    reinitialise_(net, seed)
    return net.zero_last_gamma() if zero else net


def supernet(net: nn.Module, setting: Setting) -> Elastic:
    """Widths, depths, kernels and resolutions of the sheet."""
    x, _ = next(setting.data.train.batches(2))
    return elastic(
        net,
        x,
        width=WIDTHS,
        depth=DEPTHS,
        kernel=KERNELS,
        resolution=SIDES,
        share={f"stage {i}": [f"stages.{i}*"] for i in range(len(FULL))},
    )


def children(sup: Elastic, count: int = CHILDREN) -> list[Choice]:
    """Sub-networks nearest to even steps between the least and the greatest cost, ascending.

    Args:
        sup: The supernet.
        count: How many.
    """
    rng = np.random.default_rng(0)
    drawn = [sup.space.min(), sup.space.max(), *[sup.space.sample(rng) for _ in range(DRAWS)]]
    macs = sup.costs(drawn)[:, 0].astype(float)
    steps = np.geomspace(macs[0], macs[1], count)
    return [drawn[int(np.abs(np.log(macs) - np.log(step)).argmin())] for step in steps]


def trained(
    sup: Elastic, setting: Setting, seed: int, sampler: Sampler, rule: Rule, device: str, **recipe: object
) -> tuple[Elastic, Paths]:
    """A supernet trained by an arm's rule, and what that computed."""
    paths = Paths(sampler, rule, "max-only" if isinstance(rule, InplaceDistill) else "all")
    given = dataclasses.replace(setting.recipe, seed=seed, **recipe)  # type: ignore[arg-type]
    fitted = train(sup, setting.data, given, paths=paths, device=device)
    assert isinstance(fitted.model, Elastic)
    return fitted.model, paths


def bignas(sup: Elastic, setting: Setting, seed: int, device: str) -> tuple[Elastic, Paths]:
    """The method: sandwich, in-place distillation, regularisation of the largest alone."""
    return trained(sup, setting, seed, samplers.Sandwich(2, seed), InplaceDistill(), device)


def inherited(
    sup: Elastic, chosen: Sequence[Choice], setting: Setting, device: str, *, calibrate: bool = True
) -> list[float]:
    """Test accuracies of children with the supernet's weights."""
    found = []
    for choice in chosen:
        if calibrate:
            sup.calibrate(setting.data.train.batches(100), choice, limit=CALIBRATION)
        else:
            sup.statistics.pop(choice, None)
        sup.set(choice)
        found.append(evaluate(sup, setting.data.test, device=device).accuracy)
    return found


def alone(sup: Elastic, choice: Choice, setting: Setting, seed: int, device: str) -> float:
    """Test accuracy of a child trained from fresh weights with the supernet's recipe."""
    child = nn.Sequential(Resize(int(choice["resolution"])), sup.extract(choice))
    reinitialise_(child, seed)
    for module in child.modules():
        if isinstance(module, ResidualBlock):
            nn.init.zeros_(module.norm2.weight)
    recipe = dataclasses.replace(setting.recipe, seed=seed)
    made = fit(child, setting.data, recipe, device=device).model
    return evaluate(made, setting.data.test, device=device).accuracy


def headline(run: Run) -> None:
    """BigNAS against the children alone, single-path training and uncalibrated statistics."""
    setting = small(run)
    _settings(run, setting)
    scores, chosen, macs = Scores(), [], [0]
    with one_thread():
        for seed in run.seeds(3):
            sup = supernet(network(seed), setting)
            chosen = children(sup, 3 if run.quick else CHILDREN)
            macs = sup.costs(chosen)[:, 0].tolist()
            big, paths = bignas(sup, setting, seed, run.device)
            scores.add(BIG, inherited(big, chosen, setting, run.device))
            scores.add(BARE, inherited(big, chosen, setting, run.device, calibrate=False))
            single, _ = trained(sup, setting, seed, samplers.Uniform(seed, draws=4), HardLabels(), run.device)
            scores.add(SINGLE, inherited(single, chosen, setting, run.device))
            scores.add("alone", [alone(sup, c, setting, seed, run.device) for c in chosen])
            run.log(f"seed {seed}: " + "; ".join(f"{a} {fmean(v[-1]):.4f}" for a, v in scores.by_arm.items()))
            run.settings["multiply-accumulates of BigNAS's training"] = paths.macs
    _measure(run, scores, macs)
    run.tried(
        "on validation pictures of a seed that is not used here: 320 steps of 100 pictures at 0.1, where the "
        "children were 6 - 10 points below those trained alone; 1,000 and 2,000 steps of 32 at 0.1 and 0.03, "
        "of 1,000, 2,000 and 4,000 pictures, with (8, 16, 32) and (4, 8, 16) channels; RMSProp at 0.003 and "
        "0.01, which did not train. The nearest to networks trained alone (0.6 points below, three children) "
        "were 2,000 steps on 1,000 pictures, more than this run has time for: a further arm trains longer"
    )


def _settings(run: Run, setting: Setting) -> None:
    run.settings |= {
        "data": f"Fashion-MNIST, 14 px, {len(setting.data.train):,} and {len(setting.data.test):,} pictures",
        "network": f"residual, {len(FULL)} stages, up to {FULL} channels, {DEPTHS} blocks, kernels {KERNELS}",
        "recipe": dataclasses.asdict(setting.recipe),
        "passes": "four forward-backwards a step in both arms",
    }


def _measure(run: Run, scores: Scores, macs: Sequence[int]) -> None:
    run.measure("children's multiply-accumulates, largest by smallest", max(macs) / min(macs))
    gap = paired(scores.means(BIG), scores.means("alone"))
    run.measure("inherited less trained alone, mean of eight children", *gap)
    worst = [
        paired([s[k] for s in scores.by_arm[BIG]], [s[k] for s in scores.by_arm["alone"]])
        for k in range(len(macs))
    ]
    run.measure("inherited less trained alone, the worst child", *min(worst))
    above = paired(scores.means(BIG), scores.means(SINGLE))
    run.measure("BigNAS above single-path training, mean of eight children", *above)
    middle = slice(len(macs) // 4, len(macs) - len(macs) // 4)
    lost = paired(scores.means(BIG, middle), scores.means(BARE, middle))
    run.measure("accuracy lost without batch-norm calibration, middle children", *lost)
    table(run, "Children", scores.by_arm, macs)
    lines = [(arm, _line(scores.by_arm[arm], macs)) for arm in (BIG, SINGLE, "alone")]
    panel = Panel("Accuracy of children", "test accuracy", "multiply-accumulates, millions", log_x=True)
    for arm, points in lines:
        panel.line(arm, points)
    run.plot(figure("BigNAS on a small residual network", [panel]))


def _line(values: Sequence[Sequence[float]], macs: Sequence[int]) -> list[tuple[float, float]]:
    return [(m / 1e6, fmean(seed[k] for seed in values)) for k, m in enumerate(macs)]


def table(run: Run, title: str, by_arm: Mapping[str, Sequence[Sequence[float]]], macs: Sequence[int]) -> None:
    """Add the mean accuracies of the children, in per cent.

    Args:
        run: The run.
        title: Of the table.
        by_arm: Arm -> seed by seed, children in order.
        macs: Their costs.
    """
    columns = ("arm", *[f"{m / 1e6:.2f} M" for m in macs], "mean")
    rows: list[tuple[Cell, ...]] = []
    for arm, values in by_arm.items():
        means = [100 * fmean(seed[k] for seed in values) for k in range(len(macs))]
        rows.append((arm, *means, fmean(means)))
    run.table(title, columns, rows, "Test accuracy in per cent by multiply-accumulates, mean over the seeds.")
