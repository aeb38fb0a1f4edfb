"""Networks that make images larger: published sizes, shapes, and SwinIR's block against timm's."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from netwright import models
from netwright.errors import ModelError
from netwright.models import EDSR, RCAN, SwinIR
from netwright.structure import trace


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "published"),
    [
        # RCAN's published 15,444,667 and 15,592,379 count 24 weights that shift colours, which never change.
        ("edsr_x2", 1_369_859),
        ("edsr_large_x2", 40_729_603),
        ("edsr_large_x4", 43_089_923),
        ("rcan_x2", 15_444_643),
        ("rcan_x4", 15_592_355),
        ("swinir_light_x2", 910_152),
        ("swinir_light_x4", 929_628),
    ],
)
def test_published_sizes(name, published):
    assert count(models.load(name).model) == published


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize(
    "make",
    [
        lambda s: EDSR(s, 1, 8, 2),
        lambda s: RCAN(s, 1, 8, 2, 2, 4),
        lambda s: SwinIR(s, 1, 12, (2, 2), 3, 4),
    ],
)
def test_any_size_gets_larger(make, scale):
    model = make(scale).eval()
    x = torch.rand(2, 1, 9, 13)
    assert model(x).shape == (2, 1, 9 * scale, 13 * scale)
    model(x).mean().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_windows_do_not_leak_over_the_border():
    """A pixel far from another in the image but in its window after the shift must not see it."""
    torch.manual_seed(0)
    model = SwinIR(2, 1, 12, (2,), 3, 4).eval().double()
    block = model.stages[0].layers[1]
    assert block.shift == 2
    x = torch.randn(1, 8, 8, 12, dtype=torch.float64)
    other = x.clone()
    other[:, 7, 7] += 1.0
    changed = (block(x) != block(other)).any(dim=-1)[0]
    assert not bool(changed[:4, :4].any()) and bool(changed[7, 7])


@pytest.mark.parametrize("shift", [0, 4])
def test_a_block_is_that_of_swin(shift):
    timm = pytest.importorskip("timm.models.swin_transformer")
    torch.manual_seed(0)
    reference = timm.SwinTransformerBlock(
        24, (16, 16), num_heads=3, window_size=8, shift_size=shift, mlp_ratio=2.0
    )
    block = SwinIR(2, 3, 24, (2,), 3, 8).stages[0].layers[1 if shift else 0]
    state = {
        n.replace("mlp.", ""): t
        for n, t in reference.state_dict().items()
        if "index" not in n and "mask" not in n
    }
    with torch.no_grad():
        for t in state.values():
            t.copy_(torch.randn_like(t) * 0.3)
    block.load_state_dict(state)
    x = torch.randn(2, 16, 16, 24)
    assert torch.allclose(block(x), reference.eval()(x), atol=1e-5)


def test_scales_that_do_not_exist_are_refused():
    for scale in (0, 5, 6):
        with pytest.raises(ModelError):
            EDSR(scale, 1, 8, 1)
    with pytest.raises(ModelError, match="classes"):
        models.load("edsr_x2", num_classes=10)


@pytest.mark.parametrize("make", [lambda: EDSR(2, 1, 8, 2), lambda: RCAN(2, 1, 8, 1, 2, 4)])
def test_channels_can_be_cut(make):
    net = trace(make(), torch.rand(2, 1, 8, 8))
    assert net.prunable
