"""`ShapedAttention` computes what `nn.MultiheadAttention` does."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from netwright.structure import ShapedAttention
from netwright.structure.attention import adopt_attention


def twins(**options) -> tuple[nn.MultiheadAttention, nn.Module]:
    torch.manual_seed(0)
    plain = nn.MultiheadAttention(12, 3, **options).double().eval()
    shaped = copy.deepcopy(plain)
    holder = nn.ModuleList([shaped])
    assert adopt_attention(holder) == ["0"]
    return plain, shaped


MASKS = {
    "none": {},
    "causal": {"attn_mask": torch.ones(5, 5, dtype=torch.bool).triu(1)},
    "added": {"attn_mask": torch.randn(5, 5, dtype=torch.float64)},
    "per head": {"attn_mask": torch.randn(6, 5, 5, dtype=torch.float64)},
    "padding": {"key_padding_mask": torch.tensor([[False] * 5, [False, False, False, True, True]])},
    "padding and causal": {
        "attn_mask": torch.ones(5, 5, dtype=torch.bool).triu(1),
        "key_padding_mask": torch.tensor([[False] * 5, [False, False, False, True, True]]),
    },
}


@pytest.mark.parametrize("options", [{}, {"batch_first": True}, {"bias": False}], ids=str)
@pytest.mark.parametrize("need", [True, False])
@pytest.mark.parametrize("mask", list(MASKS))
def test_it_is_the_same_function(options, need, mask) -> None:
    plain, shaped = twins(**options)
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    x = x if options.get("batch_first") else x.transpose(0, 1)
    left, right = (
        plain(x, x, x, need_weights=need, **MASKS[mask]),
        shaped(x, x, x, need_weights=need, **MASKS[mask]),
    )
    torch.testing.assert_close(left[0], right[0])
    assert (left[1] is None) == (right[1] is None) == (not need)
    if need:
        torch.testing.assert_close(left[1], right[1])


def test_weights_of_every_head() -> None:
    plain, shaped = twins(batch_first=True)
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    torch.testing.assert_close(
        plain(x, x, x, average_attn_weights=False)[1], shaped(x, x, x, average_attn_weights=False)[1]
    )


def test_one_sequence_and_other_keys() -> None:
    plain, shaped = twins()
    x, y = torch.randn(5, 12, dtype=torch.float64), torch.randn(7, 12, dtype=torch.float64)
    for left, right in zip(plain(x, y, y), shaped(x, y, y), strict=True):
        torch.testing.assert_close(left, right)


def test_the_class_changes_and_the_names_do_not() -> None:
    plain, shaped = twins()
    assert isinstance(shaped, ShapedAttention) and type(plain) is nn.MultiheadAttention
    assert list(plain.state_dict()) == list(shaped.state_dict())


def test_other_kinds_are_left_as_they_are() -> None:
    kinds = nn.ModuleList(
        [
            nn.MultiheadAttention(12, 3, kdim=5, vdim=6),
            nn.MultiheadAttention(12, 3, add_bias_kv=True),
            nn.MultiheadAttention(12, 3, add_zero_attn=True),
            nn.Linear(3, 3),
        ]
    )
    assert adopt_attention(kinds) == []
    assert adopt_attention(nn.ModuleList([nn.MultiheadAttention(12, 3)] * 2), names=["7"]) == []
