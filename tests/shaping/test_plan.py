"""The plan: what a study chooses from."""

from __future__ import annotations

import itertools

import pytest
import torch

import netwright as nw
from netwright.errors import StructureError, UsageError
from netwright.shaping.audition import audition
from netwright.shaping.candidate import AUTO
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
    made = plan(labelled=labelled, recovery=recovery)
    ways = made.ways or tuple(itertools.product(made.space.allocation, made.space.importance))
    model = nw.models.load("resnet8", num_classes=10, in_channels=1, image_size=8).model.eval()
    data = nw.data.load("digits", limit=64)
    part = data.train if labelled else torch.cat([x for x, _ in data.train.batches(64)])
    for allocation, importance in ways:
        for repair in made.space.repair:
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


def test_an_audition_takes_the_closest_to_the_dense_network_and_leaves_out_what_fails() -> None:
    data = nw.data.load("digits", limit=64)
    dense = nw.models.load("resnet8", num_classes=10, in_channels=1, image_size=8).model.eval()
    reference = nw.train.logits(dense, data.train, device="cpu")
    shares = {"uniform": 0.2, "global": 0.9, "cost-aware": 0.5}

    def cut(allocation: str, importance: str) -> nw.pruning.Pruned:
        if importance == "obs":
            raise StructureError("cannot", "do something else")
        return nw.prune(dense, EXAMPLE, Budget(macs=shares[allocation]), repair="none")

    ways = [(a, i) for a in shares for i in ("obs", "magnitude")]
    found = [
        float(
            torch.nn.functional.kl_div(
                nw.train.logits(cut(a, "magnitude").model, data.train, device="cpu").log_softmax(1),
                reference.log_softmax(1),
                reduction="batchmean",
                log_target=True,
            )
        )
        for a in shares
    ]
    chosen = audition(ways, cut, data.train, reference)
    assert (chosen.allocation, chosen.importance) == (list(shares)[found.index(min(found))], "magnitude")
    assert audition([("uniform", "taylor")], cut, data.train, reference).importance == "taylor"
    with pytest.raises(StructureError, match="cannot"):
        audition([("uniform", "obs")], cut, data.train, reference)


def test_the_ladder_takes_the_first_of_every_choice() -> None:
    space = plan().space
    shrunk = [c for c in space.ladder() if not c.dense]
    assert {(c.allocation, c.importance, c.repair, c.schedule) for c in shrunk} == {
        (space.allocation[0], space.importance[0], space.repair[0], space.schedule[0])
    }
    assert len({c.share for c in shrunk}) >= 5


def test_the_user_limits_the_choices() -> None:
    made = plan(importance=["fpgm", "taylor", "fpgm"], schedule=["iterative"])
    assert {i for _, i in made.ways} == {"fpgm", "taylor"}
    assert {a for a, _ in made.ways} == {a for a, _ in plan().ways}
    assert made.space.schedule == ("iterative",)
    assert made.space.importance == (AUTO,)
    one = plan(importance=["fpgm"], allocation=["global"])
    assert one.ways == ()
    assert (one.space.allocation, one.space.importance) == (("global",), ("fpgm",))
    untrained = plan(recovery=0)
    assert untrained.ways == ()
    assert len(untrained.space.importance) > 1
    with pytest.raises(UsageError, match="there is no importance guess"):
        plan(importance=["guess"])
    with pytest.raises(UsageError, match="nothing to choose"):
        plan(colour=["red"])
