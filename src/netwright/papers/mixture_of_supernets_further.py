"""Further arms of Mixture-of-Supernets: masked symbols, and the steps and the memory of training further."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from statistics import fmean

import torch
from torch import nn

from netwright.metrics import allocated_peak
from netwright.nas import Choice
from netwright.papers.mixture_of_supernets_small import (
    NEURON,
    SINGLE,
    STORES,
    Bits,
    Setting,
    describe,
    masked,
    text,
)
from netwright.papers.run import Cell, Run, one_thread
from netwright.papers.sparse_parts import paired
from netwright.supernets import Elastic

#: Steps between two looks at a network that is trained further.
EVERY = 20
ARMS = (SINGLE, NEURON)


def measure(run: Run) -> None:
    """Measure every claim of the further scope."""
    with one_thread():
        _masked(run)
        _retraining(run)
        _memory(run)


def _masked(run: Run) -> None:
    setting = Setting(masked(text(run.quick)), run.quick, run.device, causal=False)
    sup = setting.supernet(0)
    every = sorted(sup.space.enumerate(), key=sup.macs)
    choices = every[::9] if run.quick else every
    run.settings |= describe(setting)
    found: dict[str, list[Bits]] = {a: [] for a in ARMS}
    winners: dict[str, dict[str, list[float]]] = {a: {"small": [], "middle": []} for a in ARMS}
    budgets = {"small": sup.cost(every[len(every) // 3]).params, "middle": sup.cost(every[-9]).params}
    for seed in run.seeds():
        for arm in ARMS:
            made = setting.trained(seed, STORES[arm])
            test = setting.inherited(made, choices)
            judged = setting.inherited(made, choices, setting.data.val)
            found[arm].append(test)
            for name, most in budgets.items():
                allowed = [c for c in choices if sup.cost(c).params <= most]
                winners[arm][name].append(test[min(allowed, key=lambda c: judged[c])])
            run.log(f"seed {seed}, masked, {arm}: {fmean(test.values()):.3f} bits")
    means = {a: [fmean(b.values()) for b in found[a]] for a in ARMS}
    run.measure(
        "masked symbols: neuron-wise below one store, bits a symbol", *paired(means[SINGLE], means[NEURON])
    )
    for name, most in budgets.items():
        run.measure(
            f"masked symbols: winner of the {name} budget below one store's",
            *paired(winners[SINGLE][name], winners[NEURON][name]),
            f"at most {most:,} parameters, chosen on the validation split",
        )


def _retraining(run: Run) -> None:
    """Steps until inherited weights are as good as training alone, five networks."""
    setting = Setting(text(run.quick), run.quick, run.device)
    sup = setting.supernet(0)
    every = sorted(sup.space.enumerate(), key=sup.macs)
    choices = [every[i] for i in ((0, -1) if run.quick else (0, 6, 13, 20, 26))]
    truth = {c: setting.bits(setting.alone(c, run.seed)) for c in choices}
    steps: dict[str, list[float]] = {a: [] for a in ARMS}
    rows: list[tuple[Cell, ...]] = []
    for seed in run.seeds():
        for arm in ARMS:
            made = setting.trained(seed, STORES[arm])
            taken = [_steps(setting, made, c, truth[c], seed) for c in choices]
            steps[arm].append(fmean(taken))
            rows.append((seed, arm, *taken))
            run.log(f"seed {seed}, retraining, {arm}: {taken}")
    ratio = [a / b if b else math.inf for a, b in zip(steps[NEURON], steps[SINGLE], strict=True)]
    if all(math.isfinite(r) for r in ratio):
        run.measure("steps of retraining, neuron-wise by one store", *paired(ratio, [0.0] * len(ratio)))
    run.table(
        "Steps of retraining until a sub-network is as good as trained alone",
        ("seed", "store", *(_name(c) for c in choices)),
        rows,
        f"Looked at every {EVERY} steps; those that were not as good count as all steps of one training.",
    )


def _memory(run: Run) -> None:
    """Tensors that a step of the largest sub-network holds at most: with weights and what AdamW keeps."""
    setting = Setting(text(run.quick), run.quick, run.device)
    x, y = (t.to(run.device) for t in next(setting.data.train.batches(24)))
    peaks = []
    for arm in (NEURON, SINGLE):
        sup = setting.supernet(0, STORES[arm]).to(run.device).train()
        optimizer = torch.optim.AdamW(sup.parameters(), lr=3e-3)

        def step(sup: Elastic = sup, optimizer: torch.optim.Optimizer = optimizer) -> None:
            nn.functional.cross_entropy(sup(x), y).backward()
            optimizer.step()

        weights = sum(p.numel() * p.element_size() for p in sup.parameters())
        peaks.append(weights + allocated_peak(step, run.device))
    note = f"{peaks[0] / 1e6:.1f} by {peaks[1] / 1e6:.1f} MB of tensors, 24 pieces of {x.shape[1]} symbols"
    run.measure("peak memory of a step, neuron-wise by one store", peaks[0] / peaks[1], note=note)


def _steps(setting: Setting, made: Elastic, choice: Choice, goal: float, seed: int) -> float:
    """Steps of AdamW at a constant rate, a third of the peak, until the test bits are those of the goal."""
    model = made.extract(choice)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    generator = torch.Generator().manual_seed(seed)
    most = len(setting.data.train) // 24
    order: Sequence[int] = torch.randperm(len(setting.data.train), generator=generator).tolist()
    for step in range(most):
        if step % EVERY == 0 and setting.bits(copy.deepcopy(model).eval()) <= goal:
            return float(step)
        part = setting.data.train.subset(order[24 * step : 24 * (step + 1)])
        x, y = next(part.batches(24))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model.train()(x), y).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return float(most)


def _name(choice: Choice) -> str:
    return f"{choice['width:embedding']}/{choice['width:ffn']}/{choice['depth:blocks']}"
