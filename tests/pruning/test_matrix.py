"""Every importance with every granularity, allocation and schedule: it runs and keeps exactly what was asked
for, or it is refused for a reason that is known beforehand.
"""

import copy
import itertools
import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import netwright as nw
from netwright import pruning
from netwright.data import Part, Splits
from netwright.errors import BudgetError, UsageError
from netwright.pruning import Channel, Context, Examples, Sparsity
from netwright.pruning.allocations.allocation import allocate, list_allocations
from netwright.pruning.allocations.density_allocation import names as channel_allocations
from netwright.pruning.allocations.density_allocation import resolve
from netwright.pruning.allocations.layerwise import Layers, layer_counts
from netwright.pruning.allocations.limits import Limits
from netwright.pruning.allocations.widths import Widths
from netwright.pruning.importances.elements import ElementImportance, learned, scores_of
from netwright.pruning.importances.importance import find_elements
from netwright.pruning.importances.members import normalised, score_channels
from netwright.pruning.masks.granularity import NM, Block, find_granularity
from netwright.pruning.masks.mask_state import MaskState
from netwright.pruning.schedules.schedule import Rounds, list_schedules
from netwright.structure import Budget
from netwright.train import Recipe

KEEP, STEPS = 0.4, 4
GRANULARITIES = ["weight", "row", "column", "kernel", "block:3x2", "2:4"]
SHARES = {"stem.weight": 0.9, "middle.weight": 0.3, "head.weight": 0.5}
IMPORTANCES = pruning.list_importances("weight")
ALLOCATIONS = [*pruning.list_layer_allocations(), "from-scores", "from-magnitude", "shares"]


def name_of(case: object) -> str:
    """A name that is the same in every process: without the addresses of functions."""
    return re.sub(r"<function ([^ ]+) at 0x[0-9a-f]+>", r"\1", str(case))


class Net(nn.Module):
    """A convolution, a grouped one, a batch norm and a classifier."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.middle = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        return self.head(torch.relu(self.middle(x)).mean(dim=(2, 3)))


NAMES = list(SHARES)
SIZES = {"stem.weight": 72, "middle.weight": 576, "head.weight": 32}
TOTAL = sum(SIZES.values())


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Net().train()


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(16, 1, 5, 5, generator=generator), torch.randint(0, 4, (16,), generator=generator)


@pytest.fixture(scope="module")
def splits(data):
    part = Part.from_tensors(*data)
    return Splits("made", part, part, part, ("a", "b", "c", "d"))


def allocation_of(name):
    return SHARES if name == "shares" else name


def importance_of(name, model):
    """The importance as it is given: some need more than their name."""
    if name == "movement":
        return pruning.movement({n: torch.zeros_like(model.get_parameter(n)) for n in NAMES})
    if name == "learned":
        generator = torch.Generator().manual_seed(2)
        return learned({n: torch.randn(model.get_parameter(n).shape, generator=generator) for n in NAMES})
    return name


def total_of(allocation, keep):
    """How many weights an allocation leaves."""
    if allocation == "shares":
        return round(sum(SHARES[n] * SIZES[n] for n in NAMES))
    if allocation == "layerwise":
        return sum(n - min(-int(-(1 - keep) * n // 1), int(0.995 * n)) for n in SIZES.values())
    return round(keep * TOTAL)


def check_masks(masks, pattern, expected, model):
    """Counts are exact, units whole."""
    kept = {n: int(m.sum()) for n, m in masks.items()}
    if isinstance(pattern, NM):
        for mask in masks.values():
            if pattern.fits(mask):
                groups = mask.movedim(pattern.dim, -1).reshape(-1, pattern.m)
                assert bool((groups.sum(dim=1) == pattern.n).all())
            else:
                assert bool(mask.all())
        return
    sizes = {n: pattern.sizes(model.get_parameter(n)) for n in masks}
    for mask in masks.values():
        units = pattern.pool(mask.double())
        assert bool(((units == 0) | (units == 1)).all())
    if pattern.name == "weight":
        assert sum(kept.values()) == expected
    else:
        # What is left of a layer's count is less than its largest unit.
        assert sum(kept.values()) <= expected
        assert sum(kept.values()) > expected - sum(int(s.max()) for s in sizes.values())


def why_not(granularity, allocation):
    """The class of reason for which masks are refused, or None."""
    if granularity == "2:4" and allocation not in ("global", "uniform"):
        return "whatever the allocation"
    if granularity == "channel":
        return "removed, not masked"
    return None


@pytest.mark.parametrize("importance", IMPORTANCES)
def test_importance_by_granularity_by_allocation(importance, model, data):
    context = Context(Examples(data, data[0][:2]), keep=KEEP, seed=3)
    given = find_elements(importance_of(importance, model))
    scores = scores_of(given, model, NAMES, context)
    # Scored once: what is combined does not depend on it.
    fixed = ElementImportance(importance, lambda m, n, c: scores)
    for granularity, allocation in itertools.product([*GRANULARITIES, "channel"], ALLOCATIONS):
        reason = why_not(granularity, allocation)
        settings = {"granularity": granularity, "allocation": allocation_of(allocation), "context": context}
        if reason is not None:
            with pytest.raises(UsageError, match=reason):
                pruning.choose(model, NAMES, KEEP, importance=fixed, **settings)
            continue
        masks = pruning.choose(model, NAMES, KEEP, importance=fixed, **settings)
        pattern = find_granularity(granularity)
        check_masks(masks, pattern, total_of(allocation, KEEP), model)
        if granularity == "weight" and allocation not in ("from-scores", "from-magnitude"):
            layers = Layers({n: s.shape for n, s in scores.items()}, scores)
            counts = layer_counts(layers, KEEP, allocation_of(allocation))
            assert {n: int(m.sum()) for n, m in masks.items()} == counts
    direct = pruning.choose(model, NAMES, KEEP, importance=given, context=context)
    check_masks(direct, find_granularity("weight"), round(KEEP * TOTAL), model)


def why_not_scheduled(schedule, granularity, importance, allocation):
    """The class of reason for which a schedule is refused, or None."""
    gradual = {"cubic", "linear", "exponential", "granet", "rigl", "set", "static"}
    if granularity == "2:4":
        if allocation not in ("global", "uniform"):
            return "whatever the allocation"
        if schedule in gradual | {"steps", "rounds"}:
            return "nothing to do bit by bit"
    if schedule in ("granet", "rigl", "set") and granularity != "weight":
        return "would break the pattern"
    if schedule in ("rigl", "set", "static") and importance not in ("magnitude", "random"):
        return "nothing to choose"
    return None


def combinations():
    """All schedules by granularities by allocations, and all schedules by importances."""
    three = itertools.product(GRANULARITIES, ["magnitude"], ALLOCATIONS)
    two = itertools.product(["weight"], IMPORTANCES, ["global"])
    return [*three, *two]


def trained(model, sparsity, data):
    """Four steps in a loop of one's own."""
    twin = copy.deepcopy(model)
    optimizer = torch.optim.SGD(twin.parameters(), 0.05, momentum=0.9)
    sparsity.attach(twin, optimizer, STEPS)
    for step in range(STEPS):
        rows = slice(4 * step, 4 * step + 4)
        F.cross_entropy(twin(data[0][rows]), data[1][rows]).backward()
        optimizer.step()
        sparsity.step()
        optimizer.zero_grad()
    return twin, optimizer


@pytest.mark.parametrize("schedule", list_schedules())
def test_schedule_by_granularity_importance_and_allocation(schedule, model, data):
    examples = Examples(data, data[0][:2])
    plan = Rounds(3) if schedule == "rounds" else schedule
    for granularity, importance, allocation in combinations():
        settings = {
            "importance": importance_of(importance, model) if importance == "learned" else importance,
            "granularity": granularity,
            "allocation": allocation_of(allocation),
            "schedule": plan,
            "data": examples,
        }
        reason = why_not_scheduled(schedule, granularity, importance, allocation)
        # What compares with the beginning of a cycle has none before the first step.
        early = importance == "movement" and schedule in ("one-shot", "rounds")
        if early and reason is None:
            reason = "earlier weights"
        if reason is not None:
            with pytest.raises(UsageError, match=reason):
                trained(model, Sparsity(KEEP, **settings), data)
            continue
        twin, optimizer = trained(model, Sparsity(KEEP, **settings), data)
        state = MaskState.of(twin)
        pattern = find_granularity(granularity)
        check_masks(state.masks, pattern, total_of(allocation, KEEP), Net())
        for name, mask in state.masks.items():
            weight = state.parameter(name)
            if state.soft:
                continue  # the values beneath stay
            assert not bool(weight[~mask].any())
            for slot in optimizer.state[weight].values():
                assert not bool(slot[~mask].any())


@pytest.mark.parametrize("granularity", [g for g in GRANULARITIES if g != "2:4"])
@pytest.mark.parametrize("schedule", ["lottery", "iterative"])
def test_several_trainings(schedule, granularity, model, splits):
    recipe = Recipe(epochs=1, batch_size=4, lr=0.05)
    found = nw.sparsify(
        model, keep=0.7, schedule=schedule, granularity=granularity, data=splits, recipe=recipe, device="cpu"
    )
    assert [level.level for level in found.levels] == [0, 1, 2]  # 0.8, then exactly 0.7
    check_masks(found.masks, find_granularity(granularity), round(0.7 * TOTAL), model)
    assert found.ticket.step == (0 if schedule == "iterative" else round(0.01 * STEPS))
    assert found.verify(splits.example()) < 1e-6


@pytest.mark.parametrize("importance", ["snip", "movement", "random", pruning.AP("magnitude", 0.05)])
def test_several_trainings_by_importance(importance, model, splits):
    recipe = Recipe(epochs=1, batch_size=4, lr=0.05)
    found = nw.sparsify(
        model,
        keep=0.7,
        importance=importance,
        schedule="lottery",
        data=splits,
        recipe=recipe,
        device="cpu",
    )
    assert sum(found.kept.values()) == round(0.7 * TOTAL)


def test_patterns_are_no_levels(model, splits):
    with pytest.raises(UsageError, match="nothing to do bit by bit"):
        nw.sparsify(model, granularity="2:4", schedule="lottery", data=splits)


# Whole channels

NEEDED = {"movement": "earlier weights", "learned": "have to be given"}


@pytest.fixture(scope="module")
def structured(model, data):
    net = nw.trace(model, data[0][:2])
    examples = Examples(data, data[0][:2])
    scores = {
        n: pruning.score(net, model, n, examples) for n in pruning.list_importances() if n not in NEEDED
    }
    return net, examples, scores


@pytest.mark.parametrize("allocation", [*channel_allocations(), "from-snip", "shares"])
def test_channels_by_importance_allocation_and_budget(allocation, model, structured):
    net, examples, scores = structured
    families = {}
    budgets = [Budget(macs=0.5), Budget(params=0.4), Budget(keep=0.5), Budget(size=0.6)]
    budgets.append(Budget(keep=0.8, macs=0.5))
    own = allocation == "from-scores"
    for importance, budget in itertools.product(scores, budgets):
        reason = None
        if own and importance not in IMPORTANCES:
            reason = "scores whole channels"
        if allocation == "convex" and set(budget.limits) - {"params", "macs"}:
            reason = "limits of params and macs"
        key = (importance if own else "any", str(budget))
        if reason is not None:
            with pytest.raises(UsageError, match=reason):
                resolve(allocation, net, model, importance, examples, budget)
            continue
        if key not in families:
            given = allocation_of(allocation)
            families[key] = resolve(given, net, model, importance, examples, budget)
        widths = Widths(net, scores[importance])
        limits = Limits(widths, budget)
        if allocation == "uniform-plus" and budget == Budget(keep=0.5):
            # The first layer stays whole: 8 of 16 channels, and one at least of the second.
            with pytest.raises(BudgetError, match="uniform-plus"):
                allocate(widths, limits, families[key], round_to=1)
            continue
        counts = allocate(widths, limits, families[key], round_to=1)
        assert bool(limits.fits(counts[None])[0])
        # No single channel more would fit.
        more = counts + torch.eye(len(counts), dtype=torch.int64)
        more = more[(more <= widths.sizes).all(dim=1)]
        assert not bool(limits.fits(more).any())
        keep = widths.mask(counts)
        for axis, count in zip(net.prunable, counts.tolist(), strict=True):
            # Exactly so many, and the best of each cell.
            for cell in axis.cells:
                assert int(keep[cell].sum()) == count
                stays, goes = scores[importance][cell][keep[cell]], scores[importance][cell][~keep[cell]]
                assert not len(goes) or float(stays.min()) >= float(goes.max())


@pytest.mark.parametrize("aggregate", ["sum", "mean", "max", "first", "prod", "vote"])
def test_channels_by_importance_aggregate_and_normalisation(aggregate, model, structured):
    net, examples, scores = structured
    for importance in scores:
        if aggregate != "sum" and importance not in [*IMPORTANCES, "bn-scale"]:
            with pytest.raises(UsageError, match="no members to aggregate"):
                score_channels(net, model, importance, examples, Channel(aggregate))
            continue
        plain = score_channels(net, model, importance, examples, Channel(aggregate, "none"))
        for how in ("mean", "sum", "max", "gaussian", "lamp"):
            found = normalised(net, plain, how)
            assert bool(found.isfinite().all())
            if how == "lamp" and bool((plain < 0).any()):
                continue  # a share of signed sums has no order
            for axis in net.prunable:
                # Members of one axis stay in their order.
                order = plain[axis.cells.reshape(-1)].argsort(stable=True)
                assert bool((found[axis.cells.reshape(-1)][order].diff() >= -1e-12).all())
        widths = Widths(net, normalised(net, plain, "mean"))
        limits = Limits(widths, Budget(macs=0.5))
        assert bool(limits.fits(allocate(widths, limits, round_to=1)[None])[0])


@pytest.mark.parametrize("importance", [n for n in pruning.list_importances() if n not in NEEDED])
def test_the_verb_removes_channels(importance, model, data):
    pruned = nw.prune(model, data[0][:2], keep=0.5, importance=importance, data=data, check=True)
    sizes = sum(total for _, total in pruned.widths.values())
    assert sum(kept for kept, _ in pruned.widths.values()) == sizes // 2
    assert pruned.model(data[0]).shape == (16, 4)


def test_fresh_weights_take_the_place_of_all(model, data):
    plain, fresh = (
        nw.prune(model, data[0][:2], keep=0.5, repair="none", reinit=reinit) for reinit in (False, True)
    )
    again = nw.prune(model, data[0][:2], keep=0.5, reinit=True)
    for name, weight in plain.model.named_parameters():
        drawn = fresh.model.get_parameter(name)
        assert drawn.shape == weight.shape and torch.equal(drawn, again.model.get_parameter(name))
        assert weight.dim() < 2 or not torch.equal(drawn, weight)
    assert {n: list(d) for n, d in plain.kept.items()} == {n: list(d) for n, d in fresh.kept.items()}


@pytest.mark.parametrize(
    "settings",
    [
        {"schedule": "one-shot", "recipe": True},
        {"schedule": "one-shot", "recipe": True, "distill": True},
        {"schedule": "one-shot", "repair": "fine-tune", "recipe": True},
        {"schedule": "one-shot", "reinit": True, "recipe": True, "allocation": "convex"},
        {"schedule": pruning.schedules.cycles.iterative(rounds=2), "recipe": True},
        {
            "schedule": pruning.schedules.cycles.iterative(rounds=2),
            "recipe": True,
            "distill": True,
            "allocation": "erk",
        },
        {"schedule": pruning.schedules.cycles.iterative(fraction=0.4), "recipe": True, "importance": "snip"},
        {"schedule": "mask-sparsity", "recipe": True},
    ],
    ids=name_of,
)
def test_channels_and_training(settings, model, splits, tmp_path):
    recipe = Recipe(epochs=1, batch_size=4, lr=0.05)
    given = {**settings, "recipe": recipe}
    pruned = nw.prune(model, splits.example(), "macs=0.5", data=splits, device="cpu", **given)
    assert pruned.after.macs <= 0.5 * pruned.before.macs
    assert nw.trace(pruned.model, splits.example()).macs == pruned.after.macs
    if settings["schedule"] != "mask-sparsity":
        assert pruned.history
    # Stages, too, are told as one removal: what is saved is replayed on the given network.
    nw.save(pruned, tmp_path / "small")
    loaded = nw.load(tmp_path / "small", copy.deepcopy(model)).eval()
    with torch.no_grad():
        expected = pruned.model.eval()(splits.example(8))
        torch.testing.assert_close(loaded(splits.example(8)), expected, rtol=1e-5, atol=1e-6)


REFUSED = [
    ({"granularity": "weight"}, "removes whole channels"),
    ({"granularity": "2:4"}, "removes whole channels"),
    ({"granularity": "channel:best"}, "choose from sum"),
    ({"schedule": "lottery"}, "rewinding goes back"),
    ({"schedule": "cubic"}, "every few steps"),
    ({"schedule": "no-such"}, "there is no schedule"),
    ({"schedule": "iterative"}, "data to train on"),
    ({"schedule": "mask-sparsity"}, "data to train on"),
    ({"recipe": Recipe(epochs=1)}, "data to train on"),
    ({"distill": True}, "data to train on"),
    ({"repair": "fine-tune"}, "data to train on"),
    ({"reinit": True, "repair": "obs"}, "fresh ones take their place"),
    ({"reinit": True, "repair": "fine-tune"}, "fresh ones take their place"),
    ({"reinit": True, "schedule": "iterative"}, "before any training"),
    ({"importance": "movement"}, "earlier weights"),
    ({"importance": pruning.AP("magnitude")}, "earlier weights"),
    ({"importance": "learned"}, "have to be given"),
    ({"importance": "snip"}, "looks at data"),
    ({"importance": "hrank", "granularity": Channel("max")}, "looks at data"),
    ({"importance": "fpgm", "granularity": Channel("max")}, "no members to aggregate"),
    ({"allocation": "no-such"}, "there is no allocation"),
    ({"allocation": "from-no-such"}, "there is no importance"),
    ({"allocation": "from-snip"}, "looks at data"),
    ({"allocation": "convex"}, "params and macs"),
    ({"allocation": {"no.weight": 0.5}}, "is no weight of a layer"),
    ({"budget": "macs=0.5"}, "both a budget and keep"),
]


@pytest.mark.parametrize(("settings", "reason"), REFUSED, ids=[name_of(s) for s, _ in REFUSED])
def test_the_verb_says_why_not(settings, reason, model, data):
    with pytest.raises(UsageError, match=reason):
        nw.prune(model, data[0][:2], settings.pop("budget", None), **{"keep": 0.5, **settings})


def test_a_budget_is_asked_for(model, data):
    with pytest.raises(UsageError, match="how much stays"):
        nw.prune(model, data[0][:2])
    with pytest.raises(UsageError, match="how much stays"):
        nw.sparsify(model, data[0][:2])


def test_given_densities_need_no_budget(model, data):
    pruned = nw.prune(model, data[0][:2], allocation={"stem.weight": 0.25, "middle.weight": 0.25})
    # sqrt(0.25) of the channels of both layers.
    assert [kept for kept, _ in pruned.widths.values()] == [4, 4]


def test_a_latency_has_no_stages(model, splits):
    with pytest.raises(UsageError, match="even steps"):
        nw.prune(model, splits.example(), "latency=0.5", schedule="iterative", data=splits)


def test_densities_that_cannot_shrink_far_enough_are_named(model, data):
    with pytest.raises(BudgetError, match="uniform-plus"):
        nw.prune(model, data[0][:2], "params=0.1", allocation="uniform-plus", round_to=1)


def test_what_is_registered_is_in_the_matrix():
    assert set(list_allocations()) <= set(channel_allocations())
    assert isinstance(find_granularity("block:3x2"), Block)
    assert {"snip", "grasp", "synflow", "fisher", "taylor", "obs", "learned", "crop"} <= set(IMPORTANCES)
