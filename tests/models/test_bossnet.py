"""BossNets: the counts of the paper's networks, and what their two kinds of block compute."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.models.counting import half_in_place, shaken, traced, widths
from torch import nn

from netwright import models
from netwright.errors import ModelError
from netwright.models.zoo.bossnet import ImageAttention


def small(encoding: tuple[str, ...] = ("c", "ca", "cca"), **options: Any) -> models.BossNet:
    torch.manual_seed(0)
    given = {"num_classes": 5, "in_channels": 1, "inner": (8, 16, 32, 64), "head_dim": 8}
    return models.bossnet(encoding, **{**given, **options})


@pytest.mark.parametrize(
    ("build", "params", "macs", "total"),
    [
        (models.bossnet, 38.416, 3.404, None),
        (lambda: models.bossnet(se=False, act="relu"), 37.319, 3.403, None),
        (lambda: models.bossnet(last_stride=1), 38.416, 7.610, 7.9),
    ],
)
def test_published_networks(
    build: Callable[[], nn.Module], params: float, macs: float, total: float | None
) -> None:
    """Multiply-accumulates of T0 without the products inside attention, those of T1 with and without."""
    net = traced(build, 3, 224, 224)
    assert round(net.params / 1e6, 3) == params
    inside = sum(o.macs for o in net.operators if o.module.endswith(".attn"))
    assert 0 < inside < net.macs / 20
    assert round((net.macs - inside) / 1e9, 3) == macs
    if total is not None:
        assert round(net.macs / 1e9, 1) == total


def test_attention_is_that_of_every_pixel_to_every_other() -> None:
    layer = ImageAttention(6, 3, 4)
    x = torch.randn(2, 6, 5, 7)
    q, k, v = layer.qkv(x).flatten(2).chunk(3, dim=1)  # (2, 12, 35) each
    parts = []
    for head in range(3):
        a, b, c = (t[:, 4 * head : 4 * head + 4].transpose(1, 2) for t in (q, k, v))
        parts.append(((a @ b.transpose(1, 2) / 2).softmax(-1) @ c).transpose(1, 2))
    assert torch.allclose(layer(x), torch.cat(parts, dim=1).reshape(2, 12, 5, 7), atol=1e-6)


@pytest.mark.parametrize("shortcut", ["pool", "conv"])
@pytest.mark.parametrize("stride", [1, 2])
def test_blocks_change_the_shape_and_begin_as_their_shortcuts(shortcut: str, stride: int) -> None:
    x = torch.randn(2, 8, 9, 9)
    side = 9 if stride == 1 else 5
    for block in (
        models.ResConv(8, 16, 4, stride, "silu", True, shortcut),
        models.ResAtt(8, 16, 2, 4, stride, "silu", shortcut),
    ):
        y = block.eval()(x)
        assert y.shape == (2, 16, side, side)
        assert torch.equal(y, nn.functional.silu(block.shortcut(x)))
        shaken(block)
        assert not torch.allclose(block(x), nn.functional.silu(block.shortcut(x)), atol=1e-3)


def test_squeeze_and_excitation_belongs_to_convolutions() -> None:
    with_se, without = small(), small(se=False)
    names = [n for n, m in with_se.named_modules() if n.endswith(".se") and not isinstance(m, nn.Identity)]
    assert len(names) == "ccacca".count("c")
    assert sum(p.numel() for p in with_se.parameters()) > sum(p.numel() for p in without.parameters())


@pytest.mark.parametrize(
    "model",
    [
        small(),
        small(("", "c", "ac", "aa"), se=False, act="relu", shortcut="conv", last_stride=1),
        small(drop_path=0.2),
    ],
)
def test_prunes_in_place(model: models.BossNet) -> None:
    result = half_in_place(model, torch.randn(2, 1, 64, 64))
    found = widths(result.net)
    heads = {name: n for name, n in found.items() if name.endswith("attn.qkv")}
    assert heads  # whole heads are what attention can lose
    assert all(n == 8 or n * 8 in (16, 32, 64) for n in heads.values())


def test_every_weight_learns() -> None:
    model = small().train()
    for block in model.modules():
        if isinstance(block, models.ResConv | models.ResAtt):
            nn.init.ones_(block.bn3.weight)
    model(torch.randn(4, 1, 32, 32)).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: models.bossnet(("cx",)), "not understood"),
        (lambda: models.bossnet("cca"), "not understood"),
        (lambda: small(("c",) * 5), "5 stages"),
        (lambda: small(("a",), head_dim=5), "heads of 5"),
        (lambda: small(act="tanh"), "no activation 'tanh'"),
        (lambda: small(shortcut="none"), "no shortcut 'none'"),
        (lambda: small(("cc",), drop_path=1.0), "rate of 1.0"),
    ],
)
def test_what_cannot_be_built(build: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises((ModelError, ValueError), match=message):
        build()
