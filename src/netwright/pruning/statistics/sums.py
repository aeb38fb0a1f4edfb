"""Moments of the inputs of one operator in two networks, over the same rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from netwright.pruning.statistics.lockstep import Call
from netwright.pruning.statistics.moments import unfold

#: Rows that are used, as a multiple of the columns, and at least.
_MOST_ROWS, _ALWAYS = 64, 1 << 16


class Sums:
    """Mean, second and cross moments of a dense input x (D columns) and a small one z (S columns).

    The sums are taken about the means of the first rows, so that single precision is enough.

    Args:
        dense: The call in the dense network.
        small: The call in the small one.
        products: Also take second moments; without, the means are those inside an image, where a kernel does
            not reach into the padding, so that what is constant there is exact.
    """

    def __init__(self, dense: Call, small: Call, *, products: bool = True) -> None:
        if not products:
            dense, small = _inside(dense), _inside(small)
        step = max(1, small.rows // max(_MOST_ROWS * small.columns, _ALWAYS))
        self._count = 0
        for x, z in zip(_rows(dense, step), _rows(small, step), strict=True):
            x, z = x.float(), z.float()
            if self._count == 0:
                self._x0, self._z0 = x.mean(dim=1, keepdim=True), z.mean(dim=1, keepdim=True)
                groups, d, s = len(x), x.shape[2], z.shape[2]
                self._x = torch.zeros(groups, d, dtype=torch.float64, device=x.device)
                self._z = torch.zeros(groups, s, dtype=torch.float64, device=x.device)
                self._zx = torch.zeros(groups, s, d, device=x.device)
                self._zz = torch.zeros(groups, s, s, device=x.device)
            x, z = x - self._x0, z - self._z0
            self._count += x.shape[1]
            self._x += x.sum(dim=1).double()
            self._z += z.sum(dim=1).double()
            if not products:
                continue
            self._zx.baddbmm_(z.transpose(1, 2), x)
            self._zz.baddbmm_(z.transpose(1, 2), z)

    def means(self) -> tuple[Tensor, Tensor]:
        """Mean of x (G, D) and of z (G, S), float64."""
        x, z = self._x / self._count, self._z / self._count
        return x + self._x0[:, 0].double(), z + self._z0[:, 0].double()

    def centred(self) -> tuple[Tensor, Tensor]:
        """Covariances of z and x (G, S, D) and of z (G, S, S), float64."""
        x, z = self._x / self._count, self._z / self._count
        zx, zz = self._zx.double() / self._count, self._zz.double() / self._count
        return zx - z[:, :, None] * x[:, None, :], zz - z[:, :, None] * z[:, None, :]

    def plain(self) -> tuple[Tensor, Tensor]:
        """Mean of z x^T (G, S, D) and of z z^T (G, S, S), float64."""
        x, z = self.means()
        zx, zz = self.centred()
        return zx + z[:, :, None] * x[:, None, :], zz + z[:, :, None] * z[:, None, :]


def _inside(call: Call) -> Call:
    """The call without padding, where the image is larger than the kernel."""
    if call.geometry is None:
        return call
    kernel, stride, padding, dilation = call.geometry
    reach = [(k - 1) * dilation[i % len(dilation)] + 1 for i, k in enumerate(kernel)]
    if any(n < r for n, r in zip(call.x.shape[2:], reach, strict=True)):
        return call
    return replace(call, geometry=(kernel, stride, [0] * len(padding), dilation))


def _rows(call: Call, step: int) -> Iterator[Tensor]:
    """Every `step`-th row, or example, of an operator's input, (G, N, D) at a time."""
    if call.geometry is None:
        rows = call.x.reshape(-1, call.columns)[::step]
        yield from (part[None] for part in rows.split(_ALWAYS))
        return
    x = call.x[:: min(step, len(call.x))]
    kernel, stride, padding, dilation = call.geometry
    chunk = max(1, _ALWAYS * len(call.x) // max(1, call.rows))  # the same for both networks
    yield from unfold(x, kernel, stride, padding, dilation, call.groups, chunk)
