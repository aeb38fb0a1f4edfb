"""SortedNet from a pre-trained network: MiniLM learns the classes of WordNet's glosses at 15 sizes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from statistics import fmean

import torch

from netwright.data import Part, Splits, fetch
from netwright.data.wordpiece import WordPiece
from netwright.errors import DataError
from netwright.graphs.readers import LEXICOGRAPHER_FILES
from netwright.models import Bert
from netwright.papers.run import Cell, Run, drawing, one_thread
from netwright.papers.sparse_parts import TRANSFORMER, paired
from netwright.supernets import Elastic, HardLabels, Paths, elastic, samplers, sort_channels, train
from netwright.train import evaluate

#: Tokens of a gloss that are read.
LENGTH = 20
DEPTHS, WIDTHS = (2, 3, 4, 5, 6), (1 / 3, 2 / 3, 1.0)
PRETRAINED, SCRATCH = "from MiniLM's weights", "from scratch"


def measure(run: Run) -> None:
    """Measure the claim on MiniLM."""
    folder = fetch("minilm-l6")
    sizes = (64, 16) if run.quick else (2_400, 300)
    data = glosses(fetch("wordnet"), WordPiece.read(folder / "vocab.txt"), *sizes)
    recipe = dataclasses.replace(TRANSFORMER, batch_size=32, lr=5e-4)
    run.settings["from MiniLM"] = {
        "data": f"glosses of WordNet 3.0, {LENGTH} tokens, {sizes[0]:,} to train and {sizes[1]:,} to test, "
        f"{len(data.classes)} lexicographer files",
        "network": "MiniLM-L6, 384 features; depths 2 to 6, a third to all of the heads and hidden units",
        "recipe": dataclasses.asdict(recipe),
        "reduced": f"{sizes[0] // 32} steps of one sub-model each, two seeds",
    }
    found: dict[str, list[list[float]]] = {PRETRAINED: [], SCRATCH: []}
    members: list[dict[str, float]] = []
    with one_thread():
        for seed in run.seeds(2):
            for arm, each in found.items():
                sup = supernet(folder, data, seed, scratch=arm == SCRATCH)
                members = [dict(c) for c in sup.space.enumerate()]
                members = members[::7] if run.quick else members
                paths = Paths(samplers.SortedPrefix(1, seed), HardLabels())
                own = dataclasses.replace(recipe, seed=seed)
                made = train(sup, data, own, paths=paths, device=run.device).model.eval()
                assert isinstance(made, Elastic)
                each.append([evaluate(made.set(m), data.test, device=run.device).accuracy for m in members])
                run.log(f"seed {seed}: MiniLM, {arm} {fmean(each[-1]):.4f}")
    means = {arm: [fmean(s) for s in seeds] for arm, seeds in found.items()}
    run.measure(
        "MiniLM: from its weights above from scratch, mean of 15",
        *paired(means[PRETRAINED], means[SCRATCH]),
        f"accuracy on {len(data.classes)} classes at equal steps",
    )
    _table(run, members, found)


def _table(run: Run, members: list[dict[str, float]], found: dict[str, list[list[float]]]) -> None:
    rows: list[tuple[Cell, ...]] = [
        (
            int(m["depth:blocks"]),
            f"{100 * m['width:inner']:.0f} %",
            *(100 * fmean(s[i] for s in seeds) for seeds in found.values()),
        )
        for i, m in enumerate(members)
    ]
    run.table(
        "Glosses: accuracy of the sub-models",
        ("blocks", "heads and hidden units", *(f"{arm}, %" for arm in found)),
        rows,
        "Means over the seeds.",
    )


def supernet(folder: Path, data: Splits, seed: int, *, scratch: bool = False) -> Elastic:
    """MiniLM as 5 depths by 3 widths, its heads and hidden units sorted by importance once.

    Args:
        folder: With MiniLM's weights.
        data: What it is to learn.
        seed: Of the classifier, and of all weights from scratch.
        scratch: Draw all weights anew.
    """
    with drawing(seed):
        model = Bert.from_safetensors(folder / "model.safetensors", len(data.classes))
        model = Bert(num_classes=len(data.classes)) if scratch else model
    sup = elastic(
        model,
        data.example(2),
        depth={"blocks": DEPTHS},
        width={"*.mlp.fc1": WIDTHS, "*.attn.q": WIDTHS},
        share={"inner": ["*.mlp.fc1", "*.attn.q"]},
    )
    if not scratch:
        sort_channels(sup, verify=False)
    return sup


def glosses(folder: Path, words: WordPiece, train: int, test: int, length: int = LENGTH) -> Splits:
    """Definitions of WordNet's synsets with their lexicographer files as classes.

    Args:
        folder: With WordNet's ``data.*`` files.
        words: Makes tokens of them.
        train: How many to learn from, drawn with a fixed seed.
        test: How many others to test on.
        length: Tokens of each.

    Raises:
        DataError: if there are not as many.
    """
    every = read_glosses(folder)
    if train + test > len(every):
        raise DataError(f"{folder} has {len(every)} glosses, not {train + test}", "ask for fewer")
    order = torch.randperm(len(every), generator=torch.Generator().manual_seed(0))
    chosen = [every[i] for i in order[: train + test].tolist()]
    x = words.encode([text for text, _ in chosen], length).float()
    y = torch.tensor([label for _, label in chosen])
    learn, judge = (Part.from_tensors(x[a:b], y[a:b]) for a, b in ((0, train), (train, train + test)))
    return Splits("glosses", learn, learn.head(2), judge, LEXICOGRAPHER_FILES)


def read_glosses(folder: Path) -> list[tuple[str, int]]:
    """Definitions without examples, each with the number of its lexicographer file, in the files' order.

    Args:
        folder: With WordNet's ``data.*`` files.

    Raises:
        DataError: if a file is missing or has a line of another form.
    """
    found = []
    for part in ("noun", "verb", "adj", "adv"):
        path = folder / f"data.{part}"
        try:
            lines = path.read_text(encoding="latin-1").splitlines()
            for line in lines:
                if not line.startswith("  "):  # the licence
                    head, _, gloss = line.partition(" | ")
                    found.append((gloss.split('; "')[0].strip(), int(head.split(" ", 2)[1])))
        except (OSError, ValueError, IndexError) as error:
            raise DataError(
                f"{path} is no file of WordNet: {error}", "run: netwright data fetch wordnet"
            ) from error
    return found
