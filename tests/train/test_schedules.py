from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netwright.train import SCHEDULES, factor


@given(
    schedule=st.sampled_from(SCHEDULES),
    steps=st.integers(1, 500),
    warmup=st.integers(0, 50),
    data=st.data(),
)
def test_factor_is_a_positive_share(schedule: str, steps: int, warmup: int, data: st.DataObject) -> None:
    step = data.draw(st.integers(0, steps - 1))
    assert 0 < factor(schedule, step, steps, warmup) <= 1


def test_cosine_is_half_in_the_middle_and_falls() -> None:
    values = [factor("cosine", step, 101) for step in range(101)]
    assert values[50] == pytest.approx(0.5)
    assert values == sorted(values, reverse=True)
    assert values[-1] < 1e-3


def test_step_divides_by_ten_twice() -> None:
    values = [factor("step", step, 100) for step in range(100)]
    assert values[0] == 1
    assert values[60] == pytest.approx(0.1)
    assert values[90] == pytest.approx(0.01)


def test_step_falls_where_it_is_told_to() -> None:
    values = [factor("step", step, 100, 0, (0.2, 0.64), 0.5) for step in range(100)]
    assert [values[k] for k in (19, 20, 63, 64, 99)] == [1, 0.5, 0.5, 0.25, 0.25]


def test_one_cycle_peaks_at_three_tenths() -> None:
    values = [factor("one-cycle", step, 100) for step in range(100)]
    assert 28 <= values.index(max(values)) <= 31
    assert values[0] < 0.05
    assert values[-1] < 1e-3


def test_warmup_rises_evenly_to_the_peak() -> None:
    values = [factor("constant", step, 20, warmup=4) for step in range(6)]
    assert values == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1])
