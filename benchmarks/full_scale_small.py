"""Cases of `benchmarks.full_scale` on networks that are small but deep or slow: ResNet-110, recurrence."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import torch
from benchmarks.full_scale_frame import Setting, case, pictures, timed
from torch import Tensor, nn

from netwright.models import GraphRNN, ResNetCifar, TokenClassifier
from netwright.papers.rnn_sparsity_graphs import WATTS, random_graph
from netwright.papers.rnn_sparsity_pruning import CELLS, FULL, build, masks_at
from netwright.pruning import MaskState
from netwright.pruning.removal.cut import cut
from netwright.pruning.removal.scale_masks import mask_from, removed_scales
from netwright.pruning.schedules.penalties import ScalePenalty
from netwright.pruning.systems.tas import Tas, search
from netwright.structure import trace
from netwright.train import Callback, Recipe, State, fit


def trained(found: dict[str, Any], name: str, setting: Setting, model: nn.Module, *inputs: Tensor) -> None:
    """Two training steps of Adam, of which the second is measured: the first makes the optimiser's slots."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    state = MaskState.of(model)
    handle = state.hold(optimizer) if state is not None else None
    x, y = inputs
    for measured in ({}, found):
        optimizer.zero_grad()
        with timed(measured, name, setting.device):
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    if handle is not None:
        handle.remove()


@case("rnn-sparsity")
def recurrent_cells(setting: Setting) -> dict[str, Any]:
    """The thesis' networks at its sizes: 128 letters, features and three layers of 50, strings of 54.

    Per cell a training step (32 strings), pruning at 90 % with the masks held, and a step after it; then a
    step (128 strings) of the largest random structure, of 50 nodes.
    """
    found: dict[str, Any] = {"batch": FULL.batch, "letters": FULL.longest}
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(1, 128, (128, FULL.longest), generator=generator).to(setting.device)
    y = torch.randint(2, (128,), generator=generator).to(setting.device)
    found["held"] = True
    for name, cell in CELLS.items():
        model = build(name, FULL, 0).to(setting.device)
        few = x[: FULL.batch], y[: FULL.batch]
        trained(found, f"{name}_step", setting, model, *few)
        with timed(found, f"{name}_masks", setting.device):
            state = MaskState(model, masks_at(model, 0.9, ("i2h", "h2h")))
        trained(found, f"{name}_held_step", setting, model, *few)
        found[f"{name}_weights"] = sum(m.numel() for m in state.masks.values())
        found[f"{name}_kept"] = sum(state.kept.values())
        found["held"] &= all(not bool(state.parameter(n)[~m].any()) for n, m in state.masks.items())
        wired = TokenClassifier(GraphRNN(random_graph(WATTS, 50, 0), cell, seed=0), last="padded")  # type: ignore[arg-type]
        trained(found, f"{name}_graph_step", setting, wired.to(setting.device), x, y)
    return found


class Clock(Callback):
    """Notes when steps were over."""

    def __init__(self) -> None:
        self.times: list[tuple[float, float]] = []

    def note(self) -> None:
        """Note the time, and that which the processor spent."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.times.append((time.perf_counter(), time.process_time()))

    def after_step(self, state: State) -> None:
        """See `note`."""
        self.note()

    def between(self, name: str) -> dict[str, float]:
        """What passed between the last two notes; the first step is another one, as it makes slots."""
        (begun, spent), (ended, used) = self.times[-2:]
        return {f"{name}_s": ended - begun, f"{name}_cpu_s": used - spent}


@case("masksparsity-resnet110")
def sparse_scales(setting: Setting) -> dict[str, Any]:
    """MaskSparsity on ResNet-110 at 32 pixels: a step without, with L1 on all scales and on the masked ones.

    Then the mask of half of the multiply-accumulates and the removal.
    """
    torch.manual_seed(0)
    model, found = ResNetCifar(110), {"batch": setting.batch, "pixels": 32}
    data = pictures(10, 2 * setting.batch, 32)
    recipe = Recipe(epochs=1, batch_size=setting.batch, lr=0.01, precision="fp32", augment=False)
    with timed(found, "trace", setting.device):
        net = trace(model, data.example(1))
    with timed(found, "mask", setting.device):
        keep = mask_from(net, model, "budget", budget="macs=0.5")
    on = removed_scales(net, model, keep)
    judged = dataclasses.replace(data, val=data.val.head(2))
    arms: dict[str, list[Any]] = {"plain": [], "all": [ScalePenalty("all")], "masked": [ScalePenalty(on)]}
    for arm, callbacks in arms.items():
        clock = Clock()
        fit(model, judged, recipe, device=setting.device, callbacks=[*callbacks, clock])
        found |= clock.between(f"{arm}_step")
    with timed(found, "removal", setting.device):
        pruned = cut(net, model, keep, repair="absorb", data=data.train)
    shares = {name: round(float(goes.double().mean()), 3) for name, goes in on.items()}
    found |= {"macs": net.macs, "macs_after": pruned.after.macs, "params": pruned.before.params}
    found |= {"params_after": pruned.after.params, "penalised": sum(v > 0 for v in shares.values())}
    return {**found, "held": pruned.after.macs <= 0.5 * net.macs}


@case("tas-resnet110")
def soft_widths(setting: Setting) -> dict[str, Any]:
    """TAS on ResNet-110 at 32 pixels: a step of the weights and one of the probabilities; then the shape."""
    torch.manual_seed(0)
    found: dict[str, Any] = {"batch": setting.batch, "pixels": 32}
    data = pictures(10, 2 * setting.batch, 32)
    recipe = Recipe(epochs=2, batch_size=setting.batch, lr=0.1, precision="fp32", augment=False)
    clock = Clock()
    with timed(found, "search", setting.device):
        searched = search(
            ResNetCifar(110),
            data.example(1),
            data.train,
            "macs=0.47",
            Tas(recipe),
            device=setting.device,
            progress=lambda record: clock.note(),
        )
    found |= clock.between("step_pair")
    with timed(found, "build", setting.device):
        model, _ = searched.soft.cut(searched.shape, ResNetCifar(110), 0)
    macs = trace(model, data.example(1)).macs
    found |= {"macs": searched.soft.net.macs, "macs_after": macs, "target": searched.target}
    return {**found, "held": macs == searched.shape.macs <= searched.target}
