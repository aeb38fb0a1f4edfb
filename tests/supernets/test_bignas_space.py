"""BigNAS's space at full size: its ends, its counts, one training step at 224 pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.supernets.test_bignas import gradients, run_of

import netwright as nw
from netwright import models
from netwright.models.zoo.bignas import LARGEST, stages_of
from netwright.supernets import Elastic, InplaceDistill, Paths, cost_tables, samplers
from netwright.supernets.spaces.bignas import bignas_supernet
from netwright.train import Batch, State


@pytest.fixture(scope="module")
def sup() -> Elastic:
    """With norms that are not zero at the end of blocks: else children differ in nothing."""
    torch.manual_seed(0)
    return bignas_supernet((192, 224), zero_last_gamma=False)


def widths(sup: Elastic, choice: dict) -> dict[str, int]:
    """Channels of the stem, the stages and the head."""
    found = {}
    for width in sup.blueprint.widths:
        found[width.name] = width.levels[width.values.index(choice[width.name])][0]
    return found


def built(sup: Elastic, choice: dict) -> torch.nn.Module:
    """The network of a choice, built by its sizes instead of cut out."""
    channels = widths(sup, choice)
    depths, kernels, first = [], [], 0
    for stage in LARGEST[1]:
        depths.append(choice[f"depth:blocks.{first + 1}"])
        kernels.append(
            tuple(choice.get(f"kernel:blocks.{first + i}.depthwise.0", 3) for i in range(depths[-1]))
        )
        first += stage.depth
    sizes = [channels[f"width:stage {n}"] for n in range(1, 8)]
    stages = stages_of(LARGEST[1], sizes, depths, kernels)
    return models.bignas(stages, stem=channels["width:stem"], head=channels["width:head"])


def test_the_ends_are_those_of_the_paper(sup: Elastic) -> None:
    assert 2 * sup.space.size() > 1e12  # four resolutions there, two here
    assert sup.cost(sup.space.max()).params == 19_255_096
    assert sup.cost(sup.space.min()).params == 5_595_032
    with torch.device("meta"):
        least = models.bignas("smallest")
    assert sup.cost(sup.space.min()) == nw.trace(least, torch.empty(1, 3, 192, 192, device="meta")).dense


def test_children_cost_what_networks_of_their_sizes_do(sup: Elastic) -> None:
    """The channels inside the blocks and the squeezed ones are those that BigNAS's rule makes of a width.

    Stages of 24 channels each would have no 1x1 convolution between them; a supernet keeps it.
    """
    rng = np.random.default_rng(0)
    for _ in range(4):
        drawn = sup.space.sample(rng)
        squeezed = 8 if drawn["width:stem"] < 1 else 16
        choice = sup.complete({**drawn, "width:blocks.0.se.reduce": squeezed, "width:stage 2": 1.0})
        side = choice["resolution"]
        with torch.device("meta"):
            alone = built(sup, choice).eval()
        net = nw.trace(alone, torch.empty(1, 3, side, side, device="meta"))
        assert sup.cost(choice) == net.dense


def test_costs_are_sums_of_the_choices_tables(sup: Elastic) -> None:
    tables, rng = cost_tables(sup), np.random.default_rng(1)
    for _ in range(5):
        choice = sup.space.sample(rng)
        assert tables.additive.of(choice, sup.space.active(choice)) == sup.macs(choice)


def test_a_step_of_the_sandwich_at_full_size(sup: Elastic) -> None:
    """About two seconds and 1.5 GB: in-place distillation, and a child that is cut out of what it trained."""
    sup.train()
    sampler = samplers.Sandwich(2, seed=0)
    sampler.attach(sup)
    optimizer = torch.optim.SGD(sup.parameters(), 0.01)
    state, seen = State(sup, optimizer, 1, 1), []
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 3, 224, 224, generator=generator)
    loss = Paths(sampler, InplaceDistill(), "max-only")(
        run_of(sup, seen), Batch(x, torch.arange(2)), sup, state
    )
    assert bool(torch.isfinite(loss)) and [len(s.logits) for s in seen] == [2, 2, 2, 2]
    assert [d.role for d in sampler.draw(0)] == ["max", "min", "random", "random"]
    assert all(bool(g.isfinite().all()) and bool(g.any()) for g in gradients(sup).values())
    optimizer.step()
    choice = sampler.draw(0)[2].choice
    sup.calibrate([x], choice)
    small = sup.eval().extract(choice)
    with torch.no_grad():
        child, cut = sup.set(choice)(x), small(x)
    torch.testing.assert_close(child, cut, rtol=1e-5, atol=1e-5)
    assert sum(p.numel() for p in small.parameters()) == sup.cost(choice).params
    assert float(child.std()) > 1e-3
