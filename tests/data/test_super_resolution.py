"""Small images as MATLAB makes them, pairs at the same place, folders, targets that are images."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from netwright.data import PairSource, Part, Splits, load_pairs, resize_bicubic, super_resolution
from netwright.errors import DataError, UsageError
from netwright.train import Objective, Recipe, evaluate, fit


def cubic(x):
    x = abs(x)
    if x <= 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0


def naive(row, new):
    """One row, pixel after pixel: the kernel, widened, over the row mirrored at its ends."""
    old = len(row)
    wide = max(old / new, 1.0)
    out = []
    for k in range(new):
        centre = (k + 0.5) * old / new - 0.5
        total = weight = 0.0
        for j in range(math.floor(centre - 2 * wide) - 1, math.ceil(centre + 2 * wide) + 2):
            share = cubic((centre - j) / wide)
            inside = j % (2 * old)
            total += share * float(row[inside if inside < old else 2 * old - 1 - inside])
            weight += share
        out.append(total / weight)
    return torch.tensor(out, dtype=torch.float64)


@pytest.mark.parametrize(("old", "new"), [(8, 4), (9, 3), (16, 4), (7, 5), (4, 8), (5, 15)])
def test_rows_are_resized_as_by_hand(old, new):
    image = torch.rand(2, 1, old, old, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    out = resize_bicubic(image, old, new)
    for y in range(old):
        assert torch.allclose(out[1, 0, y], naive(image[1, 0, y], new), atol=1e-12)
    assert torch.allclose(resize_bicubic(image.mT, new, old), out.mT, atol=1e-12)


def test_inside_it_is_the_antialiased_interpolation_of_pytorch():
    image = torch.rand(1, 3, 48, 48, dtype=torch.float64)
    ours = resize_bicubic(image, 24, 24)
    theirs = F.interpolate(image, size=(24, 24), mode="bicubic", antialias=True, align_corners=False)
    assert torch.allclose(ours[..., 3:-3, 3:-3], theirs[..., 3:-3, 3:-3], atol=1e-9)


def test_constants_stay_and_bytes_are_rounded():
    assert torch.allclose(resize_bicubic(torch.full((1, 9, 9), 0.3), 4, 5), torch.tensor(0.3))
    bytes_ = torch.randint(0, 256, (3, 12, 12), dtype=torch.uint8)
    small = resize_bicubic(bytes_, 6, 6)
    assert small.dtype == torch.uint8
    assert torch.equal(small, resize_bicubic(bytes_.double(), 6, 6).round().clamp(0, 255).to(torch.uint8))
    low, high = super_resolution(torch.rand(2, 1, 13, 11), 3)
    assert low.shape == (2, 1, 4, 3) and high.shape == (2, 1, 12, 9)
    with pytest.raises(UsageError):
        super_resolution(torch.rand(1, 4, 4), 5)


def test_patches_are_cut_and_turned_at_the_same_place():
    high = torch.arange(2 * 20 * 24, dtype=torch.float32).reshape(2, 1, 20, 24)
    low = high[..., ::2, ::2]
    part = Part(PairSource(low, high, 2, channels=1, patch=5))
    generator = torch.Generator().manual_seed(0)
    places = set()
    for _ in range(20):
        for x, y in part.batches(2, shuffle=True, generator=generator, augment=True):
            assert x.shape == (2, 1, 5, 5) and y.shape == (2, 1, 10, 10)
            # Of every block of the large patch one corner is the small pixel, whichever way it was turned.
            blocks = y.unfold(2, 2, 2).unfold(3, 2, 2).flatten(4).amin(-1)
            assert torch.equal(blocks, x.to(blocks))
            places.add(float(x[0, 0].min()))
    assert len(places) > 15
    one, other = (torch.cat([x for x, _ in part.batches(2)]) for _ in range(2))
    assert torch.equal(one, other)
    assert part.numbers and part.labelled and part.labels.shape == (2, 1, 10, 10)


def test_pairs_must_fit():
    with pytest.raises(DataError, match="pairs"):
        PairSource(torch.rand(2, 1, 4, 4), torch.rand(3, 1, 8, 8), 2, 1)
    source = PairSource(torch.rand(1, 1, 4, 4), torch.rand(1, 1, 9, 8), 2, 1)
    with pytest.raises(DataError, match="factor of 2"):
        source.whole(0)
    with pytest.raises(DataError, match="patches"):
        PairSource(torch.rand(1, 1, 4, 4), torch.rand(1, 1, 8, 8), 2, 1, patch=6).get(torch.tensor([0]), None)


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for name, sizes in (
        ("train", [(24, 30), (26, 20)]),
        ("test/SetA", [(21, 18)]),
        ("test/SetB", [(16, 16)]),
    ):
        (tmp_path / name / "HR").mkdir(parents=True)
        for k, (height, width) in enumerate(sizes):
            pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / "HR" / f"{k}.png")
    return tmp_path


def test_folders_are_read_with_small_images_made_or_given(folder):
    sets = load_pairs(folder, 2, patch=8)
    assert set(sets.tests) == {"SetA", "SetB"} and len(sets.splits.train) == 2
    low, high = sets.tests["SetA"].whole(0)
    assert low.shape == (3, 10, 9) and high.shape == (3, 20, 18)
    given = folder / "test" / "SetB" / "LR_bicubic" / "X2"
    given.mkdir(parents=True)
    Image.new("RGB", (8, 8), (10, 20, 30)).save(given / "0x2.png")
    low, _ = load_pairs(folder, 2, patch=8).tests["SetB"].whole(0)
    assert torch.allclose(low[:, 0, 0] * 255, torch.tensor([10.0, 20.0, 30.0]))
    Image.new("RGB", (8, 8)).save(given / "1x2.png")
    with pytest.raises(DataError, match="pairs"):
        load_pairs(folder, 2, patch=8)
    with pytest.raises(DataError, match="no folder"):
        load_pairs(folder / "missing", 2)
    with pytest.raises(DataError, match="no images"):
        load_pairs(folder / "test", 2)


class Up(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(1, 4, 3, padding=1)

    def forward(self, x):
        return F.pixel_shuffle(self.body(x), 2)


def pixels(step):
    return (step.logits - step.targets).abs().mean()


@pytest.mark.parametrize("kind", ["arrays", "pairs"])
def test_networks_are_trained_on_targets_that_are_images(kind):
    high = torch.rand(24, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    low, high = super_resolution(high, 2)
    part = (
        Part.from_tensors(low, high, numbers=True)
        if kind == "arrays"
        else Part(PairSource(low, high, 2, channels=1))
    )
    data = Splits("tiny", part, part, part, ())
    recipe = Recipe(epochs=6, batch_size=8, lr=1e-2, optimizer="adamw", precision="fp32")
    torch.manual_seed(0)
    model = Up()
    fitted = fit(model, data, recipe, objective=Objective(((1.0, pixels),)), device="cpu")
    losses = [r["loss"] for r in fitted.history]
    assert losses[-1] < losses[0] and all(r["accuracy"] is None for r in fitted.history)
    x, y = data.val[0]
    assert x.shape == (1, 4, 4) and y.shape == (1, 8, 8) and y.dtype == torch.float32
    with pytest.raises(UsageError, match="objective"):
        fit(model, data, recipe, device="cpu")
    with pytest.raises(DataError, match="numbers"):
        evaluate(model, part, device="cpu")


def test_targets_in_bytes_stand_for_shares_and_are_not_moved_alone():
    part = Part.from_tensors(
        torch.rand(3, 1, 4, 4), torch.full((3, 1, 8, 8), 255, dtype=torch.uint8), numbers=True
    )
    assert torch.equal(part.labels, torch.ones(3, 1, 8, 8))
    with pytest.raises(DataError, match="leave out augment"):
        Part.from_tensors(torch.rand(3, 1, 4, 4), torch.rand(3, 1, 8, 8), numbers=True, augment="flip")
