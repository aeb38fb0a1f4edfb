"""The language model of characters: what it sees, what it costs, and that fewer heads need no new code."""

from __future__ import annotations

import pytest
import torch
from tests.models.counting import count, half_in_place, traced, widths
from torch.nn import functional as F

import netwright as nw
from netwright import models
from netwright.errors import ModelError


def test_counts_by_hand() -> None:
    net = traced(lambda: models.char_lm(100, 32, 48, 4, 3, 2), 32, dtype=torch.int64)
    block = 4 * 48 * 48 + 2 * 3 * 48 * 48  # query, key, value and projection; the perceptron
    assert net.macs == 32 * (2 * block + 48 * 100) + 2 * 2 * 32 * 32 * 48
    biases = 4 * 48 + 3 * 48 + 48 + 4 * 48  # of attention, of the perceptron, and both norms
    assert net.params == 100 * 48 * 2 + 32 * 48 + 2 * (block + biases) + 2 * 48


def test_a_symbol_sees_only_those_before_it() -> None:
    x = torch.randint(128, (2, 20))
    other = x.clone()
    other[:, 12:] = (other[:, 12:] + 1) % 128
    model = models.char_lm(width=24, heads=2).eval()
    assert torch.allclose(model(x)[:, :12], model(other)[:, :12], atol=1e-6)
    assert not torch.allclose(model(x)[:, 12:], model(other)[:, 12:], atol=1e-3)
    both = models.char_lm(width=24, heads=2, causal=False).eval()
    assert not torch.allclose(both(x)[:, :12], both(other)[:, :12], atol=1e-4)


def test_attention_by_hand() -> None:
    layer = models.SelfAttention(12, 3, 5, causal=True)
    x = torch.randn(2, 7, 12)
    q, k, v = (t.reshape(2, 7, 3, 5).transpose(1, 2) for t in layer.qkv(x).chunk(3, dim=-1))
    scores = (q @ k.transpose(-2, -1) / 5**0.5).masked_fill(torch.ones(7, 7).triu(1).bool(), -torch.inf)
    expected = layer.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(2, 7, 15))
    assert torch.allclose(layer(x), expected, atol=1e-6)


def test_leading_heads_run_on_with_the_same_code() -> None:
    """Whole heads go by slicing query, key and value apart, and no attribute is written."""
    wide, narrow = models.SelfAttention(12, 3, 4), models.SelfAttention(12, 2, 4)
    rows = torch.arange(36).reshape(3, 12)[:, :8].flatten()
    narrow.qkv.weight.data, narrow.qkv.bias.data = wide.qkv.weight[rows], wide.qkv.bias[rows]
    narrow.proj.weight.data, narrow.proj.bias.data = wide.proj.weight[:, :8], wide.proj.bias
    for name in ("qkv", "proj"):
        setattr(wide, name, getattr(narrow, name))
    x = torch.randn(2, 5, 12)
    assert torch.equal(wide(x), narrow(x))


@pytest.mark.parametrize(
    "model",
    [
        models.char_lm(width=48),
        models.char_lm(width=48, heads=(2, 3, 2), head_dim=16, ratio=(2, 3, 4), tied=True, dropout=0.1),
        models.char_lm(width=48, causal=False, depth=1),
    ],
)
def test_prunes_in_place(model: models.CharLM) -> None:
    result = half_in_place(model, torch.randint(128, (2, 24)))
    found = widths(result.net)
    assert found["blocks.0.attn.proj"] == 48
    assert (
        found["blocks.0.attn.qkv"] == model.blocks[0].attn.proj.in_features // model.blocks[0].attn.head_dim
    )
    assert found["blocks.0.mlp.fc1"] == model.blocks[0].mlp.fc1.out_features


def test_tied_embeddings_are_one_parameter() -> None:
    assert count(models.char_lm(tied=True)) == count(models.char_lm()) - 128 * 96


def test_it_learns_a_text() -> None:
    text = torch.tensor(list(b"a tree is a tree is a tree is a tree")).expand(4, -1)
    model = models.char_lm(context=40, width=32, heads=2, depth=2)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    losses = []
    for _ in range(40):
        loss = F.cross_entropy(model(text[:, :-1]).flatten(0, 1), text[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


def test_by_name() -> None:
    loaded = models.load("char_lm", num_classes=50)
    example = models.natural_example(loaded, 3)
    assert example.shape == (3, 64)
    assert int(example.max()) < 50
    assert loaded.model(example).shape == (3, 64, 50)
    assert models.natural_example(loaded, 2, (10,), seed=1).shape == (2, 10)
    assert nw.trace(loaded.model, example).macs > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 50}, "50 features"),
        ({"heads": (2, 3)}, "3 blocks have 2 numbers of heads"),
        ({"heads": (2, 3, 1)}, "give head_dim"),
        ({"depth": 0, "head_dim": 8}, "at least one"),
    ],
)
def test_what_cannot_be_built(options, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        models.char_lm(**options)
