"""Supernets and their sub-networks on disk: what is read computes what was written; damage is told."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import netwright as nw
from netwright import models, supernets
from netwright.errors import ArtefactError, UsageError
from netwright.structure.stand_ins import Skip
from netwright.supernets.network import saving


class Net(nn.Module):
    """Depthwise blocks, a choice of operations, attention with fixed sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 5, padding=2), nn.BatchNorm2d(8), nn.ReLU())
        self.blocks = nn.Sequential(Block(8), Block(8), Block(8))
        self.either = supernets.OneOf({"conv": nn.Conv2d(8, 8, 3, padding=1), "none": nn.Identity()})
        self.attention = nn.MultiheadAttention(8, 4, batch_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.either(self.blocks(self.stem(x)))
        tokens = x.flatten(2).transpose(1, 2)
        tokens = tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return self.head(tokens.mean(1))


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.Conv2d(width, 12, 3, padding=1)
        self.norm = nn.BatchNorm2d(12)
        self.down = nn.Conv2d(12, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.relu(self.norm(self.up(x))))


@pytest.fixture(scope="module")
def sup() -> supernets.Elastic:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 8, 8)
    made = nw.elastic(
        Net(), x, width=[0.25, 0.5, 1.0], depth=True, kernel=[1, 3, 5], resolution=[6, 8], exclude=["head"]
    )
    made.calibrate([torch.randn(16, 3, 8, 8)], made.space.min())
    return made.eval()


def choices(sup: supernets.Elastic) -> list:
    rng = np.random.default_rng(0)
    return [sup.space.min(), sup.space.max(), *[sup.space.sample(rng) for _ in range(5)]]


def test_a_supernet_that_was_read_is_the_one_that_was_written(sup: supernets.Elastic, tmp_path: Path) -> None:
    folder = supernets.save(sup, tmp_path / "sup", history=[{"epoch": 1, "loss": 0.5}], notes={"recipe": {}})
    again = supernets.load(folder, model=Net())
    assert again.space == sup.space and again.choice == sup.blueprint.full
    assert again.statistics.keys() == sup.statistics.keys()
    x = torch.randn(3, 3, 8, 8)
    for choice in choices(sup):
        torch.testing.assert_close(again.set(choice)(x), sup.set(choice)(x), rtol=0, atol=0)
        assert again.cost(choice) == sup.cost(choice)
    assert supernets.describe(folder)["history"] == [{"epoch": 1, "loss": 0.5}]
    assert {p.suffix for p in folder.iterdir()} == {".json", ".safetensors"}


def test_a_sub_network_is_written_and_read_like_a_pruned_one(sup: supernets.Elastic, tmp_path: Path) -> None:
    for number, choice in enumerate(choices(sup)):
        pruned = supernets.as_pruned(sup, choice)
        assert pruned.after == sup.cost(choice)
        folder = nw.save(pruned, tmp_path / str(number))
        small = nw.load(folder, model=Net()).eval()
        side = choice["resolution"]
        x = torch.randn(3, 3, side, side)
        torch.testing.assert_close(small(x), sup.set(choice)(x), rtol=1e-5, atol=1e-6)
        assert sum(p.numel() for p in small.parameters()) == sup.cost(choice).params
        assert not any(isinstance(m, (supernets.OneOf, Skip)) for m in small.modules())


def test_a_named_architecture_is_built_again(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = models.load("resnet8", num_classes=7, in_channels=1).model
    sup = nw.elastic(model, torch.randn(2, 1, 12, 12), width=[0.5, 1.0], share="network").eval()
    source = {"model": "resnet8", "num_classes": 7, "in_channels": 1, "image_size": None}
    again = supernets.load(supernets.save(sup, tmp_path, source=source))
    x = torch.randn(2, 1, 12, 12)
    torch.testing.assert_close(again(x), sup(x), rtol=0, atol=0)
    assert not (tmp_path / saving.STATISTICS).exists()


def test_code_is_not_run_unless_trusted(sup: supernets.Elastic, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="given as an object"):
        supernets.load(supernets.save(sup, tmp_path / "a"))
    evil = tmp_path / "evil.py"
    evil.write_text("raise SystemExit('ran')\n")
    folder = supernets.save(sup, tmp_path / "b", source={"model": f"{evil}:build"})
    with pytest.raises(UsageError, match="runs code"):
        supernets.load(folder)


def test_damage_is_told_in_one_line(sup: supernets.Elastic, tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="there is no"):
        supernets.load(tmp_path / "nothing", model=Net())
    folder = supernets.save(sup, tmp_path / "sup")
    described = (folder / "supernet.json").read_text()
    with pytest.raises(ArtefactError, match="does not fit"):
        supernets.load(folder, model=nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten()))
    for text, told in (("{", "not JSON"), ('{"format": "x"}', "not a supernet"), ("[]", "not a supernet")):
        (folder / "supernet.json").write_text(text)
        with pytest.raises(ArtefactError, match=told):
            supernets.load(folder, model=Net())
    changed = json.loads(described)
    changed["elastic"]["width"] = [0.5, 1.0]
    (folder / "supernet.json").write_text(json.dumps(changed))
    with pytest.raises(ArtefactError, match="other things can be chosen"):
        supernets.load(folder, model=Net())
    (folder / "supernet.json").write_text(described)
    weights = folder / "supernet.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ArtefactError, match="corrupt"):
        supernets.load(folder, model=Net())


def test_a_recipe_of_another_network_is_refused(sup: supernets.Elastic, tmp_path: Path) -> None:
    folder = nw.save(supernets.as_pruned(sup, sup.space.min()), tmp_path)
    other = Net()
    other.blocks = nn.Sequential(Block(8), Block(8))
    with pytest.raises(ArtefactError):
        nw.load(folder, model=other)
