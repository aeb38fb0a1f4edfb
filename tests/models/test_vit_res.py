"""ViT-Res: the counts of the published networks to the digit, and what its reductions compute."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.models.counting import count, half_in_place, traced, widths
from torch.nn import functional as F

import netwright as nw
from netwright import models
from netwright.errors import ModelError
from netwright.metrics import open_session
from netwright.models.zoo.vit_res import SpatialReduction
from netwright.models.zoo.vit_res_definitions import VIT_RES, VitStage, find_stages

SMALL = (
    VitStage.equal(16, 8, 2, 32, 2),
    VitStage(32, 8, (4, 2), (48, 64)),
    VitStage.equal(64, 16, 4, 96, 1),
)


def small(**options: object) -> models.VitRes:
    torch.manual_seed(0)
    given = {"num_classes": 5, "in_channels": 1, "image_size": 32, "patch": 4, "stem_width": 8}
    return models.vit_res(SMALL, **{**given, **options})


@pytest.mark.parametrize(
    ("name", "macs", "params", "with_head"),
    [
        ("reference-tiny", 1_794_378_240, 42_012_736, 42.782),
        ("tiny", 1_782_630_272, 40_793_552, 41.499),
        ("small", 2_845_501_856, 63_724_108, 64.605),
        ("medium", 4_513_135_936, 96_442_672, 97.324),
        ("largest-tiny", 3_497_553_920, None, None),
        ("largest-small", 6_260_342_784, None, None),
    ],
)
def test_published_networks(name: str, macs: int, params: int | None, with_head: float | None) -> None:
    net = traced(lambda: models.vit_res(name), 3, 224, 224)
    assert net.macs == macs
    if params is not None:
        assert net.params == params
        with torch.device("meta"):
            assert round(count(models.vit_res(name, patch_head=True)) / 1e6, 3) == with_head


def test_definitions_in_the_notation_of_the_authors() -> None:
    """The reference of the released scripts, and blocks that are said not to exist."""
    entries: list[tuple[object, ...]] = [(4, 192)]
    for width, heads in ((192, 3), (384, 6), (768, 12)):
        entries += [(3, width // 2, width)] if width > 192 else []
        entries += [(1, (width, heads, 64), (width, 4 * width), 1)] * 4
    entries += [(2, 768, 1000)]
    assert find_stages(entries) == VIT_RES["reference-tiny"]
    entries[2] = (*entries[2][:3], 0)
    assert [stage.depth for stage in find_stages(entries)] == [3, 4, 4]
    assert find_stages(SMALL) == SMALL


def test_only_the_leading_features_go_around_a_reduction() -> None:
    """With nothing from convolution, linear layer and positions: 2x2 means, filled up with zeros."""
    block = SpatialReduction(6, 10, (4, 4))
    for tensor in (*block.conv.parameters(), *block.token.parameters(), block.pos_embed):
        tensor.data.zero_()
    x = torch.randn(3, 17, 6)
    y = block(x)
    means = F.avg_pool2d(x[:, 1:].transpose(1, 2).reshape(3, 6, 4, 4), 2).flatten(2).transpose(1, 2)
    assert torch.equal(y[:, 0], F.pad(x[:, 0], (0, 4)))
    assert torch.equal(y[:, 1:], F.pad(means, (0, 4)))
    assert not SpatialReduction(6, 10, (4, 4), residual=False)(x).equal(block(x))


def test_the_path_around_takes_what_was_not_normalised() -> None:
    block = SpatialReduction(4, 4, (2, 2))
    x = torch.randn(1, 5, 4)
    around = block(x) - SpatialReduction.forward(_without_path(block), x)
    assert torch.allclose(around[:, 0], x[:, 0], atol=1e-6)
    assert torch.allclose(around[:, 1], x[:, 1:].mean(1), atol=1e-6)


def _without_path(block: SpatialReduction) -> SpatialReduction:
    plain = SpatialReduction(4, 4, (2, 2), residual=False)
    plain.load_state_dict(block.state_dict())
    return plain


def test_patches_are_classified_while_training_only() -> None:
    model = small(patch_head=True)
    x = torch.randn(2, 1, 32, 32)
    classes, patches = model.train()(x)
    assert classes.shape == (2, 5)
    assert patches.shape == (2, 4, 5)
    assert model.eval()(x).shape == (2, 5)
    (classes.square().sum() + patches.square().sum()).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_stochastic_depth_drops_branches_of_examples() -> None:
    model = small(drop_path=0.5)
    x = torch.randn(1, 1, 32, 32).expand(16, -1, -1, -1)
    torch.manual_seed(0)
    assert len(model.train()(x).unique(dim=0)) > 1
    plain = small().eval()
    plain.load_state_dict(model.state_dict())
    assert torch.equal(model.eval()(x), plain(x))
    rates = [m.rate for m in model.modules() if isinstance(m, models.DropPath)]
    assert rates == [0, 0.125, 0.25, 0.375, 0.5]


@pytest.mark.parametrize("stem", ["conv", "patch"])
@pytest.mark.parametrize("patch_head", [False, True])
def test_prunes_in_place(stem: str, patch_head: bool) -> None:
    result = half_in_place(small(stem=stem, patch_head=patch_head), torch.randn(2, 1, 32, 32))
    found = widths(result.net)
    assert found["blocks.0.attn.qkv"] == 2  # whole heads
    assert found["blocks.1.mlp.fc1"] == 32
    # The first stage's features go around the reductions, so the next stage has an axis for the rest only.
    assert (found["stem.proj" if stem == "conv" else "stem"], found["blocks.2.conv"]) == (16, 16)
    assert found["blocks.5.conv"] == 32


def test_exported_for_any_batch(tmp_path: Path) -> None:
    model = small().eval()
    nw.export(model, torch.randn(2, 1, 32, 32), tmp_path / "net.onnx")
    x = torch.randn(3, 1, 32, 32)
    session = open_session(tmp_path / "net.onnx")
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert torch.allclose(torch.from_numpy(y), model(x), atol=1e-5)


def test_by_name_at_another_size() -> None:
    loaded = models.load("vit_res_tiny", num_classes=3, in_channels=1, image_size=64)
    assert models.natural_shape(loaded) == (1, 64, 64)
    assert loaded.model(torch.randn(1, 1, 64, 64)).shape == (1, 3)
    assert "vit_res_medium" in models.list_models("vit_res_*")
    assert nw.trace(loaded.model, torch.randn(1, 1, 64, 64)).macs > 0


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: models.vit_res("huge"), "no ViT-Res network 'huge'"),
        (lambda: models.vit_res(()), "needs a stage"),
        (lambda: models.vit_res([(4, 8), (1, (8, 2, 4))]), "begins with an embedding"),
        (lambda: models.vit_res([(4, 8), (1, (9, 2, 4), (8, 16), 1), (2, 8, 10)]), "differ in width"),
        (lambda: VitStage(8, 4, (2,), (16, 16)), "heads for 1 blocks"),
        (lambda: small(image_size=30), "30 pixels"),
        (lambda: small(patch=3, image_size=33), "patches of 3"),
        (lambda: small(image_size=20), "no half"),
        (lambda: small(stem="none"), "no stem"),
        (lambda: models.VitRes((SMALL[1], SMALL[0]), 5, 1, 32, 4), "not reduced"),
    ],
)
def test_what_cannot_be_built(build, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build()
