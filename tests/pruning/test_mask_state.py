"""Masks go wherever their network goes, and hold whatever happens to it."""

import copy
import io

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from netwright.errors import ArtefactError, UsageError
from netwright.pruning import MaskState, Sparsity, bake
from netwright.pruning.masks.selection import Masks
from netwright.pruning.schedules.schedule import Custom, Event
from netwright.train import Average

X = torch.randn(16, 6, generator=torch.Generator().manual_seed(1))
Y = torch.randint(3, (16,), generator=torch.Generator().manual_seed(2))
HARD_AND_SOFT = pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])


class Net(nn.Module):
    """Two layers and a head that shares its weight with the second."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.norm = nn.BatchNorm1d(8)
        self.second = nn.Linear(8, 8)
        self.shared = nn.Linear(8, 8, bias=False)
        self.shared.weight = self.second.weight
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(x)))
        return self.head(torch.relu(self.shared(torch.tanh(self.second(x)))))


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net()


def half(model: nn.Module, seed: int = 0) -> Masks:
    """Masks of half of every matrix, at random, with some of every row left."""
    generator = torch.Generator().manual_seed(seed)
    masks = {n: torch.rand(p.shape, generator=generator) > 0.5 for n, p in model.named_parameters()}
    masks = {n: m for n, m in masks.items() if m.dim() > 1}
    for mask in masks.values():
        mask[:, 0] = True
    return masks


def answer(model: nn.Module, x: Tensor = X) -> Tensor:
    with torch.no_grad():
        return model.eval()(x)


def by_hand(model: Net, masks: Masks) -> Tensor:
    """The answer of a plain copy whose weights are multiplied."""
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for name, mask in masks.items():
            twin.get_parameter(name).mul_(mask)
    return answer(twin)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor = X, y: Tensor = Y) -> None:
    optimizer.zero_grad()
    nn.functional.cross_entropy(model.train()(x), y).backward()
    optimizer.step()


def assert_held(model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> None:
    """Masked weights, and the optimiser's slots of them, are zero; the others are not all zero."""
    state = MaskState.of(model)
    assert state is not None and not state.soft and 0 < state.density < 1
    for name, mask in state.masks.items():
        weight = state.parameter(name)
        assert not weight[~mask].any() and weight[mask].any()
        for key, slot in optimizer.state[weight].items() if optimizer else ():
            if slot.shape == weight.shape:
                assert not slot[~mask].any(), key
                assert slot[mask].any(), key


class TestForward:
    @HARD_AND_SOFT
    def test_the_answer_is_that_of_multiplied_weights_where_they_are_shared_too(self, net, soft):
        masks = half(net)
        want = by_hand(net, masks)
        MaskState(net, masks, soft=soft)
        assert torch.equal(answer(net), want)
        assert torch.equal(answer(bake(net)), want)
        assert bake(net).shared.weight is not net.shared.weight

    def test_soft_weights_come_back_and_hard_ones_do_not(self, net):
        masks, dense = half(net), answer(net)
        hard, soft = copy.deepcopy(net), copy.deepcopy(net)
        ones = {n: torch.ones_like(m) for n, m in masks.items()}
        for model, kind in ((hard, False), (soft, True)):
            MaskState(model, masks, soft=kind).set_(ones)
        assert torch.equal(answer(soft), dense)
        assert not torch.equal(answer(hard), dense)

    def test_hard_masks_leave_gradients_dense_and_soft_ones_do_not(self, net):
        hard, soft = copy.deepcopy(net), copy.deepcopy(net)
        for model, kind in ((hard, False), (soft, True)):
            state = MaskState(model, half(net), soft=kind)
            model(X).square().sum().backward()
            grad, mask = state.parameter("head.weight").grad, state.masks["head.weight"]
            assert grad is not None and bool(grad[~mask].any()) != kind and grad[mask].any()

    @HARD_AND_SOFT
    def test_removing_leaves_zeros_in_a_plain_network(self, net, soft):
        masks = half(net)
        want, names = by_hand(net, masks), list(net.state_dict())
        plain = MaskState(net, masks, soft=soft).remove()
        assert plain is net and type(net.first) is nn.Linear and list(net.state_dict()) == names
        assert torch.equal(answer(net), want) and MaskState.of(net) is None
        assert net.shared.weight is net.second.weight

    def test_a_mask_wins_over_what_is_not_finite(self, net):
        state = MaskState(net, half(net))
        weight, mask = state.parameter("head.weight"), state.masks["head.weight"]
        optimizer = torch.optim.Adam(net.parameters())
        step(net, optimizer)
        with torch.no_grad():
            weight[~mask] = torch.nan
            optimizer.state[weight]["exp_avg_sq"][~mask] = torch.inf
        state.apply_(optimizer)
        assert_held(net, optimizer)


class TestCopies:
    @HARD_AND_SOFT
    def test_state_dicts_go_into_an_unmasked_copy_and_back(self, net, soft):
        plain, masked = copy.deepcopy(net), copy.deepcopy(net)
        masks = half(net)
        MaskState(masked, masks, soft=soft)
        saved = masked.state_dict()
        assert {f"_nw_mask.{n}" for n in masks} <= set(saved)

        twin = copy.deepcopy(plain)
        loaded = MaskState.load(twin, saved)
        assert loaded is not None and loaded.soft == soft
        assert all(torch.equal(m, masks[n]) for n, m in loaded.masks.items())
        assert torch.equal(answer(twin), answer(masked))
        assert twin.state_dict().keys() == saved.keys()

        assert MaskState.load(twin, plain.state_dict()) is None  # and back to no masks
        assert torch.equal(answer(twin), answer(plain))
        assert twin.state_dict().keys() == plain.state_dict().keys()

    @HARD_AND_SOFT
    def test_other_masks_replace_those_that_are_there(self, net, soft):
        one, other = copy.deepcopy(net), copy.deepcopy(net)
        MaskState(one, half(net, 1), soft=soft)
        MaskState(other, half(net, 2), soft=not soft)
        found = MaskState.load(other, one.state_dict())
        assert found is not None and found.soft == soft
        assert torch.equal(answer(other), answer(one))

    def test_masks_that_do_not_fit_are_refused(self, net):
        MaskState(net, half(net))
        with pytest.raises(ArtefactError, match="do not fit"):
            MaskState.load(nn.Linear(2, 2), net.state_dict())

    @HARD_AND_SOFT
    def test_a_file_holds_them_and_is_read_without_running_code(self, net, soft):
        want = MaskState(net, half(net), soft=soft).masks
        file = io.BytesIO()
        torch.save(net.state_dict(), file)
        file.seek(0)
        found = MaskState.load(Net(), torch.load(file, weights_only=True))
        assert found is not None and found.soft == soft
        assert all(torch.equal(m, want[n]) for n, m in found.masks.items())
        assert torch.equal(answer(found.model), answer(net))

    @HARD_AND_SOFT
    def test_whole_modules_can_be_saved(self, net, soft):
        MaskState(net, half(net), soft=soft)
        file = io.BytesIO()
        torch.save(net, file)
        file.seek(0)
        twin = torch.load(file, weights_only=False)  # our own bytes
        state = MaskState.of(twin)
        assert state is not None and state.soft == soft
        assert torch.equal(answer(twin), answer(net)) and twin.shared.weight is not net.shared.weight
        assert twin.state_dict().keys() == net.state_dict().keys()
        state.set_({n: torch.ones_like(m) for n, m in state.masks.items()})
        assert torch.equal(answer(twin), answer(net)) != soft
        twin = copy.deepcopy(twin)
        MaskState.of(twin).remove()
        assert type(twin.first) is nn.Linear and twin.shared.weight is twin.second.weight

    @HARD_AND_SOFT
    def test_deep_copies_have_masks_of_their_own(self, net, soft):
        state = MaskState(net, half(net), soft=soft)
        twin = copy.deepcopy(net)
        other = MaskState.of(twin)
        assert other is not None and other.soft == soft
        before = answer(net)
        other.set_({n: torch.zeros_like(m) for n, m in other.masks.items()})
        assert torch.equal(answer(net), before)
        assert not torch.equal(answer(twin), before)
        other.remove()
        assert MaskState.of(net) is not None and torch.equal(answer(net), before)
        state.remove()
        assert torch.equal(answer(net), before)

    @HARD_AND_SOFT
    def test_masks_move_with_their_network_and_stay_bool(self, net, soft):
        masks = half(net)
        MaskState(net, masks, soft=soft)
        net.to("meta" if not soft else "cpu").double()
        state = MaskState.of(net)
        assert state is not None
        assert all(m.dtype == torch.bool for m in state.masks.values())
        assert all(m.device == state.parameter(n).device for n, m in state.masks.items())
        assert state.parameter("head.weight").dtype == torch.float64


class TestOptimisers:
    @pytest.mark.parametrize(
        "make",
        [
            lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True, weight_decay=0.01),
            lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
            lambda p: torch.optim.Adam(p, lr=0.01, foreach=True),
            lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
            lambda p: torch.optim.RMSprop(p, lr=0.001, momentum=0.9, centered=True),
        ],
        ids=["amsgrad", "adamw-fused", "adam-foreach", "nesterov", "rmsprop"],
    )
    def test_masked_weights_and_slots_are_zero_after_many_steps(self, net, make):
        state = MaskState(net, half(net))
        optimizer = make(net.parameters())
        handle = state.hold(optimizer)
        for _ in range(20):
            step(net, optimizer)
            assert_held(net, optimizer)
        handle.remove()
        step(net, optimizer)
        assert any(state.parameter(n)[~m].any() for n, m in state.masks.items())

    def test_after_a_thousand_steps_of_adam(self, net):
        optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
        state = MaskState(net, half(net))
        state.hold(optimizer)
        before = state.kept
        for _ in range(1000):
            step(net, optimizer)
        assert_held(net, optimizer)
        assert state.kept == before

    def test_soft_masks_leave_the_weights_beneath_alone(self, net):
        state = MaskState(net, half(net), soft=True)
        optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
        before = {n: state.parameter(n).detach().clone() for n in state.masks}
        state.hold(optimizer)
        for _ in range(10):
            step(net, optimizer)
        for name, mask in state.masks.items():
            now = state.parameter(name)
            assert torch.equal(now[~mask], before[name][~mask])
            assert not torch.equal(now[mask], before[name][mask])


class Wrapped(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class TestWeightsOfManyKinds:
    @pytest.mark.parametrize(
        ("wrap", "name"),
        [
            (parametrizations.weight_norm, "layer.parametrizations.weight.original1"),
            (nn.utils.weight_norm, "layer.weight_v"),
            (parametrizations.spectral_norm, "layer.parametrizations.weight.original"),
        ],
        ids=["weight-norm", "old weight-norm", "spectral-norm"],
    )
    def test_zeros_go_through_normalised_weights(self, wrap, name):
        torch.manual_seed(0)
        model = Wrapped(wrap(nn.Linear(6, 3)))
        from netwright.pruning import prunable_weights

        assert prunable_weights(model) == [name]
        masks = half(model)
        mask = {name: masks[name]}
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        MaskState(model, mask).hold(optimizer)
        for _ in range(5):
            step(model, optimizer)
            model(X)  # the old hook makes the weight in the forward pass
            assert not model.layer.weight[~mask[name]].any()
            assert model.layer.weight[mask[name]].all()
        empty = mask[name].clone()
        if wrap is parametrizations.spectral_norm:
            empty.zero_()
        else:
            empty[1] = False
        state = MaskState.of(model)
        with pytest.raises(UsageError, match="divided by its own length"):
            state.set_({name: empty})

    def test_the_length_of_a_weight_is_not_masked(self):
        model = Wrapped(parametrizations.weight_norm(nn.Linear(6, 3)))
        name = "layer.parametrizations.weight.original0"
        with pytest.raises(UsageError, match="length"):
            MaskState(model, {name: torch.ones(3, 1, dtype=torch.bool)})
        with pytest.raises(UsageError, match="keeps no zeros"):
            other = Wrapped(parametrizations.orthogonal(nn.Linear(6, 6)))
            MaskState(other, {"layer.parametrizations.weight.original": torch.ones(6, 6, dtype=torch.bool)})

    @pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
    def test_gates_of_recurrent_layers(self, kind):
        torch.manual_seed(0)
        model = kind(6, 5, num_layers=2, batch_first=True, bidirectional=True)
        masks = half(model)
        gates = 4 if kind is nn.LSTM else 3
        masks["weight_hh_l0"][5:10] = False  # one gate forgets what was
        twin = copy.deepcopy(model)
        with torch.no_grad():
            for name, mask in masks.items():
                twin.get_parameter(name).mul_(mask)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        MaskState(model, masks).hold(optimizer)
        x = torch.randn(4, 3, 6)
        assert torch.equal(model(x)[0], twin(x)[0])
        for _ in range(3):
            optimizer.zero_grad()
            model(x)[0].square().mean().backward()
            optimizer.step()
        assert model.weight_hh_l0.shape == (gates * 5, 5)
        assert not model.weight_hh_l0[5:10].any()
        assert_held(model, optimizer)

    @HARD_AND_SOFT
    def test_a_sequential_at_the_root_answers_as_before(self, soft):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8), nn.Sequential(nn.ReLU(), nn.Linear(8, 3)))
        masks = half(model)
        MaskState(model, masks, soft=soft)
        assert torch.allclose(
            answer(model),
            nn.functional.linear(
                torch.relu(nn.functional.linear(X, model[0].weight * masks["0.weight"], model[0].bias)),
                model[1][1].weight * masks["1.1.weight"],
                model[1][1].bias,
            ),
        )
        assert set(MaskState.of(copy.deepcopy(model)).masks) == {"0.weight", "1.1.weight"}


class TestPrecision:
    @HARD_AND_SOFT
    def test_bf16_autocast(self, net, soft):
        state = MaskState(net, half(net), soft=soft)
        optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
        state.hold(optimizer)
        for _ in range(20):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = nn.functional.cross_entropy(net.train()(X).float(), Y)
            loss.backward()
            optimizer.step()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(answer(net), answer(bake(net)))
        if not soft:
            assert_held(net, optimizer)

    def test_a_loss_scaler_that_lets_steps_out(self, net):
        optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
        schedule = Custom(events={0: Event(0.5), 3: Event(rate=0.5), 6: Event(rate=0.5)})
        sparsity = Sparsity(0.5, schedule=schedule).attach(net, optimizer, 10)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
        for i in range(10):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net.train()(X), Y)
            scaler.scale(loss * (torch.inf if i in (2, 3) else 1.0)).backward()
            before = net.head.weight.detach().clone()
            scaler.step(optimizer)
            scaler.update()
            assert torch.equal(before, net.head.weight) == (i in (2, 3))
            sparsity.step()
            assert_held(net)
        assert all(torch.isfinite(p).all() for p in net.parameters())
        # The exchange after step 3 saw no gradients and was done after step 5, when there were some.
        assert [c.step for c in sparsity.changes if c.grown] == [5, 6]


class TestAverages:
    def test_netwrights_average_is_masked_too(self, net):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        average = Average(net, 0.9)
        schedule = Custom(events={5: Event(0.6), 10: Event(0.3), 12: Event(rate=0.4)})
        sparsity = Sparsity(0.3, schedule=schedule).attach(net, optimizer, 20, average=average.model)
        for _ in range(20):
            step(net, optimizer)
            average.update(net)
            sparsity.step()
        own, mean = MaskState.of(net), MaskState.of(average.model)
        assert all(torch.equal(m, mean.masks[n]) for n, m in own.masks.items())
        assert own.density == pytest.approx(0.3, abs=0.005)
        assert_held(net, optimizer)
        assert_held(average.model)
        assert not torch.equal(average.model.head.weight, net.head.weight)

    @pytest.mark.parametrize("buffers", [False, True], ids=["parameters", "and buffers"])
    def test_pytorchs_average_takes_the_masks_over(self, net, buffers):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        state = MaskState(net, {n: torch.ones_like(m) for n, m in half(net).items()})
        average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=buffers)
        state.hold(optimizer)
        for i in range(6):
            step(net, optimizer)
            if i == 3:
                state.set_(half(net))
            average.update_parameters(net)
        mean = MaskState.of(average)
        assert mean is not None
        if buffers:  # PyTorch averages bools too: what was True once stays True
            assert all(m.all() for m in mean.masks.values())
            mean.set_(state.masks)
        assert all(torch.equal(m, mean.masks[n]) for n, m in state.masks.items())
        mean.apply_()
        assert_held(average.module)


class TestCompiled:
    @HARD_AND_SOFT
    def test_masks_changed_in_place_take_effect_without_a_new_graph(self, net, soft):
        from torch._dynamo.testing import CompileCounterWithBackend

        torch._dynamo.reset()
        counter = CompileCounterWithBackend("aot_eager")
        net.eval()
        state = MaskState(net, half(net, 1), soft=soft)
        compiled = torch.compile(net, backend=counter, fullgraph=True)
        with torch.no_grad():
            assert torch.allclose(compiled(X), net(X))
            first = compiled(X).clone()
            frames = counter.frame_count
            for seed in (2, 3):
                now = state.masks
                fresh = half(bake(net), seed)
                state.set_({n: m & fresh[n] for n, m in now.items()})
                assert torch.allclose(compiled(X), net(X))
                assert not torch.allclose(compiled(X), first)
        assert frames == counter.frame_count == 1
        assert MaskState.of(compiled).model is net

    def test_a_compiled_network_is_trained_sparsely(self, net):
        torch._dynamo.reset()
        compiled = torch.compile(net, backend="aot_eager")
        optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
        sparsity = Sparsity(0.4, schedule="granet").attach(compiled, optimizer, 12)
        for _ in range(12):
            step(compiled, optimizer)
            sparsity.step()
            optimizer.zero_grad()
        assert_held(net, None)
        assert MaskState.of(net).density == pytest.approx(0.4, abs=0.005)


class TestOwnLoop:
    def test_a_training_that_goes_on_is_the_one_that_never_stopped(self, net):
        def made(model):
            return torch.optim.Adam(model.parameters(), lr=0.01)

        def train(model, optimizer, sparsity, steps):
            for i in steps:
                generator = torch.Generator().manual_seed(i)
                x = torch.randn(16, 6, generator=generator)
                optimizer.zero_grad()
                nn.functional.cross_entropy(model.train()(x), Y).backward()
                optimizer.step()
                sparsity.step()

        whole = copy.deepcopy(net)
        optimizer = made(whole)
        sparsity = Sparsity(0.3, schedule="granet").attach(whole, optimizer, 30)
        train(whole, optimizer, sparsity, range(13))
        saved = copy.deepcopy([whole.state_dict(), optimizer.state_dict(), sparsity.state_dict()])
        train(whole, optimizer, sparsity, range(13, 30))

        resumed = copy.deepcopy(net)
        MaskState.load(resumed, saved[0])
        again = made(resumed)
        again.load_state_dict(saved[1])
        other = Sparsity(0.3, schedule="granet").attach(resumed, again, 30, step=13)
        other.load_state_dict(saved[2])
        train(resumed, again, other, range(13, 30))
        assert all(torch.equal(t, whole.state_dict()[n]) for n, t in resumed.state_dict().items())
        assert other.changes == sparsity.changes

    def test_one_callback_serves_one_training_after_another(self, net):
        sparsity = Sparsity(0.5, schedule="one-shot")
        for _ in range(2):
            model = copy.deepcopy(net)
            sparsity.attach(model, torch.optim.SGD(model.parameters(), lr=0.1), 3)
            assert MaskState.of(model).density == pytest.approx(0.5, abs=0.005)
            assert len(sparsity.changes) == 1

    def test_growing_by_momentum_sees_the_momentum_of_what_is_masked(self, net):
        from netwright.pruning.schedules.schedule import rigl

        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        sparsity = Sparsity(0.4, schedule=rigl(0.5, every=4, by="momentum")).attach(net, optimizer, 20)
        for _ in range(4):
            step(net, optimizer)
            state = MaskState.of(net)
            before, weight = state.masks["head.weight"].clone(), net.head.weight
            momentum = optimizer.state[weight]["momentum_buffer"].abs().clone()
            sparsity.step()
            assert not weight[~state.masks["head.weight"]].any()
        now = MaskState.of(net).masks["head.weight"]
        grown = now & ~before
        assert grown.any()
        assert momentum[grown].min() >= momentum[~now & ~before].max()
