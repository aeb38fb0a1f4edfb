"""The ordinary Mixture-of-Supernets run: what 27 language models inherit of four kinds of weight stores."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor, nn

from netwright.data import Part, Splits, characters
from netwright.models import char_lm
from netwright.nas import Choice
from netwright.nas.ranking import kendall
from netwright.papers.plot import Panel, figure
from netwright.papers.run import Cell, Run, drawing, one_thread
from netwright.papers.sparse_parts import TRANSFORMER, paired
from netwright.supernets import Elastic, Experts, HardLabels, Paths, elastic, samplers, train
from netwright.train import Recipe, evaluate, fit

CONTEXT, WIDTH, HIDDEN, DEPTH = 32, 96, 256, 3
WIDTHS, FFN = (32, 64, 96), (64, 128, 256)
MASKED = 0.15
SINGLE, LAYER, NEURON, CONSTANT = "one store", "layer-wise", "neuron-wise", "constant encoding"
#: Arm -> its weight store; two experts, as in the paper's task of masked symbols.
STORES: Mapping[str, Experts | None] = {
    SINGLE: None,
    LAYER: Experts(2, "layer"),
    NEURON: Experts(2, "neuron"),
    CONSTANT: Experts(2, "neuron", encode="constant"),
}
#: Sub-network -> bits a symbol.
Bits = dict[Choice, float]


@dataclass(frozen=True)
class Setting:
    """Data, recipe, network and supernet."""

    data: Splits
    quick: bool
    device: str
    causal: bool = True

    def recipe(self, seed: int) -> Recipe:
        """One pass over the text."""
        return dataclasses.replace(TRANSFORMER, seed=seed)

    def network(self, seed: int, width: int = WIDTH, hidden: int = HIDDEN, depth: int = DEPTH) -> nn.Module:
        """A language model drawn with a seed; it knows one more symbol where some are masked."""
        symbols = len(self.data.classes) + (0 if self.causal else 1)
        with drawing(seed):
            return char_lm(
                symbols,
                CONTEXT,
                width,
                3,
                hidden / width,
                depth,
                head_dim=WIDTH // 3,
                causal=self.causal,
                classes_first=True,
            )

    def supernet(self, seed: int, store: Experts | None = None) -> Elastic:
        """27 sub-networks: embedding, hidden width of all perceptrons, depth."""
        chosen = None if store is None else dataclasses.replace(store, seed=seed)
        return elastic(
            self.network(seed),
            self.data.example(),
            width={"blocks.0.attn.proj": WIDTHS, "*.mlp.fc1": FFN},
            share={"embedding": ["blocks.0.attn.proj"], "ffn": ["*.mlp.fc1"]},
            depth=True,
            store=chosen,
        )

    def trained(self, seed: int, store: Experts | None) -> Elastic:
        """A supernet trained on the largest, the smallest and one random sub-network of every batch."""
        paths = Paths(samplers.Sandwich(1, seed), HardLabels())
        sup = self.supernet(seed, store)
        made = train(sup, self.data, self.recipe(seed), paths=paths, device=self.device).model
        assert isinstance(made, Elastic)
        return made

    def bits(self, model: nn.Module, part: Part | None = None) -> float:
        """Bits a symbol, on the test split where no other is given."""
        part = self.data.test if part is None else part
        return evaluate(model, part, device=self.device).loss / math.log(2)

    def inherited(self, sup: Elastic, choices: Sequence[Choice], part: Part | None = None) -> Bits:
        """What sub-networks have without further training."""
        return {c: self.bits(sup.set(c), part) for c in choices}

    def alone(self, choice: Choice, seed: int) -> nn.Module:
        """A sub-network trained by itself for as many steps, on as many symbols."""
        sizes = choice["width:embedding"], choice["width:ffn"], choice["depth:blocks"]
        net = self.network(seed, *sizes)
        return fit(net, self.data, self.recipe(seed), device=self.device).model


def text(quick: bool) -> Splits:
    """The manual of Python; 400 pieces of what is held out are tested on."""
    data = characters(CONTEXT, limit=30_000 if quick else 300_000)
    return dataclasses.replace(data, val=data.val.head(400), test=data.test.head(400))


def masked(data: Splits, seed: int = 0) -> Splits:
    """The same pieces with 15 % of the symbols masked, which are to be filled in."""
    generator = torch.Generator().manual_seed(seed)

    def hide(part: Part) -> Part:
        x, _ = next(part.batches(len(part)))
        hidden = torch.rand(x.shape, generator=generator) < MASKED
        y: Tensor = torch.where(hidden, x.long(), -1)
        return Part.from_tensors(torch.where(hidden, float(len(data.classes)), x), y)

    return dataclasses.replace(
        data, name="masked characters", train=hide(data.train), val=hide(data.val), test=hide(data.test)
    )


def measure(run: Run) -> None:
    """Measure every claim of the ordinary scope."""
    setting = Setting(text(run.quick), run.quick, run.device)
    sup = setting.supernet(0)
    every = sorted(sup.space.enumerate(), key=sup.macs)
    choices = every[::9] if run.quick else every
    run.settings |= describe(setting)
    with one_thread():
        with run.timed("sub-networks trained alone"):
            truth = {c: setting.bits(setting.alone(c, run.seed)) for c in choices}
        found: dict[str, list[Bits]] = {name: [] for name in STORES}
        with run.timed("supernets"):
            for seed in run.seeds():
                for name, store in STORES.items():
                    made = setting.trained(seed, store)
                    found[name].append(setting.inherited(made, choices))
                    run.log(f"seed {seed}, {name}: {fmean(found[name][-1].values()):.3f} bits")
        ratio = overhead(setting, run)
    _claims(run, choices, truth, found)
    run.measure("processor time of a step, neuron-wise by one store", ratio, note="largest sub-network")
    _report(run, setting, sup, choices, truth, found)


def overhead(setting: Setting, run: Run) -> float:
    """Time of forward and backward passes of the largest sub-network by that of one store, the least of 5."""
    x, y = next(setting.data.train.batches(24))
    found = []
    for name in (NEURON, SINGLE):
        sup = setting.supernet(0, STORES[name]).to(run.device).train()
        times = []
        for _ in range(2 if run.quick else 5):
            begun = time.process_time()
            for _ in range(10):
                nn.functional.cross_entropy(sup(x.to(run.device)), y.to(run.device)).backward()
            times.append(time.process_time() - begun)
        found.append(min(times))
    return found[0] / found[1]


def describe(setting: Setting) -> dict[str, object]:
    """Settings for the evidence."""
    data = setting.data
    return {
        "data": f"{data.name}: {len(data.train):,} pieces of {CONTEXT} symbols to train, {len(data.test)} to "
        f"test, {len(data.classes)} symbols; the manual in pydoc_data of this Python",
        "network": f"pre-normalised decoder, {DEPTH} blocks, {WIDTH} features, {HIDDEN} hidden",
        "space": f"embedding {WIDTHS}, hidden {FFN}, depth 1 to {DEPTH}",
        "recipe": dataclasses.asdict(setting.recipe(0)),
        "sampler": "the largest, the smallest and a random sub-network of every batch",
        "experts": "2, of the two matrices of every perceptron; routers with 128 hidden features",
    }


def _claims(run: Run, choices: Sequence[Choice], truth: Bits, found: Mapping[str, Sequence[Bits]]) -> None:
    gaps = {n: [fmean(b[c] - truth[c] for c in choices) for b in each] for n, each in found.items()}
    ratios = [a / b for a, b in zip(gaps[NEURON], gaps[SINGLE], strict=True)]
    run.measure("neuron-wise gap by one store's", *paired(ratios, [0.0] * len(ratios)))
    below = "{} below {}, bits a character"
    run.measure(below.format(NEURON, SINGLE), *paired(gaps[SINGLE], gaps[NEURON]))
    run.measure(below.format(LAYER, SINGLE), *paired(gaps[SINGLE], gaps[LAYER]))
    run.measure(below.format(NEURON, LAYER), *paired(gaps[LAYER], gaps[NEURON]))
    run.measure(below.format(NEURON, "a constant encoding"), *paired(gaps[CONSTANT], gaps[NEURON]))
    third = max(1, len(choices) // 3)

    def gain(some: Sequence[Choice]) -> list[float]:
        pairs = zip(found[SINGLE], found[NEURON], strict=True)
        return [fmean(a[c] - b[c] for c in some) for a, b in pairs]

    run.measure(
        "gain of neuron-wise routing, smallest third less largest third",
        *paired(gain(choices[:third]), gain(choices[-third:])),
        "thirds by multiply-accumulates",
    )


def _report(
    run: Run,
    setting: Setting,
    sup: Elastic,
    choices: Sequence[Choice],
    truth: Bits,
    found: Mapping[str, Sequence[Bits]],
) -> None:
    rows: list[tuple[Cell, ...]] = []
    alone = [truth[c] for c in choices]
    cost = [float(sup.macs(c)) for c in choices]
    panel = Panel("gap to training alone", "bits a character")
    for name, each in found.items():
        gaps = [fmean(b[c] - truth[c] for c in choices) for b in each]
        size = [abs(b[c] - truth[c]) for b in each for c in choices]
        ranks = [kendall([b[c] for c in choices], alone) for b in each]
        mean, spread = paired(gaps, [0.0] * len(gaps))
        rows.append((name, mean, spread, fmean(size), fmean(ranks)))
        panel.bar(name, mean, spread)
    rows.append(("multiply-accumulates alone", None, None, None, kendall([-c for c in cost], alone)))
    run.table(
        "Inherited weights by training alone",
        ("store", "mean gap, bits", "noise", "mean of absolute gaps", "Kendall's tau"),
        rows,
        f"{len(choices)} sub-networks, each trained alone with one seed for as many steps as the supernets, "
        "whose steps train three sub-networks; ranks are by test bits, so tau has one seed's noise.",
    )
    columns = ("embedding", "hidden", "depth", "MACs", "alone", *found)
    run.table(
        "Bits a character of every sub-network",
        columns,
        [
            (
                c["width:embedding"], c["width:ffn"], c["depth:blocks"], sup.macs(c), truth[c],
                *(fmean(b[c] for b in each) for each in found.values()),
            )
            for c in choices
        ],
        "Means over the seeds.",
    )  # fmt: skip
    made = setting.supernet(0, STORES[NEURON])
    run.settings["parameters"] = sum(p.numel() for p in sup.parameters())
    run.settings["further parameters, neuron-wise"] = made.extra_parameters()  # type: ignore[operator]
    curves = Panel("bits by size", "bits a character")
    scale = [c / 1e6 for c in cost]
    curves.line("alone", list(zip(scale, alone, strict=True)))
    for name in (SINGLE, NEURON):
        means = [fmean(b[c] for b in found[name]) for c in choices]
        curves.line(name, list(zip(scale, means, strict=True)))
    run.plot(figure("Mixture-of-Supernets on characters", [panel, curves], columns=1, width=760, height=300))
