"""The plan: what a study chooses from."""

from __future__ import annotations

import pytest
import torch

import netwright as nw
from netwright.errors import UsageError
from netwright.shaping.plan import Plan, make_plan
from netwright.structure.budget import Budget

EXAMPLE = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def plan(*, labelled: bool = True, recovery: int = 1, **choices: list[str]) -> Plan:
    model = nw.models.load("resnet8", num_classes=10, in_channels=1, image_size=8).model.eval()
    budget = Budget.parse("none")
    return make_plan(
        model, EXAMPLE, budget, labelled=labelled, examples=100, recovery=recovery, choices=choices
    )


@pytest.mark.parametrize(("labelled", "recovery"), [(True, 1), (True, 0), (False, 0), (False, 1)])
def test_every_choice_can_be_carried_out_with_the_data_there_are(labelled: bool, recovery: int) -> None:
    space = plan(labelled=labelled, recovery=recovery).space
    model = nw.models.load("resnet8", num_classes=10, in_channels=1, image_size=8).model.eval()
    data = nw.data.load("digits", limit=64)
    part = data.train if labelled else torch.cat([x for x, _ in data.train.batches(64)])
    for allocation in space.allocation:
        for importance in space.importance:
            for repair in space.repair:
                small = nw.prune(
                    model,
                    EXAMPLE,
                    Budget(macs=0.5),
                    allocation=allocation,
                    importance=importance,
                    repair=repair,
                    data=part,
                )
                assert small.after.macs <= 0.5 * small.before.macs


def test_the_ladder_takes_the_first_of_every_choice() -> None:
    space = plan().space
    shrunk = [c for c in space.ladder() if not c.dense]
    assert {(c.allocation, c.importance, c.repair, c.schedule) for c in shrunk} == {
        (space.allocation[0], space.importance[0], space.repair[0], space.schedule[0])
    }
    assert len({c.share for c in shrunk}) >= 5


def test_the_user_limits_the_choices() -> None:
    space = plan(importance=["fpgm", "taylor", "fpgm"], schedule=["iterative"]).space
    assert space.importance == ("fpgm", "taylor")
    assert space.schedule == ("iterative",)
    assert space.allocation == plan().space.allocation
    with pytest.raises(UsageError, match="there is no importance guess"):
        plan(importance=["guess"])
    with pytest.raises(UsageError, match="nothing to choose"):
        plan(colour=["red"])
