"""The arms of MaskSparsity at one mask: baseline, global L1, MaskSparsity; removal and fine-tuning."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from netwright import models
from netwright.data import Splits, load
from netwright.models import ResNetCifar
from netwright.papers.plot import Panel, figure
from netwright.papers.run import Run
from netwright.papers.sparse_parts import fashion, mean_deviation, paired
from netwright.pruning.removal.cut import cut
from netwright.pruning.removal.initialisation import reinitialise_
from netwright.pruning.removal.mask_sparsity import mask_sparsity, sparse_train
from netwright.pruning.removal.scale_masks import mask_from, removed_scales
from netwright.pruning.schedules.penalties import L1, scales
from netwright.structure import Structure, trace
from netwright.train import Recipe, evaluate, factor, fit

GLOBAL, MASKED, DIRECT, PLAIN = "global L1", "MaskSparsity", "no sparse training", "plain training"
_BUDGET = "macs=0.5"
#: What a penalty may take off a scale in all, as a multiple of its initial value of 1; a step counts with the
#: momentum that follows it.
_REACH = 2.0


@dataclass
class Arm:
    """What was measured of one arm, one number a seed."""

    before: list[float] = field(default_factory=list)
    cut: list[float] = field(default_factory=list)
    unabsorbed: list[float] = field(default_factory=list)
    tuned: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    kept: list[float] = field(default_factory=list)
    gone: list[float] = field(default_factory=list)

    @property
    def lost(self) -> tuple[float, float]:
        """Accuracy lost at removal, and half an interval of it."""
        return paired(self.before, self.cut)


@dataclass(frozen=True)
class Setting:
    """Data, network, recipes and the strength of the penalty."""

    data: Splits
    base: Recipe
    sparse: Recipe
    tune: Recipe
    device: str

    @property
    def penalty(self) -> L1:
        """L1 whose reach over the sparse training is `_REACH`."""
        size = min(len(self.data.train), self.sparse.limit or len(self.data.train))
        steps = max(size // self.sparse.batch_size, 1) * self.sparse.epochs
        rates = sum(self.sparse.lr * factor(self.sparse.schedule, k, steps) for k in range(steps))
        return L1(_REACH * (1 - self.sparse.momentum) / rates)


def small(run: Run) -> Setting:
    """Fashion-MNIST at 14x14."""
    data = fashion(256, 100) if run.quick else fashion(10_000, 5_000)
    epochs = 1 if run.quick else 6
    base = Recipe(epochs=epochs, batch_size=128, lr=0.1, augment=False, precision="fp32")
    tune = dataclasses.replace(base, epochs=1 if run.quick else 2, lr=0.02)
    setting = Setting(data, base, base, tune, run.device)
    run.settings |= {
        "data": f"Fashion-MNIST at 14x14, {len(data.train):,} to train, {len(data.test):,} to test",
        "network": "residual, 8 layers, widths 16, 32, 64",
        "recipe": dataclasses.asdict(base),
        "strength of the penalty": setting.penalty.strength,
        "rule of the strength": f"the steps it takes sum to {_REACH}, with momentum (a scale begins at 1)",
        "removal": "constants of removed channels are absorbed (256 training pictures, no labels)",
    }
    return setting


def network(run: Run, data: Splits, seed: int) -> nn.Module:
    """The dense network before training."""
    widths = (8, 8, 16) if run.quick else (16, 32, 64)
    return reinitialise_(ResNetCifar(8, data.num_classes, data.shape[0], widths), seed)


def headline(run: Run) -> None:
    """The three ways at one mask, and plain training."""
    setting = small(run)
    arms = {name: Arm() for name in (DIRECT, GLOBAL, MASKED, PLAIN)}
    with run.timed("training"):
        for seed in run.seeds():
            _seed(run, setting, arms, seed)
    run.tried(
        "ten times this penalty (the same rule without momentum), seen before the rule was corrected: global "
        "L1 was down to 28 - 59 % before removal, MaskSparsity lost 7.6, -0.2 and 0.3 points at removal"
    )
    _tables(run, arms)
    masked, other = arms[MASKED], arms[GLOBAL]
    run.measure("accuracy lost at removal after MaskSparsity", *masked.lost)
    run.measure("accuracy lost at removal without sparse training", *arms[DIRECT].lost)
    run.measure("MaskSparsity above global L1 after fine-tuning", *paired(masked.tuned, other.tuned))
    ratios = [a / b for a, b in zip(masked.kept, other.kept, strict=True)]
    run.measure("mean kept scale of MaskSparsity by global L1's", *paired(ratios, [0.0] * len(ratios)))
    run.measure(
        "final training loss of global L1 above plain training", *paired(other.loss, arms[PLAIN].loss)
    )
    run.measure(
        "accuracy of MaskSparsity before removal against plain training",
        *paired(masked.before, arms[PLAIN].before),
    )


def _seed(run: Run, setting: Setting, arms: dict[str, Arm], seed: int) -> None:
    data = setting.data
    begin = network(run, data, seed)
    base = fit(begin, data, dataclasses.replace(setting.base, seed=seed), device=setting.device).model.cpu()
    recipe = dataclasses.replace(setting.sparse, seed=seed + 1_000)
    wide = sparse_train(base, data, recipe, setting.penalty, device=setting.device)
    net = trace(base, data.example())
    keep = mask_from(net, wide.model.cpu(), "budget", budget=_BUDGET)
    on = removed_scales(net, base, keep)
    narrow = sparse_train(base, data, recipe, setting.penalty, on, setting.device)
    plain = fit(base, data, recipe, device=setting.device)
    for name, fitted in ((GLOBAL, wide), (MASKED, narrow), (PLAIN, plain)):
        arms[name].loss.append(fitted.history[-1]["loss"])
    for name, model in ((GLOBAL, wide.model), (MASKED, narrow.model), (DIRECT, base), (PLAIN, plain.model)):
        _remove(setting, arms[name], net, model.cpu(), keep, on, seed)
        run.log(f"seed {seed}, {name}: {arms[name].before[-1]:.3f} -> {arms[name].cut[-1]:.3f}")


def _remove(
    setting: Setting,
    arm: Arm,
    net: Structure,
    model: nn.Module,
    keep: Tensor,
    on: dict[str, Tensor],
    seed: int,
) -> None:
    """Remove at the mask, fine-tune, and note everything."""
    found = {n: s.detach() for n, s in scales(model).items()}
    arm.kept.append(float(torch.cat([found[n][~m] for n, m in on.items()]).abs().mean()))
    arm.gone.append(float(torch.cat([found[n][m] for n, m in on.items()]).abs().mean()))
    arm.before.append(_accuracy(setting, model))
    sample = setting.data.train.head(256)
    pruned = cut(net, model, keep, repair="absorb", data=sample).model
    arm.cut.append(_accuracy(setting, pruned))
    arm.unabsorbed.append(_accuracy(setting, cut(net, model, keep).model))
    recipe = dataclasses.replace(setting.tune, seed=seed + 2_000)
    arm.tuned.append(_accuracy(setting, fit(pruned, setting.data, recipe, device=setting.device).model))


def _accuracy(setting: Setting, model: nn.Module) -> float:
    return evaluate(model, setting.data.test, device=setting.device).accuracy


def _tables(run: Run, arms: dict[str, Arm]) -> None:
    rows, panel = [], Panel("accuracy: before removal, after it, fine-tuned", "accuracy, %")
    for name, arm in arms.items():
        cells = [mean_deviation(v)[0] for v in (arm.before, arm.unabsorbed, arm.cut, arm.tuned)]
        scale = [mean_deviation(v)[0] for v in (arm.kept, arm.gone)]
        loss = mean_deviation(arm.loss)[0] if arm.loss else None
        rows.append((name, *(100 * c for c in cells), *scale, loss))
        for when, values in (("before", arm.before), ("cut", arm.cut), ("tuned", arm.tuned)):
            mean, deviation = mean_deviation(values)
            panel.bar(f"{name}, {when}", 100 * mean, 100 * deviation)
    columns = (
        "arm", "before, %", "cut, %", "cut and absorbed, %", "fine-tuned, %", "kept scales", "removed scales",
        "training loss",
    )  # fmt: skip
    run.table(f"One mask, {_BUDGET}", columns, rows, "Means over the seeds; scales in absolute value.")
    run.plot(figure("MaskSparsity on Fashion-MNIST", [panel], columns=1, width=760, height=360))


def masks(run: Run) -> None:
    """MaskSparsity with masks from other rules, at the same budget."""
    setting = small(run)
    rules = {"L1 norm": "magnitude-l1", "FPGM": "fpgm", "random": "random"}
    arms = {name: Arm() for name in rules}
    with run.timed("training"):
        for seed in run.seeds():
            data, begin = setting.data, network(run, setting.data, seed)
            base = fit(
                begin, data, dataclasses.replace(setting.base, seed=seed), device=setting.device
            ).model.cpu()
            net = trace(base, data.example())
            recipe = dataclasses.replace(setting.sparse, seed=seed + 1_000)
            for name, importance in rules.items():
                keep = mask_from(net, base, budget=_BUDGET, importance=importance, data=data.train, seed=seed)
                on = removed_scales(net, base, keep)
                sparse = sparse_train(base, data, recipe, setting.penalty, on, setting.device)
                arms[name].loss.append(sparse.history[-1]["loss"])
                _remove(setting, arms[name], net, sparse.model.cpu(), keep, on, seed)
    _tables(run, arms)
    named = {"L1 norm": "by L1 norm", "FPGM": "by FPGM", "random": "at random"}
    for name, arm in arms.items():
        run.measure(f"accuracy lost at removal, mask {named[name]}", *arm.lost)


def full(run: Run, path: Path) -> None:
    """ResNet-110 on small images, ResNet-50 on large ones: the released recipe through all stages."""
    from netwright.papers.masksparsity import FULL

    run.scope = FULL
    data = load(str(path))
    if run.quick:
        data = dataclasses.replace(
            data, train=data.train.head(64), val=data.val.head(2), test=data.test.head(32)
        )
    little = data.shape[-1] <= 64
    name = "resnet110" if little else "resnet50"
    model = models.load(name, num_classes=data.num_classes, in_channels=data.shape[0]).model
    model = reinitialise_(model, run.seed)
    epochs = 1 if run.quick else 160 if little else 100
    batch = 16 if run.quick else 128 if little else 256
    base = Recipe(epochs=epochs, batch_size=batch, lr=0.1, weight_decay=1e-4, schedule="step", seed=run.seed)
    tune = dataclasses.replace(base, lr=5e-4, epochs=1 if run.quick else 40)
    run.settings |= {"network": name, "recipe": dataclasses.asdict(base), "penalty": 5e-4}
    dense = fit(model, data, base, device=run.device).model.cpu()
    before = evaluate(dense, data.test, device=run.device).accuracy
    budget = f"macs={0.3697 if little else 0.4893}"
    pruned = mask_sparsity(dense, data.example(), budget, data, base, tune=tune, device=run.device)
    after = evaluate(pruned.model, data.test, device=run.device).accuracy
    share = pruned.after.macs / pruned.before.macs
    run.table(
        "Full scale",
        ("network", "dense, %", "pruned, %", "MACs kept"),
        [(name, 100 * before, 100 * after, share)],
    )
    run.measure("accuracy lost by pruning, fine-tuned, full scale", before - after, 0.0)
