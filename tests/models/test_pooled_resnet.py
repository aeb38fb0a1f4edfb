"""Networks with movable poolings: the paper's counts, and the lists of positions."""

from __future__ import annotations

from itertools import pairwise
from math import comb

import pytest
import torch
from tests.models.counting import count, half_in_place, traced, widths

from netwright import models
from netwright.errors import ModelError
from netwright.models.zoo.pooled_resnet import PooledBlock, positions_of, resolutions_of

NORM = {"affine": False, "track_running_stats": False}


def test_all_36_networks_have_the_same_parameters() -> None:
    paths = models.pool_positions(10, 2)
    assert len(set(paths)) == 36
    first = models.pooled_resnet(paths[0]).state_dict()
    for path in paths:
        with torch.device("meta"):
            model = models.pooled_resnet(path)
        assert count(model) == 270_906
        assert {k: v.shape for k, v in model.state_dict().items()} == {k: v.shape for k, v in first.items()}


@pytest.mark.parametrize(("resolutions", "macs"), [([4, 3, 3], 40_813_184), ([7, 1, 2], 91_144_832)])
def test_published_costs(resolutions: list[int], macs: int) -> None:
    net = traced(lambda: models.pooled_resnet(positions_of(resolutions)), 3, 32, 32)
    assert (net.macs, net.params) == (macs, 270_906)


def test_the_usual_networks() -> None:
    expected = {
        "resnet20": (36, [4, 3, 3]),
        "resnet18": (56, [3, 2, 2, 2]),
        "resnet50": (560, [4, 4, 6, 3]),
        "pool-15": (15, [3, 2, 2]),
    }
    for name, (paths, resolutions) in expected.items():
        space = models.POOLING_SPACES[name]
        assert len(space.positions) == comb(len(space.widths) - 1, space.pools) == paths
        assert resolutions_of(space.default, len(space.widths)) == resolutions
        assert space.default in space.positions
        for path in space.positions:
            assert positions_of(resolutions_of(path, len(space.widths))) == path


@pytest.mark.parametrize(("name", "published"), [("resnet18", 11_173_962), ("resnet50", 23_520_842)])
def test_larger_networks(name: str, published: int) -> None:
    """The usual counts of both for 32 pixels and 10 classes, less two numbers a channel of every norm."""
    space = models.POOLING_SPACES[name]
    norms = sum(a if not space.bottleneck else a + 2 * (a // 4) for a in space.widths[1:])
    norms += 0 if space.bottleneck else sum(space.widths[1:])
    norms += sum(b for a, b in pairwise(space.widths) if a != b) + space.widths[0]
    net = traced(lambda: models.pooled_resnet(None, name), 3, 32, 32)
    assert net.params == published - 2 * norms
    early = traced(lambda: models.pooled_resnet(space.positions[0], name), 3, 32, 32)
    late = traced(lambda: models.pooled_resnet(space.positions[-1], name), 3, 32, 32)
    assert early.macs < net.macs < late.macs
    assert early.params == late.params == net.params


def test_layers_by_resolution() -> None:
    """The halving sits where the position says."""
    model = models.pooled_resnet((2, 5), 7)
    sizes = []
    for block in (model.stem, *model.layers):
        block.register_forward_hook(lambda m, i, o: sizes.append(o.shape[-1]))
    model(torch.randn(2, 3, 16, 16))
    assert sizes == [16, 16, 8, 8, 8, 4, 4]


def test_a_stride_takes_every_second_pixel_around() -> None:
    block = PooledBlock(4, 4, "stride", False, NORM)
    x = torch.randn(2, 4, 6, 6)
    for parameter in block.parameters():
        parameter.data.zero_()
    assert torch.equal(block(x), torch.relu(x[..., ::2, ::2]))


def test_batches_are_normalised_by_themselves() -> None:
    model = models.pooled_resnet(None, 7, in_channels=1).eval()
    x = torch.randn(8, 1, 14, 14)
    assert torch.allclose(model(x), model(3 * x), atol=1e-2)
    own = models.pooled_resnet(None, 7, in_channels=1, affine=True, running_statistics=True).eval()
    assert not torch.allclose(own(x), own(3 * x), atol=1e-1)


@pytest.mark.parametrize(
    "model",
    [
        models.pooled_resnet((1, 4), 7, in_channels=1),
        models.pooled_resnet((1, 2), 4, (8, 8, 16, 16), in_channels=1, running_statistics=True, affine=True),
        models.pooled_resnet(
            (1, 3), 5, (8, 16, 16, 32, 32), in_channels=1, bottleneck=True, pooling="stride"
        ),
    ],
)
def test_prunes_in_place(model: models.PooledResNet) -> None:
    found = widths(half_in_place(model, torch.randn(4, 1, 14, 14)).net)
    assert found["stem.0"] == model.stem[0].out_channels
    assert found["layers.1.branch.0"] == model.layers[1].branch[0].out_channels


@pytest.mark.parametrize(
    ("positions", "layers", "options", "message"),
    [
        ((0, 3), 10, {}, r"layers \[0, 3\] of 10"),
        ((3, 3), 10, {}, "different numbers from 1 to 9"),
        ((1, 7), 7, {}, "of 7"),
        (None, 9, {}, "no widths for 9"),
        (None, 9, {"widths": (8, 8)}, "2 widths"),
        (None, 7, {"pooling": "mean"}, "no pooling 'mean'"),
    ],
)
def test_what_cannot_be_built(positions, layers, options, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        models.pooled_resnet(positions, layers, **options)
