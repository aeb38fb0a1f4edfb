"""What the ISS-P recipes share: small data, arms, one training with what it does to the weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from netwright.data import PairSource, Part, Splits, load, super_resolution
from netwright.data.pairs import patches
from netwright.metrics import Enlarged, enlarging_quality
from netwright.papers.run import Cell, Run
from netwright.papers.sparse_parts import mean_deviation, paired
from netwright.pruning import MaskState, Sparsity
from netwright.pruning.schedules import schedule as schedules
from netwright.train import AbsoluteError, Callback, GradientNorms, Objective, Recipe, State, fit

SCALE = 2
RANDOM, INITIAL, TRAINED, IHT, ISSP = "random mask", "L1 at initialisation", "L1 from dense", "IHT", "ISS-P"
FAST, PENALTY, RUNS, DENSE = "fast ISS-P", "growing L2", "ISS-P, 19:20", "dense"
HEADLINE = (RANDOM, INITIAL, TRAINED, IHT, ISSP)
ALPHA, PHASE = 0.95, 0.6
#: Share of a layer that the fast variant looks at.
SAMPLE = 0.1
#: Steps between two looks at what would be pruned.
EVERY = 100
_SIDE = 28
#: Columns of a photograph that are trained on, and those that are tested on, as shares of its width.
_LEFT, _RIGHT = (0.0, 0.68), (0.7, 1.0)


@dataclass(frozen=True)
class Data:
    """Patches to train on and test sets by name."""

    splits: Splits
    tests: Mapping[str, PairSource]


def small_data(quick: bool) -> Data:
    """Fashion-MNIST of 28x28 pixels from 14x14, and patches of two photographs in grey.

    The right part of each photograph is for testing only.
    """
    train, test, cut = (64, 16, 16) if quick else (6_000, 1_000, 1_000)
    fashion = load("fashion-mnist", statistics=((0.0,), (1.0,)))
    high = [next(fashion.train.batches(train))[0]]
    low = [super_resolution(high[0], SCALE)[0]]
    generator = torch.Generator().manual_seed(0)
    rights: list[tuple[Tensor, Tensor]] = []
    for photo in _photographs():
        width = photo.shape[-1]
        left, right = (photo[..., round(a * width) : round(b * width)] for a, b in (_LEFT, _RIGHT))
        squares = patches(left, _SIDE, cut, generator)
        high.append(squares)
        low.append(super_resolution(squares, SCALE)[0])
        rights.append(super_resolution(right, SCALE))
    pairs = PairSource(_rounded(torch.cat(low)), torch.cat(high), SCALE, channels=1)
    part = Part(pairs)
    shown = next(fashion.test.batches(test))[0]
    tests = {
        "Fashion": PairSource(_rounded(super_resolution(shown, SCALE)[0]), shown, SCALE, 1),
        "photographs": PairSource([_rounded(p[0]) for p in rights], [p[1] for p in rights], SCALE, 1),
    }
    splits = Splits("fashion-mnist and photographs", part, part.head(2), part.head(2), (), "dihedral")
    return Data(splits, tests)


def _photographs() -> list[Tensor]:
    """The two photographs of scikit-learn, grey, (1, H, W) in 0..1."""
    from sklearn.datasets import load_sample_images

    grey = torch.tensor([0.299, 0.587, 0.114]).reshape(3, 1, 1)
    images = [torch.from_numpy(np.array(i)).permute(2, 0, 1).float() for i in load_sample_images().images]
    return [((image * grey).sum(0, keepdim=True)).round() / 255 for image in images]


def _rounded(images: Tensor) -> Tensor:
    """As 8 bits would have them."""
    return (images.clamp(0, 1) * 255).round() / 255


def sparsity(arm: str, keep: float, exclude: Sequence[str] = (), seed: int = 0) -> Sparsity | None:
    """The callback of an arm, None for dense training."""
    plans = {
        RANDOM: schedules.one_shot(0),
        INITIAL: schedules.one_shot(0),
        TRAINED: schedules.one_shot(0.5),
        IHT: schedules.shrink(0.0, PHASE),
        ISSP: schedules.shrink(ALPHA, PHASE),
        FAST: schedules.shrink(ALPHA, PHASE, SAMPLE),
        RUNS: schedules.shrink(ALPHA, PHASE),
        # As strong at the end of the phase as published, in fewer steps: 0.5 after 50 events.
        PENALTY: schedules.penalise(growth=0.01, every=PHASE / 50, limit=0.5, until=PHASE),
    }
    if arm == DENSE:
        return None
    from netwright.pruning import NM

    runs = {"granularity": NM(1, 20, dim=None), "allocation": "uniform"}
    return Sparsity(
        keep,
        importance="random" if arm == RANDOM else "magnitude",
        schedule=plans[arm],
        exclude=exclude,
        seed=seed,
        **(runs if arm == RUNS else {"allocation": "layerwise"}),  # type: ignore[arg-type]
    )


class Churn(Callback):
    """How much of what would be pruned changes between two looks.

    Args:
        callback: What chooses.
        every: Steps between two looks.

    Attributes:
        shares: Step -> share of the small weights that were not small at the look before.
    """

    def __init__(self, callback: Sparsity, every: int = EVERY) -> None:
        self.callback, self.every = callback, every
        self.shares: dict[int, float] = {}
        self._small: dict[str, Tensor] = {}

    def after_step(self, state: State) -> None:
        """See `Callback.after_step`."""
        if state.step % self.every:
            return
        masks = MaskState.of(state.model)
        pruned = masks is not None and masks.density < 1
        chosen = masks.masks if masks is not None and pruned else self.callback.chosen
        small = {n: ~m for n, m in chosen.items()}
        if small and self._small:
            fresh = sum(int((s & ~self._small[n]).sum()) for n, s in small.items())
            self.shares[state.step] = fresh / max(sum(int(s.sum()) for s in small.values()), 1)
        self._small = {n: s.clone() for n, s in small.items()}


@dataclass
class Trained:
    """One training of one arm.

    Attributes:
        quality: Test set -> quality.
        kept: Layer -> weights that stay; empty for dense training.
        churn: Step -> share of the small weights that changed.
        steps: When gradients were looked at.
        norms: Layer -> norms of its gradient.
    """

    quality: dict[str, Enlarged]
    kept: dict[str, int]
    churn: dict[int, float]
    steps: list[int]
    norms: dict[str, list[float]]

    def variances(self, until: float) -> dict[str, float]:
        """Variance of each layer's gradient norm over the steps up to one."""
        seen = [k for k, step in enumerate(self.steps) if step <= until]
        return {n: float(np.var([v[k] for k in seen])) for n, v in self.norms.items()}


def train_arm(
    run: Run,
    model: nn.Module,
    data: Data,
    recipe: Recipe,
    arm: str,
    keep: float,
    *,
    exclude: Sequence[str] = (),
    every: int = EVERY,
) -> Trained:
    """Train one arm and measure it on the test sets."""
    callback = sparsity(arm, keep, exclude, recipe.seed)
    norms = GradientNorms(every=max(every // 10, 1))
    callbacks: list[Callback] = [norms]
    churn = None
    if callback is not None:
        churn = Churn(callback, every)
        callbacks = [callback, churn, norms]
    objective = Objective(((1.0, AbsoluteError()),))
    fitted = fit(model, data.splits, recipe, device=run.device, objective=objective, callbacks=callbacks)
    device = next(fitted.model.parameters()).device
    quality = {n: enlarging_quality(fitted.model, p, device=device) for n, p in data.tests.items()}
    masks = MaskState.of(fitted.model)
    kept = masks.kept if masks is not None else {}
    return Trained(quality, kept, churn.shares if churn else {}, norms.steps, norms.norms)


@dataclass
class Arms:
    """Arm -> one training a seed."""

    found: dict[str, list[Trained]] = field(default_factory=dict)

    def psnr(self, arm: str, name: str) -> list[float]:
        """PSNR on a test set, seed by seed."""
        return [t.quality[name].psnr for t in self.found[arm]]

    def above(self, arm: str, other: str, name: str) -> tuple[float, float]:
        """PSNR of an arm above another's, with half a 95 % interval; over the seeds that both have."""
        count = min(len(self.found[arm]), len(self.found[other]))
        return paired(self.psnr(arm, name)[:count], self.psnr(other, name)[:count])

    def table(self, run: Run, title: str, bicubic: Mapping[str, Enlarged], baseline: str = RANDOM) -> None:
        """Add a table of PSNR and SSIM on every test set."""
        rows: list[tuple[Cell, ...]] = []
        for name, plain in bicubic.items():
            rows.append((name, "bicubic", None, plain.psnr, None, plain.ssim, None, None, None))
            for arm, trained in self.found.items():
                psnr, deviation = mean_deviation(self.psnr(arm, name))
                ssim = sum(t.quality[name].ssim for t in trained) / len(trained)
                more, half = self.above(arm, baseline, name)
                kept = sum(trained[0].kept.values()) or None
                rows.append((name, arm, kept, psnr, deviation, ssim, more, half, len(trained)))
        columns = (
            "set",
            "arm",
            "weights kept",
            "PSNR, dB",
            "deviation",
            "SSIM",
            f"above {baseline}",
            "±",
            "seeds",
        )
        run.table(
            title,
            columns,
            rows,
            "Of the luminance, without a border of the scale; ± is half a 95 % interval.",
        )


def train_arms(
    run: Run,
    make: Callable[[int], nn.Module],
    data: Data,
    recipe: Callable[[int], Recipe],
    arms: Mapping[str, Sequence[int]],
    keep: float,
    *,
    exclude: Sequence[str] = (),
    every: int = EVERY,
    name: str = "",
) -> Arms:
    """Train every arm with its seeds."""
    found = Arms()
    for arm, seeds in arms.items():
        for seed in seeds:
            trained = train_arm(run, make(seed), data, recipe(seed), arm, keep, exclude=exclude, every=every)
            found.found.setdefault(arm, []).append(trained)
            told = ", ".join(f"{n} {q.psnr:.2f} dB" for n, q in trained.quality.items())
            run.log(f"{name} {arm} seed {seed}: {told}")
    return found
