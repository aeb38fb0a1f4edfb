"""A small hybrid search of BossNAS: convolution or attention in each of six layers, without labels."""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import time

import numpy as np
from torch import Tensor, nn

from netwright.data import Splits, load
from netwright.models.zoo.bossnet import ResAtt, ResConv
from netwright.nas import Choice
from netwright.papers.noise import noise
from netwright.papers.run import Cell, Run, drawing, one_thread
from netwright.pruning.removal.initialisation import reinitialise_
from netwright.supernets import Elastic, EnsembleBootstrap, OneOf, elastic
from netwright.supernets.training.blockwise import train_blockwise
from netwright.train import Recipe, build_optimizer, evaluate, fit
from netwright.train.losses import cross_entropy

#: Channels between layers, and inside them: one head of attention.
CHANNELS, INNER = 64, 16
BLOCKS = ("first", "second")
LAYERS = 3
SEEDS = 2
#: Random hybrids that the one found is compared with.
RANDOM = 5
#: Epochs of each block, and of the slowest network's training; the others train for as long.
EPOCHS, RETRAIN = 4, 6


class Hybrid(nn.Module):
    """A stem of stride 2 and two blocks of three layers, at 8x8 and 4x4 pixels of images of 16x16.

    Args:
        classes: Of the answer.
        channels: Of the images.
    """

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, CHANNELS, 3, 2, 1, bias=False), nn.BatchNorm2d(CHANNELS), nn.ReLU()
        )
        self.first = nn.Sequential(*[_layer(1) for _ in range(LAYERS)])
        self.second = nn.Sequential(*[_layer(1 if k else 2) for k in range(LAYERS)])
        self.fc = nn.Linear(CHANNELS, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, 16, 16) -> (B, classes)."""
        return self.fc(self.second(self.first(self.stem(x))).mean(dim=(2, 3)))


def _layer(stride: int) -> OneOf:
    return OneOf(
        {
            "c": ResConv(CHANNELS, CHANNELS, INNER, stride),
            "a": ResAtt(CHANNELS, CHANNELS, 1, INNER, stride),
        }
    )


def supernet(data: Splits, seed: int) -> Elastic:
    """All 64 networks before training.

    Args:
        data: Gives classes and the example.
        seed: Of the weights.
    """
    with drawing(seed):
        network = Hybrid(data.num_classes, data.shape[0])
    return elastic(network, data.example())


def encoding(choice: Choice) -> str:
    """A network as two words, "c" a convolution and "a" attention.

    Args:
        choice: Of the supernet.
    """
    words = ["".join(choice[f"op:{block}.{k}"] for k in range(LAYERS)) for block in BLOCKS]
    return " ".join(words)


def measure(run: Run) -> None:
    """Search without labels, then train what was found and others for equal time."""
    data = _data(run.quick)
    rows: list[tuple[Cell, ...]] = []
    above = []
    with run.timed("hybrids"), one_thread():
        for seed in run.seeds(SEEDS):
            sup = supernet(data, seed)
            recipe = _recipe(1 if run.quick else EPOCHS, seed, augment=True)
            loss = EnsembleBootstrap(paths=4, hidden=128, vector=64)
            found = train_blockwise(sup, BLOCKS, data, loss=loss, recipe=recipe, seed=seed).best
            arms = _arms(sup, found, seed)
            reached = _trained(run, sup, data, arms, seed)
            for name, c in arms.items():
                rows.append((seed, name, encoding(c), sup.macs(c) / 1e6, *reached[name]))
            others = [reached[name][1] for name in arms if name.startswith("random")]
            above.append((reached["found"][1] - statistics.median(others)) / 100)
            run.log(f"seed {seed}, found {encoding(found)}: {100 * above[-1]:+.2f} points to the median")
    run.table(
        "Hybrids, trained for equal time",
        ("seed", "network", "layers", "MACs, M", "epochs", "accuracy, %"),
        rows,
        "Layers of the two blocks: c convolution, a attention. The search saw no labels; where images are "
        "halved is fixed.",
    )
    run.measure("hybrid found above the median random one, equal time", float(np.mean(above)), noise(above))


def _arms(sup: Elastic, found: Choice, seed: int) -> dict[str, Choice]:
    """The network found, the pure ones, and random hybrids."""
    rng = np.random.default_rng((seed, 29))
    dims = [f"op:{block}.{k}" for block in BLOCKS for k in range(LAYERS)]
    arms = {"found": found}
    for name, letter in (("convolutions", "c"), ("attention", "a")):
        arms[name] = sup.complete(dict.fromkeys(dims, letter))
    mixed = (c for c in iter(lambda: sup.space.sample(rng), None) if len({c[d] for d in dims}) == 2)
    return arms | {f"random {k}": c for k, c in enumerate(itertools.islice(mixed, RANDOM))}


def _trained(
    run: Run, sup: Elastic, data: Splits, arms: dict[str, Choice], seed: int
) -> dict[str, tuple[int, float]]:
    """Epochs and test accuracy in per cent of every network, after equal time."""
    few = dataclasses.replace(data, val=data.val.head(100))
    networks = {name: reinitialise_(sup.extract(choice), seed) for name, choice in arms.items()}
    steps = {name: _step_seconds(network, data) for name, network in networks.items()}
    most = max(steps.values())
    found = {}
    for name, network in networks.items():
        epochs = 1 if run.quick else max(round(RETRAIN * most / steps[name]), 1)
        fitted = fit(network, few, _recipe(epochs, seed), device="cpu")
        found[name] = (epochs, 100 * evaluate(fitted.model, data.test, device="cpu").accuracy)
    return found


def _step_seconds(network: nn.Module, data: Splits, count: int = 10) -> float:
    """CPU time of a training step, the least of some."""
    network = network.train()
    optimizer = build_optimizer(network, dataclasses.replace(_recipe(1, 0), lr=1e-9))
    x, y = next(data.train.batches(100))
    spent = []
    for _ in range(count):
        begun = time.process_time()
        optimizer.zero_grad(set_to_none=True)
        cross_entropy(network(x), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        spent.append(time.process_time() - begun)
    return min(spent)


def _data(quick: bool) -> Splits:
    data = load("photo-patches", image_size=16)
    sizes = (200, 100, 100) if quick else (3_000, 1_000, 2_000)
    parts = zip((data.train, data.val, data.test), sizes, strict=True)
    train, val, test = (part.head(size) for part, size in parts)
    return dataclasses.replace(data, train=train, val=val, test=test)


def _recipe(epochs: int, seed: int, augment: bool = False) -> Recipe:
    return Recipe(
        epochs=epochs,
        batch_size=100,
        lr=0.05,
        weight_decay=1e-6 if augment else 5e-4,
        precision="fp32",
        augment=augment,
        seed=seed,
    )
