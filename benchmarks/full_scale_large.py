"""Cases of `benchmarks.full_scale` on the networks of ImageNet and of super-resolution."""

from __future__ import annotations

import math
from typing import Any

import torch
from benchmarks.full_scale_frame import Setting, case, images, pictures, timed
from torch import nn

from netwright.data import resize_bicubic
from netwright.metrics import DeadRates, dead_neurons
from netwright.models import EDSR, SwinIR
from netwright.pruning import AP, Context, MaskState, Sparsity, choose, prunable_weights
from netwright.pruning.schedules.cycles import CycleRun, lottery
from netwright.pruning.schedules.schedule import Custom, Event, granet, shrink, static
from netwright.train import Recipe


def resnet50(setting: Setting) -> nn.Module:
    """ResNet-50 for 1000 classes, random weights."""
    import torchvision

    torch.manual_seed(0)
    return torchvision.models.resnet50().to(setting.device)


def steps(model: nn.Module, sparsity: Sparsity, count: int, setting: Setting) -> dict[str, Any]:
    """Train a few steps at 224 pixels; the first is measured apart, as it makes the optimiser's slots."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    found: dict[str, Any] = {}
    with timed(found, "masks", setting.device):
        sparsity.attach(model, optimizer, count)
    x, y = images(setting, 224)
    model.train()
    for i in range(count):
        optimizer.zero_grad()
        with timed(found, f"step{i + 1}", setting.device):
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        with timed(found, f"hold{i + 1}", setting.device):
            sparsity.step()
    state = MaskState.of(model)
    assert state is not None
    held = all(not bool(state.parameter(n)[~m].any()) for n, m in state.masks.items())
    slots = all(
        not bool(optimizer.state[state.parameter(n)]["momentum_buffer"][~m].any())
        for n, m in state.masks.items()
    )
    kept, total = sum(state.kept.values()), sum(m.numel() for m in state.masks.values())
    return {**found, "kept": kept, "weights": total, "held": held and slots, "batch": setting.batch}


@case("random-pruning")
def random_pruning(setting: Setting) -> dict[str, Any]:
    """A random mask of 20 % by ERK on ResNet-50, and one step."""
    return random_masks(resnet50(setting), setting)


@case("random-pruning-wide")
def random_pruning_wide(setting: Setting) -> dict[str, Any]:
    """The same on Wide ResNet-50-2."""
    import torchvision

    torch.manual_seed(0)
    return random_masks(torchvision.models.wide_resnet50_2().to(setting.device), setting)


def random_masks(model: nn.Module, setting: Setting) -> dict[str, Any]:
    """A random mask of 20 % by ERK, and one step."""
    sparsity = Sparsity(0.2, importance="random", allocation="erk", schedule=static())
    found = steps(model, sparsity, 1, setting)
    state = MaskState.of(model)
    assert state is not None
    densities = {n: k / state.masks[n].numel() for n, k in state.kept.items()}
    return {**found, "lowest": min(densities.values()), "highest": max(densities.values())}


@case("granet")
def granet_exchange(setting: Setting) -> dict[str, Any]:
    """GraNet's first event: from 50 % by ERK on, prune and exchange half of what is left; two steps."""
    model = resnet50(setting)
    plan = granet(initial=0.5, rate=0.5, begin=0, end=2, every=1)
    sparsity = Sparsity(0.2, schedule=plan)
    found = steps(model, sparsity, 3, setting)
    first = next(c for c in sparsity.changes if c.step == 1)
    return {**found, "pruned": first.pruned, "grown": first.grown, "keep1": first.keep}


@case("exchange")
def exchange(setting: Setting) -> dict[str, Any]:
    """One exchange by gradient alone: as many weights come as go."""
    model = resnet50(setting)
    events = {0: Event(0.2, importance="random", allocation="erk"), 1: Event(rate=0.3)}
    sparsity = Sparsity(0.2, schedule=Custom(events=events))
    found = steps(model, sparsity, 1, setting)
    return {**found, "pruned": sparsity.changes[-1].pruned, "grown": sparsity.changes[-1].grown}


@case("lottery-rewinding")
def lottery_rewinding(setting: Setting) -> dict[str, Any]:
    """Two levels of iterative pruning with rewinding to step 1, at 64 pixels."""
    model = resnet50(setting)
    data = pictures(1000, 2 * setting.batch, 64)
    recipe = Recipe(epochs=1, batch_size=setting.batch, lr=0.01, precision="fp32")
    run = CycleRun(model, data, recipe, lottery(0.2, rounds=1, rewind=1), device=setting.device)
    found: dict[str, Any] = {}
    levels = iter(run)
    for number in range(len(run.remaining)):
        with timed(found, f"level{number}", setting.device):
            level = next(levels)
        found[f"kept{level.level}"] = level.kept
        state = MaskState.of(level.model)
        assert state is not None
        found[f"held{level.level}"] = sum(state.kept.values()) == level.kept and all(
            not bool(state.parameter(n)[~m].any()) for n, m in state.masks.items()
        )
    ticket = run.ticket(level.masks).build(model)
    early = {n: t for n, t in run.early.items() if n in dict(ticket.named_parameters())}
    found["rewound"] = all(
        torch.equal(ticket.get_parameter(n), t * level.masks[n] if n in level.masks else t)
        for n, t in early.items()
    )
    return {**found, "weights": sum(run.sizes.values()), "batch": setting.batch, "pixels": 64}


@case("activating-while-pruning")
def activating(setting: Setting) -> dict[str, Any]:
    """One cycle's pruning of ResNet-50: the host alone, and with a tenth of it by AP; dead neuron rates."""
    model = resnet50(setting)
    names = prunable_weights(model)
    with torch.no_grad():
        start = {n: p + 1e-3 * torch.randn_like(p) for n, p in model.named_parameters()}
    context = Context(None, {}, start, 0.8)
    found: dict[str, Any] = {}
    for arm, importance in (("host", "magnitude"), ("ap", AP("magnitude", 0.02, exclude=("conv1",)))):
        with timed(found, arm, setting.device):
            masks = choose(model, names, 0.8, importance=importance, context=context)
        found[f"kept_{arm}"] = sum(int(m.sum()) for m in masks.values())
    with timed(found, "rates", setting.device):
        rates = DeadRates.together(dead_neurons(model, images(setting, 224)[0]).values())
    return {
        **found,
        "nodes": rates.nodes,
        "dynamic": rates.dynamic,
        "held": found["kept_ap"] == found["kept_host"],
    }


def enlarge(model: nn.Module, setting: Setting, pixels: int, exclude: tuple[str, ...]) -> dict[str, Any]:
    """Three steps of ISS-P to 5 %, the last of which prunes, four times larger from such patches."""
    model = model.to(setting.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-4, betas=(0.9, 0.99), weight_decay=0.0)
    sparsity = Sparsity(0.05, schedule=shrink(0.95, until=3), allocation="layerwise", exclude=exclude)
    sparsity.attach(model, optimizer, 3)
    generator = torch.Generator().manual_seed(0)
    high = torch.rand(setting.batch, 3, 4 * pixels, 4 * pixels, generator=generator)
    low = resize_bicubic(high, pixels, pixels).to(setting.device)
    high = high.to(setting.device)
    found: dict[str, Any] = {}
    for i in range(3):
        optimizer.zero_grad()
        with timed(found, f"step{i + 1}", setting.device):
            (model(low) - high).abs().mean().backward()
            optimizer.step()
        with timed(found, f"shrink{i + 1}", setting.device):
            sparsity.step()
    state = MaskState.of(model)
    assert state is not None
    sizes = {n: m.numel() for n, m in state.masks.items()}
    held = all(
        size - state.kept[n] == min(math.ceil(0.95 * size - 1e-9), int(0.995 * size))
        for n, size in sizes.items()
    )
    kept, total = sum(state.kept.values()), sum(sizes.values())
    return {**found, "kept": kept, "weights": total, "held": held, "batch": setting.batch, "pixels": pixels}


@case("iss-p-edsr-large")
def enlarge_edsr(setting: Setting) -> dict[str, Any]:
    """ISS-P on EDSR-Large, patches of 32 pixels (the paper's are 64)."""
    return enlarge(EDSR(4), setting, 32, ())


@case("iss-p-swinir-light")
def enlarge_swinir(setting: Setting) -> dict[str, Any]:
    """ISS-P on SwinIR-Light, patches of 64 pixels, the last convolution not pruned."""
    return enlarge(SwinIR(4), setting, 64, ("upsample",))
