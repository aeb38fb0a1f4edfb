"""Poolings that move, mixtures of supernets, and the routing that keeps them balanced."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from torch import nn

from netwright import supernets
from netwright.data import load
from netwright.errors import UsageError
from netwright.models.zoo.pooled_resnet import pooled_resnet
from netwright.structure import trace
from netwright.supernets import BalancedRouter, Mixture, Supernets
from netwright.supernets.network.pool_mixing import flows
from netwright.supernets.samplers.routing import balance, divergence, replay
from netwright.supernets.training.bilevel import Bilevel
from netwright.train import Recipe


def _cost(model, x):
    net = trace(model, x)
    return net.cost(net.everything)


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    model = pooled_resnet(layers=7, in_channels=1).eval()
    return model, supernets.elastic(model, torch.zeros(2, 1, 16, 16), pool=2).eval()


@pytest.fixture(scope="module")
def digits():
    data = load("digits")
    train = data.train
    return dataclasses.replace(data, train=train.head(96), val=train.subset(range(96, 196)))


def test_there_are_as_many_places_as_the_papers_layers(small):
    _, sup = small
    assert sup.space.size() == 15
    assert sup.choice["pool"] == (
        2,
        4,
    )  # as in the network
    published = supernets.elastic(pooled_resnet(layers=10), torch.zeros(2, 3, 32, 32), pool=2)
    assert published.space.size() == 36
    costs = published.costs(list(published.space.enumerate()))
    assert set(costs[:, 1].tolist()) == {270_906}
    assert published.cost({"pool": (3, 6)}).macs == 40_813_184  # [4, 3, 3]
    assert published.cost({"pool": (6, 7)}).macs == 91_144_832  # [7, 1, 2]


def test_a_choice_is_the_network_with_its_poolings_there(small):
    model, sup = small
    x = torch.randn(5, 1, 16, 16)
    seen = set()
    for positions in itertools.combinations(range(6), 2):
        own = pooled_resnet([p + 1 for p in positions], 7, in_channels=1).eval()
        own.load_state_dict(model.state_dict())
        sup.set({"pool": positions})
        assert torch.equal(sup(x), own(x))
        cut = sup.extract()
        assert torch.equal(cut(x), own(x))
        assert sup.cost() == _cost(cut, x) == _cost(own, x)
        assert not any(type(m).__module__.startswith("netwright.supernets") for m in cut.modules())
        seen.add(sup.cost().macs)
    assert len(seen) > 5  # a pooling earlier is cheaper
    sup.set({})
    assert torch.equal(sup(x), model(x))


def test_poolings_go_with_widths_and_resolutions_in_networks_of_others():
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    sup = supernets.elastic(
        torchvision.models.resnet18(num_classes=7).eval(),
        torch.zeros(2, 3, 64, 64),
        pool=5,
        width=[0.5, 1.0],
        resolution=[32, 64],
    )
    assert len(sup.blueprint.poolings.paths) == 8
    rng = np.random.default_rng(0)
    for _ in range(3):
        choice = sup.space.sample(rng)
        x = torch.randn(2, 3, *[choice["resolution"]] * 2)
        cut = sup.eval().extract(choice)
        torch.testing.assert_close(cut(x), sup.set(choice)(x))
        assert sup.cost(choice) == _cost(cut, x)


def test_poolings_of_a_plain_network_and_its_flat_head():
    torch.manual_seed(0)
    layers = []
    for a, b, stride in ((3, 8, 1), (8, 8, 2), (8, 8, 1), (8, 8, 2)):
        layers += [nn.Conv2d(a, b, 3, stride, 1), nn.BatchNorm2d(b), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * 16, 5)).eval()
    x = torch.randn(2, 3, 16, 16)
    sup = supernets.elastic(model, x, pool=2).eval()
    assert sup.space.size() == 3
    for choice in sup.space.enumerate():
        cut = sup.extract(choice)
        torch.testing.assert_close(cut(x), sup.set(choice)(x))
    with pytest.raises(UsageError, match="does not run with 1 poolings"):
        supernets.elastic(model, x, pool=1)  # the head is of images that were halved twice


def test_what_cannot_move_is_refused(small):
    model, sup = small
    x = torch.zeros(2, 1, 16, 16)
    with pytest.raises(UsageError, match="7 poolings do not fit in front of 6 layers"):
        supernets.elastic(model, x, pool=7)
    with pytest.raises(UsageError, match="no step of stride 2"):
        supernets.elastic(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3)), x, pool=1)
    with pytest.raises(UsageError, match="no sum of tables"):
        supernets.cost_tables(sup)
    with pytest.raises(UsageError, match="pool and depth"):
        supernets.elastic(model, x, pool=2, depth=True)
    with pytest.raises(UsageError, match="cannot differ within a batch"):
        pair = [{"pool": (0, 1)}, {"pool": (0, 2)}]
        sup.set_many(pair, torch.tensor([0, 1]))(x)


def test_balancing_is_sinkhorns_iteration():
    generator = torch.Generator().manual_seed(0)
    for rows, columns, heat in ((36, 4, 20.0), (15, 2, 50.0), (15, 8, 5.0)):
        raw = torch.softmax(heat * torch.rand(rows, columns, generator=generator, dtype=torch.float64), dim=1)
        balanced, divided = balance(raw, 1e-4)
        assert divided
        torch.testing.assert_close(balanced.sum(dim=1), torch.ones(rows, dtype=torch.float64))
        assert divergence(balanced.mean(dim=0)) <= 1e-4
        assert torch.equal(replay(raw, divided), balanced)
        # Of all scalings diag(u) P diag(v) one has row sums 1 and column sums A / M.
        exact, _ = balance(raw, 1e-14)
        u, v = np.ones(rows), np.ones(columns)
        for _ in range(5_000):
            v = rows / columns / (raw.numpy().T @ u)
            u = 1 / (raw.numpy() @ v)
        np.testing.assert_allclose(exact.numpy(), u[:, None] * raw.numpy() * v, atol=1e-6)


def test_a_hot_router_assigns_each_path_to_one_supernet_all_as_loaded():
    generator = torch.Generator().manual_seed(1)
    quality = 0.5 + 0.3 * torch.rand(36, 4, generator=generator, dtype=torch.float64)
    quality[:, 0] += 0.2  # without balancing it takes them all
    raw = torch.softmax(600 * quality, dim=1)
    assert int(raw.argmax(dim=1).bincount(minlength=4)[0]) > 25
    balanced, _ = balance(raw)
    assert float(balanced.amax(dim=1).mean()) > 0.9
    loads = balanced.argmax(dim=1).bincount(minlength=4)
    assert int(loads.min()) >= 7 and int(loads.max()) <= 11


def _mixed(count):
    torch.manual_seed(0)
    model = pooled_resnet(layers=7, widths=(4,) * 7, in_channels=1)
    return supernets.elastic(model, torch.zeros(2, 1, 8, 8), pool=2, store=Mixture(count))


def _recipe(epochs):
    return Recipe(
        epochs=epochs, batch_size=32, lr=0.1, weight_decay=0.0, augment=False, precision="fp32", seed=0
    )


def test_one_supernet_is_always_routed_to(digits):
    router = BalancedRouter(digits.val, batch_size=50)
    supernets.train(_mixed(1), digits, _recipe(2), sampler=router)
    assert torch.equal(router.probabilities(), torch.ones(15, 1, dtype=torch.float64))
    assert int(router.counts.sum()) == 6
    assert torch.equal(router.quality != 1.0, router.counts > 0)  # only what was trained was looked at


def test_a_step_trains_one_supernet_and_judges_it_by_validation(digits):
    sup = _mixed(3)
    first = [p.clone() for p in sup.members[0].parameters()]
    assert not torch.equal(first[0], next(sup.members[1].parameters()))
    before = [{n: p.clone() for n, p in m.network.named_parameters()} for m in sup.members]
    router = BalancedRouter(digits.val, ema=0.75, batch_size=100)
    fitted = supernets.train(
        sup, dataclasses.replace(digits, train=digits.train.head(32)), _recipe(1), sampler=router
    )
    (where,) = router.counts.nonzero().tolist()
    path, member = where
    after = fitted.model
    assert isinstance(after, Supernets)
    for number, (old, new) in enumerate(zip(before, after.members, strict=True)):
        moved = any(not torch.equal(old[n], p) for n, p in new.network.named_parameters())
        assert moved == (number == member)
    share = supernets.accuracies(after, digits.val, [router.paths[path]])[0, member]
    expected = 0.75 * 1.0 + 0.25 * float(share)  # one batch holds the whole validation split here
    assert float(router.quality[path, member]) == pytest.approx(expected, abs=1e-9)


def test_the_schedule_and_the_marginals_are_the_papers(digits):
    router = BalancedRouter(digits.val, batch_size=50, seed=3)
    supernets.train(_mixed(2), digits, _recipe(4), sampler=router)
    assert [router.heat(e) for e in range(4)] == pytest.approx([1.0, 34.0, 67.0, 100.0])
    state = router.state_dict()
    again = BalancedRouter(digits.val, batch_size=50, seed=3)
    supernets.train(_mixed(2), digits, _recipe(4), sampler=again)
    assert torch.equal(again.quality, state["quality"]) and torch.equal(again.counts, state["counts"])
    fresh = BalancedRouter(digits.val, batch_size=50, seed=3)
    fresh.attach(_mixed(2))
    fresh.load_state_dict(state)
    fresh.steps, fresh.per_epoch = router.steps, router.per_epoch
    assert torch.equal(fresh.probabilities(), router.probabilities())


def test_a_router_needs_a_mixture(small, digits):
    _, sup = small
    with pytest.raises(UsageError, match=r"store=supernets\.Mixture"):
        BalancedRouter(digits.val).attach(sup)
    with pytest.raises(UsageError, match="1 or more"):
        Mixture(0).of(sup)


def test_a_mixture_is_saved_and_loaded_whole():
    sup, other = _mixed(2), _mixed(2)
    for p in sup.parameters():
        p.data.normal_()
    other.load_state_dict(sup.state_dict())
    x = torch.randn(2, 1, 8, 8)
    for member in range(2):
        assert torch.equal(sup.use(member)(x), other.use(member)(x))
    assert not torch.equal(sup.use(0)(x), sup.use(1)(x))


def test_a_mixture_of_places_is_the_network_where_all_weight_is_on_it(small):
    _, sup = small
    x = torch.randn(4, 1, 16, 16)
    places = list(sup.space.dim("pool").each())
    uneven = torch.full((15,), 1e-9, dtype=torch.float64)
    for number in (0, 7, 14):
        expected = sup.set({"pool": places[number]})(x)
        torch.testing.assert_close(sup.set_mixture({"pool": torch.eye(15)[number]})(x), expected)
        weights = uneven.clone()
        weights[number] = 1 - 14e-9  # goes through the whole grid
        torch.testing.assert_close(sup.set_mixture({"pool": weights})(x), expected, atol=1e-4, rtol=1e-4)
    sup.set({})


def test_the_flow_through_the_grid_is_that_of_the_networks():
    places = list(itertools.combinations(range(6), 2))
    weights = torch.rand(15, dtype=torch.float64).softmax(0)
    rows = flows(weights, places, 6)
    for layer, row in enumerate(rows):
        assert sum(float(a + b) for a, b in row.values()) == pytest.approx(1)  # all go through every layer
        here = sum(float(w) for w, p in zip(weights, places, strict=True) if layer in p)
        assert sum(float(b) for _, b in row.values()) == pytest.approx(here)
    assert sorted(rows[0]) == [0, 1] and sorted(rows[-1]) == [2]


def test_places_are_searched_by_gradient(digits):
    torch.manual_seed(0)
    sup = supernets.elastic(pooled_resnet(layers=7, in_channels=1), torch.zeros(2, 1, 8, 8), pool=2)
    weights = torch.full((15,), 1 / 15, requires_grad=True)
    x, y = next(digits.train.batches(32))
    nn.functional.cross_entropy(sup.set_mixture({"pool": weights})(x), y).backward()
    assert (weights.grad != 0).all()
    sampler = supernets.GradientAlpha("darts", 0, lr=0.1)
    recipe = Recipe(epochs=2, batch_size=32, lr=0.05, precision="fp32", augment=False)
    paths = Bilevel(sampler, held=digits.val)
    fitted = supernets.train(sup, digits, recipe, paths=paths, device="cpu")
    assert sampler.favoured()["pool"] in set(sup.space.dim("pool").each())
    assert sampler.probabilities()["pool"].std() > 1e-3 and len(sampler.history) == 2
    assert fitted.model is not None


def test_places_are_mixed_only_where_layers_follow_one_another():
    sizes = ((3, 8, 1), (8, 8, 2), (8, 8, 1), (8, 8, 2))
    layers = [m for a, b, s in sizes for m in (nn.Conv2d(a, b, 3, s, 1), nn.ReLU())]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    sup = supernets.elastic(model, torch.randn(2, 3, 16, 16), pool=2)
    with pytest.raises(UsageError, match="follow one another"):
        sup.set_mixture({"pool": torch.full((3,), 1 / 3)})(torch.randn(2, 3, 16, 16))
    with pytest.raises(UsageError, match="pool has 3 values"):
        sup.set_mixture({"pool": torch.ones(2) / 2})
