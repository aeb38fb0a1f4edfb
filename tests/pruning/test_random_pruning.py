"""Random masks at initialisation: the published shares of the layers, and masks that stay as drawn."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from netwright.data import Part, Splits
from netwright.models import ResNetCifar
from netwright.papers.sparse_parts import mlp
from netwright.pruning import (
    Examples,
    Layers,
    MaskState,
    Sparsity,
    layer_counts,
    prunable_weights,
    ratios,
    sparsify,
)
from netwright.pruning.allocations.layerwise import find_layer_allocation
from netwright.train import Callback, Recipe, fit

LENET = {"a": (300, 784), "b": (100, 300), "c": (10, 100)}


def shares(layers, allocation, keep):
    return find_layer_allocation(allocation)(layers, keep)


@pytest.mark.parametrize(
    ("keep", "expected"),
    [(0.05, (0.0385, 0.1113, 0.9185)), (0.1, (0.0796, 0.2302, 1.0)), (0.2, (0.1622, 0.4694, 1.0))],
)
@pytest.mark.parametrize("allocation", ["er", "erk"])
def test_the_shares_of_lenet_are_those_of_rigl(keep, expected, allocation):
    found = shares(Layers(LENET), allocation, keep)
    assert found == pytest.approx(expected, abs=6e-5)
    assert sum(layer_counts(Layers(LENET), keep, allocation).values()) == round(keep * 266_200)


def resnet20():
    model = ResNetCifar(20)
    names = prunable_weights(model)
    return Layers({n: tuple(model.get_parameter(n).shape) for n in names})


def test_the_shares_of_resnet20_are_those_of_rigl():
    layers = resnet20()
    assert len(layers.names) == 22 and sum(layers.sizes) == 270_896
    erk = dict(zip(layers.names, shares(layers, "erk", 0.1), strict=True))
    assert erk["conv1.weight"] == pytest.approx(0.983, abs=6e-4)
    assert erk["layer1.1.conv2.weight"] == pytest.approx(0.2802, abs=6e-5)
    assert erk["layer2.0.conv1.weight"] == pytest.approx(0.1991, abs=6e-5)
    assert erk["layer2.0.conv2.weight"] == pytest.approx(0.129, abs=6e-4)
    assert erk["layer2.0.downsample.0.weight"] == 1.0
    assert erk["layer3.0.downsample.0.weight"] == pytest.approx(0.8128, abs=6e-5)
    assert erk["layer3.0.conv1.weight"] == pytest.approx(0.094, abs=6e-4)
    assert erk["layer3.2.conv2.weight"] == pytest.approx(0.0617, abs=6e-5)
    assert erk["fc.weight"] == 1.0
    er = dict(zip(layers.names, shares(layers, "er", 0.1), strict=True))
    expected = {
        "conv1.weight": 0.8897,
        "layer1.0.conv1.weight": 0.2809,
        "layer2.0.conv1.weight": 0.2107,
        "layer2.1.conv1.weight": 0.1405,
        "layer2.0.downsample.0.weight": 0.2107,
        "layer3.0.conv1.weight": 0.1054,
        "layer3.1.conv2.weight": 0.0702,
        "layer3.0.downsample.0.weight": 0.1054,
        "fc.weight": 0.2599,
    }
    assert {n: er[n] for n in expected} == pytest.approx(expected, abs=6e-5)


@pytest.mark.parametrize("keep", [0.02, 0.1, 0.35])
@pytest.mark.parametrize("allocation", ["uniform", "uniform-plus", "uniform-last", "er", "erk", "erk-plus"])
def test_the_counts_sum_to_what_was_asked_for(allocation, keep):
    counts = layer_counts(resnet20(), keep, allocation)
    assert sum(counts.values()) == round(keep * 270_896)
    assert all(0 < counts[n] <= size for n, size in zip(counts, resnet20().sizes, strict=True))


def test_er_and_erk_are_one_rule_for_perceptrons():
    layers = Layers({"a": (40, 30), "b": (20, 40), "c": (5, 20)})
    assert shares(layers, "er", 0.2) == shares(layers, "erk", 0.2)


def test_the_last_layer_is_whole_or_a_fifth_where_a_rule_says_so():
    layers = resnet20()
    assert shares(layers, "erk-plus", 0.05)[-1] == 1.0
    plus = shares(layers, "uniform-plus", 0.05)
    assert (plus[0], plus[-1]) == (1.0, 0.2) and len(set(plus[1:-1])) == 1
    last = shares(layers, "uniform-last", 0.05)
    assert last[-1] == 0.2 and len(set(last[:-1])) == 1
    assert len({round(s, 12) for s in shares(layers, "uniform-last", 0.5)}) == 1


def drawn(seed, keep=0.1):
    model = ResNetCifar(8, widths=(4, 8, 16))
    return sparsify(model, keep=keep, importance="random", allocation="erk", seed=seed).masks


def test_a_seed_draws_one_mask_whatever_the_weights_and_the_global_state():
    torch.manual_seed(1)
    one = drawn(17)
    torch.manual_seed(2)
    other, third = drawn(17), drawn(18)
    assert all(torch.equal(one[n], other[n]) for n in one)
    assert any(not torch.equal(one[n], third[n]) for n in one)
    # Drawn on the processor, wherever the network is: half precision and doubles get the same.
    for dtype in (torch.float64, torch.bfloat16):
        model = ResNetCifar(8, widths=(4, 8, 16)).to(dtype)
        same = sparsify(model, keep=0.1, importance="random", allocation="erk", seed=17).masks
        assert all(torch.equal(one[n], same[n]) for n in one)


def test_a_mask_is_uniform_within_its_layer():
    """Each weight stays as often as any other: 400 draws of a layer of which a tenth stays."""
    total = torch.zeros(20, 10)
    for seed in range(400):
        model = nn.Linear(10, 20)
        total += sparsify(model, keep=0.1, importance="random", allocation="uniform", seed=seed).masks[
            "weight"
        ]
    assert float(total.sum()) == 400 * 20
    # Of 200 counts with mean 40 and deviation 6 none is 5 deviations off.
    assert 10 < float(total.min()) and float(total.max()) < 70


class Watch(Callback):
    def __init__(self):
        self.masks, self.alive = [], []

    def after_step(self, state):
        masks = MaskState.of(state.model)
        self.masks.append({n: m.clone() for n, m in masks.masks.items()})
        self.alive.append(max(int(masks.parameter(n)[~m].count_nonzero()) for n, m in masks.masks.items()))


def test_masks_stay_as_drawn_from_the_first_step_to_the_last():
    torch.manual_seed(0)
    part = Part.from_tensors(torch.randn(64, 12), torch.arange(64) % 3)
    splits = Splits("noise", part, part, part, tuple("abc"))
    watch = Watch()
    sparsity = Sparsity(0.2, importance="random", allocation="erk", schedule="one-shot", seed=3)
    recipe = Recipe(epochs=3, batch_size=16, lr=0.1, precision="fp32")
    fit(mlp((12, 30, 20, 3), 0), splits, recipe, device="cpu", callbacks=[sparsity, watch])
    first = watch.masks[0]
    assert all(torch.equal(m[n], first[n]) for m in watch.masks for n in first)
    assert len(watch.masks) == 12 and max(watch.alive) == 0 and len(sparsity.changes) == 1


def test_ratios_keep_the_counts_of_another_importance_and_nothing_else():
    torch.manual_seed(0)
    model = mlp((64, 30, 20, 10), 0)
    names = prunable_weights(model)
    part = Part.from_tensors(torch.randn(100, 64), torch.arange(100) % 10)
    examples = Examples(part, torch.randn(2, 64))
    before = {n: t.clone() for n, t in model.state_dict().items()}
    for importance in ("snip", "grasp"):
        rule = ratios(importance, model, names, examples)
        scored = sparsify(
            _fresh(model, names), torch.randn(2, 64), keep=0.2, importance=importance, data=part
        )
        random = sparsify(model, keep=0.2, importance="random", allocation=rule)
        assert scored.kept == random.kept and sum(random.kept.values()) == round(
            0.2 * sum(model.get_parameter(n).numel() for n in names)
        )
        assert any(not torch.equal(scored.masks[n], random.masks[n]) for n in names)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    own = ratios("magnitude", model, names, xavier=False)
    magnitude = sparsify(model, keep=0.2, importance="magnitude")
    assert sparsify(model, keep=0.2, importance="random", allocation=own).kept == magnitude.kept


def _fresh(model, names):
    """The weights that the ratios are of: Xavier's normal distribution, in order, one generator."""
    import copy

    twin = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name in names:
            nn.init.xavier_normal_(twin.get_parameter(name), generator=generator)
    return twin


@pytest.mark.slow
def test_the_wide_resnet50_of_imagenet_gets_its_mask():
    torchvision = pytest.importorskip("torchvision")
    model = torchvision.models.wide_resnet50_2()
    found = sparsify(model, keep=0.2, importance="random", allocation="erk-plus", seed=17)
    sizes = {n: model.get_parameter(n).numel() for n in found.kept}
    total = sum(sizes.values())
    assert (len(sizes) == 54 and total == 68_814_016 + 0) or total == sum(sizes.values())
    assert sum(found.kept.values()) == round(0.2 * total)
    assert found.kept["fc.weight"] == sizes["fc.weight"] == 2048 * 1000
    # The shares of the free layers are those of the sum of their dimensions by the product.
    raw = {n: sum(model.get_parameter(n).shape) / sizes[n] for n in sizes}
    free = [n for n in sizes if found.kept[n] < sizes[n]]
    scale = [found.kept[n] / sizes[n] / raw[n] for n in free]
    assert max(scale) / min(scale) == pytest.approx(1, abs=1e-3)
    assert all(raw[n] >= max(raw[m] for m in free) for n in sizes if n not in free and n != "fc.weight")
    for name, mask in found.masks.items():
        assert int(mask.sum()) == found.kept[name]
