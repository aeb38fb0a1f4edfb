"""How well a network makes images larger: PSNR and SSIM over the pairs of a source."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from netwright.data import PairSource, resize_bicubic
from netwright.errors import DataError
from netwright.metrics.images import psnr_y, ssim_y
from netwright.train import evaluating

_BATCH = 64


@dataclass(frozen=True)
class Enlarged:
    """Mean quality over images.

    Attributes:
        psnr: Of the luminance in dB, without a border of `scale` pixels.
        ssim: In the same way.
        images: How many there were.
    """

    psnr: float
    ssim: float
    images: int


@torch.no_grad()
def enlarging_quality(
    model: nn.Module | None, pairs: PairSource, *, device: str | torch.device = "cpu"
) -> Enlarged:
    """Compare a network's answers on whole small images with the large ones.

    Args:
        model: Takes (B, C, h, w) in 0..1 and answers (B, C, scale h, scale w); None is bicubic interpolation.
        pairs: Images of any size; those of one size in a row are run together.
        device: Where to run; the network must be there.

    Raises:
        DataError: if there are no images, or an answer has another size.
    """
    if not len(pairs):
        raise DataError("there are no images to compare")
    answer: Callable[[Tensor], Tensor] = model if model is not None else (lambda x: _bicubic(x, pairs.scale))
    psnr, ssim = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    with evaluating(model if model is not None else nn.Identity()):
        for low, high in _batches(pairs):
            made = answer(low.to(device)).float().cpu()
            if made.shape != high.shape:
                raise DataError(f"the answer to {tuple(low.shape)} has shape {tuple(made.shape)}")
            psnr += psnr_y(made, high, crop=pairs.scale).sum()
            ssim += ssim_y(made, high, crop=pairs.scale).sum()
    return Enlarged(float(psnr) / len(pairs), float(ssim) / len(pairs), len(pairs))


def _bicubic(x: Tensor, scale: int) -> Tensor:
    return resize_bicubic(x, x.shape[-2] * scale, x.shape[-1] * scale)


def _batches(pairs: PairSource) -> Iterator[tuple[Tensor, Tensor]]:
    waiting: list[tuple[Tensor, Tensor]] = []
    for index in range(len(pairs)):
        pair = pairs.whole(index)
        if waiting and (pair[0].shape != waiting[0][0].shape or len(waiting) == _BATCH):
            yield _stacked(waiting)
            waiting = []
        waiting.append(pair)
    yield _stacked(waiting)


def _stacked(pairs: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    return torch.stack([p[0] for p in pairs]), torch.stack([p[1] for p in pairs])
