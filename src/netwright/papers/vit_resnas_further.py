"""Further arms of ViT-ResNAS: twice the depth, a single-stage transformer, the full-scale supernet."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from statistics import fmean, median
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor, nn

from netwright.metrics import open_session
from netwright.models import VitStage, vit_res
from netwright.papers.run import Cell, Run, drawing, one_thread
from netwright.papers.sparse_parts import paired
from netwright.papers.vit_resnas_small import (
    GROUPS,
    OPTIONS,
    Setting,
    alone,
    describe,
    evolved,
    pictures,
    reductions,
)
from netwright.structure import trace
from netwright.supernets.spaces.vit_resnas import vit_resnas

BATCH = 64
#: Epochs of the evolved network and of the transformer of a single stage, which learns slowly at first.
COMPARED = 24


def measure(run: Run) -> None:
    """Measure every claim of the further scope."""
    setting = Setting(pictures(run.quick), run.quick, run.device)
    run.settings |= describe(setting)
    with one_thread():
        plain, residual = reductions(run, setting, depth=2)
        run.measure(
            "loss spikes at twice the depth, plain less residual, share of seeds",
            fmean(plain) - fmean(residual),
        )
        _single_stage(run, setting)
        if not run.quick:
            full_scale(run)


def single_stage(macs: int, depth: int = 6) -> list[VitStage]:
    """A transformer of one stage, as DeiT, of about so many multiply-accumulates.

    Args:
        macs: For one image.
        depth: Blocks.
    """

    def stage(width: int, hidden: int) -> list[VitStage]:
        return [VitStage.equal(width, 4, width // 4, hidden, depth)]

    def cost(width: int, hidden: int) -> int:
        with torch.device("meta"):
            net = vit_res(stage(width, hidden), **OPTIONS)
        return trace(net, torch.zeros(1, 1, 16, 16, device="meta")).dense.macs

    # The widest with perceptrons of twice its width, which then take what is left; costs rise evenly.
    fitting = itertools.takewhile(lambda w: cost(w, 2 * w) <= macs, range(12, 65, 4))
    width = max(fitting, default=8)
    least, step = cost(width, 2 * width), cost(width, 2 * width + 1) - cost(width, 2 * width)
    return stage(width, 2 * width + max(0, (macs - least) // step))


def _single_stage(run: Run, setting: Setting) -> None:
    """The evolved network by a transformer without reductions: accuracy, and images a second."""
    ours: list[float] = []
    theirs: list[float] = []
    rows: list[tuple[Cell, ...]] = []
    speeds: dict[str, list[float]] = {"PyTorch": [], "ONNX Runtime": []}
    x = torch.randn(BATCH, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    for seed in run.seeds():
        sup, _ = setting.trained(seed, GROUPS)
        winner, _ = evolved(setting, sup, seed)
        found, accuracy = alone(setting, sup, winner, seed, COMPARED)
        other = setting.fitted(seed, single_stage(sup.macs(winner)), COMPARED).model
        ours.append(accuracy)
        theirs.append(setting.accuracy(other, setting.data.test))
        pair = [found.cpu().eval(), other.cpu().eval()]
        rates = {name: [rate(net, x, name) for net in pair] for name in speeds}
        for name, (a, b) in rates.items():
            speeds[name].append(a / b)
        macs = [trace(net, x[:1]).dense.macs for net in pair]
        for name, net_macs, score, i in (
            ("evolved", macs[0], ours[-1], 0), ("single stage", macs[1], theirs[-1], 1),
        ):  # fmt: skip
            rows.append((seed, name, net_macs, 100 * score, *(rates[n][i] for n in speeds)))
        run.log(f"seed {seed}: evolved {ours[-1]:.4f}, single stage {theirs[-1]:.4f}")
    run.measure("evolved above a single-stage transformer of as many MACs", *paired(ours, theirs))
    for name, ratios in speeds.items():
        run.measure(
            f"images a second by the single-stage transformer's, {name}", *paired(ratios, [0.0] * len(ratios))
        )
    run.table(
        "Evolved by a transformer of a single stage",
        ("seed", "network", "MACs", "test accuracy, %", *(f"images a second, {n}" for n in speeds)),
        rows,
        f"Both trained {COMPARED} epochs from scratch; images a second in batches of {BATCH}, one thread.",
    )
    run.tried(
        "4 epochs: the transformer of a single stage had learned next to nothing (27 %, the evolved one "
        "70 %), which compares how training begins; both are trained six times as long"
    )


def rate(net: nn.Module, x: Tensor, engine: str) -> float:
    """Images a second, the median of some batches."""
    if engine == "PyTorch":
        with torch.no_grad():
            return _rate(lambda: net(x), len(x))
    with TemporaryDirectory() as folder:
        path = f"{folder}/net.onnx"
        torch.onnx.export(net, (x,), path, dynamo=True, verbose=False)
        session = open_session(path, threads=1)
        name = session.get_inputs()[0].name
        values = x.numpy()
        return _rate(lambda: session.run(None, {name: values}), len(x))


def _rate(call: Callable[[], object], images: int) -> float:
    call()
    times = []
    for _ in range(15):
        begun = time.perf_counter()
        call()
        times.append(time.perf_counter() - begun)
    return images / median(times)


def full_scale(run: Run) -> None:
    """The largest network of the Tiny space made elastic; a random choice cut out and run."""
    with run.timed("full scale"):
        with drawing(run.seed):
            sup, x = vit_resnas("tiny").eval(), torch.randn(1, 3, 224, 224)
        choice = sup.space.sample(np.random.default_rng(run.seed))
        network = sup.extract(choice)
        with torch.no_grad():
            difference = float((network(x) - sup.set(choice)(x)).abs().max())
        dense = trace(network, x).dense
    said = sup.cost(choice)
    run.measure("full-scale Tiny cut out less slice, largest difference", difference)
    run.table(
        "A random choice of the full-scale Tiny space",
        ("figure", "said by the supernet", "of the network cut out"),
        [
            ("multiply-accumulates", said.macs, dense.macs),
            ("parameters", said.params, dense.params),
            ("choices", f"{sup.space.size():.3g}", None),
        ],
    )
