"""Mixture-of-Supernets on translation: from the spelling of words to phonemes, by an encoder and a decoder.

The words are WordNet's; what they are translated to is what the published network of letters to phonemes
(g2p-en) writes, not a dictionary: both supernets learn to write as it does.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from netwright.data import Part, Splits, fetch
from netwright.errors import DataError
from netwright.metrics import bleu
from netwright.models import EncoderDecoder, GraphemeToPhoneme
from netwright.models.zoo.phonemes import GRAPHEMES, PHONEMES, word_symbols
from netwright.nas import Choice, hypervolume
from netwright.papers.mixture_of_supernets_small import NEURON, SINGLE, STORES
from netwright.papers.run import Cell, Run, drawing, one_thread
from netwright.papers.sparse_parts import TRANSFORMER, paired
from netwright.supernets import Elastic, HardLabels, Paths, elastic, samplers, train
from netwright.train import Recipe

#: Letters of a word and phonemes of it, at most; each with a mark of the end.
LETTERS, SOUNDS = 12, 14
WIDTHS, HIDDEN, HEADS, DEPTHS = (32, 48, 64), (64, 128, 192), (2, 4), (2, 3)
_BEGIN, _END = PHONEMES.index("<s>"), PHONEMES.index("</s>")


class Pairs(nn.Module):
    """An encoder-decoder that takes what is read and what was written side by side, as a training gives it.

    Args:
        network: The encoder-decoder; it is used, not copied.
    """

    def __init__(self, network: EncoderDecoder) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """(B, letters + phonemes) whole numbers of any type -> (B, targets, phonemes)."""
        x = x.long()
        scores: Tensor = self.network(x[:, : LETTERS + 1], x[:, LETTERS + 1 :])
        return scores


@dataclass(frozen=True)
class Translation:
    """Words and their phonemes.

    Attributes:
        splits: Pairs to learn from and to test on.
        references: Phonemes of the words to test on.
    """

    splits: Splits
    references: list[list[int]]

    @property
    def letters(self) -> Tensor:
        """Letters of the words to test on, (N, T) int64."""
        x, _ = next(self.splits.test.batches(len(self.splits.test)))
        return x[:, : LETTERS + 1].long()


def measure(run: Run) -> None:
    """Measure the claim on translation."""
    sizes = (256, 20) if run.quick else (19_200, 300)
    with one_thread():
        data = translation(*sizes)
        first = supernet(data.splits, 0, SINGLE)
        choices = sample(first, 3 if run.quick else 24)
        waits = latencies(first, choices, data.letters[:3], rounds=1 if run.quick else 5)
        recipe = dataclasses.replace(TRANSFORMER, batch_size=64)
        run.settings["translation"] = {
            "data": f"{sizes[0]:,} lemmas of WordNet 3.0 to train and {sizes[1]} to test; their phonemes are "
            "written by the network of g2p-en 2.1.0",
            "space": f"embedding {WIDTHS}, hidden {HIDDEN} of encoder and decoder, heads {HEADS}, 1 or 2 "
            f"blocks of the encoder, 1 to 3 of the decoder; {first.space.size()} sub-networks",
            "sampler": "the largest, the smallest and a random sub-network of every batch, of both stores",
            "front": f"{len(choices)} sub-networks, the same of both stores; latency of greedy decoding of "
            f"{SOUNDS + 1} phonemes of one word, processor time, least of 5",
            "recipe": dataclasses.asdict(recipe),
        }
        found: dict[str, list[list[float]]] = {SINGLE: [], NEURON: []}
        for seed in run.seeds():
            for arm, each in found.items():
                made = _trained(run, data, recipe, seed, arm)
                each.append([score(made.extract(c), data) for c in choices])
                run.log(f"seed {seed}, translation, {arm}: BLEU {100 * fmean(each[-1]):.1f}")
    slowest = max(waits)
    relative = [wait / slowest for wait in waits]

    def areas(arm: str) -> list[float]:
        return [hypervolume(zip(relative, scores, strict=True), (1.1, 0.0)) for scores in found[arm]]

    run.measure(
        "translation: hypervolume of latency and BLEU, neuron-wise less one store's",
        *paired(areas(NEURON), areas(SINGLE)),
        "latencies by the slowest's, reference 1.1 and BLEU 0",
    )
    rows: list[tuple[Cell, ...]] = [
        (
            f"{c['depth:network.encoder']} + {c['depth:network.decoder']}",
            c["width:embedding"],
            c["width:heads"],
            f"{c['width:encoder hidden']}, {c['width:decoder hidden']}",
            1000 * wait,
            *(100 * fmean(s[i] for s in seeds) for seeds in found.values()),
        )
        for i, (c, wait) in sorted(enumerate(zip(choices, waits, strict=True)), key=lambda e: e[1][1])
    ]
    run.table(
        "Spelling to phonemes: latency and BLEU of sub-networks",
        ("blocks", "embedding", "heads", "hidden", "ms", *(f"BLEU, {arm}" for arm in found)),
        rows,
        "BLEU of phonemes, means over the seeds.",
    )


def _trained(run: Run, data: Translation, recipe: Recipe, seed: int, arm: str) -> Elastic:
    paths = Paths(samplers.Sandwich(1, seed), HardLabels())
    sup, own = supernet(data.splits, seed, arm), dataclasses.replace(recipe, seed=seed)
    made = train(sup, data.splits, own, paths=paths, device=run.device).model
    assert isinstance(made, Elastic)
    return made.eval()


def supernet(data: Splits, seed: int, arm: str) -> Elastic:
    """Embedding, hidden widths, heads and both depths can be chosen.

    Args:
        data: Pairs.
        seed: Of all weights.
        arm: Name of a store.
    """
    with drawing(seed):
        network = EncoderDecoder(
            len(GRAPHEMES), len(PHONEMES), SOUNDS + 2, WIDTHS[-1], HEADS[-1], HIDDEN[-1], DEPTHS
        )
    store = STORES[arm]
    ends = ["network.encoder.0.attn.proj", "network.decoder.0.attn.proj"]
    inner = {"encoder hidden": ["*.encoder.*.fc1"], "decoder hidden": ["*.decoder.*.fc1"]}
    heads = ["*.attn.q", "*.cross.q"]
    widths: dict[str, Any] = dict.fromkeys(ends, WIDTHS)
    widths |= {pattern: HIDDEN for patterns in inner.values() for pattern in patterns}
    widths |= dict.fromkeys(heads, HEADS)
    return elastic(
        Pairs(network),
        data.example(2),
        width=widths,
        share={"embedding": ends, **inner, "heads": heads},
        depth={"network.encoder": (1, 2), "network.decoder": (1, 2, 3)},
        store=None if store is None else dataclasses.replace(store, seed=seed),
    )


def sample(sup: Elastic, count: int) -> list[Choice]:
    """The smallest, the largest and others, drawn with a fixed seed."""
    rng = np.random.default_rng(0)
    found = dict.fromkeys([sup.complete(sup.space.min()), sup.blueprint.full])
    while len(found) < count:
        found[sup.space.sample(rng)] = None
    return list(found)


def latencies(sup: Elastic, choices: Sequence[Choice], letters: Tensor, rounds: int) -> list[float]:
    """Processor seconds that each takes to write one word, the least of some rounds in which they take turns.

    Args:
        sup: The supernet.
        choices: Its sub-networks, which are cut out.
        letters: (N, T) words; every round takes all of them.
        rounds: How many.
    """
    networks = [_inner(sup.extract(choice)).eval() for choice in choices]
    best = [float("inf")] * len(networks)
    for turn in range(rounds + 1):
        for i, network in enumerate(networks):
            for word in letters:
                begun = time.process_time()
                network.greedy(word[None], SOUNDS + 1, _BEGIN)
                if turn:  # the first warms up
                    best[i] = min(best[i], time.process_time() - begun)
    return best


def score(small: nn.Module, data: Translation) -> float:
    """BLEU of what a sub-network writes for the words to test on.

    Args:
        small: It, cut out.
        data: Words and references.
    """
    network = _inner(small).eval()
    letters = data.letters.to(network.head.weight.device)
    written = network.greedy(letters, SOUNDS + 1, _BEGIN).tolist()
    ended = [row[: row.index(_END)] if _END in row else row for row in written]
    return bleu(ended, data.references)


def _inner(pairs: nn.Module) -> EncoderDecoder:
    assert isinstance(pairs, Pairs)
    return pairs.network


def translation(train: int, test: int) -> Translation:
    """Words of WordNet and the phonemes that g2p-en writes for them.

    Args:
        train: Words to learn from, drawn with a fixed seed.
        test: Others to test on.

    Raises:
        DataError: if there are not as many.
    """
    every = words(fetch("wordnet"))
    order = torch.randperm(len(every), generator=torch.Generator().manual_seed(0)).tolist()
    teacher = GraphemeToPhoneme.from_npz(fetch("g2p-en") / "checkpoint20.npz").eval()
    chosen: list[tuple[str, list[str]]] = []
    for at in range(0, len(order), 500):
        some = [every[i] for i in order[at : at + 500]]
        chosen += [
            (word, sounds)
            for word, sounds in zip(some, teacher.spell(some, SOUNDS + 1), strict=True)
            if 0 < len(sounds) <= SOUNDS
        ]
        if len(chosen) >= train + test:
            break
    if len(chosen) < train + test:
        raise DataError(f"WordNet has {len(chosen)} such words, not {train + test}", "ask for fewer")
    x, y = _numbers(chosen[: train + test])
    learn, judge = (Part.from_tensors(x[a:b], y[a:b]) for a, b in ((0, train), (train, train + test)))
    splits = Splits("spelling", learn, learn.head(2), judge, PHONEMES)
    references = [[PHONEMES.index(s) for s in sounds] for _, sounds in chosen[train : train + test]]
    return Translation(splits, references)


def _numbers(chosen: Sequence[tuple[str, list[str]]]) -> tuple[Tensor, Tensor]:
    """Letters and the phonemes before each, side by side as floats, and the phonemes, -1 after the end."""
    letters = torch.zeros(len(chosen), LETTERS + 1, dtype=torch.int64)
    given = word_symbols([word for word, _ in chosen])
    letters[:, : given.shape[1]] = given
    before = torch.zeros(len(chosen), SOUNDS + 1, dtype=torch.int64)
    wanted = torch.full((len(chosen), SOUNDS + 1), -1)
    for row, (_, sounds) in enumerate(chosen):
        numbers = torch.tensor([PHONEMES.index(s) for s in sounds])
        before[row, 0], wanted[row, len(numbers)] = _BEGIN, _END
        before[row, 1 : len(numbers) + 1] = numbers
        wanted[row, : len(numbers)] = numbers
    return torch.cat([letters, before], dim=1).float(), wanted


def words(folder: Path) -> list[str]:
    """WordNet's lemmas of 3 to 12 of the letters a to z, once each, in alphabetical order.

    Args:
        folder: With WordNet's ``data.*`` files.

    Raises:
        DataError: if a file is missing or has a line of another form.
    """
    found: set[str] = set()
    for part in ("noun", "verb", "adj", "adv"):
        path = folder / f"data.{part}"
        try:
            for line in path.read_text(encoding="latin-1").splitlines():
                if not line.startswith("  "):  # the licence
                    fields = line.split(" ")
                    found.update(fields[4 : 4 + 2 * int(fields[3], 16) : 2])
        except (OSError, ValueError, IndexError) as error:
            hint = "run: netwright data fetch wordnet"
            raise DataError(f"{path} is no file of WordNet: {error}", hint) from error
    return sorted(w for w in found if 3 <= len(w) <= LETTERS and w.isascii() and w.isalpha() and w.islower())
