import itertools

import pytest
import torch
from torch import nn

from netwright import pruning, structure
from netwright.errors import BudgetError, StructureError, UsageError
from netwright.models import ResNetCifar
from netwright.pruning import score, select
from netwright.pruning.allocations.allocation import allocate
from netwright.pruning.allocations.limits import Limits
from netwright.pruning.allocations.widths import Widths
from netwright.structure import Budget


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    model = ResNetCifar(8, widths=(16, 32, 64)).eval()
    net = structure.trace(model, torch.zeros(1, 3, 16, 16))
    return net, score(net, model)


def share(net, keep, name):
    if name == "keep":
        units = torch.cat([a.cells.reshape(-1) for a in net.prunable])
        return float(keep[units].double().mean())
    return getattr(net.cost(keep), name) / getattr(net.dense, name)


@pytest.mark.parametrize("allocation", pruning.list_allocations())
@pytest.mark.parametrize("metric", ["macs", "params", "keep"])
@pytest.mark.parametrize("wanted", [0.05, 0.3, 0.5, 0.77, 0.95])
def test_the_budget_asked_for_is_the_budget_got(net, allocation, metric, wanted):
    structure_, scores = net
    keep = select(structure_, scores, Budget(**{metric: wanted}), allocation, round_to=1)
    got = share(structure_, keep, metric)
    assert got <= wanted
    if allocation != "cost-aware":
        assert got > 0.98 * wanted
        return
    # The cheap axes are whole: what is left to give are single units of dear ones, of which none fits.
    widths = Widths(structure_, scores)
    counts = torch.tensor([int(keep[a.cells[0]].sum()) for a in structure_.prunable])
    more = counts + torch.eye(len(counts), dtype=torch.int64)
    more = more[(more <= widths.sizes).all(dim=1)]
    assert not bool(Limits(widths, Budget(**{metric: wanted})).fits(more).any())


@pytest.mark.parametrize("allocation", pruning.list_allocations())
def test_large_axes_keep_multiples_of_eight(net, allocation):
    structure_, scores = net
    keep = select(structure_, scores, "macs=0.5", allocation)
    for axis in structure_.prunable:
        count = int(keep[axis.cells[0]].sum())
        assert axis.size < 32 or count % 8 == 0
    assert 0.46 < share(structure_, keep, "macs") <= 0.5


def test_no_single_step_more_fits(net):
    structure_, scores = net
    keep = select(structure_, scores, "params=0.4", "global", round_to=1)
    limit = 0.4 * structure_.params
    if structure_.cost(keep).params > 0.999 * limit:
        return
    for axis in structure_.prunable:
        more = keep.clone()
        gone = axis.cells[:, :][~keep[axis.cells]]
        more[gone[:1]] = True
        assert structure_.cost(more).params > limit


@pytest.mark.parametrize("allocation", pruning.list_allocations())
def test_several_limits_hold_together(net, allocation):
    structure_, scores = net
    keep = select(structure_, scores, "macs=0.6, params=0.3", allocation)
    assert share(structure_, keep, "macs") <= 0.6
    assert share(structure_, keep, "params") <= 0.3


def test_uniform_keeps_the_same_share_everywhere(net):
    structure_, scores = net
    keep = select(structure_, scores, "keep=0.5", "uniform")
    assert {float(keep[a.cells].double().mean()) for a in structure_.prunable} == {0.5}


def test_the_best_of_every_cell_stay(net):
    structure_, scores = net
    keep = select(structure_, scores, "keep=0.5", "uniform")
    for axis in structure_.prunable:
        for cell in axis.cells:
            if not bool(keep[cell].all()):
                assert float(scores[cell][keep[cell]].min()) >= float(scores[cell][~keep[cell]].max())


def test_global_leaves_a_tenth_of_every_axis(net):
    structure_, scores = net
    scores = scores.clone()
    poor = next(a for a in structure_.prunable if a.size == 64)
    scores[poor.cells] *= 1e-6
    keep = select(structure_, scores, "macs=0.5", "global", round_to=1)
    assert int(keep[poor.cells[0]].sum()) >= 6


def test_a_budget_that_everything_meets_removes_nothing(net):
    structure_, scores = net
    assert bool(select(structure_, scores, "macs=1.0").all())


def test_an_unmeetable_budget_names_the_smallest(net):
    structure_, scores = net
    one = torch.ones(structure_.count, dtype=torch.bool)
    for axis in structure_.prunable:
        one[axis.cells] = False
        one[axis.cells[:, 0]] = True
    least = structure_.cost(one).macs
    with pytest.raises(BudgetError, match=f"the smallest network has {least:,}") as error:
        select(structure_, scores, "macs=1e-6")
    ask = float(error.value.hint.split("macs=")[1].split(" ")[0])
    assert structure_.cost(select(structure_, scores, Budget(macs=ask))).macs <= ask * structure_.macs


def test_an_unmeetable_step_says_so(net):
    structure_, scores = net
    with pytest.raises(BudgetError, match="round_to=1"):
        select(structure_, scores, "keep=0.05", round_to=8)


def test_nothing_can_shrink():
    model = nn.Linear(4, 3)
    net = structure.trace(model, torch.zeros(1, 4))
    with pytest.raises(StructureError, match="no axis"):
        select(net, torch.zeros(net.count), "macs=0.5")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"budget": "accuracy>=-1%"}, "accuracy"),
        ({"budget": "none"}, "limits nothing"),
        ({"budget": "latency=0.5"}, "measured"),
        ({"budget": None}, "not understood"),
        ({"allocation": "fair"}, "choose from cost-aware, global, uniform"),
        ({"round_to": 0}, "not a step"),
        ({"round_to": True}, "not a step"),
    ],
)
def test_what_is_refused(net, change, words):
    structure_, scores = net
    with pytest.raises(UsageError, match=words):
        select(structure_, scores, **{"budget": "macs=0.5", **change})


def test_cost_aware_prefers_what_is_cheap(net):
    structure_, _ = net
    widths = Widths(structure_, torch.ones(structure_.count, dtype=torch.float64))
    limits = Limits(widths, Budget(macs=0.6))
    counts = allocate(widths, limits, "cost-aware", round_to=1)
    dense = structure_.cost(widths.mask(widths.sizes)).macs
    price = []
    for axis in range(len(counts)):
        less = widths.sizes.clone()
        less[axis] -= 1
        price.append(dense - structure_.cost(widths.mask(less)).macs)
    # All scores alike: the dearest axes shrink to the floor first, the cheapest stay whole longest.
    order = sorted(range(len(counts)), key=lambda a: price[a])
    shares = [float(counts[a] / widths.sizes[a]) for a in order]
    assert shares[0] == 1 and shares[-1] < 0.2
    assert sum(a < b - 1e-9 for a, b in itertools.pairwise(shares)) <= 1  # what was given back
