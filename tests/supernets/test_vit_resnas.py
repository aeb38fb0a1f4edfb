"""ViT-ResNAS: the spaces to the digit, independent widths of stages, masks, warm-up and sorting."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import netwright as nw
from netwright import models, nas, supernets
from netwright.data import Part, Splits
from netwright.errors import UsageError
from netwright.models import VIT_RES, VitStage
from netwright.supernets.network.masked_norms import masked_layer_norm
from netwright.supernets.spaces.vit_resnas import SHRINK_ORDER, VitStageSpace, choice_of, raw_size, vit_resnas
from netwright.train import Recipe

SPACE = (
    VitStageSpace(VitStage.equal(16, 4, 4, 24, 3), (16, 12, 8), (4, 3, 2), (24, 16), (1,)),
    VitStageSpace(VitStage.equal(32, 4, 8, 48, 2), (32, 24, 16), (8, 6), (48, 32, 24), (1,)),
    VitStageSpace(VitStage.equal(48, 8, 6, 64, 1), (48, 40), (6, 4), (64, 48), ()),
)


def small(**options: object) -> tuple[supernets.Elastic, Tensor]:
    torch.manual_seed(0)
    given = {"num_classes": 5, "in_channels": 1, "image_size": 32, "patch": 4, "stem_width": 8}
    sup = vit_resnas(SPACE, **{**given, **options}).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in sup.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return sup, torch.randn(6, 1, 32, 32, generator=generator)


def splits(x: Tensor, classes: int) -> Splits:
    part = Part.from_tensors(x, torch.arange(len(x)) % classes)
    return Splits("noise", part, part, part, tuple("abcde"[:classes]))


@pytest.fixture(scope="module")
def made() -> tuple[supernets.Elastic, Tensor]:
    return small()


@pytest.mark.parametrize(
    ("name", "raw", "size"),
    [
        ("tiny", (5 * 28**6 * 2**3) ** 3, (5 * 28**3 * 29**3) ** 3),
        # Seven blocks, of which the second, fourth and sixth can go.
        ("small", (5 * 28**7 * 2**3) ** 3, (5 * 28**4 * 29**3) ** 3),
    ],
)
def test_spaces_and_what_the_published_networks_cost_in_them(name: str, raw: int, size: int) -> None:
    """Costs come from the space alone: no published network is built."""
    sup = vit_resnas(name, "meta")
    assert raw_size(name) == raw
    assert sup.space.size() == size
    published = {
        "tiny": {"tiny": (1_782_630_272, 40_793_552), "largest-tiny": (3_497_553_920, None)},
        "small": {
            "small": (2_845_501_856, 63_724_108),
            "medium": (4_513_135_936, 96_442_672),
            "largest-small": (6_260_342_784, None),
        },
    }
    for network, (macs, params) in published[name].items():
        cost = sup.cost(choice_of(sup, name, VIT_RES[network]))
        assert cost.macs == macs
        assert params is None or cost.params == params
    assert sup.blueprint.full == choice_of(sup, name, VIT_RES[f"largest-{name}"])


def test_widths_of_stages_are_independent(made: tuple[supernets.Elastic, Tensor]) -> None:
    """Every combination of embeddings runs, is cut out as it runs, and costs what is said."""
    sup, x = made
    names = ["width:stem.proj", "width:blocks.3.conv", "width:blocks.6.conv"]
    for first in (16, 12, 8):
        for second in (32, 24, 16):
            for third in (48, 40):
                choice = sup.complete(dict(zip(names, (first, second, third), strict=True)))
                network = sup.extract(choice)
                assert network.blocks[3].conv.weight.shape[:2] == (second, first)
                assert network.blocks[6].conv.weight.shape[:2] == (third, second)
                torch.testing.assert_close(sup.set(choice)(x), network(x), rtol=0, atol=1e-6)
                dense = nw.trace(network, x).dense
                assert (sup.cost(choice).macs, sup.cost(choice).params) == (dense.macs, dense.params)


def test_heads_are_taken_of_queries_keys_and_values_each(made: tuple[supernets.Elastic, Tensor]) -> None:
    """Two of four heads of width 4 are rows 0 to 7 of each third of the fused matrix, not its first 24."""
    sup, _ = made
    small = sup.extract({"width:blocks.0.attn.qkv": 2}).blocks[0].attn
    fused, bias = sup.network.blocks[0].attn.qkv.weight, sup.network.blocks[0].attn.qkv.bias
    rows = [16 * part + row for part in range(3) for row in range(8)]
    assert torch.equal(small.qkv.weight, fused[rows])
    assert torch.equal(small.qkv.bias, bias[rows])
    assert torch.equal(small.proj.weight, sup.network.blocks[0].attn.proj.weight[:, :8])


def test_a_shortcut_is_filled_up_with_zeros(made: tuple[supernets.Elastic, Tensor]) -> None:
    """By hand, from the full network's own weights: leading features have a shortcut, the others none."""
    sup, _ = made
    choice = sup.complete({"width:stem.proj": 8, "width:blocks.3.conv": 24})
    full, cut = sup.network.blocks[3], sup.extract(choice).blocks[3]
    x = torch.randn(2, 65, 8)
    y = F.layer_norm(x, (8,), full.norm.weight[:8], full.norm.bias[:8], 1e-6)
    image = y[:, 1:].transpose(1, 2).reshape(2, 8, 8, 8)
    patches = F.conv2d(image, full.conv.weight[:24, :8], full.conv.bias[:24], 2, 1).flatten(2)
    patches = patches.transpose(1, 2) + full.pos_embed[..., :24]
    token = y[:, :1] @ full.token.weight[:24, :8].T + full.token.bias[:24]
    around = F.avg_pool2d(x[:, 1:].transpose(1, 2).reshape(2, 8, 8, 8), 2).flatten(2).transpose(1, 2)
    want = torch.cat([token, patches], 1) + F.pad(torch.cat([x[:, :1], around], 1), (0, 16))
    torch.testing.assert_close(cut(x), want, rtol=0, atol=1e-5)


def test_a_stage_narrower_than_its_shortcut_ties_as_before() -> None:
    """Where widths overlap, members side by side go together; those of the paper do not."""
    model = models.vit_res(
        [stage.largest for stage in SPACE], num_classes=5, in_channels=1, image_size=32, patch=4
    )
    sup = nw.elastic(model, torch.zeros(2, 1, 32, 32), width=[0.25, 1.0]).eval()
    assert not sup.blueprint.structure.filled
    x = torch.randn(2, 1, 32, 32)
    for choice in (sup.space.min(), {"width:stem.proj": 0.25}):
        torch.testing.assert_close(sup.set(choice)(x), sup.extract(choice)(x), rtol=0, atol=1e-6)


def test_masked_forward_equals_the_extracted_networks(made: tuple[supernets.Elastic, Tensor]) -> None:
    sup, x = made
    rng = np.random.default_rng(0)
    choices = [sup.space.sample(rng) for _ in range(3)]
    which = torch.arange(len(x)) % len(choices)
    out = sup.set_many(choices, which)(x)
    for j, example in enumerate(x):
        want = sup.extract(choices[int(which[j])])(example[None])
        torch.testing.assert_close(out[j : j + 1], want, rtol=0, atol=1e-5)
    sup.set(sup.blueprint.full)


def test_masked_gradients_equal_those_of_the_slices(made: tuple[supernets.Elastic, Tensor]) -> None:
    """The sum of the slices' own gradients, each over its examples."""
    sup, x = copy.deepcopy(made[0]).double(), made[1].double()
    rng = np.random.default_rng(1)
    choices = [sup.space.sample(rng) for _ in range(2)]
    which = torch.arange(len(x)) % 2
    names, parameters = zip(*sup.network.named_parameters(), strict=True)
    sup.set_many(choices, which)(x).square().sum().backward()
    got = [p.grad.clone() for p in parameters]
    sup.zero_grad()
    for g, choice in enumerate(choices):
        sup.set(choice)(x[which == g]).square().sum().backward()
    for name, a, p in zip(names, got, parameters, strict=True):
        want = torch.zeros_like(a) if p.grad is None else p.grad  # no slice has the block
        torch.testing.assert_close(a, want, rtol=1e-8, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("active", [3, 5, 8])
def test_masked_norm_is_the_norm_of_what_is_active(active: int) -> None:
    """The value, and the gradients both by finite differences and by those of the narrow norm."""
    generator = torch.Generator().manual_seed(active)
    mask = torch.arange(8) < active
    x = torch.randn(4, 2, 8, generator=generator, dtype=torch.float64) * mask
    weight, bias = torch.randn(2, 8, generator=generator, dtype=torch.float64)
    got = masked_layer_norm(x, mask, weight, bias, 1e-6)
    want = F.layer_norm(x[..., :active], (active,), weight[:active], bias[:active], 1e-6)
    torch.testing.assert_close(got[..., :active], want, rtol=0, atol=1e-12)
    assert not got[..., active:].any()
    plain = F.layer_norm(x, (8,), weight, bias, 1e-6) * mask
    assert active == 8 or not torch.allclose(plain, got)  # over all channels it is another function

    leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
    assert torch.autograd.gradcheck(lambda a, w, b: masked_layer_norm(a * mask, mask, w, b, 1e-6), leaves)
    up = torch.randn(4, 2, 8, generator=generator, dtype=torch.float64)
    (masked_layer_norm(leaves[0] * mask, mask, leaves[1], leaves[2], 1e-6) * up).sum().backward()
    narrow = [t[..., :active].clone().requires_grad_() for t in (x, weight, bias)]
    (F.layer_norm(narrow[0], (active,), narrow[1], narrow[2], 1e-6) * up[..., :active]).sum().backward()
    for a, b in zip(leaves, narrow, strict=True):
        torch.testing.assert_close(a.grad[..., :active], b.grad, rtol=0, atol=1e-10)


def test_sorting_changes_nothing_and_leaves_the_embeddings(made: tuple[supernets.Elastic, Tensor]) -> None:
    sup, x = copy.deepcopy(made[0]), made[1]
    before = sup(x)
    moved = supernets.sort_channels(sup, "magnitude-l1")
    torch.testing.assert_close(sup(x), before, rtol=0, atol=1e-5)
    assert moved
    assert all(name.endswith(("attn.qkv", "mlp.fc1")) for name in moved)
    block = sup.network.blocks[0]
    norms = block.mlp.fc1.weight.abs().sum(1) + block.mlp.fc1.bias.abs() + block.mlp.fc2.weight.abs().sum(0)
    assert (norms.diff() <= 1e-4).all()
    q = block.attn.qkv.weight.abs().sum(1) + block.attn.qkv.bias.abs()
    heads = q.reshape(3, 4, 4).sum((0, 2)) + block.attn.proj.weight.abs().sum(0).reshape(4, 4).sum(1)
    assert (heads.diff() <= 1e-4).all()


def test_sorting_while_training_takes_the_moments_along() -> None:
    """Two epochs with and without sorting give one function: the largest network alone is trained."""
    sup, _ = small()
    x = torch.randn(24, 1, 32, 32, generator=torch.Generator().manual_seed(2))
    recipe = Recipe(epochs=2, batch_size=12, optimizer="adamw", lr=1e-2, augment=False, precision="fp32")
    sampler = supernets.samplers.MultiArch(2, warmup=10)  # in its first epochs: only the largest

    def trained(*callbacks: object) -> Tensor:
        found = supernets.train(sup, splits(x, 5), recipe, sampler=sampler, callbacks=callbacks, device="cpu")
        return found.model.eval()(x)

    torch.testing.assert_close(trained(supernets.Sorting(1)), trained(), rtol=0, atol=2e-4)


def test_groups_of_a_batch_cover_the_values_evenly(made: tuple[supernets.Elastic, Tensor]) -> None:
    """More than one sub-network a batch; every value of every dim equally often over whole cycles."""
    sup, _ = made
    sampler = supernets.samplers.MultiArch(4, seed=3)
    sampler.attach(sup)
    draws = [sampler.draw(step) for step in range(18)]
    assert all(len(d) == 1 and len(set(d[0].choices)) > 1 for d in draws)
    drawn = [c for d in draws for c in d[0].choices]
    for name in ("width:stem.proj", "width:blocks.3.conv", "width:blocks.6.conv", "block:blocks.1"):
        values = [c[name] for c in drawn]
        assert len({values.count(v) for v in set(values)}) == 1
        assert len(set(values)) == len(list(sup.space.dim(name).each()))


def test_warm_up_begins_with_the_largest() -> None:
    sampler = supernets.samplers.MultiArch(2, warmup=15)
    values = [160, 176, 192, 224, 256]
    for epoch in range(20):
        allowed = sampler.allowed(values, epoch)
        assert len(allowed) == min(5, 1 + math.floor(epoch * 4 / 15))
        assert allowed == sorted(values, reverse=True)[: len(allowed)]


def test_the_evolution_stays_in_its_window(made: tuple[supernets.Elastic, Tensor]) -> None:
    sup, _ = made
    most = sup.macs(sup.blueprint.full) * 0.7
    space = sup.space.constrained(sup.macs, 0.9 * most, most, order=SHRINK_ORDER)
    strategy = nas.strategies.Evolution(12, 4, 4, 4, start=lambda s, rng: s.shrunk(rng))
    found = nas.search(space, [lambda c: float(sup.cost(c).params)], strategy=strategy, trials=36)
    tried = [t.candidate for t in found.trials]
    assert all(0.9 * most <= sup.macs(c) <= most for c in tried)
    assert len(set(tried)) == len(tried) == 36


def test_a_network_outside_the_space_is_refused(made: tuple[supernets.Elastic, Tensor]) -> None:
    stages = [VitStage.equal(16, 4, 4, 24, 1), SPACE[1].largest, SPACE[2].largest]
    with pytest.raises(UsageError, match="cannot have 1 blocks"):
        choice_of(made[0], SPACE, stages)
    with pytest.raises(UsageError, match="no ViT-Res space"):
        vit_resnas("huge")


def test_the_same_sampler_trains_any_network() -> None:
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3)
    )
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(32, 1, 4, 4, generator=generator)
    sup = nw.elastic(model, x[:2], width=[0.5, 1.0])
    recipe = Recipe(epochs=1, batch_size=16, lr=0.05, augment=False, precision="fp32")
    before = [p.clone() for p in sup.parameters()]
    found = supernets.train(sup, splits(x, 3), recipe, sampler=supernets.samplers.MultiArch(4), device="cpu")
    after = list(found.model.parameters())
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
