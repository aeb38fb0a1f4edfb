"""Budgets: exact counts and draws against looking at every choice, repair, refusals."""

from __future__ import annotations

import collections
import itertools
import random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.nas.spaces import generator, spaces, uniform

from netwright.errors import BudgetError, UsageError
from netwright.nas import Additive, Categorical, Float, Ordinal, SearchSpace, counting
from netwright.nas.windows import Window


def priced(space: SearchSpace, seed: int, pairs: int = 2) -> Additive:
    """Random costs of every dim, and of some pairs of dims."""
    draw = random.Random(seed)
    names = [dim.name for dim in space.dims]

    def values(name: str) -> list[object]:
        dim = space.dim(name)
        while hasattr(dim, "to"):
            dim = space.dim(dim.to)
        return list(dim.each())

    terms: dict[str | tuple[str, ...], dict[object, float]] = {
        name: {value: draw.randrange(6) for value in values(name)} for name in names
    }
    together = list(itertools.combinations(names, 2))
    for pair in draw.sample(together, min(pairs, len(together))):
        terms[pair] = {key: draw.randrange(4) for key in itertools.product(*map(values, pair))}
    return Additive(terms, base=3)


def by_hand(space: SearchSpace, cost: Additive) -> dict[object, int]:
    """Choice -> its cost, from the tables alone."""
    costs = {}
    for choice in space.enumerate():
        active = set(space.active(choice))
        total = cost.base
        for names, table in cost.terms.items():
            names = (names,) if isinstance(names, str) else names
            if set(names) <= active:
                key = tuple(choice[n] for n in names)
                total += table[key if len(names) > 1 else key[0]]
        costs[choice] = total
    return costs


def chain() -> tuple[SearchSpace, Additive]:
    """Layers that cost what comes in by what goes out, the third of which can be left out."""
    widths = (2, 3, 5)
    space = SearchSpace(
        [
            Ordinal("a", widths),
            Ordinal("b", widths),
            Ordinal("keep", (False, True)),
            Ordinal("c", widths, active_if=("keep", True)),
        ]
    )
    return space, Additive(
        {("a", "b"): lambda a, b: a * b, ("b", "c"): lambda b, c: b * c, "a": {2: 2, 3: 3, 5: 5}}
    )


@settings(max_examples=120)
@given(spaces(functions=True), st.integers(0, 10**6), st.integers(0, 12), st.integers(0, 8))
def test_counts_are_those_of_looking_at_every_choice(
    space: SearchSpace, seed: int, start: int, width: int
) -> None:
    cost = priced(space, seed)
    costs = by_hand(space, cost)
    lo, hi = cost.base + start, cost.base + start + width
    inside = {choice for choice, c in costs.items() if lo <= c <= hi}
    within = space.constrained(cost, lo, hi)
    if not inside:
        with pytest.raises(BudgetError, match=f"from {min(costs.values())} to {max(costs.values())}"):
            within.size()
        return
    assert within.size() == len(inside)
    listed = list(within.enumerate())
    assert set(listed) == inside and len(listed) == len(inside)
    assert within.cost(within.min()) == min(costs[c] for c in inside)
    assert within.cost(within.max()) == max(costs[c] for c in inside)
    assert all(within.cost(choice) == costs[choice] for choice in inside)
    assert within.sample(generator(seed)) in inside


@settings(max_examples=60)
@given(spaces(), st.integers(0, 10**6), st.booleans())
def test_all_that_is_made_is_inside_the_window(space: SearchSpace, seed: int, additive: bool) -> None:
    cost = priced(space, seed)
    costs = by_hand(space, cost)
    middle = sorted(costs.values())[len(costs) // 2]
    within = space.constrained(cost if additive else lambda c: costs[c], middle - 1, middle + 1, tries=3)
    inside = {choice for choice, c in costs.items() if abs(c - middle) <= 1}
    assume(len(inside) > 1)
    rng = generator(seed)
    a, b = within.sample(rng), within.sample(rng, "choices")
    try:
        made = [within.sample(rng, "dims"), within.mutate(a, rng, 0.5), within.crossover(a, b, rng)]
    except BudgetError:  # a repair only goes towards the window, and three tries are few
        assert not additive
        made = []
    for choice in [a, b, *made, *within.neighbours(a)]:
        assert choice in inside and choice in within
    assert set(within.neighbours(a)) == set(space.neighbours(a)) & inside
    assert within.size() == len(inside)


def test_a_chain_of_layers_is_drawn_uniformly() -> None:
    space, cost = chain()
    within = space.constrained(cost, 15, 35)
    inside = [c for c in space.enumerate() if 15 <= within.cost(c) <= 35]
    assert 10 < len(inside) == within.size() < space.size()
    by_rejection = space.constrained(within.cost, 15, 35)
    assert set(by_rejection.enumerate()) == set(inside)
    for drawn_from in (within, by_rejection):
        rng = generator(2)
        drawn = collections.Counter(drawn_from.sample(rng, "choices") for _ in range(3000))
        assert drawn.keys() == set(inside) and uniform(drawn, len(inside))


def test_where_sums_are_too_many_draws_stay_uniform(monkeypatch: pytest.MonkeyPatch) -> None:
    space = SearchSpace([Ordinal(f"d{i}", range(4)) for i in range(5)])
    prices = random.Random(0)
    cost = Additive({d.name: {v: prices.randrange(10_000) for v in range(4)} for d in space.free}, base=7)
    exact = space.constrained(cost, 20_000, 22_000)
    inside = set(exact.enumerate())
    rounded = space.constrained(cost, 20_000, 22_000)
    monkeypatch.setattr(counting, "MOST_COSTS", 40)
    monkeypatch.setattr("netwright.nas.windows._BINS", 40)
    window = rounded._window
    assert isinstance(window, Window) and not window.exact
    rng = generator(3)
    drawn = collections.Counter(rounded.sample(rng) for _ in range(20 * len(inside)))
    assert drawn.keys() == inside and uniform(drawn, len(inside))
    assert rounded.min() in inside and rounded.max() in inside
    with pytest.raises(UsageError, match="coarser unit"):
        rounded.size()
    with pytest.raises(BudgetError):
        space.constrained(cost, 10**6, 10**7).sample(rng)


def test_a_tight_window_is_reached_by_repair_in_the_order_asked() -> None:
    names = [f"heads{i}" for i in range(12)] + [f"ffn{i}" for i in range(12)]
    space = SearchSpace([Ordinal("embed", (1, 2, 3))] + [Ordinal(n, (2, 3, 4, 5)) for n in names])
    seen: list[int] = []

    def macs(choice: object) -> int:
        return choice["embed"] * sum(choice[n] for n in names)

    within = space.constrained(macs, 120, 121, order=[["heads*", "ffn*"]], tries=2)
    rng = generator()
    start = space.canonical({**space.max(), "embed": 2})
    for _ in range(10):
        repaired = within.repair(start, rng)
        assert 120 <= macs(repaired) <= 121
        seen.append(repaired["embed"])
        assert 120 <= macs(within.sample(rng)) <= 121
    patient = space.constrained(macs, 120, 121, order=[["heads*", "ffn*"]], tries=1000)
    assert all(patient.repair(start, rng)["embed"] == 2 for _ in range(5))
    assert 120 <= macs(within.min()) <= 121 and 120 <= macs(within.max()) <= 121


def test_what_is_shrunk_keeps_what_comes_later_in_the_order() -> None:
    space = SearchSpace([Ordinal("embed", range(1, 6))] + [Ordinal(f"ffn{i}", range(1, 9)) for i in range(8)])

    def macs(choice: object) -> int:
        return choice["embed"] * sum(choice[f"ffn{i}"] for i in range(8))

    within = space.constrained(macs, 97, 100, order=[["ffn*"]])
    rng = generator()
    drawn = [within.shrunk(rng) for _ in range(200)]
    assert all(97 <= macs(choice) <= 100 for choice in drawn)
    embeds = collections.Counter(choice["embed"] for choice in drawn)
    assert embeds.keys() == {2, 3, 4, 5} and min(embeds.values()) > 25, "1 is too small, the rest as likely"
    widths = [choice["ffn0"] for choice in drawn if choice["embed"] == 2]
    assert 5 <= sum(widths) / len(widths) <= 7


def test_what_cannot_be_met_is_told_with_the_nearest() -> None:
    space, cost = chain()
    with pytest.raises(BudgetError, match="costs are from 6 to 55"):
        space.constrained(cost, 100, 200).sample(generator())
    with pytest.raises(BudgetError, match="nearest costs 55"):
        space.constrained(space.constrained(cost).cost, 100, 200).sample(generator())
    for make in (
        lambda: space.constrained(cost, 3, 2),
        lambda: space.constrained(cost, 3, 9, order=[["kernel*"]]),
        lambda: space.constrained(cost, 3, 9, tries=0),
        lambda: space.constrained(cost, 3, 9).constrained(cost, 3, 9),
        lambda: space.constrained({"a": {2: 1}}).size(),
        lambda: space.constrained({"a": {2: 1.5, 3: 1, 5: 1}}).size(),
        lambda: space.constrained({"z": {2: 1}}).size(),
        lambda: space.constrained(lambda c: 1).to_json(),
        lambda: space.constrained(cost).to_json(),
        lambda: SearchSpace([Float("x", 0, 1)]).constrained({}, 0, 1).size(),
    ):
        with pytest.raises(UsageError):
            make()


def test_a_window_goes_to_json_and_along_with_other_dims() -> None:
    space, _ = chain()
    tables = {
        "a": {2: 1, 3: 2, 5: 3},
        ("b", "c"): {k: sum(k) for k in itertools.product((2, 3, 5), repeat=2)},
    }
    within = space.constrained(tables, 2, 7, order=[["a"]])
    again = SearchSpace.from_json(within.to_json())
    assert again == within and again.size() == within.size()
    extra = SearchSpace([Categorical("optimizer", ("sgd", "adamw"))])
    assert (within + extra).size() == (extra + within).size() == 2 * within.size()
