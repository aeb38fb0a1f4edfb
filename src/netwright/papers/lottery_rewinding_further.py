"""Lottery rewinding, further arms: two more steps among the earliest, and the controls of one step."""

from __future__ import annotations

import dataclasses

from netwright.papers.lottery_rewinding_parts import Tickets, find_tickets, score, train_dense
from netwright.papers.lottery_rewinding_small import (
    gains_over_start,
    residual_network,
    residual_setting,
)
from netwright.papers.plot import Panel, figure
from netwright.papers.run import Cell, Run, one_thread
from netwright.papers.sparse_parts import accuracy_table, mean_deviation, paired
from netwright.pruning.masks.selection import shuffled
from netwright.pruning.schedules.cycles import CycleRun, Cycles, lottery

_REWIND = 0.05
_STEPS = (0.0, 0.005, 0.025, _REWIND)
TICKET, FRESH, SHUFFLED = "rewound to 5 %", "fresh weights, same mask", "mask shuffled within layers"
ONE_SHOT, RATE, TUNED = "one shot, rewound to 5 %", "learning rate rewound to 5 %", "fine-tuned"


def measure(run: Run) -> None:
    """Earlier steps, and what else could be done with the same budget."""
    with one_thread():
        _measure(run)


def _measure(run: Run) -> None:
    setting = residual_setting(run)
    found: dict[float, list[Tickets]] = {k: [] for k in _STEPS}
    arms: dict[str, list[float]] = {"dense": []}
    for seed in run.seeds(3):
        dense = train_dense(run, residual_network(run, setting, seed), setting, seed, _STEPS)
        arms["dense"].append(dense.accuracy)
        for k in _STEPS:
            found[k].append(find_tickets(run, dense, setting, k))
        ticket = found[_REWIND][-1]
        masks, cycles = ticket.masks[-1], ticket.run
        fresh = residual_network(run, setting, seed + 100).state_dict()
        from_start = find_fresh(cycles)
        models = {
            FRESH: from_start.train_ticket(masks, weights=fresh).model,
            SHUFFLED: cycles.train_ticket(shuffled(masks, seed)).model,
        }
        kept = ticket.kept[-1]
        recipe = dataclasses.replace(setting.recipe, seed=seed)
        tail = dataclasses.replace(recipe, schedule="constant", lr=recipe.lr / 100)
        plans = {
            ONE_SHOT: lottery(1 - kept, 1, rewind=cycles.start),
            RATE: Cycles(1 - kept, 1, cycles.start, what="lr"),
            TUNED: Cycles(1 - kept, 1, what="none", retrain=tail),
        }
        for name, plan in plans.items():
            again = CycleRun(
                dense.model,
                setting.data,
                recipe,
                plan,
                exclude=setting.exclude,
                seed=seed,
                device=run.device,
                dense=dense.trained,
                early=dense.early[cycles.start],
            )
            models[name] = list(again)[-1].model
        arms.setdefault(TICKET, []).append(ticket.accuracy[-1])
        for name, model in models.items():
            arms.setdefault(name, []).append(score(run, model, setting))
        run.log(f"seed {seed}: " + ", ".join(f"{n} {v[-1]:.4f}" for n, v in arms.items()))
    accuracy_table(
        run,
        f"ResNet-14 with {100 * found[0.0][0].kept[-1]:.1f} % of its convolutions",
        arms,
        TICKET,
        "Fresh weights train from the first step. One shot, rate and fine-tuning prune the dense network "
        "once; fine-tuning has the last learning rate of the dense training and as many steps.",
    )
    gain = gains_over_start(found, (0.025,))
    run.measure("rewinding to 2.5 % above step 0, sparsest two levels", *paired(gain, [0.0] * len(gain)))
    for arm, words in ((FRESH, "fresh weights in the same mask"), (SHUFFLED, "a shuffled mask")):
        run.measure(f"rewinding to 5 % above {words}, 4.7 % kept", *paired(arms[TICKET], arms[arm]))
    levels = range(len(found[0.0][0].kept))
    rows: list[tuple[Cell, ...]] = [
        (f"{100 * k:g} %", *(100 * mean_deviation([t.accuracy[i] for t in v])[0] for i in levels))
        for k, v in found.items()
    ]
    columns = ("rewound to", *(f"{100 * kept:.1f} % kept" for kept in found[0.0][0].kept))
    run.table("Test accuracy by rewinding to the earliest steps, %", columns, rows, "Means over the seeds.")
    panel = Panel("ResNet-14, the earliest steps", "test accuracy, %", x="rewound to, % of training")
    for i in (-2, -1):
        points = [(100 * k, 100 * mean_deviation([t.accuracy[i] for t in v])[0]) for k, v in found.items()]
        panel.line(f"{100 * found[0.0][0].kept[i]:.1f} % kept", points)
    run.plot(figure("Lottery tickets, further arms", [panel]))


def find_fresh(cycles: CycleRun) -> CycleRun:
    """The same levels, but of training from the first step: fresh weights have no step to go back to."""
    return CycleRun(
        cycles.model,
        cycles.data,
        cycles.recipe,
        lottery(rewind=0),
        exclude=("fc",),
        seed=cycles.seed,
        device=cycles.device,
    )
