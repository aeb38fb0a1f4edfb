"""BigNAS: the ends of the published space, and what makes its children start alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.models.counting import count, half_in_place, traced, widths
from torch import nn

from netwright import models
from netwright.errors import ModelError
from netwright.models import MBStage
from netwright.models.zoo.bignas import LARGEST, SMALLEST, divisible, stages_of

STAGES = (MBStage(8, 1, 3, 1, 1), MBStage(16, 2, 5, 3, 2), MBStage(24, 3, (3, 5, 3), 3, 2, se=False))


def small(stages: tuple[MBStage, ...] = STAGES, **options: Any) -> models.BigNas:
    torch.manual_seed(0)
    given = {"stem": 8, "head": 32, "num_classes": 5, "in_channels": 1, "stem_stride": 1}
    return models.bignas(stages, **{**given, **options})


@pytest.mark.parametrize(
    ("name", "side", "params", "macs"), [("largest", 320, 19.725, 1899.8), ("smallest", 192, 5.653, 219.4)]
)
def test_ends_of_the_space(name: str, side: int, params: float, macs: float) -> None:
    """The re-implementation also counts a 1x1 convolution that blocks with an identity never run."""
    net = traced(lambda: models.bignas(name), 3, side, side)
    assert round(net.macs / 1e6, 1) == macs
    stages = (LARGEST if name == "largest" else SMALLEST)[1]
    never_run = sum(stage.width**2 * (stage.depth - 1) for stage in stages)
    assert round((net.params + never_run) / 1e6, 3) == params
    fewer = traced(lambda: models.bignas(name, se_from="input"), 3, side, side)
    assert fewer.params < net.params
    assert fewer.macs < net.macs


def test_exact_counts() -> None:
    assert traced(models.bignas, 3, 320, 320).params == 19_255_096
    assert traced(lambda: models.bignas("smallest"), 3, 192, 192).params == 5_595_032


def test_squeezed_channels() -> None:
    """A quarter of the expanded channels, rounded to 8; or a quarter of those that come in."""
    for kind, expected in (("expanded", [8, 8, 16]), ("input", [2, 2, 4])):
        found = [m.out_channels for n, m in small(se_from=kind).named_modules() if n.endswith("se.reduce")]
        assert found == expected
    assert [divisible(w) for w in (3, 8, 11, 12, 20, 24.9)] == [8, 8, 16, 16, 24, 24]


def test_deeper_children_begin_as_the_shallowest() -> None:
    """With the last norms at 0 a block is its shortcut, and one that keeps the shape computes nothing."""
    deep = small().eval()
    shallow = small(stages_of(STAGES, depths=(1, 1, 1), kernels=(3, 5, 3))).eval()
    names = {"blocks.0": "blocks.0", "blocks.1": "blocks.1", "blocks.2": "blocks.3"}
    state = deep.state_dict()
    for key in shallow.state_dict():
        part = ".".join(key.split(".")[:2])
        shallow.state_dict()[key].copy_(state[key.replace(part, names.get(part, part), 1)])
    x = torch.randn(3, 1, 28, 28)
    assert torch.equal(deep(x), shallow(x))
    assert not torch.equal(small(zero_last_gamma=False).eval()(x), shallow(x))


def test_transitions_have_a_shortcut_on_request() -> None:
    shapes = [block.shortcut is None for block in small(transition_skip=False).blocks]
    assert shapes == [False, True, False, True, False, False]
    assert all(block.shortcut is not None for block in small().blocks)
    model = small(transition_skip=False)
    assert model.blocks[1].norm.weight.abs().min() == 1  # else nothing at all would pass
    assert model.blocks[2].norm.weight.abs().max() == 0


def test_any_resolution() -> None:
    model = small(resolution=24).eval()
    assert model.image_size == 24
    for side in (20, 24, 27):
        assert model(torch.randn(2, 1, side, side)).shape == (2, 5)
    assert models.natural_shape(model) == (1, 24, 24)


def test_leading_channels_run_on_with_the_same_code() -> None:
    """Slicing weights to prefixes is all that a narrower child needs: forward names no size."""
    wide = small(drop_path=0.2).eval()
    narrow = small(stages_of(STAGES, widths=(8, 12, 16)), head=24).eval()
    for name, tensor in narrow.state_dict().items():
        tensor.copy_(wide.state_dict()[name][tuple(slice(n) for n in tensor.shape)])
    for name, module in wide.named_modules():
        for key, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is not None:
                like = getattr(narrow.get_submodule(name), key)
                getattr(module, key).data = tensor.data[tuple(slice(n) for n in like.shape)]
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            module.groups = len(module.weight)
    x = torch.randn(2, 1, 28, 28)
    assert torch.equal(wide(x), narrow(x))


@pytest.mark.parametrize(
    "options", [{"drop_path": 0.2, "dropout": 0.1}, {"transition_skip": False, "se_from": "input"}]
)
def test_prunes_in_place(options: dict[str, Any]) -> None:
    result = half_in_place(small(**options), torch.randn(2, 1, 28, 28))
    found = widths(result.net)
    assert found["blocks.1.project"] == 16  # one axis for all blocks of a stage
    assert "blocks.2.project" not in found
    assert found["blocks.4.expand.0"] == 72


def test_rates_rise_in_the_last_two_stages_only() -> None:
    rates = [block.drop_path.rate for block in small(drop_path=0.6).blocks]
    assert rates == pytest.approx([0, 0, 0.2, 0, 0.4, 0.5])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: models.bignas("huge"), "no BigNAS network 'huge'"),
        (lambda: small(()), "needs a stage"),
        (lambda: small(se_from="output"), "squeezed from 'output'"),
        (lambda: MBStage(8, 2, 4), "kernels 4"),
        (lambda: MBStage(8, 2, (3,)), "for 2 blocks"),
        (lambda: MBStage(0, 2), "not positive"),
        (lambda: stages_of(STAGES, widths=(8,)), "1 numbers of width"),
    ],
)
def test_what_cannot_be_built(build: Callable[[], object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build()


def test_by_name() -> None:
    with torch.device("meta"):
        model = models.load("bignas_smallest", num_classes=7).model
    assert count(model) == 5_595_032 - 993 * 1281
