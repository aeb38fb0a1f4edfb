"""The HyTra space as a supernet: scales that fall, shared weights, blocks trained one after another."""

import dataclasses

import numpy as np
import pytest
import torch

from netwright.data import load
from netwright.errors import UsageError
from netwright.nas.hytra import hytra_paths, scale_of
from netwright.structure import trace
from netwright.supernets import EnsembleBootstrap
from netwright.supernets.spaces.hytra import (
    HybridNet,
    HybridShape,
    HyTra,
    HyTraStages,
    next_paths,
    train_hytra,
)
from netwright.supernets.stores.siamese import Alignment
from netwright.supernets.training.blocks import outputs_of
from netwright.train import Recipe

SHAPE = HybridShape((16, 8, 4), layers=2, stem=4, head_dim=4, in_channels=1)
RECIPE = Recipe(epochs=1, batch_size=32, lr=1.0, optimizer="lars", precision="fp32", seed=0)


@pytest.fixture(scope="module")
def sup():
    torch.manual_seed(0)
    return HyTra(SHAPE)


def test_every_path_gives_images_of_its_scale(sup):
    x = torch.randn(2, 1, 8, 8)
    for path in next_paths(SHAPE, []):
        y = sup.eval().run(0, path, x)
        assert y.shape == (2, SHAPE.outputs(scale_of(path[-1])), *[2 * 2 ** scale_of(path[-1])] * 2)
        for following in next_paths(SHAPE, [path]):
            assert scale_of(following[0]) in (scale_of(path[-1]), scale_of(path[-1]) - 1)
            z = sup.run(1, following, y)
            assert z.shape[2] == 2 * 2 ** scale_of(following[-1])
            assert HybridNet(SHAPE, [path, following], 3).eval()(x).shape == (2, 3)
    assert next_paths(SHAPE, []) == hytra_paths(3, 2, restricted=True)
    with pytest.raises(UsageError, match="no paths"):
        HybridNet(SHAPE, [(4, 1)], 3)
    with pytest.raises(UsageError, match="no heads"):
        HybridShape((8, 6), head_dim=4)
    with pytest.raises(UsageError, match="tell scales apart"):
        HybridShape((8, 8), head_dim=4)


def test_a_layer_that_halves_shares_all_but_its_way_in(sup):
    layer = sup.blocks[1][0]
    for code in ("2", "3"):
        same, down = dict(layer.stay[code].named_parameters()), dict(layer.halve[code].named_parameters())
        common = {name for name in same if name in down and same[name] is down[name]}
        assert common == {n for n in same if not n.startswith(("conv1", "peg", "bn1", "shortcut"))}
    assert "4" not in layer.halve and not sup.blocks[0][0].halve


def test_the_search_leaves_finished_blocks_and_reads_no_labels(sup):
    data = load("digits")
    data = dataclasses.replace(data, train=data.train.head(64), val=data.train.subset(range(64, 128)))
    loss = EnsembleBootstrap(paths=3, hidden=8, vector=4)
    work, found = train_hytra(sup, data, loss=loss, recipe=RECIPE)
    counts = [len(next_paths(SHAPE, found.best[:k])) for k in (0, 1)]
    assert [len(s) for s in found.scores] == counts
    assert all(min(s, key=s.get) == best for s, best in zip(found.scores, found.best, strict=True))
    old, new = dict(sup.named_parameters()), dict(work.named_parameters())
    moved = {name for name in old if not torch.equal(old[name], new[name])}
    assert any(n.startswith("stem") for n in moved) and any(n.startswith("blocks.1") for n in moved)
    stages = HyTraStages(work)
    names = [set(stages.block(0).names())]
    stages.keep(stages.block(0), found.best[0])
    names.append(set(stages.block(1).names()))
    assert not names[0] & names[1] and names[0] | names[1] == set(new)
    labels = data.train.source.labels
    before = labels.clone()
    try:
        labels.zero_()
        again, other = train_hytra(sup, data, loss=loss, recipe=RECIPE)
    finally:
        labels.copy_(before)
    assert other.scores == found.scores and all(torch.equal(p, new[n]) for n, p in again.named_parameters())
    x = torch.randn(3, 1, 8, 8)
    feeder = stages.feeder(1, data.train)
    assert not feeder(x).requires_grad
    with pytest.raises(UsageError, match="fairly"):
        stages.block(0).fair(np.random.default_rng(0))


def test_outputs_of_other_scales_are_brought_to_the_smallest(sup):
    block = HyTraStages(sup).block(0)
    outputs = outputs_of(block, torch.randn(2, 1, 8, 8))
    assert outputs == {SHAPE.outputs(s): 2 * 2**s for s in range(3)}
    align = Alignment({16: 8, 32: 2})
    assert [m.stride for m in align.fixes["16"] if isinstance(m, torch.nn.Conv2d)] == [(4, 4), (1, 1)]
    for channels, side in ((16, 8), (32, 2)):
        assert align(torch.randn(3, channels, side, side)).shape == (3, 32)


def test_a_network_costs_what_its_layers_do():
    shape = HybridShape((16, 8, 4), layers=1, blocks=1, stem=4, head_dim=4, in_channels=1)
    net = trace(HybridNet(shape, [(3,)], 5).eval(), torch.zeros(1, 1, 8, 8))
    pixels, inner, out = 16, 8, 32
    layer = inner * inner + 9 * inner + 9 * inner * inner + inner * out
    expected = 64 * 9 * 4 + pixels * (4 * 4 + 4 * inner) + pixels * (layer + inner * out) + out * 5
    assert net.cost(net.everything).macs == expected
