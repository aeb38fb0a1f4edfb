"""What cannot go, and the words for it."""

from __future__ import annotations

import copy
import inspect
from pathlib import Path

import pytest
import torch
from tests.structure.nets import Net, conv, exact, pair
from tests.structure.networks import SMALL
from torch import nn

from netwright.errors import BudgetError, ModelError, StructureError, UsageError
from netwright.pruning import prune
from netwright.structure import Inputs, check, shrink, trace
from netwright.structure.rules._base import known, rule
from netwright.structure.sources import place, unknown, why
from netwright.testing.surgery import draw_keep, randomise

IMAGE = (2, 3, 6, 6)


def reasons(net):
    return {axis.name: axis.reason for axis in net.axes if not axis.prunable}


def test_an_operator_without_a_rule_freezes_what_it_touches_and_is_named() -> None:
    model = pair(lambda m, x: torch.special.i0e(m.c(x)), c=conv(8, 8))
    net = trace(model, torch.randn(IMAGE))
    assert "special_i0e" not in known()
    assert [axis.name for axis in net.prunable] == ["a"]  # what it does not touch stays free
    assert reasons(net)["c"] == "operator special_i0e has no rule"
    exact(randomise(model).eval(), net)


def line_of(function, text: str) -> int:
    """The number of the only line of a function's code that has some text in it."""
    code, first = inspect.getsourcelines(function)
    (number,) = [first + i for i, line in enumerate(code) if text in line and "line_of" not in line]
    return number


class Written(nn.Module):
    """Layers whose units freeze in different lines of one forward."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.out = nn.Linear(8, 3)

    def forward(self, x):
        x = self.a(x)
        x = torch.special.i0e(
            x,
        )
        x = self.b(x).cumsum(1)  # not separable
        return self.out(self.c(x))


def test_a_frozen_axis_has_the_line_that_freezes_it() -> None:
    net = trace(Written(), torch.randn(2, 6))
    axes = {axis.name: axis for axis in net.axes}
    assert [axis.name for axis in net.prunable] == ["c"]
    for name, text in [("a", "torch.special.i0e"), ("b", "cumsum"), ("out", "self.out(self.c")]:
        found = place(axes[name].node)
        assert found is not None and Path(found.file) == Path(__file__)
        assert found.line == line_of(Written.forward, text) and text in found.text
        assert why(axes[name]).startswith(f"{axes[name].reason} ({axes[name].node.op}")
        assert f"{found}" in why(axes[name]) and found.text in why(axes[name])
    (node,) = unknown(net)
    assert node.op == "special_i0e" and place(node) == place(axes["a"].node)


def test_every_frozen_axis_of_a_network_names_its_cause() -> None:
    for name in ("resnet18", "vision transformer", "googlenet", "u-net", "gru", "timm convnext"):
        net = trace(*SMALL[name]())
        for axis in net.axes:
            if not axis.prunable and axis.reason != "it has a single member":
                assert axis.reason and axis.node is not None, (name, axis)
                assert place(axis.node) is not None, (name, axis)


def test_layers_in_a_row_have_no_line_of_code() -> None:
    net = trace(nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 3)), torch.randn(2, 6))
    (held,) = [axis for axis in net.axes if axis.reason == "it is an output of the network"]
    assert place(held.node) is None and why(held) == "it is an output of the network (addmm in 1)"


def test_a_budget_that_frozen_axes_forbid_names_them() -> None:
    with pytest.raises(BudgetError, match=r"stays: operator special_i0e has no rule .*test_frozen\.py:\d+"):
        prune(Written(), torch.randn(2, 6), "params=0.2")
    with pytest.raises(StructureError, match=r"no axis of the network can shrink.*special_i0e.*:\d+"):
        prune(Written(), torch.randn(2, 6), 0.5, exclude=["c"])


def test_a_result_says_what_stayed_and_the_line_that_is_why() -> None:
    result = prune(Written(), torch.randn(2, 6), 0.5, round_to=1)
    assert f"test_frozen.py:{line_of(Written.forward, 'cumsum')}" in dict(result.frozen)["b"]


def test_rules_have_the_names_of_operators() -> None:
    # These are names that PyTorch gives in some builds or modes only.
    other = {"batch_norm_with_update", "clamp_tensor", "requires_grad", "view_of"}
    assert {name for name in known() if not hasattr(torch.ops.aten, name)} <= other


def test_what_follows_an_operator_without_a_rule_is_free_again() -> None:
    model = pair(lambda m, x: m.c(torch.special.i0e(x)), c=conv(8, 8))
    assert [axis.name for axis in trace(model, torch.randn(IMAGE)).prunable] == ["c"]


@torch.library.custom_op("netwright_test::mul", mutates_args=())
def another_mul(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """No product: channels are mixed by their order."""
    return x.cumsum(1) + y


@another_mul.register_fake
def _(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


def test_an_operator_of_ones_own_is_not_taken_for_another_of_its_name() -> None:
    model = pair(lambda m, x: another_mul(m.c(x), torch.ones(())), c=conv(8, 8))
    net = trace(model, torch.randn(IMAGE))
    assert "mul" in known() and list(net.labels.unknown) == ["netwright_test::mul"]
    assert reasons(net)["c"] == "operator netwright_test::mul has no rule"
    exact(randomise(model).eval(), net)


def test_two_rules_for_one_operator_are_refused() -> None:
    with pytest.raises(ValueError, match="operator relu has two rules"):
        rule("relu")(lambda walk, node: [[]])


def test_outputs_stay() -> None:
    net = trace(
        Net(lambda m, x: (m.a(x), {"more": [m.b(x)]}), a=conv(3, 8), b=conv(3, 8)), torch.randn(IMAGE)
    )
    assert not net.prunable
    assert reasons(net)["a"] == reasons(net)["b"] == "it is an output of the network"


def test_a_middle_that_is_returned_stays() -> None:
    net = trace(Net(lambda m, x: (m.b(m.a(x)), m.a(x)), a=conv(3, 8), b=conv(8, 5)), torch.randn(IMAGE))
    assert not net.prunable


@pytest.mark.parametrize("pattern", ["0", "0.weight", "0*", "?.weight"])
def test_what_is_excluded_stays(pattern: str) -> None:
    model = nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 7), nn.ReLU(), conv(7, 5))
    net = trace(model, torch.randn(IMAGE), exclude=[pattern])
    names = [axis.name for axis in net.prunable]
    assert "0" not in names and (names == ["2"]) == (pattern != "?.weight")
    assert reasons(net)["0"] == f"excluded by {pattern!r}"


def test_a_name_that_matches_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="exclude='layer9' matches no parameter or module"):
        trace(nn.Linear(3, 3), torch.randn(1, 3), exclude=["layer9"])


def test_unknown_heads_are_refused() -> None:
    with pytest.raises(UsageError, match="heads='half' is not known"):
        trace(nn.Linear(3, 3), torch.randn(1, 3), heads="half")


class TestMasks:
    model = nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 6, groups=2), nn.ReLU(), conv(6, 5))
    net = trace(model, torch.randn(IMAGE))

    def test_a_mask_of_another_length_is_refused(self) -> None:
        with pytest.raises(UsageError, match=r"shape \(3,\), the network has \d+ classes"):
            shrink(self.model, self.net, torch.ones(3, dtype=torch.bool))

    def test_a_frozen_axis_may_not_lose(self) -> None:
        keep = self.net.everything.clone()
        keep[next(a for a in self.net.axes if a.name == "4").cells[0, 0]] = False
        said = r"4 is frozen and cannot lose anything: it is an output of the network \(convolution in 4\)"
        with pytest.raises(UsageError, match=said):
            shrink(self.model, self.net, keep)

    def test_something_must_stay(self) -> None:
        keep = self.net.everything.clone()
        keep[self.net.prunable[0].cells.flatten()] = False
        with pytest.raises(UsageError, match="nothing would stay of 0"):
            shrink(self.model, self.net, keep)

    def test_cells_keep_equal_counts(self) -> None:
        keep = self.net.everything.clone()
        keep[self.net.prunable[0].cells[0, 0]] = False
        with pytest.raises(UsageError, match="the parts of 0 would keep 3 to 4"):
            shrink(self.model, self.net, keep)

    def test_class_0_stays(self) -> None:
        keep = self.net.everything.clone()
        keep[0] = False
        with pytest.raises(UsageError):
            shrink(self.model, self.net, keep)

    def test_keeping_everything_gives_an_equal_copy(self) -> None:
        small = shrink(self.model, self.net, self.net.everything)
        assert small.kept == {} and small.model is not self.model
        assert check(self.model, self.net, self.net.everything, small.model).error == 0


class TestExamples:
    @pytest.mark.parametrize(
        "example",
        [
            torch.randn(2, 6),
            (torch.randn(2, 6), torch.randn(2, 4)),
            [torch.randn(2, 6), torch.randn(2, 4)],
            {"x": torch.randn(2, 6), "y": torch.randn(2, 4), "scale": 2.0},
            Inputs((torch.randn(2, 6),), {"y": torch.randn(2, 4)}),
        ],
        ids=["tensor", "tuple", "list", "dict", "inputs"],
    )
    def test_every_kind_of_example_is_understood(self, example) -> None:
        class Two(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.a, self.c, self.b = nn.Linear(6, 8), nn.Linear(4, 8), nn.Linear(8, 5)

            def forward(self, x, y=None, scale=1.0):
                return self.b(self.a(x).relu() * scale + (0 if y is None else self.c(y)))

        model = Two().eval()
        net = trace(model, example)
        assert [axis.name for axis in net.prunable] == ["a"]
        exact(model, net)

    def test_other_examples_are_refused(self) -> None:
        with pytest.raises(UsageError, match="type int is not understood"):
            trace(nn.Linear(6, 8), 3)

    def test_an_example_that_the_model_rejects(self) -> None:
        with pytest.raises(ModelError, match=r"Linear rejects the example input of shape \(2, 5\)"):
            trace(nn.Linear(6, 8), torch.randn(2, 5))

    def test_a_model_without_a_tensor_to_return(self) -> None:
        with pytest.raises(ModelError, match="returned NoneType, in which there is no tensor"):
            trace(Net(lambda m, x: None), torch.randn(2, 5))

    def test_a_missing_argument(self) -> None:
        with pytest.raises(ModelError, match="rejects the example"):
            trace(nn.Bilinear(3, 3, 2), torch.randn(2, 3))


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_stays(training: bool) -> None:
    model = nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), nn.Dropout(), conv(8, 5)).train(training)
    before = copy.deepcopy(model.state_dict())
    net = trace(model, torch.randn(IMAGE))
    small = shrink(model, net, draw_keep(net)).model
    assert model.training == small.training == training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_a_slice_that_is_written_as_a_number_is_refused_not_moved() -> None:
    for function in (
        lambda x: x[:, 2:6].mean(1),
        lambda x: x[:, :4].mean(1),
        lambda x: x[:, 4:6].amax((2, 3)).sum(1),
    ):
        model = randomise(
            Net(lambda m, x, f=function: f(m.a(x)) + m.a(x).mean((1, 2, 3)).sum(), a=conv(3, 8))
        ).eval()
        net = trace(model, torch.randn(IMAGE))
        keep = net.everything.clone()
        keep[net.prunable[0].cells[0, 0]] = False
        with pytest.raises(StructureError, match="cannot be shrunk in place"):
            shrink(model, net, keep, how="in place")
        try:
            small = shrink(model, net, keep).model
        except StructureError:
            continue
        assert check(model, net, keep, small).error < 1e-10  # by the graph, then exactly


def test_a_size_that_is_written_as_a_number_is_refused_with_its_place() -> None:
    model = nn.Sequential(
        conv(3, 8), nn.ReLU(), Net(lambda m, x: x.view(2, 8, 36)), nn.Flatten(), nn.Linear(288, 5)
    )
    net = trace(model, torch.randn(IMAGE))
    keep = draw_keep(net)
    with pytest.raises(StructureError, match="shape '\\[2, 8, 36\\]' is invalid"):
        shrink(model, net, keep, how="in place")
    small = shrink(model, net, keep)  # the graph's sizes can be rewritten
    assert small.how != "in place" and check(model, net, keep, small.model).error < 1e-10
    net = trace(model, torch.randn(IMAGE), exclude=["0"])
    assert not net.prunable


class Fixed(nn.Module):
    """A size that is written as a number, in a line of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(3, 8), conv(8, 5)

    def forward(self, x):
        x = self.a(x)
        x = torch.cat([x[:, :4], x[:, 4:8]], 1)
        return self.b(x)


def test_a_surgery_that_fails_names_the_line() -> None:
    model = Fixed()
    net = trace(model, torch.randn(IMAGE))
    keep = net.everything.clone()
    keep[net.prunable[0].cells[:, :2]] = False
    with pytest.raises(
        StructureError, match=r"operator \w+ in the model itself, tests/structure/test_frozen\.py:\d+"
    ):
        shrink(model, net, keep, how="in place")
