"""The quick shapes of common operators are those of the operators themselves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from netwright.structure.kernels import KERNELS

aten = torch.ops.aten


def meta(*shape: int, order: tuple[int, ...] | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
    x = torch.empty(shape, device="meta", dtype=dtype)
    return x if order is None else x.permute(order)


IMAGE = (2, 6, 5, 4)
LAST = meta(2, 5, 4, 6, order=(0, 3, 1, 2))
CALLS: list[tuple[Any, tuple[Any, ...]]] = [
    *[(op, (x,)) for op in KERNELS if len(op._schema.arguments) == 1 for x in (meta(*IMAGE), LAST, meta())],
    (aten.gelu.default, (LAST,)),
    (aten.hardtanh_.default, (meta(3), 0.0, 6.0)),
    (aten.clamp_.default, (LAST, 0.0)),
    (aten.leaky_relu.default, (LAST, 0.1)),
    (aten.hardtanh.default, (meta(3), 0.0, 6.0)),
    *[
        (op, pair)
        for op in (aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor)
        for pair in (
            (meta(*IMAGE), meta(*IMAGE)),
            (LAST, LAST),
            (LAST, meta(*IMAGE)),
            (meta(*IMAGE), meta(6, 1, 1)),
            (meta(6, 1, 1), meta(*IMAGE)),
            (meta(*IMAGE), meta(1, 6, 5, 4)),
            (meta(2, 1, 5, 4), meta(*IMAGE)),
            (meta(*IMAGE), 0.5),
            (meta(*IMAGE), meta(*IMAGE, dtype=torch.float64)),
            (meta(*IMAGE, dtype=torch.int64), 2),
            (meta(*IMAGE, dtype=torch.int64), 0.5),
            (meta(*IMAGE), meta()),
        )
    ],
    (aten.native_layer_norm.default, (meta(2, 7, 6), [6], meta(6), meta(6), 1e-5)),
    (aten.native_layer_norm.default, (meta(2, 7, 6), [7, 6], None, None, 1e-5)),
    (aten.native_layer_norm.default, (meta(2, 6, 7).transpose(1, 2), [6], meta(6), meta(6), 1e-5)),
    (aten.native_batch_norm.default, (meta(*IMAGE), *[meta(6)] * 4, False, 0.1, 1e-5)),
    (aten.native_batch_norm.default, (LAST, *[meta(6)] * 4, False, 0.1, 1e-5)),
    (aten.native_batch_norm.default, (meta(4, 6), *[meta(6)] * 4, True, 0.1, 1e-5)),
    (aten._softmax.default, (meta(2, 7, 6), -1, False)),
    (aten._safe_softmax.default, (meta(2, 7, 6), -1)),
    (aten.addmm.default, (meta(5), meta(3, 4), meta(5, 4).t())),
    (aten.addmm.default, (meta(3, 5), meta(3, 4), meta(4, 5))),
    *[
        (aten.convolution.default, (x, w, b, stride, padding, dilation, False, [0] * len(stride), groups))
        for x, w, b, stride, padding, dilation, groups in (
            (meta(*IMAGE), meta(8, 6, 3, 3), meta(8), [1, 1], [1, 1], [1, 1], 1),
            (meta(*IMAGE), meta(8, 6, 3, 2), None, [2, 3], [1, 0], [1, 1], 1),
            (meta(*IMAGE), meta(6, 1, 3, 3), None, [1, 1], [2, 2], [2, 1], 6),
            (meta(*IMAGE), meta(8, 2, 1, 1), None, [1, 1], [0, 0], [1, 1], 3),
            (meta(2, 6, 1, 1), meta(8, 6, 1, 1), meta(8), [1, 1], [0, 0], [1, 1], 1),
            (meta(2, 6, 9), meta(8, 6, 3), meta(8), [2], [1], [1], 1),
            (meta(2, 6, 4, 5, 6), meta(8, 6, 3, 3, 3), None, [1, 2, 1], [1, 1, 1], [1, 1, 1], 1),
            (LAST, meta(8, 6, 3, 3), meta(8), [1, 1], [1, 1], [1, 1], 1),
        )
    ],
    (aten.add_.Tensor, (meta(*IMAGE), meta(*IMAGE))),
    (aten.mul_.Tensor, (LAST, meta(6, 1, 1))),
    (aten.mm.default, (meta(3, 4), meta(5, 4).t())),
    (aten.bmm.default, (meta(2, 3, 4), meta(2, 5, 4).transpose(1, 2))),
    (aten.cat.default, ([meta(*IMAGE), meta(2, 3, 5, 4)], 1)),
    (aten.cat.default, ([meta(2, 7), meta(2, 7), meta(2, 1)], -1)),
    (aten._unsafe_view.default, (meta(2, 6, 5), [12, 5])),
    (aten._unsafe_view.default, (meta(2, 6, 5), [4, -1])),
    (aten.mean.dim, (meta(*IMAGE), [2, 3])),
    (aten.mean.dim, (meta(*IMAGE), [-1], True)),
    (aten.mean.dim, (LAST, [2, 3], True)),
    (aten.roll.default, (meta(*IMAGE), [1, 2], [2, 3])),
    (aten.roll.default, (meta(*IMAGE), [3])),
]


@pytest.mark.parametrize(
    ("operator", "args"), CALLS, ids=lambda v: str(v) if not isinstance(v, tuple) else ""
)
def test_quick_shapes_are_those_of_the_operator(operator: Any, args: tuple[Any, ...]) -> None:
    quick = KERNELS[operator](*args)
    if quick is None:  # left to the operator
        return
    real = operator(*args)
    quick, real = ((x,) if isinstance(x, Tensor) else tuple(x) for x in (quick, real))
    for ours, theirs in zip(quick, real, strict=True):
        assert (ours.shape, ours.dtype, ours.stride()) == (theirs.shape, theirs.dtype, theirs.stride())


def strides(x: Tensor) -> list[int]:
    """Strides of the dimensions that have several elements; those of the others mean nothing."""
    return [s for s, n in zip(x.stride(), x.shape, strict=True) if n > 1]


@pytest.mark.parametrize("seed", range(60))
def test_strides_of_a_sum_follow_its_operands(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)

    def draw(*among: int) -> int:
        return among[int(torch.randint(len(among), (), generator=generator))]

    rank = draw(1, 2, 3, 4, 4, 5)
    shape = [draw(1, 2, 3, 4) for _ in range(rank)]

    def operand(sizes: list[int]) -> Tensor:
        order = torch.randperm(len(sizes), generator=generator).tolist() if draw(0, 1) else range(len(sizes))
        back = sorted(range(len(sizes)), key=list(order).__getitem__)
        return meta(*[sizes[d] for d in order]).permute(back)

    a = operand(shape)
    b = operand([draw(1, n) for n in shape][draw(0, 0, rank - 1) :])
    for pair in ((a, b), (b, a)):
        quick, real = KERNELS[aten.add.Tensor](*pair), aten.add.Tensor(*pair)
        if quick is not None:
            assert quick.shape == real.shape, pair
            assert strides(quick) == strides(real), pair


def test_the_common_cases_are_quick() -> None:
    left = [KERNELS[operator](*args) is None for operator, args in CALLS]
    assert sum(left) < len(left) / 2


def test_operands_that_do_not_fit_are_left_to_the_operator() -> None:
    assert KERNELS[aten.addmm.default](meta(5), meta(3, 4), meta(3, 5)) is None
    assert KERNELS[aten.add.Tensor](meta(2, 3), meta(2, 4)) is None
    assert KERNELS[aten.native_layer_norm.default](meta(2, 3), [4], None, None, 1e-5) is None
    assert KERNELS[aten.mm.default](meta(2, 3), meta(4, 5)) is None
    assert KERNELS[aten.bmm.default](meta(2, 3, 4), meta(3, 4, 5)) is None
    assert KERNELS[aten.cat.default]([meta(2, 3), meta(3, 3)], 1) is None
    assert KERNELS[aten._unsafe_view.default](meta(2, 3), [5]) is None
    assert KERNELS[aten.add_.Tensor](meta(2, 1), meta(2, 4)) is None
    geometry = ([1, 1], [0, 0], [1, 1], False, [0, 0], 1)
    assert KERNELS[aten.convolution.default](meta(*IMAGE), meta(8, 5, 1, 1), None, *geometry) is None
    assert KERNELS[aten.convolution.default](meta(*IMAGE), meta(8, 6, 7, 1), None, *geometry) is None
    assert KERNELS[aten.convolution.default](meta(*IMAGE), meta(8, 6, 1, 1), meta(7), *geometry) is None
    assert KERNELS[aten.native_batch_norm.default](meta(*IMAGE), *[meta(5)] * 4, False, 0.1, 1e-5) is None


def test_factories_on_the_meta_device_are_quick() -> None:
    made = KERNELS[aten.empty.memory_format]([2, 3], dtype=torch.float64, device=torch.device("meta"))
    assert made.is_meta and made.shape == (2, 3) and made.dtype == torch.float64
    assert KERNELS[aten.empty.memory_format]([2, 3], device=torch.device("cpu")) is None
    assert KERNELS[aten.empty.memory_format]([2, 3]) is None


def test_what_has_values_is_left_to_the_operator() -> None:
    x = torch.tensor([1.0, 4.0])
    assert KERNELS[aten.sqrt.default](x) is None
    assert KERNELS[aten.mul.Tensor](x, x) is None
    assert KERNELS[aten.cat.default]([x, x]) is None
