"""Canvases hold the pictures that they were made of, where their labels say."""

import pytest
import torch

from netwright.data import Part, canvases
from netwright.errors import DataError


def part():
    pictures = torch.zeros(3, 1, 6, 6)
    for k in range(3):
        pictures[k, 0, 1:5, 1 : 3 + k] = 0.5 + 0.25 * k
    return Part.from_tensors(pictures, torch.arange(3))


@pytest.mark.parametrize("items", [1, 2, 4])
def test_every_canvas_has_its_pictures_in_quarters_of_their_own(items):
    made = canvases(part(), 20, size=16, items=items, seed=1)
    assert len(made) == 20 and made.shape == (1, 16, 16)
    for k in range(20):
        x, y = made[k]
        assert torch.equal(y > 0, x[0] > 0)  # ink has a class, nothing else has
        corners = [y[a : a + 8, b : b + 8] for a in (0, 8) for b in (0, 8)]
        filled = [c[c > 0].unique().tolist() for c in corners if (c > 0).any()]
        assert len(filled) == items and all(len(classes) == 1 for classes in filled)
        for corner in corners:
            for label in corner[corner > 0].unique().tolist():
                assert int((corner == label).sum()) == 4 * (1 + label)  # the whole of the picture


def test_the_seed_decides():
    one, same, other = (canvases(part(), 8, size=16, seed=s) for s in (0, 0, 1))
    assert torch.equal(one.labels, same.labels) and not torch.equal(one.labels, other.labels)


def test_what_does_not_fit_is_refused():
    with pytest.raises(DataError, match="do not fit"):
        canvases(part(), 2, size=8)
    with pytest.raises(DataError, match="do not fit"):
        canvases(part(), 2, size=16, items=5)
