"""The front that knows its noise: what it must hold whatever the answers are."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from netwright.errors import UsageError
from netwright.shaping.answers import Answers, judged
from netwright.shaping.candidate import Candidate, Outcome
from netwright.shaping.dominance import NOTICEABLE, front_of, worth_having
from netwright.shaping.noise import mean_difference, share_difference
from netwright.shaping.propose import Record

EXAMPLES = 40


def trial(slot: int, right: torch.Tensor, loss: torch.Tensor, cost: float, size: int, macs: int) -> Record:
    error = 1 - Answers(right, loss).quality
    outcome = Outcome(error=round(error, 9), cost=cost, size=size, macs=macs)
    return Record(slot, Candidate(share=0.5, recovery=slot), outcome)


class Trials:
    """Trials with random answers, few costs and so many ties."""

    def __init__(self, seed: int, count: int) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.answers: dict[int, Answers] = {}
        self.records = []
        for slot in range(count):
            right = torch.rand(EXAMPLES, generator=draw) < 0.8 + 0.2 * torch.rand(1, generator=draw)
            loss = torch.rand(EXAMPLES, generator=draw) * torch.rand(1, generator=draw)
            cost, size, macs = (int(v) for v in torch.randint(1, 6, (3,), generator=draw))
            self.answers[slot] = Answers(right, loss)
            self.records.append(trial(slot, right, loss, cost, size, macs))

    def of(self, record: Record) -> Answers:
        return self.answers[record.slot]


trials = st.builds(Trials, st.integers(0, 2**31), st.integers(0, 14))


@given(trials)
@settings(max_examples=60, deadline=None)
def test_the_plain_front_is_part_of_what_is_shown(found: Trials) -> None:
    members = worth_having(found.records, found.of)
    plain = [r.slot for r in front_of(found.records)]
    assert set(plain) <= {m.record.slot for m in members}
    assert [m.record.slot for m in members if not m.reasons] == plain


@given(trials)
@settings(max_examples=60, deadline=None)
def test_without_noise_only_the_plain_front_is_shown(found: Trials) -> None:
    plain = front_of(found.records)
    assert [m.record for m in worth_having(found.records, found.of, confidence=0.0)] == plain
    unknown = worth_having(found.records)
    assert [m.record for m in unknown] == plain
    assert all(m.like is None and not m.reasons for m in unknown)


@given(trials, st.randoms())
@settings(max_examples=60, deadline=None)
def test_the_order_of_the_trials_does_not_matter(found: Trials, random: object) -> None:
    shuffled = list(found.records)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert worth_having(shuffled, found.of) == worth_having(found.records, found.of)


@given(trials)
@settings(max_examples=60, deadline=None)
def test_whatever_goes_is_beaten_by_something_that_stays(found: Trials) -> None:
    """By one as cheap and accurate, than which it is known better in nothing, or surely less accurate."""
    members = {m.record.slot for m in worth_having(found.records, found.of)}
    for record in found.records:
        if record.slot in members:
            continue
        mine, answers = record.outcome, found.of(record)
        assert mine is not None

        def beats(other: Record, mine: Outcome = mine, answers: Answers = answers) -> bool:
            its = other.outcome
            if its is None or its.cost > mine.cost or its.error > mine.error:
                return False
            if share_difference(answers.right, found.of(other).right).high <= 0:
                return True
            smaller = mine.size < its.size * (1 - NOTICEABLE) or mine.macs < its.macs * (1 - NOTICEABLE)
            return not smaller and mean_difference(answers.loss, found.of(other).loss).high >= 0

        assert any(beats(r) for r in found.records if r.slot in members)


def answered(wrong: int, loss: float = 0.1) -> Answers:
    """Answers of which the first few are wrong, with a loss that differs a little from one to the next."""
    right = torch.arange(400) >= wrong
    return Answers(right, loss + 0.01 * torch.sin(torch.arange(400.0)))


@pytest.mark.parametrize(
    ("second", "size", "macs", "reasons"),
    [
        (answered(3), 100, 100, None),  # nothing speaks for it
        (answered(3), 97, 97, None),  # a little smaller is no reason
        (answered(3), 50, 100, ("smaller file",)),
        (answered(3), 100, 50, ("less arithmetic",)),
        (answered(3, loss=0.05), 100, 100, ("lower loss",)),
        (answered(3, loss=0.05), 50, 50, ("smaller file", "less arithmetic", "lower loss")),
        (answered(40, loss=0.05), 50, 50, None),  # surely less accurate: nothing can speak for it
    ],
)
def test_what_speaks_for_a_network_that_a_cheaper_one_beats_by_luck(
    second: Answers, size: int, macs: int, reasons: tuple[str, ...] | None
) -> None:
    first = answered(2)
    known = {0: first, 1: second}
    records = [
        trial(0, first.right, first.loss, cost=1.0, size=100, macs=100),
        trial(1, second.right, second.loss, cost=2.0, size=size, macs=macs),
    ]
    members = worth_having(records, lambda r: known[r.slot])
    assert members[0].record.slot == 0
    if reasons is None:
        assert len(members) == 1
    else:
        assert [m.reasons for m in members] == [(), reasons]
        assert members[1].like == records[0]


def test_a_more_accurate_network_is_marked_only_where_it_may_be_luck() -> None:
    lucky, better = answered(8), answered(1)
    known = {0: answered(10), 1: lucky, 2: better}
    records = [trial(i, known[i].right, known[i].loss, i + 1.0, 100, 100) for i in range(3)]
    members = worth_having(records, lambda r: known[r.slot])
    assert [m.reasons for m in members] == [(), (), ()]
    assert [m.like for m in members] == [None, records[0], None]


def test_intervals_are_paired_symmetric_and_hold_their_level() -> None:
    first, second = answered(10).right, answered(4).right
    found, back = share_difference(first, second), share_difference(second, first)
    assert found.value == pytest.approx(-6 / 400)
    assert (found.low, found.high) == pytest.approx((-back.high, -back.low))
    same = share_difference(first, first)
    assert same.low < 0 < same.high, "no disagreement is no proof of equality"
    draw, truth, held = torch.Generator().manual_seed(0), 0.02, 0
    for _ in range(400):
        both = torch.rand(300, generator=draw)
        one = both < 0.97
        other = torch.where(torch.rand(300, generator=draw) < 0.02, ~one, one)
        truth = 0.02 * 0.97 - 0.02 * 0.03
        interval = share_difference(one, other)
        held += interval.low <= truth <= interval.high
    assert held / 400 >= 0.92


def test_mean_difference_is_the_normal_interval() -> None:
    a, b = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0.0, 2.0, 1.0])
    found = mean_difference(a, b)
    half = statistics.NormalDist().inv_cdf(0.975) * statistics.stdev([1.0, 0.0, 3.0]) / 3**0.5
    assert (found.value, found.low, found.high) == pytest.approx((4 / 3, 4 / 3 - half, 4 / 3 + half))
    assert mean_difference(a[:1], b[:1]).low == float("-inf")


@pytest.mark.parametrize("count", [0, 3])
def test_answers_that_cannot_be_paired_are_refused(count: int) -> None:
    with pytest.raises(UsageError, match="cannot be paired"):
        share_difference(torch.ones(count, dtype=torch.bool), torch.ones(2, dtype=torch.bool))
    with pytest.raises(UsageError, match="no chance"):
        mean_difference(torch.ones(2), torch.ones(2), confidence=1.0)


def test_answers_are_judged_by_labels_or_by_the_dense_network(tmp_path: Path) -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]])
    dense = torch.tensor([[2.0, 0.0], [1.0, 0.0], [3.0, 0.0]])
    labels = torch.tensor([0, 1, 1])
    by_label, by_dense = judged(logits, dense, labels), judged(logits, dense, None)
    assert by_label.right.tolist() == [True, True, False]
    assert by_label.loss.tolist() == pytest.approx(
        torch.nn.functional.cross_entropy(logits, labels, reduction="none").tolist()
    )
    assert by_dense.right.tolist() == [True, False, True]
    assert by_dense.loss[0] == by_dense.loss[2] == 0 < by_dense.loss[1]
    path = tmp_path / "answers.safetensors"
    assert Answers.load(path) is None
    by_label.save(path)
    again = Answers.load(path)
    assert again is not None
    assert torch.equal(again.right, by_label.right)
    assert torch.equal(again.loss, by_label.loss)
