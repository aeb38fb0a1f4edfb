"""Quality over pairs against the functions of single batches."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from netwright.data import PairSource, resize_bicubic, super_resolution
from netwright.errors import DataError
from netwright.metrics import enlarging_quality, psnr_y, ssim_y


def pairs():
    images = [
        torch.rand(3, h, w, generator=torch.Generator().manual_seed(h))
        for h, w in ((24, 30), (24, 30), (26, 22))
    ]
    made = [super_resolution(image, 2) for image in images]
    return PairSource([m[0] for m in made], [m[1] for m in made], 2)


def test_it_is_the_mean_over_whole_images_of_any_size():
    source = pairs()
    found = enlarging_quality(None, source)
    values = []
    for k in range(3):
        low, high = source.whole(k)
        made = resize_bicubic(low[None], *high.shape[-2:])
        values.append((float(psnr_y(made, high[None], crop=2)), float(ssim_y(made, high[None], crop=2))))
    assert found.images == 3
    assert found.psnr == pytest.approx(sum(v[0] for v in values) / 3)
    assert found.ssim == pytest.approx(sum(v[1] for v in values) / 3)


class Nearest(nn.Module):
    def forward(self, x):
        assert not self.training
        return F.interpolate(x, scale_factor=2)


def test_networks_are_run_in_eval_mode_and_must_answer_the_right_size():
    model = Nearest().train()
    assert enlarging_quality(model, pairs()).psnr != enlarging_quality(None, pairs()).psnr
    assert model.training
    with pytest.raises(DataError, match="shape"):
        enlarging_quality(nn.Identity(), pairs())
    with pytest.raises(DataError, match="no images"):
        enlarging_quality(model, PairSource([], [], 2))
