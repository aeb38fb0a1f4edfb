"""PSNR and SSIM against closed forms and scikit-image."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from netwright.errors import DataError
from netwright.metrics import luminance, psnr, psnr_y, ssim, ssim_y

skimage = pytest.importorskip("skimage.metrics")


def pictures(count=2, channels=3, size=24, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(count, channels, size, size, generator=generator) * 255).round() / 255


def test_equal_images_are_infinitely_near():
    x = pictures()
    assert torch.isinf(psnr_y(x, x)).all() and torch.isinf(psnr(x, x)).all()
    assert torch.allclose(ssim(x, x), torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize("error", [1, 5, 40])
def test_a_uniform_error_has_the_closed_form(error):
    x = torch.full((1, 1, 16, 16), 100 / 255)
    expected = 20 * math.log10(255 / error)
    assert float(psnr_y(x, x + error / 255)) == pytest.approx(expected, abs=1e-5)


def test_luminance_is_that_of_matlab():
    white, black = torch.ones(1, 3, 1, 1), torch.zeros(1, 3, 1, 1)
    assert float(luminance(white)) * 255 == pytest.approx(235) and float(
        luminance(black)
    ) * 255 == pytest.approx(16)
    from skimage.color import rgb2ycbcr

    x = pictures(1)
    expected = rgb2ycbcr(x[0].permute(1, 2, 0).numpy())[..., 0]
    assert np.allclose(luminance(x)[0, 0].numpy() * 255, expected, atol=1e-3)


@pytest.mark.parametrize("crop", [0, 3])
def test_agrees_with_scikit_image(crop):
    x = pictures(2, 3, 40)
    y = (x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    inside = (..., slice(crop, 40 - crop), slice(crop, 40 - crop))
    for k in range(2):
        one, other = (v[k][inside].double().numpy() for v in (x, y))
        assert float(psnr(x, y, crop=crop)[k]) == pytest.approx(
            skimage.peak_signal_noise_ratio(one, other, data_range=1), rel=1e-9
        )
        expected = skimage.structural_similarity(
            one,
            other,
            channel_axis=0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=1,
        )
        assert float(ssim(x, y, crop=crop)[k]) == pytest.approx(expected, abs=1e-9)


def test_the_border_and_the_rounding_count():
    x = pictures(1, 1)
    y = x.clone()
    y[..., 0] = 1 - y[..., 0]
    assert torch.isinf(psnr_y(x, y, crop=1)).all() and torch.isfinite(psnr_y(x, y)).all()
    assert torch.isinf(psnr_y(x, x + 0.4 / 255)).all()
    assert torch.isfinite(psnr_y(x, x + 0.4 / 255, rounded=False)).all()
    assert torch.allclose(ssim_y(x, x + 0.4 / 255), torch.ones(1, dtype=torch.float64))


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(DataError):
        psnr(pictures(), pictures(1))
    with pytest.raises(DataError):
        psnr(pictures(), pictures(), crop=12)
    with pytest.raises(DataError):
        ssim(pictures(size=10), pictures(size=10))
    with pytest.raises(DataError):
        luminance(pictures(channels=2))
