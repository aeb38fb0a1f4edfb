"""How near images are to others: PSNR and SSIM, of luminance and without a border, as is the custom.

Z. Wang, A. C. Bovik, H. R. Sheikh and E. P. Simoncelli, Image quality assessment: from error visibility to
structural similarity, IEEE Transactions on Image Processing 2004, with the constants of the authors' code.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from netwright.errors import DataError

#: ITU-R BT.601, for red, green and blue in 0..255 / 255, with black at 16 and white at 235.
_LUMA = (65.481, 128.553, 24.966)
_OFFSET = 16.0
_WINDOW, _SIGMA = 11, 1.5
_K1, _K2 = 0.01, 0.03


def luminance(images: Tensor) -> Tensor:
    """Y of YCbCr (ITU-R BT.601), as MATLAB's ``rgb2ycbcr`` has it.

    Args:
        images: (..., 3, H, W) red, green and blue in 0..1, or (..., 1, H, W), which is returned as it is.

    Returns:
        (..., 1, H, W) in 16/255..235/255.

    Raises:
        DataError: if there are neither 1 nor 3 channels.
    """
    channels = images.shape[-3]
    if channels == 1:
        return images
    if channels != 3:
        raise DataError(f"images of {channels} channels have no luminance", "give 1 or 3 channels")
    weights = torch.tensor(_LUMA, dtype=images.dtype, device=images.device).reshape(3, 1, 1)
    return ((images * weights).sum(dim=-3, keepdim=True) + _OFFSET) / 255


def psnr(images: Tensor, others: Tensor, *, crop: int = 0) -> Tensor:
    """Peak signal-to-noise ratio of each image in dB, infinite where they are equal.

    Args:
        images: (B, C, H, W) in 0..1.
        others: The same shape.
        crop: Pixels of the border that are left out.

    Returns:
        (B,) float64.

    Raises:
        DataError: if the shapes differ or nothing is left.
    """
    one, other = _cropped(images, others, crop)
    error = (one - other).square().flatten(1).mean(dim=1)
    return -10 * torch.log10(error)


def psnr_y(images: Tensor, others: Tensor, *, crop: int = 0, rounded: bool = True) -> Tensor:
    """PSNR of the luminance, as published for super-resolution.

    Args:
        images: (B, C, H, W) in 0..1, C 1 or 3.
        others: The same shape.
        crop: Pixels of the border that are left out: the scale, by custom.
        rounded: Round the images to 8 bits first, as files would be.

    Returns:
        (B,) float64.
    """
    return psnr(*(luminance(_eight_bits(i) if rounded else i.double()) for i in (images, others)), crop=crop)


def ssim(images: Tensor, others: Tensor, *, crop: int = 0) -> Tensor:
    """Structural similarity of each image, with an 11x11 Gaussian window of deviation 1.5 inside the image.

    Args:
        images: (B, C, H, W) in 0..1; channels are averaged.
        others: The same shape.
        crop: Pixels of the border that are left out.

    Returns:
        (B,) float64.

    Raises:
        DataError: if the shapes differ or the window does not fit.
    """
    one, other = _cropped(images, others, crop)
    if min(one.shape[-2:]) < _WINDOW:
        raise DataError(f"images of {tuple(one.shape[-2:])} are smaller than the window of {_WINDOW}")
    channels = one.shape[1]
    at = torch.arange(_WINDOW, dtype=torch.float64, device=one.device) - _WINDOW // 2
    line = torch.exp(-at.square() / (2 * _SIGMA**2))
    line = line / line.sum()

    def blurred(x: Tensor) -> Tensor:
        rows = F.conv2d(x, line.reshape(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
        return F.conv2d(rows, line.reshape(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)

    mean, mean2 = blurred(one), blurred(other)
    variance, variance2 = blurred(one * one) - mean**2, blurred(other * other) - mean2**2
    covariance = blurred(one * other) - mean * mean2
    c1, c2 = _K1**2, _K2**2
    top = (2 * mean * mean2 + c1) * (2 * covariance + c2)
    bottom = (mean**2 + mean2**2 + c1) * (variance + variance2 + c2)
    return (top / bottom).flatten(1).mean(dim=1)


def ssim_y(images: Tensor, others: Tensor, *, crop: int = 0, rounded: bool = True) -> Tensor:
    """SSIM of the luminance; arguments as for `psnr_y`."""
    return ssim(*(luminance(_eight_bits(i) if rounded else i.double()) for i in (images, others)), crop=crop)


def _eight_bits(images: Tensor) -> Tensor:
    return (images.double().clamp(0, 1) * 255).round() / 255


def _cropped(images: Tensor, others: Tensor, crop: int) -> tuple[Tensor, Tensor]:
    if images.shape != others.shape or images.dim() != 4:
        raise DataError(
            f"images of {tuple(images.shape)} and {tuple(others.shape)} cannot be compared",
            "give two batches (B, C, H, W) of one shape",
        )
    height, width = images.shape[-2:]
    if crop < 0 or 2 * crop >= min(height, width):
        raise DataError(f"nothing of {height}x{width} pixels is left without a border of {crop}")
    part = (..., slice(crop, height - crop), slice(crop, width - crop))
    return images[part].double(), others[part].double()
