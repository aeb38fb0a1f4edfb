"""SortedNet on text: a language model of six layers that drafts with its first two."""

from __future__ import annotations

import torch

from netwright.data import Part, characters
from netwright.models import char_lm
from netwright.papers.run import Run, drawing
from netwright.supernets import Elastic, HardLabels, Paths, elastic, samplers, train
from netwright.supernets.network.decoding import greedy, speculative
from netwright.train import Recipe, evaluate

CONTEXT, DEPTHS = 64, (2, 4, 6)
#: Texts that are gone on with, symbols of each that are given, and that follow.
PROMPTS, GIVEN, FOLLOW = 20, 16, 48


def language(run: Run) -> None:
    """Train the sorted model and let it write.

    Args:
        run: Gets the claims on decoding.
    """
    data = characters(CONTEXT, limit=40_000 if run.quick else None)
    size = {"width": 32, "heads": 2} if run.quick else {"width": 64, "heads": 4}
    with drawing(run.seed):
        model = char_lm(len(data.classes), context=CONTEXT, depth=DEPTHS[-1], classes_first=True, **size)
    x, _ = next(data.train.batches(2))
    sup = elastic(model, x, depth=DEPTHS)
    recipe = Recipe(
        epochs=1 if run.quick else 6,
        batch_size=64,
        lr=3e-3,
        optimizer="adamw",
        weight_decay=0.01,
        clip_norm=1.0,
        precision="fp32",
        augment=False,
        seed=run.seed,
    )
    made = train(
        sup, data, recipe, paths=Paths(samplers.SortedPrefix(1, run.seed), HardLabels()), device=run.device
    )
    sorted_model = made.model.eval()
    assert isinstance(sorted_model, Elastic)
    (name,) = {d.name for d in sup.space.dims}
    accuracy = {}
    for depth in DEPTHS:
        accuracy[depth] = evaluate(sorted_model.set({name: depth}), data.test, device=run.device).accuracy
    rows = [(d, 100 * a) for d, a in accuracy.items()]
    run.table("Following symbol guessed", ("layers", "test accuracy, %"), rows)
    _write(run, sorted_model, name, data.test)


def _write(run: Run, sup: Elastic, name: str, part: Part) -> None:
    prompts, _ = next(part.batches(2 if run.quick else PROMPTS))
    same = plain = fewer = 0
    for prompt in prompts[:, :GIVEN].to(torch.int64):
        whole = greedy(sup.set(sup.blueprint.full), prompt, FOLLOW)
        fast = speculative(sup, {name: DEPTHS[0]}, prompt, FOLLOW)
        same += int(torch.equal(whole.symbols, fast.symbols))
        plain, fewer = plain + whole.passes, fewer + fast.passes
    run.measure("text drafted and verified equals the full model's", same / len(prompts))
    run.measure("full passes saved by drafting with the first two of six layers", plain / fewer)
