from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netwright.errors import BudgetError
from netwright.structure.budget import Budget, Limit

shares = st.floats(1e-6, 1.0, exclude_min=True).map(lambda v: Limit(v, True))
counts = st.one_of(shares, st.integers(2, 10**13).map(lambda v: Limit(float(v), False)))
times = st.one_of(shares, st.floats(1e-4, 1e6).map(lambda v: Limit(v, False)))
accuracies = st.one_of(
    st.floats(-0.999, 1.0).map(lambda v: Limit(v, True)), st.floats(1e-6, 1.0).map(lambda v: Limit(v, False))
)
budgets = st.builds(
    Budget,
    keep=st.none() | shares,
    macs=st.none() | counts,
    params=st.none() | counts,
    latency=st.none() | times,
    size=st.none() | counts,
    accuracy=st.none() | accuracies,
)


@given(budgets)
def test_the_printed_budget_parses_to_itself(budget: Budget) -> None:
    again = Budget.parse(str(budget))
    assert again == budget
    assert str(again) == str(budget)
    assert hash(again) == hash(budget)


@pytest.mark.parametrize(
    ("text", "name", "limit"),
    [
        ("latency<=0.5", "latency", Limit(0.5, True)),
        ("latency=8ms", "latency", Limit(8.0, False)),
        ("latency = 8 ms", "latency", Limit(8.0, False)),
        ("latency<=250us", "latency", Limit(0.25, False)),
        ("latency<=0.5s", "latency", Limit(500.0, False)),
        ("latency=40%", "latency", Limit(0.4, True)),
        ("8 ms", "latency", Limit(8.0, False)),
        ("macs=0.5", "macs", Limit(0.5, True)),
        ("macs=300M", "macs", Limit(3e8, False)),
        ("macs<=300 M macs", "macs", Limit(3e8, False)),
        ("300 M macs", "macs", Limit(3e8, False)),
        ("300M macs", "macs", Limit(3e8, False)),
        ("2M params", "params", Limit(2e6, False)),
        ("params=1.5G", "params", Limit(1.5e9, False)),
        ("macs=300000000", "macs", Limit(3e8, False)),
        ("macs=300_000_000", "macs", Limit(3e8, False)),
        ("size=2MB", "size", Limit(2e6, False)),
        ("2 MiB", "size", Limit(2.0**21, False)),
        ("size<=500kB", "size", Limit(5e5, False)),
        ("keep=0.5", "keep", Limit(0.5, True)),
        ("accuracy>=-1%", "accuracy", Limit(-0.01, True)),
        ("accuracy>=−1%", "accuracy", Limit(-0.01, True)),
        ("accuracy≥-0.01", "accuracy", Limit(-0.01, True)),
        ("accuracy>=0.9", "accuracy", Limit(0.9, False)),
        ("accuracy=90%", "accuracy", Limit(0.9, False)),
        ("accuracy>=0", "accuracy", Limit(0.0, True)),
    ],
)
def test_reads(text: str, name: str, limit: Limit) -> None:
    assert Budget.parse(text).limits == {name: limit}


def test_reads_several_parts() -> None:
    budget = Budget.parse(" latency<=0.5 , accuracy >= -1% ")
    assert str(budget) == "latency<=0.5, accuracy>=-0.01"
    assert Budget.parse(budget) is budget


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", "empty part"),
        ("latency<=0.5,", "empty part"),
        ("speed=2", "'speed'"),
        ("fast", "'fast'"),
        ("latency", "'latency'"),
        ("latency=", "missing"),
        ("latency<=8", "needs a unit"),
        ("latency<=8MB", "'MB' is not a unit of latency"),
        ("macs=-1", "share"),
        ("macs=0", "share"),
        ("macs=120%", "share"),
        ("macs>=0.5", "at most"),
        ("accuracy<=0.9", "at least"),
        ("accuracy>=-1", "fraction"),
        ("accuracy>=9000", "fraction"),
        ("keep=2", "share"),
        ("macs=0.5, macs=0.4", "twice"),
        ("macs=abc", "'abc'"),
        ("macs=nan", "'nan'"),
        ("size=2 cats", "'cats'"),
        ("8 dogs", "'8 dogs'"),
    ],
)
def test_a_malformed_budget_names_the_part_and_shows_a_right_one(text: str, names: str) -> None:
    with pytest.raises(BudgetError) as caught:
        Budget.parse(text)
    assert names in caught.value.message
    assert caught.value.hint
    assert "\n" not in str(caught.value)


@given(st.text(max_size=30))
def test_any_text_parses_or_is_refused_with_a_budget_error(text: str) -> None:
    try:
        budget = Budget.parse(text)
    except BudgetError as error:
        assert error.hint
    else:
        assert Budget.parse(str(budget)) == budget


def test_numbers_and_text_as_arguments() -> None:
    assert Budget(macs=0.5).macs == Limit(0.5, True)
    assert Budget(macs=3e8).macs == Limit(3e8, False)
    assert Budget(latency="8 ms").latency == Limit(8.0, False)
    assert Budget(accuracy=-0.01).accuracy == Limit(-0.01, True)
    assert Budget(accuracy="-1%").accuracy == Limit(-0.01, True)
    assert not Budget()
    assert str(Budget()) == "none"
    for wrong in (
        {"latency": 8.0},
        {"keep": 1.5},
        {"macs": float("nan")},
        {"macs": True},
        {"keep": Limit(0.5, False)},
    ):
        with pytest.raises(BudgetError):
            Budget(**wrong)


def test_misses() -> None:
    budget = Budget.parse("latency<=0.5, macs<=100, accuracy>=-1%")
    assert budget.misses("latency", 4.0, 8.0) == 0.0
    assert budget.misses("latency", 6.0, 8.0) == pytest.approx(0.5)
    assert budget.misses("macs", 150, 1000) == pytest.approx(0.5)
    assert budget.misses("accuracy", 0.90, 0.91) == 0.0
    assert budget.misses("accuracy", 0.89, 0.91) == pytest.approx(0.01)
    assert budget.misses("size", 1e9, 1.0) == 0.0
