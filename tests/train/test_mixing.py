from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from netwright.train import cutmix, mix


@given(share=st.floats(0, 1), row=st.floats(0, 1), column=st.floats(0, 1), size=st.integers(1, 12))
def test_cutmix_reports_the_share_that_stayed(share: float, row: float, column: float, size: int) -> None:
    x = torch.zeros(2, 1, size, size + 1)
    x[1] = 1
    mixed, stayed = cutmix(x, share, torch.tensor([1, 0]), (row, column))
    assert abs(mixed[1].mean().item() - stayed) < 1e-6
    assert abs(1 - mixed[0].mean().item() - stayed) < 1e-6


def test_mix_repeats_by_seed_and_keeps_labels_and_pixels_in_step() -> None:
    x = torch.arange(8.0).reshape(8, 1, 1, 1).expand(8, 1, 4, 4).contiguous()
    y = torch.arange(8)
    for mixup_alpha, cutmix_alpha in ((0.4, 0.0), (0.0, 1.0), (0.4, 1.0)):
        first, second = (
            mix(
                x,
                y,
                mixup_alpha=mixup_alpha,
                cutmix_alpha=cutmix_alpha,
                generator=torch.Generator().manual_seed(3),
            )
            for _ in range(2)
        )
        mixed, labels, other, share = first
        assert torch.equal(mixed, second[0])
        assert other is not None
        expected = share * labels + (1 - share) * other
        assert torch.allclose(mixed.mean(dim=(1, 2, 3)), expected, atol=1e-5)


def test_mix_is_off_by_default() -> None:
    x, y = torch.zeros(4, 3), torch.zeros(4, dtype=torch.long)
    mixed, _, other, share = mix(x, y, mixup_alpha=0, cutmix_alpha=0, generator=torch.Generator())
    assert mixed is x
    assert other is None
    assert share == 1
