"""Spaces: what counts, what is the same, what comes back, what stays inside."""

from __future__ import annotations

import collections
import pickle

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.nas.spaces import every, generator, spaces, uniform

from netwright.errors import UsageError
from netwright.nas import (
    Categorical,
    Choice,
    Float,
    Int,
    Ordinal,
    SearchSpace,
    Subset,
    Tied,
    at_least,
    equals,
)
from netwright.nas.encoding import Kind

KINDS: tuple[Kind, ...] = ("onehot", "masked-onehot", "ordinal", "unit")
SEEDS = st.integers(0, 2**31)


def blocks() -> SearchSpace:
    """A network of one to three blocks, each of its own kernel, the last with a tied width."""
    dims = [Ordinal("depth", (1, 2, 3)), Ordinal("width", (8, 16))]
    for i in (1, 2, 3):
        dims.append(Ordinal(f"kernel{i}", (3, 5, 7), active_if=at_least("depth", i)))
        dims.append(Tied(f"width{i}", "width", active_if=at_least("depth", i)))
    return SearchSpace(dims)


@settings(max_examples=150)
@given(spaces(functions=True))
def test_the_size_is_that_of_every_combination_made_canonical(space: SearchSpace) -> None:
    listed = list(space.enumerate())
    assert len(set(listed)) == len(listed) == space.size()
    assert set(listed) == every(space)
    assert [space.at(i) for i in range(len(listed))] == listed


@settings(max_examples=60)
@given(spaces(functions=True), SEEDS)
def test_what_is_drawn_and_changed_stays_canonical_and_inside(space: SearchSpace, seed: int) -> None:
    rng = generator(seed)
    inside = set(space.enumerate())
    a, b = space.sample(rng), space.sample(rng, "choices")
    made = [a, b, space.min(), space.max(), space.mutate(a, rng, 0.5), space.crossover(a, b, rng)]
    for choice in made:
        assert choice in inside and choice in space
        assert space.canonical(choice) == choice and space.key(choice) == choice.key
    assert space.mutate(a, rng, 0) == a and space.crossover(a, b, rng, 0) == a


@settings(max_examples=60)
@given(spaces(functions=True))
def test_neighbours_are_symmetric_and_differ(space: SearchSpace) -> None:
    near = {choice: set(space.neighbours(choice)) for choice in space.enumerate()}
    for choice, others in near.items():
        assert choice not in others
        assert all(choice in near[other] for other in others)
    if all(dim.count == 1 for dim in space.free):
        assert not any(near.values())


@settings(max_examples=60)
@given(spaces(functions=True), SEEDS, st.sampled_from(KINDS))
def test_a_choice_comes_back_from_its_encoding(space: SearchSpace, seed: int, kind: Kind) -> None:
    choice = space.sample(generator(seed))
    vector = space.encode(choice, kind)
    assert space.decode(vector, kind) == choice
    assert len(space.columns(kind)) == len(vector) and vector.dtype == np.float64
    assert kind == "ordinal" or (vector.min() >= 0 and vector.max() <= 1)


@settings(max_examples=60)
@given(spaces(), SEEDS)
def test_spaces_and_choices_come_back_from_json(space: SearchSpace, seed: int) -> None:
    again = SearchSpace.from_json(space.to_json())
    assert again == space and again.size() == space.size()
    choice = space.sample(generator(seed))
    assert again.choice(choice.to_json()) == choice == pickle.loads(pickle.dumps(choice))
    assert again.key(choice) == choice.key


@settings(max_examples=40)
@given(spaces(functions=True), SEEDS)
def test_choices_become_optuna_parameters_and_back(space: SearchSpace, seed: int) -> None:
    choice = space.sample(generator(seed))
    full, active = space.to_params(choice, inactive=True), space.to_params(choice)
    assert full.keys() == space.distributions().keys()
    for name, distribution in space.distributions().items():
        assert distribution._contains(distribution.to_internal_repr(full[name]))
    assert set(active) == set(space.active(choice)) & set(full)
    assert space.from_params(full) == space.from_params(active) == choice
    trial = optuna.trial.FixedTrial(active)
    assert space.suggest(trial) == choice and trial.params == active


def test_masked_entries_are_zero_where_a_dim_does_not_matter() -> None:
    space = blocks()
    choice = space.canonical({"depth": 1, "width": 16, "kernel1": 5})
    masked = dict(
        zip(space.columns("masked-onehot"), space.encode(choice, "masked-onehot").tolist(), strict=True)
    )
    assert {name for name, entry in masked.items() if entry} == {"depth=1", "width=16", "kernel1=5"}
    assert space.encode(choice, "onehot").sum() == len(space.free)


def test_what_does_not_matter_does_not_tell_choices_apart() -> None:
    space = blocks()
    a = space.canonical({"depth": 2, "width": 8, "kernel1": 3, "kernel2": 7, "kernel3": 5})
    b = space.canonical({"depth": 2, "width": 8, "kernel1": 3, "kernel2": 7})
    assert a == b and hash(a) == hash(b) and a.key == b.key and len({a, b}) == 1
    assert a["width2"] == 8 and space.active(a) == (
        "depth", "width", "kernel1", "width1", "kernel2", "width2",
    )  # fmt: skip
    assert space.size() == 2 * (3 + 9 + 27)
    assert space.min()["depth"] == 1 and space.max()["kernel3"] == 7


def test_a_key_is_the_same_in_every_process() -> None:
    choice = Choice({"c": None, "a": "x", "b": [1, np.float64(2.5)]})
    # sha256sum of {"a":"x","b":[1,2.5],"c":null}
    assert choice.key == "d4e43e22b6a28dd3a20a43125043d036"


def test_the_vision_transformer_space_counts_exactly() -> None:
    dims = []
    for stage in range(3):
        dims.append(Ordinal(f"embed{stage}", (1, 2, 3, 4, 5)))
        for block in range(6):
            keep = ("keep", True) if block % 2 else None
            if keep:
                keep = (f"keep{stage}_{block}", True)
                dims.append(Ordinal(keep[0], (False, True)))
            dims.append(Ordinal(f"heads{stage}_{block}", (3, 4, 5, 6), active_if=keep))
            dims.append(Ordinal(f"ffn{stage}_{block}", range(384, 769, 64), active_if=keep))
    space = SearchSpace(dims)
    assert space.size() == (5 * 28**3 * 29**3) ** 3
    assert space.sample(generator(), "choices") in space


def test_draws_are_uniform_over_what_was_asked() -> None:
    space = blocks()
    rng = generator(1)
    choices = collections.Counter(space.sample(rng, "choices") for _ in range(4000))
    assert uniform(choices, space.size())
    depths = collections.Counter(space.sample(rng, "dims")["depth"] for _ in range(3000))
    assert uniform(depths, 3)
    assert not uniform(collections.Counter(space.sample(rng, "dims") for _ in range(4000)), space.size())


def test_a_mutation_changes_as_many_dims_as_asked() -> None:
    space = SearchSpace([Ordinal(f"d{i}", range(4)) for i in range(50)] + [Ordinal("flip", (False, True))])
    rng, start = generator(), space.min()
    mutants = [space.mutate(start, rng, 0.3) for _ in range(400)]
    changed = np.mean([sum(m[f"d{i}"] != 0 for i in range(50)) for m in mutants])
    assert changed == pytest.approx(50 * 0.3 * 3 / 4, rel=0.05)
    assert np.mean([m["flip"] for m in mutants]) == pytest.approx(0.3, abs=0.07)
    half = np.mean([sum(space.crossover(start, space.max(), rng).values()) for _ in range(400)])
    assert half == pytest.approx(sum(space.max().values()) / 2, rel=0.05)


def test_floats_are_drawn_encoded_and_kept_in_their_range() -> None:
    space = SearchSpace([Float("lr", 1e-4, 1e-1, log=True), Float("wd", 0, 1)])
    rng = generator()
    drawn = [space.sample(rng) for _ in range(500)]
    assert np.mean([c["lr"] < 10**-2.5 for c in drawn]) == pytest.approx(0.5, abs=0.07)
    for choice in drawn[:20]:
        assert space.decode(space.encode(choice, "ordinal"), "ordinal") == choice
        back = space.decode(space.encode(choice, "unit"), "unit")
        assert back["lr"] == pytest.approx(choice["lr"]) and back["wd"] == pytest.approx(choice["wd"])
        assert len(list(space.neighbours(choice))) in (2, 3, 4)
        assert space.from_params(space.to_params(choice)) == choice
    assert SearchSpace.from_json(space.to_json()) == space
    for refused in (space.size, space.enumerate, lambda: space.sample(rng, "choices")):
        with pytest.raises(UsageError, match="lr"):
            refused()


def test_large_dims_are_not_listed() -> None:
    space = SearchSpace([Int("number", 0, 2**40), Subset("pick", 100, 50)])
    assert space.size() == (2**40 + 1) * 100891344545564193334812497256
    choice = space.sample(generator(), "choices")
    assert choice in space and len(choice["pick"]) == 50
    assert space.decode(space.encode(choice, "unit"), "unit") == choice
    with pytest.raises(UsageError, match="entries"):
        space.encode(choice, "onehot")
    with pytest.raises(UsageError, match="too many for Optuna"):
        space.distributions()


def test_spaces_are_put_together() -> None:
    both = blocks() + SearchSpace([Categorical("optimizer", ("sgd", "adamw"))])
    assert both.size() == 2 * blocks().size() and both.dim("optimizer").count == 2
    with pytest.raises(UsageError, match="two dims"):
        blocks() + blocks()


def test_tpe_sees_conditions_and_what_it_proposes_is_read() -> None:
    space = blocks()
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
    study.enqueue_trial(space.to_params(space.max()))
    study.optimize(lambda trial: space.suggest(trial)["depth"], n_trials=15)
    first = study.trials[0]
    assert space.from_params(first.params) == space.max() and first.value == 3
    assert all(("kernel3" in t.params) == (t.params["depth"] == 3) for t in study.trials)


@pytest.mark.parametrize(
    "make",
    [
        lambda: SearchSpace([]),
        lambda: SearchSpace([Int("a", 0, 3), Int("a", 0, 3)]),
        lambda: SearchSpace([Int("a", 0, 3, active_if=equals("b", 1)), Int("b", 0, 3)]),
        lambda: SearchSpace([Tied("b", "a"), Int("a", 0, 3)]),
        lambda: Ordinal("a", (3, 1)),
        lambda: Ordinal("a", ()),
        lambda: Categorical("a", ("x", "x")),
        lambda: Categorical("a", (float("nan"), 1)),
        lambda: Categorical("a", ({}, 1)),
        lambda: Int("a", 3, 1),
        lambda: Float("a", 0, 1, log=True),
        lambda: Subset("a", 2, 3),
        lambda: Int("a", 0, 3, active_if=7),
        lambda: Int("", 0, 3),
        lambda: blocks().canonical({"depth": 4, "width": 8}),
        lambda: blocks().canonical({"depth": 1, "width": 8}),
        lambda: blocks().canonical({"depth": 1, "width": 8, "kernel1": 3, "other": 1}),
        lambda: blocks().at(blocks().size()),
        lambda: blocks().sample(generator(), "everything"),
        lambda: blocks().encode(blocks().min(), "binary"),
        lambda: blocks().decode(np.zeros(3), "unit"),
        lambda: blocks().from_params({"depth": 1}),
        lambda: SearchSpace.from_json("[]"),
        lambda: SearchSpace.from_json('{"dims": [{"kind": "Nothing"}]}'),
        lambda: SearchSpace([Int("a", 0, 1), Int("b", 0, 1, active_if=lambda c: True)]).to_json(),
        lambda: SearchSpace([Categorical("a", (int, str))]).to_json(),
    ],
)
def test_what_makes_no_sense_is_refused(make: object) -> None:
    with pytest.raises(UsageError):
        make()
