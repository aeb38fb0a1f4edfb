"""Depth: what can be left out or put in, against loops written by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.structure.nets import Net
from tests.structure.networks import SMALL, Encoder
from torch import Tensor, nn
from torch.nn import functional as F

from netwright.errors import StructureError, UsageError
from netwright.structure import Skip, Zero, branches, drop, insert, shrink, trace
from netwright.testing.surgery import draw_keep, randomise

EXACT = 1e-12


class Block(nn.Module):
    """A pre-norm transformer block with causal attention (Radford et al., GPT-2, 2019)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.c_attn, self.c_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in self.c_attn(self.ln_1(x)).chunk(3, -1)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        x = x + self.c_proj(mixed)
        return x + self.mlp(self.ln_2(x))


class Gpt(nn.Module):
    """A small language model whose head is its table of tokens."""

    def __init__(self, width: int = 12, heads: int = 3, depth: int = 3, vocabulary: int = 17) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocabulary, width), nn.Embedding(8, width)
        self.h = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.ln_f, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.wte.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.h:
            x = block(x)
        return self.head(self.ln_f(x))


def prepared(model: nn.Module, example: Any) -> tuple[nn.Module, Any]:
    return randomise(model).eval(), trace(model, example)


def gpt() -> tuple[nn.Module, Any, Tensor]:
    torch.manual_seed(0)
    tokens = torch.randint(0, 17, (2, 8))
    return *prepared(Gpt(), tokens), tokens


def by_hand(model: Gpt, tokens: Tensor, attention: set[int], mlp: set[int]) -> Tensor:
    """The logits with some summands left out."""
    x = model.wte(tokens) + model.wpe(torch.arange(tokens.shape[1]))
    for i, block in enumerate(model.h):
        alone = copy.deepcopy(block)
        with torch.no_grad():
            alone.mlp[2].weight.zero_()
            alone.mlp[2].bias.zero_()
        x = x if i in attention else alone(x)
        x = x if i in mlp else x + block.mlp(block.ln_2(x))
    return model.head(model.ln_f(x))


def test_the_branches_of_a_language_model() -> None:
    model, net, tokens = gpt()
    found = {b.name: b for b in branches(model, net)}
    assert list(found) == [f"h.{i}{part}" for i in range(3) for part in ("", ".c_attn", ".mlp")]
    for i in range(3):
        block, attention, mlp = (found[f"h.{i}{part}"] for part in ("", ".c_attn", ".mlp"))
        assert (block.kind, attention.kind, mlp.kind) == ("block", "branch", "branch")
        assert block.params == sum(p.numel() for p in model.h[i].parameters())
        assert attention.params + mlp.params == block.params and attention.macs + mlp.macs == block.macs
        assert mlp.macs == 8 * 2 * 12 * 48 and mlp.params == 2 * 12 * 48 + 48 + 12 + 24
        assert set(attention.modules) == {f"h.{i}.ln_1", f"h.{i}.c_attn", f"h.{i}.c_proj"}
    with torch.no_grad():
        for names, attention_, mlp_ in [
            (["h.1"], {1}, {1}),
            (["h.0.mlp"], set(), {0}),
            (["h.2.mlp", "h.0", "h.1.mlp"], {0}, {0, 1, 2}),
        ]:
            result = drop(model, net, names)
            assert result.error <= EXACT
            want = by_hand(model, tokens, attention_, mlp_)
            torch.testing.assert_close(result.model(tokens), want, rtol=1e-5, atol=1e-5)
            gone = sum(found[n].params for n in names)
            assert result.params == sum(p.numel() for p in model.parameters()) - gone
            assert result.macs == net.macs - sum(found[n].macs for n in names)


def test_fused_heads_leave_no_module_that_zeroes_their_shape() -> None:
    """The projection gives zeros; the query, key and value product is not needed for its shape either way."""
    model, net, tokens = gpt()
    result = drop(model, net, ["h.1.c_attn"])
    assert result.error <= EXACT and result.replaced["h.1.c_proj"] == "zero"
    torch.testing.assert_close(result.model(tokens), by_hand(model, tokens, {1}, set()), rtol=1e-5, atol=1e-5)
    left = result.macs - (net.macs - next(b.macs for b in branches(model, net) if b.name == "h.1.c_attn"))
    assert left >= 0 and bool(left) == any("still computed" in note for note in result.notes)


def test_an_inserted_block_changes_nothing_and_learns() -> None:
    model, net, tokens = gpt()
    result = insert(model, net, ["h.0", "h.2"])
    assert result.replaced == {"h.1": "insert", "h.4": "insert"} and len(result.model.h) == 5
    torch.testing.assert_close(result.model(tokens), model(tokens), rtol=1e-6, atol=1e-6)
    twin = result.model.h[1]
    assert not twin.c_proj.weight.any() and not twin.c_proj.bias.any() and not twin.mlp[2].weight.any()
    assert torch.equal(twin.c_attn.weight, model.h[0].c_attn.weight)
    assert torch.equal(result.model.h[2].c_attn.weight, model.h[1].c_attn.weight)
    assert twin.c_attn.weight.data_ptr() != result.model.h[0].c_attn.weight.data_ptr()
    assert result.model.head.weight is result.model.wte.weight
    result.model.train()(tokens).square().mean().backward()
    assert twin.c_proj.weight.grad.abs().sum() > 0 and len(model.h) == 3
    again = trace(result.model.eval(), tokens)
    removed = drop(result.model, again, ["h.1", "h.4"])
    torch.testing.assert_close(removed.model(tokens), model(tokens), rtol=1e-6, atol=1e-6)


VISION: dict[str, tuple[str, list[str], int]] = {
    # network: the first names, how many there are
    "resnet18": ("resnet18", ["layer1.0", "layer1.1", "layer2.1"], 5),
    "mobilenet v2": ("mobilenet v2", ["features.3", "features.5", "features.6"], 10),
    "convnext": ("convnext", ["features.1.0", "features.1.1", "features.3.0"], 4),
    "timm vit": ("timm vit", ["blocks.0", "blocks.0.attn", "blocks.0.mlp"], 18),
    "vision transformer": (
        "vision transformer",
        [f"encoder.layers.encoder_layer_0{part}" for part in ("", ".self_attention", ".mlp")],
        6,
    ),
    "vgg": ("vgg", [], 0),
    "densenet": ("densenet", [], 0),
    "u-net": ("u-net", [], 0),
}


@pytest.mark.parametrize("name", list(VISION))
def test_the_branches_of_vision_networks(name: str) -> None:
    key, first, count = VISION[name]
    torch.manual_seed(0)
    model, example = SMALL[key]()
    model, net = prepared(model, example)
    found = branches(model, net)
    assert [b.name for b in found[: len(first)]] == first and len(found) == count
    total = sum(p.numel() for p in model.parameters())
    for branch in found[:2]:
        result = drop(model, net, [branch.name])
        assert result.error <= EXACT and not result.notes
        assert (result.macs, result.params) == (net.macs - branch.macs, total - branch.params)
        dense = model.state_dict()
        assert all(torch.equal(v, dense[k]) for k, v in result.model.state_dict().items())
        if branch.block:
            assert result.replaced == {branch.block: "skip"}
            assert isinstance(result.model.get_submodule(branch.block), Skip)
            deeper = insert(model, net, [branch.name])
            assert deeper.error <= EXACT
            assert (deeper.macs, deeper.params) == (net.macs + branch.macs, total + branch.params)
    if found:
        everything = drop(model, net, [b.name for b in found])
        assert everything.error <= EXACT and everything.macs < net.macs


def test_a_resnet_block_is_skipped_where_its_rectifier_changes_nothing() -> None:
    """After a rectified stem a block without its branch returns its input; else it still rectifies."""

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.relu = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.relu(x + self.norm(self.conv(x)))

    for stem, replaced in ((nn.ReLU(), "skip"), (nn.Tanh(), "zero")):
        torch.manual_seed(0)
        parts = nn.Conv2d(3, 4, 1), stem, Residual(), nn.Flatten(), nn.Linear(64, 2)
        x = torch.randn(2, 3, 4, 4)
        model, net = prepared(nn.Sequential(*parts), x)
        (branch,) = branches(model, net)
        result = drop(model, net, [branch.name])
        assert replaced in result.replaced.values() and result.error <= EXACT
        want = model[4](model[3](model[1](model[0](x)).relu()))
        torch.testing.assert_close(result.model(x), want, rtol=1e-5, atol=1e-6)
        assert bool(branch.block) == (replaced == "skip")


def test_parallel_branches_and_a_layer_scale() -> None:
    """Attention and a feed-forward net that read the same stream, each with a scale."""

    def forward(m: Net, x: Tensor) -> Tensor:
        y = m.norm(x)
        return m.head(x + m.s * m.a(y) + m.t * m.b(y).relu())

    parts = {k: nn.Linear(5, 5) for k in "ab"} | {k: torch.rand(5) for k in "st"}
    x = torch.randn(3, 5)
    model, net = prepared(Net(forward, norm=nn.LayerNorm(5), head=nn.Linear(5, 2), **parts), x)
    assert [b.name for b in branches(model, net)] == ["a", "b"]
    result = drop(model, net, ["b"])
    want = model.head(x + model.s * model.a(model.norm(x)))
    assert result.error <= EXACT and result.replaced == {"b": "zero"}
    torch.testing.assert_close(result.model(x), want, rtol=1e-5, atol=1e-6)


def test_what_looks_like_a_branch_and_is_none() -> None:
    """Inner tensors that go elsewhere, sums of two projections, tables, gates without parameters."""

    def leaks(m: Net, x: Tensor) -> Any:
        y = m.a(x)
        return m.head(x + m.b(y)), y

    def projections(m: Net, x: Tensor) -> Tensor:
        return m.head(m.a(x) + m.b(x))

    def gate(m: Net, x: Tensor) -> Tensor:
        x = m.a(x) + m.table
        return m.head(x + x * x.sigmoid())

    forwards: list[Callable[..., Any]] = [leaks, projections, gate]
    found = []
    for forward in forwards:
        parts = {k: nn.Linear(5, 5) for k in "ab"}
        model = Net(forward, head=nn.Linear(5, 2), table=torch.rand(5), **parts)
        found.append([b.modules for b in branches(model, trace(model, torch.randn(3, 5)))])
    assert found == [[("b",)], [], []]


def test_the_fused_encoder_layer_runs_without_its_parts() -> None:
    torch.manual_seed(0)
    tokens = torch.randint(0, 13, (3, 7))
    model, net = prepared(Encoder(), tokens)
    for branch in branches(model, net):
        result = drop(model, net, [branch.name])
        assert result.error <= EXACT and "zero" in result.replaced.values()
        with torch.no_grad():  # where PyTorch would take its fused kernel
            quiet = result.model(tokens)
        torch.testing.assert_close(quiet, result.model(tokens), rtol=1e-5, atol=1e-6)


def test_depth_and_width_follow_each_other() -> None:
    torch.manual_seed(0)
    model, example = SMALL["timm convnext"]()
    model, net = prepared(model, example)
    shallow = drop(model, net, ["stages.2.blocks.1", "stages.1.blocks.0"]).model
    after = trace(shallow, example)
    narrow = shrink(shallow, after, draw_keep(after)).model
    assert narrow(example).shape == model(example).shape
    assert {b.name for b in branches(narrow, trace(narrow, example))} < {b.name for b in branches(model, net)}


def test_requests_that_cannot_be_met_are_refused() -> None:
    model, net, _ = gpt()
    with pytest.raises(UsageError, match=r"no residual branch 'h\.9'"):
        drop(model, net, ["h.9"])
    with pytest.raises(UsageError, match="no branch was named"):
        drop(model, net, [])
    with pytest.raises(UsageError, match="no block of its own"):
        insert(model, net, ["h.0.mlp"])

    class Held(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.block, self.b = nn.Linear(4, 12), Block(12, 3), nn.Linear(12, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.block(self.a(x)) * self.block.heads)

    held, its = prepared(Held(), torch.randn(2, 3, 4))
    assert drop(held, its, ["block"]).error <= EXACT  # an attribute that others read is still there
    with pytest.raises(UsageError, match="in no list of blocks"):
        insert(held, its, ["block"])

    def product(m: Net, x: Tensor) -> Tensor:
        return m.head(x + F.linear(x, m.w) @ m.v)

    bare, its = prepared(
        Net(product, w=torch.rand(5, 5), v=torch.rand(5, 5), head=nn.Linear(5, 2)), torch.randn(3, 5)
    )
    (branch,) = branches(bare, its)
    with pytest.raises(StructureError, match="no module alone produces"):
        drop(bare, its, [branch.name])


def test_the_replacements_say_what_they_are() -> None:
    x = torch.randn(2, 3)
    assert Skip()(x) is x and not Zero()(x).any() and not list(Skip().parameters())
    assert Zero(sizes={1: 7})(x).shape == (2, 7)
    assert Skip("key")(key=x) is x and Skip(was={"heads": 3}).heads == 3
    with pytest.raises(AttributeError):
        _ = Skip().heads
    assert copy.deepcopy(Skip(was={"heads": 3})).heads == 3
