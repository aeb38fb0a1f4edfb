"""The recipes of ViT-ResNAS and Mixture-of-Supernets in their quick size, and what they count on."""

import pytest
import torch

from netwright import papers
from netwright.data import Part, Splits, fetch
from netwright.models import EncoderDecoder, GraphemeToPhoneme, vit_res
from netwright.models.zoo.phonemes import GRAPHEMES, PHONEMES
from netwright.papers import FURTHER, Run, execute, save
from netwright.papers.mixture_of_supernets_small import NEURON, SINGLE, Setting, masked, text
from netwright.papers.mixture_of_supernets_translation import (
    LETTERS,
    SOUNDS,
    Pairs,
    Translation,
    sample,
    score,
    supernet,
    translation,
)
from netwright.papers.vit_resnas_further import single_stage
from netwright.papers.vit_resnas_small import OPTIONS
from netwright.structure import trace

SLUGS = ["vit-resnas", "mixture-of-supernets"]


@pytest.mark.recipe
@pytest.mark.data
@pytest.mark.parametrize("slug", SLUGS)
def test_the_recipe_runs_and_writes_its_evidence(slug, tmp_path):
    run = execute(Run(papers.load(slug), quick=True))
    assert {c.name for c in run.paper.claims if not c.scope} == set(run.measured)
    save(run, tmp_path, f"netwright reproduce {slug} --quick")
    assert any(tmp_path.iterdir())


@pytest.mark.recipe
@pytest.mark.data
@pytest.mark.parametrize("slug", SLUGS)
def test_the_further_arms_run(slug):
    run = execute(Run(papers.load(slug), quick=True, scope=FURTHER))
    wanted = {c.name for c in run.paper.claims if c.scope == FURTHER}
    wanted -= {c for c in wanted if c.startswith("full-scale")}  # minutes of memory traffic: not when quick
    assert wanted == set(run.measured)


def test_the_single_stage_transformer_costs_as_much():
    for macs in (1_000_000, 2_000_000):
        net = vit_res(single_stage(macs), **OPTIONS)
        assert len(net.blocks) == 6
        assert abs(trace(net, torch.zeros(1, 1, 16, 16)).dense.macs / macs - 1) < 0.02


def test_networks_trained_alone_are_those_that_are_cut_out():
    """Same shapes and cost: what is trained alone is not another network than what is inherited."""
    setting = Setting(text(quick=True), quick=True, device="cpu")
    sup = setting.supernet(0)
    for choice in (sup.space.min(), sup.space.max(), next(iter(sup.space.enumerate()))):
        sizes = choice["width:embedding"], choice["width:ffn"], choice["depth:blocks"]
        own, cut = setting.network(0, *sizes), sup.extract(choice)
        assert {n: p.shape for n, p in own.named_parameters()} == {
            n: p.shape for n, p in cut.named_parameters()
        }


def test_masked_symbols_are_the_only_ones_that_count():
    data = text(quick=True)
    x, y = next(data.test.batches(len(data.test)))
    hidden_x, hidden_y = (t for t in next(masked(data).test.batches(len(data.test))))
    at = hidden_y >= 0
    assert 0.1 < at.float().mean() < 0.2
    assert (hidden_x[at] == len(data.classes)).all()
    assert torch.equal(hidden_x[~at], x[~at])
    assert torch.equal(hidden_y[at].float(), x[at])
    assert y.shape == hidden_y.shape


@pytest.mark.data
def test_words_are_written_with_the_phonemes_of_the_published_network():
    data = translation(30, 5)
    x, y = next(data.splits.train.batches(30))
    assert x.shape == (30, LETTERS + 1 + SOUNDS + 1) and y.shape == (30, SOUNDS + 1)
    before = x[:, LETTERS + 1 :].long()
    said = (y[:, :-1] >= 0) & (y[:, :-1] != PHONEMES.index("</s>"))
    assert torch.equal(before[:, 1:][said], y[:, :-1][said]) and not before[:, 1:][~said].any()
    assert ((y == PHONEMES.index("</s>")).sum(1) == 1).all()
    network = GraphemeToPhoneme.from_npz(fetch("g2p-en") / "checkpoint20.npz")
    for row, sounds in zip(data.letters, data.references, strict=True):
        word = "".join(GRAPHEMES[i] for i in row.tolist() if i > 2)
        assert network.spell([word])[0] == [PHONEMES[i] for i in sounds]


@pytest.mark.data
def test_an_encoder_decoder_runs_as_a_supernet_as_it_is():
    """Two inputs, cross attention: what is cut out computes and costs what the supernet says."""
    data = translation(8, 4)
    for arm in (SINGLE, NEURON):
        sup = supernet(data.splits, 0, arm).eval()
        assert sup.space.size() == 324
        x, _ = next(data.splits.test.batches(4))
        for choice in sample(sup, 3):
            small = sup.extract(choice)
            torch.testing.assert_close(small(x), sup.set(choice)(x), rtol=1e-5, atol=1e-6)
            assert trace(small, data.splits.example(2)).dense == sup.cost(choice)
    network = small.network
    letters, steps = data.letters, 6
    written = network.greedy(letters, steps, 2)
    before = torch.cat([torch.full((4, 1), 2), written[:, :-1]], dim=1)
    assert torch.equal(network(letters, before).argmax(dim=1), written)  # each sees only those before it


def test_bleu_is_that_of_what_stands_before_the_end():
    letters = torch.ones(2, LETTERS + 1)
    part = Part.from_tensors(torch.cat([letters, torch.zeros(2, SOUNDS + 1)], 1), torch.zeros(2, 1).long())
    network = EncoderDecoder(len(GRAPHEMES), len(PHONEMES), SOUNDS + 2, 8, 1, 8, (1, 1))
    with torch.no_grad():
        for parameter in network.head.parameters():
            parameter.zero_()
        network.head.bias[7] = 1.0
    same = Translation(Splits("", part, part, part, PHONEMES), [[7] * (SOUNDS + 1)] * 2)
    assert score(Pairs(network), same) == 1.0
    with torch.no_grad():
        network.head.bias[PHONEMES.index("</s>")] = 2.0
    assert score(Pairs(network), same) == 0.0
