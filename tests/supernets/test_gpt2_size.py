"""GPT-2 at its full size, 124 million parameters of random weights: a sorted step, and a prefix cut out.

About ten seconds of one processor and four gigabytes.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.supernets.test_bignas import run_of
from torch import Tensor, nn

import netwright as nw
from netwright.supernets import HardLabels, Paths, samplers
from netwright.train import Batch, State, Step

WIDTH, DEPTH = "width", "depth:network.transformer.h"


class Text(nn.Module):
    """A language model of Hugging Face with scores (B, V, T), as losses of classes take them."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, tokens: Tensor) -> Tensor:
        scores: Tensor = self.network(input_ids=tokens, use_cache=False).logits
        return scores.transpose(1, 2)


def test_a_sorted_step_and_a_prefix_of_gpt2() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    tokens = torch.randint(0, config.vocab_size, (2, 17))
    x, y = tokens[:, :-1], tokens[:, 1:]
    sup = nw.elastic(
        Text(transformers.GPT2LMHeadModel(config)),
        x,
        width=[0.25, 0.5, 0.75, 1.0],
        depth=True,
        share="network",
    )
    assert sum(p.numel() for p in sup.parameters()) == 124_439_808  # the head shares the embedding
    assert sup.space.size() == 48

    prefix = sup.complete({WIDTH: 0.5, DEPTH: 6})
    sampler = samplers.SortedPrefix(1, members=[prefix])
    sampler.attach(sup)
    optimizer = torch.optim.SGD(sup.parameters(), 0.1)
    steps: list[Step] = []
    transformer: Any = sup.network.get_submodule("network.transformer")
    embedding = transformer.wte.weight
    before = embedding[:100].detach().clone()
    batch = Batch(x, y)
    Paths(sampler, HardLabels())(run_of(sup.train(), steps), batch, sup, State(sup, optimizer, 1, 1))
    half = config.n_embd // 2
    assert embedding.grad[:, half:].count_nonzero() == 0 < embedding.grad[:, :half].count_nonzero()
    optimizer.step()
    assert torch.equal(embedding[:100, half:], before[:, half:])
    assert [b.mlp.c_fc.weight.grad is not None for b in transformer.h] == [True] * 6 + [False] * 6
    optimizer.zero_grad()

    small = sup.set(prefix).eval().extract()
    with torch.no_grad():
        torch.testing.assert_close(small(x), sup(x), rtol=1e-5, atol=1e-5)
        sliced = nn.functional.cross_entropy(sup(x), y)
    assert sliced < nn.functional.cross_entropy(steps[0].logits, y)  # one step taught what it drew
    assert sum(p.numel() for p in small.parameters()) == sup.cost(prefix).params < 124_439_808 / 3
