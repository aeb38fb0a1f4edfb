"""Further arms of AP: other hosts, its components one by one, and a small vision transformer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from netwright._imports import require
from netwright.data import Splits
from netwright.metrics import DeadRates, dead_neurons
from netwright.papers.activating_parts import AWAKE, HOST, P, Panel, Point, Q, train_panel
from netwright.papers.activating_small import WIDTHS
from netwright.papers.activating_small import recipe as ordinary
from netwright.papers.plot import Panel as Plot
from netwright.papers.plot import figure
from netwright.papers.run import Cell, Run
from netwright.papers.sparse_parts import digits, mlp
from netwright.pruning import AP, MaskState, Sparsity
from netwright.pruning.removal.initialisation import reinitialise_
from netwright.pruning.schedules import schedule
from netwright.pruning.schedules.cycles import iterative, lottery
from netwright.pruning.schedules.schedule import Schedule
from netwright.train import Recipe, evaluate, fit

_LEVEL = 14
#: The transformer, whose trainings are long, is pruned within one to the share of this level.
_VIT_LEVEL, _VIT_EPOCHS = 11, 20
_HOSTS = {"gradient": "snip", "LAMP": "lamp", "SynFlow": "synflow"}
#: GraNet trains once; so long, in epochs.
_GRANET_EPOCHS = 60
#: An output of GELU this small counts as dead: our definition, the paper has none.
_NEARLY = 0.01
ALONE, KEPT, LITE = "AP alone", "AP without rewinding", "AP, last cycle only"


def recipe(run: Run, seed: int) -> Recipe:
    """The ordinary run's in two thirds of its epochs: there are many arms."""
    return dataclasses.replace(ordinary(run, seed), epochs=2 if run.quick else 10)


def measure(run: Run) -> None:
    """Measure the claims of the further scope."""
    data = digits(run.quick, raw=True)
    run.settings |= {
        "recipe": dataclasses.asdict(recipe(run, run.seed)),
        "GraNet": f"one training of {_GRANET_EPOCHS} epochs, a tenth of what goes at every event by AP",
        "ViT": f"4 blocks, 16 tokens of 2x2 pixels; one training of {_VIT_EPOCHS} epochs, pruned gradually, "
        "a tenth of what goes at every event by AP, which leaves the embedding to the host; GELU is dead "
        f"within {_NEARLY:g} of zero (our definition)",
    }
    plots = [_hosts(run, data), _components(run, data), _transformers(run, data)]
    run.plot(figure("AP: other hosts, components, transformer", plots, columns=2))


def _trained(run: Run, data: Splits, chosen: Mapping[str, Any], count: int, name: str) -> Panel:
    level = 2 if run.quick else _LEVEL
    return train_panel(
        run,
        lambda seed: mlp(WIDTHS, seed),
        data,
        lambda seed: recipe(run, seed),
        lottery(P, level, rewind=0),
        chosen,
        (level,),
        run.seeds(count),
        name=name,
    )


def _hosts(run: Run, data: Splits) -> Plot:
    """One line for every host: AP minus the host alone."""
    rows: list[tuple[Cell, ...]] = []
    plot = Plot("AP minus host at 96 % sparsity", "points of accuracy")
    for name, host in _HOSTS.items():
        with run.timed(name):
            panel = _trained(run, data, {HOST: host, AWAKE: AP(host, Q)}, 3, name)
        rows.append(_line(run, name, panel, plot))
    with run.timed("GraNet"):
        rows.append(_line(run, "GraNet", _granet(run, data), plot))
    columns = (
        "host",
        "kept",
        "accuracy of the host, %",
        "AP above host",
        "±",
        "dynamic rate, AP minus host",
        "± ",
    )
    run.table(
        "In tandem: AP on other hosts, MLP, 96 % sparsity",
        columns,
        rows,
        "Equal counts; ± is half a 95 % interval over the seeds.",
    )
    return plot


def _line(run: Run, name: str, panel: Panel, plot: Plot) -> tuple[Cell, ...]:
    level = max(panel.points[HOST])
    gain, drop = panel.gain(AWAKE, HOST, level), panel.drop(AWAKE, HOST, level)
    run.measure(f"accuracy of AP above host, {name}, 96 %", *gain)
    run.measure(f"dynamic rate, AP minus host, {name}, 96 %", *drop)
    plot.bar(name, 100 * gain[0], 100 * gain[1])
    accuracy = panel.accuracy(HOST, level)
    points = panel.points[HOST][level]
    assert not panel.counts_differ()
    share = 100 * sum(accuracy) / len(accuracy)
    return (name, points[0].kept, share, *(100 * v for v in gain), *(100 * v for v in drop))


def _once(
    run: Run,
    make: Callable[[int], nn.Module],
    data: Splits,
    once: Callable[[int], Recipe],
    plan: Schedule,
    keep: float,
    *,
    count: int,
    exclude: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
) -> Panel:
    """A schedule of one training, alone and with a tenth of every pruning by AP, to the same share."""
    panel = Panel()
    for seed in run.seeds(count):
        helped = AP("magnitude", share=Q / P, exclude=exclude)
        for arm, importance in ((HOST, "magnitude"), (AWAKE, helped)):
            callback = Sparsity(keep, importance=importance, schedule=plan, seed=seed)
            model = fit(make(seed), data, once(seed), device=run.device, callbacks=[callback]).model
            masks = MaskState.of(model)
            assert masks is not None
            rates = DeadRates.together(dead_neurons(model, data.test, **(options or {})).values())
            score = evaluate(model, data.test, device=run.device).accuracy
            panel.add(arm, {0: Point(sum(masks.kept.values()), masks.density, score, rates)})
            run.log(f"{type(plan).__name__} seed {seed} {arm}: {score:.1%}, dynamic rate {rates.dynamic:.1%}")
    return panel


def _granet(run: Run, data: Splits) -> Panel:
    def once(seed: int) -> Recipe:
        return dataclasses.replace(recipe(run, seed), epochs=2 if run.quick else _GRANET_EPOCHS)

    keep = (1 - P) ** _LEVEL
    return _once(run, lambda seed: mlp(WIDTHS, seed), data, once, schedule.granet(), keep, count=5)


def _components(run: Run, data: Splits) -> Plot:
    """AP without a host, without rewinding and in the last cycle only."""
    chosen = {
        HOST: "magnitude",
        AWAKE: AP("magnitude", Q),
        # Everything that goes is chosen by the waking half.
        ALONE: AP("magnitude", P),
        LITE: AP("magnitude", Q, ap_cycles="last"),
    }
    with run.timed("components"):
        panel = _trained(run, data, chosen, 3, "components")
        level = max(panel.points[HOST])
        other = train_panel(
            run,
            lambda seed: mlp(WIDTHS, seed),
            data,
            lambda seed: recipe(run, seed),
            iterative(P, level),
            {KEPT: AP("magnitude", Q)},
            (level,),
            run.seeds(3),
            name="components",
        )
    panel.points |= other.points
    panel.table(run, "Components of AP, MLP, 96 % sparsity")
    run.measure("accuracy of AP alone above host, MLP, 96 %", *panel.gain(ALONE, HOST, level))
    run.measure("accuracy of AP above AP without rewinding, MLP, 96 %", *panel.gain(AWAKE, KEPT, level))
    run.measure("accuracy of Lite above host, MLP, 96 %", *panel.gain(LITE, HOST, level))
    plot = Plot("Components: accuracy above the host, 96 % sparsity", "points")
    for arm in (AWAKE, ALONE, KEPT, LITE):
        gain, spread = panel.gain(arm, HOST, level)
        plot.bar(arm, 100 * gain, 100 * spread)
    return plot


def _vit(activation: type[nn.Module]) -> Callable[[int], nn.Module]:
    transformer = require("timm.models.vision_transformer", extra="vision").VisionTransformer

    def make(seed: int) -> nn.Module:
        model = transformer(
            img_size=8,
            patch_size=2,
            in_chans=1,
            num_classes=10,
            embed_dim=48,
            depth=4,
            num_heads=4,
            mlp_ratio=2,
            act_layer=activation,
        )
        return reinitialise_(model, seed)

    return make


def _transformers(run: Run, data: Splits) -> Plot:
    """AP on a small vision transformer that is pruned gradually, with ReLU and with GELU."""
    plot = Plot("ViT: AP minus host at 91 % sparsity", "points of accuracy")

    def once(seed: int) -> Recipe:
        epochs = 2 if run.quick else _VIT_EPOCHS
        return dataclasses.replace(
            recipe(run, seed), epochs=epochs, optimizer="adamw", lr=3e-3, weight_decay=0.05
        )

    for name, activation, count, options in (
        ("ReLU", nn.ReLU, 3, {}),
        ("GELU", nn.GELU, 1, {"smooth": True, "threshold": _NEARLY}),
    ):
        with run.timed(f"ViT with {name}"):
            panel = _once(
                run,
                _vit(activation),
                data,
                once,
                schedule.cubic(),
                (1 - P) ** _VIT_LEVEL,
                count=count,
                exclude=("patch_embed",),
                options=options,
            )
        panel.table(run, f"ViT with {name} in its MLPs, digits, gradual pruning")
        gain = panel.gain(AWAKE, HOST, 0)
        plot.bar(name, 100 * gain[0], 100 * gain[1])
        if name == "ReLU":
            run.measure("dynamic rate, AP minus host, ViT with ReLU, 91 %", *panel.drop(AWAKE, HOST, 0))
            run.measure("accuracy of AP above host, ViT with ReLU, 91 %", *gain)
    return plot
