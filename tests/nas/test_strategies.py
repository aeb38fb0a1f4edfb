"""Strategies as samplers: settings, resuming, what they find, and that a study stays an ordinary one."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest

from netwright.errors import UsageError
from netwright.nas import (
    Choice,
    ConstrainedSpace,
    Float,
    Ordinal,
    SearchSpace,
    StrategySampler,
    at_least,
    search,
)
from netwright.nas.history import Judged, best_first
from netwright.nas.strategies import CoarseToFine, Evolution, Exhaustive, LocalSearch, Random, Strategy


def network() -> SearchSpace:
    dims = [Ordinal("depth", (1, 2, 3, 4))]
    dims += [Ordinal(f"width{i}", range(8), active_if=at_least("depth", i)) for i in (1, 2, 3, 4)]
    return SearchSpace(dims)


def error(choice: Choice) -> float:
    """Least at depth 3 with widths 5, 4, 3."""
    wanted = (5, 4, 3, 0)
    return abs(choice["depth"] - 3) + sum(abs(choice[f"width{i + 1}"] - w) for i, w in enumerate(wanted))


def cost(choice: Choice) -> float:
    return sum(choice[f"width{i}"] for i in range(1, choice["depth"] + 1))


STRATEGIES = {
    "random": Random,
    "exhaustive": Exhaustive,
    "evolution": lambda: Evolution(5, 4, 3, 3),
    "regularised": lambda: Evolution.regularised(5, 3),
    "coarse-to-fine": lambda: CoarseToFine(most=6, skeletons=2),
    "local-search": LocalSearch,
}


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_killed_search_goes_on_with_the_same_proposals(name: str, tmp_path: Path) -> None:
    make = STRATEGIES[name]
    journal = optuna.storages.journal.JournalFileBackend(str(tmp_path / "study.log"))
    path = optuna.storages.JournalStorage(journal)
    whole = search(network(), [error], strategy=make(), trials=18, seed=5)

    class Killed(BaseException):
        pass

    def dying(choice: Choice) -> float:
        if dying.left == 0:
            raise Killed
        dying.left -= 1
        return error(choice)

    for run in (4, 6):
        dying.left = run
        with pytest.raises(Killed):
            search(network(), [dying], strategy=make(), trials=18, seed=5, storage=path)
    resumed = search(network(), [error], strategy=make(), trials=18, seed=5, storage=path)
    assert [t.candidate for t in resumed.trials] == [t.candidate for t in whole.trials]
    other = search(network(), [error], strategy=make(), trials=18, seed=6)
    assert (name == "exhaustive") == (
        [t.candidate for t in other.trials] == [t.candidate for t in whole.trials]
    )


def test_a_search_that_is_longer_begins_with_the_shorter_one() -> None:
    for make in STRATEGIES.values():
        short, long = (search(network(), [error], strategy=make(), trials=n, seed=1) for n in (9, 20))
        assert [t.candidate for t in short.trials] == [t.candidate for t in long.trials[:9]]


def test_exhaustive_search_judges_every_choice_once_and_ends() -> None:
    space = SearchSpace([Ordinal("a", range(4)), Ordinal("b", range(3), active_if=at_least("a", 2))])
    found = search(space, [lambda c: -c["a"]], strategy="exhaustive", trials=1000)
    assert [t.candidate for t in found.trials] == list(space.enumerate()) and len(found.trials) == 8
    study = optuna.create_study(sampler=StrategySampler(Exhaustive(), space))
    study.optimize(lambda trial: space.suggest(trial)["a"], n_trials=1000)
    assert len(study.trials) == 8
    with pytest.raises(UsageError, match="all 8 choices"):
        study.ask(fixed_distributions=space.distributions())


def test_evolution_makes_the_children_it_is_told_to() -> None:
    space = SearchSpace([Ordinal(f"d{i}", range(9)) for i in range(20)])
    strategy = Evolution(20, 5, mutations=6, crossovers=4, p=0.1)
    found = search(space, [lambda c: sum(c.values())], strategy=strategy, trials=60, seed=2)
    choices = [t.candidate for t in found.trials]
    assert len(set(choices)) == 60
    for start in (20, 30, 40, 50):
        ranked = sorted(found.trials[:start], key=lambda t: t.values[0])[:5]
        parents = [t.candidate for t in ranked]
        for child in choices[start : start + 6]:
            assert min(sum(child[n] != p[n] for n in space.depends) for p in parents) <= 8
        for child in choices[start + 6 : start + 10]:
            assert any(
                a != b and all(child[n] in (a[n], b[n]) for n in space.depends)
                for a in parents
                for b in parents
            )


def test_evolution_finds_better_ones_than_random_search_inside_the_budget() -> None:
    space = network().constrained(cost, 6, 9)
    best = {"evolution": [], "random": []}
    for seed in range(5):
        for name, strategy in (("evolution", Evolution(20, 6, 6, 6)), ("random", Random())):
            found = search(space, [error], strategy=strategy, trials=80, seed=seed)
            assert all(6 <= cost(t.candidate) <= 9 for t in found.trials)
            best[name].append(found.best.values[0])
    assert sum(best["evolution"]) < sum(best["random"])


def test_the_first_population_is_drawn_as_told_and_what_was_pruned_is_not_tried_again() -> None:
    space = network().constrained(cost, 6, 9, order=[["width*"]])
    found = search(space, [error], strategy=Evolution(12, start=ConstrainedSpace.shrunk), trials=12)
    assert all(t.candidate in space for t in found.trials)
    plain = search(space, [error], strategy=Evolution(12), trials=12)
    assert [t.candidate for t in found.trials] != [t.candidate for t in plain.trials]
    study = optuna.create_study(
        sampler=StrategySampler(Random(unique=True), SearchSpace([Ordinal("a", (1, 2, 3))]))
    )
    for _ in range(3):
        trial = study.ask()
        trial.suggest_int("a", 1, 3)
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    assert {t.params["a"] for t in study.trials} == {1, 2, 3}


def test_the_old_die_in_regularised_evolution() -> None:
    space = SearchSpace([Ordinal(f"d{i}", range(100)) for i in range(10)])
    strategy = Evolution.regularised(5, 5, p=0.05)
    found = (
        search(space, [lambda c: float(len(ages))], strategy=strategy, trials=30) if (ages := []) else None
    )
    assert found is None

    def worse_and_worse(choice: Choice) -> float:
        ages.append(choice)
        return float(len(ages))

    found = search(space, [worse_and_worse], strategy=strategy, trials=30, seed=1)
    for n in range(5, 30):  # the best alive is always the oldest of the last five
        parent, child = found.trials[n - 5].candidate, found.trials[n].candidate
        assert sum(parent[d] != child[d] for d in space.depends) <= 5


def test_local_search_climbs_to_the_top_and_begins_again() -> None:
    found = search(network(), [error], strategy="local-search", trials=250, seed=0)
    assert found.best.values[0] == 0
    assert len({t.candidate for t in found.trials}) == 250
    top = found.best.number
    near = set(network().neighbours(found.best.candidate))
    after = [t.candidate for t in found.trials[top + 1 :]]
    judged = {t.candidate for t in found.trials}
    restart = next(i for i, c in enumerate(after) if c not in near)
    assert near <= judged and set(after[:restart]) <= near


def test_the_coarse_grid_moves_dims_of_a_kind_together_and_the_rest_stays_near_the_best() -> None:
    space = SearchSpace(
        [Ordinal("resolution", (20, 24, 28))]
        + [Ordinal(f"{kind}{i}", range(10)) for kind in ("width", "kernel") for i in range(4)]
    )

    def wanted(choice: Choice) -> float:
        return (
            sum(abs(choice[f"width{i}"] - 9) + choice[f"kernel{i}"] for i in range(4)) + choice["resolution"]
        )

    found = search(space, [wanted], strategy=CoarseToFine(p=0.1), trials=60)
    coarse = [t.candidate for t in found.trials[:27]]
    assert len(set(coarse)) == 27
    for choice in coarse:
        assert (
            len({choice[f"width{i}"] for i in range(4)}) == 1 == len({choice[f"kernel{i}"] for i in range(4)})
        )
    skeleton = min(found.trials[:27], key=lambda t: t.values).candidate
    assert all(skeleton[f"width{i}"] == 9 and skeleton[f"kernel{i}"] == 0 for i in range(4))
    for trial in found.trials[27:]:
        assert 1 <= sum(trial.candidate[n] != skeleton[n] for n in space.depends) <= 5


def test_coarse_to_fine_mutates_the_best_of_every_budget_inside_it() -> None:
    space = network()
    grid = {"depth": (0, 1), "width*": (0, 0.5, 1)}
    strategy = CoarseToFine(grid, cost=cost, budgets=(5, 20), p=0.3)
    found = search(space, [error], strategy=strategy, trials=40)
    coarse = [t for t in found.trials if t.number < 6]
    assert {t.candidate["depth"] for t in coarse} == {1, 4}
    fine = found.trials[6:]
    assert all(cost(t.candidate) <= (5, 20)[i % 2] for i, t in enumerate(fine))
    assert any(cost(t.candidate) > 5 for t in fine)
    with pytest.raises(UsageError, match="fits nothing"):
        search(space, [error], strategy=CoarseToFine({"resolution": (0, 1)}), trials=1)


def test_what_is_queued_is_learnt_from_and_costs_no_proposal() -> None:
    space = network()
    plain, queued = (optuna.create_study(sampler=StrategySampler(Exhaustive(), space)) for _ in range(2))
    best = space.canonical({"depth": 3, "width1": 5, "width2": 4, "width3": 3})
    queued.enqueue_trial(space.to_params(best))
    for study, trials in ((plain, 5), (queued, 6)):
        study.optimize(lambda trial: error(space.suggest(trial)), n_trials=trials)
    assert space.from_params(queued.trials[0].params) == best and queued.best_value == 0
    assert [t.params for t in queued.trials[1:]] == [t.params for t in plain.trials]


def test_batches_differ_and_failures_do_not_repeat() -> None:
    space = network()
    study = optuna.create_study(sampler=StrategySampler(Evolution(4, 2, 2, 2), space, seed=3))
    for _ in range(4):
        batch = [study.ask(fixed_distributions=space.distributions()) for _ in range(4)]
        choices = [space.suggest(trial) for trial in batch]
        assert len(set(choices)) == 4
        for trial, choice in zip(batch[1:], choices[1:], strict=True):
            study.tell(trial, error(choice))
        study.tell(batch[0], state=optuna.trial.TrialState.FAIL)
    judged = [
        space.from_params(t.params) for t in study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
    ]
    assert len(set(judged)) == len(judged) == 12


def test_several_processes_propose_different_things_where_told_so() -> None:
    space = network()
    for shared in (False, True):
        study = optuna.create_study()
        first, second = (StrategySampler(Random(), space, shared=shared) for _ in range(2))
        choices = []
        for sampler in (first, second, first, second):
            study.sampler = sampler
            choices.append(space.suggest(study.ask()))
        assert (len(set(choices)) == 4) == shared


def test_threads_propose_different_things() -> None:
    space = network()
    study = optuna.create_study(sampler=StrategySampler(Exhaustive(), space))
    study.optimize(lambda trial: error(space.suggest(trial)), n_trials=30, n_jobs=3)
    judged = [space.from_params(t.params) for t in study.trials]
    assert set(judged) == {space.at(i) for i in range(30)}


def test_maximised_studies_are_maximised() -> None:
    space = network()
    sampler = StrategySampler(LocalSearch(), space)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.optimize(lambda trial: -error(space.suggest(trial)), n_trials=150)
    assert study.best_value == 0


@pytest.mark.parametrize("strategy", ["random", "evolution", "local-search", "tpe", "nsga2"])
def test_constraints_are_kept_and_seen(strategy: str) -> None:
    def narrow(choice: Choice) -> float:
        return cost(choice) - 8

    found = search(
        network(), [error, cost], strategy=strategy, constraint={"cost": narrow}, trials=25, seed=1
    )
    assert any(t.violation for t in found.trials) and found.front
    for trial in found.trials:
        assert trial.violation == max(cost(trial.candidate) - 8, 0)
    assert all(cost(t.candidate) <= 8 for t in found.front) and cost(found.best.candidate) <= 8
    if hasattr(optuna.trial.Trial, "set_constraint"):
        feasible = {t.number for t in found.trials if not t.violation}
        assert {t.number for t in found.study.best_trials} <= feasible
    assert search(network(), [error], constraint=lambda c: 1, trials=3).best_so_far == [float("inf")] * 3


def test_the_best_come_first_those_that_break_constraints_last() -> None:
    choice = network().min()
    values = [(3.0, 3.0), (1.0, 4.0), (2.0, 2.0), (4.0, 1.0), (0.0, 0.0), (9.0, 9.0), (1.5, 3.0)]
    judged = [Judged(choice, v, violation=float(v == (0.0, 0.0))) for v in values]
    ordered = [j.values for j in best_first(judged)]
    assert set(ordered[:4]) == {(1, 4), (2, 2), (4, 1), (1.5, 3)} and set(ordered[:2]) == {(1, 4), (4, 1)}
    assert ordered[4:] == [(3, 3), (9, 9), (0, 0)]
    assert [j.values for j in best_first([Judged(choice, (v,)) for v in (2.0, 1.0, 3.0)])] == [
        (1,),
        (2,),
        (3,),
    ]


def test_a_space_of_floats_can_be_evolved() -> None:
    space = SearchSpace([Float("x", -1, 1), Float("y", 0.01, 1, log=True)])
    strategy = Evolution(10, 5, 5, 5)
    found = search(space, [lambda c: c["x"] ** 2 + c["y"]], strategy=strategy, trials=40)
    assert found.best_so_far[-1] < found.best_so_far[9]


def test_a_strategy_of_ones_own_is_a_strategy() -> None:
    class Least(Strategy):
        def propose(self, history: object) -> Choice:
            return self.space.min()

    found = search(network(), [error], strategy=Least(), trials=3)
    assert {t.candidate for t in found.trials} == {network().min()}


@pytest.mark.parametrize(
    "make",
    [
        lambda: Evolution(0),
        lambda: Evolution(5, 5, 0, 0),
        lambda: Evolution(parents=0),
        lambda: CoarseToFine(most=0),
        lambda: CoarseToFine(budgets=(3,)),
        lambda: search(network(), [error], strategy="oracle"),
        lambda: search(network(), [error], constraint=lambda c: float("nan"), trials=1),
        lambda: search(network(), [error], constraint=3, trials=1),
        lambda: search(Anything(), [error], strategy="evolution", trials=1),
        lambda: search(Anything(), [error], strategy=Evolution(), trials=1),
    ],
)
def test_what_makes_no_sense_is_refused(make: object) -> None:
    with pytest.raises(UsageError):
        make()


class Anything:
    def suggest(self, trial: object) -> float:
        return 1.0


def test_unique_draws_are_different_ones_of_the_space() -> None:
    space = network()
    found = search(space, [error], strategy=Random("choices", unique=True), trials=40)
    assert len({t.candidate for t in found.trials}) == 40
    assert all(t.candidate in space for t in found.trials)


@pytest.mark.parametrize("strategy", ["random", "tpe"])
def test_what_leaves_the_window_breaks_a_constraint(strategy: str) -> None:
    space = network().constrained(cost, 6, 9)
    found = search(space, [error], strategy=strategy, trials=20)
    for trial in found.trials:
        assert trial.violation == max(cost(trial.candidate) - 9, 6 - cost(trial.candidate), 0)
    assert (strategy == "random") == (not any(t.violation for t in found.trials))
    assert 6 <= cost(found.best.candidate) <= 9
