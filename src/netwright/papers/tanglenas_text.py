"""TangleNAS on a transformer: embedding, heads, perceptrons and depth of a small language model."""

from __future__ import annotations

import dataclasses
import time

from netwright.nas.choice import Choice
from netwright.papers.mixture_of_supernets_small import FFN, WIDTHS, Setting, text
from netwright.papers.run import Cell, Run
from netwright.papers.sparse_parts import paired
from netwright.papers.tanglenas_small import DRNAS, METHODS, PUBLISHED_LR, PUBLISHED_STEPS, SPOS
from netwright.pruning.removal.initialisation import reinitialise_
from netwright.supernets import Differentiable, Elastic, elastic
from netwright.train import fit

HEADS = (1, 2, 3)
_EVALUATIONS = 50


def language_supernet(setting: Setting, seed: int) -> Elastic:
    """81 language models: one width of the embedding, heads, hidden width and depth for all blocks.

    Args:
        setting: Text and network.
        seed: Of the weights.
    """
    return elastic(
        setting.network(seed),
        setting.data.example(),
        width={"blocks.0.attn.proj": WIDTHS, "*.mlp.fc1": FFN},
        heads={"*.attn.qkv": HEADS},
        share={"embedding": ["blocks.0.attn.proj"], "ffn": ["*.mlp.fc1"], "heads": ["*.attn.qkv"]},
        depth=True,
    )


def measure(run: Run) -> None:
    """DrNAS and two-stage search, three seeds; what they find is trained alone."""
    setting = Setting(text(run.quick), run.quick, run.device)
    bits: dict[str, list[float]] = {DRNAS: [], SPOS: []}
    rows: list[tuple[Cell, ...]] = []
    for seed in run.seeds():
        spent: dict[str, float] = {}
        found: dict[str, Choice] = {}
        found[DRNAS], spent[DRNAS] = _search(setting, DRNAS, seed, 1)
        found[SPOS], spent[SPOS] = _search(setting, SPOS, seed, 1)
        epochs = round(spent[DRNAS] / spent[SPOS])
        if epochs > 1:  # as long as the gradient arm
            found[SPOS], spent[SPOS] = _search(setting, SPOS, seed, epochs)
        for name, choice in found.items():
            fresh = reinitialise_(language_supernet(setting, seed).extract(choice), seed)
            alone = fit(fresh, setting.data, setting.recipe(seed), device=run.device).model
            bits[name].append(setting.bits(alone))
            sizes = "-".join(str(v) for v in choice.values())
            rows.append((seed, name, sizes, bits[name][-1], spent[name]))
            run.log(f"language, seed {seed}, {name}: {sizes}, {bits[name][-1]:.3f} bits")
    columns = ("seed", "arm", "depth, width, heads, hidden", "bits a symbol, alone", "seconds of search")
    run.table("Language models found, trained alone", columns, rows, "Test pieces.")
    run.measure("language model: bits of DrNAS' network above SPOS'", *paired(bits[DRNAS], bits[SPOS]))


def _search(setting: Setting, name: str, seed: int, epochs: int) -> tuple[Choice, float]:
    """What one arm finds, and its processor time."""
    recipe = dataclasses.replace(setting.recipe(seed), epochs=epochs)
    steps = max(len(setting.data.train) // 2 // recipe.batch_size * epochs, 1)
    strategy = Differentiable(
        METHODS[name],
        seed=seed,
        evaluations=3 if setting.quick else _EVALUATIONS,
        judged=400,
        lr=PUBLISHED_LR * max(PUBLISHED_STEPS / steps, 1.0),
    )
    begun = time.process_time()
    found = strategy.train(language_supernet(setting, seed), setting.data, recipe, device=setting.device)
    return found.choice, time.process_time() - begun
