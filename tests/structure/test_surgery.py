"""Details of the surgery: ties, attributes, caches, replays, and what the checks catch."""

from __future__ import annotations

import copy

import pytest
import torch
from tests.structure.nets import Net, conv, exact
from tests.structure.networks import SMALL
from torch import nn

from netwright.errors import StructureError
from netwright.structure import check, replay, shrink, trace
from netwright.testing.surgery import draw_keep, randomise

IMAGE = (2, 3, 6, 6)


def chain() -> nn.Sequential:
    torch.manual_seed(0)
    return randomise(
        nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 6), nn.ReLU(), conv(6, 5))
    ).eval()


def shrunk(model: nn.Module, shape: tuple[int, ...] = IMAGE):
    net = trace(model, torch.randn(shape))
    keep = draw_keep(net)
    return net, keep, shrink(model, net, keep)


def test_tied_parameters_stay_tied() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c, self.d = (
                nn.Linear(6, 8),
                nn.Linear(8, 8),
                nn.Linear(8, 8),
                nn.Linear(8, 5),
            )
            self.c.weight = self.b.weight

        def forward(self, x):
            return self.d(self.c(self.b(self.a(x)).relu()).relu())

    model = randomise(Tied()).eval()
    net, keep, small = shrunk(model, (2, 6))
    assert small.model.c.weight is small.model.b.weight
    assert small.model.b.bias is not small.model.c.bias
    assert check(model, net, keep, small.model).error < 1e-12
    assert sum(p.numel() for p in small.model.parameters()) == net.cost(keep).params


def test_a_module_under_two_names_stays_one() -> None:
    part = conv(8, 8)
    model = nn.Sequential(conv(3, 8), part, nn.ReLU(), part, conv(8, 5))
    _, _, small = shrunk(model)
    assert small.model[1] is small.model[3]
    assert list(small.model.state_dict()) == list(model.state_dict())


def test_gradient_flags_dtypes_and_buffers_survive() -> None:
    model = chain().half()
    model[0].weight.requires_grad_(False)
    model.register_buffer("table", torch.arange(8), persistent=False)
    _, _, small = shrunk(model.float()[0:6])
    assert not small.model[0].weight.requires_grad and small.model[0].bias.requires_grad
    model = chain().double()
    net = trace(model, torch.randn(IMAGE, dtype=torch.float64))
    assert {p.dtype for p in shrink(model, net, draw_keep(net)).model.parameters()} == {torch.float64}


def test_caches_that_a_forward_fills_are_left_alone() -> None:
    class Cached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.cache = nn.Linear(6, 8), nn.Linear(8, 5), {}

        def forward(self, x):
            self.cache["last"] = self.a(x)
            return self.b(self.cache["last"])

    model = Cached().eval()
    net, _keep, small = shrunk(model, (2, 6))
    assert model.cache == {} and small.model.cache == {}
    model(torch.randn(2, 6))
    net = trace(model, torch.randn(2, 6))
    assert model.cache["last"].device.type == "cpu"
    exact(model, net)


def test_a_factor_that_is_a_tensor_is_undone_too() -> None:
    model = randomise(
        Net(
            lambda m, x: m.b(m.a(x) / torch.tensor(m.a.out_features).sqrt()),
            a=nn.Linear(6, 8),
            b=nn.Linear(8, 5),
        )
    )
    net = trace(model.eval(), torch.randn(2, 6))
    keep = draw_keep(net)
    small = shrink(model, net, keep)
    assert check(model, net, keep, small.model, scales=small.scales, kept=small.kept).error < 1e-12
    assert small.scales


def test_a_size_may_be_written_in_a_part() -> None:
    class Part(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden, self.c = 8, nn.Linear(8, 4)

        def forward(self, x):
            return self.c(x)

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.part, self.d = nn.Linear(6, 14), Part(), nn.Linear(6, 4)

        def forward(self, x):
            state, rest = self.a(x).split([self.part.hidden, self.a.out_features - self.part.hidden], -1)
            return (self.part(state) + self.d(rest)).sum(1)

    model = randomise(Whole()).eval()
    net, _keep, small = shrunk(model, (2, 3, 6))
    assert small.how == "in place" and small.model.part.hidden == small.model.part.c.in_features < 8
    exact(model, net)


def test_caches_of_an_earlier_pass_are_dropped() -> None:
    class Cached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.cache = nn.Linear(6, 8), nn.Linear(8, 5), {}
            self.bias = nn.Parameter(torch.randn(8))

        def train(self, mode: bool = True):
            self.cache = {} if mode else self.cache
            return super().train(mode)

        def forward(self, x):
            return self.b(self.a(x) + self.cache.setdefault(str(x.device), self.bias.exp()))

    model = Cached().eval()
    with torch.no_grad():
        model(torch.randn(2, 6))
    _net, _keep, small = shrunk(model, (2, 6))
    assert model.cache and not small.model.training
    assert small.model(torch.randn(2, 6)).shape == (2, 5)


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
def test_weight_norm_of_the_old_style() -> None:
    model = Net(lambda m, x: m.b(m.c(m.a(x))), a=conv(3, 8), c=nn.utils.weight_norm(conv(8, 7)), b=conv(7, 5))
    net = trace(randomise(model).eval(), torch.randn(IMAGE))
    assert [axis.name for axis in net.prunable] == ["a", "c.weight_v"]
    exact(model, net)


def test_attributes_that_repeat_a_size_follow() -> None:
    class Sized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.width, self.sizes = 8, (3, 5)
            self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(3, 4), nn.Linear(5, 4)

        def forward(self, x):
            first, second = self.a(x).view(-1, self.width).split(self.sizes, -1)
            return self.b(first) + self.c(second)

    model = randomise(Sized()).eval()
    _net, _keep, small = shrunk(model, (2, 6))
    kept = small.model
    assert kept.width == kept.a.out_features == sum(kept.sizes) < 8
    assert kept.sizes == (kept.b.in_features, kept.c.in_features) and isinstance(kept.sizes, tuple)
    assert small.attributes[""] == {"width": kept.width, "sizes": kept.sizes}
    assert model.width == 8 and model.sizes == (3, 5)


def test_parts_of_one_size_in_a_tuple_are_told_apart_by_place() -> None:
    class Sized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.sizes = [4, 4, 8]
            self.a, self.b, self.c, self.d = (
                nn.Linear(6, 16),
                nn.Linear(4, 3),
                nn.Linear(4, 3),
                nn.Linear(8, 3),
            )

        def forward(self, x):
            first, second, third = self.a(x).split(self.sizes, -1)
            return self.b(first) + self.c(second) + self.d(third)

    model = randomise(Sized()).eval()
    net = trace(model, torch.randn(2, 6))
    keep = net.everything.clone()
    for axis, stays in zip(net.prunable, (1, 3, 4), strict=True):
        keep[axis.cells[0, stays:]] = False
    small = shrink(model, net, keep).model
    assert small.sizes == [1, 3, 4]
    assert check(model, net, keep, small).error < 1e-12


def test_a_replay_on_another_copy_takes_the_saved_weights() -> None:
    model = chain()
    _, _, small = shrunk(model)
    again = replay(chain(), small.kept, small.attributes, small.adopted)
    again.load_state_dict(small.model.state_dict(), strict=True)
    x = torch.randn(IMAGE)
    assert torch.equal(again(x), small.model(x))
    assert again[0].out_channels == small.model[0].out_channels


def test_a_replay_on_another_architecture_is_refused() -> None:
    _, _, small = shrunk(chain())
    with pytest.raises(StructureError, match="the model has no parameter"):
        replay(nn.Sequential(nn.ReLU()), small.kept, small.attributes, small.adopted)
    other = nn.Sequential(conv(3, 2), nn.BatchNorm2d(2), nn.ReLU(), conv(2, 2), nn.ReLU(), conv(2, 5))
    with pytest.raises(StructureError, match=r"has 2 indices along dimension 0, index \d was kept"):
        replay(other, small.kept, small.attributes, small.adopted)
    with pytest.raises(StructureError, match="the model has no module attention"):
        replay(chain(), small.kept, small.attributes, ["attention"])


def test_the_check_finds_a_wrong_slice() -> None:
    model = chain()
    net, keep, small = shrunk(model)
    assert check(model, net, keep, small.model).error < 1e-12
    wrong = copy.deepcopy(small.model)
    with torch.no_grad():
        wrong[3].weight.copy_(wrong[3].weight.flip(1))
    assert check(model, net, keep, wrong).error > 1e-3
    with torch.no_grad():
        wrong[3].weight.fill_(float("nan"))
    assert check(model, net, keep, wrong).error == float("inf")


def test_the_check_sees_another_temperature() -> None:
    torch.manual_seed(0)
    model, example = SMALL["transformer encoder"]()
    model = randomise(model).eval()
    net = trace(model, example)
    keep = draw_keep(net)
    small = shrink(model, net, keep).model
    assert check(model, net, keep, small).error < 1e-12
    small.encoder.layers[0].self_attn.scale *= 1.1
    assert check(model, net, keep, small).error > 1e-6


def test_a_changed_number_of_outputs_is_an_error() -> None:
    model = chain()
    net, keep, _ = shrunk(model)
    with pytest.raises(StructureError, match="returns 2 tensors, the dense one 1"):
        check(model, net, keep, Net(lambda m, x: (x, x)))


def test_branches_of_training_shrink_too() -> None:
    class Auxiliary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.aux = conv(3, 8), conv(8, 5), conv(8, 4)

        def forward(self, x):
            x = self.a(x)
            return (self.b(x), self.aux(x)) if self.training else self.b(x)

    model = Auxiliary()
    net, _keep, small = shrunk(model)
    assert "branches that run only in training were recorded too" in net.notes
    assert small.model.aux.in_channels == small.model.b.in_channels < 8
    small.model.train()(torch.randn(IMAGE))


def test_branches_of_training_that_cannot_run_are_told() -> None:
    class Auxiliary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.aux = conv(3, 8), conv(8, 5), conv(8, 4, 9)

        def forward(self, x):
            x = self.a(x)
            return (self.b(x), self.aux(x)) if self.training else self.b(x)

    net = trace(Auxiliary(), torch.randn(IMAGE))
    assert any("could not be recorded" in note for note in net.notes)


def test_unused_parameters_are_told_and_left() -> None:
    model = chain()
    model.spare = nn.Linear(8, 8)

    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.spare = chain(), nn.Linear(8, 8)

        def forward(self, x):
            return self.used(x)

    net, _, small = shrunk(Skip())
    assert any("2 parameters are not used by the forward pass" in note for note in net.notes)
    assert small.model.spare.weight.shape == (8, 8)
    assert net.params == sum(p.numel() for p in Skip().used.parameters())


def test_models_whose_forward_needs_values_are_recorded_for_real() -> None:
    def forward(m, x):
        y = m.a(x)
        return m.b(y * 2 if float(y.sum()) > -1e9 else y)

    model = randomise(Net(forward, a=conv(3, 8), b=conv(8, 5))).eval()
    net = trace(model, torch.randn(IMAGE))
    assert net.recording.real and [a.name for a in net.prunable] == ["a"]
    exact(model, net)


def test_a_deep_network_is_no_deeper_problem() -> None:
    layers = [layer for _ in range(400) for layer in (nn.Linear(4, 4), nn.ReLU())]
    model = nn.Sequential(*layers, nn.Linear(4, 2))
    net = trace(model, torch.randn(1, 4))
    assert len(net.prunable) == 400
    assert all(p.shape[0] < 4 for p in shrink(model, net, draw_keep(net)).model.parameters())


def test_windowed_attention_shrinks_with_its_heads() -> None:
    from torchvision.models.swin_transformer import SwinTransformer

    model = SwinTransformer([2, 2], 24, [1, 1], [2, 4], [2, 2], num_classes=5).eval()
    net = trace(model, torch.randn(2, 3, 16, 16))
    exact(randomise(model), net)


def test_windowed_attention_shrinks_around_its_heads() -> None:
    from torchvision.models.swin_transformer import SwinTransformer

    model = randomise(SwinTransformer([2, 2], 24, [2, 2], [2, 4], [2, 2], num_classes=5)).eval()
    net = trace(model, torch.randn(2, 3, 16, 16), exclude=["*.attn"])
    assert len(net.prunable) == 4  # the inner widths of the four blocks
    exact(model, net)
