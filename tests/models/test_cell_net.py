"""Networks of cells: the ends of NAS-Bench-201, the graph of a cell, the operations of an edge."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from tests.models.counting import half_in_place, traced, widths
from torch import nn
from torch.nn import functional as F

from netwright import models
from netwright.errors import ModelError
from netwright.models.zoo.cell_net import CELL_OPS, NB201_OPS, Cell


@pytest.mark.parametrize(
    ("op", "params", "macs"), [("conv3x3", 1_531_546, 220_119_690), ("skip", 73_306, 7_783_050)]
)
def test_ends_of_nas_bench_201(op: str, params: int, macs: int) -> None:
    """Published are 1.531546 M and 220.11969 M, 0.073306 M and 7.78305 M, with the additions of 10 biases."""
    net = traced(lambda: models.cell_net([op] * 6, "nb201", affine=True, running_statistics=True), 3, 32, 32)
    assert net.params == params
    assert net.macs + 10 == macs


def test_choices() -> None:
    assert len(set(models.cell_paths())) == 64
    assert len(models.cell_paths(NB201_OPS, 4)) == 15_625
    assert models.cell_edges(4) == [(0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)]


@pytest.mark.parametrize("ops", [("conv3x3", "skip", "avgpool"), ("none", "conv1x1", "conv3x3")])
def test_a_cell_is_its_graph(ops: Sequence[str]) -> None:
    cell = Cell(ops, 3, 4, False, False)
    x = torch.randn(2, 4, 6, 6)
    first, around, second = cell.edges
    assert torch.allclose(cell(x), around(x) + second(first(x)), atol=1e-6)


def test_operations_keep_the_shape() -> None:
    x = torch.randn(3, 4, 5, 5)
    for name in NB201_OPS:
        assert models.cell_op(name, 4)(x).shape == x.shape
    assert torch.equal(models.cell_op("none", 4)(x), torch.zeros_like(x))
    assert torch.equal(models.cell_op("skip", 4)(x), x)
    ones = torch.ones(1, 4, 3, 3)
    assert torch.allclose(models.cell_op("avgpool", 4)(ones), ones)  # the rim does not count
    conv = models.cell_op("conv3x3", 4)
    expected = F.conv2d(x.relu(), conv[1].weight, padding=1)
    assert torch.allclose(conv(x), F.batch_norm(expected, None, None, training=True), atol=1e-5)


@pytest.mark.parametrize("running", [False, True])
def test_statistics_and_factors_on_request(running: bool) -> None:
    model = models.cell_net(affine=running, running_statistics=running)
    inside = [m for m in model.cells.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(inside) == 9
    assert all(m.affine == running and m.track_running_stats == running for m in inside)
    state = [name for name in model.state_dict() if "running" in name]
    assert bool(state) == running


@pytest.mark.parametrize(
    ("ops", "kind", "options"),
    [
        (("conv3x3", "avgpool", "conv1x1"), "cell-64", {}),
        (("conv3x3", "none", "conv3x3"), "cell-64", {"affine": True, "running_statistics": True}),
        (("conv3x3", "none", "skip", "avgpool", "conv1x1", "skip"), "nb201", {"cells": 1, "width": 8}),
    ],
)
def test_prunes_in_place(ops: Sequence[str], kind: str, options: dict[str, object]) -> None:
    model = models.cell_net(ops, kind, in_channels=1, **options)
    found = widths(half_in_place(model, torch.randn(4, 1, 16, 16)).net)
    assert found["stem.0"] == model.stem[0].out_channels


def test_every_path_of_the_small_space_runs() -> None:
    x = torch.randn(2, 1, 6, 6)
    for path in models.cell_paths(CELL_OPS):
        model = models.cell_net(path, in_channels=1, width=2, cells=1)
        assert bool(model(x).isfinite().all())


@pytest.mark.parametrize(
    ("ops", "kind", "message"),
    [
        (("skip",) * 4, "cell-64", "operations of 3 edges"),
        ("conv3x3", "cell-64", "operations of 3 edges"),
        (("skip", "skip", "maxpool"), "cell-64", "no operation 'maxpool'"),
        (None, "darts", "no network of cells 'darts'"),
    ],
)
def test_what_cannot_be_built(ops, kind: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        models.cell_net(ops, kind)
