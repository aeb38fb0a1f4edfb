"""TangleNAS on the user's own images: AutoFormer's space, searched by DrNAS; its network trained alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from netwright.data import load
from netwright.papers.run import Run
from netwright.pruning.removal.initialisation import reinitialise_
from netwright.supernets import Differentiable
from netwright.supernets.spaces.autoformer import autoformer
from netwright.train import Recipe, evaluate, fit


def measure(run: Run, path: Path) -> None:
    """Search with the published settings, then train what is favoured; nothing is claimed of the accuracy."""
    data = load(path, limit=120 if run.quick else None)
    run.scope = "images"
    run.no_verdict("the published accuracies could not be confirmed from a primary text")
    side = data.shape[-1]
    patch = max(side // 14, 4)
    recipe = Recipe(
        epochs=500, batch_size=1024, lr=1e-3, optimizer="adamw", weight_decay=0.05, warmup_epochs=20,
        label_smoothing=0.1, seed=run.seed,
    )  # fmt: skip
    if run.quick:
        patch = side // 2
        recipe = dataclasses.replace(recipe, epochs=1, batch_size=16, warmup_epochs=0.0)
    run.settings |= {"search and training": dataclasses.asdict(recipe), "patch": patch}
    sup = autoformer("tiny", image=side, patch=patch, num_classes=data.num_classes, in_channels=data.shape[0])
    strategy = Differentiable("drnas", seed=run.seed, share=0.8)
    with run.timed("search"):
        found = strategy.train(sup, data, recipe, device=run.device)
    model = reinitialise_(found.sup.cpu().extract(found.choice), run.seed)
    trained = fit(model, data, recipe, device=run.device).model
    accuracy = evaluate(trained, data.test, device=run.device).accuracy
    cost = sup.cost(found.choice)
    depth = next(v for n, v in found.choice.items() if n.startswith("depth:"))
    width = found.choice["width:patches"]
    rows = [(width, depth, cost.params, cost.macs, 100 * accuracy)]
    run.table("AutoFormer-T's space", ("width", "depth", "parameters", "macs", "accuracy, %"), rows)
