"""Plain convolutional networks: their spaces, and that every small one is inside the largest."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.models.counting import half_in_place, traced, widths
from torch import nn

from netwright import models
from netwright.errors import ModelError


def test_sizes_of_the_spaces() -> None:
    assert {name: len(space.paths) for name, space in models.MACRO_SPACES.items()} == {
        "macro-81": 81,
        "convmacro": 6561,
        "tanglenas": 6561,
    }
    for space in models.MACRO_SPACES.values():
        assert space.largest in space.paths


@pytest.mark.parametrize("space", ["macro-81", "convmacro"])
def test_counts(space: str) -> None:
    """Multiply-accumulates and parameters by hand, on 14 pixels: poolings after layers 2 and 4."""
    for wide, long in models.MACRO_SPACES[space].paths[:: 17 if space == "macro-81" else 1301]:
        net = traced(lambda w=wide, k=long: models.conv_macro(w, k, in_channels=1), 1, 14, 14)
        inputs, macs, params = (1, *wide), 10 * wide[-1], 10 * wide[-1] + 10
        for layer, (a, b, k) in enumerate(zip(inputs, wide, long, strict=False)):
            macs += a * b * k**2 * (14, 14, 7, 7)[layer] ** 2
            params += a * b * k**2 + 2 * b
        assert (net.macs, net.params) == (macs, params)


def test_a_smaller_kernel_is_the_middle_of_a_larger_one() -> None:
    small = models.conv_macro((4, 4, 8, 8), (3, 5, 3, 5), in_channels=1).eval()
    large = models.conv_macro((4, 4, 8, 8), (7, 7, 7, 7), in_channels=1).eval()
    for name, tensor in large.state_dict().items():
        part = small.state_dict()[name]
        if tensor.dim() == 4:
            rim = (tensor.shape[-1] - part.shape[-1]) // 2
            part = nn.functional.pad(part, (rim,) * 4)
        tensor.copy_(part)
    x = torch.randn(2, 1, 14, 14)
    assert torch.allclose(small(x), large(x), atol=1e-5)


def test_the_network_of_the_paper() -> None:
    net = traced(lambda: models.conv_macro(space="tanglenas"), 3, 32, 32)
    convolutions = [(3, 32), (32, 64), (64, 128), (128, 256), (256, 256)]
    linear = [(256 * 36, 256), (256, 128), (128, 64), (64, 10)]
    assert net.params == sum(49 * a * b + b for a, b in convolutions) + sum(a * b + b for a, b in linear)


@pytest.mark.parametrize(
    ("options", "side"),
    [
        ({"space": "convmacro"}, 14),
        ({"norm": False}, 14),
        ({"space": "tanglenas", "widths": (8, 16, 16, 32), "kernels": (3, 5, 3, 7)}, 32),
    ],
)
def test_prunes_in_place(options: dict[str, Any], side: int) -> None:
    model = models.conv_macro(in_channels=1, **options)
    found = widths(half_in_place(model, torch.randn(2, 1, side, side)).net)
    assert [found[f"layers.{k}.0"] for k in range(4)] == [model.layers[k][0].out_channels for k in range(4)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"space": "small"}, "no macro space 'small'"),
        ({"kernels": (3, 3, 4, 3)}, "kernels"),
        ({"widths": (8, 8)}, "one odd side a layer"),
        ({"space": "tanglenas", "widths": (8, 8), "kernels": (3, 3)}, "four layers"),
    ],
)
def test_what_cannot_be_built(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        models.conv_macro(**options)
