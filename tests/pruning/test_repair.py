import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from netwright import data, pruning, structure
from netwright.errors import DataError, UsageError
from netwright.models import ResNetCifar
from netwright.pruning import Examples, recalibrate_
from netwright.pruning.importances.obs import refit, saliency, solve
from netwright.pruning.statistics.moments import gather_moments, unfold


def moments(rows):
    return (rows.T @ rows / len(rows))[None]


class TestClosedForm:
    @pytest.fixture
    def layer(self):
        generator = torch.Generator().manual_seed(0)
        rows = torch.randn(200, 12, generator=generator, dtype=torch.float64)
        mix = torch.randn(12, 12, generator=generator, dtype=torch.float64)
        weight = torch.randn(5, 12, generator=generator, dtype=torch.float64)
        return rows @ mix, weight

    def test_refit_is_least_squares(self, layer):
        x, weight = layer
        stay = torch.tensor([0, 1, 3, 4, 6, 7, 9, 10, 11])
        new = refit(weight[None], moments(x), stay[None], damping=0)[0]
        expected = torch.linalg.lstsq(x[:, stay], x @ weight.T).solution.T
        torch.testing.assert_close(new, expected, rtol=1e-8, atol=1e-10)

    def test_solve_is_ridge_regression_about_the_start(self, layer):
        x, weight = layer
        z = torch.relu(x[:, :7])
        start = torch.ones(5, 7, dtype=torch.float64)
        second = moments(z)
        new = solve(weight[None], (z.T @ x / len(x))[None], second, start[None], damping=0.1)[0]
        root = (0.1 * second[0].diagonal().mean() * len(x)).sqrt()
        rows = torch.cat([z, root * torch.eye(7, dtype=torch.float64)])
        target = torch.cat([x @ weight.T, root * start.T])
        expected = torch.linalg.lstsq(rows, target).solution.T
        torch.testing.assert_close(new, expected, rtol=1e-8, atol=1e-10)

    def test_removing_nothing_changes_nothing(self, layer):
        x, weight = layer
        new = refit(weight[None], moments(x), torch.arange(12)[None])
        torch.testing.assert_close(new[0], weight, rtol=1e-9, atol=1e-10)

    @pytest.mark.parametrize("block", [1, 3])
    def test_saliency_is_the_error_of_the_refit(self, layer, block):
        x, weight = layer
        found = saliency(weight[None], moments(x), block, damping=0)[0]
        for q in range(12 // block):
            stay = torch.tensor([i for i in range(12) if i // block != q])
            fitted = torch.linalg.lstsq(x[:, stay], x @ weight.T).solution
            error = (x @ weight.T - x[:, stay] @ fitted).square().sum() / len(x) / 2
            assert float(found[q]) == pytest.approx(float(error), rel=1e-6)

    def test_moments_that_rounding_left_indefinite(self):
        second = torch.eye(4, dtype=torch.float64)[None] * torch.tensor([1.0, 1.0, 1.0, -1e-2])
        assert bool(refit(torch.ones(1, 2, 4), second, torch.arange(4)[None], damping=0).isfinite().all())


@pytest.mark.parametrize(
    ("shape", "kernel", "options"),
    [
        ((3, 4, 9, 8), (3, 2), {"stride": (2, 1), "padding": (1, 0), "dilation": (1, 2)}),
        ((3, 4, 9), (3,), {"stride": (2,), "padding": (2,), "dilation": (1,)}),
        ((2, 4, 5, 6, 5), (2, 3, 1), {"stride": (1, 2, 1), "padding": (0, 1, 0), "dilation": (1, 1, 1)}),
    ],
)
@pytest.mark.parametrize("groups", [1, 2])
def test_unfolded_rows_times_the_weight_are_the_convolution(shape, kernel, options, groups):
    x, weight = torch.randn(shape), torch.randn(6, 4 // groups, *kernel)
    convolve = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[len(kernel)]
    expected = convolve(x, weight, groups=groups, **options)
    rows = torch.cat(list(unfold(x, kernel, *options.values(), groups, 2)), dim=1)  # (G, N, D)
    out = rows @ weight.reshape(groups, 6 // groups, -1).transpose(1, 2)
    out = out.permute(1, 0, 2).reshape(shape[0], *expected.shape[2:], 6).movedim(-1, 1)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)


class Raw(nn.Module):
    """Raw parameters and functional calls, one of them on a transposed weight."""

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.randn(6, 16) * 0.4)
        self.b = nn.Parameter(torch.randn(16))
        self.c = nn.Parameter(torch.randn(4, 16) * 0.4)

    def forward(self, x):
        return F.linear(torch.relu(x @ self.a + self.b), self.c)


def test_moments_of_functional_calls():
    torch.manual_seed(0)
    model, x = Raw(), torch.randn(150, 6)
    net = structure.trace(model, x[:2])
    found, notes = gather_moments(net, model, Examples(x, x[:2]), ["a", "c"])
    hidden = torch.relu(x @ model.a + model.b).detach().double()
    assert not notes
    torch.testing.assert_close(found["c"].second, moments(hidden), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["a"].mean[0], x.double().mean(dim=0), rtol=1e-4, atol=1e-6)


def difference(model, other, x):
    with torch.no_grad():
        a, b = model.eval()(x), other.eval()(x)
    return float((a - b).norm() / a.norm())


NETS = {
    "raw": (Raw, (6,)),
    "batch norms": (lambda: ResNetCifar(8, widths=(8, 8, 16)), (3, 8, 8)),
    "grouped": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3, groups=2), nn.ReLU(), nn.Conv2d(16, 4, 1)
        ),
        (3, 8, 8),
    ),
    "attention": (
        lambda: nn.TransformerEncoderLayer(32, 4, 64, dropout=0, batch_first=True),
        (6, 32),
    ),
}


@pytest.mark.parametrize("kind", NETS)
def test_obs_comes_closer_to_the_dense_network(kind):
    torch.manual_seed(0)
    build, shape = NETS[kind]
    model = build().eval()
    x, held_out = torch.randn(256, *shape), torch.randn(64, *shape)
    plain, repaired = (
        pruning.prune(model, x[:2], "macs=0.7", repair=r, data=x).model for r in ("none", "obs")
    )
    assert difference(model, repaired, held_out) < 0.8 * difference(model, plain, held_out)


def test_a_copy_of_another_channel_goes_without_loss():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4))
    with torch.no_grad():
        model[0].weight[3:] = model[0].weight[:3] * 0.5
        model[0].bias[3:] = model[0].bias[:3] * 0.5
    x = torch.randn(256, 5)
    small = pruning.prune(model, x[:2], "keep=0.5", repair="obs", data=x).model
    assert small[0].out_features == 3
    assert difference(model, small, torch.randn(64, 5)) < 1e-2


def test_what_is_cut_elsewhere_leaves_the_rest_as_it_was():
    torch.manual_seed(0)
    model = ResNetCifar(8, widths=(8, 8, 16)).eval()
    x = torch.randn(64, 3, 8, 8)
    small = pruning.prune(
        model, x[:2], "macs=0.9", repair="obs", data=x, exclude=["conv1", "layer1", "layer2", "fc"]
    ).model
    torch.testing.assert_close(small.conv1.weight, model.conv1.weight, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(small.bn1.running_mean, model.bn1.running_mean, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(small.bn1.running_var, model.bn1.running_var, rtol=1e-3, atol=1e-3)


def test_recalibration_is_the_average_of_the_batches():
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5)).train()
    x = torch.randn(128, 3) * 2 + 1
    assert recalibrate_(model, Examples(x, x[:2])) == 1
    torch.testing.assert_close(model[0].running_mean, x.mean(dim=0))
    expected = torch.stack([b.var(dim=0) for b in x.split(64)]).mean(dim=0)
    torch.testing.assert_close(model[0].running_var, expected)
    assert model.training and model[0].momentum == 0.1 and int(model[0].num_batches_tracked) == 0


def test_recalibration_needs_two_examples():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    with pytest.raises(DataError, match="single example"):
        recalibrate_(model, Examples(torch.randn(1, 3), torch.randn(1, 3)))


def test_forms_of_data_agree():
    torch.manual_seed(0)
    model = Raw().eval()
    x, y = torch.randn(32, 6), torch.zeros(32, dtype=torch.int64)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=16)
    forms = [x, (x, y), [x[:16], x[16:]], loader, iter(x.split(8)), data.Part.from_tensors(x, y)]
    found = [pruning.prune(model, x[:2], "keep=0.5", repair="obs", data=d).model for d in forms]
    for small in found[1:]:
        assert difference(found[0], small, x) < 1e-2


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        (3, UsageError, "not understood"),
        ([], DataError, "no examples"),
        ([(torch.zeros(2, 6),) * 3], DataError, "3 parts"),
        (["text"], DataError, "not understood"),
    ],
)
def test_data_that_are_refused(given, error, words):
    model = Raw()
    with pytest.raises(error, match=words):
        pruning.prune(copy.deepcopy(model), torch.zeros(2, 6), "keep=0.5", repair="obs", data=given)
