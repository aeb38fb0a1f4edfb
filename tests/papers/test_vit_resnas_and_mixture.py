"""The recipes of ViT-ResNAS and Mixture-of-Supernets in their quick size, and what they count on."""

import pytest
import torch

from netwright import papers
from netwright.models import vit_res
from netwright.papers import FURTHER, Run, execute, save
from netwright.papers.mixture_of_supernets_small import Setting, masked, text
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
