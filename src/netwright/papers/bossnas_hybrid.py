"""A small HyTra search of BossNAS: convolution or attention, and where images are halved, without labels."""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import nn

from netwright.data import Splits, load
from netwright.nas.hytra import letters, scale_of
from netwright.papers.bossnas_small import HIDDEN, VECTOR, momentum, siamese
from netwright.papers.noise import noise
from netwright.papers.plot import Panel
from netwright.papers.run import Cell, Run, drawing, one_thread
from netwright.structure import trace
from netwright.supernets import EnsembleBootstrap
from netwright.supernets.spaces.hytra import HybridNet, HybridShape, HyTra, Path, next_paths, train_hytra
from netwright.train import Recipe, build_optimizer, evaluate, fit
from netwright.train.losses import cross_entropy

#: 16x16, 8x8 and 4x4 pixels, each with about the same MACs a layer; attention at the two coarser ones.
SHAPE = HybridShape((32, 16, 8), layers=3, blocks=2, stem=16, head_dim=16)
#: Height of images of the finest scale.
SIDE = 16
SEEDS = 2
#: Random hybrids that the one found is compared with.
RANDOM = 5
#: Epochs of each block, and of the slowest network's training; the others train for as long.
EPOCHS, RETRAIN = 3, 3
Network = tuple[Path, ...]


def measure(run: Run) -> list[Panel]:
    """Search without labels, then train what was found and others for equal time.

    Returns:
        Plots of the networks found and of what they reached.
    """
    data = _data(run.quick)
    epochs = 1 if run.quick else EPOCHS
    steps = epochs * (len(data.train) // 100)
    loss = EnsembleBootstrap(paths=4, momentum=momentum(steps), hidden=HIDDEN, vector=VECTOR)
    shape = dataclasses.replace(SHAPE, in_channels=data.shape[0])
    rows: list[tuple[Cell, ...]] = []
    above: list[float] = []
    drawn, bars = Encodings("Hybrids found", "pixels"), Panel("Hybrids trained for equal time", "accuracy, %")
    with run.timed("hybrids"), one_thread():
        for seed in run.seeds(SEEDS):
            with drawing(seed):
                sup = HyTra(shape)
            _, found = train_hytra(sup, data, loss=loss, recipe=siamese(epochs, steps, seed), seed=seed)
            run.log(f"seed {seed}: {encoding(found.best)} of least loss")
            arms = _arms(shape, found.best, seed)
            reached = _trained(run, shape, data, arms, seed)
            for name, paths in arms.items():
                net = trace(HybridNet(shape, paths, data.num_classes).eval(), data.example())
                macs = net.cost(net.everything).macs / 1e6
                rows.append((seed, name, encoding(paths), macs, *reached[name]))
                if not name.startswith("random"):
                    bars.bar(f"{name} {seed}", reached[name][1])
            others = statistics.median(reached[name][1] for name in arms if name.startswith("random"))
            bars.bar(f"median random {seed}", others)
            above.append((reached["found"][1] - others) / 100)
            drawn.add(f"seed {seed}", found.best)
            run.log(f"seed {seed}: {100 * above[-1]:+.2f} points to the median")
    run.table(
        "Hybrids, trained for equal time",
        ("seed", "network", "layers", "MACs, M", "epochs", "accuracy, %"),
        rows,
        "Layers of the two blocks: height of the images, c convolution, a attention. The search saw no "
        "labels.",
    )
    run.settings["hybrids"] = (
        f"photo-patches at 16x16, {len(data.train):,} to train; scales 16, 8 and 4 pixels with "
        f"{', '.join(str(4 * c) for c in reversed(SHAPE.inner))} channels, the sheet's 2 blocks of 3 layers; "
        f"{epochs} epochs a block, {RETRAIN} of the slowest network"
    )
    run.measure("hybrid found above the median random one, equal time", float(np.mean(above)), noise(above))
    return [drawn, bars]


def encoding(paths: Sequence[Path]) -> str:
    """A network as words, one a block: height of the images and "c" for convolution or "a" for attention.

    Args:
        paths: Of its blocks.
    """
    return " | ".join(" ".join(f"{_side(code)}{letters([code])}" for code in path) for path in paths)


def _side(code: int) -> int:
    return SIDE >> (len(SHAPE.inner) - 1 - scale_of(code))


def _arms(shape: HybridShape, found: Sequence[Path], seed: int) -> dict[str, Network]:
    """The network found, the pure ones that halve images where it does, and random hybrids."""
    rng = np.random.default_rng((seed, 29))
    arms: dict[str, Network] = {"found": tuple(found)}
    for name, letter in (("convolutions", "c"), ("attention", "a")):
        arms[name] = tuple(tuple(_pure(scale_of(code), letter) for code in path) for path in found)
    mixed = (n for n in iter(lambda: _random(shape, rng), None) if len(set("".join(map(letters, n)))) == 2)
    return arms | {f"random {k}": n for k, n in enumerate(itertools.islice(mixed, RANDOM))}


def _pure(scale: int, letter: str) -> int:
    """Code of a scale's operation; attention at the finest scale that has it where it has none."""
    if letter == "a":
        return 2 * min(scale, 1)
    return 2 * scale + 1 if scale < 2 else scale + 2


def _random(shape: HybridShape, rng: np.random.Generator) -> Network:
    """A network of the space, block by block, every path as likely."""
    paths: list[Path] = []
    for _ in range(shape.blocks):
        some = next_paths(shape, paths)
        paths.append(some[int(rng.integers(len(some)))])
    return tuple(paths)


def _trained(
    run: Run, shape: HybridShape, data: Splits, arms: Mapping[str, Network], seed: int
) -> dict[str, tuple[int, float]]:
    """Epochs and test accuracy in per cent of every network, after equal time."""
    few = dataclasses.replace(data, val=data.val.head(100))
    networks: dict[str, nn.Module] = {}
    for name, paths in arms.items():
        with drawing(seed):
            networks[name] = HybridNet(shape, paths, data.num_classes)
    steps = {name: _step_seconds(network, data) for name, network in networks.items()}
    most = max(steps.values())
    found = {}
    for name, paths in arms.items():
        epochs = 1 if run.quick else max(round(RETRAIN * most / steps[name]), 1)
        with drawing(seed):  # anew: timing moved the statistics of the first
            network = HybridNet(shape, paths, data.num_classes)
        fitted = fit(network, few, _recipe(epochs, seed), device="cpu")
        found[name] = (epochs, 100 * evaluate(fitted.model, data.test, device="cpu").accuracy)
        run.log(f"seed {seed}, {name}, {encoding(paths)}: {epochs} epochs, {found[name][1]:.2f} %")
    return found


def _step_seconds(network: nn.Module, data: Splits, count: int = 5) -> float:
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
    data = load("photo-patches", image_size=SIDE)
    sizes = (200, 100, 100) if quick else (3_000, 500, 1_000)
    parts = zip((data.train, data.val, data.test), sizes, strict=True)
    train, val, test = (part.head(size) for part, size in parts)
    return dataclasses.replace(data, train=train, val=val, test=test)


def _recipe(epochs: int, seed: int) -> Recipe:
    return Recipe(
        epochs=epochs, batch_size=100, lr=0.05, weight_decay=5e-4, precision="fp32", augment=False, seed=seed
    )


@dataclass
class Encodings(Panel):
    """Networks drawn: a box a layer, at the height of its images; attention is filled."""

    networks: list[tuple[str, Network]] = field(default_factory=list)

    def add(self, name: str, paths: Sequence[Path]) -> None:
        """Draw another network, to the right of the others."""
        self.networks.append((name, tuple(paths)))

    def draw(self, left: float, top: float, width: float, height: float) -> list[str]:
        """The SVG elements of the panel inside a rectangle."""
        out = [f'<text x="{left + 8}" y="{top + 16}" class="title">{self.title}</text>']
        scales = len(SHAPE.inner)
        row = (height - 80) / scales
        for scale in range(scales):
            y = top + 30 + (scales - 1 - scale) * row
            side = SIDE >> (scales - 1 - scale)
            out.append(f'<text x="{left + 8}" y="{y + row / 2 + 4}" class="small">{side} x {side}</text>')
        step = (width - 90) / max(sum(len(p) for _, n in self.networks for p in n) + len(self.networks), 1)
        x = left + 70
        for name, paths in self.networks:
            out.append(f'<text x="{x}" y="{top + height - 26}" class="small">{name}</text>')
            for code in (c for path in paths for c in path):
                y = top + 30 + (scales - 1 - scale_of(code)) * row
                letter = letters([code])
                fill = "#7aa6d8" if letter == "a" else "none"
                out.append(
                    f'<rect x="{x:.1f}" y="{y + row * 0.2:.1f}" width="{step * 0.8:.1f}" '
                    f'height="{row * 0.6:.1f}" fill="{fill}" stroke="#555"/>'
                )
                out.append(
                    f'<text x="{x + step * 0.4:.1f}" y="{y + row / 2 + 4:.1f}" class="small" '
                    f'text-anchor="middle">{letter}</text>'
                )
                x += step
            x += step
        out.append(
            f'<text x="{left + 8}" y="{top + height - 8}" class="small">c convolution, a attention</text>'
        )
        return out
