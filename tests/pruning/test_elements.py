"""Importances of single weights: closed forms, naive references, and that nothing of the network changes."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from netwright import pruning, structure
from netwright.errors import ModelError, UsageError
from netwright.pruning import Context, Examples
from netwright.pruning.importances.densities import synflow_masks
from netwright.pruning.importances.elements import scores_of
from netwright.pruning.importances.gradients import crop_flow, grasp, taylor
from netwright.pruning.importances.importance import find_elements
from netwright.pruning.importances.obs import DAMPING
from netwright.pruning.statistics.moments import gather_moments

ALL = [n for n in pruning.list_importances("weight") if n not in ("movement", "learned")]


class Net(nn.Module):
    """Convolutions (one grouped), a batch norm, dropout and a classifier."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.grouped = nn.Conv2d(6, 8, 3, groups=2)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = F.softplus(self.norm(self.stem(x)))
        return self.head(self.drop(torch.tanh(self.grouped(x)).mean(dim=(2, 3))))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(5, 6, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


@pytest.fixture
def model():
    torch.manual_seed(0)
    net = Net().double()
    nn.init.uniform_(net.norm.weight, 0.5, 1.5)
    nn.init.normal_(net.norm.running_mean)
    return net.train()


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(24, 3, 6, 6, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 4, (24,), generator=generator)
    return list(zip(x.split(8), y.split(8), strict=True))


@pytest.fixture
def context(data):
    return Context(Examples(data, data[0][0][:2]), keep=0.3, seed=3)


NAMES = ["stem.weight", "grouped.weight", "head.weight"]


def found(importance, model, context, names=NAMES):
    return scores_of(find_elements(importance), model, names, context)


def gradient(model, x, y, temperature=1.0):
    twin = copy.deepcopy(model).eval()
    F.cross_entropy(twin(x) / temperature, y).backward()
    return {n: p.grad for n, p in twin.named_parameters()}


def close(first, second, **tolerance):
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], **tolerance or {"rtol": 1e-9, "atol": 1e-14})


@pytest.mark.parametrize("importance", [*ALL, taylor(squared=True), taylor(per="example")])
def test_nothing_of_the_network_changes(importance, model, context):
    state = {n: t.clone() for n, t in model.state_dict().items()}
    for p in model.parameters():
        p.grad = torch.full_like(p, 2.0)
    model.head.weight.requires_grad_(False)
    model.norm.eval()
    modes = [m.training for m in model.modules()]
    random = torch.get_rng_state()
    found(importance, model, context)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(t, state[n]) for n, t in model.state_dict().items())
    assert all(bool((p.grad == 2).all()) for p in model.parameters())
    assert [m.training for m in model.modules()] == modes
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == ["head.weight"]


@pytest.mark.parametrize("importance", [n for n in ALL if n != "random"])
def test_scores_follow_a_permutation_of_channels(importance, model, context):
    order = torch.randperm(6, generator=torch.Generator().manual_seed(5))
    order = torch.cat([order[order < 3], order[order >= 3]])  # within the groups of the next layer
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for tensor in (twin.stem.weight, twin.stem.bias, *twin.norm.state_dict().values()):
            if tensor.dim():
                tensor.copy_(tensor[order])
        twin.grouped.weight[:4] = twin.grouped.weight[:4][:, order[:3]]
        twin.grouped.weight[4:] = twin.grouped.weight[4:][:, order[3:] - 3]
    first, second = found(importance, model, context), found(importance, twin, context)
    tolerance = {"rtol": 1e-3, "atol": 1e-9} if importance == "obs" else {"rtol": 1e-8, "atol": 1e-12}
    torch.testing.assert_close(second["stem.weight"], first["stem.weight"][order], **tolerance)


def test_snip_is_the_gradient_in_the_mask(model, data, context):
    mask = {n: torch.ones_like(model.get_parameter(n), requires_grad=True) for n in NAMES}
    twin = copy.deepcopy(model).eval()
    total = 0
    for x, y in data:
        weights = {n: twin.get_parameter(n) * c for n, c in mask.items()}
        total = total + F.cross_entropy(torch.func.functional_call(twin, weights, x), y) / len(data)
    total.backward()
    close(found("snip", model, context), {n: c.grad.abs() for n, c in mask.items()})


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("per", ["batch", "example"])
def test_taylor_adds_up_what_each_gradient_says(squared, per, model, data, context):
    total = dict.fromkeys(NAMES, 0.0)
    for x, y in data:
        for part in range(len(y)) if per == "example" else [slice(None)]:
            rows = slice(part, part + 1) if per == "example" else part
            g = gradient(model, x[rows], y[rows])
            for n in NAMES:
                product = model.get_parameter(n).detach() * g[n]
                total[n] = total[n] + (product.square() if squared else product.abs())
    close(found(taylor(squared=squared, per=per), model, context), total)


def test_fisher_is_the_mean_square_of_the_gradients_of_single_examples(model, data, context):
    total, count = dict.fromkeys(NAMES, 0.0), 0
    for x, y in data:
        for k in range(len(y)):
            g = gradient(model, x[k : k + 1], y[k : k + 1])
            count += 1
            total = {n: total[n] + g[n].square() for n in NAMES}
    expected = {n: total[n] / count * model.get_parameter(n).detach().square() for n in NAMES}
    close(found("fisher", model, context), expected)


def test_fisher_of_a_network_that_cannot_be_vectorised():
    torch.manual_seed(0)
    model = Recurrent()
    x, y = torch.randn(6, 4, 5), torch.tensor([0, 1, 2, 0, 1, 2])
    names = ["lstm.weight_ih_l0", "lstm.weight_hh_l0", "head.weight"]
    scores = found("fisher", model, Context(Examples((x, y), x[:2])), names)
    total = dict.fromkeys(names, 0.0)
    for k in range(6):
        g = gradient(model, x[k : k + 1], y[k : k + 1])
        total = {n: total[n] + g[n].square() / 6 for n in names}
    expected = {n: total[n] * model.get_parameter(n).detach().square() for n in names}
    close(scores, expected, rtol=1e-4, atol=1e-12)


def hessian_times_gradient(model, data, temperature):
    """H g of the mean loss in the three weights, forward over reverse."""
    twin = copy.deepcopy(model).eval()
    shapes = [twin.get_parameter(n).shape for n in NAMES]

    def total(flat):
        parts = flat.split([s.numel() for s in shapes])
        weights = {n: p.reshape(s) for n, p, s in zip(NAMES, parts, shapes, strict=True)}
        losses = [
            F.cross_entropy(torch.func.functional_call(twin, weights, x) / temperature, y) for x, y in data
        ]
        return torch.stack(losses).mean()

    flat = torch.cat([twin.get_parameter(n).detach().reshape(-1) for n in NAMES])
    slope = torch.func.grad(total)
    _, product = torch.func.jvp(slope, (flat,), (slope(flat),))
    parts = (flat * product).split([s.numel() for s in shapes])
    return {n: p.reshape(s) for n, p, s in zip(NAMES, parts, shapes, strict=True)}


@pytest.mark.parametrize("temperature", [1.0, 200.0])
def test_grasp_is_the_weight_times_hessian_times_gradient(temperature, model, data, context):
    expected = hessian_times_gradient(model, data, temperature)
    close(found(grasp(temperature), model, context), expected, rtol=1e-7, atol=1e-16)
    absolute = {n: s.abs() for n, s in expected.items()}
    close(found(crop_flow(temperature), model, context), absolute, rtol=1e-7, atol=1e-16)


def test_removing_what_grasp_scores_lowest_raises_the_gradient_flow_most():
    # A quadratic loss, for which the change of |g|^2 / 2 to first order is -w Hg for the weight w.
    torch.manual_seed(0)
    model = nn.Linear(6, 2, bias=False).double()
    x, y = torch.randn(40, 6, dtype=torch.float64), torch.randn(40, 2, dtype=torch.float64)
    scores = found("grasp", model, Context(Examples([(x, y)], x[:2])), ["weight"])["weight"]

    def flow(weight):
        loss = F.mse_loss(x @ weight.t(), y)
        (g,) = torch.autograd.grad(loss, weight)
        return float(g.square().sum() / 2)

    weight = model.weight.detach()
    changes = torch.zeros_like(weight)
    for k in range(weight.numel()):
        step = torch.zeros_like(weight).reshape(-1)
        step[k] = 1e-5 * weight.reshape(-1)[k]
        moved = (weight - step.reshape(weight.shape)).requires_grad_()
        changes.view(-1)[k] = (flow(moved) - flow(weight.clone().requires_grad_())) / 1e-5
    torch.testing.assert_close(-scores, changes, rtol=1e-3, atol=1e-6)
    assert bool((scores < 0).any()) and bool((scores > 0).any())


class Never(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        raise RuntimeError("the derivative of never is not implemented")


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, g):
        return Never.apply(g * 2)


def test_an_operator_without_second_derivative_is_named():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.two(Once.apply(torch.tanh(self.one(x))))

    x, y = torch.randn(4, 3), torch.tensor([0, 1, 0, 1])
    with pytest.raises(ModelError, match=r"differentiated twice: .*never"):
        found("grasp", Model(), Context(Examples([(x, y)], x[:2])), ["one.weight", "two.weight"])


def test_synflow_is_conserved_from_layer_to_layer():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 15), nn.ReLU(), nn.Linear(15, 3))
    names = [n for n, _ in model.named_parameters() if n.endswith("weight")]
    scores = found("synflow", model, Context(Examples(None, torch.zeros(1, 6))), names)
    sums = torch.stack([s.sum() for s in scores.values()])
    torch.testing.assert_close(sums, sums[:1].expand(3), rtol=1e-6, atol=0)
    torch.testing.assert_close(
        scores["0.weight"].sum(dim=1), scores["2.weight"].sum(dim=0), rtol=1e-6, atol=0
    )


def test_many_rounds_of_synflow_are_its_own_loop():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 15), nn.ReLU(), nn.Linear(15, 3))
    example = torch.zeros(2, 6)
    expected = synflow_masks(structure.trace(model, example), model, 0.1)
    found = pruning.sparsify(model, example, keep=0.1, importance="synflow", schedule="rounds")
    assert all(torch.equal(found.masks[n], m) for n, m in expected.items())
    # Other weights by the same counts; a single round would leave a layer empty at this share.
    other = pruning.sparsify(model, example, keep=0.02, importance="random", allocation="from-synflow")
    counts = {n: int(m.sum()) for n, m in synflow_masks(structure.trace(model, example), model, 0.02).items()}
    assert other.kept == counts
    assert min(counts.values()) >= 1


def test_synflow_needs_the_shape_of_an_input(model):
    with pytest.raises(UsageError, match="example"):
        found("synflow", model, Context())


def test_obs_is_what_removing_and_refitting_costs():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(7, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    x = torch.randn(200, 7, dtype=torch.float64) @ torch.randn(7, 7, dtype=torch.float64)
    scores = found("obs", model, Context(Examples([x], x[:2])), ["0.weight", "2.weight"])
    weight = model[0].weight.detach()
    h = x.t() @ x / len(x)
    h = h + DAMPING * h.diagonal().mean() * torch.eye(7, dtype=torch.float64)
    for row in range(4):
        for q in range(7):
            # min over v with v_q = 0 of (w - v) H (w - v) / 2
            rest = [k for k in range(7) if k != q]
            w = weight[row]
            v = torch.zeros_like(w)
            v[rest] = torch.linalg.solve(h[rest][:, rest], h[rest] @ w)
            cost = (w - v) @ h @ (w - v) / 2
            assert float(scores["0.weight"][row, q]) == pytest.approx(float(cost), rel=1e-4)


def test_obs_of_grouped_convolutions_reads_the_moments_of_each_group(model, context, data):
    scores = found("obs", model, context)
    net = structure.trace(model, data[0][0][:2])
    moments = gather_moments(net, model, context.examples, ["grouped.weight"])[0]["grouped.weight"]
    weight = model.grouped.weight.detach()
    for group in range(2):
        h = moments.second[group]
        inverse = torch.linalg.inv(h + DAMPING * h.diagonal().mean() * torch.eye(len(h)))
        rows = weight[4 * group : 4 * group + 4].reshape(4, -1)
        expected = (rows.square() / (2 * inverse.diagonal())).reshape(4, 3, 3, 3)
        torch.testing.assert_close(
            scores["grouped.weight"][4 * group : 4 * group + 4], expected, rtol=1e-6, atol=1e-12
        )


@pytest.mark.parametrize("importance", ["taylor", "fisher", "snip", "grasp", "crop", "obs"])
def test_missing_data_are_asked_for(importance, model):
    with pytest.raises(UsageError, match=r"look|label"):
        pruning.choose(model, NAMES, 0.5, importance=importance)
